"""Training inside Spark beside pyspark.ml's ALS: seconds until our model is as good as the peer's last.

    python -m benchmarks.train_als --peers pyspark_ml --rank 64

One session that has trained a small model with each, the same frame of integer ids, the same objective (Spark's). The
clock starts at the frame and takes in all set-up. Our time is that of the first epoch after which the objective is at
most what the peer ends with and NDCG@10 not below the peer's by more than its standard error over users. Nobody looks
at the timed trainings: a last one, which has the same bits and is not timed, tells what each epoch reached. The exact
half step that ends our training comes after it: it is told apart (``seconds_last_half_step``), as is the time of the
finished model (``seconds_in_all``). The driver's peak memory includes the benchmark's own copies of the data. Ours is
trained ``--repeat`` times, one half before the peer and one after, and counts by the medians; the peer, which takes
minutes, once.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.local_peers import Course, Factors, Task, blocks_of, make_task, parser_of, told_course
from benchmarks.result import finish
from factorlake.config.settings import SparkSettings
from factorlake.models.objective import objective_value
from factorlake.models.parameters import AlsParameters
from factorlake.models.trained import Snapshot, TraceRow
from factorlake.spark.arrow_lists import matrix
from factorlake.spark.ids import Positions
from factorlake.spark.session import open_session
from factorlake.spark.training import Validation, fit_pairs


def write_rows(columns: dict[str, NDArray[Any]], folder: Path) -> None:
    """Write columns as a few Parquet files of shuffled rows."""
    folder.mkdir(parents=True)
    table = pa.table(columns)
    for part, rows in enumerate(np.array_split(np.random.default_rng(5).permutation(table.num_rows), 8)):
        pq.write_table(table.take(pa.array(rows)), folder / f"{part}.parquet")


class Rows:
    """Where the rows of a model trained on numbered ids belong: ids in the order of training."""

    def __init__(self, known: Positions, n: int) -> None:
        table = known.frame.select("position", F.col("id").cast("int").alias("id")).toArrow()
        self.place = np.empty(table.num_rows, np.int64)
        self.place[table["position"].to_numpy()] = table["id"].to_numpy()
        self.n = n

    def spread(self, rows: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return (n, columns) with the given rows in their places and zeros elsewhere."""
        spread = np.zeros((self.n, rows.shape[1]), rows.dtype)
        spread[self.place] = rows
        return spread


@dataclass(frozen=True)
class TimedFit:
    """Seconds of one of our trainings."""

    seconds: list[float]
    """From the frame to the end of each epoch."""
    seconds_around: float
    """From the frame to the first epoch."""
    told: dict[str, Any]


def timed_fit(spark: SparkSession, pairs: DataFrame, parameters: AlsParameters, plan: Any, workspace: str) -> TimedFit:
    """Train by what the train job and the drop-in call, with nobody looking on."""
    trace: list[TraceRow] = []
    ends: list[float] = []
    progress: list[str] = []
    began = time.perf_counter()

    def note(row: TraceRow) -> None:
        trace.append(row)
        ends.append(time.perf_counter() - began)

    fitted = fit_pairs(
        spark,
        pairs,
        parameters,
        workspace=workspace,
        plan=plan,
        threads=2,
        progress=progress.append,
        on_half_step=note,
    )
    in_all = time.perf_counter() - began
    fitted.release()
    around = ends[0] - trace[0].seconds
    epochs = np.zeros(parameters.epochs)
    for row in trace[:-1]:
        epochs[row.epoch - 1] += row.seconds
    told = {
        "plan": fitted.plan,
        "why": progress,
        "seconds_to_pack": around,
        "seconds_per_epoch": float(np.median(epochs)),
        "epoch_seconds": epochs.round(3).tolist(),
        "seconds_last_half_step": trace[-1].seconds,
        "seconds_in_all": in_all,
    }
    seconds = [end for end, row in zip(ends, trace, strict=True) if row.side == "item"]
    return TimedFit(seconds, around, told)


