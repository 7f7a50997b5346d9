"""MovieLens 100K: rating error on the folds u1 to u5, and parity with pyspark.ml's ALS on the same
objectives.

    python -m benchmarks.movielens

Three claims. With biases and the settings of conf/base/movielens_explicit.yaml the mean RMSE over u1 to u5 is
at most 0.930. Without biases and with Spark's regularisation our RMSE lies beside Spark's on the same test
pairs. With Spark's implicit objective, training started from Spark's factors never raises it, our own start
ends beside Spark's or lower, and the lists find the last film of each user about as often. Both objectives
are computed by one function in float64, and both models are scored by one function.

Trainings with Spark's objectives start from rows of length 1, as Spark's do. From the engine's own, which are ten
times shorter, the same epochs end at a slightly higher objective.

NDCG@10 of one training differs by 1 to 2 % from that of another seed, more than the difference that is looked
for. The comparison is one of means over seeds, and the result line gives the standard error of their ratio.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from benchmarks.result import finish
from factorlake.config.loader import load_settings
from factorlake.config.settings import SparkSettings
from factorlake.evaluation.ranking import ranking_metrics
from factorlake.evaluation.splits import last_n_out
from factorlake.ml.params import SPARKS_INIT_SCALE
from factorlake.models.als import train
from factorlake.models.blocks import order_ids
from factorlake.models.fit import FittedAls, PackedRatings, fit_als, pack_ratings
from factorlake.models.local_plan import LocalPlan
from factorlake.models.objective import objective_value
from factorlake.models.parameters import AlsParameters
from factorlake.pipelines.fit import als_parameters
from factorlake.spark.session import open_session

CONF = Path(__file__).parents[1] / "conf" / "base" / "movielens_explicit.yaml"
FOLDS = (1, 2, 3, 4, 5)
K = 10
SPARK_EXPLICIT = AlsParameters(
    objective="explicit",
    biases=False,
    nu=1.0,
    rank=10,
    regularization=0.1,
    epochs=15,
    init_scale=SPARKS_INIT_SCALE,
    tolerance=None,
)
"""Spark's explicit objective: ridge by count, no mean, no biases; rank and λ are the defaults of
pyspark.ml."""
SPARK_IMPLICIT = AlsParameters(
    objective="implicit",
    alpha=1.0,
    alpha0=1.0,
    kappa=0.0,
    nu=1.0,
    rank=32,
    regularization=0.3,
    epochs=15,
    init_scale=SPARKS_INIT_SCALE,
    tolerance=None,
)
"""Spark's implicit objective: confidence 1 + α r, every pair weighs 1, ridge by the count of positive
ratings."""


@dataclass(frozen=True)
class SparkFactors:
    """A model of pyspark.ml with its rows in the order of ours; rows it does not know are zero."""

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]


def read_ratings(folder: Path) -> pd.DataFrame:
    """Return ML-100K's ratings: user, item (strings), rating (float32), ts (seconds), fold (1 to 5)."""
    ratings = pd.read_parquet(folder / "ratings.parquet", columns=["user", "item", "rating", "ts", "fold"])
    return ratings.astype({"user": str, "item": str, "rating": "float32"})


def explicit_parameters() -> AlsParameters:
    """Return the model that conf/base/movielens_explicit.yaml describes."""
    return als_parameters(load_settings([CONF], environment={}))


def fit(ratings: pd.DataFrame, parameters: AlsParameters) -> FittedAls:
    """Train ours on all given ratings."""
    return fit_als(
        ratings["user"].tolist(),
        ratings["item"].tolist(),
        ratings["rating"].to_numpy(),
        parameters,
        threads=2,
    )


def fit_spark(
    spark: SparkSession, ratings: pd.DataFrame, parameters: AlsParameters, ids: FittedAls | PackedRatings
) -> SparkFactors:
    """Train pyspark.ml's ALS with the same rank, λ, α, epochs and seed; return its factors in the order of
    ``ids``."""
    from pyspark.ml.recommendation import ALS

    als = ALS(
        rank=parameters.rank,
        maxIter=parameters.epochs,
        regParam=parameters.regularization,
        implicitPrefs=parameters.objective == "implicit",
        alpha=parameters.alpha or 1.0,
        userCol="user",
        itemCol="item",
        ratingCol="rating",
        numUserBlocks=2,
        numItemBlocks=2,
        checkpointInterval=3,
        seed=parameters.seed,
    )
    numbers = pa.Table.from_pandas(
        ratings.astype({"user": int, "item": int})[["user", "item", "rating"]], preserve_index=False
    )
    with tempfile.TemporaryDirectory() as checkpoints:
        # Without checkpoints the lineage of fifteen epochs overflows the stack of the JVM's deserializer.
        spark.sparkContext.setCheckpointDir(checkpoints)
        model = als.fit(spark.createDataFrame(numbers).coalesce(2))
        users, items = model.userFactors.toPandas(), model.itemFactors.toPandas()
    return SparkFactors(_rows(users, ids.user_ids), _rows(items, ids.item_ids))


