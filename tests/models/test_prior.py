"""Features as a prior of factors: the objective written out, the regression against SVD, laws, planted tastes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.kernels.observations import long_sums
from factorlake.kernels.row_solvers import SEGMENT
from factorlake.models.als import train
from factorlake.models.blocks import order_ids
from factorlake.models.centre import sums_around, targets_around
from factorlake.models.fold_in import fold_in_rows, turned_items
from factorlake.models.half_step import (
    HalfStepTask,
    known_sums,
    prepare_fixed,
    segments_of,
    solve_one_block,
    sum_segment,
)
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.prior import Features, prior_rows
from factorlake.models.systems import user_system
from factorlake.models.trained import Snapshot, TrainedModel
from factorlake.types import RatingBlock
from tests.models.problems import EXPLICIT, HU_KOREN, MODERN, NO_BIASES, Problem, problem_of, random_ids, small_problem
from tests.reference.als import dense_objective, ridge_weight

CASES = [
    pytest.param(MODERN, "one", id="modern iALS"),
    pytest.param(replace(MODERN, item_regularization=0.3), "one", id="modern iALS, a ridge per side"),
    pytest.param(replace(MODERN, relaxation=1.5), "signed", id="weights, dislikes, over-relaxation"),
    pytest.param(HU_KOREN, "stars", id="Hu-Koren-Volinsky"),
    pytest.param(EXPLICIT, "stars", id="explicit with biases"),
    pytest.param(NO_BIASES, "stars", id="explicit without biases"),
]
SOLVERS = ["cg", "subspace", "exact"]


def features_of(problem: Problem, seed: int = 3) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A column of ones and three of random indicators and numbers for each side; of some rows nothing is known."""
    rng = np.random.default_rng(seed)
    made = []
    for n in (problem.n_users, problem.n_items):
        own = np.ones((n, 4), np.float32)
        own[:, 1] = rng.integers(0, 2, n)
        own[:, 2] = rng.integers(0, 2, n)
        own[:, 3] = rng.standard_normal(n)
        own[rng.choice(n, 3, replace=False)] = np.nan
        made.append(own)
    return made[0], made[1]


def fit(
    problem: Problem,
    parameters: AlsParameters,
    features: tuple[NDArray[np.float32] | None, NDArray[np.float32] | None],
    threads: int = 1,
    **options: Any,
) -> TrainedModel[ArrayRows]:
    with LocalPlan(problem.user_blocks, problem.item_blocks, parameters, threads) as plan:
        users, items = features
        held = Features(
            None if users is None else plan.hold("user", users), None if items is None else plan.hold("item", items)
        )
        return train(plan, parameters, features=held, **options)


