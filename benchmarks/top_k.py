"""Seconds for the ten best items of all users, what they have seen left out, beside implicit and pyspark.ml.

    python -m benchmarks.top_k --peers implicit,pyspark_ml

The factors are those of a model trained on planted pairs (138,493 users, 26,744 items, 17.5 million by default): a
trained model's items differ in norm, random ones do not. The first part scores in memory, two threads each, against
implicit's `recommend`, and beside it the bare sgemm of all users with all items. The second part runs inside Spark:
factors and pairs from Parquet, lists of all users to a Delta table, against pyspark.ml's `recommendForAllUsers` on the
same factors, which removes nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.result import finish
from factorlake.config.settings import SparkSettings
from factorlake.evaluation.planted import PlantedTaste
from factorlake.kernels.top_k import top_k
from factorlake.models.als import train
from factorlake.models.blocks import number_of_blocks, pack_positions
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.threads import single_threaded_blas
from factorlake.spark.exchange import Exchange
from factorlake.spark.item_side import load_items
from factorlake.spark.scorer import score_top_k
from factorlake.spark.session import open_session
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS

K = 10
THREADS = 2


class Trained(NamedTuple):
    """A trained model and what its users have seen, by position."""

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    seen_ptr: NDArray[np.int64]
    seen_items: NDArray[np.int32]


def trained(users: int, items: int, pairs: int, rank: int, epochs: int, cache: Path | None) -> Trained:
    """Plant pairs and train on them; with ``cache``, take what an earlier call with these numbers left there."""
    kept = None if cache is None else cache / f"top_k-{users}-{items}-{pairs}-{rank}-{epochs}.npz"
    if kept is not None and kept.exists():
        with np.load(kept, allow_pickle=False) as arrays:
            return Trained(*(arrays[name] for name in Trained._fields))
    user, item = PlantedTaste.make(users, items, seed=1).sample_pairs(pairs, threads=THREADS)
    user, item = (np.unique(side, return_inverse=True)[1].astype(np.int32) for side in (user, item))
    hashes = [
        np.sort(np.random.default_rng(side).integers(-(2**63), 2**63 - 1, n)) for side, n in enumerate((users, items))
    ]
    user_blocks, item_blocks = pack_positions(
        user, item, None, hashes[0][: user.max() + 1], hashes[1][: item.max() + 1]
    )
    parameters = AlsParameters(rank=rank, epochs=epochs, alpha=10.0, alpha0=1.0, regularization=0.05, tolerance=None)
    with LocalPlan(user_blocks, item_blocks, parameters, THREADS) as plan:
        model = train(plan, parameters)
    counts = np.concatenate([np.diff(block.row_ptr) for block in user_blocks])
    made = Trained(
        model.user_factors,
        model.item_factors,
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([block.neighbours for block in user_blocks]),
    )
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **made._asdict())
    return made


def seconds_of(work: Callable[[], Any], repeat: int) -> list[float]:
    """Return the seconds of each of ``repeat`` calls."""
    seconds = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


def bare_sgemm(model: Trained) -> None:
    """Multiply all users with all items, tile by tile, and keep nothing."""
    users, items = model.user_factors, model.item_factors
    tile, across = 256, 4096

    def multiply(first: int) -> None:
        product = np.empty((tile, across), np.float32)
        rows = users[first : first + tile]
        for column in range(0, len(items), across):
            part = items[column : column + across]
            np.matmul(rows, part.T, out=product[: len(rows), : len(part)])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(multiply, range(0, len(users), tile)))


def in_memory(model: Trained, repeat: int, with_implicit: bool) -> dict[str, Any]:
    """Time the kernel, bare sgemm and implicit on the same arrays, in turn."""
    ties = np.arange(len(model.item_factors))
    found: dict[str, NDArray[np.int32]] = {}

    def ours() -> None:
        found["factorlake"] = top_k(
            model.user_factors, model.item_factors, K, model.seen_ptr, model.seen_items, ties, threads=THREADS
        )[0]

    works: dict[str, Callable[[], None]] = {"factorlake": ours, "sgemm": lambda: bare_sgemm(model)}
    if with_implicit:
        from implicit.cpu.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix

        peer = AlternatingLeastSquares(factors=model.item_factors.shape[1], num_threads=THREADS)
        peer.user_factors, peer.item_factors = model.user_factors, model.item_factors
        shape = (len(model.user_factors), len(model.item_factors))
        ones = np.ones(len(model.seen_items), np.float32)
        seen = csr_matrix((ones, model.seen_items, model.seen_ptr), shape=shape)

        def implicit() -> None:
            found["implicit"] = peer.recommend(np.arange(shape[0]), seen, N=K, filter_already_liked_items=True)[0]

        works["implicit"] = implicit
    few = Trained(model.user_factors[:512], model.item_factors, model.seen_ptr[:513], model.seen_items)
    top_k(*few[:2], K, *few[2:], ties)  # loads the compiled kernel
    with single_threaded_blas():
        figures: dict[str, Any] = {f"{name}_seconds": seconds_of(work, repeat) for name, work in works.items()}
    if with_implicit:
        figures["share_of_equal_places"] = float(np.mean(found["implicit"] == found["factorlake"]))
    return figures


def write_tables(model: Trained, folder: Path) -> None:
    """Write factors and pairs with string ids, as a job would find them, and pyspark.ml's model of the same factors."""
    for side, factors in (("user", model.user_factors), ("item", model.item_factors)):
        flat = pa.array(factors.reshape(-1))
        rows = pa.ListArray.from_arrays(pa.array(np.arange(len(factors) + 1, dtype=np.int32) * factors.shape[1]), flat)
        numbers = pa.array(np.arange(len(factors), dtype=np.int32))
        ids = numbers.cast(pa.string())
        bias = pa.array(np.zeros(len(factors), np.float32))
        counts = np.diff(model.seen_ptr) if side == "user" else np.bincount(model.seen_items, minlength=len(factors))
        ours = pa.table({"id": ids, "factor": rows, "bias": bias, "n_observed": pa.array(counts)})
        pq.write_table(ours, folder / f"{side}_factors.parquet")
        peer = folder / "als" / f"{side}Factors"
        peer.mkdir(parents=True)
        pq.write_table(pa.table({"id": numbers, "features": rows}), peer / "part.parquet")
    owners = np.repeat(np.arange(len(model.user_factors)), np.diff(model.seen_ptr))
    (folder / "pairs").mkdir()
    for part, rows_of_part in enumerate(np.array_split(np.arange(len(owners)), 8)):
        pairs = {
            "user_id": pa.array(owners[rows_of_part]).cast(pa.string()),
            "item_id": pa.array(model.seen_items[rows_of_part]).cast(pa.string()),
        }
        pq.write_table(pa.table(pairs), folder / "pairs" / f"{part}.parquet")
    metadata = {
        "class": "org.apache.spark.ml.recommendation.ALSModel",
        "timestamp": 0,
        "sparkVersion": "4.0.0",
        "uid": "ALS_benchmark",
        "paramMap": {},
        "defaultParamMap": {
            "userCol": "user", "itemCol": "item", "predictionCol": "prediction", "coldStartStrategy": "nan",
            "blockSize": 4096,
        },
        "rank": model.item_factors.shape[1],
    }  # fmt: skip
    (folder / "als" / "metadata").mkdir()
    (folder / "als" / "metadata" / "part-00000").write_text(json.dumps(metadata) + "\n")


