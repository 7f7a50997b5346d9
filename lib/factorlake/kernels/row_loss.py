"""The observed loss of rows as they are: one pass over their observations."""

from __future__ import annotations

from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .observations import Observations


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def add_row_loss(observed: Observations, row: int, x: FloatVector, sums: FloatVector) -> None:
    """Add one row's Σ c e² to sums[0] and its Σ c e to sums[1], e = t − o − x·f, in float64."""
    factors = observed.factors
    squares = 0.0
    signed = 0.0
    for p in range(observed.row_ptr[row], observed.row_ptr[row + 1]):
        j = observed.neighbours[p]
        product = factors.dtype.type(0)
        for a in range(x.shape[0]):
            product += x[a] * factors[j, a]
        c = float(observed.confidence[p * observed.confidence_step])
        e = float(observed.target[p * observed.target_step]) - float(product)
        if observed.offset.shape[0] > 0:
            e -= float(observed.offset[j])
        squares += c * e * e
        signed += c * e
    sums[0] += squares
    sums[1] += signed


@njit(cache=True, nogil=True)
def residual_rows(observed: Observations, warm: FloatMatrix, sums: FloatVector) -> None:
    """Add the observed loss (sums[0]) and the weighted residual sum (sums[1]) of all rows, in row order."""
    for row in range(observed.row_ptr.shape[0] - 1):
        add_row_loss(observed, row, warm[row], sums)
