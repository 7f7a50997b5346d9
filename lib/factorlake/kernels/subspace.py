"""One sweep over blocks of coordinates in every row, each block solved exactly; very long rows exactly as a whole."""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .lanes import (
    add,
    aligned_zeros,
    four_sums,
    lanes_in,
    load,
    load_quad,
    multiply,
    multiply_add,
    spread,
    spread_0,
    spread_1,
    spread_2,
    spread_3,
    store,
    subtract,
    zeros_like,
)
from .observations import LongSums, Observations, RowRidge
from .residuals import Gathered, add_row_loss, first_pass, longest_row, padded, read_pairs, room_for
from .row_solvers import CHUNK, GROUP, TILE, outer_room, solve_cholesky, solve_primal_row, upper_room

# Coordinates that are solved together: as many float32 as a vector holds.
SUBSPACE = 16


@njit(cache=True, nogil=True)
def _pull(gathered: Gathered, n: int, a: int, width: int, out: FloatVector, at_out: int) -> None:
    """Write Σ c e f of the coordinates of the vector at ``a``; ``gathered.target`` holds e."""
    factors = gathered.factors
    lanes = lanes_in(factors)
    sum_0, sum_1, sum_2, sum_3 = zeros_like(factors), zeros_like(factors), zeros_like(factors), zeros_like(factors)
    for i in range(0, n, 4):
        at = i * width + 4 * a
        ce = multiply(load_quad(gathered.confidence, i), load_quad(gathered.target, i))
        sum_0 = multiply_add(spread_0(ce), load(factors, at), sum_0)
        sum_1 = multiply_add(spread_1(ce), load(factors, at + lanes), sum_1)
        sum_2 = multiply_add(spread_2(ce), load(factors, at + 2 * lanes), sum_2)
        sum_3 = multiply_add(spread_3(ce), load(factors, at + 3 * lanes), sum_3)
    store(out, at_out, add(add(sum_0, sum_1), add(sum_2, sum_3)))