def look_at(
    spark: SparkSession,
    pairs: DataFrame,
    parameters: AlsParameters,
    plan: Any,
    workspace: str,
    shape: tuple[int, int],
    look: Callable[[Snapshot[Any], tuple[Rows, Rows]], None],
) -> None:
    """Train once more, not timed, and ``look`` at the model after each epoch: it has the same bits."""

    def metric(users: Positions, items: Positions) -> Callable[[int, Snapshot[Any]], float]:
        rows = Rows(users, shape[0]), Rows(items, shape[1])

        def count(epoch: int, now: Snapshot[Any]) -> float:
            look(now, rows)
            return float(epoch)

        return count

    validation = Validation(metric, larger_is_better=True)
    fit_pairs(spark, pairs, parameters, workspace=workspace, plan=plan, threads=2, validation=validation).release()


def course_of(
    spark: SparkSession,
    pairs: DataFrame,
    task: Task,
    parameters: AlsParameters,
    value: Callable[[Factors], float],
    plan: Any,
    workspace: str,
    timed: Sequence[TimedFit],
) -> Course:
    """Return the course of some timed runs of one training: the medians of their seconds, its objective and NDCG@10."""
    objective: list[float] = []
    ndcg: list[tuple[float, float]] = []

    def look(now: Snapshot[Any], rows: tuple[Rows, Rows]) -> None:
        factors = rows[0].spread(now.user_factors), rows[1].spread(now.item_factors)
        objective.append(value(factors))
        ndcg.append(task.ndcg(factors))

    look_at(spark, pairs, parameters, plan, workspace, task.train.shape, look)
    seconds = np.median([fit.seconds for fit in timed], axis=0).tolist()
    return Course(seconds, objective, ndcg, float(np.median([fit.seconds_around for fit in timed])))


def pyspark_ml(
    pairs: DataFrame, task: Task, given: Any, value: Callable[[Factors], float]
) -> tuple[Course, dict[str, Any]]:
    """Train pyspark.ml's ALS; only its last epoch can be looked at."""
    seconds, factors = timed_peer(_als(given, given.epochs), pairs, task.train.shape)
    course = Course([seconds], [value(factors)], [task.ndcg(factors)], 0.0)
    return course, {"epochs": given.epochs, "seconds_in_all": seconds}


def timed_peer(als: ALS, pairs: DataFrame, shape: tuple[int, int]) -> tuple[float, Factors]:
    """Return the seconds that pyspark.ml takes to train, and its factors by id, zeros where an id has none."""
    began = time.perf_counter()
    model = als.fit(pairs)
    model.userFactors.count()
    seconds = time.perf_counter() - began
    return seconds, (
        _by_id(model.userFactors, als.getRank(), shape[0]),
        _by_id(model.itemFactors, als.getRank(), shape[1]),
    )


def peer_als(given: Any, epochs: int, **more: Any) -> ALS:
    """Return pyspark.ml's estimator with the arguments' rank and λ."""
    return ALS(
        rank=given.rank,
        maxIter=epochs,
        regParam=given.regularization,
        userCol="user_id",
        itemCol="item_id",
        ratingCol="value",
        numUserBlocks=8,
        numItemBlocks=8,
        seed=1,
        **more,
    )


def rated(pairs: DataFrame) -> DataFrame:
    """Return pairs with the column of ones that pyspark.ml wants."""
    return pairs.withColumn("value", F.lit(1.0))


def _als(given: Any, epochs: int) -> ALS:
    return peer_als(given, epochs, implicitPrefs=True, alpha=given.alpha)


