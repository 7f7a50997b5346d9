"""Where every table lies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from factorlake.config.settings import SHARED_TABLES
from factorlake.errors import ConfigError
from factorlake.paths import has_scheme, resolved

RECOMMENDER_TABLES = ("models", "publications", "training_trace", "evaluation", "trials", "calibrations")
PUBLISHED_TABLES = ("user_factors", "item_factors", "recommendations")
CANDIDATE_TABLES = ("factors", "lists")
LEFT_BY_RUNS = ("rating_blocks", "exchange", "checkpoints")
"""In a candidate's folder while a run works on it; the lease says that none does."""
DECOMPOSITION_TABLES = ("row_factors", "column_factors", "sparse_cells", "trace")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


@dataclass(frozen=True)
class Lake:
    """The paths of one recommender's tables under one root."""

    root: str
    recommender: str

    @staticmethod
    def at(root: str, recommender: str) -> Lake:
        """A lake at ``root``; a path of this machine is made absolute, since Delta names tables by absolute path."""
        return Lake(resolved(root).rstrip("/"), recommender)

    @property
    def is_local(self) -> bool:
        return not has_scheme(self.root)

    def shared(self, table: str) -> str:
        if table not in SHARED_TABLES:
            raise ConfigError(f"{table!r} is no shared table; those are {', '.join(SHARED_TABLES)}")
        return f"{self.root}/{table}"

    def own(self, table: str) -> str:
        if table not in RECOMMENDER_TABLES:
            raise ConfigError(f"{table!r} is no table of a recommender; those are {', '.join(RECOMMENDER_TABLES)}")
        return f"{self.root}/{self.recommender}/{table}"

    def candidate_folder(self, version: str) -> str:
        """Folder of a model that is not published yet: its tables, and what training keeps while it lasts."""
        if not VERSION.match(version):
            raise ConfigError(f"{version!r} is no model version")
        return f"{self.root}/{self.recommender}/candidates/{version}"

    def candidate_versions(self) -> list[str]:
        """Models whose folder lies on this machine's disk, also those that no register knows."""
        return self._folders("candidates")

    def candidate(self, version: str, table: str) -> str:
        if table not in CANDIDATE_TABLES:
            raise ConfigError(f"no candidate table {table!r} of model {version!r}")
        return f"{self.candidate_folder(version)}/{table}"

    def decomposition_folder(self, version: str) -> str:
        """Folder of a decomposed matrix: its tables, its pictures, and what the job keeps while it lasts."""
        if not VERSION.match(version):
            raise ConfigError(f"{version!r} is no version of a decomposition")
        return f"{self.root}/{self.recommender}/decompositions/{version}"

    def decomposition(self, version: str, table: str) -> str:
        if table not in DECOMPOSITION_TABLES:
            raise ConfigError(f"no table {table!r} of decomposition {version!r}")
        return f"{self.decomposition_folder(version)}/{table}"

    def shared_tables(self) -> list[tuple[str, str]]:
        """(name, path) of every table that all recommenders share, there or not."""
        return [(name, self.shared(name)) for name in SHARED_TABLES]

    def own_tables(self) -> list[tuple[str, str]]:
        """(name, path) of every register of this recommender, there or not."""
        return [(name, self.own(name)) for name in RECOMMENDER_TABLES]

    def model_tables(
        self, slots: Iterable[str], candidates: Iterable[str], decompositions: Iterable[str]
    ) -> list[tuple[str, str]]:
        """(name, path) of every table of some slots, models and decomposed matrices, there or not."""
        return [
            *((name, self.published(name, slot)) for slot in slots for name in PUBLISHED_TABLES),
            *((name, self.candidate(version, name)) for version in candidates for name in CANDIDATE_TABLES),
            *((name, self.decomposition(version, name)) for version in decompositions for name in DECOMPOSITION_TABLES),
        ]

    def exchange(self, version: str) -> str:
        """Folder for factors on their way between driver and workers while a run lasts."""
        return f"{self.candidate_folder(version)}/exchange"

    def checkpoints(self, version: str) -> str:
        """Folder of what training has reached, until the model is written."""
        return f"{self.candidate_folder(version)}/checkpoints"

    def published(self, table: str, slot: str) -> str:
        if table not in PUBLISHED_TABLES:
            raise ConfigError(f"{table!r} is no published table; those are {', '.join(PUBLISHED_TABLES)}")
        base = f"{self.root}/{self.recommender}"
        return f"{base}/{table}" if slot == "live" else f"{base}/slots/{slot}/{table}"

    def search_folder(self, search_id: str) -> str:
        """Folder of what a search for settings keeps while it lasts."""
        if not VERSION.match(search_id):
            raise ConfigError(f"{search_id!r} is no search")
        return f"{self.root}/{self.recommender}/searches/{search_id}"

    def decompositions(self) -> list[str]:
        """Decomposed matrices whose folder lies on this machine's disk."""
        return self._folders("decompositions")

    def searches(self) -> list[str]:
        """Searches that have left a folder on this machine's disk."""
        return self._folders("searches")

    def other_recommenders(self) -> list[str]:
        """Recommenders that have trained models on the same log, where the root is this machine's disk."""
        return [
            name
            for name in _folders_in(self.root)
            if name != self.recommender and (Path(self.root) / name / "models" / "_delta_log").is_dir()
        ]

    def _folders(self, kind: str) -> list[str]:
        return _folders_in(f"{self.root}/{self.recommender}/{kind}")

    def tuned(self) -> str:
        """Conf file that a search for settings writes where none is named."""
        return f"{self.root}/{self.recommender}/tuned.yaml"

    def reports(self) -> str:
        return f"{self.root}/{self.recommender}/reports"


def _folders_in(folder: str) -> list[str]:
    """Return the names of the folders in one, ascending; none where it is no folder of this machine."""
    if has_scheme(folder) or not Path(folder).is_dir():
        return []
    return sorted(one.name for one in Path(folder).iterdir() if one.is_dir() and VERSION.match(one.name))
