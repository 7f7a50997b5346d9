"""What a model may learn from and what judges it: splits by columns, and the held-out metric of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from factorlake.evaluation.ranking import ranking_metrics
from factorlake.kernels.arrays import distinct
from factorlake.kernels.top_k import top_k
from factorlake.models.plan import Rows
from factorlake.models.trained import Snapshot
from factorlake.spark.compat import keep, release
from factorlake.spark.ids import Positions
from factorlake.types import FloatMatrix

# Users that the metric of an epoch looks at: enough for a steady curve, few enough to cost little beside the epoch.
VALIDATION_USERS = 2_000
VALIDATION_K = 10
ITEMS_AT_ONCE = 50_000
PAIR = ["user_id", "item_id"]


def cutoff_of(newest: datetime | None, holdout_days: float | None) -> datetime | None:
    """Return the newest event's time less the holdout; None where there is no holdout or no time."""
    if newest is None or not holdout_days:
        return None
    return newest - timedelta(days=holdout_days)


def split_events(
    events: DataFrame, split: str, cutoff: datetime | None, test_share: float, seed: int, last_n: int = 1
) -> tuple[DataFrame, DataFrame]:
    """Return (known, held out) events: the rules of factorlake.evaluation.splits as columns.

    time: up to the cut-off and after it. last_n: each user's last items, at most ``last_n`` and never the oldest, with
    all events of their pairs. hash: about ``test_share`` of the pairs. per_user: about that share of each user's pairs.
    None depends on the order of rows.
    """
    if split == "time":
        after = F.col("event_time") > F.lit(cutoff)
        return events.where(~after), events.where(after)
    if split == "hash":
        held = pair_hash(seed) < F.lit(test_share * 2.0**53)
        return events.where(~held), events.where(held)
    if split == "per_user":
        most = F.greatest(F.lit(1), F.floor(F.lit(test_share) * F.col("n") + 0.5))
        return _without_held(events, _placed(events, seed).where(F.col("place") <= F.least(F.col("n") - 1, most)))
    pairs = events.groupBy("user_id", "item_id").agg(F.max("event_time").alias("last"))
    by_user = Window.partitionBy("user_id")
    newest_first = by_user.orderBy(F.desc("last"), F.xxhash64("item_id").desc(), F.desc("item_id"))
    ranked = pairs.withColumn("n", F.row_number().over(newest_first)).withColumn("of", F.count(F.lit(1)).over(by_user))
    last = ranked.where((F.col("n") <= last_n) & (F.col("n") < F.col("of"))).select(*PAIR)
    return _without_held(events, last)


def fold_by_user(events: DataFrame, seed: int, number: int, folds: int) -> tuple[DataFrame, DataFrame]:
    """Return (known, held out) events of one of several folds: `factorlake.evaluation.splits.per_user_fold`."""
    turn = F.pmod(F.xxhash64("user_id"), F.lit(folds))
    own = F.pmod(F.col("place") - 1 + turn, F.lit(folds)) == number
    return _without_held(events, _placed(events, seed).where((F.col("n") > 1) & own))


def pair_hash(seed: int) -> Column:
    """Return the 53 leading bits of the hash of a row's pair."""
    pair = F.xxhash64(F.lit(seed).cast("bigint"), F.xxhash64("user_id"), F.xxhash64("item_id"))
    return F.shiftrightunsigned(pair, 11)


def _placed(events: DataFrame, seed: int) -> DataFrame:
    """Return each pair with its place among its user's pairs by hash, from 1, and how many those are (n)."""
    by_user = Window.partitionBy("user_id")
    by_hash = by_user.orderBy(pair_hash(seed), F.xxhash64("item_id"), F.col("item_id"))
    pairs = events.select(*PAIR).distinct()
    return pairs.withColumn("place", F.row_number().over(by_hash)).withColumn("n", F.count(F.lit(1)).over(by_user))


def _without_held(events: DataFrame, pairs: DataFrame) -> tuple[DataFrame, DataFrame]:
    held = pairs.select(*PAIR)
    return without_pairs(events, held), events.join(held, on=PAIR, how="left_semi")


def without_pairs(events: DataFrame, pairs: DataFrame) -> DataFrame:
    """Return the events of none of these (user_id, item_id) pairs."""
    return events.join(pairs.select(*PAIR), on=PAIR, how="left_anti")


def chosen_by_hash(frame: DataFrame, n: int, total: int) -> DataFrame:
    """Return about ``n`` of the users of a frame with ``total`` users, the same ones for the same ids."""
    if total <= n:
        return frame
    return frame.where(F.pmod(F.xxhash64(F.lit("sample"), "user_id"), F.lit(total)) < n)


