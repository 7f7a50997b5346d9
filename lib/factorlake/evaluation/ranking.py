"""Ranking metrics of top-k lists, one figure per user, and coverage of the catalogue.

Relevance is 0 or 1. r runs over ranks 1..k, hit(r) is 1 when the item at rank r is in the user's truth T.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.kernels.arrays import distinct
from factorlake.types import IntVector

PADDING = -1


def ranking_metrics(
    lists: NDArray[np.integer], truth_ptr: IntVector, truth_items: IntVector, k: int
) -> dict[str, NDArray[np.float64]]:
    """Return every metric at k, one figure per user.

    - ndcg@k: Σ hit(r)/log2(r + 1), over the same sum of a list whose first min(k, |T|) ranks all hit
    - recall@k: hits / |T|
    - recall_min@k: hits / min(k, |T|), which a perfect list brings to 1 whatever |T|
    - precision@k: hits / k, also where the list is shorter than k
    - map@k: Σ hit(r) · (hits up to r)/r, over min(k, |T|)
    - mrr@k: 1 / rank of the first hit, 0 without one
    - hit@k: 1 with at least one hit

    Parameters
    ----------
    lists : (n_users, at least k) item positions, best first; −1 pads a short list and never hits.
    truth_ptr, truth_items : the users' held-out items, compressed by row: user u's are
        ``truth_items[truth_ptr[u]:truth_ptr[u + 1]]``, each once, in any order.
    k : length of the lists that are judged.

    Returns
    -------
    name → (n_users,) float64. No users give empty arrays.

    Raises
    ------
    ConfigError : a user without truth (leave such users out: their recall is 0/0), an item twice in one list
        or one truth, or shapes that do not fit.

    Sources: Järvelin and Kekäläinen, ACM TOIS 20(4) 2002 (DCG; the discount 1/log2(r + 1) is that of Burges
    et al., ICML 2005); Manning, Raghavan, Schütze, Introduction to Information Retrieval, section 8.4
    (precision, recall, average precision; its cut at min(k, |T|) is that of the Million Song Dataset
    Challenge, McFee et al. 2012); Voorhees, TREC-8 1999 (reciprocal rank); Liang et al., WWW 2018
    (recall_min@k).
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if lists.ndim != 2 or lists.shape[1] < k:
        raise ConfigError(f"lists must have at least k = {k} columns, got shape {lists.shape}")
    if len(truth_ptr) != len(lists) + 1:
        raise ConfigError(f"truth_ptr must have one entry more than there are users: {len(truth_ptr)}, {len(lists)}")
    n_truth = np.diff(truth_ptr)
    if (n_truth < 1).any():
        raise ConfigError(f"user {int(np.argmax(n_truth < 1))} has no held-out item: leave such users out")

    hits = _hits(lists[:, :k], n_truth, truth_items)
    ranks = np.arange(1, k + 1)
    discounts = 1 / np.log2(ranks + 1)
    reachable = np.minimum(n_truth, k)
    n_hits = hits.sum(axis=1)
    any_hit = n_hits > 0
    precision_at_hits = hits * np.cumsum(hits, axis=1) / ranks
    first = np.where(any_hit, hits.argmax(axis=1) + 1, 1)
    return {
        f"ndcg@{k}": (hits * discounts).sum(axis=1) / np.cumsum(discounts)[reachable - 1],
        f"recall@{k}": n_hits / n_truth,
        f"recall_min@{k}": n_hits / reachable,
        f"precision@{k}": n_hits / k,
        f"map@{k}": precision_at_hits.sum(axis=1) / reachable,
        f"mrr@{k}": any_hit / first,
        f"hit@{k}": any_hit.astype(np.float64),
    }


def coverage(lists: NDArray[np.integer], n_items: int, k: int) -> float:
    """Return the share of the catalogue that stands in at least one list's first k ranks.

    Parameters
    ----------
    lists : (n_users, any) item positions in [0, n_items), padded with −1. No lists cover nothing: 0.
    n_items : size of the catalogue.

    Raises
    ------
    ConfigError : an empty catalogue, or a position outside it.

    Source: Ge, Delgado-Battenfeld, Jannach, RecSys 2010 (catalogue coverage).
    """
    if n_items < 1:
        raise ConfigError(f"coverage needs a catalogue of at least one item, got {n_items}")
    listed = distinct(lists[:, :k])
    listed = listed[listed != PADDING]
    if listed.size and (listed[0] < 0 or listed[-1] >= n_items):
        raise ConfigError(f"a list names item {int(listed[-1])}, but the catalogue has {n_items}")
    return len(listed) / n_items


def _hits(lists: NDArray[np.integer], n_truth: IntVector, truth_items: IntVector) -> NDArray[np.bool_]:
    """(n_users, k): which listed items are in the same user's truth."""
    stride = np.int64(max(int(lists.max(initial=0)), int(truth_items.max(initial=0))) + 1)
    users = np.arange(len(lists), dtype=np.int64)
    truth = np.sort(np.repeat(users, n_truth) * stride + truth_items)
    if (truth[1:] == truth[:-1]).any():
        raise ConfigError("a held-out item stands twice in one user's truth: give each once")
    listed = np.where(lists == PADDING, -1, users[:, None] * stride + lists)
    ordered = np.sort(listed, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ConfigError("an item stands twice in one list: its second rank would count as a second hit")
    place = np.minimum(np.searchsorted(truth, listed), max(len(truth) - 1, 0))
    return truth[place] == listed if len(truth) else np.zeros(lists.shape, dtype=bool)
