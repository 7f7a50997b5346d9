"""The training loop: losses against dense loops, laws of the objective, planted answers, when it stops."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from factorlake.errors import ConfigError, NumericalError
from factorlake.models.als import train
from factorlake.models.half_step import BlockSums, HalfStepTask
from factorlake.models.local_plan import LocalPlan
from factorlake.models.objective import objective_value
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.trained import Snapshot, TraceRow, TrainedModel
from factorlake.types import Solver
from tests.models.problems import (
    EXPLICIT,
    HU_KOREN,
    MODERN,
    NO_BIASES,
    SPARK,
    Problem,
    problem_of,
    random_ids,
    small_problem,
)
from tests.reference.als import dense_objective, dense_user_half_step

CASES = [
    pytest.param(MODERN, "one", id="modern iALS"),
    pytest.param(MODERN, "signed", id="modern iALS, weights and dislikes"),
    pytest.param(SPARK, "signed", id="Spark"),
    pytest.param(HU_KOREN, "stars", id="Hu-Koren-Volinsky"),
    pytest.param(EXPLICIT, "stars", id="explicit with biases"),
    pytest.param(NO_BIASES, "stars", id="explicit without biases"),
]


SOLVERS = ["cg", "subspace", "exact", "nonnegative"]


def solved_by(parameters: AlsParameters, solver: Any) -> AlsParameters:
    """Parameters with rows solved by a solver, of those that the settings name or the one of non-negative factors."""
    return replace(parameters, nonnegative=True) if solver == "nonnegative" else replace(parameters, solver=solver)


def fit(
    problem: Problem,
    parameters: AlsParameters,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    **options: Any,
) -> TrainedModel[ArrayRows]:
    with LocalPlan(problem.user_blocks, problem.item_blocks, parameters) as plan:
        held = None if start is None else (plan.hold("user", start[0]), plan.hold("item", start[1]))
        return train(plan, parameters, start=held, **options)


def dense_loss(problem: Problem, model: TrainedModel[ArrayRows], parameters: AlsParameters) -> float:
    return dense_objective(
        problem.ratings(),
        model.user_factors,
        model.item_factors,
        parameters,
        model.user_biases,
        model.item_biases,
        model.mean,
    )


@pytest.mark.parametrize(("parameters", "rating"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_final_loss_is_the_objective_written_out_over_every_cell(
    parameters: AlsParameters, rating: str, solver: str
) -> None:
    problem = small_problem(rating)
    chosen = solved_by(parameters, solver)
    model = fit(problem, chosen)
    # The trace sums the float64 solution, the oracle its float32 rounding: 1e-7 of each term.
    assert model.loss == pytest.approx(dense_loss(problem, model, chosen), rel=1e-6)
    given = objective_value(
        problem.user_blocks,
        problem.item_blocks,
        model.user_factors,
        model.item_factors,
        chosen,
        model.user_biases,
        model.item_biases,
        model.mean,
    )
    assert given == pytest.approx(dense_loss(problem, model, chosen), rel=1e-11)


@pytest.mark.parametrize(("parameters", "rating"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_every_loss_in_the_trace_is_that_of_the_state_it_names(
    parameters: AlsParameters, rating: str, solver: str
) -> None:
    problem = small_problem(rating)
    chosen = replace(solved_by(parameters, solver), double_precision=True)
    states: list[float] = []

    def look(_: int, now: Snapshot[ArrayRows]) -> float:
        states.append(
            dense_objective(
                problem.ratings(),
                now.user_factors,
                now.item_factors,
                chosen,
                now.user_biases,
                now.item_biases,
                now.mean,
            )
        )
        return float(len(states))

    trace = fit(problem, chosen, validate=look).trace
    if solver in ("cg", "subspace"):
        # The user row of an epoch tells the state before it: the end of the epoch before.
        told = [row.loss for row in trace if row.side == "user" and row.state == "before"][1:]
        states = states[:-1]
    else:
        told = [row.loss for row in trace if row.side == "item"]
        if chosen.has_biases:
            # μ is renewed after the item row: it can only lower the loss further.
            assert all(state <= row * (1 + 1e-12) for state, row in zip(states, told, strict=True))
            return
    # Float64 both; thousands of terms.
    np.testing.assert_allclose(told, states, rtol=1e-9)


@pytest.mark.parametrize(("parameters", "rating"), CASES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_half_step_raises_the_loss(parameters: AlsParameters, rating: str, solver: str) -> None:
    chosen = replace(solved_by(parameters, solver), epochs=12, double_precision=True)
    losses = np.array([row.loss for row in fit(small_problem(rating), chosen).trace[:-1]])
    # The objective falls exactly; float64 sums may show it rise by their rounding.
    assert np.all(np.diff(losses) <= 1e-9 * losses[:-1])


@pytest.mark.parametrize(("parameters", "rating"), CASES)
@pytest.mark.parametrize("relaxation", [1.5, 1.99])
def test_over_relaxation_gives_back_its_square_of_what_a_half_step_lowered(
    parameters: AlsParameters, rating: str, relaxation: float
) -> None:
    problem = small_problem(rating)
    chosen = replace(parameters, solver="cg", epochs=3, double_precision=True, tolerance=None)
    plain, relaxed = (fit(problem, replace(chosen, relaxation=omega)).trace for omega in (1.0, relaxation))
    losses = [{(row.epoch, row.side): row.loss for row in trace if row.state == "before"} for trace in (plain, relaxed)]
    # It begins with the users of the third epoch, so that all is equal until then.
    assert all(losses[0][key] == losses[1][key] for key in losses[0] if key != (3, "item"))
    before, solved, moved = losses[0][3, "user"], losses[0][3, "item"], losses[1][3, "item"]
    # f(x₀ + ω (x − x₀)) = f(x) + (ω − 1)² (f(x₀) − f(x)): conjugate gradients stop at the lowest point of the line.
    assert solved < before
    assert moved == pytest.approx(solved + (relaxation - 1) ** 2 * (before - solved), rel=1e-12)


@pytest.mark.parametrize(("parameters", "rating"), CASES[:4])
def test_over_relaxation_takes_fewer_epochs(parameters: AlsParameters, rating: str) -> None:
    problem = small_problem(rating)
    chosen = replace(parameters, solver="cg", epochs=12, tolerance=None)
    plain, relaxed = (fit(problem, replace(chosen, relaxation=omega)) for omega in (1.0, 1.5))
    assert relaxed.loss < plain.loss
    # It is as low some epochs earlier.
    assert min(row.epoch for row in relaxed.trace if row.loss <= plain.trace[-2].loss) <= 10


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_no_factor_is_negative_where_none_may_be(parameters: AlsParameters, rating: str) -> None:
    problem = small_problem(rating)
    chosen = replace(parameters, nonnegative=True, epochs=6)
    model = fit(problem, chosen)
    for factors in (model.user_factors, model.item_factors):
        assert factors.min() == 0 < factors.max()
    if chosen.has_biases:
        assert model.user_biases is not None
        assert model.user_biases.min() < 0
    # Every user is at the lowest point in reach: no factor of his can be moved, up or down to 0, and the loss fall.
    lowest, user = dense_loss(problem, model, chosen), int(np.argmax((model.user_factors == 0).any(axis=1)))
    for column, move in product(range(chosen.rank), (-0.01, 0.01)):
        moved = model.users.array.copy()
        moved[user, column] = max(moved[user, column] + move, 0)
        # float32 factors know the loss, which is flat there, to 1e-10 of itself.
        elsewhere = replace(model, users=replace(model.users, array=moved))
        assert dense_loss(problem, elsewhere, chosen) >= lowest - 1e-9 * lowest


def test_planted_parts_are_found_again_without_negative_factors() -> None:
    # Three groups of users with their own items, and what they like weighed: one non-negative factor each.
    rng = np.random.default_rng(11)
    liking, part = rng.uniform(1, 4, 60), rng.uniform(0.5, 1.5, 45)
    pairs = [(u, i) for u in range(60) for i in range(45)]
    values = np.array([liking[u] * part[i] if u % 3 == i % 3 else 0.0 for u, i in pairs], np.float32)
    problem = problem_of([f"u{u}" for u, _ in pairs], [f"i{i}" for _, i in pairs], values)
    chosen = replace(NO_BIASES, nonnegative=True, rank=3, regularization=1e-7, epochs=200, tolerance=None)
    model = fit(problem, chosen)
    error = [model.user_factors[u] @ model.item_factors[i] - r for (u, i), r in problem.ratings().items()]
    # The ridge takes 1e-7 of values near 2; float32 factors know 1e-7 of them as well.
    assert np.sqrt(np.mean(np.square(error))) < 1e-4
    # Each user belongs to one part and to no other.
    shares = model.user_factors / model.user_factors.sum(axis=1, keepdims=True)
    assert np.sort(shares, axis=1)[:, -1].min() > 0.999


def test_factors_to_start_from_count_by_their_magnitude_where_none_may_be_negative() -> None:
    problem = small_problem("one")
    chosen = replace(MODERN, nonnegative=True, epochs=1)
    rng = np.random.default_rng(3)
    start = (rng.standard_normal((problem.n_users, MODERN.rank)), rng.standard_normal((problem.n_items, MODERN.rank)))
    signed, unsigned = (fit(problem, chosen, start=one) for one in (start, (np.abs(start[0]), np.abs(start[1]))))
    assert np.array_equal(signed.user_factors, unsigned.user_factors)
    assert np.array_equal(signed.item_factors, unsigned.item_factors)


def test_a_solver_that_makes_negative_factors_is_refused() -> None:
    with pytest.raises(ConfigError, match="leave it at 'auto'"):
        AlsParameters(nonnegative=True, solver="exact")


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_no_exact_half_step_in_float32_raises_the_loss_by_more_than_1e_6(
    parameters: AlsParameters, rating: str
) -> None:
    chosen = replace(parameters, solver="exact", epochs=12)
    losses = np.array([row.loss for row in fit(small_problem(rating), chosen).trace[:-1]])
    # Factors are rounded to float32 after each half step, near a minimum in them: the loss feels it squared.
    assert np.all(np.diff(losses) <= 1e-6 * losses[:-1])


@pytest.mark.parametrize(("parameters", "rating"), CASES[:4])
def test_cg_ends_near_the_exact_solver(parameters: AlsParameters, rating: str) -> None:
    problem = problem_of(*random_ids(120, 60, 1500, seed=2, rating=rating))
    exact = fit(problem, replace(parameters, solver="exact", epochs=12)).loss
    # Two warm-started steps track the exact solve; on pure noise, as here, the slowest.
    assert fit(problem, replace(parameters, solver="auto", epochs=12)).loss <= exact * 1.02


@pytest.mark.parametrize(("parameters", "rating"), CASES[:4])
def test_the_first_exact_half_step_equals_dense_normal_equations(parameters: AlsParameters, rating: str) -> None:
    problem = small_problem(rating)
    rng = np.random.default_rng(5)
    y = rng.standard_normal((problem.n_items, 5))
    seen: list[Snapshot[ArrayRows]] = []

    def look(_: int, now: Snapshot[ArrayRows]) -> float:
        seen.append(now)
        return 1.0

    chosen = replace(parameters, solver="exact", epochs=1, double_precision=True)
    start = (np.zeros((problem.n_users, 5)), y)
    trace = fit(problem, chosen, start=start, validate=look).trace
    x = dense_user_half_step(problem.ratings(), problem.n_users, y, chosen)
    assert trace[0].loss == pytest.approx(dense_objective(problem.ratings(), x, y, chosen), rel=1e-10)
    # XXᵀ does not depend on the basis that training chose.
    found = seen[0].user_factors
    np.testing.assert_allclose(found @ found.T, x @ x.T, atol=1e-10 * np.abs(x @ x.T).max())


@pytest.mark.parametrize(("parameters", "rating"), CASES)
def test_users_of_the_finished_model_solve_their_own_systems(parameters: AlsParameters, rating: str) -> None:
    problem = small_problem(rating)
    model = fit(problem, parameters)
    if parameters.objective == "implicit":
        x = dense_user_half_step(problem.ratings(), problem.n_users, model.item_factors, parameters)
        # Float64 solutions rounded once to float32.
        np.testing.assert_allclose(model.user_factors, x, rtol=1e-6, atol=1e-7 * np.abs(x).max())
    else:
        # No user's row can be moved without raising the loss.
        for u, a in ((0, 0), (3, 4), (problem.n_users - 1, 2)):
            for step in (1e-2, -1e-2):
                moved = model.user_factors.copy()
                moved[u, a] += step
                rows = np.concatenate([moved, model.users.array[:, model.rank :]], axis=1)
                held = replace(model, users=replace(model.users, array=rows))
                assert dense_loss(problem, held, parameters) > model.loss


@pytest.mark.parametrize("parameters", [MODERN, EXPLICIT])
def test_the_canonical_form_has_diagonal_weighted_gram_and_fixed_signs(parameters: AlsParameters) -> None:
    problem = problem_of(*random_ids(60, 30, 600, seed=3, rating="stars"))
    model = fit(problem, replace(parameters, solver="exact", epochs=300))
    n = np.bincount(problem.users)
    weights = (n + parameters.count_offset * problem.n_items) ** parameters.nu
    gram = model.user_factors.T.astype(np.float64) @ (model.user_factors * weights[:, None])
    diagonal = np.diagonal(gram)
    # The last half step moves X a little after the rotation; near the optimum by next to nothing.
    assert np.abs(gram - np.diag(diagonal)).max() < 1e-2 * diagonal.max()
    assert np.all(np.diff(diagonal) < 0)
    largest = model.item_factors[np.abs(model.item_factors).argmax(axis=0), np.arange(5)]
    assert np.all(largest > 0)


def test_an_exactly_low_rank_matrix_comes_back() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((25, 3))
    cells = rng.random((40, 25)) < 0.6
    u, i = np.nonzero(cells)
    values = np.einsum("na,na->n", x[u], y[i]).astype(np.float32)
    problem = problem_of([f"u{n}" for n in u], [f"i{n}" for n in i], values)
    parameters = AlsParameters(
        objective="explicit",
        rank=3,
        biases=False,
        regularization=1e-7,
        nu=0.0,
        epochs=150,
        init_scale=1.0,
        tolerance=None,
    )
    model = fit(problem, parameters)
    fitted = np.einsum("na,na->n", model.user_factors[problem.users], model.item_factors[problem.items])
    # ALS converges linearly; after 150 epochs the ridge of 1e-7 is what is left, and float32 rounding.
    np.testing.assert_allclose(fitted, values, atol=1e-3)


def test_pure_biases_come_back_with_their_mean() -> None:
    u, i = np.nonzero(np.ones((20, 15)))
    b_u, b_i = np.linspace(-1, 1, 20), np.linspace(-0.5, 0.5, 15)
    values = (3.0 + b_u[u] + b_i[i]).astype(np.float32)
    problem = problem_of([f"u{n}" for n in u], [f"i{n}" for n in i], values)
    parameters = AlsParameters(
        objective="explicit", rank=1, regularization=10.0, bias_regularization=1e-6, epochs=60, tolerance=None
    )
    model = fit(problem, parameters)
    assert model.user_biases is not None and model.item_biases is not None
    # A ridge of 10 per rating leaves nothing to the factors; λ_b = 1e-6 shrinks biases by 1e-7.
    fitted = model.mean + model.user_biases[problem.users] + model.item_biases[problem.items]
    np.testing.assert_allclose(fitted, values, atol=1e-4)
    assert np.mean(model.user_biases) == pytest.approx(0.0, abs=1e-4)
    assert model.mean == pytest.approx(3.0, abs=1e-4)


def test_a_checkerboard_is_recommended_along_its_colour() -> None:
    cells = [(u, i) for u in range(12) for i in range(12) if (u + i) % 2 == 0 and i != u]
    problem = problem_of([f"u{u}" for u, _ in cells], [f"i{i}" for _, i in cells], None)
    model = fit(problem, AlsParameters(rank=2, alpha0=0.1, regularization=0.01, epochs=20, solver="exact"))
    scores = model.user_factors @ model.item_factors.T
    names_u = {name: place for place, name in zip(problem.users, [f"u{u}" for u, _ in cells], strict=True)}
    names_i = {name: place for place, name in zip(problem.items, [f"i{i}" for _, i in cells], strict=True)}
    for u in range(12):
        row = scores[names_u[f"u{u}"]]
        same = [row[names_i[f"i{i}"]] for i in range(12) if (u + i) % 2 == 0]
        other = [row[names_i[f"i{i}"]] for i in range(12) if (u + i) % 2 == 1]
        # The left-out cell of the own colour too is above every cell of the other colour.
        assert min(same) > max(other) + 0.5


def test_training_stops_when_the_objective_stands_still_and_keeps_the_last_epoch() -> None:
    chosen = replace(EXPLICIT, epochs=500, tolerance=1e-3)
    model = fit(small_problem("stars"), chosen)
    losses = [row.loss for row in model.trace if row.side == "item"]
    assert model.stopped == "objective"
    assert model.epochs == len(losses) < 500
    assert (losses[-2] - losses[-1]) / losses[-2] <= 1e-3
    assert (losses[-3] - losses[-2]) / losses[-3] > 1e-3


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_the_best_epoch_of_a_held_out_metric_is_kept(larger_is_better: bool) -> None:
    scores = {1: 1.0, 2: 3.0, 3: 5.0, 4: 4.0, 5: 4.5, 6: 9.0}
    sign = 1.0 if larger_is_better else -1.0
    chosen = replace(MODERN, epochs=6, tolerance=0.0, patience=2)
    problem = small_problem("one")
    model = fit(problem, chosen, validate=lambda epoch, _: sign * scores[epoch], larger_is_better=larger_is_better)
    assert (model.epochs, model.stopped) == (3, "metric")
    assert [row.metric for row in model.trace if row.side == "item"] == [sign * scores[n] for n in range(1, 6)]
    assert np.array_equal(model.user_factors, fit(problem, replace(chosen, epochs=3, tolerance=None)).user_factors)


def test_a_held_out_metric_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(NumericalError, match="epoch 1"):
        fit(small_problem("one"), MODERN, validate=lambda *_: float("nan"))


def test_auto_takes_a_third_step_only_after_an_epoch_that_fell_fast() -> None:
    problem = small_problem("one")
    chosen = replace(MODERN, solver="auto", epochs=25)
    steps: list[int] = []

    class Spy(LocalPlan):
        def half_step(
            self, task: HalfStepTask, fixed: ArrayRows, own: ArrayRows | None
        ) -> tuple[ArrayRows, list[BlockSums]]:
            if task.solver == "cg" and task.side == "item":
                steps.append(task.steps)
            return super().half_step(task, fixed, own)

    with Spy(problem.user_blocks, problem.item_blocks, chosen) as plan:
        model = train(plan, chosen)
    losses = [model.trace[0].loss] + [row.loss for row in model.trace if row.side == "item"]
    falls = [(a - b) / a for a, b in pairwise(losses)]
    assert steps == [2] + [3 if fall > 0.01 else 2 for fall in falls[:-1]]
    assert {2, 3} == set(steps[1:])


def test_each_trace_row_is_told_as_it_is_made() -> None:
    told: list[TraceRow] = []
    model = fit(small_problem("one"), MODERN, on_half_step=told.append)
    assert tuple(told) == model.trace
    assert [(row.epoch, row.side) for row in told[:3]] == [(1, "user"), (1, "item"), (2, "user")]
    assert told[-1].state == "final"
    # One thread solves blocks, and does more beside.
    assert all(0 < row.kernel_seconds < row.seconds for row in told)


def test_factors_that_are_not_finite_stop_training_with_a_named_row() -> None:
    problem = small_problem("stars")
    start = (np.zeros((problem.n_users, 5)), np.ones((problem.n_items, 5)))
    start[1][7, 2] = np.inf
    with pytest.raises(NumericalError, match="row 7"):
        fit(problem, MODERN, start=start)


def test_ratings_too_large_for_float32_products_are_refused_not_published() -> None:
    users, items, _ = random_ids(20, 10, 60, seed=1)
    problem = problem_of(users, items, np.array([3e38, -3e38] * 30, np.float32))
    with pytest.raises(NumericalError):
        fit(problem, replace(EXPLICIT, solver="cg"))


def alternate(problem: Problem, y: np.ndarray, parameters: AlsParameters, epochs: int) -> list[np.ndarray]:
    """Alternate dense half steps from given item factors; return X, Y, X, Y, ..."""
    ratings = problem.ratings()
    turned = {(i, u): r for (u, i), r in ratings.items()}
    steps = []
    for _ in range(epochs):
        x = dense_user_half_step(ratings, problem.n_users, y, parameters)
        y = dense_user_half_step(turned, problem.n_items, x, parameters)
        steps += [x, y]
    return steps


@pytest.mark.parametrize(("parameters", "rating"), CASES[:4])
def test_the_exact_solver_walks_the_path_of_dense_als(parameters: AlsParameters, rating: str) -> None:
    problem = small_problem(rating)
    y = np.random.default_rng(9).standard_normal((problem.n_items, 5))
    chosen = replace(parameters, solver="exact", epochs=3, double_precision=True)
    trace = fit(problem, chosen, start=(np.zeros((problem.n_users, 5)), y)).trace
    path = [y, *alternate(problem, y, chosen, 3)]
    wanted = []
    for step in range(1, len(path)):
        x_now, y_now = (path[step], path[step - 1]) if step % 2 else (path[step - 1], path[step])
        wanted.append(dense_objective(problem.ratings(), x_now, y_now, chosen))
    # Float64 on both sides, over six chained solves of well conditioned systems.
    np.testing.assert_allclose([row.loss for row in trace[:-1]], wanted, rtol=1e-9)


@pytest.mark.parametrize("solver", ["cg", "subspace", "exact"])
@pytest.mark.parametrize(("parameters", "rating"), CASES[:4])
def test_started_from_the_factors_of_another_als_the_objective_never_rises(
    parameters: AlsParameters, rating: str, solver: Solver
) -> None:
    problem = small_problem(rating)
    y = np.random.default_rng(10).standard_normal((problem.n_items, 5))
    x, y = alternate(problem, y, parameters, 2)[-2:]
    given = dense_objective(problem.ratings(), x, y, parameters)
    losses = [row.loss for row in fit(problem, replace(parameters, solver=solver), start=(x, y)).trace]
    # The factors enter as float32: the loss is known to about 1e-7 of itself, a little more after sums of it.
    assert losses[0] <= given * (1 + 1e-6)
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(losses))
