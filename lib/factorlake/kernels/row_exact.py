"""Exact row solves: the dual form for short rows, tiled normal equations for the others."""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .cholesky import solve_cholesky
from .observations import Observations, RowRidge
from .row_loss import add_row_loss

# Observations whose outer products are summed by one matrix product. A constant of the data layout: partial
# sums are added in tile order, so changing it changes the last bits of every long row.
TILE = 8192


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _solve_dual_row(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    gathered: FloatMatrix,
    lower: FloatMatrix,
    solution: FloatVector,
) -> int:
    """Solve one row with fewer observations L than unknowns through an L × L system; return jitters, −1 on
    failure.

    With B = C^½ F D^-½ the normal equations D^½(I + BᵀB)D^½ x = FᵀC t turn into x = D^-½ Bᵀ (I + BBᵀ)⁻¹ C^½
    t. Every entry of the diagonal D must be positive. Source: Woodbury's identity.
    """
    rank = diagonal.shape[0]
    first = observed.row_ptr[row]
    n = observed.row_ptr[row + 1] - first
    factors = observed.factors
    rows = gathered[:n]
    dual = np.empty(n)
    for a in range(rank):
        solution[a] = 1.0 / diagonal[a] ** 0.5
    for i in range(n):
        p = first + i
        j = observed.neighbours[p]
        t = float(observed.target[p * observed.target_step])
        if observed.offset.shape[0] > 0:
            t -= float(observed.offset[j])
        root = float(observed.confidence[p * observed.confidence_step]) ** 0.5
        dual[i] = root * t
        for a in range(rank):
            rows[i, a] = root * solution[a] * factors[j, a]
    system = np.dot(rows, rows.T).astype(np.float64)
    for i in range(n):
        system[i, i] += 1.0
    jitters = solve_cholesky(system, n, lower, dual)
    back = np.zeros(rank)
    for i in range(n):
        for a in range(rank):
            back[a] += dual[i] * rows[i, a]
    for a in range(rank):
        solution[a] *= back[a]
    return jitters


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def solve_primal_row(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    gathered: FloatMatrix,
    lower: FloatMatrix,
    solution: FloatVector,
) -> int:
    """Solve (D + Σ c f fᵀ) x = Σ c t f for one row of any length; return jitters, −1 on failure.

    The outer products are summed by one matrix product per tile of TILE observations, in the factors' own
    precision; the tiles' sums are added in float64, in tile order.
    """
    rank = diagonal.shape[0]
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1]
    factors = observed.factors
    matrix = np.zeros((rank, rank))
    for a in range(rank):
        matrix[a, a] = diagonal[a]
        solution[a] = 0.0
    for start in range(first, last, TILE):
        n = min(TILE, last - start)
        rows = gathered[:n]
        for i in range(n):
            p = start + i
            j = observed.neighbours[p]
            t = float(observed.target[p * observed.target_step])
            if observed.offset.shape[0] > 0:
                t -= float(observed.offset[j])
            c = float(observed.confidence[p * observed.confidence_step])
            root = c**0.5
            weighted = c * t
            for a in range(rank):
                rows[i, a] = root * factors[j, a]
                solution[a] += weighted * factors[j, a]
        partial = np.dot(rows.T, rows)
        for a in range(rank):
            for b in range(a + 1):
                matrix[a, b] += partial[a, b]
    return solve_cholesky(matrix, rank, lower, solution)


@njit(cache=True, nogil=True)
def longest_row(observed: Observations) -> int:
    """Return the greatest number of observations of any row."""
    longest = 0
    for row in range(observed.row_ptr.shape[0] - 1):
        longest = max(longest, observed.row_ptr[row + 1] - observed.row_ptr[row])
    return longest


@njit(cache=True, nogil=True)
def exact_rows(observed: Observations, system: RowRidge, solved: FloatMatrix, sums: FloatVector) -> int:
    """Solve every row exactly; sums[0] and sums[1] take the loss and residual sum after, sums[2] the jitters.

    Returns −1, or the first row that could not be solved. A row without observations becomes zero.
    """
    rank = observed.factors.shape[1]
    gathered = np.empty((min(longest_row(observed), TILE), rank), dtype=observed.factors.dtype)
    lower = np.empty((rank, rank))
    diagonal = np.empty(rank)
    solution = np.empty(rank)
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n == 0:
            solved[row, :] = 0.0
            continue
        for a in range(rank):
            diagonal[a] = system.base[a] + system.ridge[row] * system.mask[a]
        if n < rank and diagonal.min() > 0.0:
            jitters = _solve_dual_row(observed, row, diagonal, gathered, lower, solution)
        else:
            jitters = solve_primal_row(observed, row, diagonal, gathered, lower, solution)
        if jitters < 0:
            return row
        sums[2] += jitters
        for a in range(rank):
            solved[row, a] = solution[a]
        add_row_loss(observed, row, solved[row], sums)
    return -1
