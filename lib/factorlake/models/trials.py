"""Runs the trials of a search in any plan: ratings packed once, the held-out metric after each epoch, warm starts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import numpy as np

from factorlake.errors import DataRefusedError, NumericalError
from factorlake.kernels.initial import initial_factors
from factorlake.types import FloatMatrix

from .als import train
from .parameters import AlsParameters
from .plan import NewRows, Plan, R
from .problem import RowBlock
from .search import SHARES, Proposal, Scales, Space, Trial, best_cold, best_trial, next_trial
from .threads import single_threaded_blas
from .trained import Snapshot, TraceRow

PATIENCE = 2
"""Epochs without a better metric before a trial ends."""
GROWN_SCALE = 0.3
"""Of the draws in new columns of factors that were trained at a lower rank, against those of a cold start."""


@dataclass(frozen=True)
class Fold(Generic[R]):
    """One split of the ratings: what trials learn from, behind a plan, and what judges a state of training."""

    plan: Plan[R]
    judge: Callable[[Snapshot[Any]], float]
    """Greater is better."""


@dataclass(frozen=True)
class Outcome:
    """What a trial told."""

    value: float
    """Mean over folds of the metric at the best epoch, greater is better (errors with a minus); NaN where it failed."""
    standard_error: float
    """Over folds; NaN of one."""
    best_epoch: int
    epochs: int
    objective: float
    """Training objective as the best epoch's last half step told it, mean over folds."""
    seconds: float
    reason: str = ""
    """Why it failed."""

    @property
    def failed(self) -> bool:
        return not math.isfinite(self.value)


@dataclass(frozen=True)
class _Trained(Generic[R]):
    """A trial on one fold, as its best epoch was."""

    value: float
    best_epoch: int
    epochs: int
    objective: float
    rows: tuple[R, R]


class _Ended(Exception):
    """The trial is over: the state that counts is at hand, and the exact half step that ends training is spared."""


def scales_of(plan: Plan[R]) -> Scales:
    """Return what the units of a search are measured by on the ratings behind a plan."""
    users, items = (np.concatenate(plan.look(side, _counts)) for side in ("user", "item"))
    mean = plan.problem.rating_sum / max(plan.problem.n_obs, 1)
    # Of ratings of both signs the sum may be anything: then 1 is as good a unit as another.
    return Scales(users, items, mean if mean > 0 else 1.0)


@dataclass
class TrialRunner(Generic[R]):
    """Trains and judges proposals. Rows of trials that others may start from are kept, or made again."""

    folds: Sequence[Fold[R]]
    space: Space
    budget: int
    seed: int = 7
    refuse: Callable[[int], str | None] = lambda rank: None
    """(rank) → why a trial of that rank cannot be run here, None where it can."""
    kept: dict[int, list[tuple[R, R]]] = field(default_factory=dict)

    def run(self, proposal: Proposal, trials: Sequence[Trial]) -> Outcome:
        """Run the trial that comes after ``trials``; one that cannot be computed is an outcome too."""
        began = time.perf_counter()
        reason = self.refuse(proposal.rank)
        if reason is not None:
            return _failed(reason, began)
        try:
            trained = self._train_all(proposal, trials)
        except (NumericalError, DataRefusedError, MemoryError) as error:
            return _failed(str(error) or type(error).__name__, began)
        self.kept[proposal.number] = [one.rows for one in trained]
        outcome = _outcome(trained, began)
        self._forget([*trials, Trial(proposal, outcome.value, outcome.best_epoch)])
        return outcome

    def run_given(self, parameters: AlsParameters) -> Outcome:
        """Train and judge settings that no search proposed, from a cold start."""
        began = time.perf_counter()
        reason = self.refuse(parameters.rank)
        if reason is not None:
            return _failed(reason, began)
        try:
            return _outcome([self._train(fold, parameters, None) for fold in self.folds], began)
        except (NumericalError, DataRefusedError, MemoryError) as error:
            return _failed(str(error) or type(error).__name__, began)

    def _train_all(self, proposal: Proposal, trials: Sequence[Trial]) -> list[_Trained[R]]:
        parameters = self.space.parameters(proposal.point, proposal.rank, proposal.epochs)
        if proposal.start is None:
            return [self._train(fold, parameters, None) for fold in self.folds]
        rank = trials[proposal.start - 1].proposal.rank
        starts = self._rows(proposal.start, trials)
        return [
            self._train(fold, parameters, _grown(fold.plan, rows, rank, parameters))
            for fold, rows in zip(self.folds, starts, strict=True)
        ]

    def _rows(self, number: int, trials: Sequence[Trial]) -> list[tuple[R, R]]:
        """Return the rows that a trial ended with: trained again they are the same, bit for bit."""
        if number not in self.kept:
            trained = self._train_all(trials[number - 1].proposal, trials)
            self.kept[number] = [one.rows for one in trained]
        return self.kept[number]

    def _forget(self, trials: Sequence[Trial]) -> None:
        """Let go of rows that no later trial will start from: of the design all but those that may go on, and of the
        others all but the best at the present rank."""
        design = [one for one in trials if one.proposal.stage == "design" and not one.failed]
        going_on = max(1, round(SHARES["halving"] * self.budget))
        wanted = set()
        if trials[-1].proposal.stage in ("design", "halving"):
            best_first = sorted(self.space.weighed(design), key=lambda one: -one.value)
            wanted = {one.proposal.number for one in best_first[:going_on]}
        at_rank = [one for one in trials if one.proposal.rank == trials[-1].proposal.rank and not one.failed]
        if at_rank:
            wanted.add(best_trial(self.space.weighed(at_rank)).proposal.number)
        self.kept = {number: rows for number, rows in self.kept.items() if number in wanted}

    def _train(self, fold: Fold[R], parameters: AlsParameters, start: tuple[R, R] | None) -> _Trained[R]:
        # What ends a trial is decided here: training's own rule would go on to an exact half step of no use here.
        parameters = replace(parameters, seed=self.seed, tolerance=None)
        values: list[float] = []
        best: list[_Trained[R]] = []
        rows: list[tuple[R, R]] = []

        def look(_: int, now: Snapshot[R]) -> float:
            values.append(fold.judge(now))
            rows[:] = [(now.users, now.items)]
            return values[-1]

        def tell(row: TraceRow) -> None:
            if row.metric is None:
                return
            if not best or row.metric > best[0].value:
                best[:] = [_Trained(row.metric, row.epoch, row.epoch, row.loss, rows[0])]
            if row.epoch == parameters.epochs or row.epoch - best[0].best_epoch >= PATIENCE:
                raise _Ended

        try:
            train(fold.plan, parameters, tell, look, start=start)
        except _Ended:
            return replace(best[0], epochs=len(values))
        raise AssertionError("a trial ends by its last epoch")


