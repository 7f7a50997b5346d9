"""Exact row solvers: one small least-squares system per user or item.

Compiled kernels that use this file (conjugate_gradients.py, subspace.py, nonnegative.py) are cached by their own file:
a change here asks for one there too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .lanes import (
    BYTES,
    aligned_zeros,
    four_sums,
    lanes_in,
    load,
    multiply,
    multiply_add,
    quad_sum,
    spread,
    store,
    zeros_like,
)
from .observations import LongSums, Observations, RowRidge
from .residuals import add_row_loss, longest_row, padded, room_for

# Observations whose outer products are summed by one matrix product. A constant of the data layout: partial
# sums are added in tile order, so changing it changes the last bits of every long row.
TILE = 8192
# A row longer than this is summed in segments of as many observations, which may be done in different places; the
# segments' sums are added in order. Whole tiles, and a constant of the data layout like them.
SEGMENT = 32 * TILE
FIRST_JITTER = 1e-10
# A pivot below this share of its diagonal entry is rounding noise, and dividing by it would make up a
# solution.
LEAST_PIVOT = 1e-13
MAX_JITTERS = 12
# Finished rows that are taken from the rows below at once.
PIVOTS = 4


@njit(cache=True, nogil=True)
def upper_room(rank: int) -> FloatVector:
    """Return room for the factor of a system of up to ``rank`` unknowns, its right-hand side and its solution."""
    return aligned_zeros((rank + 1) * padded(rank + 1, BYTES // 8), np.float64)


@njit(cache=True, nogil=True)
def _factorize(matrix: FloatMatrix, right: FloatVector, size: int, upper: FloatVector, jitter: float) -> bool:
    """Write (U, y) of A + jitter·I = UᵀU and Uᵀy = b into ``upper``; False if A is not positive definite.

    Of the matrix only the upper triangle is read. ``upper`` is flat and float64, rows of padded width: row i holds U_i
    from its diagonal on, where 1/U_ii stands, and y_i behind its last column. Four finished rows at a time are taken
    from each row below: whole vectors, so what stands left of a row's diagonal within its first vector is finite but of
    no meaning.
    """
    lanes = lanes_in(upper)
    width = padded(size + 1, lanes)
    for i in range(size):
        for j in range(i // lanes * lanes, i):
            upper[i * width + j] = 0.0
        for j in range(i, size):
            upper[i * width + j] = matrix[i, j]
        for j in range(size, width):
            upper[i * width + j] = 0.0
        upper[i * width + i] += jitter
        upper[i * width + size] = right[i]
    for first in range(0, size, PIVOTS):
        last = min(first + PIVOTS, size)
        for i in range(first, last):
            entry = matrix[i, i] + jitter
            pivot = upper[i * width + i]
            # The comparisons are written so that NaN fails them too.
            if not (pivot > 0.0 and pivot > LEAST_PIVOT * entry):
                return False
            inverse = 1.0 / pivot**0.5
            scale = spread(inverse)
            for a in range(i // lanes * lanes, width, lanes):
                store(upper, i * width + a, multiply(scale, load(upper, i * width + a)))
            for below in range(i + 1, last):
                share = spread(-upper[i * width + below])
                for a in range(below // lanes * lanes, width, lanes):
                    at = below * width + a
                    store(upper, at, multiply_add(share, load(upper, i * width + a), load(upper, at)))
            upper[i * width + i] = inverse
        # Only whole groups have rows below them.
        row_0, row_1, row_2, row_3 = first * width, (first + 1) * width, (first + 2) * width, (first + 3) * width
        for below in range(first + PIVOTS, size):
            share_0, share_1 = spread(-upper[row_0 + below]), spread(-upper[row_1 + below])
            share_2, share_3 = spread(-upper[row_2 + below]), spread(-upper[row_3 + below])
            for a in range(below // lanes * lanes, width, lanes):
                at = below * width + a
                taken = multiply_add(share_0, load(upper, row_0 + a), load(upper, at))
                taken = multiply_add(share_1, load(upper, row_1 + a), taken)
                taken = multiply_add(share_2, load(upper, row_2 + a), taken)
                store(upper, at, multiply_add(share_3, load(upper, row_3 + a), taken))
    return True


@njit(cache=True, nogil=True)
def _substitute(upper: FloatVector, size: int, solution: FloatVector) -> None:
    """Write the solution of Ux = y, for (U, y) as ``_factorize`` leaves them."""
    lanes = lanes_in(upper)
    width = padded(size + 1, lanes)
    own = size * width
    for a in range(0, width, lanes):
        store(upper, own + a, zeros_like(upper))
    for i in range(size - 1, -1, -1):
        # What is not solved yet counts as zero, and so does what stands left of the diagonal and behind the columns.
        total = zeros_like(upper)
        for a in range(i // lanes * lanes, width, lanes):
            total = multiply_add(load(upper, i * width + a), load(upper, own + a), total)
        nothing = zeros_like(upper)
        known = quad_sum(four_sums(total, nothing, nothing, nothing))
        solution[i] = (upper[i * width + size] - known) * upper[i * width + i]
        upper[own + i] = solution[i]


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def solve_cholesky(matrix: FloatMatrix, size: int, upper: FloatVector, vector: FloatVector) -> int:
    """Overwrite b with A⁻¹b and return how many ridge jitters it took, or −1 if no jitter was enough.

    A matrix that rounding made indefinite gets a growing ridge: 1e-10, 1e-9, ... 10 times its mean diagonal.
    """
    if _factorize(matrix, vector, size, upper, 0.0):
        _substitute(upper, size, vector)
        return 0
    trace = 0.0
    for i in range(size):
        trace += matrix[i, i]
    jitter = FIRST_JITTER * trace / size
    for attempt in range(1, MAX_JITTERS + 1):
        if _factorize(matrix, vector, size, upper, jitter):
            _substitute(upper, size, vector)
            return attempt
        jitter *= 10.0
    return -1


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _solve_dual_row(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    gathered: FloatMatrix,
    upper: FloatVector,
    solution: FloatVector,
) -> int:
    """Solve one row with fewer observations L than unknowns through an L × L system; return jitters, −1 on
    failure.

    With B = C^½ F D^-½ the normal equations D^½(I + BᵀB)D^½ x = FᵀC t turn into x = D^-½ Bᵀ (I + BBᵀ)⁻¹ C^½
    t. Every entry of the diagonal D must be positive. Source: Woodbury's identity.

    All of it is in float64 whatever the factors: where D is small, I is lost in the float32 rounding of BBᵀ.
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
        t = np.float64(observed.target[p * observed.target_step])
        if observed.offset.shape[0] > 0:
            t -= np.float64(observed.offset[j])
        root = np.float64(observed.confidence[p * observed.confidence_step]) ** 0.5
        dual[i] = root * t
        for a in range(rank):
            rows[i, a] = root * solution[a] * factors[j, a]
    system = np.dot(rows, rows.T)
    for i in range(n):
        system[i, i] += 1.0
    jitters = solve_cholesky(system, n, upper, dual)
    back = np.zeros(rank)
    for i in range(n):
        for a in range(rank):
            back[a] += dual[i] * rows[i, a]
    for a in range(rank):
        solution[a] *= back[a]
    return jitters


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _add_tiles(
    observed: Observations, first: int, last: int, gathered: FloatMatrix, matrix: FloatMatrix, right: FloatVector
) -> None:
    """Add Σ c f fᵀ (upper triangle) and Σ c t f of observations first to last.

    The outer products are summed by one matrix product per tile of TILE observations, in the factors' own
    precision; the tiles' sums are added in float64, in tile order.
    """
    factors = observed.factors
    rank = factors.shape[1]
    for start in range(first, last, TILE):
        n = min(TILE, last - start)
        rows = gathered[:n]
        for i in range(n):
            p = start + i
            j = observed.neighbours[p]
            t = np.float64(observed.target[p * observed.target_step])
            if observed.offset.shape[0] > 0:
                t -= np.float64(observed.offset[j])
            c = np.float64(observed.confidence[p * observed.confidence_step])
            root = c**0.5
            weighted = c * t
            for a in range(rank):
                rows[i, a] = root * factors[j, a]
                right[a] += weighted * factors[j, a]
        partial = np.dot(rows.T, rows)
        for a in range(rank):
            for b in range(a, rank):
                matrix[a, b] += partial[a, b]


