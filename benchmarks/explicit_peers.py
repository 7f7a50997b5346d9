"""Star ratings inside Spark beside pyspark.ml's ALS: seconds until our held-out RMSE is the peer's last or less.

    python -m benchmarks.train_als --objective explicit --peers pyspark_ml --rank 50
    python -m benchmarks.train_als --objective explicit --peers pyspark_ml --rank 50 --data ml-1m-ratings

Ratings are planted (stars with noise, users' leniency and items' quality), or those of a Parquet file under
FACTORLAKE_DATA. What planted users rate is drawn by popularity; with --liking by their taste too. At 1 more than half
of all ratings are four and a half stars or five, and a model whose mean is free is at a disadvantage
(docs/performance.md). A tenth of the ratings, drawn at random, is held out, where its user and item have others. Ours
is a model with biases, which pyspark.ml does not have; both weight their ridge by count. One session that has trained
a small model with each, the same frame of integer ids; the clock starts at the frame and takes in all set-up. Nobody
looks at the timed training: another, which has the same bits and is not timed, tells what each epoch reached. The
finished model comes one user half step later, which is told apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks.result import finish
from benchmarks.spark_peers import Rows, look_at, peer_als, timed_fit, timed_peer, write_rows
from factorlake.config.settings import SparkSettings
from factorlake.evaluation.planted import PlantedTaste
from factorlake.models.parameters import AlsParameters
from factorlake.models.trained import Snapshot
from factorlake.spark.session import open_session
from factorlake.spark.training import fit_pairs

HELD_OUT = 0.1


@dataclass(frozen=True)
class Ratings:
    """Stars of users (rows) for items, each numbered from 0."""

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    stars: NDArray[np.float32]
    shape: tuple[int, int]

    def where(self, chosen: NDArray[np.bool_]) -> Ratings:
        """Return the chosen ratings."""
        return Ratings(self.users[chosen], self.items[chosen], self.stars[chosen], self.shape)

    def rmse(self, x: NDArray[np.floating], y: NDArray[np.floating], constant: float = 0.0) -> float:
        """Return the error of x_u·y_i + constant, in float64."""
        total = 0.0
        for first in range(0, len(self.stars), 1_000_000):
            part = slice(first, first + 1_000_000)
            told = np.einsum("nk,nk->n", x[self.users[part]], y[self.items[part]], dtype=np.float64) + constant
            total += float(np.sum((self.stars[part] - told) ** 2))
        return float(np.sqrt(total / len(self.stars)))


def ratings_of(given: Any) -> Ratings:
    """Return the ratings that the arguments name."""
    if given.data == "planted":
        taste = PlantedTaste.make(given.users, given.items, seed=1)
        users, items = taste.sample_pairs(given.pairs, liking=given.liking, threads=2)
        shape = given.users, given.items
        stars = taste.stars(users, items)
        return Ratings(users.astype(np.int32), items.astype(np.int32), stars.astype(np.float32), shape)
    table = pd.read_parquet(Path(os.environ["FACTORLAKE_DATA"]) / "ml-1m-ratings-part" / "ratings.parquet")
    users, items = (pd.factorize(table[name])[0].astype(np.int32) for name in ("user", "movie_id"))
    stars = table["rating"].to_numpy(np.float32)
    return Ratings(users, items, stars, (int(users.max()) + 1, int(items.max()) + 1))


def pyspark_ml(pairs: DataFrame, held: Ratings, given: Any) -> dict[str, Any]:
    """Train pyspark.ml's ALS; only its last epoch can be looked at."""
    seconds, factors = timed_peer(peer_als(given, given.epochs), pairs, held.shape)
    rmse = held.rmse(*factors)
    print(f"pyspark.ml: {given.epochs} epochs in {seconds:.2f} s, RMSE {rmse:.4f}", flush=True)
    return {"epochs": given.epochs, "seconds_in_all": seconds, "rmse": rmse}


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run ours and the peer, print the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objective", choices=["explicit"], default="explicit")
    parser.add_argument("--data", choices=["planted", "ml-1m-ratings"], default="planted")
    parser.add_argument("--users", type=int, default=69_878, help="of planted data, as are items and pairs")
    parser.add_argument("--items", type=int, default=10_677)
    parser.add_argument("--pairs", type=int, default=10_000_000)
    parser.add_argument("--liking", type=float, default=0.0, help="how much taste decides what is rated, 0 to 1")
    parser.add_argument("--rank", type=int, default=50)
    parser.add_argument("--plan", choices=["auto", "local", "broadcast", "shuffle"], default="auto")
    parser.add_argument("--peers", default="", help="comma-separated: pyspark_ml")
    parser.add_argument("--regularization", type=float, default=0.05, help="λ of the peer, scaled by count")
    parser.add_argument("--own-regularization", type=float, default=0.05, help="λ of ours, scaled by count")
    parser.add_argument("--epochs", type=int, default=10, help="of the peer")
    parser.add_argument("--own-epochs", type=int, default=10, help="of ours, at most")
    parser.add_argument("--solver", choices=["auto", "cg", "subspace", "exact"], default="auto", help="ours")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="8g")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args(arguments)
    ratings = ratings_of(given)
    chosen = np.random.default_rng(3).random(len(ratings.stars)) < HELD_OUT
    train = ratings.where(~chosen)
    # A pair whose user or item has no rating to train on says nothing of a factorization.
    held = ratings.where(chosen & np.isin(ratings.users, train.users) & np.isin(ratings.items, train.items))
    print(f"{len(train.stars):,} ratings to train on, {len(held.stars):,} held out", flush=True)
    parameters = AlsParameters(
        objective="explicit",
        rank=given.rank,
        regularization=given.own_regularization,
        epochs=given.own_epochs,
        solver=given.solver,
        tolerance=None,
    )
    rmse: list[float] = []

    def look(now: Snapshot[Any], rows: tuple[Rows, Rows]) -> None:
        x, y = rows[0].spread(now.users.whole()), rows[1].spread(now.items.whole())
        # μ + b_u + b_i + x·y as one product.
        left = np.hstack([x, np.ones((len(x), 1), np.float32)])
        right = np.hstack([y[:, : now.rank], np.ones((len(y), 1), np.float32), y[:, now.rank :]])
        rmse.append(held.rmse(left, right, now.mean))

    figures: dict[str, Any] = {"ratings": len(train.stars)}
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        columns = {"user_id": train.users, "item_id": train.items, "value": train.stars}
        write_rows(columns, Path(temporary) / "ratings")
        spark = open_session(SparkSettings(master=given.master, driver_memory=given.driver_memory))
        pairs = spark.read.parquet(f"{temporary}/ratings")
        few = pairs.where("user_id % 50 = 0").cache()
        fit_pairs(spark, few, replace(parameters, epochs=1), workspace=f"{temporary}/work").release()
        if "pyspark_ml" in given.peers.split(","):
            peer_als(given, epochs=1).fit(few).userFactors.count()
        few.unpersist()
        pairs.agg(F.sum("user_id"), F.sum("item_id"), F.sum("value")).collect()
        fit = timed_fit(spark, pairs, parameters, given.plan, f"{temporary}/work")
        if "pyspark_ml" in given.peers.split(","):
            figures["pyspark_ml"] = pyspark_ml(pairs, held, given)
        look_at(spark, pairs, parameters, given.plan, f"{temporary}/work", train.shape, look)
        for epoch, (seconds, error) in enumerate(zip(fit.seconds, rmse, strict=True), start=1):
            print(f"  epoch {epoch:2d}  {seconds:8.2f} s  RMSE {error:.4f}", flush=True)
        figures["factorlake"] = fit.told | {"seconds": [round(s, 3) for s in fit.seconds], "rmse": rmse}
        if "pyspark_ml" in figures:
            told = figures["pyspark_ml"]
            reached = [s for s, error in zip(fit.seconds, rmse, strict=True) if error <= told["rmse"]]
            ratios["pyspark_ml"] = told["seconds_in_all"] / reached[0] if reached else None
        spark.stop()
    finish(f"train_als-explicit-{given.data}-{given.rank}", vars(given), figures, ratios, given.keep)
