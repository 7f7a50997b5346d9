"""One pass over a row's observations: their residuals, the loss, and what conjugate gradients start from.

Compiled kernels that use this file are cached by their own file: a change here asks for one there too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .lanes import (
    add,
    aligned_zeros,
    four_sums,
    lanes_in,
    load,
    load_part,
    load_quad,
    multiply,
    multiply_add,
    prefetch,
    quad_sum,
    spread_0,
    spread_1,
    spread_2,
    spread_3,
    store,
    subtract,
    uncounted,
    wide_zeros,
    widen,
    zeros_like,
)
from .observations import Observations

# The factors of an observation are called for this many observations ahead: far enough to hide a cache miss, near
# enough to be there still. 8 to 64 measure alike.
AHEAD = 16


class Gathered(NamedTuple):
    """Room for one row's observations.

    ``factors`` (n·width,) holds four observations at a time, their vectors in turn (vector 0 of each of the
    four, vector 1 of each, ...), so that a pass is one stream; zeros follow the rank up to ``width``.
    ``confidence`` and ``target`` (n,) hold c and t − o. All have room for whole quads of observations: those
    that fill up the last one repeat the row's last factors with c = 0.
    """

    factors: FloatVector
    confidence: FloatVector
    target: FloatVector


@njit(cache=True, nogil=True)
def padded(length: int, step: int) -> int:
    """Return the least multiple of ``step`` that is not below ``length``."""
    return (length + step - 1) // step * step


@njit(cache=True, nogil=True)
def longest_row(observed: Observations, at_most: int) -> int:
    """Return the greatest number of observations of any row that has no more than ``at_most``."""
    longest = 0
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n <= at_most:
            longest = max(longest, n)
    return longest


@njit(cache=True, nogil=True)
def room_for(n_factors: int, n_pairs: int, observed: Observations) -> Gathered:
    """Return room for the factors of ``n_factors`` observations and for c and t of ``n_pairs``."""
    dtype = observed.factors.dtype
    width = padded(observed.factors.shape[1], lanes_in(observed.factors))
    return Gathered(
        aligned_zeros(padded(n_factors, 4) * width, dtype),
        aligned_zeros(padded(n_pairs, 4), dtype),
        aligned_zeros(padded(n_pairs, 4), dtype),
    )


@njit(cache=True, nogil=True)
def uncounted_room(gathered: Gathered) -> Gathered:
    """Return the room as arrays that count no references (``lanes.uncounted``)."""
    return Gathered(uncounted(gathered.factors), uncounted(gathered.confidence), uncounted(gathered.target))


@njit(cache=True, nogil=True, forceinline=True)
def read_pairs(observed: Observations, first: int, n: int, at: int, gathered: Gathered) -> None:
    """Write c and t − o of ``n`` observations from ``first`` on to place ``at`` and after it, and c = 0 up to a whole
    quad."""
    # Loops, not slices: numba takes as long to cut a slice as to copy a short row.
    confidence, target = gathered.confidence, gathered.target
    if observed.confidence_step:
        for i in range(n):
            confidence[at + i] = observed.confidence[first + i]
    else:
        for i in range(n):
            confidence[at + i] = observed.confidence[0]
    if observed.target_step:
        for i in range(n):
            target[at + i] = observed.target[first + i]
    else:
        for i in range(n):
            target[at + i] = observed.target[0]
    if observed.offset.shape[0] > 0:
        for i in range(n):
            target[at + i] -= observed.offset[observed.neighbours[first + i]]
    for i in range(n, padded(n, 4)):
        confidence[at + i] = 0
        target[at + i] = 0


@njit(cache=True, nogil=True, forceinline=True)
def first_pass(
    observed: Observations,
    first: int,
    n: int,
    at: int,
    x: FloatVector,
    gathered: Gathered,
    residual: FloatVector,
    bends: FloatVector,
    keep: bool,
    sums: FloatVector,
) -> None:
    """Add Σ c e² of ``n`` observations of a row, from ``first`` on, to sums[0] and Σ c e to sums[1], in float64;
    e = t − o − x·f.

    With ``keep`` the factors stay in ``gathered``, whose target becomes e; Σ c e f is added to ``residual`` and Σ c f²
    to ``bends``.

    x, residual and bends have the padded width; ``gathered`` holds c and t − o of the observations already, from place
    ``at`` on, a multiple of 4.
    """
    rank = observed.factors.shape[1]
    factors, neighbours, kept = observed.factors, observed.neighbours, gathered.factors
    last = first + n - 1
    lanes = lanes_in(factors)
    whole = rank // lanes
    part = rank - whole * lanes
    vectors = x.shape[0] // lanes
    width = x.shape[0]
    n_obs = neighbours.shape[0]
    squares, signed = wide_zeros(), wide_zeros()
    for i in range(0, n, 4):
        p = first + i
        from_0 = np.int64(neighbours[p]) * rank
        from_1 = np.int64(neighbours[min(p + 1, last)]) * rank
        from_2 = np.int64(neighbours[min(p + 2, last)]) * rank
        from_3 = np.int64(neighbours[min(p + 3, last)]) * rank
        place = (at + i) * width
        product_0, product_1, product_2, product_3 = (
            zeros_like(factors),
            zeros_like(factors),
            zeros_like(factors),
            zeros_like(factors),
        )
        for v in range(vectors):
            a = v * lanes
            if v < whole:
                f_0, f_1 = load(factors, from_0 + a), load(factors, from_1 + a)
                f_2, f_3 = load(factors, from_2 + a), load(factors, from_3 + a)
            else:
                f_0, f_1 = load_part(factors, from_0 + a, part), load_part(factors, from_1 + a, part)
                f_2, f_3 = load_part(factors, from_2 + a, part), load_part(factors, from_3 + a, part)
            if keep:
                store(kept, place + 4 * a, f_0)
                store(kept, place + 4 * a + 1 * lanes, f_1)
                store(kept, place + 4 * a + 2 * lanes, f_2)
                store(kept, place + 4 * a + 3 * lanes, f_3)
            own = load(x, a)
            product_0 = multiply_add(f_0, own, product_0)
            product_1 = multiply_add(f_1, own, product_1)
            product_2 = multiply_add(f_2, own, product_2)
            product_3 = multiply_add(f_3, own, product_3)
        # The next rows' factors are called for too: their observations follow in the same arrays.
        if p + AHEAD + 3 < n_obs:
            next_0 = np.int64(neighbours[p + AHEAD]) * rank
            next_1 = np.int64(neighbours[p + AHEAD + 1]) * rank
            next_2 = np.int64(neighbours[p + AHEAD + 2]) * rank
            next_3 = np.int64(neighbours[p + AHEAD + 3]) * rank
            for v in range(vectors):
                prefetch(factors, next_0 + v * lanes)
                prefetch(factors, next_1 + v * lanes)
                prefetch(factors, next_2 + v * lanes)
                prefetch(factors, next_3 + v * lanes)
        c = load_quad(gathered.confidence, at + i)
        e = subtract(load_quad(gathered.target, at + i), four_sums(product_0, product_1, product_2, product_3))
        ce = multiply(c, e)
        wide = widen(ce)
        squares = multiply_add(wide, widen(e), squares)
        signed = add(signed, wide)
        if keep:
            store(gathered.target, at + i, e)
            ce_0, ce_1, ce_2, ce_3 = spread_0(ce), spread_1(ce), spread_2(ce), spread_3(ce)
            c_0, c_1, c_2, c_3 = spread_0(c), spread_1(c), spread_2(c), spread_3(c)
            for v in range(vectors):
                a = v * lanes
                here = place + 4 * a
                f_0, f_1 = load(kept, here), load(kept, here + lanes)
                f_2, f_3 = load(kept, here + 2 * lanes), load(kept, here + 3 * lanes)
                pull = multiply_add(ce_1, f_1, multiply(ce_0, f_0))
                pull = multiply_add(ce_3, f_3, multiply_add(ce_2, f_2, pull))
                store(residual, a, add(load(residual, a), pull))
                bend = multiply_add(multiply(c_1, f_1), f_1, multiply(multiply(c_0, f_0), f_0))
                bend = multiply_add(multiply(c_3, f_3), f_3, multiply_add(multiply(c_2, f_2), f_2, bend))
                store(bends, a, add(load(bends, a), bend))
    sums[0] += quad_sum(squares)
    sums[1] += quad_sum(signed)


@njit(cache=True, nogil=True)
def gather_again(observed: Observations, first: int, n: int, gathered: Gathered) -> None:
    """Fetch c and the factors of ``n`` observations from ``first`` on once more, to place 0 and after it, as
    ``first_pass`` leaves them."""
    read_pairs(observed, first, n, 0, gathered)
    factors, neighbours, kept = observed.factors, observed.neighbours, gathered.factors
    rank, last, n_obs = factors.shape[1], first + n - 1, neighbours.shape[0]
    lanes = lanes_in(factors)
    whole = rank // lanes * lanes
    width = padded(rank, lanes)
    for i in range(0, padded(n, 4)):
        start = np.int64(neighbours[min(first + i, last)]) * rank
        place = i // 4 * 4 * width + i % 4 * lanes
        for a in range(0, width, lanes):
            here = load(factors, start + a) if a < whole else load_part(factors, start + a, rank - whole)
            store(kept, place + 4 * a, here)
        if first + i + AHEAD < n_obs:
            later = np.int64(neighbours[first + i + AHEAD]) * rank
            for a in range(0, width, lanes):
                prefetch(factors, later + a)


@njit(cache=True, nogil=True)
def add_row_loss(
    observed: Observations, row: int, rows: FloatMatrix, own: FloatVector, room: Gathered, sums: FloatVector
) -> None:
    """Add one row's Σ c e² to sums[0] and its Σ c e to sums[1], e = t − o − x·f, x its row of ``rows``.

    ``own`` has the padded width.
    """
    first = observed.row_ptr[row]
    n = observed.row_ptr[row + 1] - first
    read_pairs(observed, first, n, 0, room)
    for a in range(own.shape[0]):
        own[a] = rows[row, a] if a < rows.shape[1] else 0.0
    first_pass(observed, first, n, 0, own, room, own, own, False, sums)


@njit(cache=True, nogil=True)
def residual_rows(observed: Observations, warm: FloatMatrix, sums: FloatVector) -> None:
    """Add the observed loss (sums[0]) and the weighted residual sum (sums[1]) of all rows, in row order."""
    room = room_for(0, longest_row(observed, observed.neighbours.shape[0]), observed)
    own = aligned_zeros(padded(observed.factors.shape[1], lanes_in(observed.factors)), observed.factors.dtype)
    for row in range(observed.row_ptr.shape[0] - 1):
        add_row_loss(observed, row, warm, own, room, sums)
