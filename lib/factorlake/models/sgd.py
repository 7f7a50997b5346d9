"""Explicit factorization by stochastic gradients: the one training loop that both plans share.

Each epoch trains every cell of the ratings once, stratum by stratum (``sgd_cells``); what is done with a cell is in
``sgd_plan``, its arithmetic in ``kernels.sgd``. After each epoch the loop measures the objective and the errors, keeps
the best epoch where there are ratings to validate on, and decides when to stop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.types import FloatVector, IntVector

from .plan import ArrayRows, R
from .sgd_cells import stratum
from .sgd_parameters import SgdParameters
from .sgd_plan import CellTask, SgdPlan, State, epoch_order
from .trained import Snapshot, Stopped

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SgdTraceRow:
    """The state after one epoch. Losses and errors are in the unit of ratings, whatever the scale of training; errors
    are those of predictions, which ``minmax`` holds within bounds, losses those of x·y as it is."""

    epoch: int
    """From 1; 0 is the start."""
    loss: float
    """The whole objective over the ratings trained on."""
    observed_loss: float
    """Σ (r − r̂)²."""
    regularization_loss: float
    training_rmse: float
    training_mae: float
    validation_rmse: float | None
    """None where no rating is held out for validation."""
    validation_mae: float | None
    seconds: float
    """Of the epoch's steps."""
    measuring_seconds: float
    """Of the losses and errors, after the steps."""

    @property
    def validation_loss(self) -> float | None:
        """Mean squared error of the ratings held out: what early stopping goes by."""
        return None if self.validation_rmse is None else self.validation_rmse**2


@dataclass(frozen=True)
class TrainedSgd(Snapshot[R]):
    """Rows in float32, in the unit of ratings: r̂ = μ + b_u + b_i + x·y, held within ``bounds``."""

    bounds: tuple[float, float]
    """Least and greatest prediction; ±infinity unless ratings were scaled."""
    regularization: float
    """The λ of ALS with the same objective in the unit of ratings: its ridge by count (ν = 1) on factors."""
    trace: tuple[SgdTraceRow, ...]
    epochs: int
    """Epochs of the kept state."""
    stopped: Stopped
    """Why training ended: all epochs ran, or the validation loss fell no more."""

    @property
    def kept(self) -> SgdTraceRow:
        """The trace of the state that is kept."""
        return self.trace[self.epochs]


def predict(model: TrainedSgd[ArrayRows], users: IntVector, items: IntVector) -> NDArray[np.float64]:
    """Return r̂ of pairs of positions, each (n,), in float64; the position −1, an unknown id, adds nothing to μ."""
    told = np.full(len(users), model.mean)
    known = (np.asarray(users) >= 0) & (np.asarray(items) >= 0)
    x, y = model.user_factors[users[known]], model.item_factors[items[known]]
    told[known] += np.einsum("na,na->n", x, y, dtype=np.float64)
    sides: tuple[tuple[FloatVector | None, IntVector], ...] = (model.user_biases, users), (model.item_biases, items)
    for biases, positions in sides:
        if biases is not None:
            told += np.where(positions >= 0, biases[positions], 0.0)
    return np.clip(told, *model.bounds)


def train_sgd(
    plan: SgdPlan[State, R],
    parameters: SgdParameters,
    on_epoch: Callable[[SgdTraceRow], None] | None = None,
) -> TrainedSgd[R]:
    """Train a model on the cells behind a plan.

    Parameters
    ----------
    on_epoch : told each row of the trace as it is made.

    With ratings held out for validation the best epoch is kept, and training stops when ``patience`` epochs have not
    lowered the validation loss; without, every epoch runs and the last is kept.

    Raises
    ------
    NumericalError : the loss is not finite: training diverged.
    """
    return _Training(plan, parameters, on_epoch).run()