@njit(cache=True, nogil=True)
def add_segment(observed: Observations, sums: FloatMatrix) -> None:
    """Add the sums of one segment of a row, which is all of ``observed``, to ``sums`` (rank, rank + 1)."""
    rank = observed.factors.shape[1]
    n = observed.neighbours.shape[0]
    gathered = np.empty((min(n, TILE), rank), dtype=observed.factors.dtype)
    matrix, right = np.zeros((rank, rank)), np.zeros(rank)
    _add_tiles(observed, 0, n, gathered, matrix, right)
    _add_sums(matrix, right, sums)


@njit(cache=True, nogil=True)
def _add_sums(matrix: FloatMatrix, right: FloatVector, sums: FloatMatrix) -> None:
    rank = right.shape[0]
    for a in range(rank):
        for b in range(a, rank):
            sums[a, b] += matrix[a, b]
        sums[a, rank] += right[a]


@njit(cache=True, nogil=True)
def add_row_sums(
    observed: Observations,
    row: int,
    known: LongSums,
    gathered: FloatMatrix,
    matrix: FloatMatrix,
    right: FloatVector,
) -> None:
    """Add Σ c f fᵀ (upper triangle) and Σ c t f of one row of any length.

    Of a row longer than SEGMENT the sums are taken from ``known`` where they are there, else made as they would be.
    """
    rank = right.shape[0]
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1]
    if last - first <= SEGMENT:
        _add_tiles(observed, first, last, gathered, matrix, right)
        return
    place = np.searchsorted(known.rows, row)
    if place < known.rows.shape[0] and known.rows[place] == row:
        sums = known.sums[place]
        for a in range(rank):
            for b in range(a, rank):
                matrix[a, b] += sums[a, b]
            right[a] += sums[a, rank]
    else:
        total = np.zeros((rank, rank + 1))
        for start in range(first, last, SEGMENT):
            part, part_right = np.zeros((rank, rank)), np.zeros(rank)
            _add_tiles(observed, start, min(start + SEGMENT, last), gathered, part, part_right)
            _add_sums(part, part_right, total)
        for a in range(rank):
            for b in range(a, rank):
                matrix[a, b] += total[a, b]
            right[a] += total[a, rank]