@dataclass(frozen=True)
class Searched:
    """A search that ended."""

    space: Space
    trials: tuple[Trial, ...]
    outcomes: tuple[Outcome, ...]
    parameters: AlsParameters
    """Those of ``best``, with its best epoch as the last and no early stopping: training with them reaches it again."""

    @property
    def best(self) -> Trial:
        """The best trial from a cold start."""
        return self.trials[best_cold(self.space.weighed(self.trials)).proposal.number - 1]


def search(
    runner: TrialRunner[R],
    done: Sequence[tuple[Trial, Outcome]] = (),
    on_trial: Callable[[Trial, Outcome], None] | None = None,
    go_on: Callable[[], bool] = lambda: True,
) -> Searched:
    """Run trials until the budget is spent, the search is over, or ``go_on`` says no.

    Parameters
    ----------
    done : trials of the same search that ran before, in order.
    on_trial : told each new trial.

    Raises
    ------
    ConfigError : every trial failed.
    """
    trials, outcomes = [trial for trial, _ in done], [outcome for _, outcome in done]
    # The first trial is always run: without one there is no result.
    while (not trials or go_on()) and (proposal := proposed(runner, trials)) is not None:
        outcome = runner.run(proposal, trials)
        trials.append(Trial(proposal, outcome.value, outcome.best_epoch))
        outcomes.append(outcome)
        if on_trial is not None:
            on_trial(trials[-1], outcome)
    best = best_cold(runner.space.weighed(trials))
    chosen = runner.space.parameters(best.proposal.point, best.proposal.rank, max(best.best_epoch, 1))
    return Searched(runner.space, tuple(trials), tuple(outcomes), replace(chosen, tolerance=None))


def proposed(runner: TrialRunner[R], trials: Sequence[Trial]) -> Proposal | None:
    """Return the trial that a search runs next; its linear algebra does not depend on the number of cores."""
    with single_threaded_blas():
        return next_trial(runner.space, runner.budget, runner.seed, trials)


def _grown(plan: Plan[R], rows: tuple[R, R], rank: int, parameters: AlsParameters) -> tuple[R, R]:
    """Return factors to start from, widened to the rank: new columns are zero in users, small draws in items."""
    users, _ = plan.map_rows("user", _widened(rank, parameters, 0.0), rows[0])
    items, _ = plan.map_rows("item", _widened(rank, parameters, GROWN_SCALE * parameters.init_scale), rows[1])
    return users, items


def _widened(rank: int, parameters: AlsParameters, scale: float) -> NewRows[None]:
    wide, seed = parameters.rank, parameters.seed

    def widen(block: RowBlock, rows: FloatMatrix) -> tuple[FloatMatrix, None]:
        made = np.zeros((len(rows), wide), np.float32)
        if scale and wide > rank:
            made[:] = initial_factors(block.hashes, wide, seed, scale)
        # A bias beside the factors starts anew.
        made[:, :rank] = rows[:, :rank]
        return made, None

    return widen


def _counts(block: RowBlock) -> np.ndarray:
    return block.counts


def _outcome(trained: Sequence[_Trained[R]], began: float) -> Outcome:
    values = [one.value for one in trained]
    if not np.isfinite(values).all():
        return _failed("the held-out metric is not finite", began)
    return Outcome(
        value=float(np.mean(values)),
        standard_error=float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan,
        best_epoch=round(float(np.mean([one.best_epoch for one in trained]))),
        epochs=max(one.epochs for one in trained),
        objective=float(np.mean([one.objective for one in trained])),
        seconds=time.perf_counter() - began,
    )


def _failed(reason: str, began: float) -> Outcome:
    return Outcome(math.nan, math.nan, 0, 0, math.nan, time.perf_counter() - began, reason)
