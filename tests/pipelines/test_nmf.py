"""Non-negative factors of the Frobenius objective as a recommender: trained, judged by its lists, and recommending."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.config.settings import TrainSettings
from factorlake.errors import DONE
from factorlake.tables import delta_io
from tests.pipelines.demo_lake import DemoRun, demo_settings, run_verb

SETTINGS = (
    *("train.objective=frobenius", "train.nonnegative=true", "train.rank=4", "train.regularization=0.3"),
    # A skip says nothing here: amounts cannot be negative.
    "train.event_weights={play: 1.0, like: 2.0, skip: 0.0}",
)


@pytest.mark.spark
def test_it_is_judged_by_its_lists_and_finds_more_than_popularity(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = tmp_path / "lake"
    shutil.copytree(demo_run.root, root)
    settings = demo_settings(root, demo_run.log, *SETTINGS)
    lines = {verb: run_verb(spark, verb, settings) for verb in ("train", "evaluate", "recommend")}
    assert [line["exit_code"] for line in lines.values()] == [DONE] * 3
    version = lines["train"]["model_version"]
    models = delta_io.read(spark, str(root / "main" / "models")).where(F.col("model_version") == version)
    assert {row["objective"] for row in models.collect()} == {"frobenius"}
    factors = delta_io.read(spark, str(root / "main" / "candidates" / version / "factors"))
    least = min(min(row["factor"]) for row in factors.select("factor").collect())
    assert least == 0
    judged: dict[tuple[str, str], Any] = {
        (row["name"], row["metric"]): row["value"]
        for row in delta_io.read(spark, str(root / "main" / "evaluation"))
        .where((F.col("model_version") == version) & F.col("slice").isNull())
        .collect()
    }
    assert judged["model", "ndcg@10"] > judged["popularity", "ndcg@10"]
    lists = delta_io.read(spark, str(root / "main" / "candidates" / version / "lists"))
    scores = np.array([row["score"] for row in lists.select("score").collect()])
    assert len(scores) and scores.min() >= 0


def test_settings_that_cannot_be_trained_name_the_way_out() -> None:
    with pytest.raises(ValidationError, match=r"nonnegative: true.*decompose --method svd"):
        TrainSettings(objective="frobenius")
    with pytest.raises(ValidationError, match="implicit needs a regularization greater than 0"):
        TrainSettings(regularization=0.0)
    assert TrainSettings(objective="frobenius", nonnegative=True, regularization=0.0).regularization == 0
