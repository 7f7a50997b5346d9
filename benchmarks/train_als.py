"""Seconds per training epoch on planted pairs, beside pyspark.ml's ALS in the same session.

    python -m benchmarks.train_als --peers pyspark_ml
    python -m benchmarks.train_als --plan local --peers irspack,implicit --data planted --rank 64

The pairs (138,493 users, 26,744 items, 17.5 million by default, planted tastes, log-normal activity, Zipf-like
popularity) are written once as Parquet; our train job's own fit reads them from Spark, packs them and trains. The
peer trains on the same frame with the same objective (alpha, unobserved weight 1, ridge by positive count). The
second form starts no Spark: see `benchmarks.local_peers`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from benchmarks import local_peers
from benchmarks.result import finish
from factorlake.config.loader import build
from factorlake.evaluation.planted import PlantedTaste
from factorlake.models.trained import TraceRow
from factorlake.pipelines.context import Context
from factorlake.pipelines.fit import fit
from factorlake.spark.compat import keep, release
from factorlake.spark.session import open_session
from factorlake.tables.names import Lake


def write_pairs(users: int, items: int, pairs: int, folder: Path, threads: int) -> Path:
    """Write planted pairs (user_id, item_id) with string ids as a few Parquet files and return their folder."""
    taste = PlantedTaste.make(users, items, seed=1)
    user, item = taste.sample_pairs(pairs, threads=threads)
    folder.mkdir(parents=True)
    for part, rows in enumerate(np.array_split(np.arange(len(user)), 8)):
        table = pa.table({"user": user[rows], "item": item[rows]})
        pq.write_table(table, folder / f"{part}.parquet")
    return folder


def ours(context: Context, pairs: DataFrame) -> dict[str, Any]:
    """Train by the fit that the train job uses; seconds per epoch are those of the trace."""
    rows: list[TraceRow] = []
    began = time.perf_counter()
    kept = keep(pairs)
    fitted = fit(context, kept, "benchmark", on_half_step=rows.append)
    total = time.perf_counter() - began
    fitted.release()
    release(kept)
    epochs = [
        sum(r.seconds for r in rows if r.epoch == e and r.state != "final") for e in range(1, fitted.model.epochs + 1)
    ]
    return {
        "plan": fitted.plan,
        "seconds_per_epoch": float(np.median(epochs)),
        "epoch_seconds": [round(s, 3) for s in epochs],
        "seconds_in_all": total,
        "loss_by_epoch": [float(r.loss) for r in rows if r.side == "item"],
        "final_loss": fitted.model.loss,
    }


def pyspark_ml(pairs: DataFrame, rank: int, alpha: float, regularization: float, epochs: int) -> dict[str, Any]:
    """Train pyspark.ml's ALS; the difference of two run lengths leaves its set-up out."""
    from pyspark.ml.recommendation import ALS

    numbered = pairs.select(
        F.col("user_id").cast("int").alias("user"),
        F.col("item_id").cast("int").alias("item"),
        F.lit(1.0).alias("rating"),
    ).cache()
    numbered.count()
    seconds = {}
    for iterations in (1, 1 + epochs):
        als = ALS(
            rank=rank,
            maxIter=iterations,
            regParam=regularization,
            implicitPrefs=True,
            alpha=alpha,
            userCol="user",
            itemCol="item",
            ratingCol="rating",
            numUserBlocks=8,
            numItemBlocks=8,
            seed=1,
        )
        began = time.perf_counter()
        als.fit(numbered).userFactors.count()
        seconds[iterations] = time.perf_counter() - began
    numbered.unpersist()
    return {
        "seconds_per_epoch": (seconds[1 + epochs] - seconds[1]) / epochs,
        "seconds_in_all": seconds[1 + epochs],
    }


def main() -> None:
    """Parse the arguments, run ours and the peers, print the result line."""
    if any(peer in argument for argument in sys.argv[1:] for peer in ("irspack", "implicit")):
        local_peers.main(sys.argv[1:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=138_493)
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--pairs", type=int, default=17_538_366)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--alpha", type=float, default=10.0)
    parser.add_argument("--regularization", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--peer-epochs", type=int, default=1, help="epochs of the peer that are timed")
    parser.add_argument("--plan", choices=["auto", "local", "broadcast"], default="auto")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="8g")
    parser.add_argument("--peers", default="", help="comma-separated: pyspark_ml")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        began = time.perf_counter()
        folder = write_pairs(given.users, given.items, given.pairs, Path(temporary) / "pairs", threads=2)
        print(f"planted {given.pairs:,} pairs in {time.perf_counter() - began:.0f} s", flush=True)
        settings = build(
            {
                "root": f"{temporary}/lake",
                "spark": {"master": given.master, "driver_memory": given.driver_memory},
                "train": {
                    "rank": given.rank,
                    "regularization": given.regularization,
                    "alpha": given.alpha,
                    "unobserved_weight": 1.0,
                    "epochs": given.epochs,
                    "early_stopping": None,
                    "plan": given.plan,
                    "threads": 2,
                },
            }
        )
        spark = open_session(settings.spark)
        pairs = spark.read.parquet(str(folder)).select(
            F.col("user").cast("string").alias("user_id"),
            F.col("item").cast("string").alias("item_id"),
            F.lit(1.0).alias("value"),
        )
        lake = Lake.at(settings.root, settings.recommender)
        context = Context(spark, settings, lake, "benchmark", lambda text: print(text, flush=True), "conf", lambda: 0)
        figures: dict[str, Any] = {"factorlake": ours(context, pairs)}
        figures["driver_python_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ratios = {}
        if "pyspark_ml" in given.peers.split(","):
            figures["pyspark_ml"] = pyspark_ml(pairs, given.rank, given.alpha, given.regularization, given.peer_epochs)
            ratios["pyspark_ml_over_factorlake_seconds_per_epoch"] = (
                figures["pyspark_ml"]["seconds_per_epoch"] / figures["factorlake"]["seconds_per_epoch"]
            )
        spark.stop()
    finish("train_als", vars(given), figures, ratios, given.keep)


if __name__ == "__main__":
    main()
