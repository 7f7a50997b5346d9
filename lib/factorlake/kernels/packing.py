"""Ratings in any order become rows of sorted neighbours, by two stable counting sorts."""

from __future__ import annotations

from collections.abc import Sequence
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
    rows: IntVector, neighbours: IntVector, values: NDArray[np.float32] | None, n_rows: int, n_neighbours: int
) -> CompressedRows:
    """Return the ratings by row, each row's neighbours ascending, in O(n_obs + n_rows + n_neighbours).

    Parameters
    ----------
    rows, neighbours : (n_obs,) positions in [0, n_rows) and [0, n_neighbours), in any order. No ratings give empty
        rows. The positions are trusted.
    values : (n_obs,) ratings, or None when every rating is 1.

    Of ratings of one pair the order of the input stays.
    """
    rows, neighbours = read_only(rows, np.int32), read_only(neighbours, np.int32)
    given = _values(values)
    by_neighbour = _scatter(neighbours, rows, given, n_neighbours)
    row_ptr, sorted_neighbours, sorted_values = _turn(by_neighbour[0], by_neighbour[1], by_neighbour[2], n_rows)
    return CompressedRows(row_ptr, sorted_neighbours, None if values is None else sorted_values)


def transpose_rows(compressed: CompressedRows, n_neighbours: int) -> CompressedRows:
    """Return the same ratings by neighbour, each with its rows ascending."""
    row_ptr, rows, values = _turn(compressed.row_ptr, compressed.neighbours, _values(compressed.values), n_neighbours)
    return CompressedRows(row_ptr, rows, None if compressed.values is None else values)


def join_values(parts: Sequence[tuple[int, NDArray[np.float32] | None]]) -> NDArray[np.float32] | None:
    """Return ratings of one or more parts (n_obs, values), one after the other; None when every rating is 1."""
    if all(values is None for _, values in parts):
        return None
    return np.concatenate([np.ones(n_obs, np.float32) if values is None else values for n_obs, values in parts])


def repeated_pair(compressed: CompressedRows) -> tuple[int, int, int] | None:
    """Return (number of ratings beyond the first of their pair, row and neighbour of the first such pair), or None."""
    count, row, place = _repeats(compressed.row_ptr, compressed.neighbours)
    return (count, row, int(compressed.neighbours[place])) if count else None


def _values(values: NDArray[np.float32] | None) -> NDArray[np.float32]:
    return read_only(np.empty(0) if values is None else values, np.float32)


@njit(cache=True, nogil=True)
def _pointers(keys: IntVector, n_keys: int) -> NDArray[np.int64]:
    row_ptr = np.zeros(n_keys + 1, np.int64)
    for place in range(len(keys)):
        row_ptr[keys[place] + 1] += 1
    for key in range(n_keys):
        row_ptr[key + 1] += row_ptr[key]
    return row_ptr


@njit(cache=True, nogil=True)
def _scatter(
    keys: IntVector, others: IntVector, values: NDArray[np.float32], n_keys: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Group (other, value) by key, in the order of the input within a key."""
    row_ptr = _pointers(keys, n_keys)
    at = row_ptr[:-1].copy()
    grouped = np.empty(len(keys), np.int32)
    grouped_values = np.empty(len(values), np.float32)
    for place in range(len(keys)):
        target = at[keys[place]]
        at[keys[place]] = target + 1
        grouped[target] = others[place]
        if len(values) > 0:
            grouped_values[target] = values[place]
    return row_ptr, grouped, grouped_values


@njit(cache=True, nogil=True)
def _turn(
    row_ptr: NDArray[np.int64], neighbours: IntVector, values: NDArray[np.float32], n_neighbours: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Transpose compressed rows; visiting rows in order leaves each neighbour's rows ascending."""
    turned_ptr = _pointers(neighbours, n_neighbours)
    at = turned_ptr[:-1].copy()
    turned = np.empty(len(neighbours), np.int32)
    turned_values = np.empty(len(values), np.float32)
    for row in range(len(row_ptr) - 1):
        for place in range(row_ptr[row], row_ptr[row + 1]):
            target = at[neighbours[place]]
            at[neighbours[place]] = target + 1
            turned[target] = row
            if len(values) > 0:
                turned_values[target] = values[place]
    return turned_ptr, turned, turned_values


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