def epoch_metric(
    metric: str, known: DataFrame, held: DataFrame
) -> Callable[[Positions, Positions], Callable[[int, Snapshot[Any]], float]]:
    """Return what makes the held-out metric of an epoch: NDCG@10 or RMSE of held-out pairs.

    known, held : (user_id, item_id, value) pairs before and after the split. Users and items without a position are
    left out, and so are pairs that were known before and, where lists are judged, values that are not positive. Of more
    than VALIDATION_USERS users that are left about as many are judged. The metric is NaN where none is left.
    """

    def with_positions(users: Positions, items: Positions) -> Callable[[int, Snapshot[Any]], float]:
        u = users.frame.select(F.col("id").alias("user_id"), F.col("position").alias("u"))
        i = items.frame.select(F.col("id").alias("item_id"), F.col("position").alias("i"))
        told = held if metric == "rmse" else held.where(F.col("value") > 0)
        new = without_pairs(told, known)
        placed = keep(new.join(u, on="user_id").join(i, on="item_id").select("user_id", "u", "i", "value"))
        try:
            n_users = placed.agg(F.countDistinct("u")).collect()[0][0]
            chosen = chosen_by_hash(placed, VALIDATION_USERS, n_users)
            truth = chosen.select("u", "i", "value").toArrow()
            asked = chosen.select("user_id", "u").distinct()
            told_of = known.join(asked, on="user_id").join(i, on="item_id").select("u", "i")
            seen = None if metric == "rmse" else told_of.toArrow()
        finally:
            release(placed)
        truth_u, truth_i = truth["u"].to_numpy(), truth["i"].to_numpy()
        if seen is None:
            return lambda _, model: _rmse(model, truth_u, truth_i, truth["value"].to_numpy())
        judged = distinct(truth_u)
        truth_ptr, truth_items = _by_row(judged, truth_u, truth_i)
        seen_ptr, seen_items = _by_row(judged, seen["u"].to_numpy(), seen["i"].to_numpy())

        def ndcg(_: int, model: Snapshot[Any]) -> float:
            if not len(judged):
                return float("nan")
            users_now = np.array(model.users.at(judged))
            # The items' biases rank too; the user's own moves all of a list alike.
            users_now[:, model.rank :] = 1
            lists = _best_by_blocks(users_now, model.items, seen_ptr, seen_items)
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


def _best_by_blocks(users: FloatMatrix, items: Rows, seen_ptr: np.ndarray, seen_items: np.ndarray) -> np.ndarray:
    """Return each user's best VALIDATION_K items by position, −1 where there are fewer; ties by position.

    The items come block by block, so that no more than some of them need be in memory; scores do not depend on it.
    """
    n_users = len(users)
    best, scores = np.empty((n_users, 0), np.int64), np.empty((n_users, 0), np.float32)
    owner = np.repeat(np.arange(n_users), np.diff(seen_ptr))
    first = 0
    for rows in _joined_blocks(items):
        last = first + len(rows)
        of_these = (seen_items >= first) & (seen_items < last)
        ptr = np.concatenate([[0], np.cumsum(np.bincount(owner[of_these], minlength=n_users))])
        ties = np.arange(len(rows), dtype=np.int64)
        found, found_scores = top_k(users, rows, VALIDATION_K, ptr, seen_items[of_these] - first, ties)
        best = np.concatenate([best, np.where(found < 0, -1, found + first)], axis=1)
        scores = np.concatenate([scores, found_scores], axis=1)
        # Blocks come by position: of equal scores the earlier stays in front.
        order = np.argsort(-scores, axis=1, kind="stable")[:, :VALIDATION_K]
        best, scores = np.take_along_axis(best, order, axis=1), np.take_along_axis(scores, order, axis=1)
        first = last
    return best


def _joined_blocks(items: Rows) -> Iterator[FloatMatrix]:
    """Yield an item side's rows in order, several blocks at a time where they are small."""
    waiting: list[FloatMatrix] = []
    for rows in items.blocks():
        waiting.append(rows)
        if sum(len(part) for part in waiting) >= ITEMS_AT_ONCE:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _rmse(model: Snapshot[Any], users: np.ndarray, items: np.ndarray, ratings: np.ndarray) -> float:
    x, y, rank = model.users.at(users), model.items.at(items), model.rank
    predicted = np.einsum("nk,nk->n", x[:, :rank], y[:, :rank], dtype=np.float64) + model.mean
    # The bias, where there is one.
    predicted += np.sum(x[:, rank:] + y[:, rank:], axis=1)
    return float(np.sqrt(np.mean((ratings - predicted) ** 2))) if len(ratings) else float("nan")
