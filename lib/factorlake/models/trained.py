"""What training hands out: the trace as it goes, the state a validation sees, the model at the end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, FloatVector, Side

from .plan import R

Stopped = Literal["epochs", "objective", "metric"]


@dataclass(frozen=True)
class TraceRow:
    """One half step of one training run."""

    epoch: int
    side: Side | Literal["both"]
    """Side that was solved; both where a step moves both."""
    state: Literal["before", "after", "final"]
    """The state the losses describe: before or after this half step, or the finished model."""
    loss: float
    """The whole objective."""
    observed_loss: float
    """Of the Frobenius objective Σ_S (r² − 2 r x·y), which may be negative: (x·y)² is in the part of all pairs."""
    all_pairs_loss: float
    """α0 Σ_all (x·y)², with α0 = 1 for the Frobenius objective; 0 for the explicit one."""
    regularization_loss: float
    seconds: float
    metric: float | None = None
    """Held-out metric after the epoch, on its item row."""
    kernel_seconds: float = 0.0
    """Of tasks or threads together while they worked on blocks, segments of long rows aside: with several at once up to
    so many times ``seconds``, of which the rest moved rows and started tasks."""


@dataclass(frozen=True)
class Snapshot(Generic[R]):
    """The model in the middle of training, for a held-out metric. Any rotation of it scores the same.

    Rows are (factors, then the bias where there is one). The arrays bring all rows of a side into memory, which not
    every plan can afford: ``users.blocks()`` and ``users.at(positions)`` bring some.
    """

    users: R
    items: R
    rank: int
    mean: float

    @cached_property
    def user_factors(self) -> FloatMatrix:
        """(n_users, rank)."""
        return np.ascontiguousarray(self.users.whole()[:, : self.rank])

    @cached_property
    def item_factors(self) -> FloatMatrix:
        """(n_items, rank)."""
        return np.ascontiguousarray(self.items.whole()[:, : self.rank])

    @cached_property
    def user_biases(self) -> FloatVector | None:
        """(n_users,), or None in a model without biases."""
        return self._biases(self.users)

    @cached_property
    def item_biases(self) -> FloatVector | None:
        """(n_items,), or None in a model without biases."""
        return self._biases(self.items)

    def _biases(self, held: R) -> FloatVector | None:
        rows = held.whole()
        return np.ascontiguousarray(rows[:, self.rank]) if rows.shape[1] > self.rank else None


@dataclass(frozen=True)
class TrainedModel(Snapshot[R]):
    """Rows in float32 and in canonical form: XᵀW_uX diagonal before the last user half step, signs fixed; factors that
    must not be negative as they were found.

    Each user row solves its own system for the published item factors exactly.
    """

    item_gram: NDArray[np.float64]
    """(rank, rank) YᵀY of the item factors as they stand here: fold-in needs it."""
    trace: tuple[TraceRow, ...]
    epochs: int
    """Epochs of the kept state."""
    stopped: Stopped
    """Why training ended: all epochs ran, or no more progress of the objective or the held-out metric."""
    jitters: int
    """Ridge jitters that indefinite systems took, over the whole training."""
    user_prior_strength: NDArray[np.float64] | None = None
    """(width,) ρ: how strongly users are drawn to their prior rows; fold-in needs it. None without features."""
    user_feature_weights: NDArray[np.float32] | None = None
    """(n_features, width) A: the prior row of a user is the sum of those of its features; None without features."""
    item_feature_weights: NDArray[np.float32] | None = None
    """The same of items. An item without ratings has its prior row for a factor."""

    def feature_weights(self, side: Side) -> NDArray[np.float32] | None:
        """Return A of one side."""
        return self.user_feature_weights if side == "user" else self.item_feature_weights

    @property
    def loss(self) -> float:
        """The objective of this model."""
        return self.trace[-1].loss
