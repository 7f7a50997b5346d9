"""Gram matrices, eigenbasis, rotation."""

from __future__ import annotations

import numpy as np
import pytest

from factorlake.errors import NumericalError
from factorlake.kernels.gram import block_gram, column_signs, eigenbasis, gram_matrix, rotate_rows


def test_gram_matrix_of_a_hand_worked_case() -> None:
    factors = np.array([[1, 2], [3, 4], [0, -1]], np.float32)
    assert gram_matrix(factors).tolist() == [[10, 14], [14, 21]]


def test_gram_matrix_is_float64_and_zero_for_no_rows() -> None:
    gram = gram_matrix(np.zeros((0, 3), np.float32))
    assert gram.dtype == np.float64
    assert not gram.any()


def test_many_small_rows_do_not_lose_precision() -> None:
    # A float32 sum would stop growing at 2^24 ones.
    assert gram_matrix(np.ones((2**24 + 10, 1), np.float32))[0, 0] == 2**24 + 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    factors = np.ones((8, 3), np.float32)
    factors[5, 1] = bad
    with pytest.raises(NumericalError, match="row 105"):
        block_gram(factors, first_row=100)


def test_weighted_gram_equals_the_plain_one_of_scaled_rows() -> None:
    rng = np.random.default_rng(0)
    factors, weights = rng.standard_normal((20, 4)), rng.random(20)
    scaled = factors * np.sqrt(weights)[:, None]
    # Two float64 sums of 20 products of order 1.
    np.testing.assert_allclose(block_gram(factors, 0, weights), scaled.T @ scaled, rtol=1e-13, atol=1e-14)


def test_eigenbasis_diagonalises_with_eigenvalues_descending_and_signs_fixed() -> None:
    factors = np.random.default_rng(1).standard_normal((50, 7))
    gram = factors.T @ factors
    basis, eigenvalues = eigenbasis(gram)
    # Backward error of eigh: a few rounding units of the largest eigenvalue (about 100).
    np.testing.assert_allclose(basis @ np.diag(eigenvalues) @ basis.T, gram, atol=1e-12 * eigenvalues[0])
    np.testing.assert_allclose(basis.T @ basis, np.eye(7), atol=1e-13)
    assert np.all(np.diff(eigenvalues) <= 0)
    assert np.all(column_signs(basis) == 1)


def test_eigenvalues_of_a_singular_matrix_are_not_negative() -> None:
    row = np.array([[1.0, 1e-9, 3.0]])
    assert np.all(eigenbasis(row.T @ row)[1] >= 0)


def test_eigenbasis_of_a_matrix_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NumericalError, match="not finite"):
        eigenbasis(np.array([[np.nan]]))


def test_rotation_of_one_row_equals_rotation_of_all_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    factors, basis = rng.standard_normal((101, 9)).astype(np.float32), rng.standard_normal((9, 9))
    together = rotate_rows(factors, basis)
    alone = np.concatenate([rotate_rows(factors[row : row + 1], basis) for row in range(101)])
    assert np.array_equal(together, alone)
    # Sums of nine float64 products of order 1.
    np.testing.assert_allclose(together, factors.astype(np.float64) @ basis, atol=1e-14 * 100)