def weights_of(problem: Problem, parameters: AlsParameters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ratings = problem.ratings()
    users = [ridge_weight(ratings, parameters, 0, u, problem.n_items) for u in range(problem.n_users)]
    items = [ridge_weight(ratings, parameters, 1, i, problem.n_users) for i in range(problem.n_items)]
    return np.array(users), np.array(items)


def regression(
    rows: NDArray[np.floating], features: NDArray[np.float32], shrinkage: float
) -> tuple[NDArray[np.floating], float]:
    """Ridge regression of rows on features as one least-squares problem, by SVD, and what it leaves."""
    known = np.nan_to_num(features.astype(np.float64))
    own = np.sqrt(shrinkage) * np.eye(known.shape[1])
    left = np.concatenate([known, own])
    right = np.concatenate([rows.astype(np.float64), np.zeros((len(own), rows.shape[1]))])
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    return found, float(np.sum((right - left @ found) ** 2))


def dense_loss(problem: Problem, now: Snapshot[ArrayRows], parameters: AlsParameters, *features: Any) -> float:
    """The objective with A at its lowest point for the factors as they are."""
    total = dense_objective(
        problem.ratings(), now.user_factors, now.item_factors, parameters, now.user_biases, now.item_biases, now.mean
    )
    sides = (
        (now.user_factors, now.user_biases, parameters.regularization),
        (now.item_factors, now.item_biases, parameters.ridge_of("item")),
    )
    shrinkage, strength = parameters.feature_regularization, parameters.feature_strength
    for (rows, biases, ridge), own, weights in zip(sides, features, weights_of(problem, parameters), strict=True):
        total += strength * ridge * weights.mean() * regression(rows, own, shrinkage)[1]
        if biases is not None:
            total += strength * parameters.bias_regularization * regression(biases[:, None], own, shrinkage)[1]
    return total


@pytest.mark.parametrize(("parameters", "rating"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_loss_is_the_objective_written_out(parameters: AlsParameters, rating: str, solver: Any) -> None:
    problem = small_problem(rating)
    features = features_of(problem)
    chosen = replace(parameters, solver=solver, double_precision=True)
    states: list[float] = []

    def look(_: int, now: Snapshot[ArrayRows]) -> float:
        states.append(dense_loss(problem, now, chosen, *features))
        return -states[-1]

    trace = fit(problem, chosen, features, validate=look).trace
    if solver == "exact":
        told = [row.loss for row in trace if row.side == "item"]
        if chosen.has_biases:
            # μ is renewed after the item row: it can only lower the loss further.
            assert all(state <= row * (1 + 1e-12) for state, row in zip(states, told, strict=True))
            return
    else:
        told, states = [row.loss for row in trace if row.side == "user" and row.state == "before"][1:], states[:-1]
    # Float64 both; thousands of terms.
    np.testing.assert_allclose(told, states, rtol=1e-9)
    assert np.all(np.diff(told) < 0)


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_the_end_is_the_objective_and_the_regression_of_what_is_published(
    parameters: AlsParameters, rating: str
) -> None:
    problem = small_problem(rating)
    features = features_of(problem)
    model = fit(problem, parameters, features)
    rows, weights = model.item_factors.astype(np.float64), weights_of(problem, parameters)[0]
    assert model.item_feature_weights is not None and model.user_feature_weights is not None
    found, _ = regression(rows, features[1], parameters.feature_regularization)
    # Published in float32.
    np.testing.assert_allclose(model.item_feature_weights[:, : model.rank], found, atol=1e-6)
    if model.item_biases is not None:
        of_biases, _ = regression(model.item_biases[:, None], features[1], parameters.feature_regularization)
        np.testing.assert_allclose(model.item_feature_weights[:, model.rank :], of_biases, atol=1e-6)
    # Users are the solutions for the published items around the published A: the row system written out.
    told = prior_rows(features[0], model.user_feature_weights)
    gram = rows.T @ rows
    for user in range(problem.n_users):
        own = {i: r for (u, i), r in problem.ratings().items() if u == user}
        x = _row(own, user, problem, model, parameters, told[user], gram, weights[user], weights.mean())
        found_row = model.user_factors[user] if model.user_biases is None else model.users.array[user]
        np.testing.assert_allclose(found_row, x, rtol=2e-5, atol=2e-6)
    # A of the users stands as it was before the last half step, whose rows moved on: the objective is a little above
    # the one with A at its lowest point.
    lowest = dense_loss(problem, model, parameters, *features)
    assert lowest * (1 - 1e-6) <= model.loss <= lowest * 1.02


def _row(
    own: dict[int, float],
    user: int,
    problem: Problem,
    model: TrainedModel[ArrayRows],
    parameters: AlsParameters,
    prior: NDArray[np.float64],
    gram: NDArray[np.float64],
    weight: float,
    mean_weight: float,
) -> NDArray[np.floating]:
    """(Σ c f fᵀ + α0 G + R + P) x = Σ c t f + P p, R the ridge and P the strength of the prior, from the textbook."""
    items, r = np.array(list(own)), np.array(list(own.values()))
    left: NDArray[np.floating]
    t: NDArray[np.floating]
    f = model.item_factors[items].astype(np.float64)
    ridge = np.full(model.rank, parameters.regularization * weight)
    pull = np.full(model.rank, parameters.feature_strength * parameters.regularization * mean_weight)
    left = np.zeros((model.rank, model.rank))
    if parameters.objective == "explicit":
        c, t = np.ones(len(r)), r - model.mean
        if model.item_biases is not None:
            t = t - model.item_biases[items]
            f = np.concatenate([f, np.ones((len(f), 1))], axis=1)
            ridge, left = np.append(ridge, parameters.bias_regularization), np.zeros((model.rank + 1,) * 2)
            pull = np.append(pull, parameters.feature_strength * parameters.bias_regularization)
    elif parameters.alpha is None:
        c, t, left = np.abs(r), (r > 0) * 1.0, parameters.alpha0 * gram
    else:
        c, t, left = parameters.alpha * r, 1 + 1 / (parameters.alpha * r), parameters.alpha0 * gram
    left = left + np.diag(ridge + pull) + (f * c[:, None]).T @ f
    return np.linalg.solve(left, f.T @ (c * t) + pull * prior)


@pytest.mark.parametrize(("parameters", "rating"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_prior_of_no_strength_changes_no_bit(parameters: AlsParameters, rating: str, solver: Any) -> None:
    problem = small_problem(rating)
    chosen = replace(parameters, solver=solver, feature_strength=0.0)
    plain, weak = fit(problem, chosen, (None, None)), fit(problem, chosen, features_of(problem))
    assert plain.item_feature_weights is None
    assert weak.item_feature_weights is not None
    assert weak.item_feature_weights.any()
    for one, other in ((plain.users, weak.users), (plain.items, weak.items)):
        assert one.array.tobytes() == other.array.tobytes()
    assert [row.loss for row in plain.trace] == [row.loss for row in weak.trace]


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_threads_and_unknown_rows_change_no_bit(parameters: AlsParameters, rating: str) -> None:
    problem = problem_of(*random_ids(300, 100, 4000, 5, rating))
    features = features_of(problem)
    one, two = (fit(problem, parameters, features, threads) for threads in (1, 3))
    # A row of which nothing is known counts as zeros.
    three = fit(problem, parameters, (np.nan_to_num(features[0]), np.nan_to_num(features[1])))
    for other in (two, three):
        assert one.users.array.tobytes() == other.users.array.tobytes()
        assert one.items.array.tobytes() == other.items.array.tobytes()


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_fold_in_equals_the_trained_row_and_a_silent_row_is_its_prior(parameters: AlsParameters, rating: str) -> None:
    problem = small_problem(rating)
    features = features_of(problem)
    model = fit(problem, parameters, features)
    assert model.user_feature_weights is not None
    assert model.user_prior_strength is not None
    system = user_system(parameters, model.mean, model.item_gram, problem.n_items)
    items = turned_items(system, model.item_factors, model.item_biases)
    prior = prior_rows(features[0], model.user_feature_weights)
    for block in problem.user_blocks:
        # Each row by itself, as a service would ask, with a new user behind it.
        for row in range(block.n_rows):
            part = slice(block.row_ptr[row], block.row_ptr[row + 1])
            ptr = np.array([0, part.stop - part.start, part.stop - part.start])
            values = None if block.values is None else block.values[part]
            at = block.first_row + row
            both = prior[[at, 0]]
            folded = fold_in_rows(ptr, block.neighbours[part], values, system, items, (both, model.user_prior_strength))
            assert folded.factors[0].tobytes() == model.user_factors[at].tobytes()
            # Turned there and back in float64.
            np.testing.assert_allclose(folded.factors[1], prior[0, : model.rank], rtol=1e-6, atol=1e-7)
            if folded.biases is not None and model.user_biases is not None:
                assert folded.biases[0] == model.user_biases[at]


def test_sums_of_long_rows_are_those_of_the_moved_targets() -> None:
    rng = np.random.default_rng(2)
    rank, n = 6, 40
    factors = rng.standard_normal((9, rank))
    neighbours = rng.integers(0, 9, n).astype(np.int32)
    c, t = rng.random(n), rng.standard_normal(n)
    centre = rng.standard_normal((3, rank))
    f = factors[neighbours]
    sums = np.concatenate([np.triu((f * c[:, None]).T @ f), (f.T @ (c * t))[:, None]], axis=1)
    moved = sums_around(long_sums([1], [sums]), centre)
    row_ptr = np.array([0, 0, n, n])
    target = targets_around(t, row_ptr, neighbours, factors, centre)
    # Float64 sums of forty terms.
    np.testing.assert_allclose(target, t - f @ centre[1], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(moved.sums[0, :, -1], f.T @ (c * target), rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(moved.sums[0, :, :-1], sums[:, :-1])


def test_a_row_too_long_for_one_task_is_solved_to_the_same_bits_however_it_was_summed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n_items, rank = 500, 4
    rng = np.random.default_rng(5)
    n = SEGMENT + 1000
    neighbours = np.sort(rng.integers(0, n_items, n)).astype(np.int32)
    parameters = replace(MODERN, rank=rank)
    block = RatingBlock(0, np.array([0, n]), neighbours, None, np.zeros(1, np.int64))
    factors = rng.standard_normal((n_items, rank)).astype(np.float32)
    fixed = prepare_fixed(parameters, 0.0, factors)
    strength = np.full(rank, 700.0)
    task = HalfStepTask("user", parameters, n_items, np.ones(rank), None, "cg", 2, 0.0, prior_strength=strength)
    own = rng.standard_normal((1, 2 * rank)).astype(np.float32)
    segments = segments_of(block.row_ptr)
    assert len(segments) == 2
    parts = [sum_segment(task, block, one, neighbours[one.first : one.last], fixed) for one in segments]
    told, _ = solve_one_block(task, block, fixed, own, known_sums(segments, parts))
    alone, _ = solve_one_block(task, block, fixed, own)
    assert told.tobytes() == alone.tobytes()
    f = factors.astype(np.float64)[neighbours]
    weight = (n + parameters.count_offset * n_items) ** parameters.nu
    ridge = parameters.regularization * weight
    left = f.T @ f + np.diag(1.0 + ridge + strength)
    exact = np.linalg.solve(left, f.sum(axis=0) + strength * own[0, rank:])
    # Sums of 263,144 terms, tile by tile in float32.
    np.testing.assert_allclose(told[0], exact, rtol=1e-4)


def test_an_item_that_nobody_has_met_is_ranked_by_what_its_features_say() -> None:
    """Planted: users and items of three groups, told by their features; each likes its own group."""
    rng = np.random.default_rng(0)
    n_users, n_items, groups = 120, 90, 3
    own, kind = rng.integers(0, groups, n_users), rng.integers(0, groups, n_items)
    likes = rng.random((n_users, n_items)) < np.where(own[:, None] == kind[None, :], 0.5, 0.03)
    met = np.arange(n_items) < 60
    users, items = np.nonzero(likes[:, met])
    problem = problem_of([f"u{u}" for u in users], [f"i{i}" for i in items], None)
    order = [int(one[1:]) for one in order_ids([f"i{i}" for i in items])[0]]
    rows = [int(one[1:]) for one in order_ids([f"u{u}" for u in users])[0]]
    table = np.concatenate([np.ones((n_items, 1)), np.eye(groups)[kind]], axis=1).astype(np.float32)
    parameters = replace(MODERN, rank=8, epochs=8)
    model = fit(problem, parameters, (None, table[order]))
    assert model.item_feature_weights is not None
    assert model.user_feature_weights is None
    new = prior_rows(table[~met], model.item_feature_weights)
    scores = model.user_factors @ new.T
    same = own[rows][:, None] == kind[~met][None, :]
    # A user's score of any item of its own group against any of another's: the share of pairs in the right order.
    right = [(one[s][:, None] > one[~s][None, :]).mean() for one, s in zip(scores, same, strict=True)]
    assert np.mean(right) > 0.95


def test_stronger_shrinkage_pulls_the_regression_to_zero() -> None:
    problem = small_problem("one")
    features = features_of(problem)
    sizes = []
    for shrinkage in (0.0, 1.0, 100.0, 1e9):
        model = fit(problem, replace(MODERN, feature_regularization=shrinkage), features)
        assert model.item_feature_weights is not None
        sizes.append(float(np.linalg.norm(model.item_feature_weights)))
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    # At infinite shrinkage every prior row is zero: another ridge, whatever the features. Four epochs in float32.
    nothing = (np.zeros((problem.n_users, 1), np.float32), np.zeros((problem.n_items, 1), np.float32))
    np.testing.assert_allclose(model.item_factors, fit(problem, MODERN, nothing).item_factors, atol=1e-5)


def test_a_stronger_prior_draws_rows_nearer_to_it() -> None:
    problem = small_problem("one")
    features = features_of(problem)
    left = []
    for strength in (0.1, 1.0, 10.0, 1000.0):
        model = fit(problem, replace(MODERN, feature_strength=strength, epochs=20), features)
        left.append(regression(model.item_factors, features[1], 1.0)[1] / float(np.sum(model.item_factors**2)))
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.05 < 0.2 < left[0]


def test_what_cannot_have_a_prior_is_refused() -> None:
    problem = small_problem("one")
    features = features_of(problem)
    with pytest.raises(ConfigError, match="need factors of either sign"):
        fit(problem, replace(MODERN, nonnegative=True), features)
    features[0][:, 3] = 0
    with pytest.raises(NumericalError, match=r"users follow from each other.*train\.features\.regularization"):
        fit(problem, replace(MODERN, feature_regularization=0.0), features)
    features[1][4, 3] = np.inf
    with pytest.raises(NumericalError, match="a feature of item row"):
        fit(problem, MODERN, features)
    with pytest.raises(ConfigError, match="feature_regularization"):
        replace(MODERN, feature_regularization=-1.0)


def test_a_ridge_per_side_moves_scale_between_the_sides_only() -> None:
    """λ_u |x|² + λ_i |y|² has the same lowest point in x·y as √(λ_u λ_i) on both sides."""
    problem = small_problem("one")
    far = replace(MODERN, epochs=400, solver="exact", double_precision=True, nu=0.0)
    one = fit(problem, replace(far, regularization=0.4, item_regularization=0.1), (None, None))
    same = fit(problem, replace(far, regularization=0.2), (None, None))
    products = [model.user_factors @ model.item_factors.T for model in (one, same)]
    # Both are near their lowest point, to which ALS converges linearly.
    np.testing.assert_allclose(products[0], products[1], atol=2e-4)
    assert np.linalg.norm(one.user_factors) < np.linalg.norm(one.item_factors)
