"""The Frobenius objective: its losses cell by cell, its laws, planted and known answers, scikit-learn's NMF beside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.decomposition import NMF
from sklearn.feature_extraction.text import TfidfVectorizer

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.evaluation.clustering import purity
from factorlake.models.als import train
from factorlake.models.fit import fit_als
from factorlake.models.local_plan import LocalPlan
from factorlake.models.nonnegative_start import nonnegative_start
from factorlake.models.objective import objective_value
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows
from factorlake.models.threads import single_threaded_blas
from factorlake.models.topics import main_topic
from factorlake.models.trained import Snapshot, TrainedModel
from tests.models.problems import FROBENIUS, Problem, problem_of, random_ids, small_problem
from tests.reference.als import dense_objective

PLAIN = replace(FROBENIUS, regularization=0.0, epochs=200, tolerance=1e-6)
"""NMF as scikit-learn states it, trained until it stands."""


def fit(
    problem: Problem,
    parameters: AlsParameters,
    start: tuple[NDArray[Any], NDArray[Any]] | None = None,
    **options: Any,
) -> TrainedModel[ArrayRows]:
    with LocalPlan(problem.user_blocks, problem.item_blocks, parameters, threads=2) as plan:
        held = None if start is None else (plan.hold("user", start[0]), plan.hold("item", start[1]))
        return train(plan, parameters, start=held, **options)


def problem_of_matrix(matrix: NDArray[Any] | csr_array) -> Problem:
    """The cells of a matrix that are not 0; every row and column has one."""
    cells = csr_array(matrix).tocoo()
    users, items = [f"row {n}" for n in cells.coords[0]], [f"column {n}" for n in cells.coords[1]]
    return problem_of(users, items, cells.data.astype(np.float32))


def matrix_of(problem: Problem) -> csr_array:
    """The matrix by position."""
    values = np.ones(len(problem.users)) if problem.values is None else problem.values.astype(np.float64)
    return csr_array((values, (problem.users, problem.items)), shape=(problem.n_users, problem.n_items))


def squared_error(matrix: csr_array, x: NDArray[Any], y: NDArray[Any]) -> float:
    """|R − XYᵀ|² over every cell."""
    return float(np.sum(np.square(matrix.toarray() - x.astype(np.float64) @ y.astype(np.float64).T)))


@pytest.mark.parametrize("rating", ["one", "stars"])
@pytest.mark.parametrize(("regularization", "nu", "kappa"), [(0.0, 1.0, None), (0.05, 1.0, None), (0.3, 0.5, 0.2)])
def test_the_final_loss_is_the_objective_written_out_over_every_cell(
    rating: str, regularization: float, nu: float, kappa: float | None
) -> None:
    problem = small_problem(rating)
    chosen = replace(FROBENIUS, regularization=regularization, nu=nu, kappa=kappa)
    model = fit(problem, chosen)
    wanted = dense_objective(problem.ratings(), model.user_factors, model.item_factors, chosen)
    # The trace sums the float64 solution, the oracle its float32 rounding, near a minimum.
    assert model.loss == pytest.approx(wanted, rel=1e-9)
    given = problem.user_blocks, problem.item_blocks, model.user_factors, model.item_factors, chosen
    assert objective_value(*given) == pytest.approx(wanted, rel=1e-11)
    last = model.trace[-1]
    assert last.loss == pytest.approx(last.observed_loss + last.all_pairs_loss + last.regularization_loss, rel=1e-15)


def test_the_objective_of_factors_of_either_sign_is_told_too() -> None:
    problem = small_problem("stars")
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((problem.n_users, 5)), rng.standard_normal((problem.n_items, 5))
    got = objective_value(problem.user_blocks, problem.item_blocks, x, y, FROBENIUS)
    assert got == pytest.approx(dense_objective(problem.ratings(), x, y, FROBENIUS), rel=1e-11)


@pytest.mark.parametrize("rating", ["one", "stars"])
def test_every_loss_in_the_trace_is_that_of_the_state_it_names_and_none_rises(rating: str) -> None:
    problem = small_problem(rating)
    chosen = replace(FROBENIUS, epochs=12, double_precision=True)
    states: list[float] = []

    def look(_: int, now: Snapshot[ArrayRows]) -> float:
        assert now.user_factors.min() >= 0
        assert now.item_factors.min() >= 0
        states.append(dense_objective(problem.ratings(), now.user_factors, now.item_factors, chosen))
        return float(len(states))

    trace = fit(problem, chosen, validate=look).trace
    # Float64 both; hundreds of terms.
    np.testing.assert_allclose([row.loss for row in trace if row.side == "item"], states, rtol=1e-11)
    assert all(row.state == "after" for row in trace[:-1])
    losses = np.array([row.loss for row in trace[:-1]])
    assert np.all(np.diff(losses) <= 1e-12 * losses[:-1])


@pytest.mark.parametrize("seed", range(4))
def test_no_half_step_in_float32_raises_the_loss_by_more_than_rounding(seed: int) -> None:
    problem = problem_of(*random_ids(200, 90, 3000, seed=seed, rating="stars"))
    losses = np.array([row.loss for row in fit(problem, replace(PLAIN, epochs=40, tolerance=None)).trace])
    # Rows are rounded to float32 near a minimum in them: the loss feels it squared.
    assert np.all(np.diff(losses) <= 1e-9 * losses[:-1])


def test_one_factor_is_the_leading_singular_pair() -> None:
    # The leading singular vectors of a matrix without negative cells are not negative: NMF has the same best answer.
    problem = small_problem("stars")
    matrix = matrix_of(problem)
    left, values, right = np.linalg.svd(matrix.toarray())
    model = fit(problem, replace(PLAIN, rank=1, tolerance=None, epochs=100))
    assert model.loss == pytest.approx(float(np.sum(values[1:] ** 2)), rel=1e-9)
    found = model.user_factors @ model.item_factors.T
    best = values[0] * np.abs(np.outer(left[:, 0], right[0]))
    # The rounding of float32 factors.
    np.testing.assert_allclose(found, best, rtol=1e-5, atol=1e-6 * best.max())


def test_planted_parts_are_found_again() -> None:
    # Each part has rows and columns of its own, which makes the factors the only ones but for their scale.
    rng = np.random.default_rng(4)
    x = rng.exponential(1, (120, 4)) * (rng.random((120, 4)) < 0.4)
    y = rng.exponential(1, (70, 4)) * (rng.random((70, 4)) < 0.4)
    for part in range(4):
        x[5 * part : 5 * part + 5], y[5 * part : 5 * part + 5] = np.eye(4)[part], np.eye(4)[part]
    x, y = x[x.any(axis=1)], y[y.any(axis=1)]
    matrix = x @ y.T
    places_x, places_y = np.flatnonzero(matrix.any(axis=1)), np.flatnonzero(matrix.any(axis=0))
    matrix, x, y = matrix[np.ix_(places_x, places_y)], x[places_x], y[places_y]
    rows, columns = np.nonzero(matrix)
    ids = [f"row {n}" for n in rows], [f"column {n}" for n in columns]
    fitted = fit_als(
        *ids, matrix[rows, columns].astype(np.float32), replace(PLAIN, rank=4, epochs=2000, tolerance=None)
    )
    model = fitted.model
    at = (
        np.array([int(one.split()[1]) for one in fitted.user_ids]),
        np.array([int(one.split()[1]) for one in fitted.item_ids]),
    )
    # Float32 knows cells to 1e-7; HALS converges linearly, and this is where 2,000 epochs end.
    assert model.loss <= 1e-8 * np.sum(matrix**2)
    for found, planted in ((model.user_factors, x[at[0]]), (model.item_factors, y[at[1]])):
        likeness = (found / np.linalg.norm(found, axis=0)).T @ (planted / np.linalg.norm(planted, axis=0))
        assert sorted(likeness.argmax(axis=1).tolist()) == [0, 1, 2, 3]
        assert likeness.max(axis=1).min() > 1 - 1e-5


def test_training_starts_from_parts_of_the_singular_vectors_that_lapack_finds() -> None:
    rng = np.random.default_rng(5)
    # A spectrum that falls steeply, so that few rounds make the leading vectors exact.
    left, right = (np.linalg.qr(np.abs(rng.standard_normal((n, 20))))[0] for n in (80, 50))
    matrix = np.abs(left * 0.4 ** np.arange(20) @ right.T) * 100
    problem = problem_of_matrix(matrix)
    chosen = replace(PLAIN, rank=3)
    with LocalPlan(problem.user_blocks, problem.item_blocks, chosen) as plan, single_threaded_blas():
        users, items = nonnegative_start(plan, chosen)
    u, s, vt = np.linalg.svd(matrix_of(problem).toarray())
    for a in range(3):
        signed = [(np.maximum(sign * u[:, a], 0), np.maximum(sign * vt[a], 0)) for sign in (1, -1)]
        x, y = max(signed, key=lambda pair: np.linalg.norm(pair[0]) * np.linalg.norm(pair[1]))
        length = np.sqrt(s[a] * np.linalg.norm(x) * np.linalg.norm(y))
        mean = np.mean(matrix_of(problem).toarray())
        for part, found in ((x, users.array), (y, items.array)):
            scaled = length * part / np.linalg.norm(part)
            wanted = np.where(scaled > 0, scaled, mean)
            # Entries that are all but zero may fall on either side of it, and differ by the mean.
            clear = np.abs(part) > 1e-4
            np.testing.assert_allclose(found[clear, a], wanted[clear], rtol=0.02)
            assert found[:, a].min() > 0


def test_a_matrix_of_lower_rank_than_asked_for_is_found_whole() -> None:
    problem = problem_of_matrix(np.outer(np.arange(1, 13), np.arange(1, 8)))
    model = fit(problem, replace(PLAIN, rank=4))
    # Float32 factors know cells to 1e-7.
    assert 0 <= squared_error(matrix_of(problem), model.user_factors, model.item_factors) <= 1e-10 * 12**2 * 7**2 * 84
    assert model.user_factors.min() >= 0 <= model.item_factors.min()


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (3, 3)])
def test_small_and_constant_matrices(shape: tuple[int, int]) -> None:
    problem = problem_of_matrix(np.full(shape, 2.0))
    model = fit(problem, replace(PLAIN, rank=2, tolerance=None, epochs=20))
    np.testing.assert_allclose(model.user_factors @ model.item_factors.T, np.full(shape, 2.0), rtol=1e-5)


def test_a_given_start_is_taken_up_and_rows_it_does_not_know_grow() -> None:
    problem = problem_of(*random_ids(120, 60, 1500, seed=2, rating="stars"))
    first = fit(problem, PLAIN)
    known = first.user_factors.copy(), first.item_factors.copy()
    again = fit(problem, replace(PLAIN, epochs=1), start=known)
    assert again.loss <= first.loss * (1 + 1e-6)
    known[0][::3], known[1][::4] = np.nan, np.nan
    grown = fit(problem, PLAIN, start=known)
    assert np.all(grown.user_factors[::3].any(axis=1))
    # From another start it may end in another minimum.
    assert grown.loss == pytest.approx(first.loss, rel=0.02)


def test_cells_of_zero_say_nothing() -> None:
    users, items, values = random_ids(60, 30, 500, seed=3, rating="stars")
    assert values is not None
    more = fit_als([*users, users[0]], [*items, "an item of nobody"], np.append(values, np.float32(0)), FROBENIUS)
    fewer = fit_als(users, items, values, FROBENIUS)
    assert more.item_ids == fewer.item_ids
    assert np.array_equal(more.model.user_factors, fewer.model.user_factors)


def test_it_recommends_what_parts_of_a_matrix_have_in_common() -> None:
    # Two tastes of ten items each; everybody has had all of the own but one.
    cells = [(u, i) for u in range(20) for i in range(20) if u % 2 == i % 2 and i != u]
    fitted = fit_als(
        [f"{u:02}" for u, _ in cells], [f"{i:02}" for _, i in cells], None, replace(PLAIN, rank=2, tolerance=None)
    )
    best, _ = fitted.recommend(1)
    assert [fitted.item_ids[one] for one in best[:, 0]] == fitted.user_ids


def news(data_dir: Path, n_documents: int) -> csr_array:
    table = pd.read_parquet(data_dir / "20newsgroups-bow" / "bow.parquet")
    part = table[table["doc"] < n_documents]
    matrix = csr_array((part["count"].to_numpy(np.float64), (part["doc"], part["token"])))
    return matrix[:, np.flatnonzero(matrix.sum(axis=0))]


def scikit_learns(matrix: csr_array, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    model = NMF(rank)
    rows = model.fit_transform(matrix)
    return rows, model.components_.T


@pytest.mark.parametrize("seed", range(3))
def test_word_counts_end_within_a_hundredth_of_scikit_learn(data_dir: Path, seed: int) -> None:
    matrix = news(data_dir, 2500)
    problem = problem_of_matrix(matrix[np.flatnonzero(matrix.sum(axis=1))])
    own = matrix_of(problem)
    reference = squared_error(own, *scikit_learns(own, 20))
    model = fit(problem, replace(PLAIN, rank=20, tolerance=1e-4, seed=seed))
    assert squared_error(own, model.user_factors, model.item_factors) <= 1.01 * reference
    assert model.stopped == "objective"


def test_topics_of_news_are_their_labels_as_often_as_scikit_learns(data_dir: Path) -> None:
    table = pd.read_parquet(data_dir / "bbc-news" / "corpus.parquet")
    matrix = csr_array(TfidfVectorizer(min_df=5).fit_transform(table["text"]))
    documents, words = matrix.tocoo().coords
    ids = [str(n) for n in documents], [str(n) for n in words]
    fitted = fit_als(*ids, matrix.data.astype(np.float32), replace(PLAIN, tolerance=1e-5))
    at = np.array([int(one) for one in fitted.user_ids])
    columns = np.array([int(one) for one in fitted.item_ids])
    rows, parts = scikit_learns(matrix, 5)
    own = matrix[at][:, columns]
    error = squared_error(own, fitted.model.user_factors, fitted.model.item_factors)
    assert error <= 1.01 * squared_error(matrix, rows, parts)
    labels = table["label"].to_numpy()
    ours = purity(main_topic(fitted.model.user_factors, fitted.model.item_factors), labels[at])
    # As its users take it, the largest number of each row.
    assert ours >= purity(rows.argmax(axis=1), labels)
    # By the same rule: the two stop at different distances from one minimum, a few documents of 2,225 apart.
    assert ours >= purity(main_topic(rows, parts), labels) - 0.002


def test_factors_of_either_sign_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"set nonnegative to true.*--method svd"):
        AlsParameters(objective="frobenius")


def test_negative_counts_are_refused_and_the_way_out_named() -> None:
    users, items, values = random_ids(30, 17, 150, seed=1, rating="signed")
    with pytest.raises(DataRefusedError, match=r"select\.min_value"):
        fit_als(users, items, values, FROBENIUS)
