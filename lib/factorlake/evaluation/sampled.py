"""Sampled ranking: each user's held-out items are ranked among candidates that the protocol gives.

Such figures compare models that are judged on the same candidates. They are not estimates of full ranking, and may not
even keep the order of models (Krichene and Rendle, KDD 2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.types import FloatVector, IntVector


def candidate_ranks(
    ptr: IntVector, items: IntVector, scores: FloatVector, held_ptr: IntVector, held_items: IntVector
) -> NDArray[np.int64]:
    """Return the rank of each held-out item among its user's candidates, from 1, greatest score first.

    An equal score counts **against** the held-out item: it comes after every other candidate of its score. So a
    constant score ranks it last, and a model gains nothing by not telling items apart.

    Parameters
    ----------
    ptr, items, scores : the candidates, compressed by row: user u's are ``items[ptr[u]:ptr[u + 1]]`` with their scores,
        the held-out items among them, in any order. Where only ranks are known, give the negative rank as score. An
        item that stands twice counts once (a drawn candidate may be a held-out item).
    held_ptr, held_items : the held-out items, compressed by the same rows, each once.

    Returns
    -------
    (len(held_items),) int64, in their order. No users give an empty array.

    Raises
    ------
    ConfigError : rows that do not fit, a held-out item that is no candidate or stands twice, an item with two scores.
    NumericalError : a score is NaN or infinite; names the first.
    """
    if len(ptr) != len(held_ptr):
        raise ConfigError(f"candidates are of {len(ptr) - 1} users, held-out items of {len(held_ptr) - 1}")
    if not len(items) == len(scores) == ptr[-1] or len(held_items) != held_ptr[-1]:
        raise ConfigError(
            f"lengths differ: {len(items)} candidates, {len(scores)} scores and {len(held_items)} held-out items, "
            f"but rows end at {ptr[-1]} and {held_ptr[-1]}"
        )
    values = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise NumericalError(f"candidate {first} has the score {values[first]}")
    stride = np.int64(max(int(np.max(items, initial=0)), int(np.max(held_items, initial=0))) + 1)
    keys = _keys(ptr, items, stride)
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    again = np.zeros(len(keys), np.bool_)
    again[1:] = keys[1:] == keys[:-1]
    if (values[1:] != values[:-1])[again[1:]].any():
        raise ConfigError("an item is a candidate of one user with two scores: give it one")
    keys, values = keys[~again], values[~again]
    held = _keys(held_ptr, held_items, stride)
    place = np.searchsorted(keys, held)
    if (place == len(keys)).any() or (keys[place] != held).any():
        raise ConfigError("a held-out item is not among its user's candidates: add it to them")
    is_held = np.zeros(len(keys), np.bool_)
    is_held[place] = True
    if is_held.sum() < len(held):
        raise ConfigError("a held-out item stands twice in one user's row: give each once")
    users = keys // stride
    best_first = np.lexsort((is_held, -values, users))
    counts = np.bincount(users, minlength=len(ptr) - 1)
    rank = np.empty(len(keys), np.int64)
    rank[best_first] = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    return rank[place]


def metrics_of_ranks(held_ptr: IntVector, ranks: IntVector, k: int) -> dict[str, NDArray[np.float64]]:
    """Return hit@k, ndcg@k and mrr@k of each user from the ranks of the held-out items.

    - hit@k: 1 with at least one held-out item among the first k
    - ndcg@k: Σ 1/log2(rank + 1) over those among the first k, over the same sum of ranks 1..min(k, held-out items)
    - mrr@k: 1 / the best rank, 0 where it is beyond k

    With one held-out item a user, as in leave-one-out, they are the metrics of He et al., WWW 2017 (NCF).

    Parameters
    ----------
    held_ptr : the users' rows. ranks : (n_held,) from 1, no two of a user equal.
    k : places that count.

    Raises
    ------
    ConfigError : k below 1, a rank below 1, a user without held-out items (leave such users out), lengths that differ.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if len(ranks) != held_ptr[-1]:
        raise ConfigError(f"{len(ranks)} ranks are given for {held_ptr[-1]} held-out items")
    n_held = np.diff(held_ptr)
    if (n_held < 1).any():
        raise ConfigError(f"user {int(np.argmax(n_held < 1))} has no held-out item: leave such users out")
    if len(ranks) and np.min(ranks) < 1:
        raise ConfigError(f"ranks start at 1, got {np.min(ranks)}")
    n_users = len(n_held)
    users = np.repeat(np.arange(n_users), n_held)
    counts = np.asarray(ranks) <= k
    gains = np.where(counts, 1 / np.log2(np.asarray(ranks, dtype=np.float64) + 1), 0.0)
    ideal = np.cumsum(1 / np.log2(np.arange(1, k + 1) + 1))
    best = np.full(n_users, np.iinfo(np.int64).max)
    np.minimum.at(best, users, ranks)
    return {
        f"hit@{k}": (best <= k).astype(np.float64),
        f"ndcg@{k}": np.bincount(users, weights=gains, minlength=n_users) / ideal[np.minimum(n_held, k) - 1],
        f"mrr@{k}": np.where(best <= k, 1 / best, 0.0),
    }


def sampled_metrics(
    ptr: IntVector, items: IntVector, scores: FloatVector, held_ptr: IntVector, held_items: IntVector, k: int
) -> dict[str, NDArray[np.float64]]:
    """Return hit@k, ndcg@k and mrr@k of each user: `metrics_of_ranks` of `candidate_ranks`."""
    return metrics_of_ranks(held_ptr, candidate_ranks(ptr, items, scores, held_ptr, held_items), k)


def _keys(ptr: IntVector, items: IntVector, stride: np.int64) -> NDArray[np.int64]:
    """One number for each pair, ascending with the user, then the item."""
    return np.repeat(np.arange(len(ptr) - 1, dtype=np.int64), np.diff(ptr)) * stride + items