def _rows(factors: pd.DataFrame, ids: list[str]) -> NDArray[np.float32]:
    by_id = dict(zip(factors["id"].astype(str), factors["features"], strict=True))
    rank = len(next(iter(by_id.values())))
    return np.array([by_id.get(one, [0.0] * rank) for one in ids], np.float32)


def with_factors(fitted: FittedAls, factors: SparkFactors) -> FittedAls:
    """Return Spark's model in the place of ours, so that the same code scores both."""
    model = fitted.model
    users = replace(model.users, array=factors.user_factors)
    return replace(fitted, model=replace(model, users=users, items=replace(model.items, array=factors.item_factors)))


def predict(fitted: FittedAls, ratings: pd.DataFrame) -> NDArray[np.float64]:
    """Return the predicted rating of each pair; an unknown user or item adds nothing to the mean."""
    model = fitted.model
    # Position −1, an unknown id, finds the row of zeros at the end.
    u = pd.Index(fitted.user_ids).get_indexer(pd.Index(ratings["user"]))
    i = pd.Index(fitted.item_ids).get_indexer(pd.Index(ratings["item"]))
    x, y = (np.vstack([rows, np.zeros_like(rows[:1])]) for rows in (model.user_factors, model.item_factors))
    predicted = model.mean + np.einsum("na,na->n", x[u], y[i], dtype=np.float64)
    for biases, places in ((model.user_biases, u), (model.item_biases, i)):
        if biases is not None:
            predicted += np.append(biases, 0.0)[places]
    return predicted


def rmse(fitted: FittedAls, ratings: pd.DataFrame) -> float:
    """Return √mean (r̂ − r)²."""
    return float(np.sqrt(np.mean((predict(fitted, ratings) - ratings["rating"].to_numpy(np.float64)) ** 2)))


def explicit_rmse(ratings: pd.DataFrame, parameters: AlsParameters, folds: Iterable[int] = FOLDS) -> list[float]:
    """Return the RMSE on each fold of a model trained on the other four; all pairs of the fold count."""
    return [rmse(fit(ratings[ratings["fold"] != n], parameters), ratings[ratings["fold"] == n]) for n in folds]


def explicit_parity(
    spark: SparkSession, ratings: pd.DataFrame, parameters: AlsParameters, folds: Iterable[int] = FOLDS
) -> pd.DataFrame:
    """Return (fold, pairs, ours, spark): RMSE on the pairs of each fold whose user and film both are trained.

    Spark predicts nothing for the others (it drops them or gives NaN).
    """
    rows = []
    for n in folds:
        known, test = ratings[ratings["fold"] != n], ratings[ratings["fold"] == n]
        ours = fit(known, parameters)
        theirs = with_factors(ours, fit_spark(spark, known, parameters, ours))
        warm = test[test["user"].isin(ours.user_ids) & test["item"].isin(ours.item_ids)]
        rows.append((n, len(warm), rmse(ours, warm), rmse(theirs, warm)))
    return pd.DataFrame(rows, columns=["fold", "pairs", "ours", "spark"])


def objective_parity(spark: SparkSession, ratings: pd.DataFrame, parameters: AlsParameters) -> dict[str, Any]:
    """Return Spark's implicit objective, ours from our own start, and what training makes of Spark's factors.

    ``from_spark`` begins with the objective of Spark's factors, then has that of every state our training
    goes through in float64, so that a rise would be the method's and no rounding; ``from_spark_float32`` has
    the same in float32.
    """
    packed = pack_ratings(ratings["user"].tolist(), ratings["item"].tolist(), ratings["rating"].to_numpy(), parameters)
    theirs = fit_spark(spark, ratings, parameters, packed)

    def objective(user_factors: NDArray[np.float32], item_factors: NDArray[np.float32]) -> float:
        return objective_value(packed.user_blocks, packed.item_blocks, user_factors, item_factors, parameters)

    with LocalPlan(packed.user_blocks, packed.item_blocks, parameters, threads=2) as plan:
        own = train(plan, parameters)
        start = plan.hold("user", theirs.user_factors), plan.hold("item", theirs.item_factors)
        in_double = train(plan, replace(parameters, double_precision=True), start=start)
        in_single = train(plan, parameters, start=start)
    at_start = objective(theirs.user_factors, theirs.item_factors)
    return {
        "spark": at_start,
        "own_start": objective(own.user_factors, own.item_factors),
        "from_spark": [at_start, *(row.loss for row in in_double.trace)],
        "from_spark_float32": [at_start, *(row.loss for row in in_single.trace)],
    }


def largest_rise(losses: list[float]) -> float:
    """Return the largest relative step upwards in a row of losses; negative when every one is lower than the
    last."""
    return float(np.max(np.diff(losses) / np.abs(losses[:-1])))


