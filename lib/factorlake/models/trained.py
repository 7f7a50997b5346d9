"""What training hands out: the trace as it goes, the state a validation sees, the model at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, FloatVector, Side

Stopped = Literal["epochs", "objective", "metric"]


@dataclass(frozen=True)
class TraceRow:
    """One half step of one training run."""

    epoch: int
    side: Side
    """Side that was solved."""
    state: Literal["before", "after", "final"]
    """The state the losses describe: before or after this half step, or the finished model."""
    loss: float
    """The whole objective."""
    observed_loss: float
    all_pairs_loss: float
    """α0 Σ_all (x·y)²; 0 for the explicit objective."""
    regularization_loss: float
    seconds: float
    metric: float | None = None
    """Held-out metric after the epoch, on its item row."""


@dataclass(frozen=True)
class Snapshot:
    """The model in the middle of training, for a held-out metric. Any rotation of it scores the same."""

    user_factors: FloatMatrix
    item_factors: FloatMatrix
    user_biases: FloatVector | None
    item_biases: FloatVector | None
    mean: float


@dataclass(frozen=True)
class TrainedModel:
    """Factors in canonical form: XᵀW_uX diagonal before the last user half step, signs fixed.

    Each user row solves its own system for the published item factors exactly.
    """

    user_factors: NDArray[np.float32]
    item_factors: NDArray[np.float32]
    user_biases: NDArray[np.float32] | None
    item_biases: NDArray[np.float32] | None
    mean: float
    item_gram: NDArray[np.float64]
    """(rank, rank) YᵀY of the item factors as they stand here: fold-in needs it."""
    trace: tuple[TraceRow, ...]
    epochs: int
    """Epochs of the kept state."""
    stopped: Stopped
    """Why training ended: all epochs ran, or no more progress of the objective or the held-out metric."""
    jitters: int
    """Ridge jitters that indefinite systems took, over the whole training."""

    @property
    def loss(self) -> float:
        """The objective of this model."""
        return self.trace[-1].loss
