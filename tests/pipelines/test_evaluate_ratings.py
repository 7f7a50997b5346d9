"""Ratings are judged as a slow reading of the tables judges them: predictions, baselines, clipping, slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.evaluation.baselines import BiasBaseline
from factorlake.evaluation.intervals import paired_interval
from factorlake.evaluation.rating_error import rating_errors
from factorlake.spark.biases import fit_biases
from factorlake.spark.exchange import Exchange
from tests.pipelines.judged_lake import COLD, ITEMS, USERS, JudgedLake, figures, new_lake, write_table
from tests.reference.judging import Ratings, explicit_row

pytestmark = pytest.mark.spark
# Sums of the same float64 numbers in another order; factors reach the scores as float32.
ORDER_OF_SUMS, FLOAT32 = 1e-12, 1e-6
LEAST, GREATEST = 1.0, 5.0


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> JudgedLake:
    return new_lake(spark, str(tmp_path_factory.mktemp("rated") / "lake"), explicit=True, regularization=0.02)


def held_frame(lake: JudgedLake, known: Ratings, *, warm: bool = True) -> pd.DataFrame:
    held = lake.ratings(known=False)
    rows = [(u, i, v) for u, of in held.items() for i, v in of.items() if (u in known) == warm]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "value"])


def model_predictions(lake: JudgedLake, known: Ratings, held: pd.DataFrame) -> np.ndarray:
    """μ + b_u + b_i + x·y of the trained items, users solved by NumPy."""
    items = lake.item_factors()
    mean, settings = lake.model()["mean"], lake.context.settings.train.model_dump()
    of_user = {user: explicit_row(known.get(user, {}), items, mean, settings) for user in held["user_id"].unique()}
    predicted = []
    for user, item in zip(held["user_id"], held["item_id"], strict=True):
        factor, bias = of_user[user]
        item_factor, item_bias = items.get(item, (np.zeros(len(factor)), 0.0))
        predicted.append(mean + bias + item_bias + factor @ item_factor)
    return np.array(predicted)


def baseline_predictions(known: Ratings, held: pd.DataFrame) -> tuple[np.ndarray, float]:
    rows = [(u, i, v) for u, of in known.items() for i, v in of.items()]
    users, items = sorted({u for u, _, _ in rows}), sorted({i for _, i, _ in rows})
    of_user, of_item = ({one: at for at, one in enumerate(ids)} for ids in (users, items))
    u, i = np.array([of_user[u] for u, _, _ in rows]), np.array([of_item[i] for _, i, _ in rows])
    fitted = BiasBaseline.fit(u, i, np.array([v for *_, v in rows]), len(users), len(items))
    asked_users = np.array([of_user.get(user, -1) for user in held["user_id"]])
    asked_items = np.array([of_item.get(item, -1) for item in held["item_id"]])
    return fitted.predict(asked_users, asked_items), fitted.mean


def assert_errors(
    told: dict[tuple[str, str], tuple[float, float, float, int]], name: str, held: pd.DataFrame, guess: np.ndarray
) -> None:
    owner = pd.factorize(held["user_id"])[0]
    for metric, expected in rating_errors(owner, guess, held["value"].to_numpy()).items():
        wanted = (expected.value, expected.lower, expected.upper)
        np.testing.assert_allclose(told[name, metric][:3], wanted, rtol=FLOAT32, err_msg=f"{name} {metric}")
        assert told[name, metric][3] == expected.n


def test_predictions_are_judged_as_the_tables_say(lake: JudgedLake, tmp_path: Path) -> None:
    known = lake.ratings(known=True)
    held = held_frame(lake, known)
    right = held_frame(lake, known).rename(columns={"value": "score"})
    half = right.iloc[::2].assign(score=lambda rows: rows["score"] + 9.0)
    tables = [
        write_table(lake.context, tmp_path / f"{name}.parquet", rows)
        for name, rows in (("right", right), ("half", half))
    ]
    result, rows = lake.judge(others={"recommendations": tables, "compare": ["pyspark_ml"]})
    assert result.counts["judged_users"] == held["user_id"].nunique()
    told = figures(rows)
    biases, mean = baseline_predictions(known, held)
    model = np.clip(model_predictions(lake, known, held), LEAST, GREATEST)
    guesses = {
        "model": model,
        "biases": np.clip(biases, LEAST, GREATEST),
        "mean": np.full(len(held), mean),
        "right": held["value"].to_numpy(),
        # What a table does not tell is the mean, and what is beyond the scale its end.
        "half": np.where(np.arange(len(held)) % 2 == 0, GREATEST, mean),
    }
    for name, guess in guesses.items():
        assert_errors(told, name, held, guess)
    assert told["right", "rmse"][:3] == (0.0, 0.0, 0.0)
    errors = pd.DataFrame({"user": held["user_id"]} | {n: np.abs(g - held["value"]) for n, g in guesses.items()})
    of_user = (errors.set_index("user") ** 2).groupby("user").mean() ** 0.5
    gain = paired_interval(of_user["mean"], of_user["model"])
    np.testing.assert_allclose(
        told["difference:mean", "rmse"], (gain.value, gain.lower, gain.upper, gain.n), rtol=FLOAT32, atol=FLOAT32
    )
    # Biases are no part of Spark's objective, so it is trained by its defaults; it predicts better than nothing.
    assert any("defaults at the same rank" in line for line in result.details["told"])
    assert told["pyspark_ml", "rmse"][0] < np.sqrt(np.mean(held["value"] ** 2))

    segment = {user: ("north", "süd", None)[place % 3] for place, user in enumerate(USERS)}
    category = {item: ("rock", "jazz")[place % 2] if place % 5 else None for place, item in enumerate(ITEMS)}
    parts = {f"segment={name}": held["user_id"].map(segment) == name for name in ("north", "süd")}
    parts |= {f"category={name}": held["item_id"].map(category) == name for name in ("rock", "jazz")}
    for part, chosen in parts.items():
        assert_errors(figures(rows, part), "model", held[chosen], model[chosen])

    cold = held_frame(lake, known, warm=False)
    assert set(cold["user_id"]) == set(COLD)
    guess = np.clip(model_predictions(lake, known, cold), LEAST, GREATEST)
    assert_errors(figures(rows, "cold"), "model", cold, guess)
    assert_errors(figures(rows, "cold"), "biases", cold, np.clip(baseline_predictions(known, cold)[0], LEAST, GREATEST))


def test_without_clipping_predictions_count_as_they_are(lake: JudgedLake) -> None:
    known = lake.ratings(known=True)
    held = held_frame(lake, known)
    guess = model_predictions(lake, known, held)
    assert (guess > GREATEST).any() or (guess < LEAST).any()
    _, rows = lake.judge(clip=False)
    assert_errors(figures(rows), "model", held, guess)


def test_ranks_and_candidates_judge_no_explicit_model(lake: JudgedLake, tmp_path: Path) -> None:
    rows = pd.DataFrame({"user_id": ["007"], "item_id": ["1"], "rank": [1]})
    path = write_table(lake.context, tmp_path / "lists.parquet", rows)
    with pytest.raises(DataRefusedError, match="judged by predicted ratings: give them as score"):
        lake.judge(others={"recommendations": [path]})
    with pytest.raises(ConfigError, match=r"evaluate\.candidates ranks items"):
        lake.judge(candidates=path)


@pytest.mark.parametrize("partitions", [1, 7])
def test_biases_by_blocks_are_those_of_one_machine(spark: SparkSession, tmp_path: Path, partitions: int) -> None:
    rng = np.random.default_rng(3)
    pairs = pd.DataFrame({"u": rng.integers(0, 50, 600), "i": rng.integers(0, 40, 600)}).drop_duplicates()
    pairs = pairs.assign(value=rng.normal(3, 1, len(pairs)))
    frame = spark.createDataFrame(pairs).select(
        F.concat(F.lit("ü"), "u").alias("user_id"), F.col("i").cast("string").alias("item_id"), "value"
    )
    expected = BiasBaseline.fit(pairs["u"].to_numpy(), pairs["i"].to_numpy(), pairs["value"].to_numpy(), 50, 40)
    with Exchange(spark, str(tmp_path / "exchange")) as exchange:
        found = fit_biases(frame.repartition(partitions), exchange, 8)
        users = {row["user_id"]: row["bias"] for row in found.users.collect()}
        items = {row["item_id"]: row["bias"] for row in found.items.collect()}
        told = found.predict(frame.withColumn("user_id", F.lit("nobody"))).collect()
        found.release()
    assert (found.least, found.greatest) == (pairs["value"].min(), pairs["value"].max())
    np.testing.assert_allclose(found.mean, expected.mean, rtol=ORDER_OF_SUMS)
    np.testing.assert_allclose([users[f"ü{u}"] for u in range(50)], expected.user_bias, atol=ORDER_OF_SUMS)
    np.testing.assert_allclose([items[str(i)] for i in range(40)], expected.item_bias, atol=ORDER_OF_SUMS)
    # Of an unknown user the mean and the item's bias are left.
    assert {row["score"] for row in told} == {found.mean + bias for bias in items.values()}


def test_biases_of_nothing_and_of_a_bad_rating_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    schema = "user_id string, item_id string, value double"
    with Exchange(spark, str(tmp_path / "exchange")) as exchange:
        with pytest.raises(ConfigError, match="biases need ratings"):
            fit_biases(spark.createDataFrame([], schema), exchange, 8)
        with pytest.raises(NumericalError, match="not finite"):
            fit_biases(spark.createDataFrame([("u", "i", float("nan"))], schema), exchange, 8)
