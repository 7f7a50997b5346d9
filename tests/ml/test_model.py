"""Predictions and lists beside pyspark.ml's model with the very same factors, and beside plain NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.evaluation import RegressionEvaluator
from pyspark.ml.recommendation import ALSModel as SparkALSModel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.ml import ALS, ALSModel
from factorlake.ml import lists as ml_lists
from tests.ml.objectives import SETTINGS, matrices

pytestmark = pytest.mark.spark

PAIRS = "user int, item int, note string"
K = 5
# Spark sums products in float32: six of them, of numbers below 6, are off by a few times 6e-8 of that.
SPARKS_ROUNDING = 5e-6


@pytest.fixture(scope="module")
def taken(theirs: Any) -> ALSModel:
    return ALSModel.from_spark(theirs)


@pytest.fixture(scope="module")
def pairs(spark: SparkSession) -> DataFrame:
    """Known pairs, pairs with a stranger on one side or both, and one pair twice."""
    rows = [(user, item, "known") for user in (1, 7, 943) for item in (1, 50, 300)]
    rows += [(1, 50, "again"), (5000, 1, "user"), (1, 5000, "item"), (5000, 5000, "both")]
    return spark.createDataFrame(rows, PAIRS)


def predictions(frame: DataFrame) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in frame.collect())


def test_a_model_of_pyspark_predicts_the_same_here(taken: ALSModel, theirs: Any, pairs: DataFrame) -> None:
    mine, spark = taken.transform(pairs), theirs.transform(pairs)
    assert mine.schema == spark.schema
    found, wanted = predictions(mine), predictions(spark)
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    assert len(found) == pairs.count()
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in wanted], atol=SPARKS_ROUNDING)
    assert {row[2] for row in found if np.isnan(row[3])} == {"user", "item", "both"}


def test_cold_pairs_are_dropped_where_the_strategy_says_so(taken: ALSModel, theirs: Any, pairs: DataFrame) -> None:
    drop = {taken.coldStartStrategy: "DROP"}
    mine = taken.transform(pairs, drop)
    spark = theirs.copy({theirs.coldStartStrategy: "drop"}).transform(pairs)
    assert mine.schema == spark.schema
    assert [row[:3] for row in predictions(mine)] == [row[:3] for row in predictions(spark)]
    assert taken.getColdStartStrategy() == "nan"


def test_a_prediction_is_the_rounded_product(ours: ALSModel, table: pd.DataFrame, ratings: DataFrame) -> None:
    x, y = (frame.toPandas().set_index("id")["features"] for frame in (ours.userFactors, ours.itemFactors))
    predicted = ours.transform(ratings).toPandas()
    assert len(predicted) == len(table)
    left, right = np.stack(x[predicted["user"]].to_list()), np.stack(y[predicted["item"]].to_list())
    wanted = np.array([np.dot(a.astype(float), b.astype(float)) for a, b in zip(left, right, strict=True)], np.float32)
    # Two float64 sums of six products, in another order, may round to neighbouring float32 numbers.
    np.testing.assert_array_almost_equal_nulp(predicted["prediction"].to_numpy(), wanted, nulp=1)


def test_ids_of_other_types_become_ints_and_bad_ones_fail_as_in_pyspark(
    spark: SparkSession, taken: ALSModel, theirs: Any
) -> None:
    wide = spark.sql("SELECT 1L AS user, 50D AS item")
    assert taken.transform(wide).schema == theirs.transform(wide).schema
    for text in ("3000000000 AS user, 1 AS item", "1 AS user, 1.5D AS item", "CAST(NULL AS INT) AS user, 1 AS item"):
        for model in (taken, theirs):
            with pytest.raises(Exception, match=r"Integer range|MUST NOT be Null|CAST_OVERFLOW"):
                model.transform(spark.sql(f"SELECT {text}")).collect()
    with pytest.raises(DataRefusedError, match="column 'item' is not in the frame"):
        taken.transform(wide.select("user"))
    with pytest.raises(ConfigError, match="prediction already exists"):
        taken.transform(wide.withColumn("prediction", F.lit(0)))


def test_numbers_find_the_text_ids_they_are_and_text_finds_no_numbers(small: DataFrame, taken: ALSModel) -> None:
    als = ALS(rank=2, maxIter=1)
    text = small.select(F.col("user").cast("string"), F.col("item").cast("string"), "rating")
    of_text, of_numbers = als.fit(text), als.fit(small)
    some = small.where("user < 30").select("user", "item")
    assert predictions(of_text.transform(some)) == predictions(of_numbers.transform(some))
    assert of_text.recommendForUserSubset(some, 3).count() == some.select("user").distinct().count()
    for call in (of_numbers.transform, lambda frame: of_numbers.recommendForUserSubset(frame, 3)):
        with pytest.raises(DataRefusedError, match="column 'user' is text"):
            call(text)


def test_columns_of_any_name_stay_as_they_are(spark: SparkSession, taken: ALSModel) -> None:
    frame = spark.sql("SELECT 1 AS `the.user`, 50 AS `an item`, 3 AS id, array(1.0) AS features, 2 AS bias")
    model = taken.copy().setUserCol("the.user").setItemCol("an item").setPredictionCol("p.q")
    row = model.transform(frame).collect()[0]
    assert row.asDict() | {"p.q": None} == frame.collect()[0].asDict() | {"p.q": None}
    assert row["p.q"] == taken.transform(spark.sql("SELECT 1 AS user, 50 AS item")).collect()[0]["prediction"]


def test_the_evaluator_of_pyspark_reads_the_predictions(
    ours: ALSModel, table: pd.DataFrame, ratings: DataFrame
) -> None:
    evaluator = RegressionEvaluator(metricName="rmse", labelCol="rating", predictionCol="prediction")
    errors = matrices(table, ours)
    wanted = np.sqrt(((errors.ratings - errors.scores)[errors.ratings != 0] ** 2).mean())
    # Predictions are rounded to float32.
    assert evaluator.evaluate(ours.transform(ratings)) == pytest.approx(wanted, rel=1e-6)


def lists(frame: DataFrame, own: str, other: str) -> dict[int, list[tuple[int, float]]]:
    return {row[own]: [(one[other], one["rating"]) for one in row["recommendations"]] for row in frame.collect()}


@pytest.mark.parametrize("side", ["user", "item"])
def test_lists_are_those_of_pyspark(taken: ALSModel, theirs: Any, side: str) -> None:
    call = "recommendForAllUsers" if side == "user" else "recommendForAllItems"
    other = "item" if side == "user" else "user"
    mine, spark = getattr(taken, call)(K), getattr(theirs, call)(K)
    assert mine.schema == spark.schema
    found, wanted = lists(mine, side, other), lists(spark, side, other)
    assert found.keys() == wanted.keys()
    for one, row in found.items():
        np.testing.assert_allclose(
            [score for _, score in row], [score for _, score in wanted[one]], atol=SPARKS_ROUNDING
        )
        # Scores that differ by less than Spark's rounding may stand in either order, also at the end of the list.
        for (mine_id, score), (spark_id, _) in zip(row, wanted[one], strict=True):
            ties = [n for n, other_score in [*row, *wanted[one]] if abs(other_score - score) <= 2 * SPARKS_ROUNDING]
            assert mine_id == spark_id or spark_id in ties


def test_a_subset_gets_the_lists_it_has_among_all(spark: SparkSession, taken: ALSModel, theirs: Any) -> None:
    users = spark.createDataFrame([(3,), (1,), (3,), (5000,)], "user bigint")
    items = spark.createDataFrame([(50,), (50,), (1,)], "item int")
    for call, subset, own, other in (
        ("recommendForUserSubset", users, "user", "item"),
        ("recommendForItemSubset", items, "item", "user"),
    ):
        found = lists(getattr(taken, call)(subset, K), own, other)
        everything = lists(getattr(taken, call.replace("Subset", "").replace("For", "ForAll") + "s")(K), own, other)
        assert found == {one: everything[one] for one in found}
        assert getattr(taken, call)(subset, K).schema == getattr(theirs, call)(subset, K).schema
        assert found.keys() == lists(getattr(theirs, call)(subset, K), own, other).keys()
        assert getattr(taken, call)(subset, K).count() == len(found) == 2


def test_rows_of_a_subset_that_can_be_no_id_are_left_out_as_in_pyspark(
    spark: SparkSession, taken: ALSModel, theirs: Any
) -> None:
    users = spark.sql("SELECT * FROM VALUES (1D), (1.5D), (3000000000D), (CAST(NULL AS DOUBLE)) AS t(user)")
    mine, wanted = (lists(model.recommendForUserSubset(users, K), "user", "item") for model in (taken, theirs))
    assert mine.keys() == wanted.keys() == {1}


def test_lists_of_every_item_are_made_a_few_users_at_a_time(taken: ALSModel, monkeypatch: pytest.MonkeyPatch) -> None:
    some, everything = taken.recommendForAllUsers(K), lists(taken.recommendForAllUsers(10**9), "user", "item")
    monkeypatch.setattr(ml_lists, "ENTRIES_AT_ONCE", 7 * K)
    in_slices = lists(taken.recommendForAllUsers(K), "user", "item")
    assert in_slices == lists(some, "user", "item")
    assert in_slices == {user: row[:K] for user, row in everything.items()}
    assert {len(row) for row in everything.values()} == {taken.itemFactors.count()}


def test_a_column_whose_name_differs_by_case_only_stays(spark: SparkSession, taken: ALSModel) -> None:
    frame = spark.sql("SELECT 1 AS user, 50 AS item, 'theirs' AS Prediction")
    predicted = taken.transform(frame)
    assert predicted.columns == ["user", "item", "Prediction", "prediction"]
    assert predicted.toArrow()["Prediction"].to_pylist() == ["theirs"]


def test_ties_go_by_id_and_short_sides_give_short_lists(spark: SparkSession, tmp_path: Path) -> None:
    flat = spark.createDataFrame([(n, [1.0]) for n in (30, 4, 100)], "id int, features array<float>")
    flat.write.parquet(str(tmp_path / "model/userFactors"))
    flat.write.parquet(str(tmp_path / "model/itemFactors"))
    metadata = (
        '{"class":"org.apache.spark.ml.recommendation.ALSModel","timestamp":0,"sparkVersion":"4.1.0","uid":"als_1",'
        '"paramMap":{},"defaultParamMap":{"userCol":"user"},"rank":1}'
    )
    spark.createDataFrame([(metadata,)], "value string").write.text(str(tmp_path / "model/metadata"))
    model = ALSModel.from_spark(str(tmp_path / "model"))
    assert lists(model.recommendForAllUsers(7), "user", "item")[30] == [(4, 1.0), (30, 1.0), (100, 1.0)]
    with pytest.raises(ConfigError, match="at least 1"):
        model.recommendForAllUsers(0)


@pytest.mark.parametrize("as_text", [False, True])
def test_the_seen_filter_leaves_out_what_the_model_was_trained_on(
    small: DataFrame, table: pd.DataFrame, tmp_path: Path, as_text: bool
) -> None:
    cast = "string" if as_text else "int"
    few = small.where("user % 100 = 0 AND item < 200")
    frame = few.select(F.col("user").cast(cast), F.col("item").cast(cast), "rating")
    fitted = ALS(rank=3, maxIter=2, seenFilter=True).fit(frame)
    fitted.save(str(tmp_path / "model"))
    known = table[(table["user"] % 100 == 0) & (table["item"] < 200)]
    seen = set(zip(known["user"], known["item"], strict=True))
    n_items, n_users = known["item"].nunique(), known["user"].nunique()
    for model in (fitted, ALSModel.load(str(tmp_path / "model"))):
        for call, own, n_other, of_pair in (
            ("recommendForAllUsers", "user", n_items, lambda a, b: (a, b)),
            ("recommendForAllItems", "item", n_users, lambda a, b: (b, a)),
        ):
            other = "item" if own == "user" else "user"
            found = lists(getattr(model, call)(2000), own, other)
            listed = [of_pair(int(one), int(two)) for one, row in found.items() for two, _ in row]
            assert not seen & set(listed)
            # Nothing else is left out: seen and listed together are all pairs.
            assert len(listed) + len(seen) == n_items * n_users == len(found) * n_other
    with_all = fitted.copy({fitted.seenFilter: False}).recommendForAllUsers(2000)
    assert with_all.select(F.sum(F.size("recommendations"))).collect()[0][0] == n_items * n_users


def test_a_seen_filter_without_the_pairs_is_refused(taken: ALSModel) -> None:
    with pytest.raises(ConfigError, match="fit it again with seenFilter=True"):
        taken.copy().setSeenFilter(True).recommendForAllUsers(3)


def test_a_saved_model_of_pyspark_is_taken_over(theirs: Any, pairs: DataFrame, tmp_path: Path) -> None:
    theirs.copy({theirs.predictionCol: "p"}).write().overwrite().save(str(tmp_path / "theirs"))
    model = ALSModel.from_spark(str(tmp_path / "theirs"))
    assert (model.rank, model.getPredictionCol(), model.uid) == (theirs.rank, "p", theirs.uid)
    direct = ALSModel.from_spark(theirs)
    found, wanted = predictions(model.transform(pairs)), predictions(direct.transform(pairs))
    np.testing.assert_array_equal([row[3] for row in found], [row[3] for row in wanted])
    with pytest.raises(DataRefusedError, match="not one of"):
        ALSModel.load(str(tmp_path / "theirs"))


@pytest.mark.parametrize("biases", [False, True])
def test_the_way_back_gives_a_model_of_pyspark_that_predicts_the_same(
    small: DataFrame, pairs: DataFrame, tmp_path: Path, biases: bool
) -> None:
    model = ALS(rank=3, maxIter=2, biases=biases, coldStartStrategy="drop").setPredictionCol("p").fit(small)
    model.to_spark(str(tmp_path / "back"))
    back = SparkALSModel.load(str(tmp_path / "back"))
    assert (back.rank, back.getPredictionCol(), back.getColdStartStrategy()) == (5 if biases else 3, "p", "drop")
    found, wanted = predictions(back.transform(pairs)), predictions(model.transform(pairs))
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in wanted], atol=SPARKS_ROUNDING)
    text = ALS(rank=2, maxIter=1).fit(small.withColumn("item", F.col("item").cast("string")))
    with pytest.raises(ConfigError, match="item ids are of type string"):
        text.to_spark(str(tmp_path / "text"))


def test_a_model_tells_its_rank_and_factors(ours: ALSModel, theirs: Any, table: pd.DataFrame) -> None:
    assert ours.rank == theirs.rank == SETTINGS["rank"]
    assert str(ours) == f"ALSModel: uid={ours.uid}, rank=6"
    for mine, spark, ids in (
        (ours.userFactors, theirs.userFactors, table["user"]),
        (ours.itemFactors, theirs.itemFactors, table["item"]),
    ):
        assert mine.schema.simpleString() == spark.schema.simpleString()
        assert {row["id"] for row in mine.select("id").collect()} == set(ids)
    with pytest.raises(ConfigError, match="holds no factors"):
        _ = ALSModel().rank
