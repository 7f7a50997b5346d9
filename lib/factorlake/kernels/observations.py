"""What a row solve reads, in the one shape that all row kernels take.

Every row x of a side solves: minimise Σ_j c_j (t_j − o_j − x·f_j)² + Σ_a D_a x_a², with D = base +
ridge·mask. Implicit feedback in the Gram eigenbasis has base = α0Λ and mask = 1; explicit feedback with
biases has f = (y, 1), base = (0, ..., 0, λ_b) and mask = (1, ..., 1, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, FloatVector

from .arrays import read_only
from .lanes import uncounted


class Observations(NamedTuple):
    """The observations of a block of rows, compressed by row, and the fixed side's factors.

    ``confidence`` and ``target`` hold one number per observation (step 1) or one for all (step 0); ``offset``
    holds one number per row of ``factors``, or is empty for none. All arrays are read-only and contiguous.
    """

    row_ptr: NDArray[np.int64]
    neighbours: NDArray[np.int32]
    confidence: FloatVector
    confidence_step: int
    target: FloatVector
    target_step: int
    offset: FloatVector
    factors: FloatMatrix


class RowRidge(NamedTuple):
    """The diagonal part of every row's system: D = base + ridge[row]·mask. All float64."""

    base: NDArray[np.float64]
    mask: NDArray[np.float64]
    ridge: NDArray[np.float64]


@njit(cache=True, nogil=True)
def uncounted_observations(observed: Observations) -> Observations:
    """Return the observations as arrays that count no references (``lanes.uncounted``)."""
    return Observations(
        uncounted(observed.row_ptr),
        uncounted(observed.neighbours),
        uncounted(observed.confidence),
        observed.confidence_step,
        uncounted(observed.target),
        observed.target_step,
        uncounted(observed.offset),
        uncounted(observed.factors),
    )


class LongSums(NamedTuple):
    """What is known already of the systems of a block's rows longer than ``row_solvers.SEGMENT``."""

    rows: NDArray[np.int64]
    """(h,) ascending rows of the block."""
    sums: NDArray[np.float64]
    """(h, rank, rank + 1): Σ c f fᵀ, of which the upper triangle counts, and Σ c t f in the last column."""


def long_sums(rows: Sequence[int], sums: Sequence[NDArray[np.float64]]) -> LongSums:
    """Return the sums of some rows, ascending, in the layout the kernels are compiled for. No rows: none is known."""
    width = 0 if not len(sums) else sums[0].shape[0]
    stacked = np.array(sums).reshape(len(sums), width, width + 1)
    return LongSums(read_only(rows, np.int64), read_only(stacked, np.float64))


def observations(
    row_ptr: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    confidence: FloatVector | float,
    target: FloatVector | float,
    offset: FloatVector | None,
    factors: FloatMatrix,
) -> Observations:
    """Return the observations with every array in the layout and precision the kernels are compiled for.

    Confidence, target and offset take the precision of ``factors`` (float32 or float64).
    """
    dtype = np.float64 if factors.dtype == np.float64 else np.float32
    return Observations(
        row_ptr=read_only(row_ptr, np.int64),
        neighbours=read_only(neighbours, np.int32),
        confidence=read_only(np.atleast_1d(confidence), dtype),
        confidence_step=0 if np.ndim(confidence) == 0 else 1,
        target=read_only(np.atleast_1d(target), dtype),
        target_step=0 if np.ndim(target) == 0 else 1,
        offset=read_only(np.empty(0) if offset is None else offset, dtype),
        factors=read_only(factors, dtype),
    )
