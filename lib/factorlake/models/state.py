"""The state of training between two half steps, and how a half step's blocks become the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.objective import all_pairs_loss
from factorlake.types import FloatMatrix, Side

from .half_step import BlockResult
from .parameters import AlsParameters
from .problem import SideLayout


@dataclass(frozen=True)
class SideState:
    """One side's rows (factors, then the bias where there is one) and what is known of them."""

    rows: FloatMatrix
    gram: NDArray[np.float64]
    """(width, width) Gram matrix of the rows; zeros for the explicit objective, which needs none."""
    regularization_loss: float


@dataclass(frozen=True)
class State:
    """Both sides, μ, and the ridge jitters so far. No array is ever changed, so an old state stays whole."""

    user: SideState
    item: SideState
    mean: float
    jitters: int = 0

    def side(self, side: Side) -> SideState:
        return self.user if side == "user" else self.item


def collect(results: Sequence[BlockResult]) -> SideState:
    """Put a half step's blocks together; sums run in block order."""
    width = results[0].factors.shape[1]
    gram = np.zeros((width, width))
    regularization_loss = 0.0
    for result in results:
        if result.gram is not None:
            gram += result.gram
        regularization_loss += result.regularization_loss
    return SideState(np.concatenate([result.factors for result in results]), gram, regularization_loss)


def all_pairs(one: SideState, other: SideState, parameters: AlsParameters) -> float:
    """Return the all-pairs part of the objective; both sides must be in the same basis."""
    if parameters.objective == "explicit":
        return 0.0
    return all_pairs_loss(one.gram, other.gram, parameters.alpha0)


def rotate_blocks(rows: FloatMatrix, layout: SideLayout, basis: NDArray[np.float64]) -> FloatMatrix:
    """Return rows·Q, one matrix product per logical block, since BLAS results depend on shapes."""
    turn = basis.astype(rows.dtype)
    rotated = np.empty_like(rows)
    for part in layout.slices():
        rotated[part] = rows[part] @ turn
    return rotated
