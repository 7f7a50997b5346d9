"""The best k items of each user: exact, masked inside, the same whatever users stand beside each other.

Items stand in descending order of their norm, in tiles. A group of users meets tile after tile by sgemm; a user
leaves the group as soon as |x|·|y| of what is left cannot reach its k-th score (Cauchy-Schwarz), so most products
are never formed. What sgemm may have put in the wrong order is told apart by float64 sums in a fixed order.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.types import FloatMatrix, FloatVector, IntVector

from .arrays import read_only

USER_GROUP, ITEM_TILE = 256, 512
# Scores compared with a user's least by one vectorised count; a fixed length is what lets the compiler do it.
CHUNK = 64
PADDING = -1
# Candidates kept beyond 2k, for near-ties at the k-th place. A user with more of them has every item looked at.
SPARE = 64
# sgemm sums rank products in an order of its own: its error is at most about rank·2⁻²⁴·|x||y|. Twice that, for the
# two scores compared, and once more for what is rounded to float32: the exact score and the least of a heap.
ERROR_FACTOR = 2.0**-22
USERS_PER_TASK = 8 * USER_GROUP


@dataclass(frozen=True)
class OrderedItems:
    """The items that may be listed, in the order in which users meet them. Made once for any number of users."""

    factors: NDArray[np.float32]
    """(n_listed, rank), or (n_listed, rank + 1) with the item's bias last."""
    positions: NDArray[np.int32]
    """(n_listed,) each one's row among all items."""
    place: NDArray[np.int32]
    """(n_items,) each item's row among the listed, or −1."""
    tie_rank: NDArray[np.int64]
    """(n_listed,) of equal scores the smaller goes first."""
    norms_left: NDArray[np.float64]
    """(n_tiles,) the largest |y| of a tile and all after it."""
    biases_left: NDArray[np.float64]
    """(n_tiles,) the largest b_i of a tile and all after it; zeros without biases."""
    largest_bias: float
    """The largest |b_i|."""
    rank: int

    @property
    def n_items(self) -> int:
        return len(self.place)


