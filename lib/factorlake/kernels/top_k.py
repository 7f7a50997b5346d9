"""The best k items of each user: exact, masked inside, the same whatever users stand beside each other."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.types import FloatMatrix, FloatVector, IntVector

from .arrays import read_only

USER_TILE, ITEM_TILE = 256, 4096
PADDING = -1
# Candidates kept beyond k, so that near-ties at the k-th place can be told apart by their exact scores.
SPARE = 16
# sgemm sums rank products in an order of its own: its error is at most about rank·2⁻²⁴·|x||y|. Twice that,
# for the two scores compared, and once more for rounding to float32.
ERROR_FACTOR = 2.0**-22


def top_k(
    user_factors: FloatMatrix,
    item_factors: FloatMatrix,
    k: int,
    seen_ptr: IntVector,
    seen_items: IntVector,
    tie_rank: IntVector,
    user_bias: FloatVector | None = None,
    item_bias: FloatVector | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each user's best items by x·y + b_u + b_i and their scores.

    Candidates come from sgemm of user tiles and item tiles; their final scores are float64 sums in a fixed
    order, rounded to float32, so neither scores nor order depend on the tiles or on how users are grouped.

    Parameters
    ----------
    user_factors : (n_users, rank). No users give empty results.
    item_factors : (n_items, rank).
    k : list length, at least 1.
    seen_ptr, seen_items : (n_users + 1,) and (n_seen,): items that are never listed, by user, ascending.
    tie_rank : (n_items,) distinct; of equal scores the smaller goes first.
    user_bias (n_users,), item_bias (n_items,) : added to the score; None for none.
    allowed : (n_items,) items that may be listed; None for all.

    Returns
    -------
    items (n_users, k) int32 and scores (n_users, k) float32, best first; −1 and −inf where fewer than k may
    be listed.

    Raises
    ------
    ConfigError : k below 1, or shapes that do not fit.
    """
    n_users, n_items = len(user_factors), len(item_factors)
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if user_factors.shape[1] != item_factors.shape[1] or len(seen_ptr) != n_users + 1 or len(tie_rank) != n_items:
        raise ConfigError(
            f"shapes do not fit: users {user_factors.shape}, items {item_factors.shape}, "
            f"{len(seen_ptr)} row pointers, {len(tie_rank)} tie ranks"
        )
    users = read_only(user_factors, np.float32)
    items = read_only(item_factors, np.float32)
    of_user = read_only(np.zeros(n_users) if user_bias is None else user_bias, np.float32)
    of_item = read_only(np.zeros(n_items) if item_bias is None else item_bias, np.float32)
    may = read_only(np.ones(n_items, bool) if allowed is None else allowed, np.bool_)
    pointers, seen = read_only(seen_ptr, np.int64), read_only(seen_items, np.int32)
    ties = read_only(tie_rank, np.int64)
    best = np.full((n_users, k), PADDING, np.int32)
    scores = np.full((n_users, k), -np.inf, np.float32)
    kept = min(k + SPARE, n_items)
    if not kept or not n_users:
        return best, scores
    largest = float(np.sqrt(np.einsum("ik,ik->i", items, items, dtype=np.float64).max()))
    norms = np.sqrt(np.einsum("uk,uk->u", users, users, dtype=np.float64))
    slack = ERROR_FACTOR * ((users.shape[1] + 2) * largest * norms + np.abs(of_user) + np.abs(of_item).max())
    tile = np.empty((USER_TILE, ITEM_TILE), np.float32)
    for start in range(0, n_users, USER_TILE):
        stop = min(start + USER_TILE, n_users)
        heap_scores = np.full((stop - start, kept), -np.inf, np.float32)
        heap_items = np.full((stop - start, kept), PADDING, np.int32)
        cursor = pointers[start:stop].copy()
        for first in range(0, n_items, ITEM_TILE):
            last = min(first + ITEM_TILE, n_items)
            part = tile[: stop - start, : last - first]
            np.matmul(users[start:stop], items[first:last].T, out=part)
            _offer(
                part,
                first,
                of_item,
                may,
                pointers[start + 1 : stop + 1],
                cursor,
                seen,
                heap_scores,
                heap_items,
            )
        _settle(
            users, items, of_user, of_item, may, pointers, seen, ties, slack,
            start, heap_scores, heap_items, best[start:stop], scores[start:stop],
        )  # fmt: skip
    return best, scores


