"""Rows without negative factors, by coordinate descent on each row's own system."""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .lanes import aligned_zeros, lanes_in
from .observations import LongSums, Observations, RowRidge
from .residuals import add_row_loss, longest_row, padded, room_for
from .row_solvers import CHUNK, add_row_sums, outer_room

LEAST_FALL = 1e-14
"""Sweeps over a row end when one lowers its objective by no more than this share of what the row has gained by then."""


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _take_multiple(multiple: float, vector: FloatVector, total: FloatVector) -> None:
    for a in range(vector.shape[0]):
        total[a] += multiple * vector[a]


@njit(cache=True, nogil=True)
def _descend(
    matrix: FloatMatrix, right: FloatVector, mask: FloatVector, sweeps: int, x: FloatVector, slope: FloatVector
) -> None:
    """Lower xᵀAx − 2bᵀx in place, one coordinate after the other, at most ``sweeps`` times over.

    Each coordinate goes to its lowest point, or to 0 where that is negative and ``mask`` is 1. ``matrix`` (A) is
    symmetric and whole; ``slope`` is room for Ax − b. A coordinate in which A is 0 becomes 0; NaN stays NaN.
    """
    rank = right.shape[0]
    for a in range(rank):
        slope[a] = -right[a]
    for a in range(rank):
        if x[a] != 0.0:
            _take_multiple(x[a], matrix[a], slope)
    for _ in range(sweeps):
        fall = gained = 0.0
        for a in range(rank):
            bend = matrix[a, a]
            lowest = 0.0 if bend <= 0.0 else x[a] - slope[a] / bend
            if mask[a] != 0.0 and lowest < 0.0:
                lowest = 0.0
            step = lowest - x[a]
            if step != 0.0:
                x[a] = lowest
                _take_multiple(step, matrix[a], slope)
                fall += bend * step * step
            gained += abs(x[a] * right[a])
        if not fall > LEAST_FALL * gained:
            return


@njit(cache=True, nogil=True)
def nonnegative_rows(
    observed: Observations,
    system: RowRidge,
    common: FloatMatrix,
    known: LongSums,
    warm: FloatMatrix,
    sweeps: int,
    solved: FloatMatrix,
    sums: FloatVector,
) -> int:
    """Solve every row from ``warm``; sums[0] and sums[1] take the loss and residual sum after.

    A row's system is ``common`` (rank, rank), D and its observations'. Factors where ``system.mask`` is 1 are at least
    0; the others (a bias) are free. Returns −1, or the first row whose factors are not finite. A row without
    observations becomes zero.

    Source: cyclic coordinate descent for non-negative least squares (Franc, Hlaváč, Navara, CAIP 2005; in
    factorizations known as HALS, Cichocki and Phan 2009).
    """
    rank = observed.factors.shape[1]
    longest = longest_row(observed, observed.neighbours.shape[0])
    outer = outer_room(rank, CHUNK, observed.factors)
    room = room_for(0, longest, observed)
    own = aligned_zeros(padded(rank, lanes_in(observed.factors)), observed.factors.dtype)
    matrix = np.empty((rank, rank))
    right, x, slope = np.empty(rank), np.empty(rank), np.empty(rank)
    for row in range(observed.row_ptr.shape[0] - 1):
        if observed.row_ptr[row + 1] == observed.row_ptr[row]:
            solved[row, :] = 0.0
            continue
        for a in range(rank):
            for b in range(a, rank):
                matrix[a, b] = common[a, b]
            matrix[a, a] += system.base[a] + system.ridge[row] * system.mask[a]
            right[a] = 0.0
            x[a] = warm[row, a]
            if system.mask[a] != 0.0:
                x[a] = max(x[a], 0.0)
        add_row_sums(observed, row, known, outer, matrix, right)
        for a in range(rank):
            for b in range(a):
                matrix[a, b] = matrix[b, a]
        _descend(matrix, right, system.mask, sweeps, x, slope)
        for a in range(rank):
            if not (np.isfinite(x[a]) and np.isfinite(matrix[a, a])):
                return row
            solved[row, a] = x[a]
        add_row_loss(observed, row, solved, own, room, sums)
    return -1
