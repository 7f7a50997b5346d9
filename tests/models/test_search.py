"""The search finds planted optima within its budget, goes on after any cut as if there had been none, and ends."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.integrate import quad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from factorlake.errors import ConfigError
from factorlake.models.parameters import AlsParameters
from factorlake.models.search import (
    DESIGN_EPOCHS,
    Proposal,
    Scales,
    Space,
    Trial,
    best_cold,
    best_trial,
    next_trial,
    rank_curve,
)
from factorlake.models.surrogate import Surrogate, most_promising, spread_points

SCALES = Scales(np.full(300, 20), np.full(200, 30), 1.0)
BUDGET = 40


def space_of(base_rank: int = 16, max_rank: int = 256, **start: Any) -> Space:
    return Space(AlsParameters(**start), SCALES, base_rank, max_rank, max_epochs=16)


@dataclass(frozen=True)
class Surface:
    """A planted answer: a hill over the cube, its top moving with the rank, times what each rank can reach."""

    top: tuple[float, ...]
    drift: float = 0.0
    """How far the first coordinate of the top moves with each doubling of the rank."""
    reach: Callable[[int], float] = lambda rank: 1 - 0.5 * (16 / rank) ** 0.5
    noise: float = 0.0
    steepness: float = 3.0

    def value(self, point: tuple[float, ...], rank: int) -> float:
        """What settings reach without noise when they are trained to the end."""
        top = np.array(self.top)
        top[0] = np.clip(top[0] + self.drift * math.log2(rank / 16), 0, 1)
        return 0.3 * self.reach(rank) * math.exp(-self.steepness * float(np.sum((np.array(point) - top) ** 2)))

    def run(self, proposal: Proposal, seed: int = 0) -> Trial:
        """Short trials come short of what they would reach, and all have noise of their own."""
        full = self.value(proposal.point, proposal.rank)
        short = 0.9 if proposal.epochs <= DESIGN_EPOCHS and proposal.start is None else 1.0
        noise = np.random.default_rng([seed, proposal.number]).standard_normal()
        return Trial(proposal, full * short * (1 + self.noise * noise), best_epoch=min(5, proposal.epochs))


def searched(space: Space, run: Callable[[Proposal], Trial], budget: int = BUDGET, seed: int = 7) -> list[Trial]:
    trials: list[Trial] = []
    while (proposal := next_trial(space, budget, seed, trials)) is not None:
        trials.append(run(proposal))
        assert len(trials) <= budget
    return trials


@pytest.mark.parametrize(
    ("top", "objective"),
    [
        ((0.5, 0.5, 0.5), "explicit"), ((0.15, 0.8, 0.3), "explicit"), ((0.9, 0.1, 0.95), "explicit"),
        ((0.5, 0.5, 1.0), "implicit"), ((0.15, 0.8, 1.0), "implicit"), ((0.9, 0.1, 1.0), "implicit"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_planted_optimum_is_found_within_two_per_cent(top: tuple[float, ...], objective: str, seed: int) -> None:
    # Noise of half a per cent: what metrics of some thousand users have from one seed to the next.
    surface = Surface(top, drift=0.03, noise=0.005)
    space = space_of(objective=objective)
    best = best_cold(searched(space, lambda one: surface.run(one, seed), seed=seed)).proposal
    highest = surface.value((min(top[0] + 4 * 0.03, 1.0), *top[1:]), 256)
    assert best.rank == 256
    assert surface.value(best.point, best.rank) > 0.98 * highest


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_exponent_that_matters_is_found(seed: int) -> None:
    surface = Surface((0.5, 0.5, 0.5), noise=0.005)
    trials = searched(space_of(), lambda one: surface.run(one, seed), seed=seed)
    stays = [one for one in trials if one.proposal.stage in ("design", "halving")]
    assert {one.proposal.point[2] for one in stays} == {1.0}
    best = best_cold(space_of().weighed(trials)).proposal
    # At ν = 1 no point has more than 47 % of the top.
    assert surface.value(best.point, best.rank) > 0.93 * surface.value((0.5, 0.5, 0.5), best.rank)


def test_trials_of_few_epochs_are_no_more_than_a_third_of_the_budget() -> None:
    trials = searched(space_of(), Surface((0.4, 0.6, 0.5)).run)
    assert len(trials) == BUDGET
    short = [trial for trial in trials if trial.proposal.stage == "design"]
    assert {trial.proposal.epochs for trial in short} == {DESIGN_EPOCHS}
    assert len(short) <= BUDGET / 3
    assert all(trial.proposal.epochs == 16 for trial in trials if trial not in short)


def test_a_rank_that_does_not_gain_ends_the_climb() -> None:
    def peaks_at_64(rank: int) -> float:
        return {16: 0.8, 32: 0.95, 64: 1.0}.get(rank, 0.9)

    trials = searched(space_of(), Surface((0.4, 0.6, 0.5), reach=peaks_at_64).run)
    assert {trial.proposal.rank for trial in trials} == {16, 32, 64, 128}
    assert best_cold(trials).proposal.rank == 64
    assert {trial.proposal.rank for trial in trials if trial.proposal.stage == "finish"} == {64}
    curve = rank_curve(trials)
    assert list(curve) == [16, 32, 64, 128]
    assert max(curve, key=lambda rank: curve[rank]) == 64


def test_a_higher_rank_starts_from_the_best_of_the_rank_below() -> None:
    trials = searched(space_of(), Surface((0.4, 0.6, 0.5), noise=0.01).run)
    first_of_rank: dict[int, Trial] = {}
    for trial in trials:
        first_of_rank.setdefault(trial.proposal.rank, trial)
    for rank, trial in first_of_rank.items():
        if rank == 16:
            continue
        assert trial.proposal.start is not None
        before = [one for one in trials[: trial.proposal.number - 1] if one.proposal.rank == rank // 2]
        assert trial.proposal.start == best_trial(before).proposal.number
        assert trial.proposal.point == best_trial(before).proposal.point


def test_what_a_search_proposes_last_for_is_a_cold_start_of_the_best() -> None:
    # Whatever starts from a lower rank is better here than any cold start.
    def run(proposal: Proposal) -> Trial:
        told = Surface((0.4, 0.6, 0.5)).run(proposal)
        return Trial(proposal, told.value + (0.5 if proposal.start else 0.0), told.best_epoch)

    trials = searched(space_of(), run)
    best = best_trial(trials).proposal
    assert best.start is not None
    last = trials[-1].proposal
    assert (last.stage, last.start, last.point, last.rank) == ("finish", None, best.point, best.rank)
    assert best_cold(trials).proposal.start is None


@pytest.mark.parametrize("cut", [0, 1, 5, 12, 13, 16, 22, 30, 39])
def test_a_search_goes_on_after_a_cut_as_if_there_had_been_none(cut: int) -> None:
    surface, space = Surface((0.3, 0.7, 0.2), noise=0.01), space_of()
    whole = searched(space, surface.run)
    # What is kept between two runs went through a table and came back.
    kept = []
    for trial in whole[:cut]:
        p = trial.proposal
        point, value = json.loads(json.dumps([list(p.point), trial.value]))
        kept.append(
            Trial(Proposal(p.number, p.stage, tuple(point), p.rank, p.epochs, p.start), value, trial.best_epoch)
        )
    while (proposal := next_trial(space, BUDGET, 7, kept)) is not None:
        kept.append(surface.run(proposal))
    assert kept == whole


def test_another_seed_is_another_search_and_the_same_seed_the_same() -> None:
    surface, space = Surface((0.3, 0.7, 0.2)), space_of()
    assert searched(space, surface.run) == searched(space, surface.run)
    assert searched(space, surface.run, seed=8) != searched(space, surface.run)


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 7, 13])
def test_a_small_budget_is_spent_and_not_passed(budget: int) -> None:
    trials = searched(space_of(), Surface((0.5, 0.5, 0.5)).run, budget)
    assert len(trials) == budget
    assert trials[0].proposal.point == pytest.approx(space_of().point(space_of().start))
    assert best_cold(trials).proposal.start is None


def test_failed_trials_cost_budget_and_nothing_else() -> None:
    surface, reached = Surface((0.4, 0.6, 1.0)), []
    for draw in range(5):

        def run(proposal: Proposal, draw: int = draw) -> Trial:
            broken = np.random.default_rng([draw, proposal.number]).random() < 0.25
            return Trial(proposal, math.nan) if broken else surface.run(proposal)

        trials = searched(space_of(), run)
        assert len(trials) == BUDGET
        assert any(trial.failed for trial in trials)
        starts = {trial.proposal.start for trial in trials} - {None}
        assert not any(trials[number - 1].failed for number in starts if number is not None)
        best = best_cold(trials).proposal
        reached.append(surface.value(best.point, best.rank) / surface.value((0.4, 0.6, 1.0), best.rank))
    # Which trials fail is luck, and a quarter of the budget: on average as near as other tests ask of one search.
    assert np.mean(reached) > 0.95


def test_ranks_that_cannot_be_run_are_left_alone_after_one_try() -> None:
    surface = Surface((0.4, 0.6, 0.5))
    trials = searched(space_of(), lambda one: Trial(one, math.nan) if one.rank >= 64 else surface.run(one))
    assert [trial.proposal.rank for trial in trials if trial.failed] == [64]
    assert best_cold(trials).proposal.rank == 32
    assert list(rank_curve(trials)) == [16, 32]


def test_a_search_in_which_everything_fails_ends_after_the_design() -> None:
    trials = searched(space_of(), lambda one: Trial(one, math.nan))
    assert {trial.proposal.stage for trial in trials} == {"design"}
    assert len(trials) == round(0.3 * BUDGET)
    with pytest.raises(ConfigError, match="every trial failed"):
        best_cold(trials)


def test_infinite_values_count_as_failed() -> None:
    proposal = Proposal(1, "design", (0.5, 0.5, 0.5), 16, 3, None)
    assert Trial(proposal, math.inf).failed
    assert Trial(proposal, math.nan).failed
    assert not Trial(proposal, -0.9).failed


def test_errors_are_searched_as_negative_values() -> None:
    surface = Surface((0.3, 0.6, 0.5), reach=lambda rank: 1.0)

    def run(proposal: Proposal) -> Trial:
        return Trial(proposal, surface.run(proposal).value - 1.2, 4)

    trials = searched(space_of(objective="explicit"), run)
    best = best_cold(trials)
    assert best.value > -0.91
    # No rank gains: one doubling is tried.
    assert {trial.proposal.rank for trial in trials} == {16, 32}


def test_a_constant_surface_is_no_fault() -> None:
    trials = searched(space_of(max_rank=16), lambda one: Trial(one, 0.25, 2))
    assert len(trials) == BUDGET
    points = np.array([trial.proposal.point for trial in trials if trial.proposal.start is None])
    assert len(np.unique(points, axis=0)) == len(points)


@pytest.mark.parametrize(
    "start",
    [
        {"objective": "implicit"},
        {"objective": "implicit", "alpha": 20.0, "alpha0": 1.0, "regularization": 0.02},
        {"objective": "explicit", "regularization": 0.05, "nu": 0.5},
        {"objective": "explicit", "biases": False},
    ],
)
def test_a_point_is_where_its_settings_lie(start: dict[str, Any]) -> None:
    space = space_of(**start)
    for point in spread_points(20, len(space.dimensions), seed=3).tolist():
        made = space.parameters(point, 32, 9)
        assert (made.rank, made.epochs, made.objective) == (32, 9, start["objective"])
        np.testing.assert_allclose(space.point(made), point, atol=1e-12)


def test_units_of_the_space_do_not_depend_on_the_size_of_the_data() -> None:
    """Ten times the items for as many observations: all pairs together weigh the same, and so do ridges."""
    point = (0.4, 0.6, 1.0)
    small, large = (Space(AlsParameters(), Scales(np.full(300, 20), np.full(n, 6000 // n), 1.0)) for n in (200, 2000))
    made = [space.parameters(point, 16, 4) for space in (small, large)]
    assert made[0].alpha0 * 300 * 200 == pytest.approx(made[1].alpha0 * 300 * 2000)
    for parameters, n_items in zip(made, (200, 2000), strict=True):
        users = 20 + parameters.count_offset * n_items
        items = 6000 / n_items + parameters.count_offset * 300
        mean = math.sqrt(users * items) * parameters.regularization
        assert mean == pytest.approx(0.2 * (40 / 0.2) ** 0.4)


def test_settings_outside_the_space_start_at_its_edge() -> None:
    space = space_of(regularization=1e9)
    assert space.point(space.start)[0] == 1.0


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda: next_trial(space_of(), 0, 7, []), "at least one trial"),
        (lambda: next_trial(space_of(), 5, 7, [Trial(Proposal(2, "design", (0.5,) * 3, 16, 3, None), 1.0)]), "order"),
        (lambda: space_of(base_rank=32, max_rank=16), "base rank"),
        (lambda: space_of(objective="frobenius", nonnegative=True), "frobenius"),
    ],
)
def test_what_cannot_be_searched_is_refused(wrong: Callable[[], object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        wrong()


def data(n: int, d: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    points = rng.random((n, d))
    return points, np.sin(3 * points[:, 0]) - points[:, 1] ** 2 + 0.01 * rng.standard_normal(n)


@pytest.mark.parametrize(("n", "d"), [(3, 2), (12, 3), (40, 4)])
def test_a_surrogate_predicts_what_scikit_learn_predicts(n: int, d: int) -> None:
    points, values = data(n, d, seed=n)
    ours = Surrogate.fit(points, values)
    noise = min(
        (1e-4, 1e-2, 1e-1),
        key=lambda one: np.abs(ours.factor[0][0, 0] ** 2 - 1 - one),
    )
    theirs = GaussianProcessRegressor(Matern(ours.length, nu=2.5), alpha=noise, optimizer=None)
    theirs.fit(points, (values - values.mean()) / values.std())
    looked = np.random.default_rng(5).random((30, d))
    means, deviations = ours.predict(looked)
    wanted, spread = theirs.predict(looked, return_std=True)
    np.testing.assert_allclose(means, values.mean() + values.std() * wanted, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(deviations, values.std() * spread, rtol=1e-4, atol=1e-7)
    # The likeliest of the few length scales and noises, as scikit-learn counts it.
    for length in (0.2, 0.35, 0.6, 1.0):
        other = GaussianProcessRegressor(Matern(length, nu=2.5), alpha=noise, optimizer=None)
        other.fit(points, (values - values.mean()) / values.std())
        assert other.log_marginal_likelihood_value_ <= theirs.log_marginal_likelihood_value_ + 1e-9


def test_expected_improvement_is_the_integral_that_defines_it() -> None:
    points, values = data(8, 2, seed=1)
    surrogate = Surrogate.fit(points, values)
    looked = np.random.default_rng(2).random((5, 2))
    best = surrogate.predict(points)[0].max()
    for at, found in zip(looked, surrogate.expected_improvement(looked), strict=True):
        mean, deviation = (float(one[0]) for one in surrogate.predict(at[None, :]))

        def gain(z: float, mean: float = mean, deviation: float = deviation) -> float:
            density = math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
            return float(max(mean + deviation * z - best, 0.0) * density)

        kink = (best - mean) / deviation
        wanted = quad(gain, kink, kink + 40)[0] if kink > -40 else mean - best
        assert found == pytest.approx(wanted, rel=1e-5, abs=1e-12)


def test_the_most_promising_point_of_a_hill_lies_near_its_top() -> None:
    points = spread_points(40, 2, seed=0)
    values = -np.sum((points - np.array([0.3, 0.7])) ** 2, axis=1)
    found = most_promising(points, values, 2, np.zeros(0), 1, np.array([0.5, 0.5]), reach=1.0)
    assert np.abs(found - np.array([0.3, 0.7])).max() < 0.1
    near = most_promising(points, values, 2, np.zeros(0), 1, np.array([0.6, 0.5]), reach=0.1)
    np.testing.assert_allclose(near, [0.5, 0.6], atol=0.03)


def test_spread_points_are_more_even_than_draws() -> None:
    points = spread_points(64, 2, seed=3)
    assert points.min() >= 0
    assert points.max() < 1
    cells = {(int(8 * x), int(8 * y)) for x, y in points}
    drawn = {(int(8 * x), int(8 * y)) for x, y in np.random.default_rng(3).random((64, 2))}
    assert len(cells) > len(drawn)
    np.testing.assert_array_equal(points, spread_points(64, 2, seed=3))


def test_a_surrogate_needs_points() -> None:
    with pytest.raises(ConfigError, match="at least one point"):
        Surrogate.fit(np.zeros((0, 2)), np.zeros(0))


@pytest.mark.parametrize(("gain", "moves"), [(0.009, False), (0.011, True)])
def test_an_exponent_must_earn_its_way_under_the_implicit_objective(gain: float, moves: bool) -> None:
    space = space_of(nu=1.0)
    points = [(0.5, 0.5, 1.0), (0.5, 0.5, 0.5)]
    trials = [
        Trial(Proposal(number, "finish", point, 16, 16, None), value)
        for number, (point, value) in enumerate(zip(points, (0.3, 0.3 * (1 + gain)), strict=True), start=1)
    ]
    assert best_cold(space.weighed(trials)).proposal.number == 1 + moves
    explicit = space_of(objective="explicit", nu=1.0)
    assert explicit.weighed(trials) == trials
