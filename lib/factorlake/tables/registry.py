"""Append-only registers: runs, models, publications. The latest row of a key holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Column, Row, SparkSession
from pyspark.sql import functions as F

from factorlake.tables import delta_io
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS
from factorlake.times import as_utc, from_micros

EXPIRED = "expired"
"""State of a model whose candidate `maintain` removed."""
FORGET = "forget"
"""Kind of a publication: what stayed of what was live when users were forgotten."""
STARTED, ERASED, NOTHING = "started", "done", "nothing"
"""States of an erasure."""


def now() -> datetime:
    """Return the time in UTC, for columns that say when a row was written (never for data ages)."""
    return datetime.now(UTC)


def next_moment(spark: SparkSession, path: str, column: str = "recorded_at") -> datetime:
    """Return the time for new rows of the register at ``path``: now, or just after its newest row where the clock has
    been put back since. The latest row of a key holds, whatever the clock does."""
    newest = None
    if delta_io.exists(spark, path):
        (row,) = delta_io.read(spark, path).agg(F.max(F.unix_micros(column)).alias("newest")).collect()
        newest = row["newest"]
    return now() if newest is None else max(now(), from_micros(newest + 1))


def record_run(spark: SparkSession, lake: Lake, row: dict[str, Any]) -> None:
    """Append one state of a run."""
    delta_io.append_rows(spark, [row], lake.shared("runs"), SCHEMAS["runs"], run_id=row["run_id"])


def record_model(spark: SparkSession, lake: Lake, row: dict[str, Any], run_id: str) -> int:
    """Append one state of a model version and return the table's version."""
    path = lake.own("models")
    row = {**row, "recorded_at": next_moment(spark, path), "run_id": run_id}
    return delta_io.append_rows(spark, [row], path, SCHEMAS["models"], run_id=run_id).version


def model(spark: SparkSession, lake: Lake, version: str) -> Row | None:
    """Return the latest state of a model version, or None."""
    return _latest(spark, lake, "models", F.col("model_version") == version, "recorded_at")


def trained_models(spark: SparkSession, lake: Lake) -> list[Row]:
    """Return (model_version, as_of, fingerprint, recorded_at) of every model whose candidate is still there, the one
    trained last first; recorded_at is when."""
    path = lake.own("models")
    if not delta_io.exists(spark, path):
        return []
    trained = F.when(F.col("state") == "trained", F.struct("recorded_at", "as_of", "fingerprint"))
    by_version = delta_io.read(spark, path).groupBy("model_version")
    latest = by_version.agg(F.max_by("state", "recorded_at").alias("state"), F.max(trained).alias("trained"))
    found = latest.where((F.col("state") != EXPIRED) & F.col("trained").isNotNull())
    return _in_utc(found.select("model_version", "trained.*").orderBy(F.col("recorded_at").desc()).collect())


def slots(spark: SparkSession, lake: Lake) -> list[str]:
    """Return the slots that anything was published into."""
    frame = delta_io.read_or_empty(spark, lake.own("publications"), SCHEMAS["publications"])
    return sorted(row["slot"] for row in frame.select("slot").distinct().collect())


def publications(spark: SparkSession, lake: Lake, slot: str) -> list[Row]:
    """Return every publication of a slot, the newest first; its ``run_id`` names a publication."""
    frame = delta_io.read_or_empty(spark, lake.own("publications"), SCHEMAS["publications"])
    return _in_utc(frame.where(F.col("slot") == slot).orderBy(F.col("published_at").desc()).collect())


def published_set(publication: Row) -> str:
    """Return what names the rows that a publication made live: itself, or the publication that it brought back."""
    return str(publication["restores"] or publication["run_id"])


def kept_publications(spark: SparkSession, lake: Lake, slot: str, keep_sets: int) -> list[Row]:
    """Return the publications of a slot whose versions must stay readable, newest first: the live one and the
    ``keep_sets`` before it that a rollback can go back to.

    Publications that made the same rows live (a rollback, and what it brought back) count once, by the newest of them.
    """
    newest: dict[str, Row] = {}
    for row in standing(publications(spark, lake, slot)):
        newest.setdefault(published_set(row), row)
    return list(newest.values())[: keep_sets + 1]


def standing(publications: list[Row]) -> list[Row]:
    """Return the publications of a slot, newest first, whose versions may still be read: those since users were last
    forgotten."""
    kinds = [row["kind"] for row in publications]
    return publications[: kinds.index(FORGET) + 1] if FORGET in kinds else publications


def unfinished_erasures(spark: SparkSession, lake: Lake) -> list[Row]:
    """Return the requests to forget users that were started and, as far as is known, killed; the oldest first."""
    frame = delta_io.read_or_empty(spark, lake.shared("erasures"), SCHEMAS["erasures"])
    rows = _in_utc(frame.orderBy("recorded_at").collect())
    ended = {row["run_id"] for row in rows if row["state"] != STARTED}
    last = max((row["recorded_at"] for row in rows if row["state"] == ERASED), default=None)
    return [row for row in rows if row["run_id"] not in ended and (last is None or row["recorded_at"] > last)]


def last_erasure(spark: SparkSession, lake: Lake) -> datetime | None:
    """Return when users were last forgotten; None where none ever was."""
    row = _latest_of(spark, lake.shared("erasures"), "erasures", F.col("state") == ERASED, "recorded_at")
    return None if row is None else row["recorded_at"]


def publication(spark: SparkSession, lake: Lake, slot: str, version: str | None = None) -> Row | None:
    """Return the latest publication of a slot, or of one model in it; None when there was none."""
    wanted = F.col("slot") == slot
    if version is not None:
        wanted &= F.col("model_version") == version
    return _latest(spark, lake, "publications", wanted, "published_at")


def _latest(spark: SparkSession, lake: Lake, table: str, wanted: Column, time: str) -> Row | None:
    """Return the wanted row of a register with the greatest ``time``, its times in UTC; None where there is none, or no
    register yet."""
    return _latest_of(spark, lake.own(table), table, wanted, time)


def _latest_of(spark: SparkSession, path: str, table: str, wanted: Column, time: str) -> Row | None:
    if not delta_io.exists(spark, path):
        return None
    # A register from before a column came has nulls in it.
    frame = delta_io.with_columns_of(delta_io.read(spark, path), SCHEMAS[table])
    rows = frame.where(wanted).orderBy(F.col(time).desc()).limit(1).collect()
    return _in_utc(rows)[0] if rows else None


def _in_utc(rows: list[Row]) -> list[Row]:
    return [
        Row(*row.__fields__)(*(as_utc(value) if isinstance(value, datetime) else value for value in row))
        for row in rows
    ]
