"""Rows around a centre: how a prior enters a row's system without another kernel.

xᵀDx + ρ |x − p|² is (x − x₀)ᵀ(D + ρ)(x − x₀) and a constant, with D diagonal and x₀ = (D + ρ)⁻¹ ρ p. So d = x − x₀
solves the system of a row without a prior whose diagonal is greater by ρ and whose targets are less by x₀·f.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.kernels.arrays import read_only
from factorlake.kernels.observations import LongSums, long_sums
from factorlake.types import FloatMatrix, FloatVector


def centre_of_rows(
    prior: FloatMatrix, strength: FloatVector, ridge: FloatVector, mask: FloatVector, base_diagonal: FloatVector
) -> NDArray[np.float64]:
    """Return x₀ (n_rows, width) of prior rows p (n_rows, width).

    strength (width,) is ρ; the diagonal of a row without it is base_diagonal + ridge·mask.
    """
    whole = base_diagonal + strength + ridge[:, None] * mask
    share = np.divide(np.broadcast_to(strength, whole.shape), whole, out=np.zeros_like(whole), where=whole > 0)
    centre: NDArray[np.float64] = share * prior
    return centre


def targets_around(
    target: FloatVector | float,
    row_ptr: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    factors: FloatMatrix,
    centre: FloatMatrix,
) -> NDArray[np.float64]:
    """Return t − x₀·f of each observation, (n_obs,), in float64.

    row_ptr, neighbours : the block's observations; ``factors`` (n_other, width) the fixed rows they are places in.
    """
    shifted = np.array(np.broadcast_to(np.asarray(target, np.float64), neighbours.shape))
    _take_products(
        read_only(row_ptr, np.int64),
        read_only(neighbours, np.int32),
        read_only(factors, factors.dtype),
        read_only(centre, np.float64),
        shifted,
    )
    return shifted


def sums_around(known: LongSums, centre: FloatMatrix) -> LongSums:
    """Return what is known of long rows for targets less by x₀·f: Σ c t f loses (Σ c f fᵀ) x₀."""
    moved = []
    for row, sums in zip(known.rows.tolist(), known.sums, strict=True):
        upper = np.triu(sums[:, :-1])
        whole = upper + np.triu(upper, 1).T
        moved.append(np.concatenate([sums[:, :-1], (sums[:, -1] - whole @ centre[row])[:, None]], axis=1))
    return long_sums(known.rows.tolist(), moved)


@njit(cache=True, nogil=True)
def _take_products(
    row_ptr: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    factors: FloatMatrix,
    centre: FloatMatrix,
    target: FloatVector,
) -> None:
    width = factors.shape[1]
    for row in range(row_ptr.shape[0] - 1):
        for at in range(row_ptr[row], row_ptr[row + 1]):
            f = neighbours[at]
            # Four sums, so that one need not wait for the other; always in this order.
            a, b, c, d = 0.0, 0.0, 0.0, 0.0
            k = 0
            while k + 4 <= width:
                a += centre[row, k] * factors[f, k]
                b += centre[row, k + 1] * factors[f, k + 1]
                c += centre[row, k + 2] * factors[f, k + 2]
                d += centre[row, k + 3] * factors[f, k + 3]
                k += 4
            while k < width:
                a += centre[row, k] * factors[f, k]
                k += 1
            target[at] -= (a + b) + (c + d)
