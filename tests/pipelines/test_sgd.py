"""`sgd` trains a candidate that is judged, listed and published as any other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.config.loader import load_settings
from factorlake.config.settings import Settings
from factorlake.errors import ConfigError
from factorlake.tables import delta_io
from factorlake.tables.names import Lake
from tests.pipelines.demo_lake import CONF, run_verb

pytestmark = pytest.mark.spark


def settings_of(folder: Path, *more: str) -> Settings:
    given = [
        f"root={folder}/lake",
        f"input={folder}/log/ratings",
        f"attributes.items.input={folder}/log/tracks.csv",
        *("demo.listeners=200", "demo.tracks=60", "demo.days=3", "train.holdout_days=1"),
        *("sgd.learning_rate=0.01", "sgd.epochs=30", "sgd.rank=4"),
        *more,
    ]
    return load_settings([CONF / "base" / "demo_ratings.yaml"], given)


def test_a_model_of_stochastic_gradients_goes_the_way_of_every_candidate(spark: SparkSession, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert run_verb(spark, "run", settings, first="ingest", last="attributes")["exit_code"] == 0
    trained = run_verb(spark, "sgd", settings)
    assert (trained["exit_code"], trained["job"]) == (0, "sgd")
    version = trained["model_version"]
    lake = Lake.at(settings.root, settings.recommender)

    trace = delta_io.read(spark, lake.own("training_trace")).where(F.col("model_version") == version)
    rows = trace.orderBy("epoch", F.col("state") == "final").collect()
    assert {(row["side"], row["solver"], row["metric_name"]) for row in rows} == {("both", "adam", "validation rmse")}
    assert rows[0]["epoch"] == 0
    # The kept epoch is the one with the least validation error, and its losses end the trace.
    final = next(row for row in rows if row["state"] == "final")
    after = {row["epoch"]: row for row in rows if row["state"] == "after"}
    assert final["metric"] == min(row["metric"] for row in after.values())
    assert final["loss"] == after[final["epoch"]]["loss"] < after[0]["loss"]

    # Users are solved for the published items: moving one by a little only raises its own objective.
    factors = delta_io.read(spark, lake.candidate(version, "factors"))
    assert factors.where("side = 'user'").count() > 100
    for verb in ("evaluate", "recommend", "publish"):
        assert run_verb(spark, verb, settings)["exit_code"] == 0, verb
    judged = delta_io.read(spark, lake.own("evaluation")).where("metric = 'rmse' and split = 'time' and slice is null")
    rmse = {row["name"]: row["value"] for row in judged.collect()}
    assert rmse["model"] < rmse["mean"]
    listed = delta_io.read(spark, lake.published("recommendations", "live"))
    assert {row["model_version"] for row in listed.select("model_version").distinct().collect()} == {version}

    # Nothing to do for the same events; another seed, another optimizer are other models, and so is that of `train`.
    assert run_verb(spark, "sgd", settings)["exit_code"] == 99
    plain = run_verb(spark, "sgd", settings_of(tmp_path, "sgd.optimizer=sgd", "sgd.epochs=3"))
    assert plain["model_version"] != version
    by_als = run_verb(spark, "train", settings_of(tmp_path, "train.epochs=2"))
    assert by_als["model_version"] not in (version, plain["model_version"])
    # A model is judged again by the trainer that made it, on another split.
    again = run_verb(spark, "evaluate", settings_of(tmp_path, "evaluate.split=hash"), model=version)
    assert again["exit_code"] == 0
    models = delta_io.read(spark, lake.own("models")).where(F.col("model_version") == version)
    kept = json.loads(models.first()["settings"])  # type: ignore[index]
    # λ/2 on the scale of ratings from 1 to 5.
    assert kept["regularization"] == pytest.approx(settings.sgd.regularization / 2 * 4)
    assert np.isclose(kept["frequency_exponent"], 1.0)


def test_a_scale_that_no_bias_holds_is_refused() -> None:
    with pytest.raises(ConfigError, match="scaling none"):
        load_settings([], ["sgd.biases=false"])
