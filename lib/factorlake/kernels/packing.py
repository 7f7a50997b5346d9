"""Ratings in any order become rows of sorted neighbours, by two stable counting sorts, which threads may share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.types import IntVector

from .arrays import read_only


class CompressedRows(NamedTuple):
    """Ratings compressed by row: what the rows of one side see of the other."""

    row_ptr: NDArray[np.int64]
    """(n_rows + 1,)."""
    neighbours: NDArray[np.int32]
    """(n_obs,), ascending within a row."""
    values: NDArray[np.float32] | None
    """(n_obs,), or None when every rating is 1."""


def compress_rows(
    rows: IntVector,
    neighbours: IntVector,
    values: NDArray[np.float32] | None,
    n_rows: int,
    n_neighbours: int,
    threads: int = 1,
) -> CompressedRows:
    """Return the ratings by row, each row's neighbours ascending, in O(n_obs + n_rows + n_neighbours).

    Parameters
    ----------
    rows, neighbours : (n_obs,) positions in [0, n_rows) and [0, n_neighbours), in any order. No ratings give empty
        rows. The positions are trusted.
    values : (n_obs,) ratings, or None when every rating is 1.
    threads : how many share the work; changes no number.

    Of ratings of one pair the order of the input stays.
    """
    others, keys = read_only(rows, np.int32), read_only(neighbours, np.int32)
    given = _Told(others, _values(values))
    spans = list(pairwise(_shares(len(keys), n_neighbours, threads).astype(np.int64).tolist()))
    grouped = _room(given)

    def count(first: int, last: int, counts: NDArray[np.int64]) -> None:
        _count(keys, first, last, counts)

    def move(first: int, last: int, at: NDArray[np.int64]) -> None:
        _scatter(keys, given, first, last, at, grouped)

    ptr = _sort(n_neighbours, spans, count, move)
    by_neighbour = CompressedRows(ptr, grouped.others, None if values is None else grouped.values)
    return transpose_rows(by_neighbour, n_rows, threads)


def transpose_rows(compressed: CompressedRows, n_neighbours: int, threads: int = 1) -> CompressedRows:
    """Return the same ratings by neighbour, each with its rows ascending; ``threads`` as in `compress_rows`."""
    row_ptr, keys = read_only(compressed.row_ptr, np.int64), read_only(compressed.neighbours, np.int32)
    given = _Told(keys, _values(compressed.values))
    # Spans of whole rows with about as many ratings each.
    shares = _shares(len(keys), n_neighbours, threads)[1:-1]
    spans = list(pairwise([0, *np.searchsorted(row_ptr[:-1], shares).tolist(), len(row_ptr) - 1]))
    turned = _room(given)

    def count(first: int, last: int, counts: NDArray[np.int64]) -> None:
        _count(keys, row_ptr[first], row_ptr[last], counts)

    def move(first: int, last: int, at: NDArray[np.int64]) -> None:
        _turn(row_ptr, given, first, last, at, turned)

    ptr = _sort(n_neighbours, spans, count, move)
    return CompressedRows(ptr, turned.others, None if compressed.values is None else turned.values)


def _shares(n_obs: int, n_keys: int, threads: int) -> NDArray[np.float64]:
    """Return where the ratings are cut among threads. Each counts every key, so there are no more threads than ratings
    of a key, and counts take no more memory than the ratings."""
    return np.linspace(0, n_obs, max(1, min(threads, n_obs // max(n_keys, 1))) + 1)


_OfSpan = Callable[[int, int, NDArray[np.int64]], None]


def _sort(n_keys: int, spans: Sequence[tuple[int, int]], count: _OfSpan, move: _OfSpan) -> NDArray[np.int64]:
    """Sort by key, a thread to each span: ``count`` its keys, then ``move`` what it holds to where its own part of
    every key begins. Return (n_keys + 1,) where the keys begin."""
    firsts, lasts = zip(*spans, strict=True)
    counts = np.zeros((len(spans), n_keys), np.int64)
    with ThreadPoolExecutor(len(spans)) as pool:
        list(pool.map(count, firsts, lasts, counts))
        key_ptr = np.zeros(n_keys + 1, np.int64)
        np.cumsum(counts.sum(axis=0), out=key_ptr[1:])
        begin = key_ptr[:-1]
        for own in counts:
            n_own = own.copy()
            own[:] = begin
            begin = begin + n_own
        list(pool.map(move, firsts, lasts, counts))
    return key_ptr


def join_values(parts: Sequence[tuple[int, NDArray[np.float32] | None]]) -> NDArray[np.float32] | None:
    """Return ratings of one or more parts (n_obs, values), one after the other; None when every rating is 1."""
    if all(values is None for _, values in parts):
        return None
    return np.concatenate([np.ones(n_obs, np.float32) if values is None else values for n_obs, values in parts])


def repeated_pair(compressed: CompressedRows) -> tuple[int, int, int] | None:
    """Return (number of ratings beyond the first of their pair, row and neighbour of the first such pair), or None."""
    count, row, place = _repeats(compressed.row_ptr, compressed.neighbours)
    return (count, row, int(compressed.neighbours[place])) if count else None


class _Told(NamedTuple):
    """What each rating tells beside the key it is sorted by."""

    others: NDArray[np.int32]
    values: NDArray[np.float32]
    """Empty when every rating is 1."""


def _room(like: _Told) -> _Told:
    return _Told(np.empty(len(like.others), np.int32), np.empty(len(like.values), np.float32))


def _values(values: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return read_only(np.empty(0) if values is None else values, np.float32)


@njit(cache=True, nogil=True)
def _count(keys: IntVector, first: int, last: int, counts: NDArray[np.int64]) -> None:
    for place in range(first, last):
        counts[keys[place]] += 1


@njit(cache=True, nogil=True)
def _scatter(keys: IntVector, given: _Told, first: int, last: int, at: NDArray[np.int64], grouped: _Told) -> None:
    """Group what is told of the places from first to last by key, in the order of the input within a key."""
    for place in range(first, last):
        target = at[keys[place]]
        at[keys[place]] = target + 1
        grouped.others[target] = given.others[place]
        if len(given.values) > 0:
            grouped.values[target] = given.values[place]


@njit(cache=True, nogil=True)
def _turn(
    row_ptr: NDArray[np.int64], given: _Told, first_row: int, last_row: int, at: NDArray[np.int64], turned: _Told
) -> None:
    """Transpose the rows from first to last; visiting rows in order leaves each neighbour's rows ascending."""
    for row in range(first_row, last_row):
        for place in range(row_ptr[row], row_ptr[row + 1]):
            neighbour = given.others[place]
            target = at[neighbour]
            at[neighbour] = target + 1
            turned.others[target] = row
            if len(given.values) > 0:
                turned.values[target] = given.values[place]


@njit(cache=True, nogil=True)
def _repeats(row_ptr: NDArray[np.int64], neighbours: IntVector) -> tuple[int, int, int]:
    count, first_row, first_place = 0, -1, -1
    for row in range(len(row_ptr) - 1):
        for place in range(row_ptr[row] + 1, row_ptr[row + 1]):
            if neighbours[place] == neighbours[place - 1]:
                if count == 0:
                    first_row, first_place = row, place
                count += 1
    return count, first_row, first_place
