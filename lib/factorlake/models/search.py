"""The search for settings: which trial comes next, given those that are done.

It is a function of the space, the budget, the seed and the finished trials alone, so a search that was cut off goes on
as if it had not been.

1. *design*: the given settings, then points spread over the space, for few epochs at the lowest rank;
2. *halving*: the best third of them go on from where they stood, as long as it helps;
3. *refine*: where a Gaussian process of all trials promises most, at that rank;
4. *ranks*: the best point at twice the rank, started from the factors of half the rank, with a few trials around; as
   long as a rank gains. A higher rank is not assumed to be better;
5. *finish*: what is left of the budget, at the best rank. The last trial is the best settings from a cold start, whose
   best epoch is what training needs.

The literature's advice (Rendle et al., RecSys 2022: λ with α0 at a modest rank, then the rank) is followed
in units that do not depend on the data: α0 over the density, λ by the mean ridge that it makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError

from .parameters import AlsParameters
from .surrogate import most_promising, spread_points

Stage = Literal["design", "halving", "refine", "ranks", "finish"]
RULES = 4
"""Raised with every change of what comes next: a search that was cut off does not go on under other rules."""
LEAST_GAIN = 0.002
"""Relative gain of the metric that a doubled rank must bring for a further one to be tried."""
SHARES: dict[Stage, float] = {"design": 0.3, "halving": 0.1, "refine": 0.15}
"""Of the budget."""
COST_OF_EXPONENT = 0.02
"""Relative gain that ν, moved by 1 from where it was given, must bring under the implicit objective. Like κ it trades
popular items for rare ones, in which one held-out part need not be like the next; by a smaller gain it stays."""
EXPONENT_SHARE = 1 / 3
"""Of the trials of `refine`, the last ones, in which ν moves too."""
INIT_SCALE = 0.1
"""Of every trial: a few epochs do not undo all of what they begin with."""
TRIALS_OF_A_RANK = 3
DESIGN_EPOCHS = 3
REACH: dict[Stage, float] = {"refine": 0.35, "ranks": 0.15, "finish": 0.15}
"""How far from the best point a trial may lie, in units of the cube: what costs more is tried closer to what is
known."""
NEAREST = 0.02
"""Trials closer than this in the cube would tell the same twice."""


@dataclass(frozen=True)
class Dimension:
    """One number that is searched, on a log scale: its name and ends, in the units of ``Scales``."""

    name: str
    low: float
    high: float
    is_log: bool = True

    def at(self, place: float) -> float:
        """Return the number at a place in [0, 1]."""
        if not self.is_log:
            return self.low + place * (self.high - self.low)
        return self.low * (self.high / self.low) ** place

    def place(self, number: float) -> float:
        """Return the place of a number, inside [0, 1]."""
        if not self.is_log:
            return float(np.clip((number - self.low) / (self.high - self.low), 0.0, 1.0))
        return float(np.clip(math.log(max(number, 1e-300) / self.low) / math.log(self.high / self.low), 0.0, 1.0))


@dataclass(frozen=True)
class Scales:
    """What the units of a search are measured by."""

    user_counts: NDArray[np.int64]
    item_counts: NDArray[np.int64]
    mean_weight: float
    """Mean c of the observations: 1 where all weigh the same."""

    @property
    def density(self) -> float:
        """Share of the pairs that is observed."""
        return float(self.user_counts.sum()) / (len(self.user_counts) * len(self.item_counts))

    def mean_ridge(self, parameters: AlsParameters) -> float:
        """Return √(mean w of users · mean w of items): the ridge that λ = 1 makes."""
        means = []
        for counts, n_other in ((self.user_counts, len(self.item_counts)), (self.item_counts, len(self.user_counts))):
            means.append(float(np.mean((counts + parameters.count_offset * n_other) ** parameters.nu)))
        return math.sqrt(means[0] * means[1])


EXPONENT = Dimension("exponent", 0.0, 1.0, is_log=False)
"""ν."""
# ν last: a coordinate that stays behind those that are searched.
IMPLICIT = (Dimension("ridge", 0.2, 40.0), Dimension("unobserved", 0.3, 300.0), EXPONENT)
"""ridge: mean ridge over the mean weight; unobserved: α0 over density and mean weight. κ stays as it is given, α0 where
it is not: it trades popular items for rare ones, in which one held-out part need not be like the next."""
CONFIDENCE = (Dimension("ridge", 0.2, 400.0), Dimension("alpha", 0.3, 300.0), EXPONENT)
"""With α of Hu-Koren-Volinsky in place of α0."""
EXPLICIT = (Dimension("ridge", 0.3, 60.0), EXPONENT, Dimension("bias", 0.3, 30.0))
"""bias: λ_b."""
WITHOUT_BIASES = EXPLICIT[:2]


@dataclass(frozen=True)
class Space:
    """What is searched, around which settings."""

    start: AlsParameters
    scales: Scales
    base_rank: int = 64
    max_rank: int = 1024
    max_epochs: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.base_rank <= self.max_rank:
            raise ConfigError(f"a search needs 1 ≤ base rank ≤ max rank, got {self.base_rank} and {self.max_rank}")
        if self.start.objective == "frobenius":
            raise ConfigError("the objective frobenius has no λ that decides: search its rank by hand")

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        if self.start.objective == "explicit":
            return EXPLICIT if self.start.biases else WITHOUT_BIASES
        return IMPLICIT if self.start.alpha is None else CONFIDENCE

    def parameters(self, point: Sequence[float], rank: int, epochs: int) -> AlsParameters:
        """Return the settings at a point of the unit cube.

        They begin with small factors and do without over-relaxation: it spares epochs, and costs quality at ranks where
        rows stay far from solved.
        """
        told = {one.name: one.at(place) for one, place in zip(self.dimensions, point, strict=True)}
        scales, made = self.scales, replace(self.start, rank=rank, epochs=epochs, init_scale=INIT_SCALE, relaxation=1.0)
        if "unobserved" in told:
            made = replace(made, alpha0=told["unobserved"] * scales.density * scales.mean_weight)
        if "alpha" in told:
            made = replace(made, alpha=told["alpha"])
        if "exponent" in told:
            made = replace(made, nu=told["exponent"])
        if "bias" in told:
            made = replace(made, bias_regularization=told["bias"])
        weight = scales.mean_weight if made.objective == "implicit" else 1.0
        if made.alpha is not None:
            weight *= made.alpha
        return replace(made, regularization=told["ridge"] * weight / scales.mean_ridge(made))

    @property
    def n_free(self) -> int:
        """Coordinates that are searched from the first trial on, the others behind them: under the implicit objective
        all but ν, which stays where it is given until a trial elsewhere has earned it."""
        return len(self.dimensions) - int(self.start.objective == "implicit")

    def weighed(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return trials as they compete: with their values less what their ν has to bring first."""
        if self.start.objective != "implicit":
            return list(trials)
        place = self.dimensions.index(EXPONENT)
        given = EXPONENT.place(self.start.nu)
        return [
            replace(one, value=one.value * (1 - COST_OF_EXPONENT * abs(one.proposal.point[place] - given)))
            for one in trials
        ]

    def point(self, parameters: AlsParameters) -> list[float]:
        """Return the point of settings, moved into the cube where they lie outside."""
        scales = self.scales
        weight = scales.mean_weight if parameters.objective == "implicit" else 1.0
        if parameters.alpha is not None:
            weight *= parameters.alpha
        told = {
            "ridge": parameters.regularization * scales.mean_ridge(parameters) / weight,
            "unobserved": parameters.alpha0 / (scales.density * scales.mean_weight),
            "alpha": parameters.alpha or 1.0,
            "exponent": parameters.nu,
            "bias": parameters.bias_regularization,
        }
        return [one.place(told[one.name]) for one in self.dimensions]


