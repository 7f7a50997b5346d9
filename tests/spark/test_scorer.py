"""Lists from Spark: exact, without what a user has seen, an answer for those the model does not know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.spark.exchange import Exchange
from factorlake.spark.item_side import load_items
from factorlake.spark.scorer import score_similar, score_top_k

pytestmark = pytest.mark.spark

FACTORS = "id string, factor array<float>, bias float, n_observed bigint"
K = 4


def test_lists_are_the_best_allowed_unseen_items_in_any_grouping(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    items = {f"item{n}": rng.integers(-8, 8, 3).astype(float) for n in range(30)}
    users = {f"user{n}": rng.integers(-8, 8, 3).astype(float) for n in range(25)}
    users["stranger"] = np.zeros(3)
    counts = {item: 100 - n // 2 for n, item in enumerate(items)}
    seen = {(user, f"item{n}") for n, user in enumerate(users)} | {("stranger", "item0")}
    barred = {"item1", "item5"}

    item_frame = spark.createDataFrame([(i, v.tolist(), 0.0, counts[i]) for i, v in items.items()], FACTORS)
    user_frame = spark.createDataFrame(
        [(u, v.tolist(), 0.0) for u, v in users.items()], "user_id string, factor array<float>, bias float"
    )
    repeated = [
        *sorted(seen),
        *sorted(seen)[:5],
        ("user1", "gone"),
        ("nobody", "item3"),
        ("user2", None),
        (None, "item4"),
    ]
    seen_frame = spark.createDataFrame(repeated, "user_id string, item_id string").repartition(3)
    unavailable = spark.createDataFrame([(item,) for item in barred], "id string")

    found = []
    with Exchange(spark, str(tmp_path / "exchange")) as exchange:
        loaded = load_items(item_frame, exchange, 0.0, unavailable)
        for n_blocks in (1, 8):
            lists = score_top_k(user_frame, seen_frame, loaded.shipped, K, n_blocks).orderBy("user_id", "rank")
            found.append([tuple(row) for row in lists.select("user_id", "item_id", "score", "source").collect()])
    assert found[0] == found[1]

    wanted = []
    for user in sorted(users):
        left = [item for item in items if item not in barred and (user, item) not in seen]
        known = bool(users[user].any())
        # Whole numbers: every score is exact in float32, so equality needs no tolerance.
        score = {item: float(users[user] @ items[item]) if known else float(counts[item]) for item in left}
        best = sorted(left, key=lambda item: (-score[item], item.encode()))[:K]
        wanted += [(user, item, score[item], "model" if known else "popularity") for item in best]
    assert found[0] == wanted


def test_similar_items_are_those_at_the_smallest_angle_that_may_be_listed(spark: SparkSession, tmp_path: Path) -> None:
    # Axes and one diagonal: the cosines are 0, 1 and √½.
    items = {"a": [2.0, 0.0], "b": [3.0, 3.0], "c": [0.0, 5.0], "d": [0.0, 0.5], "none": [0.0, 0.0]}
    frame = spark.createDataFrame([(i, v, 0.0, 1) for i, v in items.items()], FACTORS)
    barred = spark.createDataFrame([("d",)], "id string")
    with Exchange(spark, str(tmp_path / "exchange")) as exchange:
        loaded = load_items(frame, exchange, 0.0, barred)
        lists = score_similar(loaded.shipped, loaded.frame, 2).orderBy("item_id", "rank").collect()
    assert [(row["item_id"], row["rank"], row["similar_item_id"]) for row in lists] == [
        ("a", 1, "b"),
        ("a", 2, "c"),
        ("b", 1, "a"),
        ("b", 2, "c"),
        ("c", 1, "b"),
        ("c", 2, "a"),
        ("d", 1, "c"),
        ("d", 2, "b"),
    ]
    half = float(np.sqrt(0.5))
    # One rounding of each factor and one of the sum.
    assert np.allclose([row["score"] for row in lists], [half, 0, half, half, half, 0, 1, half], atol=2**-22)


def test_the_exchange_leaves_nothing_behind(spark: SparkSession, tmp_path: Path) -> None:
    folder = tmp_path / "exchange"
    with Exchange(spark, str(folder)) as exchange:
        assert exchange.by_file
        handle = exchange.ship(np.arange(5.0))
        total = spark.range(1).mapInArrow(
            lambda batches: (type(batch).from_pydict({"total": [float(handle.load().sum())]}) for batch in batches),
            "total double",
        )
        assert total.agg(F.sum("total")).collect()[0][0] == 10.0
    assert not folder.exists()
