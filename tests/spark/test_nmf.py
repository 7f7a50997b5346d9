"""Non-negative factors of counts: every plan gives the bits of one machine, long rows and refused counts too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import DataRefusedError
from factorlake.kernels.row_solvers import SEGMENT
from factorlake.models.fit import fit_als
from factorlake.models.parameters import AlsParameters
from factorlake.models.trained import TrainedModel
from factorlake.spark.exchange import Exchange
from factorlake.spark.training import fit_pairs
from factorlake.types import PlanName
from tests.models.problems import FROBENIUS

pytestmark = pytest.mark.spark

PLANS: tuple[PlanName, ...] = ("local", "broadcast", "shuffle")


def bits(model: TrainedModel[Any]) -> tuple[bytes, bytes, list[float]]:
    return model.users.whole().tobytes(), model.items.whole().tobytes(), [row.loss for row in model.trace]


@pytest.fixture
def bits_of(
    spark: SparkSession, tmp_path: Path
) -> Callable[[DataFrame, AlsParameters, PlanName], tuple[bytes, bytes, list[float]]]:
    """Trains by a plan and returns the model as bytes."""

    def run(pairs: DataFrame, parameters: AlsParameters, plan: PlanName) -> tuple[bytes, bytes, list[float]]:
        fitted = fit_pairs(spark, pairs, parameters, workspace=str(tmp_path / "model"), plan=plan, threads=2)
        assert fitted.plan == plan
        told = bits(fitted.model)
        fitted.release()
        return told

    return run


def counts() -> list[tuple[str, str, float]]:
    """Words of documents; some pairs with 0, which say nothing."""
    rows = {(f"d{(n * 7919) % 211}", f"w{(n * 104729 + n // 7) % 83}"): float(n % 5) for n in range(4000)}
    return [(*pair, count) for pair, count in rows.items()]


def frame_of(spark: SparkSession, rows: list[tuple[str, str, float]]) -> DataFrame:
    return spark.createDataFrame(rows, "user_id string, item_id string, value double")


def test_every_plan_gives_the_bits_of_one_machine(
    spark: SparkSession, bits_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = counts()
    users, items, values = zip(*rows, strict=True)
    model = fit_als(users, items, np.array(values, np.float32), FROBENIUS).model
    assert model.user_factors.min() == 0 < model.user_factors.max()
    wanted = bits(model)
    pairs = frame_of(spark, rows)
    for partitions, plan in zip((3, 2, 5), PLANS, strict=True):
        assert bits_of(pairs.repartition(partitions), FROBENIUS, plan) == wanted, plan
    # As on a cluster whose workers do not see the table root.
    monkeypatch.setattr(Exchange, "_workers_see", lambda *_: False)
    assert bits_of(pairs, FROBENIUS, "broadcast") == wanted


def test_a_row_too_long_for_one_task_gives_the_same_bits_in_every_plan(spark: SparkSession, bits_of: Any) -> None:
    hot = spark.range(SEGMENT + 1000).select(F.col("id").alias("user_id"), F.lit(-1).alias("item_id"))
    few = spark.range(2000).select(F.col("id").alias("user_id"), F.expr("id % 7").alias("item_id"))
    pairs = hot.unionByName(few).withColumn("value", F.expr("CAST(1 + user_id % 3 AS DOUBLE)"))
    chosen = replace(FROBENIUS, rank=3, epochs=1)
    local, broadcast, shuffle = (bits_of(pairs, chosen, plan) for plan in PLANS)
    assert broadcast == local
    assert shuffle == local


@pytest.mark.parametrize("plan", PLANS)
def test_a_negative_count_is_refused_by_every_plan(spark: SparkSession, bits_of: Any, plan: PlanName) -> None:
    pairs = frame_of(spark, [*counts(), ("d1", "a word of its own", -1.0)])
    with pytest.raises(DataRefusedError, match="a rating is -1, and the objective frobenius takes amounts"):
        bits_of(pairs, FROBENIUS, plan)
