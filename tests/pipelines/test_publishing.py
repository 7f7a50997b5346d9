"""Publishing by content: what did not change keeps its row, and nothing new is no commit."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from factorlake.errors import LeaseHeldError
from factorlake.pipelines.publishing import publish_table
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.pipelines.lakes import context_at

pytestmark = pytest.mark.spark
LISTS = SCHEMAS["recommendations"]


def list_of(user: str, items: list[str], version: str) -> list[dict]:
    return [
        {
            "user_id": user,
            "rank": rank,
            "item_id": item,
            "score": float(rank),
            "source": "model",
            "model_version": version,
            "as_of": datetime(2024, 1, int(version)),
        }
        for rank, item in enumerate(items, start=1)
    ]


def frame_of(spark: SparkSession, rows: list[dict]):  # type: ignore[no-untyped-def]
    return spark.createDataFrame([tuple(row.get(f.name) for f in LISTS.fields) for row in rows], LISTS.fields)


def test_publishing_keeps_the_rows_of_lists_that_did_not_change(spark: SparkSession, tmp_path: Path) -> None:
    path = str(tmp_path / "recommendations")
    context = context_at(spark, str(tmp_path), "unused")

    def publish(rows: list[dict]):  # type: ignore[no-untyped-def]
        return publish_table(context, frame_of(spark, rows), path, LISTS, "user_id")

    publish(list_of("same", ["a", "b"], "1") + list_of("moved", ["a", "b"], "1") + list_of("gone", ["a"], "1"))
    second = publish(list_of("same", ["a", "b"], "2") + list_of("moved", ["b", "a"], "2") + list_of("new", ["c"], "2"))
    assert (second.changed, second.unchanged, second.removed) == (2, 1, 1)
    found = {(r["user_id"], r["item_id"]): r["model_version"] for r in delta_io.read(spark, path).collect()}
    assert found == {
        ("same", "a"): "1", ("same", "b"): "1", ("moved", "a"): "2", ("moved", "b"): "2", ("new", "c"): "2",
    }  # fmt: skip
    third = publish(list_of("same", ["a", "b"], "3") + list_of("moved", ["b", "a"], "3") + list_of("new", ["c"], "3"))
    assert (third.version, third.changed) == (second.version, 0)


def test_nothing_is_written_once_the_lease_has_passed_to_another_run(spark: SparkSession, tmp_path: Path) -> None:
    def passed() -> int:
        raise LeaseHeldError("passed to another run")

    path, context = str(tmp_path / "recommendations"), replace(context_at(spark, str(tmp_path), "x"), lease=passed)
    rows = list_of("user", ["a"], "1")
    frame = frame_of(spark, rows)
    for write in (
        lambda: context.append(frame, path, LISTS),
        lambda: context.append_rows(rows, path, LISTS),
        lambda: context.overwrite(frame, path, LISTS),
        lambda: context.record_model({"model_version": "v"}),
    ):
        with pytest.raises(LeaseHeldError):
            write()
    assert not list(tmp_path.iterdir())
