"""Small data: `fit` of the drop-in against `fit` of pyspark.ml's ALS, in one warm session.

    python -m benchmarks.small

100,000 ratings, rank 32, 15 epochs, both objectives, the same frame and settings for both; each has been fitted once
before the clock runs. Ratings are planted (943 users, 1,682 items, stars with noise), or those of --data: a Parquet
folder or file with user, item and rating, such as MovieLens 100K. The objective that each ends with is computed by one
function in float64, so that the seconds compare models of equal worth.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS as SparkALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.result import finish
from factorlake.config.settings import SparkSettings
from factorlake.evaluation.planted import PlantedTaste
from factorlake.ml import ALS
from factorlake.spark.compat import keep
from factorlake.spark.session import open_session

OBJECTIVES: dict[str, dict[str, Any]] = {
    "explicit": {"regParam": 0.1},
    "implicit": {"regParam": 0.3, "implicitPrefs": True, "alpha": 1.0},
}


def planted_ratings(n_ratings: int) -> pd.DataFrame:
    """Return user, item (int32) and rating (float32) of planted tastes, in the sizes of MovieLens 100K."""
    taste = PlantedTaste.make(943, 1682, seed=1)
    users, items = taste.sample_pairs(n_ratings)
    stars = taste.stars(users, items)
    return pd.DataFrame({"user": users.astype("int32"), "item": items.astype("int32"), "rating": stars}).astype(
        {"rating": "float32"}
    )


def objective(
    ratings: pd.DataFrame, model: Any, regParam: float, implicitPrefs: bool = False, alpha: float = 1
) -> float:
    """Return Spark's objective of a model's factors, in float64 over dense matrices.

    Explicit: Σ_S (r − x·y)². Implicit: Σ_all (1 + α|r|) (1[r > 0] − x·y)². Both: + λ (Σ n_u |x|² + Σ n_i |y|²).
    """
    user_ids, item_ids = np.unique(ratings["user"]), np.unique(ratings["item"])
    table = np.zeros((len(user_ids), len(item_ids)))
    table[np.searchsorted(user_ids, ratings["user"]), np.searchsorted(item_ids, ratings["item"])] = ratings["rating"]
    x, y = _rows(model.userFactors, user_ids), _rows(model.itemFactors, item_ids)
    known, scores = table > 0, x @ y.T
    ridge = known.sum(axis=1) @ (x**2).sum(axis=1) + known.sum(axis=0) @ (y**2).sum(axis=1)
    errors = (1 + alpha * np.abs(table)) * (known - scores) ** 2 if implicitPrefs else known * (table - scores) ** 2
    return float(errors.sum() + regParam * ridge)


def _rows(frame: DataFrame, ids: NDArray[Any]) -> NDArray[np.float64]:
    table = frame.toPandas()
    rows = np.zeros((len(ids), len(table["features"][0])))
    rows[np.searchsorted(ids, table["id"])] = np.stack(table["features"].to_list())
    return rows


def timed_fits(
    estimators: dict[str, Any], frame: DataFrame, repeat: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Return each estimator's seconds of ``repeat`` fits, taken in turn after one fit of each, and its last model."""
    models = {name: als.fit(frame) for name, als in estimators.items()}
    seconds: dict[str, list[float]] = {name: [] for name in estimators}
    for _ in range(repeat):
        for name, als in estimators.items():
            began = time.perf_counter()
            models[name] = als.fit(frame)
            seconds[name].append(time.perf_counter() - began)
    return seconds, models


def main() -> None:
    """Parse the arguments, time both trainers, print a table and the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="", help="Parquet with user, item, rating; planted ratings without it")
    parser.add_argument("--ratings", type=int, default=100_000, help="number of planted ratings")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--objectives", default="explicit,implicit")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="2g")
    parser.add_argument("--peer-blocks", type=int, default=2, help="numUserBlocks and numItemBlocks of pyspark.ml")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args()
    spark = open_session(SparkSettings(master=given.master, driver_memory=given.driver_memory))
    checkpoints = tempfile.TemporaryDirectory()
    # pyspark.ml's lineage of fifteen epochs may overflow the JVM's stack without a checkpoint at the tenth.
    spark.sparkContext.setCheckpointDir(checkpoints.name)
    if given.data:
        table = pd.read_parquet(given.data)[["user", "item", "rating"]]
        table = table.astype({"user": "int32", "item": "int32", "rating": "float32"})
    else:
        table = planted_ratings(given.ratings)
    ratings = keep(spark.createDataFrame(pa.Table.from_pandas(table, preserve_index=False)).coalesce(2))
    assert ratings.agg(F.count("*")).collect()[0][0] == len(table)
    figures: dict[str, Any] = {"ratings": len(table)}
    ratios: dict[str, float] = {}
    for name in given.objectives.split(","):
        settings = {"rank": given.rank, "maxIter": given.epochs, "seed": 1, **OBJECTIVES[name]}
        estimators = {
            "factorlake": ALS(**settings),
            "pyspark_ml": SparkALS(**settings, numUserBlocks=given.peer_blocks, numItemBlocks=given.peer_blocks),
        }
        seconds, models = timed_fits(estimators, ratings, given.repeat)
        figures[name] = {
            who: {
                "seconds": statistics.median(taken),
                "each": taken,
                "objective": objective(table, models[who], **OBJECTIVES[name]),
            }
            for who, taken in seconds.items()
        }
        for who, one in figures[name].items():
            print(f"{name:<10}{who:<12}{one['seconds']:8.2f} s   objective {one['objective']:,.0f}", flush=True)
        ours, theirs = figures[name]["factorlake"], figures[name]["pyspark_ml"]
        ratios[f"pyspark_ml_{name}"] = theirs["seconds"] / ours["seconds"]
        ratios[f"objective_{name}"] = theirs["objective"] / ours["objective"]
    ratios["pyspark_ml"] = min(ratio for name, ratio in ratios.items() if name.startswith("pyspark_ml_"))
    spark.stop()
    checkpoints.cleanup()
    finish("small", vars(given), figures, ratios, given.keep)


if __name__ == "__main__":
    main()
