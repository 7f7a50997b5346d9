"""One pass over a row's observations: their residuals, the loss, and what conjugate gradients start from."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    wide_zeros,
    widen,
    zeros_like,
)
from .observations import Observations

# The factors of an observation are called for this many observations ahead: far enough to hide a cache miss, near
# enough to be there still. 8 to 24 measure alike.
AHEAD = 8


class Gathered(NamedTuple):
    """Room for one row's observations, each row of factors starting at a cache line.

    ``factors`` (n·width,) holds them one after the other, ``width`` numbers each, zeros after the rank;
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
def read_pairs(observed: Observations, first: int, n: int, gathered: Gathered) -> None:
    """Write c and t − o of ``n`` observations from ``first`` on, and c = 0 up to a whole quad."""
    if observed.confidence_step:
        gathered.confidence[:n] = observed.confidence[first : first + n]
    else:
        gathered.confidence[:n] = observed.confidence[0]
    gathered.confidence[n : padded(n, 4)] = 0
    if observed.target_step:
        gathered.target[:n] = observed.target[first : first + n]
    else:
        gathered.target[:n] = observed.target[0]
    if observed.offset.shape[0] > 0:
        for i in range(n):
            gathered.target[i] -= observed.offset[observed.neighbours[first + i]]
    gathered.target[n : padded(n, 4)] = 0


@njit(cache=True, nogil=True)
def first_pass(
    observed: Observations,
    row: int,
    x: FloatVector,
    gathered: Gathered,
    residual: FloatVector,
    bends: FloatVector,
    keep: bool,
    sums: FloatVector,
) -> None:
    """Add one row's Σ c e² to sums[0] and its Σ c e to sums[1], in float64; e = t − o − x·f.

    With ``keep`` the factors stay in ``gathered``, Σ c e f is added to ``residual`` and Σ c f² to ``bends``.

    x, residual and bends have the padded width; ``gathered`` holds the row's c and t − o already.
    """
    rank = observed.factors.shape[1]
    factors = observed.factors.reshape(-1)
    neighbours = observed.neighbours
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1] - 1
    lanes = lanes_in(factors)
    whole = rank // lanes
    part = rank - whole * lanes
    vectors = x.shape[0] // lanes
    width = x.shape[0]
    squares, signed = wide_zeros(), wide_zeros()
    for i in range(0, last - first + 1, 4):
        p = first + i
        from_0 = np.int64(neighbours[p]) * rank
        from_1 = np.int64(neighbours[min(p + 1, last)]) * rank
        from_2 = np.int64(neighbours[min(p + 2, last)]) * rank
        from_3 = np.int64(neighbours[min(p + 3, last)]) * rank
        to_0 = i * width
        to_1, to_2, to_3 = to_0 + width, to_0 + 2 * width, to_0 + 3 * width
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
                store(gathered.factors, to_0 + a, f_0)
                store(gathered.factors, to_1 + a, f_1)
                store(gathered.factors, to_2 + a, f_2)
                store(gathered.factors, to_3 + a, f_3)
            here = load(x, a)
            product_0 = multiply_add(f_0, here, product_0)
            product_1 = multiply_add(f_1, here, product_1)
            product_2 = multiply_add(f_2, here, product_2)
            product_3 = multiply_add(f_3, here, product_3)
        # The next rows' factors are called for too: their observations follow in the same arrays.
        if p + AHEAD + 3 < neighbours.shape[0]:
            for ahead in range(p + AHEAD, p + AHEAD + 4):
                start = np.int64(neighbours[ahead]) * rank
                for v in range(vectors):
                    prefetch(factors, start + v * lanes)
        c = load_quad(gathered.confidence, i)
        e = subtract(load_quad(gathered.target, i), four_sums(product_0, product_1, product_2, product_3))
        ce = multiply(c, e)
        wide = widen(ce)
        squares = multiply_add(wide, widen(e), squares)
        signed = add(signed, wide)
        if keep:
            ce_0, ce_1, ce_2, ce_3 = spread_0(ce), spread_1(ce), spread_2(ce), spread_3(ce)
            c_0, c_1, c_2, c_3 = spread_0(c), spread_1(c), spread_2(c), spread_3(c)
            for v in range(vectors):
                a = v * lanes
                f_0, f_1 = load(gathered.factors, to_0 + a), load(gathered.factors, to_1 + a)
                f_2, f_3 = load(gathered.factors, to_2 + a), load(gathered.factors, to_3 + a)
                pull = multiply_add(ce_1, f_1, multiply(ce_0, f_0))
                pull = multiply_add(ce_3, f_3, multiply_add(ce_2, f_2, pull))
                store(residual, a, add(load(residual, a), pull))
                bend = multiply_add(multiply(c_1, f_1), f_1, multiply(multiply(c_0, f_0), f_0))
                bend = multiply_add(multiply(c_3, f_3), f_3, multiply_add(multiply(c_2, f_2), f_2, bend))
                store(bends, a, add(load(bends, a), bend))
    sums[0] += quad_sum(squares)
    sums[1] += quad_sum(signed)


@njit(cache=True, nogil=True)
def add_row_loss(observed: Observations, row: int, x: Any, own: FloatVector, room: Gathered, sums: FloatVector) -> None:
    """Add one row's Σ c e² to sums[0] and its Σ c e to sums[1], e = t − o − x·f; ``own`` has the padded width."""
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1]
    read_pairs(observed, first, last - first, room)
    for a in range(x.shape[0]):
        own[a] = x[a]
    first_pass(observed, row, own, room, own, own, False, sums)


@njit(cache=True, nogil=True)
def residual_rows(observed: Observations, warm: FloatMatrix, sums: FloatVector) -> None:
    """Add the observed loss (sums[0]) and the weighted residual sum (sums[1]) of all rows, in row order."""
    room = room_for(0, longest_row(observed, observed.neighbours.shape[0]), observed)
    own = aligned_zeros(padded(observed.factors.shape[1], lanes_in(observed.factors)), observed.factors.dtype)
    for row in range(observed.row_ptr.shape[0] - 1):
        add_row_loss(observed, row, warm[row], own, room, sums)