def _by_id(frame: DataFrame, rank: int, n: int) -> NDArray[np.float32]:
    table = frame.toArrow()
    rows = np.zeros((n, rank), np.float32)
    rows[table["id"].to_numpy()] = matrix(table["features"], rank)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run ours and the peer, print the result line."""
    parser = parser_of(__doc__)
    parser.add_argument("--plan", choices=["auto", "local", "broadcast", "shuffle"], default="auto")
    parser.add_argument("--peers", default="", help="comma-separated: pyspark_ml")
    parser.add_argument("--alpha", type=float, default=10.0)
    parser.add_argument("--regularization", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=3, help="of the peer")
    parser.add_argument("--own-epochs", type=int, default=None, help="of ours; as many and two more where not given")
    parser.add_argument("--repeat", type=int, default=3, help="trainings of ours, whose medians count")
    parser.add_argument("--init-scale", type=float, default=AlsParameters.init_scale, help="ours")
    parser.add_argument("--relaxation", type=float, default=AlsParameters.relaxation, help="ours; 1: none")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="8g")
    given = parser.parse_args(arguments)
    task = make_task(given.data, (given.users, given.items, given.pairs), given.cache)
    print(f"{task.train.nnz:,} pairs to train on", flush=True)
    parameters = AlsParameters(
        rank=given.rank,
        alpha=given.alpha,
        alpha0=1.0,
        regularization=given.regularization,
        init_scale=given.init_scale,
        relaxation=given.relaxation,
        epochs=given.own_epochs or given.epochs + 2,
        tolerance=None,
    )
    blocks, _ = blocks_of(task)

    def value(factors: Factors) -> float:
        return objective_value(blocks[0], blocks[1], factors[0], factors[1], parameters)

    figures: dict[str, Any] = {"pairs": task.train.nnz}
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        coo = task.train.tocoo()
        columns = {"user_id": coo.row.astype(np.int32), "item_id": coo.col.astype(np.int32)}
        write_rows(columns, Path(temporary) / "pairs")
        spark = open_session(SparkSettings(master=given.master, driver_memory=given.driver_memory))
        pairs = spark.read.parquet(f"{temporary}/pairs")
        # Both start in a session that has read the data once and trained a small model.
        few = pairs.where("user_id % 50 = 0").cache()
        fit_pairs(spark, few, replace(parameters, epochs=1), workspace=f"{temporary}/work").release()
        if "pyspark_ml" in given.peers.split(","):
            _als(given, epochs=1).fit(rated(few)).userFactors.count()
        few.unpersist()
        pairs.agg(F.sum("user_id"), F.sum("item_id")).collect()
        workspace = f"{temporary}/work"
        train = lambda: timed_fit(spark, pairs, parameters, given.plan, workspace)  # noqa: E731
        timed = [train() for _ in range((given.repeat + 1) // 2)]
        figures["driver_python_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if "pyspark_ml" in given.peers.split(","):
            peer, told_peer = pyspark_ml(rated(pairs), task, given, value)
            figures["pyspark_ml"] = told_course("pyspark.ml", peer) | told_peer
        timed += [train() for _ in range(given.repeat - len(timed))]
        own = course_of(spark, pairs, task, parameters, value, given.plan, workspace, timed)
        figures["factorlake"] = timed[0].told | told_course("factorlake", own)
        figures["factorlake"]["runs"] = [fit.seconds for fit in timed]
        for name in ("seconds_to_pack", "seconds_per_epoch", "seconds_last_half_step", "seconds_in_all"):
            figures["factorlake"][name] = float(np.median([fit.told[name] for fit in timed]))
            print(f"{name} {figures['factorlake'][name]:.2f}", flush=True)
        if "pyspark_ml" in figures:
            reached = own.until_as_good_as(peer)
            ratios["pyspark_ml"] = None if reached is None else peer.seconds[-1] / reached
            per_epoch = told_peer["seconds_in_all"] / given.epochs / figures["factorlake"]["seconds_per_epoch"]
            figures["pyspark_ml"]["seconds_in_all_by_epochs_over_our_epoch"] = per_epoch
        spark.stop()
    plan = "" if given.plan == "auto" else f"-{given.plan}"
    finish(f"train_als-spark-{given.data}-{given.rank}{plan}", vars(given), figures, ratios, given.keep)
