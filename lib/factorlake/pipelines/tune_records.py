"""Trials as rows of the table `trials`, and back: what a search goes on from after it was cut off."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

import factorlake
from factorlake.models.held_out import LIST_METRICS
from factorlake.models.parameters import AlsParameters
from factorlake.models.search import RULES, Proposal, Trial
from factorlake.models.trials import Outcome
from factorlake.pipelines.context import Context
from factorlake.pipelines.models import NOT_DECIDING
from factorlake.tables import delta_io
from factorlake.tables.registry import now
from factorlake.tables.schemas import SCHEMAS

# Settings that say how long a search may take and where its result goes, and not which search it is.
NOT_DECIDING_SEARCH = ("max_minutes", "out")
GIVEN, BASELINE, CHOSEN = "given", "baseline", "chosen"


def search_id_of(context: Context, contents: str) -> str:
    """Return the search that these events, settings and seed make: a hash of them all, this package's version and the
    rules of the search."""
    settings = context.settings
    what = {
        "engine": factorlake.__version__,
        "rules": RULES,
        "contents": contents,
        "train": settings.train.model_dump(mode="json", exclude=set(NOT_DECIDING)),
        "tune": settings.tune.model_dump(mode="json", exclude=set(NOT_DECIDING_SEARCH)),
        "select": settings.select.model_dump(mode="json"),
        "seed": settings.seed,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]


def train_settings_of(parameters: AlsParameters) -> dict[str, Any]:
    """Return what is searched, by its names in the settings of `train`."""
    found: dict[str, Any] = {"rank": parameters.rank, "regularization": parameters.regularization}
    found["frequency_exponent"] = parameters.nu
    if parameters.objective == "implicit":
        found["frequency_offset"] = parameters.count_offset
        found["unobserved_weight"] = parameters.alpha0
        if parameters.alpha is not None:
            found["alpha"] = parameters.alpha
    elif parameters.has_biases:
        found["bias_regularization"] = parameters.bias_regularization
    schedule = {name: getattr(parameters, name) for name in ("epochs", "init_scale", "relaxation")}
    return found | schedule


class SearchRecord:
    """The rows of one search."""

    def __init__(self, context: Context, search_id: str, metric: str) -> None:
        self.context = context
        self.search_id = search_id
        self.metric = metric
        self.path = context.lake.own("trials")
        frame = delta_io.read_or_empty(context.spark, self.path, SCHEMAS["trials"])
        rows = frame.where(F.col("search_id") == search_id).orderBy("trial").collect()
        self.rows = {row["stage"]: row for row in rows if row["stage"] in (GIVEN, BASELINE, CHOSEN)}
        """What is no trial of the search, by stage."""
        self.done = [self._trial(row) for row in rows if row["stage"] not in self.rows]
        """Trials that ran, in order."""
        self.version = -1

    def outcome_of(self, stage: str) -> Outcome | None:
        """Return what is compared with, where it has been measured."""
        return self._outcome(self.rows[stage]) if stage in self.rows else None

    def keep_trial(self, proposal: Proposal, parameters: AlsParameters, outcome: Outcome) -> None:
        """Append a trial."""
        row = self._row(proposal.stage, proposal.number, parameters, outcome)
        self._append(row | {"point": list(proposal.point), "started_from": proposal.start})

    def keep(self, stage: str, number: int, parameters: AlsParameters, outcome: Outcome) -> None:
        """Append what is compared with, or the result."""
        self._append(self._row(stage, number, parameters, outcome))

    def _append(self, row: dict[str, Any]) -> None:
        app_id = f"trial:{self.search_id}:{row['stage']}:{row['trial']}"
        self.version = self.context.append_rows([row], self.path, SCHEMAS["trials"], app_id=app_id).version

    def _row(self, stage: str, number: int, parameters: AlsParameters, outcome: Outcome) -> dict[str, Any]:
        implicit = parameters.objective == "implicit"
        return {
            "search_id": self.search_id,
            "trial": number,
            "stage": stage,
            "settings": json.dumps(train_settings_of(parameters)),
            "rank": parameters.rank,
            "regularization": float(parameters.regularization),
            "unobserved_weight": float(parameters.alpha0) if implicit else None,
            "alpha": None if parameters.alpha is None else float(parameters.alpha),
            "frequency_exponent": float(parameters.nu),
            "max_epochs": parameters.epochs,
            "epochs": outcome.epochs,
            "best_epoch": outcome.best_epoch,
            "metric": self.metric,
            "value": _told(self.natural(outcome.value)),
            "standard_error": _told(outcome.standard_error),
            "objective": _told(outcome.objective),
            "seconds": float(outcome.seconds),
            "state": "failed" if outcome.failed else "done",
            "reason": outcome.reason or None,
            "recorded_at": now(),
            "run_id": self.context.run_id,
        }

    def natural(self, value: float) -> float:
        """Return a value as people read it (errors are positive), or back again."""
        return value if self.metric.partition("@")[0] in LIST_METRICS else -value

    def _trial(self, row: Row) -> tuple[Trial, Outcome]:
        outcome = self._outcome(row)
        proposal = Proposal(
            row["trial"], row["stage"], tuple(row["point"]), row["rank"], row["max_epochs"], row["started_from"]
        )
        return Trial(proposal, outcome.value, outcome.best_epoch), outcome

    def _outcome(self, row: Row) -> Outcome:
        return Outcome(
            self.natural(_number(row["value"])),
            _number(row["standard_error"]),
            row["best_epoch"],
            row["epochs"],
            _number(row["objective"]),
            row["seconds"],
            row["reason"] or "",
        )


def parameters_of(row: Row, start: AlsParameters) -> AlsParameters:
    """Return the settings of a row, all else as ``start`` has it."""
    told = json.loads(row["settings"])
    names = {
        "regularization": "regularization",
        "frequency_exponent": "nu",
        "frequency_offset": "kappa",
        "unobserved_weight": "alpha0",
        "alpha": "alpha",
        "bias_regularization": "bias_regularization",
        "init_scale": "init_scale",
        "relaxation": "relaxation",
    }
    numbers = {ours: told[name] for name, ours in names.items() if name in told}
    return replace(start, rank=told["rank"], epochs=told["epochs"], **numbers)


def _number(told: float | None) -> float:
    return math.nan if told is None else told


def _told(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None
