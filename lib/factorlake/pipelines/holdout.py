"""What a model may learn from and what judges it: splits by columns, and the held-out metric of each epoch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from factorlake.evaluation.ranking import ranking_metrics
from factorlake.kernels.top_k import top_k
from factorlake.models.trained import Snapshot
from factorlake.spark.ids import Positions

# Users that the metric of an epoch looks at: enough for a steady curve, few enough to cost little beside the epoch.
VALIDATION_USERS = 2_000
VALIDATION_K = 10


def cutoff_of(newest: datetime | None, holdout_days: float | None) -> datetime | None:
    """Return the newest event's time less the holdout; None where there is no holdout or no time."""
    if newest is None or not holdout_days:
        return None
    return newest - timedelta(days=holdout_days)


def split_events(
    events: DataFrame, split: str, cutoff: datetime | None, test_share: float, seed: int
) -> tuple[DataFrame, DataFrame]:
    """Return (known, held out) events: the rules of factorlake.evaluation.splits as columns.

    time: up to the cut-off and after it. leave_last_out: each user's last item, with all events of the pair. hash:
    about ``test_share`` of the pairs. None depends on the order of rows.
    """
    if split == "time":
        after = F.col("event_time") > F.lit(cutoff)
        return events.where(~after), events.where(after)
    if split == "hash":
        pair = F.xxhash64(F.lit(seed).cast("bigint"), F.xxhash64("user_id"), F.xxhash64("item_id"))
        held = F.shiftrightunsigned(pair, 11) < F.lit(test_share * 2.0**53)
        return events.where(~held), events.where(held)
    pairs = events.groupBy("user_id", "item_id").agg(F.max("event_time").alias("last"))
    by_user = Window.partitionBy("user_id")
    newest_first = by_user.orderBy(F.desc("last"), F.xxhash64("item_id").desc(), F.desc("item_id"))
    ranked = pairs.withColumn("n", F.row_number().over(newest_first)).withColumn("of", F.count(F.lit(1)).over(by_user))
    last = ranked.where((F.col("n") == 1) & (F.col("of") > 1)).select("user_id", "item_id")
    key = ["user_id", "item_id"]
    return events.join(last, on=key, how="left_anti"), events.join(last, on=key, how="left_semi")


def chosen_by_hash(frame: DataFrame, n: int, total: int) -> DataFrame:
    """Return about ``n`` of the users of a frame with ``total`` users, the same ones for the same ids."""
    if total <= n:
        return frame
    return frame.where(F.pmod(F.xxhash64(F.lit("sample"), "user_id"), F.lit(total)) < n)


def epoch_metric(
    metric: str, known: DataFrame, held: DataFrame
) -> Callable[[Positions, Positions], Callable[[int, Snapshot], float]]:
    """Return what makes the held-out metric of an epoch: NDCG@10 or RMSE of held-out pairs.

    known, held : (user_id, item_id, value) pairs before and after the split. Users and items without a position are
    left out, and so are pairs that were known before.
    """

    def with_positions(users: Positions, items: Positions) -> Callable[[int, Snapshot], float]:
        u = users.frame.select(F.col("id").alias("user_id"), F.col("position").alias("u"))
        i = items.frame.select(F.col("id").alias("item_id"), F.col("position").alias("i"))
        sampled = chosen_by_hash(held, VALIDATION_USERS, users.n_ids)
        new = sampled.join(known.select("user_id", "item_id"), on=["user_id", "item_id"], how="left_anti")
        truth = new.join(u, on="user_id").join(i, on="item_id").select("u", "i", "value").toArrow()
        truth_u, truth_i = truth["u"].to_numpy(), truth["i"].to_numpy()
        if metric == "rmse":
            return lambda _, model: _rmse(model, truth_u, truth_i, truth["value"].to_numpy())
        judged = np.unique(truth_u)
        asked = new.select("user_id").distinct().join(u, on="user_id")
        seen = known.join(asked, on="user_id").join(i, on="item_id").select("u", "i").toArrow()
        truth_ptr, truth_items = _by_row(judged, truth_u, truth_i)
        seen_ptr, seen_items = _by_row(judged, seen["u"].to_numpy(), seen["i"].to_numpy())

        def ndcg(_: int, model: Snapshot) -> float:
            if not len(judged):
                return 0.0
            ties = np.arange(len(model.item_factors), dtype=np.int64)
            users_now = np.ascontiguousarray(model.user_factors[judged], np.float32)
            items_now = np.ascontiguousarray(model.item_factors, np.float32)
            lists, _scores = top_k(users_now, items_now, VALIDATION_K, seen_ptr, seen_items, ties)
            return float(np.mean(ranking_metrics(lists, truth_ptr, truth_items, VALIDATION_K)[f"ndcg@{VALIDATION_K}"]))

        return ndcg

    return with_positions


def _by_row(rows: np.ndarray, owner: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (row pointers, ascending items) of the given sorted rows; owners that are no row are left out."""
    place = np.searchsorted(rows, owner)
    place[place == len(rows)] = 0
    kept = rows[place] == owner if len(rows) else np.zeros(len(owner), bool)
    order = np.lexsort((items[kept], place[kept]))
    row_ptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.bincount(place[kept], minlength=len(rows)), out=row_ptr[1:])
    return row_ptr, items[kept][order].astype(np.int32)


def _rmse(model: Snapshot, users: np.ndarray, items: np.ndarray, ratings: np.ndarray) -> float:
    predicted = np.einsum("nk,nk->n", model.user_factors[users], model.item_factors[items], dtype=np.float64)
    predicted += model.mean
    if model.user_biases is not None and model.item_biases is not None:
        predicted += model.user_biases[users] + model.item_biases[items]
    return float(np.sqrt(np.mean((ratings - predicted) ** 2))) if len(ratings) else 0.0
