"""Singular values of XYᵀ from Gram matrices, the effective rank, and quantiles of norms."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.models.plan import ArrayRows
from factorlake.models.spectrum import NORM_LEVELS, Spectrum, effective_rank, singular_values, spectrum

Matrix = NDArray[np.float64]
# Eigenvalues of a Gram matrix are known to 1e-16 of the largest; its condition here is below 1e3.
ROUNDED = 1e-12
# What is zero in truth is known to the root of rounding, relative to the largest.
LOST = 1e-7


def random_factors(seed: int, n_users: int = 60, n_items: int = 45, rank: int = 7) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_users, rank)) * np.arange(1, rank + 1), rng.normal(size=(n_items, rank))


def of_grams(x: Matrix, y: Matrix) -> Matrix:
    return singular_values(x.T @ x, y.T @ y)


def rows(array: NDArray[np.floating], *cuts: int) -> ArrayRows:
    return ArrayRows(array, np.array([0, *cuts, len(array)]))


@pytest.mark.parametrize("seed", range(5))
def test_they_are_the_singular_values_of_the_whole_matrix(seed: int) -> None:
    x, y = random_factors(seed)
    wanted = np.linalg.svd(x @ y.T, compute_uv=False)[:7]
    assert of_grams(x, y) == pytest.approx(wanted, rel=ROUNDED)


def test_a_turn_or_any_change_of_basis_that_keeps_the_products_changes_nothing() -> None:
    x, y = random_factors(1)
    rng = np.random.default_rng(2)
    turn, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    assert of_grams(x @ turn, y @ turn) == pytest.approx(of_grams(x, y), rel=ROUNDED)
    change = np.eye(7) + 0.1 * rng.normal(size=(7, 7))
    assert of_grams(x @ change, y @ np.linalg.inv(change).T) == pytest.approx(of_grams(x, y), rel=ROUNDED)


def test_factors_without_full_rank_have_no_more_singular_values_than_their_rank() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 6))
    y = random_factors(4, rank=6)[1]
    found = of_grams(x, y)
    assert found[:3] == pytest.approx(np.linalg.svd(x @ y.T, compute_uv=False)[:3], rel=ROUNDED)
    assert (found[3:] <= LOST * found[0]).all()


def test_sides_that_do_not_meet_have_the_product_zero() -> None:
    x, y = np.zeros((4, 2)), np.zeros((3, 2))
    x[:, 0], y[:, 1] = 1.0, 1.0
    assert not of_grams(x, y).any()


def test_rank_one_has_the_product_of_the_lengths() -> None:
    x, y = np.array([[3.0], [4.0]]), np.array([[5.0], [12.0]])
    found = spectrum(rows(x), rows(y), 1)
    assert found.singular_values == pytest.approx((65.0,), rel=ROUNDED)
    assert found.effective_rank == pytest.approx(1.0, rel=ROUNDED)


def test_zero_factors_have_zeros_and_no_rank() -> None:
    found = spectrum(rows(np.zeros((4, 3))), rows(np.ones((5, 3))), 3)
    assert found.singular_values == (0.0, 0.0, 0.0)
    assert found.effective_rank == 0
    assert found.user_norms == (0.0,) * 5
    assert found.item_norms == pytest.approx((3**0.5,) * 5, rel=ROUNDED)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([2.0, 2.0, 2.0], 3.0),
        ([5.0, 0.0], 1.0),
        ([0.0, 0.0], 0.0),
        # Two thirds and one third: (3/2)^(2/3) · 3^(1/3).
        ([2.0, 1.0], 1.5 ** (2 / 3) * 3 ** (1 / 3)),
    ],
)
def test_effective_rank_by_hand(values: list[float], wanted: float) -> None:
    assert effective_rank(np.array(values)) == pytest.approx(wanted, rel=ROUNDED)


def test_blocks_are_summed_and_biases_are_left_out() -> None:
    x, y = random_factors(6)
    with_bias = [np.concatenate([side, np.full((len(side), 1), 99.0)], axis=1).astype(np.float32) for side in (x, y)]
    narrow = [side[:, :7].astype(np.float64) for side in with_bias]
    found = spectrum(rows(with_bias[0], 10, 10, 37), rows(with_bias[1], 44), 7)
    wanted = np.linalg.svd(narrow[0] @ narrow[1].T, compute_uv=False)[:7]
    assert found.singular_values == pytest.approx(wanted, rel=ROUNDED)
    for norms, side in ((found.user_norms, narrow[0]), (found.item_norms, narrow[1])):
        assert norms == pytest.approx(np.quantile(np.linalg.norm(side, axis=1), NORM_LEVELS), rel=ROUNDED)


def test_what_is_written_as_json_is_read_as_it_was() -> None:
    x, y = random_factors(7)
    found = spectrum(rows(x), rows(y), 7)
    assert Spectrum.from_json(found.to_json()) == found


def test_a_factor_that_is_not_finite_is_named() -> None:
    x, y = random_factors(8)
    x[41, 2] = np.nan
    with pytest.raises(NumericalError, match="row 41"):
        spectrum(rows(x, 20), rows(y), 7)
