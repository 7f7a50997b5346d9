"""Rows of a non-negative factorization in which every cell counts: one matrix for all, by coordinate descent.

Where a missing cell is a zero like any other, the systems of all rows share the fixed side's Gram matrix, and a row's
observations give nothing but its right-hand side: one pass over their factors, and no outer product.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .lanes import (
    add,
    aligned_zeros,
    lanes_in,
    load,
    load_wide,
    load_wide_part,
    multiply,
    multiply_add,
    prefetch,
    spread,
    store,
    uncounted,
    zeros_like,
)
from .nonnegative import LEAST_FALL
from .observations import LongSums, Observations, RowRidge, uncounted_observations
from .residuals import AHEAD, longest_row, padded
from .row_solvers import SEGMENT


@njit(cache=True, nogil=True, forceinline=True)
def _clear(vector: FloatVector) -> None:
    for a in range(0, vector.shape[0], lanes_in(vector)):
        store(vector, a, zeros_like(vector))


@njit(cache=True, nogil=True, forceinline=True)
def _read_shares(observed: Observations, first: int, last: int, shares: FloatVector) -> float:
    """Write c (t − o) of observations first to last to ``shares``, and zeros up to a whole quad; return the sum of
    c (t − o)²."""
    confidence, target, offset, neighbours = (
        observed.confidence,
        observed.target,
        observed.offset,
        observed.neighbours,
    )
    c_step, t_step, n = observed.confidence_step, observed.target_step, last - first
    squares = 0.0
    for i in range(n):
        p = first + i
        t = np.float64(target[p * t_step])
        if offset.shape[0] > 0:
            t -= np.float64(offset[neighbours[p]])
        shares[i] = np.float64(confidence[p * c_step]) * t
        squares += shares[i] * t
    for i in range(n, padded(n, 4)):
        shares[i] = 0.0
    return squares


@njit(cache=True, nogil=True, forceinline=True)
def _add_pull(observed: Observations, first: int, last: int, shares: FloatVector, pull: FloatVector) -> float:
    """Add Σ c (t − o) f of observations first to last to ``pull``, of the padded width, four at a time and in float64;
    return Σ c (t − o)². ``shares`` is room for whole quads of them."""
    squares = _read_shares(observed, first, last, shares)
    factors, neighbours = observed.factors, observed.neighbours
    rank, n_obs, end = factors.shape[1], neighbours.shape[0], last - 1
    lanes, width = lanes_in(pull), pull.shape[0]
    whole = rank // lanes * lanes
    part = rank - whole
    for p in range(first, last, 4):
        from_0 = np.int64(neighbours[p]) * rank
        from_1 = np.int64(neighbours[min(p + 1, end)]) * rank
        from_2 = np.int64(neighbours[min(p + 2, end)]) * rank
        from_3 = np.int64(neighbours[min(p + 3, end)]) * rank
        i = p - first
        share_0, share_1 = spread(shares[i]), spread(shares[i + 1])
        share_2, share_3 = spread(shares[i + 2]), spread(shares[i + 3])
        for a in range(0, width, lanes):
            if a < whole:
                f_0, f_1 = load_wide(factors, from_0 + a), load_wide(factors, from_1 + a)
                f_2, f_3 = load_wide(factors, from_2 + a), load_wide(factors, from_3 + a)
            else:
                f_0, f_1 = load_wide_part(factors, from_0 + a, part), load_wide_part(factors, from_1 + a, part)
                f_2, f_3 = load_wide_part(factors, from_2 + a, part), load_wide_part(factors, from_3 + a, part)
            four = multiply_add(share_1, f_1, multiply(share_0, f_0))
            four = multiply_add(share_3, f_3, multiply_add(share_2, f_2, four))
            store(pull, a, add(load(pull, a), four))
        # The next rows' factors are called for too: their observations follow in the same arrays.
        if p + AHEAD + 3 < n_obs:
            next_0 = np.int64(neighbours[p + AHEAD]) * rank
            next_1 = np.int64(neighbours[p + AHEAD + 1]) * rank
            next_2 = np.int64(neighbours[p + AHEAD + 2]) * rank
            next_3 = np.int64(neighbours[p + AHEAD + 3]) * rank
            for a in range(0, rank, 2 * lanes):
                prefetch(factors, next_0 + a)
                prefetch(factors, next_1 + a)
                prefetch(factors, next_2 + a)
                prefetch(factors, next_3 + a)
    return squares


@njit(cache=True, nogil=True, forceinline=True)
def _pull_of_row(
    observed: Observations, row: int, known: LongSums, shares: FloatVector, part: FloatVector, pull: FloatVector
) -> float:
    """Write Σ c (t − o) f of one row of any length to ``pull``; return Σ c (t − o)².

    Of a row longer than SEGMENT the former is taken from ``known`` where it is there, else made as it would be:
    ``part`` is room for a segment's.
    """
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1]
    _clear(pull)
    if last - first <= SEGMENT:
        return _add_pull(observed, first, last, shares, pull)
    rank = observed.factors.shape[1]
    place = np.searchsorted(known.rows, row)
    is_known = place < known.rows.shape[0] and known.rows[place] == row
    squares = 0.0
    for start in range(first, last, SEGMENT):
        end = min(start + SEGMENT, last)
        if is_known:
            squares += _read_shares(observed, start, end, shares)
        else:
            _clear(part)
            squares += _add_pull(observed, start, end, shares, part)
            for a in range(rank):
                pull[a] += part[a]
    if is_known:
        for a in range(rank):
            pull[a] = known.sums[place, a, rank]
    return squares


@njit(cache=True, nogil=True)
def _shares_room(observed: Observations) -> FloatVector:
    """Return room for the shares of any row, of which a longer one is read by segments."""
    longest = longest_row(observed, observed.neighbours.shape[0])
    return aligned_zeros(padded(min(longest, SEGMENT), 4), np.float64)


@njit(cache=True, nogil=True)
def add_segment_pull(observed: Observations, sums: FloatMatrix) -> None:
    """Add Σ c (t − o) f of one segment of a row, which is all of ``observed``, to the last column of ``sums`` (rank,
    rank + 1); the others stay as they are: no row here asks for Σ c f fᵀ."""
    rank, n = observed.factors.shape[1], observed.neighbours.shape[0]
    pull = aligned_zeros(padded(rank, lanes_in(sums)), np.float64)
    _add_pull(observed, 0, n, aligned_zeros(padded(n, 4), np.float64), pull)
    for a in range(rank):
        sums[a, rank] += pull[a]


@njit(cache=True, nogil=True)
def product_rows(observed: Observations, known: LongSums, solved: FloatMatrix) -> None:
    """Write Σ c (t − o) f of every row, summed in float64: the rows of the matrix times the fixed factors."""
    width = padded(observed.factors.shape[1], lanes_in(known.sums))
    part, pull = aligned_zeros(width, np.float64), aligned_zeros(width, np.float64)
    _product_rows(observed, known, solved, _shares_room(observed), part, pull)


@njit(cache=True, nogil=True)
def _product_rows(
    given: Observations,
    known: LongSums,
    solved: FloatMatrix,
    held_shares: FloatVector,
    held_part: FloatVector,
    held_pull: FloatVector,
) -> None:
    """See ``product_rows``, which holds the arrays."""
    observed, shares = uncounted_observations(given), uncounted(held_shares)
    part, pull = uncounted(held_part), uncounted(held_pull)
    for row in range(observed.row_ptr.shape[0] - 1):
        _pull_of_row(observed, row, known, shares, part, pull)
        for a in range(observed.factors.shape[1]):
            solved[row, a] = pull[a]


@njit(cache=True, nogil=True, forceinline=True)
def _descend(
    common: FloatVector,
    ridge: FloatVector,
    inverse: FloatVector,
    mask: FloatVector,
    right: FloatVector,
    sweeps: int,
    x: FloatVector,
    slope: FloatVector,
) -> None:
    """Lower xᵀ(B + D)x − 2bᵀx in place, one coordinate after the other, at most ``sweeps`` times over.

    Each coordinate goes to its lowest point, or to 0 where that is negative and ``mask`` is 1. ``common`` holds the
    rows of B, which is symmetric, each of the padded width; ``ridge`` is the diagonal of D and ``inverse`` that of
    B + D, inverted, 0 where a coordinate is to be 0. ``slope`` is room for Bx − b. NaN stays NaN.
    """
    rank, width, lanes = x.shape[0], slope.shape[0], lanes_in(slope)
    minus = spread(-1.0)
    for a in range(0, width, lanes):
        store(slope, a, multiply(minus, load(right, a)))
    for a in range(rank):
        if x[a] != 0.0:
            share = spread(x[a])
            for b in range(0, width, lanes):
                store(slope, b, multiply_add(share, load(common, a * width + b), load(slope, b)))
    for _ in range(sweeps):
        fall = gained = 0.0
        for a in range(rank):
            # Where nothing bends, the row's objective does not know the coordinate.
            lowest = 0.0 if inverse[a] == 0.0 else x[a] - (slope[a] + ridge[a] * x[a]) * inverse[a]
            if mask[a] != 0.0 and lowest < 0.0:
                lowest = 0.0
            step = lowest - x[a]
            if step != 0.0:
                x[a] = lowest
                share = spread(step)
                for b in range(0, width, lanes):
                    store(slope, b, multiply_add(share, load(common, a * width + b), load(slope, b)))
                fall += step * step * (common[a * width + a] + ridge[a])
            gained += abs(x[a] * right[a])
        if not fall > LEAST_FALL * gained:
            return


@njit(cache=True, nogil=True)
def hals_rows(
    observed: Observations,
    system: RowRidge,
    common: FloatMatrix,
    known: LongSums,
    warm: FloatMatrix,
    sweeps: int,
    solved: FloatMatrix,
    sums: FloatVector,
) -> int:
    """Solve every row from ``warm``, minimising xᵀ(B + D)x − 2 Σ c t f·x for B = ``common`` (rank, rank).

    sums[0] takes Σ c (t² − 2 t x·f) after, of x as it was rounded; no residual sum is taken. Factors where
    ``system.mask`` is 1 are at least 0. Returns −1, or the first row whose factors are not finite. A row without
    observations becomes zero.

    Source: Cichocki and Phan 2009 (HALS); as coordinate descent Hsieh and Dhillon, KDD 2011.
    """
    rank = observed.factors.shape[1]
    width = padded(rank, lanes_in(common))
    matrix = aligned_zeros(rank * width, np.float64)
    for a in range(rank):
        for b in range(rank):
            matrix[a * width + b] = common[a, b]
    part, pull, slope = (
        aligned_zeros(width, np.float64),
        aligned_zeros(width, np.float64),
        aligned_zeros(width, np.float64),
    )
    shares = _shares_room(observed)
    return _hals_rows(observed, system, matrix, known, warm, sweeps, solved, sums, shares, part, pull, slope)


@njit(cache=True, nogil=True)
def _hals_rows(
    given: Observations,
    system: RowRidge,
    held: FloatVector,
    known: LongSums,
    warm: FloatMatrix,
    sweeps: int,
    solved: FloatMatrix,
    sums: FloatVector,
    held_shares: FloatVector,
    held_part: FloatVector,
    held_pull: FloatVector,
    held_slope: FloatVector,
) -> int:
    """See ``hals_rows``, which holds the arrays."""
    observed, common, shares = uncounted_observations(given), uncounted(held), uncounted(held_shares)
    part, pull, slope = uncounted(held_part), uncounted(held_pull), uncounted(held_slope)
    rank, width = observed.factors.shape[1], slope.shape[0]
    ridge, inverse, x = np.zeros(rank), np.zeros(rank), np.empty(rank)
    for row in range(observed.row_ptr.shape[0] - 1):
        if observed.row_ptr[row] == observed.row_ptr[row + 1]:
            for a in range(rank):
                solved[row, a] = 0.0
            continue
        loss = _pull_of_row(observed, row, known, shares, part, pull)
        for a in range(rank):
            ridge[a] = system.base[a] + system.ridge[row] * system.mask[a]
            bend = common[a * width + a] + ridge[a]
            inverse[a] = 0.0 if bend <= 0.0 else 1.0 / bend
            x[a] = warm[row, a]
            if system.mask[a] != 0.0:
                x[a] = max(x[a], 0.0)
        _descend(common, ridge, inverse, system.mask, pull, sweeps, x, slope)
        for a in range(rank):
            if not (np.isfinite(x[a]) and np.isfinite(pull[a])):
                return row
            solved[row, a] = x[a]
            loss -= 2.0 * pull[a] * np.float64(solved[row, a])
        sums[0] += loss
    return -1