@njit(cache=True, nogil=True)
def _outer(gathered: Gathered, n: int, s: int, a: int, width: int, out: FloatVector) -> None:
    """Write Σ c f_s f, ..., Σ c f_(s + 7) f of the coordinates of the vector at ``a``, one vector after the other.

    f_s is coordinate s of the factors, s a multiple of GROUP."""
    factors = gathered.factors
    lanes = lanes_in(factors)
    of_s = 4 * (s // lanes * lanes) + s % lanes
    sum_0, sum_1, sum_2, sum_3 = zeros_like(factors), zeros_like(factors), zeros_like(factors), zeros_like(factors)
    sum_4, sum_5, sum_6, sum_7 = zeros_like(factors), zeros_like(factors), zeros_like(factors), zeros_like(factors)
    for i in range(n):
        # Quads lie by vectors: those of four observations in turn.
        quad, own = i // 4 * 4 * width, i % 4 * lanes
        one = quad + of_s + own
        here = multiply(spread(gathered.confidence[i]), load(factors, quad + 4 * a + own))
        sum_0 = multiply_add(spread(factors[one]), here, sum_0)
        sum_1 = multiply_add(spread(factors[one + 1]), here, sum_1)
        sum_2 = multiply_add(spread(factors[one + 2]), here, sum_2)
        sum_3 = multiply_add(spread(factors[one + 3]), here, sum_3)
        sum_4 = multiply_add(spread(factors[one + 4]), here, sum_4)
        sum_5 = multiply_add(spread(factors[one + 5]), here, sum_5)
        sum_6 = multiply_add(spread(factors[one + 6]), here, sum_6)
        sum_7 = multiply_add(spread(factors[one + 7]), here, sum_7)
    store(out, 0, sum_0)
    store(out, lanes, sum_1)
    store(out, 2 * lanes, sum_2)
    store(out, 3 * lanes, sum_3)
    store(out, 4 * lanes, sum_4)
    store(out, 5 * lanes, sum_5)
    store(out, 6 * lanes, sum_6)
    store(out, 7 * lanes, sum_7)


@njit(cache=True, nogil=True)
def _move(gathered: Gathered, n: int, first: int, last: int, width: int, step: FloatVector) -> None:
    """Subtract step·f over the coordinates from first to last from every e."""
    factors = gathered.factors
    lanes = lanes_in(factors)
    for i in range(0, n, 4):
        product_0, product_1, product_2, product_3 = (
            zeros_like(factors),
            zeros_like(factors),
            zeros_like(factors),
            zeros_like(factors),
        )
        for a in range(first, last, lanes):
            at = i * width + 4 * a
            here = load(step, a - first)
            product_0 = multiply_add(load(factors, at), here, product_0)
            product_1 = multiply_add(load(factors, at + lanes), here, product_1)
            product_2 = multiply_add(load(factors, at + 2 * lanes), here, product_2)
            product_3 = multiply_add(load(factors, at + 3 * lanes), here, product_3)
        moved = four_sums(product_0, product_1, product_2, product_3)
        store(gathered.target, i, subtract(load_quad(gathered.target, i), moved))


@njit(cache=True, nogil=True)
def _sweep(
    n: int,
    rank: int,
    diagonal: FloatVector,
    x: FloatVector,
    gathered: Gathered,
    room: FloatVector,
    matrix: FloatMatrix,
    right: FloatVector,
    upper: FloatVector,
) -> int:
    """Solve one block of coordinates after the other, in place; return jitters, −1 on failure."""
    lanes = lanes_in(x)
    width = x.shape[0]
    jitters = 0
    for first in range(0, rank, SUBSPACE):
        last = min(first + SUBSPACE, rank)
        for a in range(first, last, lanes):
            _pull(gathered, n, a, width, room, a - first)
        for s in range(first, last):
            right[s - first] = room[s - first] - diagonal[s] * x[s]
        for group in range(first, last, GROUP):
            for a in range(group // lanes * lanes, last, lanes):
                _outer(gathered, n, group, a, width, room)
                for s in range(group, min(group + GROUP, last)):
                    for b in range(max(s, a), min(a + lanes, last)):
                        matrix[s - first, b - first] = room[(s - group) * lanes + b - a]
        for s in range(first, last):
            own = matrix[s - first, s - first] + diagonal[s]
            # A zero here means that neither data nor ridge touch this coordinate: leave it where it is.
            matrix[s - first, s - first] = own if own > 0.0 else 1.0
        taken = solve_cholesky(matrix, last - first, upper, right)
        if taken < 0:
            return -1
        jitters += taken
        for s in range(SUBSPACE):
            room[s] = right[s] if first + s < last else 0.0
        for s in range(first, last):
            x[s] += room[s - first]
        if last < rank:
            _move(gathered, n, first, last, width, room)
    return jitters


@njit(cache=True, nogil=True)
def subspace_rows(
    observed: Observations,
    system: RowRidge,
    known: LongSums,
    warm: FloatMatrix,
    solved: FloatMatrix,
    sums: FloatVector,
) -> int:
    """Sweep once over every row: SUBSPACE coordinates at a time are solved for, the others staying as they are.

    Block Gauss-Seidel on (D + Σ c f fᵀ) x = Σ c (t − o) f from the row's present factors. sums[0] and sums[1] take loss
    and residual sum before, sums[2] the jitters. A row longer than TILE is solved exactly instead. A row without
    observations becomes zero. Returns −1, or the first row that could not be solved.

    Source: Rendle, Krichene, Zhang, Koren, iALS++ (2021); the eigenbasis makes D diagonal, and its leading coordinates,
    which the unobserved pairs weigh most on, come first.
    """
    rank = observed.factors.shape[1]
    dtype = observed.factors.dtype
    width = padded(rank, lanes_in(observed.factors))
    longest = longest_row(observed, observed.neighbours.shape[0])
    gathered = room_for(longest_row(observed, TILE), longest, observed)
    outer = outer_room(rank, CHUNK, observed.factors)
    upper = upper_room(rank)
    diagonal, solution = np.empty(rank), np.empty(rank)
    matrix, right = np.zeros((SUBSPACE, SUBSPACE)), np.zeros(SUBSPACE)
    room = aligned_zeros(GROUP * SUBSPACE, dtype)
    x, unused = aligned_zeros(width, dtype), aligned_zeros(width, dtype)
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n == 0:
            solved[row, :] = 0.0
            continue
        for a in range(rank):
            diagonal[a] = system.base[a] + system.ridge[row] * system.mask[a]
        if n > TILE:
            add_row_loss(observed, row, warm, x, gathered, sums)
            jitters = solve_primal_row(observed, row, diagonal, known, outer, upper, solution)
        else:
            for a in range(rank):
                x[a] = warm[row, a]
            for a in range(rank, width):
                x[a] = 0.0
            read_pairs(observed, observed.row_ptr[row], n, 0, gathered)
            first_pass(observed, observed.row_ptr[row], n, 0, x, gathered, unused, unused, True, sums)
            jitters = _sweep(n, rank, diagonal, x, gathered, room, matrix, right, upper)
            for a in range(rank):
                solution[a] = x[a]
        if jitters < 0:
            return row
        sums[2] += jitters
        for a in range(rank):
            solved[row, a] = solution[a]
    return -1
