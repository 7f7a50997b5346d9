"""Metrics from Spark frames: those of dictionaries and loops, and of frames in memory to the last bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.intervals import mean_interval
from factorlake.evaluation.list_rows import metric_names
from factorlake.metrics import compare_rankings, ranking_table, rating_table
from factorlake.spark.compat import keep, release
from factorlake.spark.ranking import EVERYONE, count_known, count_listed, metric_intervals, per_user_metrics
from tests.reference import ranking as reference

pytestmark = pytest.mark.spark

# Figures of one user come from the same functions on the same whole numbers: not a bit differs. Their mean is summed by
# groups of users here and over all users there; each of some hundred additions of numbers of order 1 may be off by
# 2⁻⁵³, in the spread as well, whose root is taken.
ROUNDING = 1e-12
K = 4
NAMES = metric_names(K, True)


def drawn(seed: int, n: int, n_users: int = 40, n_items: int = 25) -> list[tuple[str, str]]:
    """Distinct pairs of text ids, popular items more often. One id is not ASCII: text goes by bytes everywhere."""
    rng = np.random.default_rng(seed)
    users = rng.integers(0, n_users, n)
    items = (n_items * rng.random(n) ** 2).astype(int)
    return sorted({(f"user{u}", "ü" if i == 3 else f"item{i}") for u, i in zip(users, items, strict=True)})


HELD = drawn(1, 150)
KNOWN = [pair for pair in drawn(2, 300) if not pair[0].endswith("7")]
LISTS = {name: drawn(seed, 260, n_users=45) for name, seed in (("a", 3), ("b", 4))}
# Four distinct scores: ties everywhere.
SCORES = {
    name: [(*pair, float(score)) for pair, score in zip(rows, np.arange(len(rows)) * 7 % 4, strict=True)]
    for name, rows in LISTS.items()
}
PAIR = "user_id string, item_id string"


def frame(rows: Any, *columns: str) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["user_id", "item_id", *columns])


@pytest.fixture(scope="module")
def frames(spark: SparkSession) -> dict[str, DataFrame]:
    known = spark.createDataFrame([*KNOWN, *KNOWN[:20]], PAIR)
    return {
        "held": spark.createDataFrame(HELD, PAIR).repartition(3),
        "known": known.repartition(4),
        **{name: spark.createDataFrame(rows, f"{PAIR}, score double").repartition(2) for name, rows in SCORES.items()},
    }


def rows_of(per_user: DataFrame) -> dict[str, dict[str, Any]]:
    return {row["user_id"]: {name: row[name] for name in per_user.columns[1:]} for row in per_user.collect()}


def test_figures_of_each_user_equal_loops_in_any_grouping(frames: dict[str, DataFrame]) -> None:
    counted = count_known(frames["known"])
    found = [rows_of(per_user_metrics(frames["a"], frames["held"], K, counted, n_groups)) for n_groups in (1, 16)]
    # No tolerance: groups and partitions decide nothing.
    assert found[0] == found[1]
    counted.release()

    held_out, known = reference.by_user(HELD), reference.by_user(KNOWN)
    wanted = reference.judge(reference.lists_of(SCORES["a"], by_rank=False), held_out, known, K)
    assert found[0].keys() == wanted.keys()
    for user, figures in wanted.items():
        own = found[0][user]
        assert own["n_truth"] == len(held_out[user] - known.get(user, set()))
        assert own["n_known"] == len(known.get(user, ()))
        for name in NAMES:
            assert own[name] == (pytest.approx(figures[name], abs=ROUNDING) if name in figures else None), name


def test_intervals_are_those_of_the_collected_figures(frames: dict[str, DataFrame]) -> None:
    labels = F.when(F.col("n_truth") > 3, "many").when(F.col("n_truth") > 2, "some")
    counted = count_known(frames["known"])
    per_user = keep(per_user_metrics(frames["b"], frames["held"], K, counted, 8).withColumn("label", labels))
    collected = per_user.toPandas()
    for chosen, parts in (
        ([], {EVERYONE: collected}),
        (["label"], dict(list(collected.groupby("label")))),
    ):
        found = metric_intervals(per_user, NAMES, chosen)
        assert found == metric_intervals(per_user.repartition(5), NAMES, chosen)
        assert {label for label, _ in found} == set(parts)
        for (label, name), interval in found.items():
            alone = mean_interval(parts[label][name].dropna())
            numbers = (alone.value, alone.lower, alone.upper)
            assert (interval.value, interval.lower, interval.upper) == pytest.approx(numbers, abs=ROUNDING)
            assert interval.n == alone.n
    release(per_user)
    counted.release()


def test_coverage_counts_what_judged_users_are_shown(frames: dict[str, DataFrame]) -> None:
    counted = count_known(frames["known"])
    users = frames["held"].where(F.col("user_id") < "user3")
    catalogue = frames["known"].select("item_id")
    found = count_listed(frames["a"], users, K, catalogue, counted)
    counted.release()
    known = reference.by_user(KNOWN)
    items = {item for _, item in KNOWN}
    shown = set()
    for user, listed in reference.lists_of(SCORES["a"], by_rank=False).items():
        if user in {user for user, _ in HELD if user < "user3"}:
            shown |= set([item for item in listed if item not in known.get(user, set())][:K])
    assert found == (len(shown & items), len(items))


SEGMENTS = frame([(f"user{u}", None, "gold" if u % 3 else "tin", u % 2 == 0) for u in range(30)], "segment", "new")
SEGMENTS = SEGMENTS.drop(columns="item_id")
CATEGORIES = pd.DataFrame({"item_id": [f"item{i}" for i in range(20)], "shelf": np.arange(20) % 2})


@pytest.mark.parametrize(
    ("with_known", "slices"),
    [(True, "activity"), (True, SEGMENTS), (False, SEGMENTS), (True, CATEGORIES)],
    ids=["activity", "segments", "segments of all", "categories"],
)
def test_tables_are_those_of_frames_in_memory(
    frames: dict[str, DataFrame], with_known: bool, slices: pd.DataFrame | str | None
) -> None:
    lists = {name: frame(rows, "score") for name, rows in SCORES.items()}
    known = frame(KNOWN) if with_known else None
    wanted = compare_rankings(lists, frame(HELD), K, known, slices)
    # One list comes from memory: it is taken to Spark.
    found = compare_rankings(
        {"a": frames["a"], "b": lists["b"]}, frames["held"], K, frames["known"] if with_known else None, slices
    )
    pd.testing.assert_frame_equal(found, wanted, check_exact=False, rtol=ROUNDING, atol=1e-7)
    value = found["value"].to_numpy() - wanted["value"].to_numpy()
    # Ends come from a root, whose error near 0 is the root of that of the spread; values do not.
    assert np.abs(value).max() < ROUNDING


def test_ranks_and_whole_numbers_of_any_width_are_ids(spark: SparkSession) -> None:
    lists = spark.createDataFrame([(1, 10, 1), (1, 11, 2), (2, 11, 1)], "user_id int, item_id smallint, rank int")
    held = spark.createDataFrame([(1, 11), (2, 12), (3, 10)], "user_id bigint, item_id int")
    table = ranking_table(lists, held, 2).set_index("metric")
    assert table.loc["mrr@2", "value"] == pytest.approx(0.5 / 3, abs=ROUNDING)
    assert table.loc["hit@2", "n"] == 3


def test_rating_errors_are_those_of_frames_in_memory(spark: SparkSession) -> None:
    rng = np.random.default_rng(5)
    actual = frame(HELD).assign(rating=rng.integers(1, 6, len(HELD)).astype(float))
    predicted = frame(HELD[::-1]).assign(prediction=rng.normal(3, 1, len(HELD)))
    predicted.loc[::9, "prediction"] = math.nan
    predicted = predicted.iloc[5:]
    wanted = rating_table(predicted, actual)
    found = rating_table(spark.createDataFrame(predicted), spark.createDataFrame(actual).repartition(3))
    pd.testing.assert_frame_equal(found, wanted, check_exact=False, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([("u", "i", 0)], "rank int", "1, 2, 3 ... without gaps"),
        ([("u", "i", 1), ("u", "i", 2)], "rank int", "1 pairs of user and item stand"),
        ([("u", "i", None)], "score double", "1 recommendations have a score that is null"),
        ([("u", None, 1)], "rank int", "a user_id or item_id is null"),
        ([("u", "i", "1")], "rank string", "rank is string; it must be a number"),
        ([("u", "i", 1)], "place int", "no column rank or score; the frame has user_id, item_id, place"),
    ],
)
def test_lists_that_cannot_be_judged_are_refused_as_in_memory(
    spark: SparkSession, rows: list[tuple[Any, ...]], kind: str, message: str
) -> None:
    lists = spark.createDataFrame(rows, f"{PAIR}, {kind}")
    with pytest.raises(DataRefusedError, match=message):
        ranking_table(lists, spark.createDataFrame([("u", "i")], PAIR))


def test_of_several_lists_the_one_at_fault_is_named(spark: SparkSession) -> None:
    good = spark.createDataFrame([("u", "i", 1)], f"{PAIR}, rank int")
    with pytest.raises(DataRefusedError, match="bad: the ranks of each user"):
        compare_rankings({"good": good, "bad": good.withColumn("rank", F.lit(7))}, good.select("user_id", "item_id"))


def test_other_frames_are_refused_as_in_memory(spark: SparkSession) -> None:
    lists = spark.createDataFrame([("u", "i", 1)], f"{PAIR}, rank int")
    held = spark.createDataFrame([("u", "i")], PAIR)
    with pytest.raises(DataRefusedError, match="user_id is string in the recommendations and bigint in the held-out"):
        ranking_table(lists, spark.createDataFrame([(1, "i")], "user_id int, item_id string"))
    with pytest.raises(DataRefusedError, match="1 held-out pairs"):
        ranking_table(lists, held.union(held))
    with pytest.raises(DataRefusedError, match="null in the known pairs"):
        ranking_table(lists, held, known=spark.createDataFrame([(None, "i")], PAIR))
    with pytest.raises(DataRefusedError, match="no user has a held-out pair"):
        ranking_table(lists, held, known=held)
    with pytest.raises(DataRefusedError, match="item_id is string in the held-out pairs and bigint in the slices"):
        ranking_table(lists, held, slices=pd.DataFrame({"item_id": [1], "label": ["a"]}))
    with pytest.raises(DataRefusedError, match="twice in the ratings or the predictions"):
        rating_table(held.union(held).withColumn("prediction", F.lit(1.0)), held.withColumn("rating", F.lit(1.0)))
    with pytest.raises(ConfigError, match="power of two"):
        per_user_metrics(lists, held, 3, n_groups=6)
    with pytest.raises(ConfigError, match="k must be"):
        per_user_metrics(lists, held, 0)
    # Other faults of a query stay what they are.
    broken = held.withColumn("item_id", F.raise_error(F.lit("elsewhere")).cast("string"))
    with pytest.raises((PySparkException, DataRefusedError), match="elsewhere"):
        ranking_table(lists, broken)


def test_nobody_known_and_nothing_listed_is_worth_nothing(spark: SparkSession) -> None:
    held = spark.createDataFrame([("u", "i"), ("v", "i")], PAIR)
    nothing = spark.createDataFrame([], f"{PAIR}, rank int")
    empty = spark.createDataFrame([], PAIR)
    found = rows_of(per_user_metrics(nothing, held, 2, empty))
    assert {row["ndcg@2"] for row in found.values()} == {0.0}
    assert {row["novelty@2"] for row in found.values()} == {None}
    table = ranking_table(nothing, held, 2, empty)
    wanted = ranking_table(frame([], "rank"), frame([("u", "i"), ("v", "i")]), 2, frame([]))
    pd.testing.assert_frame_equal(table, wanted, check_exact=True)
