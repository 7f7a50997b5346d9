"""A hit that everyone has and a user who has everything: how evenly the work is spread, and whether the numbers hold.

    python -m benchmarks.skew

2 million pairs of 700,000 users and 150,000 items, one item with 30 % of the pairs and one user with 5 %. Each plan
trains on them; factors must be equal bit for bit. Tasks are those of the stages that solve rows, in a session that
thinks it has ``--slots`` slots (as many run at once as there are cores): ``longest_over_median`` is the worst stage's.
``hot_item_error`` and ``hot_user_error`` are the relative errors of the two rows beside normal equations in float64,
summed at once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from benchmarks.result import finish
from benchmarks.spark_peers import Rows
from factorlake.config.settings import SparkSettings
from factorlake.kernels.arrays import distinct
from factorlake.models.half_step import (
    Fixed,
    HalfStepTask,
    known_sums,
    segments_of,
    solve_one_block,
    sum_segment,
)
from factorlake.models.parameters import AlsParameters
from factorlake.models.threads import single_threaded_blas
from factorlake.spark.session import open_session
from factorlake.spark.training import Fitted, fit_pairs
from factorlake.types import FloatMatrix, PlanName, RatingBlock

HOT_ITEM_SHARE, HOT_USER_SHARE = 0.30, 0.05
PLANS: tuple[PlanName, ...] = ("local", "broadcast", "shuffle")


def skewed_pairs(users: int, items: int, pairs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return distinct pairs; user 0 and item 0 are the hot ones."""
    rng = np.random.default_rng(1)
    hot_item = rng.choice(np.arange(1, users), int(HOT_ITEM_SHARE * pairs), replace=False)
    hot_user = rng.choice(np.arange(1, items), int(HOT_USER_SHARE * pairs), replace=False)
    rest = pairs - len(hot_item) - len(hot_user)
    # A few more than are needed, since some are drawn twice.
    drawn = distinct(rng.integers(1, users, rest * 2) * np.int64(items) + rng.integers(1, items, rest * 2))
    drawn = rng.permutation(drawn)[:rest]
    u = np.concatenate([hot_item, np.zeros(len(hot_user), np.int64), drawn // items])
    i = np.concatenate([np.zeros(len(hot_item), np.int64), hot_user, drawn % items])
    return u.astype(np.int32), i.astype(np.int32)


def task_seconds(spark: SparkSession, work: Callable[[], Any]) -> tuple[Any, list[list[float]]]:
    """Return what ``work`` returns, and the run times of the tasks of each stage of the jobs it starts."""
    context = spark.sparkContext
    group = f"skew {time.monotonic_ns()}"
    context.setJobGroup(group, group)
    result = work()
    store, tracker = context._jsc.sc().statusStore(), context.statusTracker()
    stages = []
    for job in tracker.getJobIdsForGroup(group):
        told = tracker.getJobInfo(job)
        for stage in [] if told is None else told.stageIds:
            tasks = store.taskList(stage, 0, 100_000)
            found = [tasks.apply(n).taskMetrics() for n in range(tasks.size())]
            stages.append([one.get().executorRunTime() / 1e3 for one in found if one.isDefined()])
    return result, stages


def unsplit(neighbours: FloatMatrix, gram: NDArray[np.float64], parameters: AlsParameters) -> NDArray[np.float64]:
    """Return the row that minimises Σ (1 − x·f)² + α0 xᵀGx + λ|x|², by one product in float64."""
    wide = neighbours.astype(np.float64)
    matrix = wide.T @ wide + parameters.alpha0 * gram + parameters.regularization * np.eye(wide.shape[1])
    return np.linalg.solve(matrix, wide.sum(axis=0))


def in_segments(neighbours: FloatMatrix, gram: NDArray[np.float64], parameters: AlsParameters) -> NDArray[np.float64]:
    """Return the same row as a half step gives it, each segment summed by itself."""
    eigenvalues, basis = np.linalg.eigh(gram)
    n = len(neighbours)
    fixed = Fixed(neighbours @ basis.astype(np.float32), None)
    places = np.arange(n, dtype=np.int32)
    block = RatingBlock(0, np.array([0, n]), places, None, np.zeros(1, np.int64))
    task = HalfStepTask("item", parameters, 0, parameters.alpha0 * eigenvalues, None, "exact", 0, 0.0)
    segments = segments_of(block.row_ptr)
    with single_threaded_blas():
        sums = [sum_segment(task, block, one, places[one.first : one.last], fixed) for one in segments]
        rows, _ = solve_one_block(task, block, fixed, None, known_sums(segments, sums))
    return basis @ rows[0].astype(np.float64)


def error(found: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, train under every plan, print the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=700_000)
    parser.add_argument("--items", type=int, default=150_000)
    parser.add_argument("--pairs", type=int, default=2_000_000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--slots", type=int, default=8, help="slots that work is spread for")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args(arguments)
    u, i = skewed_pairs(given.users, given.items, given.pairs)
    parameters = AlsParameters(rank=given.rank, epochs=given.epochs, tolerance=None, nu=0.0, regularization=1.0)
    figures: dict[str, Any] = {"pairs": len(u), "hot_item_pairs": int((i == 0).sum())}
    conf = {"spark.default.parallelism": str(given.slots)}
    spark = open_session(SparkSettings(master="local[2]", driver_memory="4g", conf=conf))
    bits = {}
    with tempfile.TemporaryDirectory() as temporary:
        pq.write_table(pa.table({"user_id": u, "item_id": i}), Path(temporary) / "pairs.parquet")
        pairs = spark.read.parquet(f"{temporary}/pairs.parquet").repartition(8)

        def fit(frame: DataFrame, plan: PlanName, parameters: AlsParameters) -> Fitted:
            return fit_pairs(spark, frame, parameters, workspace=f"{temporary}/work", plan=plan, threads=2)

        for plan in PLANS:
            # Workers are up and kernels read.
            fit(pairs.where("user_id % 50 = 1"), plan, replace(parameters, epochs=1)).release()
            began = time.perf_counter()
            fitted, stages = task_seconds(spark, lambda plan=plan: fit(pairs, plan, parameters))  # type: ignore[misc]
            told: dict[str, Any] = {"seconds": time.perf_counter() - began}
            shares = [max(stage) / float(np.median(stage)) for stage in stages if len(stage) > 2 and min(stage) > 0]
            if plan != "local":
                told["longest_over_median"] = max(shares, default=None)
                told["stages"] = len(shares)
            bits[plan] = fitted.model.users.whole().tobytes(), fitted.model.items.whole().tobytes()
            users, items = (
                Rows(known, n).spread(rows.whole())
                for known, rows, n in (
                    (fitted.users, fitted.model.users, given.users),
                    (fitted.items, fitted.model.items, given.items),
                )
            )
            gram = fitted.model.item_gram
            fitted.release()
            figures[plan] = told
            print(plan, told, flush=True)
        assert gram is not None
        user_gram = users.astype(np.float64).T @ users.astype(np.float64)
        figures["hot_user_error"] = error(users[0], unsplit(items[i[u == 0]], gram, parameters))
        seen = users[u[i == 0]]
        figures["hot_item_error"] = error(
            in_segments(seen, user_gram, parameters), unsplit(seen, user_gram, parameters)
        )
        figures["equal_bits"] = bits["broadcast"] == bits["local"] == bits["shuffle"]
    spark.stop()
    finish("skew", vars(given), figures, {}, given.keep)


if __name__ == "__main__":
    main()