@njit(cache=True, nogil=True)
def _offer(
    part: FloatMatrix,
    first: int,
    of_item: FloatVector,
    may: NDArray[np.bool_],
    row_end: IntVector,
    cursor: IntVector,
    seen: IntVector,
    heap_scores: FloatMatrix,
    heap_items: NDArray[np.int32],
) -> None:
    """Offer one tile of scores to the users' bounded heaps, leaving out what is seen or not allowed."""
    n_columns = part.shape[1]
    for row in range(part.shape[0]):
        at = cursor[row]
        while at < row_end[row] and seen[at] < first + n_columns:
            part[row, seen[at] - first] = -np.inf
            at += 1
        cursor[row] = at
        for column in range(n_columns):
            score = part[row, column] + of_item[first + column]
            if score > heap_scores[row, 0] and may[first + column]:
                _replace_least(heap_scores[row], heap_items[row], score, first + column)


@njit(cache=True, nogil=True)
def _replace_least(scores: FloatVector, items: IntVector, score: np.float32, item: int) -> None:
    """Put (score, item) in the place of a min-heap's least entry and restore the heap."""
    size = len(scores)
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and scores[child + 1] < scores[child]:
            child += 1
        if scores[child] >= score:
            break
        scores[place] = scores[child]
        items[place] = items[child]
        place = child
    scores[place] = score
    items[place] = item


@njit(cache=True, nogil=True)
def _exact(x: FloatVector, y: FloatVector, of_user: float, of_item: float) -> np.float32:
    total = 0.0
    for a in range(len(x)):
        total += np.float64(x[a]) * np.float64(y[a])
    return np.float32(total + np.float64(of_user) + np.float64(of_item))


@njit(cache=True, nogil=True)
def _settle(
    users: FloatMatrix,
    items: FloatMatrix,
    of_user: FloatVector,
    of_item: FloatVector,
    may: NDArray[np.bool_],
    pointers: IntVector,
    seen: IntVector,
    ties: IntVector,
    slack: FloatVector,
    start: int,
    heap_scores: FloatMatrix,
    heap_items: NDArray[np.int32],
    best: NDArray[np.int32],
    scores: FloatMatrix,
) -> None:
    """Order each user's candidates by exact score; look at every item where the heap may lack a near-tie."""
    k = best.shape[1]
    for row in range(best.shape[0]):
        user = start + row
        filled = 0
        for place in range(heap_items.shape[1]):
            item = heap_items[row, place]
            if item >= 0:
                filled += 1
                score = _exact(users[user], items[item], of_user[user], of_item[item])
                _insert(best[row], scores[row], ties, item, score)
        if filled < heap_items.shape[1] or heap_items.shape[1] == len(items):
            continue
        # Everything left out scored at most the heap's least entry, give or take the error of sgemm.
        if heap_scores[row, 0] + of_user[user] + slack[user] < scores[row, k - 1]:
            continue
        best[row] = -1
        scores[row] = -np.inf
        at, end = pointers[user], pointers[user + 1]
        for item in range(len(items)):
            while at < end and seen[at] < item:
                at += 1
            if may[item] and not (at < end and seen[at] == item):
                score = _exact(users[user], items[item], of_user[user], of_item[item])
                _insert(best[row], scores[row], ties, item, score)


@njit(cache=True, nogil=True)
def _insert(best: IntVector, scores: FloatVector, ties: IntVector, item: int, score: np.float32) -> None:
    """Insert an item into a list kept by score descending, then tie rank ascending."""
    place = len(best)
    while place > 0:
        other = best[place - 1]
        if other >= 0 and (scores[place - 1] > score or (scores[place - 1] == score and ties[other] < ties[item])):
            break
        place -= 1
    if place == len(best):
        return
    for shifted in range(len(best) - 1, place, -1):
        best[shifted] = best[shifted - 1]
        scores[shifted] = scores[shifted - 1]
    best[place] = item
    scores[place] = score