@njit(cache=True, nogil=True)
def solve_primal_row(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    known: LongSums,
    gathered: FloatMatrix,
    upper: FloatVector,
    solution: FloatVector,
) -> int:
    """Solve (D + Σ c f fᵀ) x = Σ c t f for one row of any length; return jitters, −1 on failure."""
    rank = diagonal.shape[0]
    matrix = np.zeros((rank, rank))
    for a in range(rank):
        matrix[a, a] = diagonal[a]
        solution[a] = 0.0
    add_row_sums(observed, row, known, gathered, matrix, solution)
    return solve_cholesky(matrix, rank, upper, solution)


@njit(cache=True, nogil=True)
def exact_rows(
    observed: Observations, system: RowRidge, known: LongSums, solved: FloatMatrix, sums: FloatVector
) -> int:
    """Solve every row exactly; sums[0] and sums[1] take the loss and residual sum after, sums[2] the jitters.

    Returns −1, or the first row that could not be solved. A row without observations becomes zero.
    """
    rank = observed.factors.shape[1]
    longest = longest_row(observed, observed.neighbours.shape[0])
    gathered = np.empty((min(longest, TILE), rank), dtype=observed.factors.dtype)
    short = np.empty((min(longest, rank), rank))
    room = room_for(0, longest, observed)
    own = aligned_zeros(padded(rank, lanes_in(observed.factors)), observed.factors.dtype)
    upper = upper_room(rank)
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
            jitters = _solve_dual_row(observed, row, diagonal, short, upper, solution)
        else:
            jitters = solve_primal_row(observed, row, diagonal, known, gathered, upper, solution)
        if jitters < 0:
            return row
        sums[2] += jitters
        for a in range(rank):
            solved[row, a] = solution[a]
        add_row_loss(observed, row, solved[row], own, room, sums)
    return -1