@dataclass(frozen=True)
class Proposal:
    """One trial to run."""

    number: int
    """From 1."""
    stage: Stage
    point: tuple[float, ...]
    rank: int
    epochs: int
    """At most."""
    start: int | None
    """Number of the trial from whose factors it starts; None: cold."""


@dataclass(frozen=True)
class Trial:
    """One trial that was run."""

    proposal: Proposal
    value: float
    """The held-out metric of the best epoch, greater is better; NaN where the trial failed."""
    best_epoch: int = 0
    """From the trial's own start."""

    @property
    def failed(self) -> bool:
        return not math.isfinite(self.value)


def next_trial(space: Space, budget: int, seed: int, trials: Sequence[Trial]) -> Proposal | None:
    """Return the trial that comes after those that are done, None at the end.

    Raises
    ------
    ConfigError : a budget below 1, or trials that another search made.
    """
    if budget < 1:
        raise ConfigError(f"a search needs a budget of at least one trial, got {budget}")
    if [trial.proposal.number for trial in trials] != list(range(1, len(trials) + 1)):
        raise ConfigError("the trials are not those of one search, in order")
    trials = space.weighed(trials)
    number = len(trials) + 1
    if number > budget:
        return None
    n_design, n_halving, n_refine = (max(1, round(share * budget)) for share in SHARES.values())
    if number <= n_design:
        given = space.point(space.start)
        spread = spread_points(n_design, space.n_free, seed).tolist()
        points = [given, *([*one, *given[space.n_free :]] for one in spread)]
        epochs = min(DESIGN_EPOCHS, space.max_epochs)
        return Proposal(number, "design", tuple(points[number - 1]), space.base_rank, epochs, None)
    good = [trial for trial in trials if not trial.failed]
    if not good:
        return None
    best = best_trial(trials)
    if number == budget and best.proposal.start is not None:
        return Proposal(number, "finish", best.proposal.point, best.proposal.rank, space.max_epochs, None)
    if number <= n_design + n_halving:
        design = sorted((one for one in good if one.proposal.stage == "design"), key=_by_value)
        place = number - n_design - 1
        if place < len(design):
            chosen = design[place].proposal
            return replace(chosen, number=number, stage="halving", epochs=space.max_epochs, start=chosen.number)
    if number <= n_design + n_halving + n_refine:
        moves_all = number > n_design + n_halving + round(n_refine * (1 - EXPONENT_SHARE))
        return _promising(space, seed, trials, "refine", space.base_rank, moves_all)
    return _rank_or_finish(space, seed, trials)


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the best trial at the least rank that is as good as any but for LEAST_GAIN, the first of equal ones.

    Raises
    ------
    ConfigError : every trial failed.
    """
    good = [trial for trial in trials if not trial.failed]
    if not good:
        raise ConfigError("every trial failed: look at their reasons in the table `trials`")
    rank = enough_rank(good)
    return min((trial for trial in good if trial.proposal.rank == rank), key=_by_value)


def best_cold(trials: Sequence[Trial]) -> Trial:
    """Return the best of the trials that started from draws: what training with their settings reaches again.

    Raises
    ------
    ConfigError : every trial failed.
    """
    return best_trial([trial for trial in trials if trial.proposal.start is None])


def rank_curve(trials: Sequence[Trial]) -> dict[int, float]:
    """Return the best value at each rank that was tried, ranks ascending."""
    curve: dict[int, float] = {}
    for trial in trials:
        if not trial.failed:
            rank = trial.proposal.rank
            curve[rank] = max(curve.get(rank, -math.inf), trial.value)
    return dict(sorted(curve.items()))


def enough_rank(trials: Sequence[Trial]) -> int:
    """Return the least rank whose best value is within LEAST_GAIN of the best of all: more rank costs time and room."""
    curve = rank_curve(trials)
    best = max(curve.values())
    return min(rank for rank, value in curve.items() if value >= best - LEAST_GAIN * abs(best))


def _by_value(trial: Trial) -> tuple[float, int]:
    return -trial.value, trial.proposal.number


def _rank_or_finish(space: Space, seed: int, trials: Sequence[Trial]) -> Proposal:
    curve = rank_curve(trials)
    tried = [trial.proposal.rank for trial in trials if trial.proposal.stage == "ranks"]
    rank = max(tried, default=space.base_rank)
    if rank > space.base_rank and tried.count(rank) < TRIALS_OF_A_RANK and rank in curve:
        return _promising(space, seed, trials, "ranks", rank)
    before = [value for one, value in curve.items() if one < rank]
    gains = rank in curve and (not before or curve[rank] > max(before) * (1 + math.copysign(LEAST_GAIN, max(before))))
    if gains and 2 * rank <= space.max_rank:
        best = min((one for one in trials if one.proposal.rank == rank and not one.failed), key=_by_value)
        return Proposal(len(trials) + 1, "ranks", best.proposal.point, 2 * rank, space.max_epochs, best.proposal.number)
    return _promising(space, seed, trials, "finish", enough_rank(trials))


def _promising(
    space: Space, seed: int, trials: Sequence[Trial], stage: Stage, rank: int, moves_all: bool = False
) -> Proposal:
    number = len(trials) + 1
    span = max(math.log2(space.max_rank / space.base_rank), 1.0)
    # Trials of few epochs tell where it is good, if not how good: what went on from them counts in their place.
    went_on = {trial.proposal.start for trial in trials if trial.proposal.stage == "halving"}
    told = [trial for trial in trials if trial.proposal.number not in went_on]
    points = np.array(
        [[*one.proposal.point, 0.5 * math.log2(one.proposal.rank / space.base_rank) / span] for one in told]
    )
    values = np.array([trial.value for trial in told])
    known = np.isfinite(values)
    # A failed trial says that its own point is no good, and little of those around: it is as good as the middle one.
    values = np.where(known, values, np.median(values[known]))
    around = np.array(best_trial(told).proposal.point)
    given = space.point(space.start)
    # What has moved once has earned it, and is free from there on.
    n_free = len(around) if moves_all or around[space.n_free :].tolist() != given[space.n_free :] else space.n_free
    fixed = np.array([*around[n_free:], 0.5 * math.log2(rank / space.base_rank) / span])
    point = most_promising(points, values, n_free, fixed, seed + number, around[:n_free], REACH[stage])
    point = np.concatenate([point, around[n_free:]])
    same = [
        one
        for one in trials
        if one.proposal.rank == rank and np.abs(np.subtract(one.proposal.point, point)).max() < NEAREST
    ]
    if same:
        point[:n_free] += 2 * NEAREST * np.random.default_rng(seed + number).standard_normal(n_free)
        point = np.clip(point, 0, 1)
    return Proposal(number, stage, tuple(point.tolist()), rank, space.max_epochs, None)
