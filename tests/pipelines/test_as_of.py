"""As of a moment: training, judgement and lists are what they were when no more was known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

from factorlake.cli import invoke
from factorlake.config.loader import build
from factorlake.errors import ConfigError, DataRefusedError
from factorlake.pipelines import evaluate, recommend, train
from factorlake.pipelines.context import Context
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS
from tests.pipelines.lakes import context_at
from tests.reference.contents import read_table, rows_of

pytestmark = pytest.mark.spark

SETTINGS: dict[str, Any] = {
    "train": {"rank": 3, "epochs": 2, "early_stopping": None, "holdout_days": 7.0},
    "evaluate": {"k": 4},
    "recommend": {"k": 4},
}


def log(arrival: datetime, n_events: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    start = datetime(2025, 1, 1, tzinfo=UTC)
    return [
        {
            "user_id": f"u{rng.integers(30)}",
            "item_id": f"i{rng.integers(20)}",
            "event_type": "play",
            "value": 1.0,
            "event_time": start + timedelta(seconds=int(rng.integers(0, 30 * 86_400))),
            "event_id": f"{seed}.{number}",
            "arrival": arrival,
        }
        for number in range(n_events)
    ]


def attributes(missing: str, category: str) -> list[dict[str, Any]]:
    """All items, one of which has not been there since long."""
    gone = {missing: datetime(2024, 1, 1, tzinfo=UTC)}
    return [{"id": f"i{n}", "category": category, "available_to": gone.get(f"i{n}")} for n in range(20)]


def outcome(context: Context) -> dict[str, list[str]]:
    """What training, judgement and lists leave, without the model's name."""
    version = train.run(context).model_version
    assert version is not None
    evaluate.run(context)
    recommend.run(context)
    lake = context.lake
    paths = {name: lake.candidate(version, name) for name in ("factors", "lists")} | {"figures": lake.own("evaluation")}
    return {name: rows_of(path, leave_out=["model_version"]) for name, path in paths.items()}


def test_a_model_as_of_a_moment_is_the_one_of_a_lake_without_what_came_later(
    spark: SparkSession, lake_root: str
) -> None:
    contexts = {name: context_at(spark, f"{lake_root}/{name}", "unused", **SETTINGS) for name in ("early", "whole")}
    for context in contexts.values():
        context.append_rows(
            log(datetime.now(UTC), 400, 1), context.lake.shared("interactions"), SCHEMAS["interactions"]
        )
        context.append_rows(attributes("i3", "a"), context.lake.shared("item_attributes"), SCHEMAS["item_attributes"])
    moment = datetime.now(UTC)
    whole = contexts["whole"]
    # Late ones too: they happened before the moment, and were not known then.
    later = log(moment + timedelta(seconds=1), 200, 2)
    whole.append_rows(later, whole.lake.shared("interactions"), SCHEMAS["interactions"])
    now = spark.createDataFrame(
        [tuple(row.get(field.name) for field in SCHEMAS["item_attributes"].fields) for row in attributes("i5", "b")],
        SCHEMAS["item_attributes"].fields,
    )
    whole.overwrite(now, whole.lake.shared("item_attributes"), SCHEMAS["item_attributes"])

    then = context_at(spark, whole.lake.root, "unused", **SETTINGS, select={"as_of": moment.isoformat()})
    early = outcome(contexts["early"])
    assert outcome(then) == early
    assert not any('"item_id": "i3"' in row for row in early["lists"])
    assert any("category=a" in row for row in early["figures"])
    # Without the moment the same lake gives another model.
    assert outcome(whole)["factors"] != early["factors"]
    # Each was trained once: under its own name.
    assert train.run(then).exit_code == train.run(whole).exit_code == 99
    assert len(read_table(Path(whole.lake.own("models")))["model_version"].unique()) == 2


def test_before_anything_was_known_there_is_nothing_to_train_on(spark: SparkSession, lake_root: str) -> None:
    context = context_at(spark, lake_root, "unused", **SETTINGS, select={"as_of": "2020-01-01T00:00:00Z"})
    context.append_rows(log(datetime.now(UTC), 20, 1), context.lake.shared("interactions"), SCHEMAS["interactions"])
    with pytest.raises(DataRefusedError):
        train.run(context)


def test_the_version_of_a_moment_is_the_last_one_before_it(spark: SparkSession, lake_root: str) -> None:
    path, schema = f"{lake_root}/t", SCHEMAS["item_attributes"]
    assert delta_io.version_at(spark, path, datetime.now(UTC)) == -1
    before = datetime.now(UTC)
    moments = []
    for _ in range(3):
        version = delta_io.append_rows(spark, [{"id": "i"}], path, schema, run_id="r").version
        moments.append((version, datetime.now(UTC)))
    assert [delta_io.version_at(spark, path, moment) for _, moment in moments] == [version for version, _ in moments]
    assert delta_io.version_at(spark, path, before) == -1
    # A log of which the beginning is gone, as Delta leaves it after a checkpoint and a month.
    spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('delta.checkpointInterval' = '1')")
    delta_io.append_rows(spark, [{"id": "i"}], path, schema, run_id="r")
    for old in range(3):
        (Path(path) / "_delta_log" / f"{old:020d}.json").unlink()
    with pytest.raises(DataRefusedError, match="no longer tells what it was"):
        delta_io.version_at(spark, path, before)


def test_a_moment_without_a_zone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="as_of"):
        build({"root": "lake", "select": {"as_of": "2026-01-01T00:00:00"}})
    assert invoke(["train", "--as-of", "2026-01-01T00:00:00Z", "--print-config", "--set", "root=lake"]) == 0
    assert '"as_of": "2026-01-01T00:00:00Z"' in capsys.readouterr().out