def order_items(
    item_factors: FloatMatrix,
    tie_rank: IntVector,
    item_bias: FloatVector | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> OrderedItems:
    """Return the items in descending order of |y| + b, the order in which scores can be expected to fall.

    Parameters
    ----------
    item_factors : (n_items, rank). No items are fine: then nobody gets any.
    tie_rank : (n_items,) distinct; of equal scores the smaller goes first.
    item_bias : (n_items,) added to the score; None for none.
    allowed : (n_items,) items that may be listed; None for all. The others cost nothing.

    Raises
    ------
    ConfigError : shapes that do not fit.
    NumericalError : a factor or bias is NaN or infinite; names the first such row.
    """
    items = read_only(item_factors, np.float32)
    n_items, rank = items.shape
    for name, vector in (("tie ranks", tie_rank), ("biases", item_bias), ("allowed", allowed)):
        if vector is not None and len(vector) != n_items:
            raise ConfigError(f"shapes do not fit: {n_items} items, {len(vector)} {name}")
    biases = np.zeros(n_items, np.float32) if item_bias is None else np.asarray(item_bias, np.float32)
    norms = _norms(items)
    _refuse_unfinite(norms + np.abs(biases.astype(np.float64)), "item")
    listed = np.arange(n_items) if allowed is None else np.flatnonzero(allowed)
    order = listed[np.argsort(-(norms + biases)[listed], kind="stable")].astype(np.int32)
    place = np.full(n_items, -1, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    factors = items[order] if item_bias is None else np.concatenate([items[order], biases[order, None]], axis=1)
    return OrderedItems(
        factors=read_only(factors, np.float32),
        positions=read_only(order, np.int32),
        place=read_only(place, np.int32),
        tie_rank=read_only(np.asarray(tie_rank)[order], np.int64),
        norms_left=_largest_left(norms[order]),
        biases_left=_largest_left(biases[order].astype(np.float64)),
        largest_bias=float(np.abs(biases[order]).max(initial=0.0)),
        rank=rank,
    )


def _norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(np.einsum("na,na->n", rows, rows, dtype=np.float64)))


def _refuse_unfinite(numbers: NDArray[np.float64], side: str) -> None:
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise NumericalError(f"the factors of {side} row {bad[0]} are not finite; train the model again")


def _largest_left(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each tile, the largest value of the tile and of all tiles after it."""
    if not len(values):
        return np.empty(0)
    tiles = np.maximum.reduceat(values, np.arange(0, len(values), ITEM_TILE))
    return read_only(np.maximum.accumulate(tiles[::-1])[::-1], np.float64)


def best_items(
    user_factors: FloatMatrix,
    items: OrderedItems,
    k: int,
    seen_ptr: IntVector,
    seen_items: IntVector,
    user_bias: FloatVector | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return each user's best items by x·y + b_u + b_i and their scores.

    Final scores are float64 sums in a fixed order, rounded to float32, so neither scores nor order depend on the
    tiles, on how users are grouped or on the number of threads.

    Parameters
    ----------
    user_factors : (n_users, rank). No users give empty results.
    items : from `order_items`.
    k : list length, at least 1.
    seen_ptr, seen_items : (n_users + 1,) and (n_seen,): items that are never listed, by user, in any order.
    user_bias : (n_users,) added to the score; None for none.
    threads : user groups scored at the same time. The caller limits BLAS to one thread.

    Returns
    -------
    items (n_users, k) int32 and scores (n_users, k) float32, best first; −1 and −inf where fewer than k may be
    listed.

    Raises
    ------
    ConfigError : k below 1, or shapes that do not fit.
    NumericalError : a factor or bias is NaN or infinite; names the first such row.
    """
    n_users = len(user_factors)
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if user_factors.shape[1] != items.rank or len(seen_ptr) != n_users + 1:
        raise ConfigError(
            f"shapes do not fit: users {user_factors.shape}, items of rank {items.rank}, {len(seen_ptr)} row pointers"
        )
    users = read_only(user_factors, np.float32)
    of_user = read_only(np.zeros(n_users) if user_bias is None else user_bias, np.float32)
    norms = _norms(users)
    _refuse_unfinite(norms + np.abs(of_user.astype(np.float64)), "user")
    best = np.full((n_users, k), PADDING, np.int32)
    scores = np.full((n_users, k), -np.inf, np.float32)
    if not len(items.positions) or not n_users:
        return best, scores
    slack = ERROR_FACTOR * (
        (items.rank + 2) * items.norms_left[0] * norms + np.abs(of_user.astype(np.float64)) + items.largest_bias
    )
    pointers, seen = read_only(seen_ptr, np.int64), read_only(seen_items, np.int32)

    def score(first: int) -> None:
        _score_users(
            first, min(first + USERS_PER_TASK, n_users), users, of_user, norms, slack, pointers, seen,
            items.factors, items.positions, items.place, items.tie_rank, items.norms_left, items.biases_left,
            items.rank, best, scores,
        )  # fmt: skip

    firsts = range(0, n_users, USERS_PER_TASK)
    if threads == 1:
        for first in firsts:
            score(first)
    else:
        with ThreadPoolExecutor(threads, thread_name_prefix="top-k") as pool:
            list(pool.map(score, firsts))
    return best, scores


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
    threads: int = 1,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return `best_items` of items that are ordered for this call alone; parameters as there and in `order_items`."""
    items = order_items(item_factors, tie_rank, item_bias, allowed)
    return best_items(user_factors, items, k, seen_ptr, seen_items, user_bias, threads)


def similar_items(
    item_factors: FloatMatrix,
    n: int,
    tie_rank: IntVector,
    rows: IntVector | None = None,
    allowed: NDArray[np.bool_] | None = None,
    threads: int = 1,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the n items whose factors stand at the smallest angle to an item's own, and the cosines y·y'/(|y||y'|).

    Parameters
    ----------
    item_factors : (n_items, rank). Factors are scaled to length 1 in float64 and rounded to float32 before they are
        multiplied.
    n : list length, at least 1.
    tie_rank, allowed, threads : as in `order_items` and `best_items`.
    rows : (n_rows,) the items to give a list to; None for all.

    Returns
    -------
    items (n_rows, n) int32 and cosines (n_rows, n) float32, best first; −1 and −inf where there are fewer. An item is
    not similar to itself; one whose factors are zero has no direction: it is listed nowhere and its own list is empty.

    Raises
    ------
    ConfigError, NumericalError : as `best_items`.
    """
    items = read_only(item_factors, np.float32)
    norms = _norms(items)
    _refuse_unfinite(norms, "item")
    directed = norms > 0
    units = (items / np.where(directed, norms, 1.0)[:, None]).astype(np.float32)
    listed = directed if allowed is None else directed & allowed
    asked = np.arange(len(items)) if rows is None else np.asarray(rows)
    best, cosines = best_items(
        units[asked], order_items(units, tie_rank, allowed=listed), n, np.arange(len(asked) + 1), asked, threads=threads
    )
    best[~directed[asked]], cosines[~directed[asked]] = PADDING, -np.inf
    return best, cosines


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def _count_reaching(row: FloatVector, least: np.float32, counts: FloatVector) -> None:
    """Write how many scores of each whole chunk are at least ``least``."""
    for chunk in range(len(counts)):
        count = np.float32(0)
        for column in range(CHUNK):
            count += np.float32(1) if row[chunk * CHUNK + column] >= least else np.float32(0)
        counts[chunk] = count


@njit(cache=True, nogil=True)
def _replace_least(heap: FloatVector, score: np.float32) -> None:
    """Put a score in the place of a min-heap's least entry and restore the heap."""
    size, place = len(heap), 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= score:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = score


@njit(cache=True, nogil=True)
def _offer(
    row: FloatVector,
    first: int,
    slack: float,
    heap: FloatVector,
    candidate_scores: FloatVector,
    candidates: IntVector,
    count: int,
    reaching: FloatVector,
) -> int:
    """Take from a tile's scores what may belong to the list; return the number of candidates, −1 if they overflow.

    The heap holds the user's k best sgemm scores. Whatever is within ``slack`` of its least may be among the k best
    exact scores.
    """
    least = np.float32(heap[0] - slack)
    n_chunks = len(row) // CHUNK
    _count_reaching(row, least, reaching[:n_chunks])
    for chunk in range(n_chunks + 1):
        if chunk < n_chunks and reaching[chunk] == 0:
            continue
        for column in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(row))):
            score = row[column]
            if not (score >= least and score > -np.inf):
                continue
            if score > heap[0]:
                _replace_least(heap, score)
                least = np.float32(heap[0] - slack)
            if count == len(candidates):
                kept = 0
                for place in range(count):
                    if candidate_scores[place] >= least:
                        candidate_scores[kept] = candidate_scores[place]
                        candidates[kept] = candidates[place]
                        kept += 1
                if kept == count:
                    return -1
                count = kept
            candidate_scores[count] = score
            candidates[count] = first + column
            count += 1
    return count


