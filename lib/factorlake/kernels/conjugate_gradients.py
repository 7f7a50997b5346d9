"""A few preconditioned conjugate-gradient steps in every row, from its present factors; very long rows exactly."""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .lanes import (
    add,
    add_products,
    aligned_zeros,
    eight_zeros,
    four_sums,
    inverse_or_zero,
    lane_sum,
    lanes_in,
    load,
    load_part,
    load_quad,
    multiply,
    multiply_add,
    spread_0,
    spread_1,
    spread_2,
    spread_3,
    spread_like,
    store,
    subtract,
    uncounted,
    zeros_like,
)
from .observations import LongSums, Observations, RowRidge, uncounted_observations
from .residuals import (
    Gathered,
    add_row_loss,
    first_pass,
    gather_again,
    longest_row,
    padded,
    read_pairs,
    room_for,
    uncounted_room,
)
from .row_solvers import CHUNK, SEGMENT, TILE, outer_room, solve_primal_row, upper_room

# The factors of a row's observations are kept beside each other for the steps, as long as they take no more than this.
KEPT_BYTES = 32 << 20


@njit(cache=True, nogil=True, forceinline=True)
def _add_curvature(gathered: Gathered, at: int, n: int, direction: FloatVector, curvature: FloatVector) -> None:
    """Add Σ c (p·f) f over n gathered observations, from place ``at`` on, to the curvature; p is the direction."""
    factors = gathered.factors
    lanes = lanes_in(factors)
    width = direction.shape[0]
    vectors = width // lanes
    for i in range(at, at + n, 4):
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


@njit(cache=True, nogil=True, forceinline=True)
def _add_to(total: FloatVector, more: FloatVector) -> None:
    for a in range(0, total.shape[0], lanes_in(total)):
        store(total, a, add(load(total, a), load(more, a)))


