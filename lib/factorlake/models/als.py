"""Alternating least squares: the one training loop that every plan shares.

A plan (``plan.Plan``) holds the rows and works on them block by block. The loop does the rest: says what is done with
a block, sums Gram matrices in block order, computes one eigenbasis per half step, keeps the trace, decides when to
stop, and ends with the canonical form and one exact user half step. Factors that must not be negative have neither
eigenbasis nor canonical form: they are never turned.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.kernels.gram import block_gram, rotate_rows
from factorlake.kernels.initial import initial_factors
from factorlake.types import FloatMatrix, Side

from .canonical import canonical_turn
from .checkpoints import Checkpoints, Progress
from .half_step import HalfStepTask, regularization_loss, turn_rows
from .nonnegative_start import nonnegative_start
from .parameters import AlsParameters
from .plan import NewRows, Plan, R
from .prior import Features, SidePrior, prior_rows
from .problem import RowBlock
from .state import SideState, State, all_pairs, side_state, solved_state
from .systems import UserSystem, shared_part, user_system
from .threads import single_threaded_blas
from .trained import Snapshot, Stopped, TraceRow, TrainedModel
from .weighting import ridge_weights

log = logging.getLogger(__name__)

RELAXED_FROM = 3
"""First epoch with over-relaxation: before, factors are far from where they go, and a step beyond leads astray."""
SWEEPS = {"nonnegative": 20, "hals": 2}
"""Of coordinate descent, at most, in a half step of factors that must not be negative. Where all rows share one matrix
(hals) the system costs so little that the sides take turns after two: with one an epoch falls less, with three hardly
more."""
FAST_FALL = 0.01
"""After an epoch that lowered the objective by more than this share, ``auto`` takes one more CG step."""


def train(
    plan: Plan[R],
    parameters: AlsParameters,
    on_half_step: Callable[[TraceRow], None] | None = None,
    validate: Callable[[int, Snapshot[R]], float] | None = None,
    larger_is_better: bool = True,
    start: tuple[R, R] | None = None,
    features: Features[R] | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainedModel[R]:
    """Train a model on the data behind a plan.

    Parameters
    ----------
    on_half_step : told each trace row as it is made.
    validate : (epoch, snapshot) → held-out metric after each epoch. With it, progress is the metric's and the
        best epoch is kept; without it, progress is the objective's, which only falls, and the last epoch is
        kept.
    start : (user_factors, item_factors) to start from, each (n, rank). A row of NaN, and every row without
        ``start``, starts at zero where it is a user's and with draws from (seed, hash of the id) where it is an
        item's. Biases start at zero and μ at the mean rating. Factors that must not be negative start from magnitudes;
        those of the Frobenius objective without ``start`` from leading singular vectors (``nonnegative_start``).
    features : what is known of the rows beside the ratings; they then have a prior mean (``prior``).
    checkpoints : where progress is kept after epochs. Training goes on from what was kept there, whatever ``start`` is,
        and ends with the same bits; ``on_half_step`` is told only what is done anew.

    Raises
    ------
    NumericalError : factors or the objective are not finite, or a row cannot be solved.
    ConfigError : features of factors that must not be negative.
    """
    with single_threaded_blas():
        training = _Training(plan, parameters, on_half_step, features, checkpoints)
        return training.run(validate, larger_is_better, start)


class _Training(Generic[R]):
    """One run of the loop: its inputs and the trace so far."""

    def __init__(
        self,
        plan: Plan[R],
        parameters: AlsParameters,
        on_half_step: Callable[[TraceRow], None] | None,
        features: Features[R] | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self.plan = plan
        self.problem = plan.problem
        self.parameters = parameters
        self.on_half_step = on_half_step
        self.checkpoints = checkpoints
        self.trace: list[TraceRow] = []
        given: dict[Side, R | None] = {} if features is None else {"user": features.user, "item": features.item}
        self.priors = {
            side: SidePrior.of(plan, side, rows, parameters) for side, rows in given.items() if rows is not None
        }

    def run(
        self,
        validate: Callable[[int, Snapshot[R]], float] | None,
        larger_is_better: bool,
        start: tuple[R, R] | None,
    ) -> TrainedModel[R]:
        parameters = self.parameters
        now = None if self.checkpoints is None else self.checkpoints.load(self.plan, parameters)
        if now is None:
            state = self._start(start)
            now = Progress(0, state, state)
        self.trace = list(now.trace)
        for _ in range(now.epoch, parameters.epochs):
            now = self._epoch(now, validate, larger_is_better)
            if now.idle_epochs >= parameters.patience and now.epoch < parameters.epochs:
                stopped: Stopped = "objective" if validate is None else "metric"
                break
            if self.checkpoints is not None:
                self.checkpoints.keep(now, parameters, self.problem)
        else:
            stopped = "epochs"
        return self._finish(now.best, now.best_epoch, stopped, now.state.jitters)

    def _epoch(
        self, last: Progress[R], validate: Callable[[int, Snapshot[R]], float] | None, larger_is_better: bool
    ) -> Progress[R]:
        """Solve both sides once, and say what of it counts."""
        epoch, steps = last.epoch + 1, self._steps(last.losses)
        state, row = self._half_step(epoch, "user", last.state, steps)
        self._tell(row)
        losses = last.losses or (row.loss,)
        state, row = self._half_step(epoch, "item", state, steps)
        losses = (*losses, row.loss)
        best, best_epoch, best_score = last.best, last.best_epoch, last.best_score
        if validate is None:
            self._tell(row)
            best, best_epoch = state, epoch
            gain = _relative_fall(losses)
        else:
            metric = validate(epoch, self._snapshot(state))
            if np.isnan(metric):
                raise NumericalError(
                    f"the held-out metric of epoch {epoch} is not a number; check that the holdout is not empty"
                )
            self._tell(replace(row, metric=metric))
            score = metric if larger_is_better else -metric
            gain = (score - best_score) / max(abs(score), 1e-12)
            if score > best_score:
                best, best_epoch, best_score = state, epoch, score
        tolerance = self.parameters.tolerance
        idle_epochs = 0 if tolerance is None or gain > tolerance else last.idle_epochs + 1
        return Progress(epoch, state, best, best_epoch, best_score, losses, idle_epochs, tuple(self.trace))

    def _steps(self, losses: Sequence[float]) -> int:
        if self.parameters.nonnegative:
            return SWEEPS[self.parameters.row_solver]
        falls_fast = len(losses) > 1 and _relative_fall(losses) > FAST_FALL
        return self.parameters.cg_steps + int(self.parameters.solver == "auto" and falls_fast)

    def _relaxation(self, epoch: int) -> float:
        # Conjugate gradients end at the lowest point of the line from where they began, so that a step beyond it, less
        # than twice as far, still lowers the objective; of a sweep that does not hold.
        return self.parameters.relaxation if self.parameters.row_solver == "cg" and epoch >= RELAXED_FROM else 1.0

    def _start(self, start: tuple[R, R] | None) -> State[R]:
        problem = self.problem
        if start is None and self.parameters.objective == "frobenius":
            start = nonnegative_start(self.plan, self.parameters)
        mean = problem.rating_sum / problem.n_obs if self.parameters.has_biases and problem.n_obs else 0.0
        return State(
            user=self._first("user", None if start is None else start[0]),
            item=self._first("item", None if start is None else start[1]),
            mean=mean,
        )

    def _first(self, side: Side, given: R | None) -> SideState[R]:
        """Return a side's first rows."""
        parameters, n_other = self.parameters, self.problem.n_rows(_other(side))
        dtype = np.float64 if parameters.double_precision else np.float32

        def draw(
            block: RowBlock, *laid_over: FloatMatrix
        ) -> tuple[FloatMatrix, tuple[NDArray[np.float64] | None, float]]:
            rows = np.zeros((block.n_rows, parameters.width), dtype=dtype)
            own = rows[:, : parameters.rank]
            if side == "item":
                own[:] = initial_factors(block.hashes, parameters.rank, parameters.seed, parameters.init_scale)
            for factors in laid_over:
                known = ~np.isnan(factors).all(axis=1)
                own[known] = factors[known]
            if parameters.nonnegative:
                np.abs(own, out=own)
            gram = None if parameters.pair_weight is None else block_gram(rows, block.first_row)
            return rows, (gram, _ridge_part(side, block, rows, n_other, parameters))

        rows, told = self.plan.map_rows(side, draw, *(() if given is None else (given,)))
        return self._with_prior(side, side_state(rows, told, parameters.width))

    def _with_prior(self, side: Side, state: SideState[R]) -> SideState[R]:
        """Return a side's state with its rows regressed on their features, where it has any."""
        return self.priors[side].fit(self.plan, state) if side in self.priors else state

    def _half_step(self, epoch: int, side: Side, state: State[R], steps: int) -> tuple[State[R], TraceRow]:
        began = time.perf_counter()
        own, fixed = state.side(side), state.side(_other(side))
        before = all_pairs(own, fixed, self.parameters)
        solver = self.parameters.row_solver
        tells_after = solver in ("exact", "nonnegative", "hals")
        shared = shared_part(self.parameters, fixed.gram)
        if shared.basis is not None:
            # Both sides go into the eigenbasis of the fixed side's Gram matrix, where it is diagonal.
            rows, _ = self.plan.map_rows(_other(side), _turned(shared.basis), fixed.rows)
            prior = None if fixed.prior is None else fixed.prior @ shared.basis
            fixed = replace(fixed, rows=rows, gram=shared.gram, prior=prior)
        task = HalfStepTask(
            side=side,
            parameters=self.parameters,
            n_other=self.problem.n_rows(_other(side)),
            base_diagonal=shared.diagonal,
            base_matrix=shared.matrix,
            solver=solver,
            steps=steps,
            mean=state.mean,
            relaxation=self._relaxation(epoch),
            turn=shared.basis,
            prior_strength=self.priors[side].strength if own.prior is not None else None,
        )
        present = None if solver == "exact" else own.rows
        if own.prior is not None:
            present = self.priors[side].beside(self.plan, present, own.prior)
        rows, sums = self.plan.half_step(task, fixed.rows, present)
        solved = self._with_prior(side, solved_state(rows, sums, self.parameters.width))
        known = solved if tells_after else own
        pairs = all_pairs(solved, fixed, self.parameters) if tells_after else before
        observed = sum(one.observed_loss for one in sums)
        ridge_part = known.regularization_loss + fixed.regularization_loss
        mean, kernel_seconds = state.mean, sum(one.seconds for one in sums)
        if side == "item" and self.parameters.has_biases and self.problem.n_obs:
            if not tells_after:
                look = replace(task, solver="residual", prior_strength=None)
                _, sums_after = self.plan.half_step(look, fixed.rows, solved.rows)
                kernel_seconds += sum(one.seconds for one in sums_after)
            else:
                sums_after = sums
            # Σ (r − prediction) after the half step, whose mean is what μ lacks.
            mean += sum(one.residual_sum for one in sums_after) / self.problem.n_obs
        new = State(
            user=solved if side == "user" else fixed,
            item=solved if side == "item" else fixed,
            mean=mean,
            jitters=state.jitters + sum(one.jitters for one in sums),
        )
        row = TraceRow(
            epoch=epoch,
            side=side,
            state="after" if tells_after else "before",
            loss=observed + pairs + ridge_part,
            observed_loss=observed,
            all_pairs_loss=pairs,
            regularization_loss=ridge_part,
            seconds=time.perf_counter() - began,
            kernel_seconds=kernel_seconds,
        )
        if not np.isfinite(row.loss):
            raise NumericalError(
                f"the objective of epoch {epoch} is {row.loss}; look for extreme values or raise the regularization"
            )
        return new, row

    def _snapshot(self, state: State[R]) -> Snapshot[R]:
        return Snapshot(state.user.rows, state.item.rows, self.parameters.rank, state.mean)

    def _finish(self, state: State[R], epoch: int, stopped: Stopped, jitters: int) -> TrainedModel[R]:
        """Bring the kept state into canonical form (non-negative factors stay as they are), then solve every user for
        the rounded item factors."""
        began = time.perf_counter()
        parameters, problem, rank = self.parameters, self.problem, self.parameters.rank
        turn = None
        if not parameters.nonnegative:
            turn = canonical_turn(self.plan, state.user.rows, state.item.rows, parameters)

        def round_once(block: RowBlock, rows: FloatMatrix) -> tuple[FloatMatrix, tuple[NDArray[np.float64], float]]:
            rounded = np.array(rows, dtype=np.float32)
            if turn is not None:
                rounded[:, :rank] = rotate_rows(rows[:, :rank], turn)
            gram = block_gram(rounded[:, :rank], block.first_row)
            return rounded, (gram, _ridge_part("item", block, rounded, problem.n_users, parameters))

        items, told = self.plan.map_rows("item", round_once, state.item.rows)
        fixed = self._with_prior("item", side_state(items, told, rank))
        gram = fixed.gram
        system = user_system(parameters, state.mean, gram, problem.n_items)
        turned, _ = self.plan.map_rows("item", lambda _, rows: (system.turn(rows), None), items)
        user_weights = None
        prior_of_users: R | None = None
        if state.user.prior is not None:
            user_weights = _rounded_weights(state.user.prior, turn, rank)
            prior_of_users = self._prior_of_users(user_weights, system)
        strength = None if prior_of_users is None else self.priors["user"].strength
        task = replace(system.task, prior_strength=strength)
        solved_rows, sums = self.plan.half_step(task, turned, prior_of_users)
        users, _ = self.plan.map_rows(
            "user", lambda block, rows: (system.restore(rows, block.first_row), None), solved_rows
        )
        solved = solved_state(solved_rows, sums, parameters.width)
        pairs = all_pairs(solved, replace(fixed, gram=system.shared.gram), parameters)
        observed = sum(one.observed_loss for one in sums)
        ridge_part = solved.regularization_loss + fixed.regularization_loss
        if user_weights is not None:
            ridge_part += self.priors["user"].own_ridge(user_weights.astype(np.float64))
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
                kernel_seconds=sum(one.seconds for one in sums),
            )
        )
        return TrainedModel(
            users=users,
            items=items,
            rank=rank,
            mean=state.mean,
            item_gram=gram,
            trace=tuple(self.trace),
            epochs=epoch,
            stopped=stopped,
            jitters=jitters + sum(one.jitters for one in sums),
            user_prior_strength=strength,
            user_feature_weights=user_weights,
            item_feature_weights=None if fixed.prior is None else fixed.prior.astype(np.float32),
        )

    def _prior_of_users(self, weights: NDArray[np.float32], system: UserSystem) -> R:
        def lay(_: RowBlock, features: FloatMatrix) -> tuple[FloatMatrix, None]:
            return system.turn(prior_rows(features, weights)), None

        return self.plan.map_rows("user", lay, self.priors["user"].features)[0]

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


def _other(side: Side) -> Side:
    return "item" if side == "user" else "user"


def _rounded_weights(weights: NDArray[np.float64], turn: NDArray[np.float64] | None, rank: int) -> NDArray[np.float32]:
    """Return A (n_features, width) in canonical form, as it is published."""
    made = np.array(weights)
    if turn is not None:
        made[:, :rank] = weights[:, :rank] @ turn
    return made.astype(np.float32)


def _ridge_part(side: Side, block: RowBlock, rows: FloatMatrix, n_other: int, parameters: AlsParameters) -> float:
    ridge = parameters.ridge_of(side) * ridge_weights(block.counts, n_other, parameters)
    return regularization_loss(rows, ridge, parameters)


def _turned(basis: NDArray[np.float64]) -> NewRows[None]:
    def turn(_: RowBlock, rows: FloatMatrix) -> tuple[FloatMatrix, None]:
        return turn_rows(rows, basis), None

    return turn


def _relative_fall(losses: Sequence[float]) -> float:
    before, after = losses[-2], losses[-1]
    return (before - after) / max(abs(before), np.finfo(np.float64).tiny)
