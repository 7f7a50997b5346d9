"""Peers of the quality benchmark, judged by the same code on the same split: item neighbours, and pyspark.ml's ALS.

pyspark.ml gets a search of twenty points, λ by α at the rank of ours, on the validation part; its best is trained on
what is known, with as many seeds as ours, and judged on the part that is asked for.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.quality_tasks import TASKS, Figures, Task, mean_figures
from factorlake.models.neighbours import NeighbourRules, cosine_neighbours, recommend_from_items

NEIGHBOURS = (20, 50, 100, 200)
REG_PARAMS = (0.003, 0.01, 0.03, 0.1, 0.3)
ALPHAS = (1.0, 5.0, 20.0, 80.0)
RANK, EPOCHS = 64, 10


def peer_figures(given: argparse.Namespace, tasks: Sequence[Task]) -> dict[str, dict[str, Any]]:
    """Return the figures of the peers that are asked for."""
    asked = [name for name in given.peers.split(",") if name]
    if not asked:
        return {}
    validation = TASKS[given.data](given.folder / given.data, "validation")
    told: dict[str, dict[str, Any]] = {}
    if "item_knn" in asked:
        n = max(NEIGHBOURS, key=lambda n: _headline(mean_figures([item_knn(task, n) for task in validation])))
        told["item_knn"] = {**mean_figures([item_knn(task, n) for task in tasks]), "neighbours": n}
    if "pyspark_ml" in asked:
        told["pyspark_ml"] = _best_of_spark(validation, tasks, range(1, given.seeds + 1))
    return told


def _headline(figures: Figures) -> float:
    return figures["ndcg@10"] if "ndcg@10" in figures else figures["ndcg@20"]


def item_knn(task: Task, n: int) -> Figures:
    """Return the figures of the recommender by weighted item neighbours: cosine on what is known, sums."""
    n_users, n_items = len(task.packed.user_ids), len(task.packed.item_ids)
    ties = np.arange(n_items)
    neighbours = cosine_neighbours(task.packed.item_blocks, n_users, NeighbourRules(n=n), ties, threads=2)
    k = max(task.cutoffs)
    listed = recommend_from_items(task.packed.user_blocks, neighbours, k, ties, mean=False, threads=2)
    return task.ranked_lists(lambda rows: listed.entries[rows])


def _best_of_spark(validation: Sequence[Task], tasks: Sequence[Task], seeds: Sequence[int]) -> dict[str, Any]:
    from factorlake.config.settings import SparkSettings
    from factorlake.spark.session import open_session

    spark = open_session(SparkSettings(driver_memory="4g"))
    spark.sparkContext.setLogLevel("ERROR")
    try:
        points: list[dict[str, float]] = []
        frames = [_frame(spark, task) for task in validation]
        for reg_param, alpha in itertools.product(REG_PARAMS, ALPHAS):
            told = mean_figures(
                [_spark_figures(frame, task, reg_param, alpha) for frame, task in zip(frames, validation, strict=True)]
            )
            points.append({"reg_param": reg_param, "alpha": alpha, "value": _headline(told)})
            print(f"    pyspark.ml λ {reg_param} α {alpha}: {points[-1]['value']:.4f}", flush=True)
        best = max(points, key=lambda point: point["value"])
        each = [
            _spark_figures(_frame(spark, task), task, best["reg_param"], best["alpha"], seed)
            for task, seed in itertools.product(tasks, seeds)
        ]
        told = mean_figures(each)
        return {**told, "seeds": list(seeds), "best": best, "points": points, "rank": RANK, "epochs": EPOCHS}
    finally:
        spark.stop()


def _frame(spark: Any, task: Task) -> Any:
    blocks = task.packed.user_blocks
    users = np.concatenate([np.repeat(np.arange(b.n_rows) + b.first_row, np.diff(b.row_ptr)) for b in blocks])
    items = np.concatenate([b.neighbours for b in blocks])
    values = np.concatenate([np.ones(b.n_obs, np.float32) if b.values is None else b.values for b in blocks])
    table = pa.table({"user": users.astype(np.int32), "item": items.astype(np.int32), "value": values})
    return spark.createDataFrame(table).repartition(2).cache()


def _spark_figures(frame: Any, task: Task, reg_param: float, alpha: float, seed: int = 1) -> Figures:
    from pyspark.ml.recommendation import ALS

    als = ALS(
        rank=RANK,
        maxIter=EPOCHS,
        regParam=reg_param,
        alpha=alpha,
        implicitPrefs=True,
        userCol="user",
        itemCol="item",
        ratingCol="value",
        numUserBlocks=2,
        numItemBlocks=2,
        seed=seed,
    )
    model = als.fit(frame)
    return task.judge(_Rows(_by_id(model.userFactors, len(task.packed.user_ids)),
                            _by_id(model.itemFactors, len(task.packed.item_ids))))  # type: ignore[arg-type]  # fmt: skip


class _Rows:
    """Factors as a task judges them."""

    mean, user_biases, item_biases = 0.0, None, None

    def __init__(self, users: NDArray[np.float32], items: NDArray[np.float32]) -> None:
        self.user_factors, self.item_factors = users, items


def _by_id(frame: Any, n: int) -> NDArray[np.float32]:
    table = frame.toArrow()
    rows = np.zeros((n, RANK), np.float32)
    rows[table["id"].to_numpy()] = np.stack(table["features"].to_numpy(zero_copy_only=False))
    return rows