def ours_in_spark(spark: SparkSession, folder: Path, n_pairs: int) -> None:
    """Write lists from the tables of `write_tables`."""
    factors = {side: spark.read.parquet(str(folder / f"{side}_factors.parquet")) for side in ("user", "item")}
    seen = spark.read.parquet(str(folder / "pairs"))
    write_lists(spark, factors["user"], factors["item"], seen, K, n_pairs, str(folder))


def write_lists(
    spark: SparkSession, users: DataFrame, items: DataFrame, seen: DataFrame, k: int, n_pairs: int, folder: str
) -> None:
    """What the recommend job does: item side, scorer, one commit of the lists."""
    with Exchange(spark, f"{folder}/exchange") as exchange:
        side = load_items(items, exchange, 0.0)
        lists = score_top_k(users.withColumnRenamed("id", "user_id"), seen, side.shipped, k, number_of_blocks(n_pairs))
        delta_io.overwrite(spark, lists, f"{folder}/lists", SCHEMAS["lists"], run_id="benchmark")


def pyspark_ml_lists(spark: SparkSession, folder: Path) -> DataFrame:
    """The peer's lists, one row a rank as ours are."""
    from pyspark.ml.recommendation import ALSModel

    listed = ALSModel.load(str(folder / "als")).recommendForAllUsers(K)
    return listed.select("user", F.posexplode("recommendations")).select(
        "user", (F.col("pos") + 1).alias("rank"), "col.item", "col.rating"
    )


