"""Soft thresholding in robust PCA: the elementwise part of an iteration, each in one pass over rows in the cache.

The sparse part and the multipliers are two halves of one matrix W: S = shrink(W, t) and Y/μ = clip(W, t), W = S + Y/μ,
with shrink(w, t) = sign(w)·max(|w| − t, 0) and clip(w, t) = max(−t, min(w, t)). So only W is kept. Rows are float32 or
float64; arithmetic and sums are float64, and what is stored is rounded once.

Source: Lin, Chen, Ma, arXiv 1009.5055 (2010), algorithm 5.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS, read_only

RESIDUAL, NONZEROS, ABSOLUTE = 0, 1, 2
"""Where ``renew`` adds what: ‖D − L − S‖_F², the number of non-zeros of S, and Σ|S|."""


def unexplained(matrix: FloatMatrix, held: FloatMatrix, threshold: float, ratio: float, out: FloatMatrix) -> None:
    """Write M = D − shrink(W, t) + ratio·clip(W, t), whose singular values are thresholded next.

    Parameters
    ----------
    matrix, held : D and W (n_rows, n_columns). No rows write nothing.
    threshold : t. With infinity M = D + ratio·W.
    ratio : the μ of W over the present one.
    out : (n_rows, n_columns), C-contiguous, of float32 or float64.
    """
    _unexplained(read_only(matrix, matrix.dtype), read_only(held, held.dtype), threshold, ratio, out)


def renew(
    matrix: FloatMatrix,
    held: FloatMatrix,
    low_rank: FloatMatrix,
    thresholds: tuple[float, float],
    ratios: tuple[float, float],
    new_held: FloatMatrix,
    out: FloatMatrix,
    sums: FloatVector,
) -> None:
    """Write the new W = D − L + ratio·clip(W, t), and M that follows from it (``unexplained``).

    Parameters
    ----------
    matrix, held : D and the present W (n_rows, n_columns).
    low_rank : L (n_rows, n_columns), C-contiguous float64.
    thresholds, ratios : t and ratio of the present W, then those of the new one.
    new_held : takes the new W, of the type that W is kept in.
    out : takes the new M.
    sums : (3,) float64, to which RESIDUAL, NONZEROS and ABSOLUTE of the new state are added. D − L − S is taken from
        the multipliers' change, which is exact where the sparse part is large.
    """
    _renew(
        read_only(matrix, matrix.dtype),
        read_only(held, held.dtype),
        read_only(low_rank, np.float64),
        *thresholds,
        *ratios,
        new_held,
        out,
        sums,
    )


def shrink(held: FloatMatrix, threshold: float) -> FloatMatrix:
    """Return shrink(W, t) in the type of W."""
    out = np.empty_like(held, order="C", subok=False)
    _shrink(read_only(held, held.dtype), threshold, out)
    return out


@njit(inline="always")
def _clip(value: float, threshold: float) -> float:
    return max(-threshold, min(value, threshold))


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _unexplained(matrix: FloatMatrix, held: FloatMatrix, threshold: float, ratio: float, out: FloatMatrix) -> None:
    for row in range(matrix.shape[0]):
        for column in range(matrix.shape[1]):
            value = np.float64(held[row, column])
            clipped = _clip(value, threshold)
            out[row, column] = np.float64(matrix[row, column]) - (value - clipped) + ratio * clipped


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _renew(
    matrix: FloatMatrix,
    held: FloatMatrix,
    low_rank: FloatMatrix,
    threshold: float,
    new_threshold: float,
    ratio: float,
    new_ratio: float,
    new_held: FloatMatrix,
    out: FloatMatrix,
    sums: FloatVector,
) -> None:
    for row in range(matrix.shape[0]):
        residual = absolute = nonzeros = 0.0
        for column in range(matrix.shape[1]):
            value = np.float64(matrix[row, column])
            carried = ratio * _clip(np.float64(held[row, column]), threshold)
            new_held[row, column] = value - low_rank[row, column] + carried
            # As rounded, so that the next pass finds the same.
            kept = np.float64(new_held[row, column])
            clipped = _clip(kept, new_threshold)
            sparse = kept - clipped
            out[row, column] = value - sparse + new_ratio * clipped
            left = clipped - carried
            residual += left * left
            absolute += abs(sparse)
            nonzeros += 1.0 if sparse != 0.0 else 0.0
        sums[RESIDUAL] += residual
        sums[NONZEROS] += nonzeros
        sums[ABSOLUTE] += absolute


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _shrink(held: FloatMatrix, threshold: float, out: FloatMatrix) -> None:
    for row in range(held.shape[0]):
        for column in range(held.shape[1]):
            value = np.float64(held[row, column])
            out[row, column] = value - _clip(value, threshold)