class _Training(Generic[State, R]):
    """One run of the loop: its inputs and the trace so far."""

    def __init__(
        self,
        plan: SgdPlan[State, R],
        parameters: SgdParameters,
        on_epoch: Callable[[SgdTraceRow], None] | None,
    ) -> None:
        self.plan = plan
        self.problem = plan.problem
        self.parameters = parameters
        self.on_epoch = on_epoch
        self.scale = plan.problem.scale(parameters)
        self.trace: list[SgdTraceRow] = []

    def run(self) -> TrainedSgd[R]:
        parameters = self.parameters
        began = time.perf_counter()
        state = self.plan.start(parameters)
        row = self._measure(0, state, time.perf_counter() - began)
        best_state, best_epoch, best_loss = self.plan.kept(state), 0, row.validation_loss
        idle_epochs = 0
        stopped: Stopped = "epochs"
        for epoch in range(1, parameters.epochs + 1):
            began = time.perf_counter()
            task = self._task(epoch)
            for number in epoch_order(parameters, epoch):
                state = self.plan.train(task, self._to_train(number), state)
            row = self._measure(epoch, state, time.perf_counter() - began)
            loss = row.validation_loss
            if loss is None or best_loss is None:
                continue
            gain = (best_loss - loss) / max(best_loss, np.finfo(np.float64).tiny)
            if loss < best_loss:
                best_state, best_epoch, best_loss = self.plan.kept(state), epoch, loss
            if parameters.tolerance is not None:
                idle_epochs = idle_epochs + 1 if not gain > parameters.tolerance else 0
                if idle_epochs >= parameters.patience and epoch < parameters.epochs:
                    stopped = "metric"
                    break
        if best_loss is None:
            best_state, best_epoch = state, parameters.epochs
        users, items = self.plan.finish(self._task(best_epoch), best_state)
        limited = parameters.scaling == "minmax"
        return TrainedSgd(
            users=users,
            items=items,
            rank=parameters.rank,
            mean=self.problem.mean if parameters.biases else self.scale.low,
            bounds=(self.problem.low, self.problem.high) if limited else (-np.inf, np.inf),
            regularization=parameters.regularization * self.scale.range / 2.0,
            trace=tuple(self.trace),
            epochs=best_epoch,
            stopped=stopped,
        )

    def _to_train(self, number: int) -> list[tuple[int, int]]:
        """Return the cells of a stratum that have a rating to train on."""
        totals = self.problem.totals
        return [
            cell for cell in stratum(number, self.parameters.strata) if totals[self.problem.number(cell)].n_training
        ]

    def _task(self, epoch: int) -> CellTask:
        parameters, scale, problem = self.parameters, self.scale, self.problem
        limited = parameters.scaling == "minmax"
        return CellTask(
            parameters=parameters,
            scale=scale,
            mean=(problem.mean - scale.low) / scale.range if parameters.biases else 0.0,
            bounds=(0.0, (problem.high - scale.low) / scale.range) if limited else (-np.inf, np.inf),
            epoch=epoch,
        )

    def _measure(self, epoch: int, state: State, seconds: float) -> SgdTraceRow:
        """Add the trace row of a state, and tell it."""
        began = time.perf_counter()
        errors = self.plan.errors(self._task(epoch), state)
        unit = self.scale.range
        training, held_out = _added([one.training for one in errors]), _added([one.held_out for one in errors])
        n_training, n_held_out = self.problem.n_training, self.problem.n_held_out
        observed, ridge = unit**2 * training[0], unit**2 * training[3]
        row = SgdTraceRow(
            epoch=epoch,
            loss=observed + ridge,
            observed_loss=observed,
            regularization_loss=ridge,
            training_rmse=unit * float(np.sqrt(training[1] / n_training)),
            training_mae=unit * training[2] / n_training,
            validation_rmse=unit * float(np.sqrt(held_out[1] / n_held_out)) if n_held_out else None,
            validation_mae=unit * held_out[2] / n_held_out if n_held_out else None,
            seconds=seconds,
            measuring_seconds=time.perf_counter() - began,
        )
        if not (np.isfinite(row.loss) and (row.validation_loss is None or np.isfinite(row.validation_loss))):
            raise NumericalError(
                f"training diverged: the objective of epoch {epoch} is {row.loss}; lower the learning_rate, which is "
                f"{self.parameters.learning_rate}"
                + ("" if self.parameters.scaling == "minmax" else ", or scale the ratings by scaling: minmax")
            )
        self.trace.append(row)
        log.info("epoch=%d loss=%.6g rmse=%.4f seconds=%.2f", epoch, row.loss, row.training_rmse, seconds)
        if self.on_epoch is not None:
            self.on_epoch(row)
        return row


def _added(parts: Sequence[NDArray[np.float64]]) -> list[float]:
    """Return sums of cells added in their order."""
    total = np.zeros(4)
    for one in parts:
        total += one
    return [float(one) for one in total]
