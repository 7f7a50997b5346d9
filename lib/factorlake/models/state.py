"""The state of training between two half steps, and how a half step's blocks become the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.objective import all_pairs_loss
from factorlake.types import Side

from .half_step import BlockSums
from .parameters import AlsParameters
from .plan import R


@dataclass(frozen=True)
class SideState(Generic[R]):
    """One side's rows (factors, then the bias where there is one) and what is known of them."""

    rows: R
    gram: NDArray[np.float64]
    """(width, width) Gram matrix of the rows; zeros for the explicit objective, which needs none."""
    regularization_loss: float
    prior: NDArray[np.float64] | None = None
    """(n_features, width) A, in the basis of the rows, where the side has features."""


@dataclass(frozen=True)
class State(Generic[R]):
    """Both sides, μ, and the ridge jitters so far. Nothing is ever changed, so an old state stays whole."""

    user: SideState[R]
    item: SideState[R]
    mean: float
    jitters: int = 0

    def side(self, side: Side) -> SideState[R]:
        return self.user if side == "user" else self.item


def side_state(rows: R, told: Sequence[tuple[NDArray[np.float64] | None, float]], width: int) -> SideState[R]:
    """Return the state of rows from what their blocks tell: (Gram matrix, ridge part), added in block order."""
    gram = np.zeros((width, width))
    regularization_loss = 0.0
    for of_block, ridge_part in told:
        if of_block is not None:
            gram += of_block
        regularization_loss += ridge_part
    return SideState(rows, gram, regularization_loss)


def solved_state(rows: R, sums: Sequence[BlockSums], width: int) -> SideState[R]:
    """Return the state that a half step made."""
    return side_state(rows, [(one.gram, one.regularization_loss) for one in sums], width)


def all_pairs(one: SideState[R], other: SideState[R], parameters: AlsParameters) -> float:
    """Return the all-pairs part of the objective; both sides must be in the same basis."""
    weight = parameters.pair_weight
    return 0.0 if weight is None else all_pairs_loss(one.gram, other.gram, weight)