@njit(cache=True, nogil=True, forceinline=True)
def _descend(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    steps: int,
    x: FloatVector,
    gathered: Gathered,
    kept: int,
    part: int,
    residual: FloatVector,
    preconditioner: FloatVector,
    direction: FloatVector,
    curvature: FloatVector,
    spare: FloatVector,
    sums: FloatVector,
) -> None:
    """Take the CG steps of one row in place; all vectors have the padded width and the factors' precision, in which all
    is summed but the few dot products.

    The row's factors are gathered by the pass that takes the first residual; the steps read them there. Of a row of
    more than ``kept`` observations each step gathers them again. Sums are taken over ``part`` observations at a time
    and then added up, lest those of very long rows lose digits.
    """
    width, lanes = x.shape[0], lanes_in(x)
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1]
    for a in range(0, width, lanes):
        ridge = load(diagonal, a)
        store(residual, a, subtract(zeros_like(x), multiply(ridge, load(x, a))))
        store(preconditioner, a, ridge)
    again = last - first > kept
    for start in range(first, last, part):
        n, at = min(part, last - start), 0 if again else start - first
        for a in range(0, width, lanes):
            store(direction, a, zeros_like(x))
            store(spare, a, zeros_like(x))
        read_pairs(observed, start, n, at, gathered)
        first_pass(observed, start, n, at, x, gathered, direction, spare, True, sums)
        _add_to(residual, direction)
        _add_to(preconditioner, spare)
    total = eight_zeros()
    for a in range(0, width, lanes):
        # A zero here means that neither data nor ridge touch this coordinate: leave it where it is.
        inverse = inverse_or_zero(load(preconditioner, a))
        left = load(residual, a)
        turned = multiply(inverse, left)
        store(preconditioner, a, inverse)
        store(direction, a, turned)
        store(curvature, a, multiply(load(diagonal, a), turned))
        total = add_products(left, turned, total)
    descent = lane_sum(total)
    for step in range(steps):
        for start in range(first, last, part):
            n, at = min(part, last - start), 0 if again else start - first
            if again:
                gather_again(observed, start, n, gathered)
            for a in range(0, width, lanes):
                store(spare, a, zeros_like(x))
            _add_curvature(gathered, at, n, direction, spare)
            _add_to(curvature, spare)
        total = eight_zeros()
        for a in range(0, width, lanes):
            total = add_products(load(direction, a), load(curvature, a), total)
        bend = lane_sum(total)
        if not (bend > 0.0 and descent > 0.0):
            return
        length = spread_like(x, descent / bend)
        for a in range(0, width, lanes):
            store(x, a, multiply_add(length, load(direction, a), load(x, a)))
        if step + 1 == steps:
            return
        back = spread_like(x, -descent / bend)
        total = eight_zeros()
        for a in range(0, width, lanes):
            left = multiply_add(back, load(curvature, a), load(residual, a))
            store(residual, a, left)
            total = add_products(left, multiply(load(preconditioner, a), left), total)
        next_descent = lane_sum(total)
        turn = spread_like(x, next_descent / descent)
        descent = next_descent
        for a in range(0, width, lanes):
            turned = multiply_add(turn, load(direction, a), multiply(load(preconditioner, a), load(residual, a)))
            store(direction, a, turned)
            store(curvature, a, multiply(load(diagonal, a), turned))


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
    """Take ``steps`` CG steps in every row, preconditioned by the diagonal of its system; sums[0] and sums[1] take loss
    and residual sum before.

    A row longer than SEGMENT, whose sums may be taken in several places, is solved exactly instead (its jitters go into
    sums[2]). A row without observations becomes zero. Returns −1, or the first row that could not be solved.

    Source: Takács, Pilászy, Tikk, RecSys 2011 (CG for implicit ALS); the eigenbasis makes D diagonal.
    """
    rank = observed.factors.shape[1]
    dtype = observed.factors.dtype
    width = padded(rank, lanes_in(observed.factors))
    longest = longest_row(observed, observed.neighbours.shape[0])
    vectors = aligned_zeros(9 * width, dtype).reshape(9, width)
    kept = max(4, KEPT_BYTES // (width * vectors.itemsize) // 4 * 4)
    gathered = room_for(min(longest_row(observed, SEGMENT), kept), longest, observed)
    base, mask = vectors[7], vectors[8]
    for a in range(rank):
        base[a] = system.base[a]
        mask[a] = system.mask[a]
    return _cg_rows(observed, system, known, warm, steps, solved, sums, gathered, kept, vectors)


@njit(cache=True, nogil=True)
def _cg_rows(
    given: Observations,
    system: RowRidge,
    known: LongSums,
    warm: FloatMatrix,
    steps: int,
    solved: FloatMatrix,
    sums: FloatVector,
    room: Gathered,
    kept: int,
    vectors: FloatMatrix,
) -> int:
    """See ``cg_rows``, which holds the arrays."""
    observed, gathered = uncounted_observations(given), uncounted_room(room)
    row_ptr, ridge, start, out = observed.row_ptr, uncounted(system.ridge), uncounted(warm), uncounted(solved)
    x, residual, preconditioner = uncounted(vectors[0]), uncounted(vectors[1]), uncounted(vectors[2])
    direction, curvature, diagonal = uncounted(vectors[3]), uncounted(vectors[4]), uncounted(vectors[5])
    spare, base, mask, own_sums = uncounted(vectors[6]), uncounted(vectors[7]), uncounted(vectors[8]), uncounted(sums)
    rank, width, lanes = observed.factors.shape[1], x.shape[0], lanes_in(x)
    part = min(TILE, kept)
    whole = rank // lanes * lanes
    for row in range(row_ptr.shape[0] - 1):
        n = row_ptr[row + 1] - row_ptr[row]
        at = row * rank
        if n == 0:
            for a in range(rank):
                out[row, a] = 0.0
        elif n > SEGMENT:
            jitters = _solve_long_row(observed, row, system, known, start, x, gathered, out, own_sums)
            if jitters < 0:
                return row
        else:
            own = spread_like(x, ridge[row])
            for a in range(0, width, lanes):
                store(diagonal, a, multiply_add(own, load(mask, a), load(base, a)))
                store(x, a, load(start, at + a) if a < whole else load_part(start, at + a, rank - whole))
            _descend(
                observed,
                row,
                diagonal,
                steps,
                x,
                gathered,
                kept,
                part,
                residual,
                preconditioner,
                direction,
                curvature,
                spare,
                own_sums,
            )
            for a in range(0, whole, lanes):
                store(out, at + a, load(x, a))
            for a in range(whole, rank):
                out[row, a] = x[a]
    return -1


@njit(cache=True, nogil=True)
def _solve_long_row(
    observed: Observations,
    row: int,
    system: RowRidge,
    known: LongSums,
    warm: FloatMatrix,
    x: FloatVector,
    gathered: Gathered,
    solved: FloatMatrix,
    sums: FloatVector,
) -> int:
    """Solve one row longer than SEGMENT exactly; return jitters, −1 on failure."""
    rank = warm.shape[1]
    add_row_loss(observed, row, warm, x, gathered, sums)
    outer = outer_room(rank, CHUNK, observed.factors)
    diagonal, solution = system.base + system.ridge[row] * system.mask, np.empty(rank)
    jitters = solve_primal_row(observed, row, diagonal, known, outer, upper_room(rank), solution)
    sums[2] += max(jitters, 0)
    for a in range(rank):
        solved[row, a] = solution[a]
    return jitters
