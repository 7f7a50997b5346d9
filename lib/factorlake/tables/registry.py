"""Append-only registers: runs, models, publications. The latest row of a key holds."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from factorlake.tables import delta_io
from factorlake.tables.names import Lake
from factorlake.tables.schemas import SCHEMAS


def now() -> datetime:
    """Return the time in UTC, for columns that say when a row was written (never for data ages)."""
    return datetime.now(UTC)


def record_run(spark: SparkSession, lake: Lake, row: dict[str, Any]) -> None:
    """Append one state of a run."""
    delta_io.append_rows(spark, [row], lake.shared("runs"), SCHEMAS["runs"], run_id=row["run_id"])


def record_model(spark: SparkSession, lake: Lake, row: dict[str, Any], run_id: str) -> int:
    """Append one state of a model version and return the table's version."""
    row = {**row, "recorded_at": now(), "run_id": run_id}
    return delta_io.append_rows(spark, [row], lake.own("models"), SCHEMAS["models"], run_id=run_id).version


def model(spark: SparkSession, lake: Lake, version: str) -> Row | None:
    """Return the latest state of a model version, or None."""
    if not delta_io.exists(spark, lake.own("models")):
        return None
    rows = (
        delta_io.read(spark, lake.own("models"))
        .where(F.col("model_version") == version)
        .orderBy(F.col("recorded_at").desc())
        .limit(1)
        .collect()
    )
    return rows[0] if rows else None


def latest_model(spark: SparkSession, lake: Lake) -> Row | None:
    """Return the latest state of the model trained last, or None."""
    if not delta_io.exists(spark, lake.own("models")):
        return None
    rows = (
        delta_io.read(spark, lake.own("models"))
        .where(F.col("state") == "trained")
        .orderBy(F.col("recorded_at").desc())
        .limit(1)
        .collect()
    )
    return model(spark, lake, rows[0]["model_version"]) if rows else None


def publication(spark: SparkSession, lake: Lake, slot: str) -> Row | None:
    """Return the latest publication of a slot, or None."""
    if not delta_io.exists(spark, lake.own("publications")):
        return None
    rows = (
        delta_io.read(spark, lake.own("publications"))
        .where(F.col("slot") == slot)
        .orderBy(F.col("published_at").desc())
        .limit(1)
        .collect()
    )
    return rows[0] if rows else None


def recorded_settings(row: Row) -> dict[str, Any]:
    """Return the training settings that a models row carries."""
    return dict(json.loads(row["settings"]))
