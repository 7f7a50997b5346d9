"""Stochastic gradients over one cell against loops, against the objective's own slope, and by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from factorlake.errors import ConfigError
from factorlake.kernels.sgd import (
    CORRECTIONS,
    AdamStep,
    CellRatings,
    GradientRows,
    adam_cell,
    adam_corrections,
    bias_column,
    cell_errors,
    draw_key,
    drawn_order,
    first_rows,
    row_width,
    sgd_cell,
    side_columns,
)
from factorlake.types import SIDES, Side
from tests.reference.sgd import Adam, Model, Moments, sgd

MEAN, LAMBDA, BIAS_LAMBDA, RATE = 3.1, 0.07, 0.11, 0.02
# The same products in float64, summed in another order.
DOUBLE = 1e-12
# float32 holds a number to 6e-8 of itself; three passes over some hundred ratings of each row add up.
SINGLE = 2e-5
UNBOUNDED = (-np.inf, np.inf)


@dataclass
class Case:
    """A cell, its rows as kernels have them, and the same model on paper."""

    users: GradientRows
    items: GradientRows
    ratings: CellRatings
    order: NDArray[np.int32]
    model: Model
    rank: int
    biased: bool
    dtype: str

    @property
    def columns(self) -> tuple:
        return tuple(side_columns(side, self.rank, self.biased, LAMBDA, BIAS_LAMBDA, self.dtype) for side in SIDES)

    def in_order(self) -> list[tuple[int, int, float]]:
        rows, columns, values = self.ratings
        return [(int(rows[n]), int(columns[n]), float(values[n])) for n in self.order]

    def assert_equal(self, tolerance: float) -> None:
        paper = (
            (self.users, self.model.user_factors, self.model.user_biases),
            (self.items, self.model.item_factors, self.model.item_biases),
        )
        others: tuple[Side, Side] = ("item", "user")
        for side, other, (rows, factors, biases) in zip(SIDES, others, paper, strict=True):
            np.testing.assert_allclose(rows.parameters[:, : self.rank], factors, rtol=tolerance, atol=tolerance)
            if self.biased:
                found = rows.parameters[:, bias_column(side, self.rank)]
                np.testing.assert_allclose(found, biases, rtol=tolerance, atol=tolerance)
                assert np.all(rows.parameters[:, bias_column(other, self.rank)] == 1)
            assert not rows.parameters[:, self.rank + 2 * int(self.biased) :].any()


def case(rank: int, biased: bool, dtype: str, n_obs: int = 90, shape: tuple[int, int] = (7, 9), seed: int = 1) -> Case:
    rng = np.random.default_rng(seed)
    hashes = [rng.integers(-(2**62), 2**62, n) for n in shape]
    rows = [
        first_rows(side, own, rank, biased, seed=3, deviation=0.4, moments=True, dtype=dtype)
        for side, own in zip(SIDES, hashes, strict=True)
    ]
    biases = [np.zeros(n) for n in shape]
    if biased:
        for side, own, one in zip(SIDES, rows, biases, strict=True):
            one[:] = rng.standard_normal(len(one)).astype(dtype)
            own.parameters[:, bias_column(side, rank)] = one
    ratings = CellRatings(
        np.sort(rng.integers(0, shape[0], n_obs)).astype(np.int32),
        rng.integers(0, shape[1], n_obs).astype(np.int32),
        rng.uniform(1, 5, n_obs).astype(np.float32),
    )
    factors = [own.parameters[:, :rank].astype(np.float64) for own in rows]
    model = Model(factors[0], factors[1], biases[0], biases[1], MEAN, biased, LAMBDA, BIAS_LAMBDA)
    return Case(rows[0], rows[1], ratings, drawn_order(n_obs, draw_key(seed)), model, rank, biased, dtype)


RANKS = [1, 5, 8, 14, 15, 16, 33]


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", DOUBLE), ("float32", SINGLE)])
def test_steps_are_those_of_the_loop(rank: int, biased: bool, dtype: str, tolerance: float) -> None:
    one = case(rank, biased, dtype)
    for _ in range(3):
        sgd_cell(one.users, one.items, one.ratings, one.order, MEAN, RATE, *one.columns)
        sgd(one.model, one.in_order(), RATE)
    one.assert_equal(tolerance)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("batch_size", [1, 7, 90, 1000])
def test_adam_is_that_of_the_loop(rank: int, biased: bool, batch_size: int) -> None:
    one = case(rank, biased, "float64")
    adam = Adam(RATE, 0.9, 0.999, 1e-7, batch_size)
    for _ in range(3):
        step = AdamStep(RATE, batch_size, 0.9, 0.999, 1e-7)
        adam_cell(one.users, one.items, one.ratings, one.order, MEAN, step, *one.columns)
        adam.run(one.model, one.in_order())
    # The bias corrections of the first steps take differences of numbers near 1: 1 − 0.999 is known to 1e-13.
    one.assert_equal(1e-10)
    assert one.users.steps.tolist() == [
        adam.moments[("user", n)].steps if ("user", n) in adam.moments else 0 for n in range(len(one.users.steps))
    ]


def test_adam_in_single_precision_stays_beside_the_loop() -> None:
    one = case(8, True, "float32")
    adam = Adam(RATE, 0.9, 0.999, 1e-7, 16)
    for _ in range(3):
        step = AdamStep(RATE, 16, 0.9, 0.999, 1e-7)
        adam_cell(one.users, one.items, one.ratings, one.order, MEAN, step, *one.columns)
        adam.run(one.model, one.in_order())
    # A step has the length α whatever the gradient, so where a gradient all but vanishes rounding turns the step: by
    # up to α at worst, far less here.
    one.assert_equal(1e-3)


def test_adam_corrects_a_row_of_more_steps_than_are_looked_up() -> None:
    one = case(4, True, "float64", n_obs=1, shape=(1, 1))
    beta2 = 0.99999
    adam = Adam(1e-4, 0.9, beta2, 1e-7, 1)
    one.users.steps[:] = one.items.steps[:] = CORRECTIONS - 2
    for side, rows in ("user", one.users), ("item", one.items):
        rows.second_moments[:] = 0.3
        width = one.rank + 1
        adam.moments[(side, 0)] = memory = Moments(np.zeros(width), np.full(width, 0.3))
        memory.steps = CORRECTIONS - 2
    for _ in range(4):
        step = AdamStep(1e-4, 1, 0.9, beta2, 1e-7)
        adam_cell(one.users, one.items, one.ratings, one.order, MEAN, step, *one.columns)
        adam.run(one.model, one.in_order())
    one.assert_equal(1e-10)


@pytest.mark.parametrize("biased", [True, False])
def test_one_small_step_follows_the_slope_of_the_objective(biased: bool) -> None:
    one = case(3, biased, "float64", n_obs=1, shape=(1, 1))
    before, rating = one.model.copy(), one.in_order()
    rate, nudge = 1e-3, 1e-6
    sgd_cell(one.users, one.items, one.ratings, one.order, MEAN, rate, *one.columns)

    def slope(change: str, place: tuple[int, ...]) -> float:
        told = []
        for sign in (1, -1):
            moved = before.copy()
            getattr(moved, change)[place] += sign * nudge
            told.append(moved.objective(rating))
        return (told[0] - told[1]) / (2 * nudge)

    # Central differences of a polynomial of degree 4, with numbers near 10 known to 1e-15 of themselves.
    accuracy = 1e-6
    for a in range(3):
        moved_user = (before.user_factors[0, a] - one.users.parameters[0, a]) / rate
        moved_item = (before.item_factors[0, a] - one.items.parameters[0, a]) / rate
        assert moved_user == pytest.approx(slope("user_factors", (0, a)), rel=accuracy, abs=accuracy)
        assert moved_item == pytest.approx(slope("item_factors", (0, a)), rel=accuracy, abs=accuracy)
    if biased:
        moved_user = (before.user_biases[0] - one.users.parameters[0, 3]) / rate
        moved_item = (before.item_biases[0] - one.items.parameters[0, 4]) / rate
        assert moved_user == pytest.approx(slope("user_biases", (0,)), rel=accuracy, abs=accuracy)
        assert moved_item == pytest.approx(slope("item_biases", (0,)), rel=accuracy, abs=accuracy)


def by_hand() -> tuple[GradientRows, GradientRows, CellRatings]:
    users, items = (
        first_rows(side, np.zeros(1, np.int64), 2, True, seed=1, deviation=1.0, moments=True, dtype="float64")
        for side in SIDES
    )
    # u = (1, 2), b_u = ½; v = (3, −1), b_i = −½.
    users.parameters[0, :3] = 1, 2, 0.5
    items.parameters[0, [0, 1, 3]] = 3, -1, -0.5
    return users, items, CellRatings(np.zeros(1, np.int32), np.zeros(1, np.int32), np.array([4], np.float32))


def test_one_step_by_hand() -> None:
    users, items, ratings = by_hand()
    columns = [side_columns(side, 2, True, 0.2, 0.4, "float64") for side in SIDES]
    # e = 4 − 1 − ½ + ½ − (3 − 2) = 2; α = 0.1.
    sgd_cell(users, items, ratings, np.zeros(1, np.int32), 1.0, 0.1, *columns)
    # u + 0.1 (4 v − 0.2 u), b_u + 0.1 (4 − 0.4·½); v + 0.1 (4 u − 0.2 v) with u as it was, b_i + 0.1 (4 + 0.4·½).
    expected_user = [1 + 0.1 * (12 - 0.2), 2 + 0.1 * (-4 - 0.4), 0.5 + 0.1 * (4 - 0.2), 1]
    expected_item = [3 + 0.1 * (4 - 0.6), -1 + 0.1 * (8 + 0.2), 1, -0.5 + 0.1 * (4 + 0.2)]
    np.testing.assert_allclose(users.parameters[0, :4], expected_user, rtol=DOUBLE)
    np.testing.assert_allclose(items.parameters[0, :4], expected_item, rtol=DOUBLE)


def test_the_first_step_of_adam_has_the_length_of_the_learning_rate() -> None:
    users, items, ratings = by_hand()
    columns = [side_columns(side, 2, True, 0.2, 0.4, "float64") for side in SIDES]
    adam_cell(users, items, ratings, np.zeros(1, np.int32), 1.0, AdamStep(0.01, 1, 0.9, 0.999, 1e-12), *columns)
    # m/(1 − β₁) = g and v/(1 − β₂) = g², whatever g: each number moves by α, against its gradient's sign.
    np.testing.assert_allclose(users.parameters[0, :3], [1.01, 1.99, 0.51], rtol=1e-9)
    np.testing.assert_allclose(items.parameters[0, [0, 1, 3]], [3.01, -0.99, -0.49], rtol=1e-9)


def test_adam_moves_only_rows_that_occur() -> None:
    one = case(6, True, "float32", n_obs=3)
    before = one.users.parameters.copy()
    adam_cell(one.users, one.items, one.ratings, one.order, MEAN, AdamStep(RATE, 2, 0.9, 0.999, 1e-7), *one.columns)
    occurs = np.isin(np.arange(len(before)), one.ratings.rows)
    assert np.array_equal(one.users.parameters[~occurs], before[~occurs])
    assert np.all(np.any(one.users.parameters[occurs] != before[occurs], axis=1))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("biased", [True, False])
def test_errors_and_ridge_are_those_of_the_objective(biased: bool, dtype: str) -> None:
    one = case(11, biased, dtype)
    found = cell_errors(one.users.parameters, one.items.parameters, one.ratings, MEAN, UNBOUNDED, *one.columns)
    errors = np.array([one.model.error(*rating) for rating in one.in_order()])
    # Products of float32 rows are taken in float64; only λ is rounded.
    accuracy = DOUBLE if dtype == "float64" else 1e-6
    np.testing.assert_allclose(found[0], np.sum(errors**2), rtol=accuracy)
    np.testing.assert_allclose(found[1:3], [np.sum(errors**2), np.sum(np.abs(errors))], rtol=accuracy)
    np.testing.assert_allclose(found[0] + found[3], one.model.objective(one.in_order()), rtol=accuracy)


def test_errors_are_of_predictions_held_within_bounds() -> None:
    one = case(5, True, "float64")
    found = cell_errors(one.users.parameters, one.items.parameters, one.ratings, MEAN, (2.0, 3.5), *one.columns)
    ratings = one.in_order()
    predicted = np.array([rating - one.model.error(user, item, rating) for user, item, rating in ratings])
    assert np.any(predicted < 2)
    assert np.any(predicted > 3.5)
    errors = np.array([rating for _, _, rating in ratings]) - np.clip(predicted, 2, 3.5)
    np.testing.assert_allclose(found[1:3], [np.sum(errors**2), np.sum(np.abs(errors))], rtol=DOUBLE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_number_shows_in_the_errors(bad: float) -> None:
    one = case(5, True, "float32")
    one.users.parameters[one.ratings.rows[0], 0] = bad
    found = cell_errors(one.users.parameters, one.items.parameters, one.ratings, MEAN, (1.0, 5.0), *one.columns)
    assert not np.isfinite(found[0])


def test_no_ratings_move_nothing_and_have_no_error() -> None:
    one = case(5, True, "float32", n_obs=0)
    before = one.users.parameters.copy()
    sgd_cell(one.users, one.items, one.ratings, one.order, MEAN, RATE, *one.columns)
    adam_cell(one.users, one.items, one.ratings, one.order, MEAN, AdamStep(RATE, 8, 0.9, 0.999, 1e-7), *one.columns)
    assert np.array_equal(one.users.parameters, before)
    assert not cell_errors(one.users.parameters, one.items.parameters, one.ratings, MEAN, UNBOUNDED, *one.columns).any()


@pytest.mark.parametrize(("rank", "biased", "dtype", "width"), [
    (14, True, "float32", 16), (15, True, "float32", 32), (16, False, "float32", 16), (1, False, "float64", 8),
])  # fmt: skip
def test_rows_are_whole_vectors(rank: int, biased: bool, dtype: str, width: int) -> None:
    assert row_width(rank, biased, dtype) == width


def test_first_factors_are_normal_and_follow_from_the_id_alone() -> None:
    hashes = np.random.default_rng(2).integers(-(2**63), 2**63 - 1, 4000)

    def rows(side: Side, of: NDArray[np.int64]) -> NDArray[np.floating]:
        return first_rows(side, of, 5, True, seed=5, deviation=0.25, moments=False, dtype="float64").parameters

    users, items = rows("user", hashes), rows("item", hashes)
    entries = users[:, :5].ravel() / 0.25
    # Kolmogorov's distance of 20,000 draws from their own distribution is below 0.0138 with probability 0.999.
    assert stats.kstest(entries, "norm").statistic < 0.0138
    # The same id on the other side starts elsewhere: 20,000 independent pairs correlate by less than 4/√20,000.
    assert abs(np.corrcoef(entries, items[:, :5].ravel())[0, 1]) < 0.028
    turned = rows("user", hashes[::-1].copy())
    assert np.array_equal(turned[::-1], users)
    assert np.all(users[:, 6] == 1)
    assert not users[:, [5, 7]].any()


def test_an_order_has_each_place_once_and_all_orders_are_as_likely() -> None:
    found = np.array([drawn_order(4, draw_key(9, n)) for n in range(24_000)])
    assert np.all(np.sort(found, axis=1) == np.arange(4))
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 24
    # χ² with 23 degrees of freedom is below 49.7 with probability 0.999.
    assert np.sum((counts - 1000) ** 2) / 1000 < 49.7


def test_keys_differ_by_every_number_and_by_their_order() -> None:
    assert len({draw_key(*numbers) for numbers in ((), (1,), (1, 2), (2, 1), (1, 3), (-1,), (2**64 - 2,))}) == 7
    assert draw_key(-1) == draw_key(2**64 - 1)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (np.nan, 0.9)])
def test_betas_out_of_range_are_refused(betas: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="must lie in"):
        adam_corrections(*betas)


PROGRAM = """
import hashlib
from tests.kernels.test_sgd import MEAN, RATE, AdamStep, adam_cell, case, sgd_cell
one = case(5, True, "float32")
for _ in range(5):
    adam_cell(one.users, one.items, one.ratings, one.order, MEAN, AdamStep(RATE, 8, 0.9, 0.999, 1e-7), *one.columns)
    sgd_cell(one.users, one.items, one.ratings, one.order, MEAN, RATE, *one.columns)
print(hashlib.sha256(b"".join(part.tobytes() for part in (*one.users, *one.items))).hexdigest())
"""


def test_code_compiled_just_now_gives_the_bits_of_code_compiled_before(tmp_path: Path) -> None:
    # Workers load what another process has compiled. Where the compiler may fuse products as it likes, a function that
    # another calls has two copies that differ, and one process runs the one, the other the other.
    root = Path(__file__).parents[2]
    surroundings = os.environ | {
        "NUMBA_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "lib")]),
    }
    digests = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env=surroundings, capture_output=True, text=True, check=True, cwd=root
        ).stdout
        for _ in range(2)
    ]
    assert digests[0] == digests[1]
