"""From rows of pairs to padded lists and compressed truths, and all figures of a user at once.

Users and items are positions; rows come in any order and the results do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import DataRefusedError
from factorlake.evaluation.ranking import PADDING, novelty, popularity_lift, ranking_metrics
from factorlake.types import FloatVector, IntVector

NAMES = ("ndcg", "recall", "recall_min", "precision", "map", "mrr", "hit")
POPULARITY_NAMES = ("novelty", "popularity_lift")


def metric_names(k: int, with_popularity: bool) -> list[str]:
    """Return the names of the figures that `user_figures` gives, in its order."""
    return [f"{name}@{k}" for name in (NAMES + POPULARITY_NAMES if with_popularity else NAMES)]


def padded_lists(
    users: IntVector, items: IntVector, places: FloatVector, ties: IntVector, n_users: int, k: int
) -> NDArray[np.int64]:
    """Return each user's first k items as a matrix.

    Parameters
    ----------
    users, items : (n_rows,) positions.
    places : (n_rows,) what orders a user's items, least first: a rank, or a score with its sign turned. Only the order
        counts, so that ranks close up where rows were taken out.
    ties : (n_rows,) what orders equal places, least first.

    Returns
    -------
    (n_users, k) int64, padded with −1. No rows give rows of −1.
    """
    order = np.lexsort((ties, places, users))
    owner = users[order]
    counts = np.bincount(owner, minlength=n_users)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    lists = np.full((n_users, k), PADDING, np.int64)
    first = rank < k
    lists[owner[first], rank[first]] = items[order][first]
    return lists


def compressed_pairs(users: IntVector, items: IntVector, n_users: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (ptr, items) of rows of pairs: user u's items are ``items[ptr[u]:ptr[u + 1]]``, ascending."""
    order = np.lexsort((items, users))
    ptr = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(users, minlength=n_users), out=ptr[1:])
    return ptr, np.asarray(items, np.int64)[order]


def check_lists(users: IntVector, items: IntVector, places: FloatVector, by_rank: bool) -> None:
    """Refuse rows that are no lists.

    Ranks must be 1, 2, 3 ... without gaps: rows of which only some were kept, such as a held-out item with its rank
    among all others, would otherwise be judged as if they were the whole list.

    Parameters
    ----------
    users, items : (n_rows,) positions or any other numbers, equal where ids are.
    places : (n_rows,) ranks or scores.
    by_rank : which of the two.

    Raises
    ------
    DataRefusedError : a pair that stands twice; ranks that are no such numbers; a score that is NaN or infinite.
    """
    finite = np.isfinite(places)
    told = "rank" if by_rank else "score"
    if not finite.all():
        raise DataRefusedError(
            f"{int((~finite).sum())} recommendations have a {told} that is null or not finite: leave them out"
        )
    n_repeated = _repeated(users, items)
    if n_repeated:
        raise DataRefusedError(
            f"{n_repeated} pairs of user and item stand in the recommendations twice: keep the best row of each"
        )
    if not by_rank:
        return
    n_repeated = _repeated(users, places)
    if n_repeated:
        raise DataRefusedError(
            f"{n_repeated} ranks of the recommendations are given to two items of one user: number each user's items "
            "1, 2, 3 ..., or give a score instead of a rank"
        )
    if (places < 1).any() or (places != np.floor(places)).any() or (places > np.bincount(users)[users]).any():
        raise DataRefusedError(
            f"the ranks of each user's recommendations must be 1, 2, 3 ... without gaps; they go from {places.min():g} "
            f"to {places.max():g}: number each user's items anew from 1, or give a score instead of a rank"
        )


def check_held_out(users: IntVector, items: IntVector) -> None:
    """Refuse held-out pairs that stand twice.

    Raises
    ------
    DataRefusedError : such pairs; says how many.
    """
    n_repeated = _repeated(users, items)
    if n_repeated:
        raise DataRefusedError(f"{n_repeated} held-out pairs of user and item stand there twice: keep each once")


def _repeated(users: IntVector, others: IntVector | FloatVector) -> int:
    order = np.lexsort((others, users))
    return int(((users[order][1:] == users[order][:-1]) & (others[order][1:] == others[order][:-1])).sum())


@dataclass(frozen=True)
class Popularity:
    """What users chose before: ``of_item`` (n_items,) distinct users of each item, ``n_users`` who chose anything, and
    ``own`` (n_users judged,) the mean popularity of each judged user's own items, 0 for a user without any."""

    of_item: NDArray[np.int64]
    n_users: int
    own: NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """One metric of the users that have it: ``users`` (n,) positions ascending, ``values`` (n,) float64."""

    users: NDArray[np.int64]
    values: NDArray[np.float64]


def user_figures(
    lists: NDArray[np.integer], truth_ptr: IntVector, truth_items: IntVector, k: int, popularity: Popularity | None
) -> dict[str, Figure]:
    """Return every metric at k of the users that have it.

    A user without a list has 0 of all that counts hits, and neither novelty nor popularity lift; a user without known
    items has no popularity lift; where nobody is known to have anything there is no novelty.

    Parameters
    ----------
    lists, truth_ptr, truth_items, k : as in `ranking_metrics`.
    popularity : none: no novelty and no popularity lift.

    Raises
    ------
    ConfigError : as `ranking_metrics`, `novelty` and `popularity_lift`.
    """
    everyone = np.arange(len(lists))
    figures = {
        name: Figure(everyone, values) for name, values in ranking_metrics(lists, truth_ptr, truth_items, k).items()
    }
    if popularity is None:
        return figures
    listed = np.flatnonzero((lists[:, :k] != PADDING).any(axis=1))
    both = listed[popularity.own[listed] > 0]
    of_item = popularity.of_item
    some = listed if popularity.n_users else listed[:0]
    return figures | {
        f"novelty@{k}": Figure(some, novelty(lists[some], of_item, popularity.n_users, k)),
        f"popularity_lift@{k}": Figure(both, popularity_lift(lists[both], of_item, popularity.own[both], k)),
    }
