"""A consumer of published tables, without a line of the package: reads them over and over, and notes what it saw.

    python -m tests.faults.polling_reader FOLDER OUT STOP

FOLDER holds the recommender's tables; what is seen goes to OUT, a line of JSON a look, until the file STOP is there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable

TABLES = ("user_factors", "item_factors", "recommendations")
# Say which model wrote a row, and when: equal rows of two models keep those of the first.
STAMPS = ("model_version", "as_of")

# A consumer that never rests would take a processor from those whom it watches.
PAUSE_SECONDS = 0.2

Checksums = dict[str, str]


@dataclass(frozen=True)
class Look:
    """The model that is live, the checksums of the tables as its publication recorded them, and of their latest
    commits."""

    model: str
    pinned: Checksums
    latest: Checksums

    def is_mixed(self, sets: dict[str, Checksums]) -> bool:
        """Whether the tables of the publication are not its model's, or one by its latest commit is no model's."""
        latest_is_whole = all(self.latest[name] in {of[name] for of in sets.values()} for name in TABLES)
        return self.pinned != sets.get(self.model) or not latest_is_whole


def checksum(table: pa.Table) -> str:
    """Return a hash of a published table's rows in whatever order, without the stamps."""
    kept = sorted(name for name in table.column_names if name not in STAMPS)
    rows = sorted(json.dumps(row, sort_keys=True) for row in table.select(kept).to_pylist())
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def look(folder: Path) -> Look:
    """Read each table as the newest publication recorded it, and each by its latest commit."""
    publications = DeltaTable(str(folder / "publications")).to_pyarrow_table().to_pylist()
    newest = max(publications, key=lambda row: row["published_at"])
    versions = dict(newest["versions"])
    pinned, latest = {}, {}
    for name in TABLES:
        path = str(folder / name)
        pinned[name] = checksum(DeltaTable(path, version=versions[name]).to_pyarrow_table())
        latest[name] = checksum(DeltaTable(path).to_pyarrow_table())
    return Look(newest["model_version"], pinned, latest)


def main() -> None:
    folder, out, stop = (Path(argument) for argument in sys.argv[1:])
    with out.open("w") as told:
        while not stop.exists():
            told.write(json.dumps(asdict(look(folder))) + "\n")
            told.flush()
            time.sleep(PAUSE_SECONDS)


if __name__ == "__main__":
    main()