def last_film_split(ratings: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (known, held out): each user's last film is held out."""
    user_ids, _ = order_ids(ratings["user"].tolist())
    item_ids, _ = order_ids(ratings["item"].tolist())
    u, i = (
        pd.Index(user_ids).get_indexer(pd.Index(ratings["user"])),
        pd.Index(item_ids).get_indexer(pd.Index(ratings["item"])),
    )
    held = last_n_out(u, i, ratings["ts"].to_numpy())
    return ratings[~held], ratings[held]


def ndcg(fitted: FittedAls, held: pd.DataFrame) -> float:
    """Return the mean NDCG@10 of the users' lists of films they have not rated, judged by one held-out film
    each."""
    lists, _ = fitted.recommend(K)
    film = dict(zip(held["user"], pd.Index(fitted.item_ids).get_indexer(pd.Index(held["item"])), strict=True))
    judged = np.array([place for place, user in enumerate(fitted.user_ids) if user in film])
    truth = np.array([film[fitted.user_ids[place]] for place in judged])
    # A film that no one else rated has no position: it is a miss, as is any number that no list holds.
    truth[truth < 0] = len(fitted.item_ids)
    return float(np.mean(ranking_metrics(lists[judged], np.arange(len(judged) + 1), truth, K)[f"ndcg@{K}"]))


def ranking_parity(
    spark: SparkSession, ratings: pd.DataFrame, parameters: AlsParameters, seeds: Iterable[int]
) -> pd.DataFrame:
    """Return (seed, ours, spark): NDCG@10 on a leave-last-out split, of both models trained from each
    seed."""
    known, held = last_film_split(ratings)
    rows = []
    for seed in seeds:
        seeded = replace(parameters, seed=seed)
        ours = fit(known, seeded)
        theirs = with_factors(ours, fit_spark(spark, known, seeded, ours))
        rows.append((seed, ndcg(ours, held), ndcg(theirs, held)))
    return pd.DataFrame(rows, columns=["seed", "ours", "spark"])


def ratio_of_means(ranking: pd.DataFrame) -> tuple[float, float]:
    """Return mean(ours) / mean(spark) over seeds and its standard error, to first order, seeds being
    independent."""
    ours, theirs = ranking["ours"].to_numpy(), ranking["spark"].to_numpy()
    ratio = ours.mean() / theirs.mean()
    relative = [np.std(one, ddof=1) / np.sqrt(len(one)) / one.mean() for one in (ours, theirs)]
    return float(ratio), float(ratio * np.hypot(*relative))


def main() -> None:
    """Parse the arguments, run the three comparisons, print the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    settings = load_settings([CONF])
    parser.add_argument("--input", type=Path, default=Path(settings.require_input()), help="folder of ml-100k")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="2g")
    parser.add_argument("--seeds", type=int, default=20, help="seeds that the ranking comparison is averaged over")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args()
    ratings = read_ratings(given.input)
    biased = explicit_parameters()
    with_biases = explicit_rmse(ratings, biased)
    print(f"RMSE with biases on u1 to u5: {np.round(with_biases, 4).tolist()}", flush=True)
    spark = open_session(SparkSettings(master=given.master, driver_memory=given.driver_memory))
    plain = explicit_parity(spark, ratings, SPARK_EXPLICIT)
    print(plain.to_string(index=False), flush=True)
    objectives = objective_parity(spark, ratings, SPARK_IMPLICIT)
    ranking = ranking_parity(spark, ratings, SPARK_IMPLICIT, range(1, given.seeds + 1))
    print(ranking.to_string(index=False), flush=True)
    spark.stop()
    ndcg_ratio, ndcg_error = ratio_of_means(ranking)
    finish(
        "movielens",
        {
            **vars(given),
            "with_biases": asdict(biased),
            "explicit": asdict(SPARK_EXPLICIT),
            "implicit": asdict(SPARK_IMPLICIT),
        },
        {
            "rmse_with_biases": with_biases,
            "mean_rmse_with_biases": float(np.mean(with_biases)),
            "rmse_without_biases": plain.to_dict("list"),
            "objective_spark": objectives["spark"],
            "objective_own_start": objectives["own_start"],
            "objective_from_spark": objectives["from_spark"],
            "largest_rise_from_spark": largest_rise(objectives["from_spark"]),
            "largest_rise_from_spark_float32": largest_rise(objectives["from_spark_float32"]),
            "ndcg@10": ranking.to_dict("list"),
        },
        {
            "rmse_less_spark": float((plain["ours"] - plain["spark"]).mean()),
            "objective_over_spark": objectives["own_start"] / objectives["spark"],
            "ndcg_over_spark": ndcg_ratio,
            "ndcg_over_spark_standard_error": ndcg_error,
        },
        given.keep,
    )


if __name__ == "__main__":
    main()
