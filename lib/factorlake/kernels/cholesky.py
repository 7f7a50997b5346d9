"""Cholesky factorisation and triangular solves of one small float64 system, inside compiled kernels."""

from __future__ import annotations

from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS

FIRST_JITTER = 1e-10
MAX_JITTERS = 12


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def factorize(matrix: FloatMatrix, size: int, lower: FloatMatrix, jitter: float) -> bool:
    """Write L of (A + jitter·I) = LLᵀ into the lower triangle of ``lower``; False if A is not positive
    definite.

    Only the lower triangle of the leading (size, size) part of ``matrix`` is read.
    """
    for i in range(size):
        for j in range(i):
            total = 0.0
            for k in range(j):
                total += lower[i, k] * lower[j, k]
            lower[i, j] = (matrix[i, j] - total) * lower[j, j]
        total = 0.0
        for k in range(i):
            total += lower[i, k] * lower[i, k]
        pivot = matrix[i, i] + jitter - total
        # The comparison is written so that NaN fails it too.
        if not pivot > 0.0:
            return False
        # The diagonal holds 1/L_ii: one division per row instead of one per entry.
        lower[i, i] = 1.0 / pivot**0.5
    return True


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def substitute(lower: FloatMatrix, size: int, vector: FloatVector) -> None:
    """Overwrite b with the solution of LLᵀx = b, for L as ``factorize`` leaves it."""
    for i in range(size):
        total = 0.0
        for k in range(i):
            total += lower[i, k] * vector[k]
        vector[i] = (vector[i] - total) * lower[i, i]
    for i in range(size - 1, -1, -1):
        value = vector[i] * lower[i, i]
        vector[i] = value
        for k in range(i):
            vector[k] -= value * lower[i, k]


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def solve_cholesky(matrix: FloatMatrix, size: int, lower: FloatMatrix, vector: FloatVector) -> int:
    """Overwrite b with A⁻¹b and return how many ridge jitters it took, or −1 if no jitter was enough.

    A matrix that rounding made indefinite gets a growing ridge: 1e-10, 1e-9, ... 10 times its mean diagonal.
    """
    if factorize(matrix, size, lower, 0.0):
        substitute(lower, size, vector)
        return 0
    trace = 0.0
    for i in range(size):
        trace += matrix[i, i]
    jitter = FIRST_JITTER * trace / size
    for attempt in range(1, MAX_JITTERS + 1):
        if factorize(matrix, size, lower, jitter):
            substitute(lower, size, vector)
            return attempt
        jitter *= 10.0
    return -1
