"""Conjugate gradients per row, with a Jacobi preconditioner and a warm start."""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .observations import Observations, RowRidge
from .row_exact import TILE, longest_row, solve_primal_row
from .row_loss import add_row_loss


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _first_residual(
    observed: Observations,
    row: int,
    x: FloatVector,
    residual: FloatVector,
    preconditioner: FloatVector,
    sums: FloatVector,
) -> None:
    """Add Σ c e f to the residual, Σ c f² to the preconditioner, Σ c e² and Σ c e to the sums.

    e = t − o − x·f.
    """
    factors = observed.factors
    squares = 0.0
    signed = 0.0
    for p in range(observed.row_ptr[row], observed.row_ptr[row + 1]):
        j = observed.neighbours[p]
        product = factors.dtype.type(0)
        for a in range(x.shape[0]):
            product += x[a] * factors[j, a]
        c = observed.confidence[p * observed.confidence_step]
        e = observed.target[p * observed.target_step] - product
        if observed.offset.shape[0] > 0:
            e -= observed.offset[j]
        weighted = c * e
        squares += float(weighted) * float(e)
        signed += float(weighted)
        for a in range(x.shape[0]):
            f = factors[j, a]
            residual[a] += weighted * f
            preconditioner[a] += c * f * f
    sums[0] += squares
    sums[1] += signed


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _add_curvature(observed: Observations, row: int, direction: FloatVector, curvature: FloatVector) -> None:
    """Add Σ c (p·f) f to the curvature, p the direction."""
    factors = observed.factors
    for p in range(observed.row_ptr[row], observed.row_ptr[row + 1]):
        j = observed.neighbours[p]
        product = factors.dtype.type(0)
        for a in range(direction.shape[0]):
            product += direction[a] * factors[j, a]
        product *= observed.confidence[p * observed.confidence_step]
        for a in range(direction.shape[0]):
            curvature[a] += product * factors[j, a]


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _dot(left: FloatVector, right: FloatVector) -> float:
    total = 0.0
    for a in range(left.shape[0]):
        total += float(left[a]) * float(right[a])
    return total


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _descend(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    steps: int,
    x: FloatVector,
    scratch: FloatMatrix,
    sums: FloatVector,
) -> None:
    """Take the CG steps of one row in place; ``scratch`` is (4, rank) in the factors' precision."""
    rank = x.shape[0]
    residual, preconditioner, direction, curvature = scratch[0], scratch[1], scratch[2], scratch[3]
    for a in range(rank):
        residual[a] = -diagonal[a] * x[a]
        preconditioner[a] = diagonal[a]
    _first_residual(observed, row, x, residual, preconditioner, sums)
    for a in range(rank):
        # A zero here means that neither data nor ridge touch this coordinate: leave it where it is.
        preconditioner[a] = 1.0 / preconditioner[a] if preconditioner[a] > 0.0 else 0.0
        direction[a] = preconditioner[a] * residual[a]
    descent = _dot(residual, direction)
    for step in range(steps):
        for a in range(rank):
            curvature[a] = diagonal[a] * direction[a]
        _add_curvature(observed, row, direction, curvature)
        bend = _dot(direction, curvature)
        if not bend > 0.0:
            return
        length = descent / bend
        for a in range(rank):
            x[a] += length * direction[a]
            residual[a] -= length * curvature[a]
        if step + 1 < steps:
            for a in range(rank):
                curvature[a] = preconditioner[a] * residual[a]
            next_descent = _dot(residual, curvature)
            turn = next_descent / descent
            descent = next_descent
            for a in range(rank):
                direction[a] = curvature[a] + turn * direction[a]


@njit(cache=True, nogil=True)
def cg_rows(
    observed: Observations,
    system: RowRidge,
    warm: FloatMatrix,
    steps: int,
    solved: FloatMatrix,
    sums: FloatVector,
) -> int:
    """Take ``steps`` preconditioned CG steps in every row; sums[0] and sums[1] take loss and residual sum
    before.

    The preconditioner is M = D + Σ c f². A row longer than TILE is solved exactly instead (sums[2] counts its
    jitters), after one pass for its loss. A row without observations becomes zero. Returns −1, or the first
    row that could not be solved.

    Source: Takács, Pilászy, Tikk, RecSys 2011 (CG for implicit ALS); the eigenbasis makes D diagonal.
    """
    rank = observed.factors.shape[1]
    dtype = observed.factors.dtype
    gathered = np.empty((TILE if longest_row(observed) > TILE else 0, rank), dtype=dtype)
    lower = np.empty((rank, rank))
    solution = np.empty(rank)
    diagonal = np.empty(rank)
    own_diagonal = np.empty(rank, dtype=dtype)
    scratch = np.empty((4, rank), dtype=dtype)
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n == 0:
            solved[row, :] = 0.0
            continue
        for a in range(rank):
            diagonal[a] = system.base[a] + system.ridge[row] * system.mask[a]
        if n > TILE:
            add_row_loss(observed, row, warm[row], sums)
            jitters = solve_primal_row(observed, row, diagonal, gathered, lower, solution)
            if jitters < 0:
                return row
            sums[2] += jitters
            for a in range(rank):
                solved[row, a] = solution[a]
        else:
            for a in range(rank):
                own_diagonal[a] = diagonal[a]
                solved[row, a] = warm[row, a]
            _descend(observed, row, own_diagonal, steps, solved[row], scratch, sums)
    return -1
