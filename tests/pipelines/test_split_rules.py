"""The splits by columns hold out the same events as the splits on arrays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.evaluation.splits import HashedIds, hash_split, last_n_out, per_user_fold, per_user_split, time_split
from factorlake.pipelines.holdout import fold_by_user, split_events

START = datetime(2025, 3, 3, tzinfo=UTC)
SEED = 11


def order_of(hashes: pd.Series, ids: pd.Series) -> np.ndarray:
    """Position of each row's id in the order by (signed hash, id)."""
    table = pd.DataFrame({"hash": hashes, "id": ids}).drop_duplicates().sort_values(["hash", "id"])
    return pd.Index(table["id"]).get_indexer(ids)


def ids_of(rows: pd.DataFrame) -> tuple[HashedIds, HashedIds]:
    """Users and items of events."""
    users, items = (
        HashedIds(order_of(rows[f"{side}_hash"], rows[f"{side}_id"]), rows[f"{side}_hash"].to_numpy())
        for side in ("user", "item")
    )
    return users, items


def drawn_events(spark: SparkSession) -> DataFrame:
    rng = np.random.default_rng(SEED)
    n = 400
    events = pd.DataFrame(
        {
            "number": np.arange(n),
            "user_id": [f"ü{user}" for user in rng.integers(0, 40, n)],
            "item_id": [f"item {item}" for item in rng.integers(0, 30, n)],
            # Few distinct times, so that ties have to be broken.
            "event_time": [START + timedelta(hours=int(hour)) for hour in rng.integers(0, 12, n)],
        }
    )
    return spark.createDataFrame(events).withColumns(
        {
            "user_hash": F.xxhash64("user_id"),
            "item_hash": F.xxhash64("item_id"),
            "micros": F.unix_micros("event_time"),
        }
    )


@pytest.mark.spark
@pytest.mark.parametrize("split", ["time", "last_1", "last_3", "last_99", "hash", "per_user"])
def test_columns_and_arrays_hold_out_the_same_events(spark: SparkSession, split: str) -> None:
    cutoff = START + timedelta(hours=8)
    frame = drawn_events(spark)
    rule, last_n = ("last_n", int(split[5:])) if split.startswith("last_") else (split, 1)
    known, held = split_events(frame, rule, cutoff, 0.3, SEED, last_n)
    by_columns = {row["number"] for row in held.select("number").collect()}
    assert by_columns.isdisjoint(row["number"] for row in known.select("number").collect())

    rows = frame.toPandas().sort_values("number")
    users, items = ids_of(rows)
    by_arrays = {
        "time": lambda: time_split(rows["micros"].to_numpy(), int(cutoff.timestamp() * 1_000_000)),
        "last_n": lambda: last_n_out(users.positions, items.positions, rows["micros"].to_numpy(), last_n),
        "hash": lambda: hash_split(users.hashes, items.hashes, 0.3, SEED),
        "per_user": lambda: per_user_split(users, items, 0.3, SEED),
    }[rule]()
    assert by_columns == set(np.flatnonzero(by_arrays).tolist())
    assert 0 < len(by_columns) < len(rows)


@pytest.mark.spark
def test_folds_by_user_are_the_same_by_columns_and_by_arrays(spark: SparkSession) -> None:
    frame = drawn_events(spark)
    rows = frame.toPandas().sort_values("number")
    users, items = ids_of(rows)
    for number in range(3):
        known, held = fold_by_user(frame, SEED, number, 3)
        by_columns = {row["number"] for row in held.select("number").collect()}
        assert by_columns == set(np.flatnonzero(per_user_fold(users, items, number, 3, SEED)).tolist())
        assert by_columns | {row["number"] for row in known.select("number").collect()} == set(range(len(rows)))
