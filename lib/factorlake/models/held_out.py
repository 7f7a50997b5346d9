"""Held-out pairs of users and items that a model knows, and what judges a state of training by them.

Greater is better for every judge, so errors come with a minus. Rows are asked for by position and items come block by
block: no plan has to bring a whole side into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.baselines import popularity_lists, popularity_order
from factorlake.evaluation.ranking import ranking_metrics
from factorlake.kernels.arrays import distinct
from factorlake.kernels.top_k import top_k
from factorlake.types import FloatMatrix, IntVector

from .plan import Rows
from .threads import single_threaded_blas
from .trained import Snapshot

HeldOutMetric = Literal["ndcg", "recall", "rmse", "mae"]
LIST_METRICS = ("ndcg", "recall")
ITEMS_AT_ONCE = 50_000


class HeldOut(Protocol):
    """What was held out of one part of the ratings."""

    def judge(self, metric: HeldOutMetric, k: int, threads: int = 1) -> Callable[[Snapshot[Any]], float]:
        """Return what judges a state of training; greater is better."""


@dataclass(frozen=True)
class HeldOutLists:
    """Held-out items of users, whose lists are judged. Items that a user has are never listed."""

    users: NDArray[np.int64]
    """(n_judged,) positions, ascending."""
    truth_ptr: NDArray[np.int64]
    truth_items: NDArray[np.integer]
    """Held-out items of each judged user, compressed by row."""
    seen_ptr: NDArray[np.int64]
    seen_items: NDArray[np.integer]
    """Items that each judged user has in the training part, the same way."""

    @classmethod
    def of_pairs(
        cls, held_users: IntVector, held_items: IntVector, seen_users: IntVector, seen_items: IntVector
    ) -> HeldOutLists:
        """Return what pairs of positions make, in any order; of the seen ones those of judged users are kept.

        Raises
        ------
        DataRefusedError : nothing is held out.
        """
        users = distinct(np.asarray(held_users, np.int64))
        if not len(users):
            raise DataRefusedError("no held-out pair is of a known user and a known item: hold out another part")
        return cls(users, *by_row(users, held_users, held_items), *by_row(users, seen_users, seen_items))

    def judge(self, metric: HeldOutMetric, k: int, threads: int = 1) -> Callable[[Snapshot[Any]], float]:
        """Return the mean over users of NDCG or recall at k (`ranking_metrics`); ties go by position."""
        if metric not in LIST_METRICS:
            raise ConfigError(f"lists are judged by {' or '.join(LIST_METRICS)}, not by {metric}")

        def figure(now: Snapshot[Any]) -> float:
            users = np.array(now.users.at(self.users))
            # The items' biases rank too; the user's own moves all of a list alike.
            users[:, now.rank :] = 1
            with single_threaded_blas():
                lists = self._best(users, now.items, k, threads)
            return self._mean(lists, metric, k)

        return figure

    def popularity(self, counts: IntVector, metric: HeldOutMetric, k: int) -> float:
        """Return the same figure of the most popular items, ``counts`` (n_items,) being how many users have each."""
        lists = popularity_lists(popularity_order(counts), self.seen_ptr, self.seen_items, k)
        return self._mean(lists, metric, k)

    def _mean(self, lists: NDArray[np.integer], metric: str, k: int) -> float:
        return float(np.mean(ranking_metrics(lists, self.truth_ptr, self.truth_items, k)[f"{metric}@{k}"]))

    def _best(self, users: FloatMatrix, items: Rows, k: int, threads: int) -> NDArray[np.int64]:
        """Return each user's best k unseen items, −1 where there are fewer; scores do not depend on the blocks."""
        n_users = len(users)
        best, scores = np.empty((n_users, 0), np.int64), np.empty((n_users, 0), np.float32)
        owner = np.repeat(np.arange(n_users), np.diff(self.seen_ptr))
        first = 0
        for rows in _joined_blocks(items):
            last = first + len(rows)
            of_these = (self.seen_items >= first) & (self.seen_items < last)
            ptr = np.concatenate([[0], np.cumsum(np.bincount(owner[of_these], minlength=n_users))])
            ties = np.arange(len(rows), dtype=np.int64)
            found, found_scores = top_k(users, rows, k, ptr, self.seen_items[of_these] - first, ties, threads=threads)
            best = np.concatenate([best, np.where(found < 0, -1, found + first)], axis=1)
            scores = np.concatenate([scores, found_scores], axis=1)
            # Blocks come by position: of equal scores the earlier stays in front.
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            best, scores = np.take_along_axis(best, order, axis=1), np.take_along_axis(scores, order, axis=1)
            first = last
        return best


@dataclass(frozen=True)
class HeldOutRatings:
    """Held-out ratings of known users and items."""

    users: IntVector
    items: IntVector
    ratings: NDArray[np.floating]

    @classmethod
    def of_pairs(cls, users: IntVector, items: IntVector, ratings: NDArray[np.floating]) -> HeldOutRatings:
        """Return ratings of pairs of positions in their order, however they are given: so are the sums.

        Raises
        ------
        DataRefusedError : nothing is held out.
        """
        if not len(ratings):
            raise DataRefusedError("no held-out rating is of a known user and a known item: hold out another part")
        order = np.lexsort((items, users))
        return cls(users[order], items[order], ratings[order])

    def judge(self, metric: HeldOutMetric, k: int, threads: int = 1) -> Callable[[Snapshot[Any]], float]:
        """Return −RMSE or −MAE of μ + b_u + b_i + x·y, in units of the rating; ``k`` and ``threads`` do not matter."""
        if metric in LIST_METRICS:
            raise ConfigError(f"ratings are judged by rmse or mae, not by {metric}")

        def figure(now: Snapshot[Any]) -> float:
            x, y, rank = now.users.at(self.users), now.items.at(self.items), now.rank
            predicted = np.einsum("nk,nk->n", x[:, :rank], y[:, :rank], dtype=np.float64) + now.mean
            predicted += np.sum(x[:, rank:] + y[:, rank:], axis=1)
            return self.error(predicted, metric)

        return figure

    def error(self, predicted: NDArray[np.floating], metric: HeldOutMetric) -> float:
        """Return −RMSE or −MAE of predictions (n,)."""
        errors = np.asarray(predicted, np.float64) - self.ratings
        return -float(np.sqrt(np.mean(errors**2)) if metric == "rmse" else np.mean(np.abs(errors)))


def by_row(rows: IntVector, owner: IntVector, items: IntVector) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (row pointers, ascending items) of the given ascending rows; owners that are no row are left out."""
    place = np.minimum(np.searchsorted(rows, owner), len(rows) - 1)
    kept = rows[place] == owner
    order = np.lexsort((items[kept], place[kept]))
    row_ptr = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(np.bincount(place[kept], minlength=len(rows)), out=row_ptr[1:])
    return row_ptr, np.asarray(items[kept][order], np.int64)


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