@njit(cache=True, nogil=True)
def _settle(
    place: int,
    x: FloatVector,
    of_user: float,
    factors: FloatMatrix,
    tie_rank: IntVector,
    rank: int,
    best: IntVector,
    scores: FloatVector,
) -> None:
    """Put a candidate into a list by exact score, descending, then by tie rank.

    While the list is made, ``best`` holds rows of the listed items.
    """
    total = 0.0
    for a in range(rank):
        total += np.float64(x[a]) * np.float64(factors[place, a])
    total += np.float64(of_user)
    if factors.shape[1] > rank:
        total += np.float64(factors[place, rank])
    score = np.float32(total)
    at = len(best)
    while at > 0:
        other = best[at - 1]
        if other >= 0 and (scores[at - 1] > score or (scores[at - 1] == score and tie_rank[other] < tie_rank[place])):
            break
        at -= 1
    if at == len(best):
        return
    for shifted in range(len(best) - 1, at, -1):
        best[shifted] = best[shifted - 1]
        scores[shifted] = scores[shifted - 1]
    best[at] = place
    scores[at] = score


@njit(cache=True, nogil=True)
def _seen_by_tile(
    first: int, last: int, pointers: IntVector, seen: IntVector, place: IntVector, n_tiles: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return (tile pointers, user in the group, column in the tile) of what a group has seen of the listed items."""
    tile_ptr = np.zeros(n_tiles + 2, np.int64)
    places = np.empty(pointers[last] - pointers[first], np.int32)
    for at in range(len(places)):
        places[at] = place[seen[pointers[first] + at]]
        if places[at] >= 0:
            tile_ptr[places[at] // ITEM_TILE + 2] += 1
    for tile in range(n_tiles):
        tile_ptr[tile + 2] += tile_ptr[tile + 1]
    users, columns = np.empty(tile_ptr[n_tiles + 1], np.int32), np.empty(tile_ptr[n_tiles + 1], np.int32)
    for user in range(first, last):
        for at in range(pointers[user] - pointers[first], pointers[user + 1] - pointers[first]):
            if places[at] >= 0:
                tile = places[at] // ITEM_TILE
                target = tile_ptr[tile + 1]
                tile_ptr[tile + 1] = target + 1
                users[target] = user - first
                columns[target] = places[at] - tile * ITEM_TILE
    return tile_ptr, users, columns


@njit(cache=True, nogil=True)
def _score_users(
    start: int,
    stop: int,
    users: FloatMatrix,
    of_user: FloatVector,
    norms: FloatVector,
    slack: FloatVector,
    pointers: IntVector,
    seen: IntVector,
    factors: FloatMatrix,
    positions: IntVector,
    place: IntVector,
    tie_rank: IntVector,
    norms_left: FloatVector,
    biases_left: FloatVector,
    rank: int,
    best: NDArray[np.int32],
    scores: FloatMatrix,
) -> None:
    """Fill the lists of users ``start`` to ``stop``, one group of them after the other."""
    n_listed, width = factors.shape
    n_tiles, k = len(norms_left), best.shape[1]
    products = np.empty(USER_GROUP * ITEM_TILE, np.float32)
    reaching = np.empty(ITEM_TILE // CHUNK, np.float32)
    rows = np.ones((USER_GROUP, width), np.float32)
    user_of, row_of = np.empty(USER_GROUP, np.int64), np.empty(USER_GROUP, np.int64)
    heaps = np.empty((USER_GROUP, k), np.float32)
    candidate_scores = np.empty((USER_GROUP, 2 * k + SPARE), np.float32)
    candidates = np.empty((USER_GROUP, 2 * k + SPARE), np.int32)
    counts = np.empty(USER_GROUP, np.int64)
    for first in range(start, stop, USER_GROUP):
        live = min(USER_GROUP, stop - first)
        tile_ptr, seen_users, seen_columns = _seen_by_tile(first, first + live, pointers, seen, place, n_tiles)
        heaps[:] = -np.inf
        counts[:] = 0
        for user in range(live):
            user_of[user] = user
            rows[user, :rank] = users[first + user]
        for tile in range(n_tiles):
            kept = 0
            for row in range(live):
                user = user_of[row]
                most = norms[first + user] * norms_left[tile] + biases_left[tile]
                if counts[user] < 0 or most < heaps[user, 0] - slack[first + user]:
                    row_of[user] = -1
                    continue
                if kept != row:
                    rows[kept] = rows[row]
                    user_of[kept] = user
                row_of[user] = kept
                kept += 1
            live = kept
            if live == 0:
                break
            column = tile * ITEM_TILE
            n_columns = min(ITEM_TILE, n_listed - column)
            part = products[: live * n_columns].reshape(live, n_columns)
            np.dot(rows[:live], factors[column : column + n_columns].T, part)
            for at in range(tile_ptr[tile], tile_ptr[tile + 1]):
                row = row_of[seen_users[at]]
                if row >= 0:
                    part[row, seen_columns[at]] = -np.inf
            for row in range(live):
                user = user_of[row]
                counts[user] = _offer(
                    part[row], column, slack[first + user], heaps[user], candidate_scores[user], candidates[user],
                    counts[user], reaching,
                )  # fmt: skip
        for user in range(first, min(first + USER_GROUP, stop)):
            slot = user - first
            if counts[slot] >= 0:
                least = np.float32(heaps[slot, 0] - slack[user])
                for at in range(counts[slot]):
                    if candidate_scores[slot, at] >= least:
                        _settle(
                            candidates[slot, at], users[user], of_user[user], factors, tie_rank, rank,
                            best[user], scores[user],
                        )  # fmt: skip
            else:
                hidden = np.zeros(n_listed, np.bool_)
                for at in range(pointers[user], pointers[user + 1]):
                    if place[seen[at]] >= 0:
                        hidden[place[seen[at]]] = True
                for item in range(n_listed):
                    if not hidden[item]:
                        _settle(item, users[user], of_user[user], factors, tie_rank, rank, best[user], scores[user])
            for at in range(k):
                if best[user, at] >= 0:
                    best[user, at] = positions[best[user, at]]
