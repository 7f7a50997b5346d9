"""Alternating least squares: the one training loop that every plan shares.

A plan is a callable that solves all blocks of one side (``half_step.HalfStep``). The loop does the rest: sums
Gram matrices in block order, computes one eigenbasis per half step, rotates the factors block by block, keeps
the trace, decides when to stop, and ends with the canonical form and one exact user half step.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.kernels.gram import block_gram, eigenbasis
from factorlake.kernels.half_step import RowSolver
from factorlake.kernels.initial import initial_factors
from factorlake.types import FloatMatrix, FloatVector, Side

from .canonical import canonical_items, item_gram
from .half_step import BlockResult, HalfStep, HalfStepTask, regularization_loss
from .parameters import AlsParameters
from .problem import AlsProblem, SideLayout
from .state import SideState, State, all_pairs, collect, rotate_blocks
from .systems import explicit_system, user_system
from .threads import single_threaded_blas
from .trained import Snapshot, Stopped, TraceRow, TrainedModel
from .weighting import ridge_weights

log = logging.getLogger(__name__)

FAST_FALL = 0.01
"""After an epoch that lowered the objective by more than this share, ``auto`` takes one more CG step."""


def train(
    problem: AlsProblem,
    parameters: AlsParameters,
    half_step: HalfStep,
    on_half_step: Callable[[TraceRow], None] | None = None,
    validate: Callable[[int, Snapshot], float] | None = None,
    larger_is_better: bool = True,
    start: tuple[FloatMatrix, FloatMatrix] | None = None,
) -> TrainedModel:
    """Train a model, with the data behind ``half_step``.

    Parameters
    ----------
    half_step : the plan; called twice per epoch, and once at the end with float64 item factors.
    on_half_step : told each trace row as it is made.
    validate : (epoch, snapshot) → held-out metric after each epoch. With it, progress is the metric's and the
        best epoch is kept; without it, progress is the objective's, which only falls, and the last epoch is
        kept.
    start : (user_factors, item_factors) to start from, each (n, rank); None: zeros for users and draws from
        (seed, hash of the id) for items. Biases start at zero and μ at the mean rating.

    Raises
    ------
    NumericalError : factors or the objective are not finite, or a row cannot be solved.
    """
    with single_threaded_blas():
        return _Training(problem, parameters, half_step, on_half_step).run(validate, larger_is_better, start)


class _Training:
    """One run of the loop: its inputs and the trace so far."""

    def __init__(
        self,
        problem: AlsProblem,
        parameters: AlsParameters,
        half_step: HalfStep,
        on_half_step: Callable[[TraceRow], None] | None,
    ):
        self.problem = problem
        self.parameters = parameters
        self.half_step = half_step
        self.on_half_step = on_half_step
        self.trace: list[TraceRow] = []
        chosen = parameters.solver
        if chosen == "auto":
            chosen = "cg" if parameters.objective == "implicit" else "exact"
        self.solver: RowSolver = chosen

    def run(
        self,
        validate: Callable[[int, Snapshot], float] | None,
        larger_is_better: bool,
        start: tuple[FloatMatrix, FloatMatrix] | None,
    ) -> TrainedModel:
        parameters = self.parameters
        state = self._start(start)
        best_state, best_epoch, best_metric = state, 0, -np.inf
        losses: list[float] = []
        idle_epochs = 0
        stopped: Stopped = "epochs"
        for epoch in range(1, parameters.epochs + 1):
            steps = self._steps(losses)
            state, row = self._half_step(epoch, "user", state, steps)
            self._tell(row)
            losses = losses or [row.loss]
            state, row = self._half_step(epoch, "item", state, steps)
            losses.append(row.loss)
            if validate is None:
                self._tell(row)
                best_state, best_epoch = state, epoch
                gain = _relative_fall(losses)
            else:
                metric = validate(epoch, self._snapshot(state))
                if np.isnan(metric):
                    raise NumericalError(
                        f"the held-out metric of epoch {epoch} is not a number; check that the holdout is not empty"
                    )
                self._tell(replace(row, metric=metric))
                score = metric if larger_is_better else -metric
                gain = (score - best_metric) / max(abs(score), 1e-12)
                if score > best_metric:
                    best_state, best_epoch, best_metric = state, epoch, score
            if parameters.tolerance is not None:
                idle_epochs = idle_epochs + 1 if not gain > parameters.tolerance else 0
                if idle_epochs >= parameters.patience and epoch < parameters.epochs:
                    stopped = "objective" if validate is None else "metric"
                    break
        return self._finish(best_state, best_epoch, stopped, state.jitters)

    def _steps(self, losses: Sequence[float]) -> int:
        falls_fast = len(losses) > 1 and _relative_fall(losses) > FAST_FALL
        return self.parameters.cg_steps + int(self.parameters.solver == "auto" and falls_fast)

    def _start(self, start: tuple[FloatMatrix, FloatMatrix] | None) -> State:
        problem, parameters = self.problem, self.parameters
        dtype = np.float64 if parameters.double_precision else np.float32
        users = np.zeros((problem.users.n_rows, parameters.width), dtype=dtype)
        items = np.zeros((problem.items.n_rows, parameters.width), dtype=dtype)
        if start is None:
            items[:, : parameters.rank] = initial_factors(
                problem.items.hashes, parameters.rank, parameters.seed, parameters.init_scale
            )
        else:
            users[:, : parameters.rank], items[:, : parameters.rank] = start
        mean = problem.rating_sum / problem.n_obs if parameters.has_biases and problem.n_obs else 0.0
        return State(
            user=self._known(users, problem.users, problem.items.n_rows),
            item=self._known(items, problem.items, problem.users.n_rows),
            mean=mean,
        )

    def _known(self, rows: FloatMatrix, layout: SideLayout, n_other: int) -> SideState:
        """Return a side's state from its rows alone; summed block by block, as half steps sum theirs."""
        gram = np.zeros((self.parameters.width, self.parameters.width))
        ridge_part = 0.0
        for part in layout.slices():
            ridge = self.parameters.regularization * ridge_weights(layout.counts[part], n_other, self.parameters)
            ridge_part += regularization_loss(rows[part], ridge, self.parameters)
            if self.parameters.objective == "implicit":
                gram += block_gram(rows[part], part.start)
        return SideState(rows, gram, ridge_part)

    def _half_step(self, epoch: int, side: Side, state: State, steps: int) -> tuple[State, TraceRow]:
        began = time.perf_counter()
        other: Side = "item" if side == "user" else "user"
        own, fixed = state.side(side), state.side(other)
        before = all_pairs(own, fixed, self.parameters)
        if self.parameters.objective == "implicit":
            own, fixed, task, factors = self._implicit_task(side, other, own, fixed, steps)
        else:
            task, factors = self._explicit_task(side, state, fixed, steps)
        results = self.half_step(task, factors, None if self.solver == "exact" else own.rows)
        solved = collect(results)
        known = solved if self.solver == "exact" else own
        pairs = all_pairs(solved, fixed, self.parameters) if self.solver == "exact" else before
        observed = sum(result.observed_loss for result in results)
        ridge_part = known.regularization_loss + fixed.regularization_loss
        mean = state.mean
        if side == "item" and self.parameters.has_biases and self.problem.n_obs:
            mean += self._mean_residual(task, factors, solved, results) / self.problem.n_obs
        new = State(
            user=solved if side == "user" else fixed,
            item=solved if side == "item" else fixed,
            mean=mean,
            jitters=state.jitters + sum(result.jitters for result in results),
        )
        row = TraceRow(
            epoch=epoch,
            side=side,
            state="after" if self.solver == "exact" else "before",
            loss=observed + pairs + ridge_part,
            observed_loss=observed,
            all_pairs_loss=pairs,
            regularization_loss=ridge_part,
            seconds=time.perf_counter() - began,
        )
        if not np.isfinite(row.loss):
            raise NumericalError(
                f"the objective of epoch {epoch} is {row.loss}; look for extreme values or raise the regularization"
            )
        return new, row

    def _implicit_task(
        self, side: Side, other: Side, own: SideState, fixed: SideState, steps: int
    ) -> tuple[SideState, SideState, HalfStepTask, FloatMatrix]:
        """Turn both sides into the eigenbasis of the fixed side's Gram matrix, where it is diagonal."""
        basis, eigenvalues = eigenbasis(fixed.gram)
        fixed = replace(
            fixed, rows=rotate_blocks(fixed.rows, self.problem.side(other), basis), gram=np.diag(eigenvalues)
        )
        if self.solver != "exact":
            own = replace(own, rows=rotate_blocks(own.rows, self.problem.side(side), basis))
        task = self._task(side, self.parameters.alpha0 * eigenvalues, None, steps)
        return own, fixed, task, fixed.rows

    def _explicit_task(
        self, side: Side, state: State, fixed: SideState, steps: int
    ) -> tuple[HalfStepTask, FloatMatrix]:
        """Append a constant 1 to the fixed factors, so that the row's bias is one more unknown."""
        base, factors, offset = explicit_system(self.parameters, fixed.rows, state.mean)
        return self._task(side, base, offset, steps), factors

    def _task(
        self, side: Side, base_diagonal: NDArray[np.float64], offset: FloatVector | None, steps: int
    ) -> HalfStepTask:
        other: Side = "item" if side == "user" else "user"
        return HalfStepTask(
            side=side,
            parameters=self.parameters,
            n_other=self.problem.side(other).n_rows,
            base_diagonal=base_diagonal,
            solver=self.solver,
            steps=steps,
            offset=offset,
        )

    def _mean_residual(
        self, task: HalfStepTask, factors: FloatMatrix, solved: SideState, results: Sequence[BlockResult]
    ) -> float:
        """Return Σ (r − prediction) after the half step, whose mean is what μ lacks."""
        if self.solver != "exact":
            results = self.half_step(replace(task, solver="residual"), factors, solved.rows)
        return sum(result.residual_sum for result in results)

    def _snapshot(self, state: State) -> Snapshot:
        rank, biases = self.parameters.rank, self.parameters.has_biases
        return Snapshot(
            user_factors=state.user.rows[:, :rank],
            item_factors=state.item.rows[:, :rank],
            user_biases=state.user.rows[:, rank] if biases else None,
            item_biases=state.item.rows[:, rank] if biases else None,
            mean=state.mean,
        )

    def _finish(self, state: State, epoch: int, stopped: Stopped, jitters: int) -> TrainedModel:
        """Bring the kept state into canonical form, then solve every user for the rounded item factors."""
        began = time.perf_counter()
        parameters, problem, rank = self.parameters, self.problem, self.parameters.rank
        items = np.array(state.item.rows, dtype=np.float32)
        items[:, :rank] = canonical_items(state.user.rows, state.item.rows, problem.users, problem.items, parameters)
        item_factors = np.ascontiguousarray(items[:, :rank])
        item_biases = np.ascontiguousarray(items[:, rank]) if parameters.has_biases else None
        gram = item_gram(item_factors, problem.items)
        system = user_system(parameters, item_factors, item_biases, state.mean, gram, problem.items.n_rows)
        results = self.half_step(system.task, system.factors, None)
        solved = collect(results)
        users = system.restore(solved.rows)
        fixed = self._known(items, problem.items, problem.users.n_rows)
        fixed = replace(fixed, gram=np.diag(system.eigenvalues))
        pairs = all_pairs(solved, fixed, parameters)
        observed = sum(result.observed_loss for result in results)
        ridge_part = solved.regularization_loss + fixed.regularization_loss
        self._tell(
            TraceRow(
                epoch=epoch,
                side="user",
                state="final",
                loss=observed + pairs + ridge_part,
                observed_loss=observed,
                all_pairs_loss=pairs,
                regularization_loss=ridge_part,
                seconds=time.perf_counter() - began,
            )
        )
        return TrainedModel(
            user_factors=np.ascontiguousarray(users[:, :rank]),
            item_factors=item_factors,
            user_biases=np.ascontiguousarray(users[:, rank]) if parameters.has_biases else None,
            item_biases=item_biases,
            mean=state.mean,
            item_gram=gram,
            trace=tuple(self.trace),
            epochs=epoch,
            stopped=stopped,
            jitters=jitters + sum(result.jitters for result in results),
        )

    def _tell(self, row: TraceRow) -> None:
        self.trace.append(row)
        log.info(
            "epoch=%d side=%s state=%s loss=%.6g seconds=%.2f",
            row.epoch,
            row.side,
            row.state,
            row.loss,
            row.seconds,
        )
        if self.on_half_step is not None:
            self.on_half_step(row)


def _relative_fall(losses: Sequence[float]) -> float:
    before, after = losses[-2], losses[-1]
    return (before - after) / max(abs(before), np.finfo(np.float64).tiny)
