"""A few preconditioned conjugate-gradient steps in every row, from its present factors; very long rows exactly."""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .lanes import (
    add,
    aligned_zeros,
    four_sums,
    lanes_in,
    load,
    load_quad,
    multiply,
    multiply_add,
    spread_0,
    spread_1,
    spread_2,
    spread_3,
    store,
    zeros_like,
)
from .observations import LongSums, Observations, RowRidge
from .residuals import Gathered, add_row_loss, first_pass, longest_row, padded, read_pairs, room_for
from .row_solvers import TILE, solve_primal_row, upper_room


@njit(cache=True, nogil=True)
def _add_curvature(gathered: Gathered, n: int, direction: FloatVector, curvature: FloatVector) -> None:
    """Add Σ c (p·f) f over a row's n gathered observations to the curvature, p the direction."""
    factors = gathered.factors
    lanes = lanes_in(factors)
    width = direction.shape[0]
    vectors = width // lanes
    for i in range(0, n, 4):
        place = i * width
        product_0, product_1, product_2, product_3 = (
            zeros_like(factors),
            zeros_like(factors),
            zeros_like(factors),
            zeros_like(factors),
        )
        for v in range(vectors):
            a = v * lanes
            at = place + 4 * a
            here = load(direction, a)
            product_0 = multiply_add(load(factors, at), here, product_0)
            product_1 = multiply_add(load(factors, at + lanes), here, product_1)
            product_2 = multiply_add(load(factors, at + 2 * lanes), here, product_2)
            product_3 = multiply_add(load(factors, at + 3 * lanes), here, product_3)
        weights = multiply(load_quad(gathered.confidence, i), four_sums(product_0, product_1, product_2, product_3))
        w_0, w_1, w_2, w_3 = spread_0(weights), spread_1(weights), spread_2(weights), spread_3(weights)
        for v in range(vectors):
            a = v * lanes
            at = place + 4 * a
            pull = multiply_add(w_1, load(factors, at + lanes), multiply(w_0, load(factors, at)))
            pull = multiply_add(
                w_3, load(factors, at + 3 * lanes), multiply_add(w_2, load(factors, at + 2 * lanes), pull)
            )
            store(curvature, a, add(load(curvature, a), pull))


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _dot(left: FloatVector, right: FloatVector) -> float:
    total = 0.0
    for a in range(left.shape[0]):
        total += np.float64(left[a]) * np.float64(right[a])
    return total


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _descend(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    steps: int,
    x: FloatVector,
    gathered: Gathered,
    scratch: FloatMatrix,
    sums: FloatVector,
) -> None:
    """Take the CG steps of one row in place; ``scratch`` is (4, width) in the factors' precision, as is all else.

    The row's factors are gathered once, by the pass that takes the first residual; the steps read them there.
    """
    width = x.shape[0]
    first = observed.row_ptr[row]
    n = observed.row_ptr[row + 1] - first
    residual, preconditioner, direction, curvature = scratch[0], scratch[1], scratch[2], scratch[3]
    for a in range(width):
        residual[a] = -diagonal[a] * x[a]
        preconditioner[a] = diagonal[a]
    read_pairs(observed, first, n, gathered)
    first_pass(observed, row, x, gathered, residual, preconditioner, True, sums)
    for a in range(width):
        # A zero here means that neither data nor ridge touch this coordinate: leave it where it is.
        preconditioner[a] = 1.0 / preconditioner[a] if preconditioner[a] > 0.0 else 0.0
        direction[a] = preconditioner[a] * residual[a]
    descent = _dot(residual, direction)
    for step in range(steps):
        for a in range(width):
            curvature[a] = diagonal[a] * direction[a]
        _add_curvature(gathered, n, direction, curvature)
        bend = _dot(direction, curvature)
        if not bend > 0.0:
            return
        length = descent / bend
        for a in range(width):
            x[a] += length * direction[a]
            residual[a] -= length * curvature[a]
        if step + 1 < steps:
            for a in range(width):
                curvature[a] = preconditioner[a] * residual[a]
            next_descent = _dot(residual, curvature)
            turn = next_descent / descent
            descent = next_descent
            for a in range(width):
                direction[a] = curvature[a] + turn * direction[a]


@njit(cache=True, nogil=True)
def cg_rows(
    observed: Observations,
    system: RowRidge,
    known: LongSums,
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
    width = padded(rank, lanes_in(observed.factors))
    n_obs = observed.neighbours.shape[0]
    longest = longest_row(observed, n_obs)
    gathered = room_for(longest_row(observed, TILE), longest, observed)
    tile = np.empty((TILE if longest > TILE else 0, rank), dtype=dtype)
    upper = upper_room(rank)
    solution = np.empty(rank)
    diagonal = np.empty(rank)
    own_diagonal = aligned_zeros(width, dtype)
    x = aligned_zeros(width, dtype)
    scratch = aligned_zeros(4 * width, dtype).reshape(4, width)
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n == 0:
            solved[row, :] = 0.0
            continue
        for a in range(rank):
            diagonal[a] = system.base[a] + system.ridge[row] * system.mask[a]
        if n > TILE:
            add_row_loss(observed, row, warm[row], x, gathered, sums)
            jitters = solve_primal_row(observed, row, diagonal, known, tile, upper, solution)
            if jitters < 0:
                return row
            sums[2] += jitters
            for a in range(rank):
                solved[row, a] = solution[a]
        else:
            for a in range(rank):
                own_diagonal[a] = diagonal[a]
                x[a] = warm[row, a]
            for a in range(rank, width):
                x[a] = 0.0
            _descend(observed, row, own_diagonal, steps, x, gathered, scratch, sums)
            for a in range(rank):
                solved[row, a] = x[a]
    return -1
