"""Neighbours from Spark: the bits of one machine, whatever the partitions, with ids for positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from sklearn.metrics.pairwise import cosine_similarity

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.models.blocks import order_ids
from factorlake.models.neighbours import (
    NeighbourRules,
    cosine_neighbours,
    predicted_neighbours,
    predicted_root,
    recommend_from_items,
    recommend_from_users,
)
from factorlake.spark.neighbours import (
    USERS_AT_ONCE,
    cosine_neighbours_frame,
    predicted_neighbours_frame,
    recommend_by_neighbours_frame,
)
from factorlake.types import Side
from tests.models.problems import problem_of

pytestmark = pytest.mark.spark

PAIRS = "user_id string, item_id string, value double"
FACTORS = "id string, factor array<float>, bias float"
Row = tuple[Any, ...]


def ranks(ids: list[str]) -> NDArray[np.int64]:
    rank = np.empty(len(ids), np.int64)
    rank[np.argsort(np.array(ids, dtype=object), kind="stable")] = np.arange(len(ids))
    return rank


def rows_of(lists: DataFrame) -> list[Row]:
    return [tuple(row) for row in lists.orderBy("id", "rank").collect()]


def told(
    ids: list[str], entries: NDArray[np.int32], *columns: NDArray, entry_ids: list[str] | None = None
) -> list[Row]:
    """The rows that the frame should have of lists by position."""
    row, rank = np.nonzero(entries >= 0)
    cells = zip(row, rank, *(column[row, rank].tolist() for column in (entries, *columns)), strict=True)
    of_entries = ids if entry_ids is None else entry_ids
    return sorted((ids[r], int(k) + 1, of_entries[near], *rest) for r, k, near, *rest in cells)


def cosine_rows(
    users: list[str], items: list[str], values: NDArray[np.float32], side: Side, rules: NeighbourRules
) -> list[Row]:
    """What one machine finds."""
    problem = problem_of(users, items, values)
    ids = order_ids(users if side == "user" else items)[0]
    blocks = problem.user_blocks if side == "user" else problem.item_blocks
    n_others = problem.n_items if side == "user" else problem.n_users
    lists = cosine_neighbours(blocks, n_others, rules, ranks(ids))
    return told(ids, lists.entries, lists.values, lists.support)


def recommended_rows(
    users: list[str],
    items: list[str],
    values: NDArray[np.float32],
    side: Side,
    rules: NeighbourRules,
    k: int,
    mean: bool = True,
) -> list[Row]:
    """What one machine recommends where at least two neighbours tell."""
    problem = problem_of(users, items, values)
    user_ids, item_ids = order_ids(users)[0], order_ids(items)[0]
    ties = ranks(item_ids)
    if side == "user":
        near = cosine_neighbours(problem.user_blocks, problem.n_items, rules, ranks(user_ids))
        offered = recommend_from_users(problem.user_blocks, problem.n_items, near, k, ties, mean=mean, min_support=2)
    else:
        near = cosine_neighbours(problem.item_blocks, problem.n_users, rules, ties)
        offered = recommend_from_items(problem.user_blocks, near, k, ties, mean=mean, min_support=2)
    return told(user_ids, offered.entries, offered.values, offered.support, entry_ids=item_ids)


def drawn(n_users: int, n_items: int, n_obs: int, seed: int) -> tuple[list[str], list[str], NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_users * n_items, n_obs, replace=False)
    values = rng.choice([-2, -1, 1, 2, 3], n_obs).astype(np.float32)
    return [f"ü{p // n_items}" for p in pairs], [f"i{p % n_items}" for p in pairs], values


@pytest.mark.parametrize(("side", "n_partitions"), [("user", 1), ("user", 5), ("item", 3)])
def test_similar_rows_have_the_bits_of_one_machine_whatever_the_partitions(
    spark: SparkSession, tmp_path: Path, side: Side, n_partitions: int
) -> None:
    users, items, values = drawn(60, 35, 500, seed=1)
    rules = NeighbourRules(7, min_support=2, shrinkage=1.5)
    wanted = cosine_rows(users, items, values, side, rules)
    assert len(wanted) > 200
    # A value of 0 says that nothing was observed.
    nothing: list[Row] = [("ü1", "nowhere", 0.0), ("nobody", "i2", 0.0)]
    cells = nothing + list(zip(users, items, values.tolist(), strict=True))
    order = np.random.default_rng(n_partitions).permutation(len(cells))
    pairs = spark.createDataFrame([cells[place] for place in order], PAIRS).repartition(n_partitions)
    found = cosine_neighbours_frame(spark, pairs, side, rules, str(tmp_path))
    assert rows_of(found) == wanted
    assert found.columns == ["id", "rank", "neighbour_id", "similarity", "support"]


@pytest.mark.parametrize(
    ("side", "mean", "rating"), [("user", True, "stars"), ("item", True, "stars"), ("item", False, "one")]
)
def test_recommendations_have_the_bits_of_one_machine(
    spark: SparkSession, tmp_path: Path, side: Side, mean: bool, rating: str
) -> None:
    users, items, drawn_values = drawn(70, 45, 600, seed=5)
    values = np.ones(600, np.float32) if rating == "one" else drawn_values
    rules = NeighbourRules(6)
    wanted = recommended_rows(users, items, values, side, rules, 8, mean)
    assert len(wanted) > 150
    pairs = spark.createDataFrame(list(zip(users, items, values.tolist(), strict=True)), PAIRS).repartition(3)
    found = recommend_by_neighbours_frame(spark, pairs, side, rules, 8, str(tmp_path), mean=mean, min_support=2)
    assert [tuple(one) for one in found.orderBy("user_id", "rank").collect()] == wanted
    assert found.columns == ["user_id", "rank", "item_id", "score", "support"]
    left = {path.name.partition("-")[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"ids", "offers"}


@dataclass(frozen=True)
class MovieLens:
    """Ratings on real data, as lists and as a frame."""

    users: list[str]
    items: list[str]
    values: NDArray[np.float32]
    pairs: DataFrame


@pytest.fixture(scope="module")
def movielens(spark: SparkSession, data_dir: Path) -> MovieLens:
    path = data_dir / "ml-100k" / "ratings.parquet"
    table = pd.read_parquet(path, columns=["user", "item", "rating"])
    users, items = table["user"].astype(str).tolist(), table["item"].astype(str).tolist()
    pairs = spark.read.parquet(str(path)).selectExpr("user as user_id", "item as item_id", "rating as value")
    return MovieLens(users, items, table["rating"].to_numpy(np.float32), pairs)


def test_neighbours_on_real_ratings_have_the_bits_of_one_machine(
    spark: SparkSession, tmp_path: Path, movielens: MovieLens
) -> None:
    rules = NeighbourRules(10, positive_only=True)
    wanted = cosine_rows(movielens.users, movielens.items, movielens.values, "item", rules)
    assert rows_of(cosine_neighbours_frame(spark, movielens.pairs, "item", rules, str(tmp_path))) == wanted


def test_recommendations_on_real_ratings_have_the_bits_of_one_machine(
    spark: SparkSession, tmp_path: Path, movielens: MovieLens
) -> None:
    # Blocks of more users than a task gathers neighbours for at once.
    wanted = recommended_rows(movielens.users, movielens.items, movielens.values, "user", NeighbourRules(15), 10)
    assert len(set(movielens.users)) > 8 * USERS_AT_ONCE
    found = recommend_by_neighbours_frame(
        spark, movielens.pairs, "user", NeighbourRules(15), 10, str(tmp_path), min_support=2
    )
    assert [tuple(one) for one in found.orderBy("user_id", "rank").collect()] == wanted


def test_pairs_without_values_are_ones_and_one_row_has_no_neighbours(spark: SparkSession, tmp_path: Path) -> None:
    pairs = spark.createDataFrame([("b", "x"), ("a", "x"), ("a", "y"), ("c", "z")], "user_id string, item_id string")
    lists = rows_of(cosine_neighbours_frame(spark, pairs, "user", NeighbourRules(5), str(tmp_path)))
    half = float(np.float32(np.sqrt(0.5)))
    assert lists == [("a", 1, "b", half, 1), ("b", 1, "a", half, 1)]
    alone = spark.createDataFrame([("a", "x"), ("a", "y")], "user_id string, item_id string")
    assert rows_of(cosine_neighbours_frame(spark, alone, "user", NeighbourRules(5), str(tmp_path))) == []


def test_only_ids_and_lists_stay_in_the_workspace(spark: SparkSession, tmp_path: Path) -> None:
    users, items, values = drawn(20, 10, 90, seed=2)
    pairs = spark.createDataFrame(list(zip(users, items, values.tolist(), strict=True)), PAIRS)
    cosine_neighbours_frame(spark, pairs, "item", NeighbourRules(3), str(tmp_path))
    left = {path.name.partition("-")[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"ids", "lists"}


def test_ratings_that_cannot_be_compared_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    rules = NeighbourRules(3)
    twice = spark.createDataFrame([("a", "x", 1.0), ("a", "x", 2.0)], PAIRS)
    with pytest.raises(DataRefusedError, match="more than once"):
        cosine_neighbours_frame(spark, twice, "user", rules, str(tmp_path))
    broken = spark.createDataFrame([("a", "x", 1.0), ("b", "x", float("nan"))], PAIRS)
    with pytest.raises(DataRefusedError, match="1 ratings cannot"):
        cosine_neighbours_frame(spark, broken, "user", rules, str(tmp_path))
    with pytest.raises(DataRefusedError, match="no rating is left"):
        cosine_neighbours_frame(spark, twice.where("value > 5"), "user", rules, str(tmp_path))


def test_a_workspace_that_workers_do_not_see_is_refused_with_the_way_out(spark: SparkSession) -> None:
    pairs = spark.createDataFrame([("a", "x", 1.0)], PAIRS)
    with pytest.raises(ConfigError, match="name a folder without a scheme"):
        cosine_neighbours_frame(spark, pairs, "user", NeighbourRules(3), "s3://bucket/workspace")
    factors = spark.createDataFrame([("a", [1.0], 0.0)], FACTORS)
    with pytest.raises(ConfigError, match="name a folder without a scheme"):
        predicted_neighbours_frame(spark, factors, factors, 3, "s3://bucket/workspace")


def factors(n: int, rank: int, seed: int, name: str, biased: bool) -> tuple[list[str], NDArray, NDArray, NDArray]:
    """(ids, factors, biases, hashes) in order of hashes."""
    rng = np.random.default_rng(seed)
    ids, hashes = order_ids([f"{name}{row}" for row in range(n)])
    biases = rng.standard_normal(n).astype(np.float32) if biased else np.zeros(n, np.float32)
    return ids, rng.standard_normal((n, rank)).astype(np.float32), biases, hashes


def frame_of(spark: SparkSession, ids: list[str], rows: NDArray, biases: NDArray) -> DataFrame:
    cells = list(zip(ids, rows.tolist(), biases.tolist(), strict=True))
    return spark.createDataFrame(cells[::-1], FACTORS)


@pytest.mark.parametrize(("biased", "mean", "n_partitions"), [(False, 0.0, 1), (True, 3.5, 4)])
def test_predicted_neighbours_have_the_bits_of_one_machine_and_the_cosines_of_the_predicted_matrix(
    spark: SparkSession, tmp_path: Path, biased: bool, mean: float, n_partitions: int
) -> None:
    ids, x, b_u, _ = factors(90, 4, 3, "u", biased)
    x[5] = 0
    others, y, b_i, hashes = factors(120, 4, 4, "i", biased)
    near, similarity = predicted_neighbours(x, predicted_root(y, hashes, b_i, biased), 6, ranks(ids), b_u, mean)
    wanted = told(ids, near, similarity)
    own = frame_of(spark, ids, x, b_u).repartition(n_partitions)
    lists = predicted_neighbours_frame(spark, own, frame_of(spark, others, y, b_i), 6, str(tmp_path), mean)
    assert rows_of(lists) == wanted
    assert len(wanted) == (90 if biased else 89) * 6
    p = x.astype(np.float64) @ y.T + b_u[:, None].astype(np.float64) + b_i + mean
    cosines = cosine_similarity(p)
    place = {one: row for row, one in enumerate(ids)}
    listed = np.array([cosines[place[one], place[other]] for one, _, other, _ in wanted])
    # Two directions rounded to float32, and the rounding of their product.
    assert np.allclose([row[3] for row in wanted], listed, rtol=0, atol=2.0**-22)


def test_predictions_from_nothing_give_no_lists(spark: SparkSession, tmp_path: Path) -> None:
    some = spark.createDataFrame([("a", [1.0], 0.0), ("b", [2.0], 0.0)], FACTORS)
    none = some.where("id > 'z'")
    assert rows_of(predicted_neighbours_frame(spark, none, some, 2, str(tmp_path))) == []
    assert rows_of(predicted_neighbours_frame(spark, some, none, 2, str(tmp_path))) == []
    assert rows_of(predicted_neighbours_frame(spark, some, some, 2, str(tmp_path))) == [
        ("a", 1, "b", 1.0),
        ("b", 1, "a", 1.0),
    ]


def test_factors_that_predict_nothing_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    good = spark.createDataFrame([("a", [1.0, 2.0], 0.0), ("b", [1.0, 1.0], None)], FACTORS)
    cases: list[tuple[list[Row], type[Exception], str]] = [
        ([("a", [1.0, float("inf")], 0.0)], NumericalError, "1 rows of the factors of the side asked for"),
        ([("a", None, 0.0), ("b", [1.0, None], 0.0)], NumericalError, "2 rows"),
        ([("a", [1.0, 2.0], 0.0), ("b", [1.0], 0.0)], DataRefusedError, "from 1 to 2 numbers"),
        ([("a", [1.0], 0.0)], DataRefusedError, "rank 1 and 2"),
        ([("a", [1.0, 2.0], 0.0), ("a", [1.0, 2.0], 0.0)], DataRefusedError, "stand twice"),
    ]
    for rows, error, message in cases:
        with pytest.raises(error, match=message):
            predicted_neighbours_frame(spark, spark.createDataFrame(rows, FACTORS), good, 2, str(tmp_path))
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        predicted_neighbours_frame(spark, good, good, 0, str(tmp_path))
