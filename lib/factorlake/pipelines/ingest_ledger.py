"""What the ingest ledger knows of files and batches. A batch is planned before and ingested after its records
are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from factorlake.pipelines.context import Context
from factorlake.spark.delta_source import TableVersion, Taken
from factorlake.tables import delta_io, registry
from factorlake.tables.schemas import SCHEMAS
from factorlake.times import from_micros

PLANNED, INGESTED, DUPLICATE, EMPTY, UNREADABLE = "planned", "ingested", "duplicate", "empty", "unreadable"
SETTLED = (INGESTED, DUPLICATE, EMPTY)

FileKey = tuple[str, int, int | None]


@dataclass(frozen=True)
class Ledger:
    """The ledger's rows, as one read found them. Times are microseconds since 1970."""

    rows: list[Row]

    @staticmethod
    def read(context: Context) -> Ledger:
        frame = delta_io.read_or_empty(context.spark, context.lake.shared("ingest_ledger"), SCHEMAS["ingest_ledger"])
        columns = [name for name in frame.columns if name not in ("modified_at", "recorded_at")]
        return Ledger(
            frame.select(
                *columns,
                F.unix_micros("modified_at").alias("modified_us"),
                F.unix_micros("recorded_at").alias("recorded_us"),
            ).collect()
        )

    def known_files(self) -> set[FileKey]:
        """Path, size and time of change of each file that needs no second look. A copy needs one until the file it is
        a copy of was taken: that one may be gone."""
        taken = self.known_hashes()
        return {
            (row["file"], row["size"], row["modified_us"])
            for row in self.rows
            if row["outcome"] in SETTLED and (row["outcome"] != DUPLICATE or row["content_hash"] in taken)
        }

    def known_hashes(self) -> dict[str, str]:
        """Content hash of each ingested file, and one file that has it."""
        return {row["content_hash"]: row["file"] for row in self.rows if row["outcome"] == INGESTED}

    def ingested_files(self) -> set[str]:
        """Path of each file that was ingested, with whatever content."""
        return {row["file"] for row in self.rows if row["outcome"] == INGESTED}

    def unfinished(self) -> dict[str, list[Row]]:
        """Batches that were planned and, as far as the ledger knows, never written; the files of each."""
        done = {row["batch"] for row in self.rows if row["outcome"] == INGESTED}
        batches: dict[str, dict[str, Row]] = {}
        for row in self.rows:
            if row["outcome"] == PLANNED and row["batch"] not in done:
                # By file, since a batch killed twice was planned twice.
                batches.setdefault(row["batch"], {})[row["file"]] = row
        return {batch: list(files.values()) for batch, files in batches.items()}

    def batches(self) -> dict[str, int]:
        """Records of each ingested batch, in the order the batches were ingested."""
        first: dict[str, int] = {}
        for row in self.rows:
            if row["outcome"] == INGESTED:
                first[row["batch"]] = min(first.get(row["batch"], row["recorded_us"]), row["recorded_us"])
        files = self.ingested()
        in_order = sorted(first, key=lambda batch: (first[batch], batch))
        return {batch: sum(row["records"] or 0 for row in files[batch].values()) for batch in in_order}

    def ingested(self) -> dict[str, dict[str, Row]]:
        """The latest row of each file of each ingested batch: two runs may have closed it, one after the other, and
        records may have been forgotten since."""
        latest: dict[str, dict[str, Row]] = {}
        for row in sorted(self.rows, key=lambda row: row["recorded_us"]):
            if row["outcome"] == INGESTED:
                latest.setdefault(row["batch"], {})[row["file"]] = row
        return latest

    def last_taken(self, table: str) -> Taken | None:
        """The latest version of a Delta source that was ingested; None when none was."""
        taken = [
            Taken(TableVersion.parse(row["content_hash"]), row["recorded_us"])
            for row in self.rows
            if row["file"] == table and row["outcome"] == INGESTED
        ]
        return max(taken, key=lambda one: one.version.number, default=None)


def batch_id(files: Iterable[tuple[str, str]]) -> str:
    """Return the id of a batch: a hash of its files' paths and content hashes, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()[:16]


def entry(
    file: str,
    outcome: str,
    *,
    size: int,
    modified_us: int | None,
    content_hash: str | None,
    batch: str | None = None,
    records: int | None = None,
    detail: str | None = None,
) -> dict[str, Any]:
    """Return one ledger row as a dictionary, without time and run, which `record` adds."""
    return {
        "batch": batch,
        "file": file,
        "size": size,
        "modified_at": None if modified_us is None else from_micros(modified_us),
        "content_hash": content_hash,
        "outcome": outcome,
        "records": records,
        "detail": detail,
    }


def record(context: Context, entries: list[dict[str, Any]]) -> int:
    """Append the entries in one commit; return the ledger's version."""
    path = context.lake.shared("ingest_ledger")
    moment = registry.next_moment(context.spark, path)
    rows = [{**values, "recorded_at": moment, "run_id": context.run_id} for values in entries]
    return context.append_rows(rows, path, SCHEMAS["ingest_ledger"]).version
