"""Training: Spark's objectives solved as well or better, and what pyspark.ml's ALS cannot be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.ml.recommendation import ALS as SparkALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.ml import ALS, ALSModel
from tests.ml.objectives import BLOCKS, SETTINGS, matrices

pytestmark = pytest.mark.spark

IMPLICIT: dict[str, Any] = {**SETTINGS, "implicitPrefs": True, "alpha": 2.0, "regParam": 0.3}


def rows_of(frame: DataFrame) -> list[tuple[Any, ...]]:
    return sorted((row["id"], tuple(row["features"])) for row in frame.collect())


def same_factors(one: ALSModel, other: ALSModel) -> bool:
    """Whether two models are equal to the last bit."""
    users = rows_of(one.userFactors) == rows_of(other.userFactors)
    return users and rows_of(one.itemFactors) == rows_of(other.itemFactors)


@pytest.fixture(scope="module")
def spark_implicit(ratings: DataFrame) -> Any:
    return SparkALS(**IMPLICIT, **BLOCKS).fit(ratings)


def test_the_explicit_objective_ends_no_higher_than_sparks(table: pd.DataFrame, ours: ALSModel, theirs: Any) -> None:
    mine, spark = (matrices(table, model).explicit_objective(SETTINGS["regParam"]) for model in (ours, theirs))
    # The promise: at most half a percent above Spark's, or lower.
    assert mine <= 1.005 * spark
    # The oracle sums in float64 what training tells of the model that was rounded to float32.
    assert ours.trace[-1].loss == pytest.approx(mine, rel=1e-6)


def test_the_implicit_objective_ends_no_higher_than_sparks(
    table: pd.DataFrame, ratings: DataFrame, spark_implicit: Any
) -> None:
    ours = ALS(**IMPLICIT).fit(ratings)
    mine, spark = (
        matrices(table, model).implicit_objective(IMPLICIT["regParam"], IMPLICIT["alpha"])
        for model in (ours, spark_implicit)
    )
    assert mine <= 1.005 * spark
    # Training's loss has a constant of 1 + 1/(α r) more for each rating (models/weighting.py).
    constant = float((1 + 1 / (IMPLICIT["alpha"] * table["rating"].to_numpy(np.float64))).sum())
    assert ours.trace[-1].loss == pytest.approx(mine + constant, rel=1e-6)


@pytest.mark.parametrize("implicit", [False, True])
def test_training_from_sparks_factors_never_raises_the_objective(
    table: pd.DataFrame, ratings: DataFrame, theirs: Any, spark_implicit: Any, implicit: bool
) -> None:
    settings, start = (IMPLICIT, spark_implicit) if implicit else (SETTINGS, theirs)
    model = ALS(**settings).setInitialModel(start).setMaxIter(3).fit(ratings)
    before = matrices(table, start)
    if implicit:
        at_start = before.implicit_objective(settings["regParam"], settings["alpha"])
        at_start += float((1 + 1 / (settings["alpha"] * table["rating"].to_numpy(np.float64))).sum())
    else:
        at_start = before.explicit_objective(settings["regParam"])
    losses = np.array([at_start, *(row.loss for row in model.trace)])
    # float32 knows a row to 6e-8 of itself, and the objective where it is flat to less than 1e-6.
    assert np.all(np.diff(losses) <= 1e-6 * losses[:-1])
    assert losses[-1] < at_start


@pytest.mark.parametrize("implicit", [False, True])
def test_nonnegative_factors_end_as_low_as_sparks(table: pd.DataFrame, ratings: DataFrame, implicit: bool) -> None:
    settings = {**(IMPLICIT if implicit else SETTINGS), "nonnegative": True}
    spark_model = SparkALS(**settings, **BLOCKS).fit(ratings)
    model = ALS(**settings).fit(ratings)
    found, theirs = matrices(table, model), matrices(table, spark_model)
    assert min(found.users.min(), found.items.min()) == 0
    losses = [
        one.implicit_objective(settings["regParam"], settings["alpha"])
        if implicit
        else one.explicit_objective(settings["regParam"])
        for one in (found, theirs)
    ]
    # The promise, as above.
    assert losses[0] <= losses[1] * 1.005


def test_an_initial_model_is_where_training_starts(ratings: DataFrame, ours: ALSModel) -> None:
    once_more = ALS(**{**SETTINGS, "maxIter": 1}).setInitialModel(ours).fit(ratings)
    anew = ALS(**{**SETTINGS, "maxIter": 1}).fit(ratings)
    assert once_more.trace[-1].loss < ours.trace[-1].loss < anew.trace[-1].loss
    with pytest.raises(ConfigError, match="rank 6, rank is 3"):
        ALS(rank=3).setInitialModel(ours).fit(ratings)
    assert ALS().setInitialModel(ours).setInitialModel(None).getInitialModel() is None


def test_param_maps_give_the_models_that_single_fits_give(small: DataFrame) -> None:
    als = ALS(rank=3, maxIter=2)
    maps: list[dict[Any, Any]] = [{als.regParam: 0.05}, {als.regParam: 0.5, als.rank: 2}]
    models = als.fit(small, maps)
    assert [model.rank for model in models] == [3, 2]
    assert same_factors(models[0], als.copy(maps[0]).fit(small))
    assert same_factors(als.fit(small, maps[1]), models[1])
    found = dict(als.fitMultiple(small, maps))
    assert sorted(found) == [0, 1]
    assert all(same_factors(found[n], models[n]) for n in found)
    assert (als.getRank(), als.getRegParam()) == (3, 0.1)


def test_text_ids_give_the_factors_of_the_same_numbers(small: DataFrame) -> None:
    als = ALS(rank=3, maxIter=2)
    numbers = als.fit(small)
    text = als.fit(small.select(F.col("user").cast("string"), F.concat(F.lit(""), "item").alias("item"), "rating"))
    assert text.userFactors.schema["id"].dataType.simpleString() == "string"
    assert numbers.userFactors.schema["id"].dataType.simpleString() == "int"
    assert rows_of(numbers.userFactors) == sorted((int(one), row) for one, row in rows_of(text.userFactors))


def test_numbers_of_other_types_are_the_same_ids(small: DataFrame) -> None:
    als = ALS(rank=3, maxIter=2)
    other = small.select(
        F.col("user").cast("bigint"), F.col("item").cast("double"), F.col("rating").cast("decimal(3,1)")
    )
    assert same_factors(als.fit(other), als.fit(small))


def test_an_empty_rating_column_makes_every_rating_one(small: DataFrame) -> None:
    als = ALS(rank=3, maxIter=2, implicitPrefs=True)
    ones = small.select("user", "item", F.lit(1).alias("rating"))
    unrated = als.copy({als.ratingCol: ""})
    assert same_factors(unrated.fit(small.drop("rating")), als.fit(ones))
    # A pair that occurs twice has the rating 2.
    often = F.col("item") % 3 == 0
    twice = small.drop("rating").unionByName(small.drop("rating").where(often))
    assert same_factors(unrated.fit(twice), als.fit(ones.withColumn("rating", F.when(often, 2).otherwise(1))))


@pytest.mark.parametrize("implicit", [False, True])
def test_repeated_pairs_count_as_their_sum_or_mean(spark: SparkSession, small: DataFrame, implicit: bool) -> None:
    als = ALS(rank=3, maxIter=2, implicitPrefs=implicit)
    first = F.col("item") % 3 == 0
    # A rating of 4 once, or 1 and 3 (sum 4), or 3 and 5 (mean 4).
    once = small.select("user", "item", F.when(first, 4.0).otherwise(F.col("rating")).alias("rating"))
    parts = (1.0, 3.0) if implicit else (3.0, 5.0)
    twice = once.where(~first)
    for part in parts:
        twice = twice.unionByName(once.where(first).withColumn("rating", F.lit(part)))
    assert same_factors(als.fit(twice), als.fit(once))


def test_an_unobserved_weight_makes_the_objective_that_of_modern_ials(table: pd.DataFrame, small: DataFrame) -> None:
    model = ALS(
        rank=3, maxIter=2, implicitPrefs=True, alpha=2.0, unobservedWeight=0.3, frequencyExponent=0.5, regParam=0.1
    ).fit(small)
    m = matrices(table[table["user"] % 10 == 0], model)
    known = m.ratings > 0
    # Rendle et al., RecSys 2022, sections 2 and 3.1: Σ_S α r (1 − s)² + α0 Σ_all s² + λ Σ (n + α0 n_other)^ν |row|².
    loss = (2.0 * m.ratings * (1 - m.scores) ** 2)[known].sum() + 0.3 * (m.scores**2).sum()
    for rows, counts, others in (
        (m.users, known.sum(axis=1), len(m.items)),
        (m.items, known.sum(axis=0), len(m.users)),
    ):
        loss += 0.1 * (((counts + 0.3 * others) ** 0.5) @ (rows**2).sum(axis=1))
    assert model.trace[-1].loss == pytest.approx(loss, rel=1e-6)


def test_biases_lower_the_error_and_make_the_prediction(ratings: DataFrame, small: DataFrame, ours: ALSModel) -> None:
    model = ALS(**SETTINGS, biases=True).fit(ratings)
    assert model.mean == pytest.approx(3.53, abs=0.3)
    users, items = model.userBiases.toPandas().set_index("id"), model.itemBiases.toPandas().set_index("id")
    x = model.userFactors.toPandas().set_index("id")["features"]
    y = model.itemFactors.toPandas().set_index("id")["features"]
    for row in model.transform(small).limit(20).collect():
        wanted = model.mean + users["bias"][row["user"]] + items["bias"][row["item"]]
        wanted += np.dot(x[row["user"]], y[row["item"]])
        # One rounding of each of a handful of float32 numbers near 4.
        assert row["prediction"] == pytest.approx(wanted, abs=4e-6)


def test_training_stops_when_the_objective_no_longer_falls(small: DataFrame) -> None:
    model = ALS(rank=2, maxIter=200, tol=0.02).fit(small)
    assert model.stopped == "objective"
    assert 1 < model.trace[-1].epoch < 200
    assert ALS(rank=2, maxIter=3).fit(small).stopped == "epochs"


@pytest.mark.parametrize("solver", ["cg", "auto"])
def test_solvers_reach_objectives_of_the_same_height(small: DataFrame, solver: str) -> None:
    losses = [
        ALS(rank=3, maxIter=10, implicitPrefs=True, solver=one).fit(small).trace[-1].loss for one in (solver, "exact")
    ]
    # Two CG steps a row lag the exact solution by less than a percent (docs/math.md).
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_both_plans_give_the_same_bits_and_leave_nothing_behind(small: DataFrame, tmp_path: Path) -> None:
    als = ALS(rank=3, maxIter=2, workspace=str(tmp_path))
    local = als.copy({als.plan: "local"}).fit(small)
    assert same_factors(als.copy({als.plan: "broadcast"}).fit(small), local)
    # A workspace that only Spark can open: blocks lie in a table there.
    stored = {als.plan: "broadcast", als.workspace: f"file://{tmp_path}/store"}
    assert same_factors(als.copy(stored).fit(small), local)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("columns", "error", "told"),
    [
        (["item", "rating"], DataRefusedError, "column 'user' is not in the frame"),
        (["date('2024-01-01') AS user", "item", "rating"], DataRefusedError, "type date"),
        (["user", "item", "'good' AS rating"], DataRefusedError, "ratings are numbers"),
        (["CAST(NULL AS INT) AS user", "item", "rating"], Exception, "user Ids MUST NOT be Null"),
        (["CAST(NULL AS STRING) AS user", "item", "rating"], Exception, "user Ids MUST NOT be Null"),
        (["user + 0.5 AS user", "item", "rating"], Exception, "without fractional part for column user"),
        (["user", "item + 3000000000 AS item", "rating"], Exception, "Integer range and without fractional part"),
        (["user", "item", "CAST('NaN' AS FLOAT) AS rating"], Exception, "Ratings MUST NOT be Null or NaN"),
        (["user", "item", "CAST(NULL AS FLOAT) AS rating"], Exception, "Ratings MUST NOT be Null or NaN"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused_with_a_reason(
    small: DataFrame, columns: list[str], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        ALS(rank=2, maxIter=1).fit(small.selectExpr(*columns))


def test_nothing_to_train_on_is_refused(spark: SparkSession) -> None:
    with pytest.raises(DataRefusedError, match="nothing to train on"):
        ALS().fit(spark.createDataFrame([], "user int, item int, rating float"))
