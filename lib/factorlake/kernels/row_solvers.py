"""Exact row solvers: one small least-squares system per user or item.

Compiled kernels that use this file (conjugate_gradients.py, subspace.py, nonnegative.py) are cached by their own file:
a change here asks for one there too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .lanes import (
    BYTES,
    add,
    aligned_zeros,
    lane_sum,
    lanes_in,
    load,
    load_part,
    multiply,
    multiply_add,
    prefetch,
    spread,
    spread_like,
    store,
    uncounted,
    zeros_like,
)
from .observations import LongSums, Observations, RowRidge, uncounted_observations
from .residuals import AHEAD, Gathered, add_row_loss, longest_row, padded, room_for, uncounted_room

# Observations whose outer products are summed in the factors' own precision; tiles are added in float64. A constant of
# the data layout: changing it changes the last bits of every long row.
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
# Numbers of a row that are multiplied by two of its vectors at once: what registers hold the sums of.
GROUP = 8
# Rows whose outer products are summed at once: as many as the nearest cache holds at rank 64. It decides last bits too.
CHUNK = 64


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
        solution[i] = (upper[i * width + size] - lane_sum(total)) * upper[i * width + i]
        upper[own + i] = solution[i]


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def solve_cholesky(matrix: FloatMatrix, size: int, upper: FloatVector, vector: FloatVector) -> int:
    """Overwrite b with A⁻¹b and return how many ridge jitters it took, or −1 if no jitter was enough.

    A matrix that rounding made indefinite gets a growing ridge: 1e-10, 1e-9, ... 10 times its mean diagonal. Of zeros
    with b zero too every vector is a solution: b stays as it is, the shortest.
    """
    if _factorize(matrix, vector, size, upper, 0.0):
        _substitute(upper, size, vector)
        return 0
    trace = 0.0
    for i in range(size):
        trace += matrix[i, i]
    if trace == 0.0 and not vector[:size].any():
        return 1
    jitter = FIRST_JITTER * trace / size
    for attempt in range(1, MAX_JITTERS + 1):
        if _factorize(matrix, vector, size, upper, jitter):
            _substitute(upper, size, vector)
            return attempt
        jitter *= 10.0
    return -1


class OuterRoom(NamedTuple):
    """Room for sums of outer products, all in the precision of the vectors that are multiplied."""

    rows: FloatVector
    """CHUNK vectors, or as many as there are coordinates in a dual system, each of a whole number of pairs of lanes."""
    products: FloatVector
    """As many rows of that width as there are coordinates, in whole groups."""
    right: FloatVector
    """One more such row."""


@njit(cache=True, nogil=True)
def outer_room(rank: int, n_rows: int, like: FloatMatrix) -> OuterRoom:
    """Return zeros for products of ``n_rows`` vectors of up to ``rank`` coordinates in the precision of ``like``."""
    width = padded(rank, 2 * lanes_in(like))
    return OuterRoom(
        aligned_zeros(n_rows * width, like.dtype),
        aligned_zeros(padded(rank, GROUP) * width, like.dtype),
        aligned_zeros(width, like.dtype),
    )


@njit(cache=True, nogil=True)
def _uncounted_outer(room: OuterRoom) -> OuterRoom:
    return OuterRoom(uncounted(room.rows), uncounted(room.products), uncounted(room.right))


@njit(cache=True, nogil=True)
def _add_outer(rows: FloatVector, n: int, size: int, products: FloatVector) -> None:
    """Add the upper triangle of RᵀR to ``products``, rows of the same width; what lies below it has no meaning.

    ``rows`` holds the n rows of R, ``size`` numbers each and zeros up to a whole number of pairs of vectors. GROUP
    numbers of a row times two vectors of it are summed in registers at a time.
    """
    lanes = lanes_in(rows)
    step = 2 * lanes
    width = padded(size, step)
    for s in range(0, size, GROUP):
        for a in range(s // step * step, size, step):
            left_0, left_1, left_2, left_3 = zeros_like(rows), zeros_like(rows), zeros_like(rows), zeros_like(rows)
            left_4, left_5, left_6, left_7 = zeros_like(rows), zeros_like(rows), zeros_like(rows), zeros_like(rows)
            right_0, right_1, right_2, right_3 = zeros_like(rows), zeros_like(rows), zeros_like(rows), zeros_like(rows)
            right_4, right_5, right_6, right_7 = zeros_like(rows), zeros_like(rows), zeros_like(rows), zeros_like(rows)
            for at in range(0, n * width, width):
                left, right = load(rows, at + a), load(rows, at + a + lanes)
                one = at + s
                share_0, share_1, share_2, share_3 = (
                    spread(rows[one]),
                    spread(rows[one + 1]),
                    spread(rows[one + 2]),
                    spread(rows[one + 3]),
                )
                share_4, share_5, share_6, share_7 = (
                    spread(rows[one + 4]),
                    spread(rows[one + 5]),
                    spread(rows[one + 6]),
                    spread(rows[one + 7]),
                )
                left_0, right_0 = multiply_add(share_0, left, left_0), multiply_add(share_0, right, right_0)
                left_1, right_1 = multiply_add(share_1, left, left_1), multiply_add(share_1, right, right_1)
                left_2, right_2 = multiply_add(share_2, left, left_2), multiply_add(share_2, right, right_2)
                left_3, right_3 = multiply_add(share_3, left, left_3), multiply_add(share_3, right, right_3)
                left_4, right_4 = multiply_add(share_4, left, left_4), multiply_add(share_4, right, right_4)
                left_5, right_5 = multiply_add(share_5, left, left_5), multiply_add(share_5, right, right_5)
                left_6, right_6 = multiply_add(share_6, left, left_6), multiply_add(share_6, right, right_6)
                left_7, right_7 = multiply_add(share_7, left, left_7), multiply_add(share_7, right, right_7)
            at = s * width + a
            _add_pair(products, at, lanes, left_0, right_0)
            _add_pair(products, at + width, lanes, left_1, right_1)
            _add_pair(products, at + 2 * width, lanes, left_2, right_2)
            _add_pair(products, at + 3 * width, lanes, left_3, right_3)
            _add_pair(products, at + 4 * width, lanes, left_4, right_4)
            _add_pair(products, at + 5 * width, lanes, left_5, right_5)
            _add_pair(products, at + 6 * width, lanes, left_6, right_6)
            _add_pair(products, at + 7 * width, lanes, left_7, right_7)


@njit(cache=True, nogil=True, forceinline=True)
def _add_pair(array: FloatVector, at: int, lanes: int, left: Any, right: Any) -> None:
    store(array, at, add(load(array, at), left))
    store(array, at + lanes, add(load(array, at + lanes), right))


@njit(cache=True, nogil=True)
def _clear(array: FloatVector, size: int) -> None:
    for a in range(0, size, lanes_in(array)):
        store(array, a, zeros_like(array))


@njit(cache=True, nogil=True)
def _solve_dual_row(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    room: OuterRoom,
    system: FloatMatrix,
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
    factors, columns, products, dual = observed.factors, room.rows, room.products, room.right
    lanes = lanes_in(columns)
    # Bᵀ lies in ``columns``: one row for each unknown.
    width = padded(n, 2 * lanes)
    for a in range(rank):
        solution[a] = 1.0 / math.sqrt(diagonal[a])
        for v in range(n // lanes * lanes, width, lanes):
            store(columns, a * width + v, zeros_like(columns))
    for i in range(n):
        p = first + i
        j = observed.neighbours[p]
        t = np.float64(observed.target[p * observed.target_step])
        if observed.offset.shape[0] > 0:
            t -= np.float64(observed.offset[j])
        root = math.sqrt(np.float64(observed.confidence[p * observed.confidence_step]))
        dual[i] = root * t
        for a in range(rank):
            columns[a * width + i] = root * solution[a] * factors[j, a]
    _clear(products, padded(n, GROUP) * width)
    _add_outer(columns, rank, n, products)
    for i in range(n):
        for v in range(i, n):
            system[i, v] = products[i * width + v]
        system[i, i] += 1.0
    jitters = solve_cholesky(system, n, upper, dual)
    for v in range(n, width):
        dual[v] = 0.0
    for a in range(rank):
        total = zeros_like(columns)
        for v in range(0, width, lanes):
            total = multiply_add(load(columns, a * width + v), load(dual, v), total)
        solution[a] *= lane_sum(total)
    return jitters


@njit(cache=True, nogil=True)
def _add_tiles(
    observed: Observations, first: int, last: int, room: OuterRoom, matrix: FloatMatrix, right: FloatVector
) -> None:
    """Add Σ c f fᵀ (upper triangle) and Σ c t f of observations first to last.

    In the factors' own precision the former is summed over TILE observations, the latter over CHUNK of them; these sums
    are added in float64, in order.
    """
    factors, neighbours = observed.factors, observed.neighbours
    rows, products, pull = room.rows, room.products, room.right
    rank, n_obs = factors.shape[1], neighbours.shape[0]
    lanes = lanes_in(factors)
    whole = rank // lanes * lanes
    width = padded(rank, 2 * lanes)
    for start in range(first, last, TILE):
        end = min(start + TILE, last)
        _clear(products, padded(rank, GROUP) * width)
        for chunk in range(start, end, CHUNK):
            n = min(CHUNK, end - chunk)
            _clear(pull, width)
            for i in range(n):
                p = chunk + i
                j = np.int64(neighbours[p])
                t = np.float64(observed.target[p * observed.target_step])
                if observed.offset.shape[0] > 0:
                    t -= np.float64(observed.offset[j])
                c = np.float64(observed.confidence[p * observed.confidence_step])
                root, share = spread_like(rows, math.sqrt(c)), spread_like(rows, c * t)
                for a in range(0, padded(rank, lanes), lanes):
                    here = load(factors, j * rank + a) if a < whole else load_part(factors, j * rank + a, rank - whole)
                    store(rows, i * width + a, multiply(root, here))
                    store(pull, a, multiply_add(share, here, load(pull, a)))
                if p + AHEAD < n_obs:
                    later = np.int64(neighbours[p + AHEAD]) * rank
                    for a in range(0, rank, lanes):
                        prefetch(factors, later + a)
            _add_outer(rows, n, rank, products)
            for a in range(rank):
                right[a] += pull[a]
        for a in range(rank):
            for b in range(a, rank):
                matrix[a, b] += products[a * width + b]


@njit(cache=True, nogil=True)
def add_segment(observed: Observations, sums: FloatMatrix) -> None:
    """Add the sums of one segment of a row, which is all of ``observed``, to ``sums`` (rank, rank + 1)."""
    rank = observed.factors.shape[1]
    n = observed.neighbours.shape[0]
    room = outer_room(rank, CHUNK, observed.factors)
    matrix, right = np.zeros((rank, rank)), np.zeros(rank)
    _add_tiles(observed, 0, n, room, matrix, right)
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
    room: OuterRoom,
    matrix: FloatMatrix,
    right: FloatVector,
) -> None:
    """Add Σ c f fᵀ (upper triangle) and Σ c t f of one row of any length.

    Of a row longer than SEGMENT the sums are taken from ``known`` where they are there, else made as they would be.
    """
    rank = right.shape[0]
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1]
    if last - first <= SEGMENT:
        _add_tiles(observed, first, last, room, matrix, right)
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
            _add_tiles(observed, start, min(start + SEGMENT, last), room, part, part_right)
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
    room: OuterRoom,
    upper: FloatVector,
    solution: FloatVector,
) -> int:
    """Solve (D + Σ c f fᵀ) x = Σ c t f for one row of any length; return jitters, −1 on failure."""
    rank = diagonal.shape[0]
    matrix = np.zeros((rank, rank))
    for a in range(rank):
        matrix[a, a] = diagonal[a]
        solution[a] = 0.0
    add_row_sums(observed, row, known, room, matrix, solution)
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
    own = aligned_zeros(padded(rank, lanes_in(observed.factors)), observed.factors.dtype)
    wide = np.empty((rank, rank))
    return _exact_rows(
        observed,
        system,
        known,
        solved,
        sums,
        outer_room(rank, CHUNK, observed.factors),
        outer_room(min(longest, rank), rank, wide),
        room_for(0, longest, observed),
        own,
        wide,
        upper_room(rank),
    )


@njit(cache=True, nogil=True)
def _exact_rows(
    given: Observations,
    system: RowRidge,
    known: LongSums,
    solved: FloatMatrix,
    sums: FloatVector,
    room: OuterRoom,
    dual_room: OuterRoom,
    pairs: Gathered,
    own: FloatVector,
    dual_system: FloatMatrix,
    upper: FloatVector,
) -> int:
    """See ``exact_rows``, which holds the arrays."""
    observed, gathered = uncounted_observations(given), uncounted_room(pairs)
    primal, short = _uncounted_outer(room), _uncounted_outer(dual_room)
    rank = observed.factors.shape[1]
    diagonal, solution = np.empty(rank), np.empty(rank)
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n == 0:
            for a in range(rank):
                solved[row, a] = 0.0
            continue
        positive = True
        for a in range(rank):
            diagonal[a] = system.base[a] + system.ridge[row] * system.mask[a]
            positive = positive and diagonal[a] > 0.0
        if n < rank and positive:
            jitters = _solve_dual_row(observed, row, diagonal, short, dual_system, upper, solution)
        else:
            jitters = solve_primal_row(observed, row, diagonal, known, primal, upper, solution)
        if jitters < 0:
            return row
        sums[2] += jitters
        for a in range(rank):
            solved[row, a] = solution[a]
        add_row_loss(observed, row, solved, own, gathered, sums)
    return -1