def in_spark(model: Trained, repeat: int, driver_memory: str, with_pyspark_ml: bool) -> dict[str, Any]:
    """Time both from Parquet to a written Delta table, in one session; ours once more before, to warm it up."""
    spark = open_session(SparkSettings(master=f"local[{THREADS}]", driver_memory=driver_memory))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tables(model, folder)
        work = lambda: ours_in_spark(spark, folder, len(model.seen_items))  # noqa: E731
        work()
        figures: dict[str, Any] = {"factorlake_spark_seconds": seconds_of(work, repeat)}
        lists = delta_io.read(spark, str(folder / "lists"))
        figures["rows_written"] = lists.count()
        if with_pyspark_ml:
            peer = lambda: pyspark_ml_lists(spark, folder).write.format("delta").save(str(folder / "peer"))  # noqa: E731
            figures["pyspark_ml_seconds"] = seconds_of(peer, 1)
    spark.stop()
    return figures


def main() -> None:
    """Parse the arguments, run ours and the peers, print the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=138_493)
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--pairs", type=int, default=17_538_366)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4, help="epochs of the model whose lists are made")
    parser.add_argument("--first", type=int, help="list these many users only; the model is that of all")
    parser.add_argument("--parts", default="memory,spark", help="comma-separated: memory, spark")
    parser.add_argument("--peers", default="", help="comma-separated: implicit, pyspark_ml")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--driver-memory", default="8g")
    parser.add_argument("--cache", type=Path, help="folder that keeps the trained model between runs")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args()
    peers, parts = given.peers.split(","), given.parts.split(",")
    model = trained(given.users, given.items, given.pairs, given.rank, given.epochs, given.cache)
    if given.first is not None:
        ptr = model.seen_ptr[: given.first + 1]
        model = Trained(model.user_factors[: given.first], model.item_factors, ptr, model.seen_items[: ptr[-1]])
    print(f"a model of {len(model.item_factors):,} items, lists for {len(model.user_factors):,} users", flush=True)
    figures: dict[str, Any] = {"users_listed": len(model.user_factors)}
    ratios = {}
    if "memory" in parts:
        figures |= in_memory(model, given.repeat, "implicit" in peers)
        ours = float(np.median(figures["factorlake_seconds"]))
        ratios["sgemm"] = float(np.median(figures["sgemm_seconds"])) / ours
        if "implicit" in peers:
            ratios["implicit"] = float(np.median(figures["implicit_seconds"])) / ours
    if "spark" in parts:
        figures |= in_spark(model, given.repeat, given.driver_memory, "pyspark_ml" in peers)
        if "pyspark_ml" in peers:
            ratios["pyspark_ml"] = figures["pyspark_ml_seconds"][0] / float(
                np.median(figures["factorlake_spark_seconds"])
            )
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.1f} times our seconds", flush=True)
    finish("top_k", vars(given), figures, ratios, given.keep)


if __name__ == "__main__":
    main()
