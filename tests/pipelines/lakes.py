"""A small lake to run the first stages in: settings, context, and readers of what they wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.config.loader import build
from factorlake.pipelines.context import Context
from factorlake.tables import delta_io
from factorlake.tables.names import Lake

HEADER = "user_id,item_id,value,event_time"


def context_at(spark: SparkSession, root: str, source: Path | str, **settings: Any) -> Context:
    """A context over the lake at ``root`` that reads ``source``; events have a value unless the settings say
    else."""
    values = {"root": root, "input": str(source), "events": {"columns": {"value": "value"}}, **settings}
    return Context(spark, build(values), Lake.at(root, "main"), "run", lambda _: None, "conf", lambda: 1)


def write_csv(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def events(*numbers: int, user: str = "u") -> list[str]:
    """Good rows, one a number."""
    return [f"{user}{n},i{n},{n},2024-01-01T00:00:{n:02d}Z" for n in numbers]


def contents(context: Context, table: str) -> list[tuple]:
    """What a table holds, whatever arrived when: run, batch and times of arrival left out, sorted."""
    columns = {
        "interactions": ("user_id", "item_id", "event_type", "value", "event_time", "event_id", "rules_hash"),
        "quarantine": ("event_id", "reasons", "rules_hash"),
        "raw_events": ("file", "position", "raw", "event_id"),
    }[table]
    path = context.lake.shared(table)
    if not delta_io.exists(context.spark, path):
        return []
    frame = delta_io.read(context.spark, path).select(*(F.col(name).cast("string") for name in columns))
    return sorted(tuple(row) for row in frame.collect())


def outcomes(context: Context) -> dict[str, list[str]]:
    """The ledger's outcomes of each file, by the file's name, sorted."""
    found: dict[str, list[str]] = {}
    for row in delta_io.read(context.spark, context.lake.shared("ingest_ledger")).collect():
        found.setdefault(row["file"].rsplit("/", 1)[-1], []).append(row["outcome"])
    return {name: sorted(states) for name, states in found.items()}
