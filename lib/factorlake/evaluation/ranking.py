"""Ranking metrics of top-k lists, one figure per user: hits, novelty, popularity; and coverage of the catalogue.

Relevance is 0 or 1. r runs over ranks 1..k, hit(r) is 1 when the item at rank r is in the user's truth T.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.kernels.arrays import distinct
from factorlake.types import FloatVector, IntVector

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


def novelty(lists: NDArray[np.integer], popularity: NDArray[np.number], n_users: int, k: int) -> NDArray[np.float64]:
    """Return each user's mean self-information −log2(share of users that chose the item), in bits, over the listed
    items among the first k.

    An item that nobody chose counts as chosen by one user: log2(n_users) bits, the most there can be.

    Parameters
    ----------
    lists : (n_lists, at least k) item positions, best first; −1 pads a short list and does not count.
    popularity : (n_items,) how many distinct users chose each item.
    n_users : how many users chose anything; no popularity exceeds it.
    k : length of the lists that are judged.

    Returns
    -------
    (n_lists,) float64, from 0 (everybody chose everything listed) to log2(n_users).

    Raises
    ------
    ConfigError : a user with nothing listed (leave such users out: their mean is 0/0), a popularity that is negative
        or above n_users, or shapes that do not fit.

    Source: Zhou, Kuscsik, Liu, Medo, Wakeling, Zhang, PNAS 107(10) 2010 (self-information); Vargas and Castells,
    RecSys 2011, name it expected free discovery, in its form without rank or relevance.
    """
    listed, counts = _listed(lists, popularity, k)
    chosen = np.asarray(popularity, dtype=np.float64)
    if (chosen > n_users).any() or (n_users < 1 and len(lists)):
        raise ConfigError(f"an item was chosen by {chosen.max(initial=0):g} users, but there are {n_users} in all")
    information = np.log2(float(max(n_users, 1))) - np.log2(np.maximum(chosen, 1.0))
    return _listed_sums(lists[:, :k], listed, information) / counts


def popularity_lift(
    lists: NDArray[np.integer], popularity: NDArray[np.number], own_popularity: FloatVector, k: int
) -> NDArray[np.float64]:
    """Return, for each user, the mean popularity of the listed items among the first k over that of the items the user
    is known to have.

    1: as popular as what the user chooses by himself; 2: twice as popular.

    Parameters
    ----------
    lists : (n_lists, at least k) item positions, best first; −1 pads a short list and does not count.
    popularity : (n_items,) how many distinct users chose each item (any unit; 0 where nobody did).
    own_popularity : (n_lists,) mean popularity of each user's own items (`mean_popularity`), in the same unit.
    k : length of the lists that are judged.

    Raises
    ------
    ConfigError : a user with nothing listed or with an own popularity that is not positive (leave such users out: they
        have no ratio), a negative popularity, or shapes that do not fit.

    Source: Abdollahpouri, Mansoury, Burke, Mobasher, RecSys 2020, whose popularity lift of a group is the ratio of two
    means over its users, less 1; this is the ratio of one user, so that its mean has an interval over users.
    """
    listed, counts = _listed(lists, popularity, k)
    own = np.asarray(own_popularity, dtype=np.float64)
    if own.shape != (len(lists),):
        raise ConfigError(f"own_popularity has the shape {own.shape}, but there are {len(lists)} lists")
    if not (own > 0).all():
        raise ConfigError(f"user {int(np.argmin(own > 0))} has no known item with a popularity: leave such users out")
    return _listed_sums(lists[:, :k], listed, np.asarray(popularity, dtype=np.float64)) / counts / own


def mean_popularity(ptr: IntVector, items: IntVector, popularity: NDArray[np.number]) -> NDArray[np.float64]:
    """Return the mean popularity of the items of each row.

    Parameters
    ----------
    ptr, items : item positions compressed by row, each item once a row.
    popularity : (n_items,) in any unit.

    Returns
    -------
    (n_rows,) float64; 0 for a row without items, which `popularity_lift` refuses.
    """
    counts = np.diff(ptr)
    rows = np.repeat(np.arange(len(counts)), counts)
    sums = np.bincount(rows, weights=np.asarray(popularity, dtype=np.float64)[items], minlength=len(counts))
    return sums / np.maximum(counts, 1)


def _listed(
    lists: NDArray[np.integer], popularity: NDArray[np.number], k: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """(n_lists, k): which places are filled; (n_lists,): how many are."""
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if lists.ndim != 2 or lists.shape[1] < k:
        raise ConfigError(f"lists must have at least k = {k} columns, got shape {lists.shape}")
    if lists.size and lists[:, :k].max() >= len(popularity):
        raise ConfigError(f"a list names item {int(lists[:, :k].max())}, but {len(popularity)} items have a popularity")
    if not (np.asarray(popularity) >= 0).all():
        raise ConfigError("a popularity is negative or not a number; it counts users")
    listed = lists[:, :k] != PADDING
    counts = listed.sum(axis=1)
    if (counts < 1).any():
        raise ConfigError(f"user {int(np.argmax(counts < 1))} has nothing listed: leave such users out")
    return listed, counts


def _listed_sums(
    lists: NDArray[np.integer], listed: NDArray[np.bool_], figures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum a figure of the items over each list. Padding asks for some item's figure, which the mask turns into 0."""
    return np.where(listed, figures[lists] if len(figures) else 0.0, 0.0).sum(axis=1)


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
