"""Ingest: new files, or new commits of a Delta table, to raw_events. Reads the input and ingest_ledger;
writes both tables.

Exactly once: the ledger first names the files of a batch (`planned`), then the batch's records are appended
in one commit that Delta takes only once, then the ledger closes the batch (`ingested`). A run killed in
between leaves a planned batch; the next run closes it when its records are there and reads its files again
when they are not.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.config.settings import EventColumns
from factorlake.errors import NOTHING_TO_DO, ConfigError, DataRefusedError
from factorlake.pipelines import ingest_ledger as ledger
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.ingest_ledger import Ledger
from factorlake.pipelines.pseudonyms import note_key, pseudonyms_of
from factorlake.spark.delta_source import find_new_rows, read_new_rows
from factorlake.spark.files import SourceFile, list_files
from factorlake.spark.pseudonyms import Pseudonyms
from factorlake.spark.readers import Inspection, count_by_file, inspect_files, read_records
from factorlake.tables import delta_io
from factorlake.tables.delta_io import Commit
from factorlake.tables.schemas import SCHEMAS

log = logging.getLogger(__name__)

CHANGED = "it has other content than when it was last read"
"""Of a file that grew or was overwritten, in the ledger."""


@dataclass
class Plan:
    """One batch: what the ledger says of each of its files, and which of them are read."""

    batch: str
    entries: list[dict[str, Any]]
    files: list[SourceFile] = field(default_factory=list)

    @property
    def planned(self) -> list[dict[str, Any]]:
        return [entry for entry in self.entries if entry["outcome"] == ledger.PLANNED]


def run(context: Context) -> JobResult:
    """Bring what is new in the input into raw_events.

    Raises
    ------
    ConfigError : no input is set, or there is none at its path.
    DataRefusedError : an empty folder before anything was ingested, a missing column, an unreadable file
        (with `ingest.on_unreadable: refuse`), a Delta source whose rows were rewritten. Nothing of the batch
        is taken.
    """
    path = context.settings.require_input()
    kinds = ("duplicate_files", "changed_files", "empty_files", "unreadable_files")
    result = JobResult(counts=dict.fromkeys(("files", "records", "broken", *kinds), 0))
    result.details["batches"] = []
    pseudonyms = pseudonyms_of(context, user_columns(context.settings.events.columns))
    book = _close_written_batches(context, Ledger.read(context), result)
    form = context.settings.ingest.format
    # The Parquet files of a Delta table must not be read one by one: some of them are no longer part of it.
    if form in ("auto", "delta") and delta_io.exists(context.spark, path):
        _ingest_table(context, path, book, pseudonyms, result)
    elif form == "delta":
        raise ConfigError(f"input {path} is no Delta table: set `input`, or `ingest.format` for files")
    else:
        _ingest_files(context, path, book, pseudonyms, result)
    if not result.details["batches"]:
        result.exit_code = NOTHING_TO_DO
        result.reason = "no new records" if result.counts["files"] else "no new files"
    return result


def _ingest_files(context: Context, path: str, book: Ledger, pseudonyms: Pseudonyms | None, result: JobResult) -> None:
    files, left_aside = list_files(context.spark, path, context.settings.ingest)
    result.counts["left_aside"] = left_aside
    if left_aside:
        log.warning("%d files have an ending that names no format and were left aside", left_aside)
    if not files and not book.rows:
        raise DataRefusedError(
            f"{path} holds no file to read"
            + (f" ({left_aside} have an unknown ending: set `ingest.format`)" if left_aside else "")
            + ": wait for the log to arrive, or check `input` and `ingest.pattern`"
        )
    known = book.known_files()
    new = [file for file in files if (file.path, file.size, file.modified_us) not in known]
    # A planned batch is read again by itself, so that a run that was killed groups files as a clean one does.
    known_hashes, ingested = book.known_hashes(), book.ingested_files()
    for entries in book.unfinished().values():
        planned = {entry["file"] for entry in entries}
        again = [file for file in new if file.path in planned]
        new = [file for file in new if file.path not in planned]
        known_hashes |= _ingest_group(context, again, known_hashes, ingested, pseudonyms, result)
    _ingest_group(context, new, known_hashes, ingested, pseudonyms, result)


def _ingest_group(
    context: Context,
    files: list[SourceFile],
    known_hashes: dict[str, str],
    ingested: set[str],
    pseudonyms: Pseudonyms | None,
    result: JobResult,
) -> dict[str, str]:
    """Ingest some files as one batch; return the content hashes that are known now, each with its file. ``ingested``
    are the paths that an earlier batch took."""
    if not files:
        return {}
    context.progress(f"reading {len(files)} new files")
    result.counts["files"] += len(files)
    plan = plan_files(context, inspect_files(context.spark, files), known_hashes, ingested)
    for outcome in (ledger.DUPLICATE, ledger.EMPTY, ledger.UNREADABLE):
        result.counts[f"{outcome}_files"] += sum(entry["outcome"] == outcome for entry in plan.entries)
    result.counts["changed_files"] += sum(entry["detail"] == CHANGED for entry in plan.entries)
    result.versions["ingest_ledger"] = ledger.record(context, plan.entries)
    if plan.files:
        commit = write_records(context, plan.batch, read_records(context.spark, plan.files, pseudonyms), pseudonyms)
        close_batch(context, plan.batch, plan.planned, commit.version, result)
    return {entry["content_hash"]: entry["file"] for entry in plan.planned}


def plan_files(
    context: Context, found: list[Inspection], known_hashes: dict[str, str], ingested: Collection[str] = ()
) -> Plan:
    """Decide what becomes of each file: read, a copy of a known one, empty, or unreadable. One that is read and whose
    path is among ``ingested`` is told as `CHANGED`: the records it had before are copies.

    Raises
    ------
    DataRefusedError : a mapped column is missing, or a file cannot be read and `ingest.on_unreadable` is
        refuse.
    """
    refuse = context.settings.ingest.on_unreadable == "refuse"
    required = mapped_columns(context.settings.events.columns)
    seen = dict(known_hashes)
    entries: list[dict[str, Any]] = []
    taken: list[Inspection] = []
    unreadable = [look for look in found if look.problem is not None]
    if unreadable and refuse:
        first = unreadable[0]
        raise DataRefusedError(
            f"{len(unreadable)} of {len(found)} new files cannot be read, the first is {first.file.path}: "
            f"{first.problem}. Nothing was taken: mend or remove it, or set `ingest.on_unreadable: skip`"
        )
    for look in sorted(found, key=lambda look: look.file.path):
        outcome, detail = ledger.PLANNED, None
        if look.problem is not None:
            outcome, detail = ledger.UNREADABLE, look.problem
            log.warning("file %s was left out: %s", look.file.path, look.problem)
        elif look.is_empty:
            outcome = ledger.EMPTY
        elif look.content_hash in seen:
            outcome, detail = ledger.DUPLICATE, f"same content as {seen[look.content_hash]}"
        else:
            check_columns(look.file.path, look.columns, required)
            if look.file.path in ingested:
                detail = CHANGED
            seen[look.content_hash or ""] = look.file.path
            taken.append(look)
        entries.append(
            ledger.entry(
                look.file.path,
                outcome,
                size=look.file.size,
                modified_us=look.file.modified_us,
                content_hash=look.content_hash,
                detail=detail,
            )
        )
    batch = ledger.batch_id((look.file.path, look.content_hash or "") for look in taken)
    for entry in entries:
        if entry["outcome"] == ledger.PLANNED:
            entry["batch"] = batch
    return Plan(batch, entries, [look.file for look in taken])


def _ingest_table(context: Context, path: str, book: Ledger, pseudonyms: Pseudonyms | None, result: JobResult) -> None:
    new = find_new_rows(context.spark, path, book.last_taken(path))
    if not new.added:
        return
    check_columns(path, new.schema.names, mapped_columns(context.settings.events.columns))
    context.progress(f"reading the rows that {path} got up to version {new.version.number}")
    result.counts["files"] += 1
    batch = ledger.batch_id([(path, f"{new.since}..{new.version}")])
    planned = ledger.entry(path, ledger.PLANNED, size=0, modified_us=None, content_hash=str(new.version), batch=batch)
    ledger.record(context, [planned])
    commit = write_records(context, batch, read_new_rows(context.spark, new, pseudonyms), pseudonyms)
    close_batch(context, batch, [planned], commit.version, result)


def write_records(context: Context, batch: str, records: DataFrame, pseudonyms: Pseudonyms | None = None) -> Commit:
    """Append a batch's records to raw_events in one commit, which is skipped when an earlier run had made
    it."""
    if pseudonyms is not None:
        note_key(context, pseudonyms)
    frame = records.select(
        F.lit(batch).alias("batch"),
        *records.columns,
        F.lit(datetime.now(UTC)).alias("ingested_at"),
        F.lit(context.run_id).alias("run_id"),
    )
    path = context.lake.shared("raw_events")
    commit = context.append(frame, path, SCHEMAS["raw_events"], app_id=f"ingest:{batch}")
    if commit.skipped:
        log.info("batch=%s was in raw_events already", batch)
    return commit


def close_batch(context: Context, batch: str, planned: list[dict[str, Any]], version: int, result: JobResult) -> None:
    """Record every file of a written batch as ingested, with its records in raw_events at ``version``."""
    path = context.lake.shared("raw_events")
    counts = count_by_file(delta_io.read(context.spark, path).filter(F.col("batch") == batch))
    # A row of a Delta source names the data file it came from; the ledger names the table.
    per_file = {entry["file"]: counts.get(entry["file"], (0, 0)) for entry in planned}
    if len(planned) == 1:
        total = sum(records for records, _ in counts.values()), sum(broken for _, broken in counts.values())
        per_file = {planned[0]["file"]: total}
    entries = [{**entry, "outcome": ledger.INGESTED, "records": per_file[entry["file"]][0]} for entry in planned]
    result.versions["ingest_ledger"] = ledger.record(context, entries)
    result.versions["raw_events"] = version
    result.counts["records"] += sum(records for records, _ in per_file.values())
    result.counts["broken"] += sum(broken for _, broken in per_file.values())
    result.details["batches"].append(batch)
    log.info("batch=%s files=%d records=%d", batch, len(planned), sum(n for n, _ in per_file.values()))


def _close_written_batches(context: Context, book: Ledger, result: JobResult) -> Ledger:
    """Close the batches that a killed run had written but not closed; return the ledger as it is then."""
    path = context.lake.shared("raw_events")
    unfinished = book.unfinished()
    if not unfinished or not delta_io.exists(context.spark, path):
        return book
    version = delta_io.version(context.spark, path)
    for batch, rows in unfinished.items():
        if delta_io.read(context.spark, path).filter(F.col("batch") == batch).isEmpty():
            continue
        planned = [
            ledger.entry(
                row["file"],
                ledger.PLANNED,
                size=row["size"],
                modified_us=row["modified_us"],
                content_hash=row["content_hash"],
                batch=batch,
                detail=row["detail"],
            )
            for row in rows
        ]
        result.counts["files"] += len(planned)
        close_batch(context, batch, planned, version, result)
    return Ledger.read(context)


def user_columns(columns: EventColumns) -> list[str]:
    """Return the raw columns that may hold a user's id."""
    return [columns.user_id] if isinstance(columns.user_id, str) else list(columns.user_id)


def mapped_columns(columns: EventColumns) -> dict[tuple[str, ...], str]:
    """Return the raw columns that the settings name, alternatives together, each with the setting that names
    them."""
    return {
        (named,) if isinstance(named, str) else tuple(named): f"events.columns.{name}"
        for name, named in columns.model_dump().items()
        if named is not None
    }


def check_columns(file: str, columns: Iterable[str] | None, required: dict[tuple[str, ...], str]) -> None:
    """Raise DataRefusedError when a file declares its columns and none of the alternatives that a setting
    names is among them."""
    if columns is None:
        return
    present = list(columns)
    for alternatives, setting in required.items():
        if not any(column in present for column in alternatives):
            raise DataRefusedError(
                f"{file} has no column {' or '.join(map(repr, alternatives))}; it has {', '.join(present)}. "
                f"Nothing was taken: set `{setting}` to one of these, or mend the file"
            )
