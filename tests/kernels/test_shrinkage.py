"""Soft thresholding for robust PCA, beside its formulas in whole arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factorlake.kernels.shrinkage import ABSOLUTE, NONZEROS, RESIDUAL, renew, shrink, unexplained

THRESHOLDS, RATIOS = (0.7, 0.4), (0.6, 0.5)


def shrunk(held: NDArray[np.floating], threshold: float) -> NDArray[np.float64]:
    wide = held.astype(np.float64)
    return np.asarray(np.sign(wide) * np.maximum(np.abs(wide) - threshold, 0.0))


def arrays(dtype: type[np.floating], n_rows: int = 23, n_columns: int = 17) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(1)
    return tuple(random.standard_normal((n_rows, n_columns)).astype(dtype) for _ in range(2))  # type: ignore[return-value]


def test_shrink_of_a_hand_worked_row() -> None:
    row = np.array([[-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]])
    assert shrink(row, 1.0).tolist() == [[-2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shrink_is_the_formula_in_the_type_of_its_rows(dtype: type[np.floating]) -> None:
    held, _ = arrays(dtype)
    made = shrink(held, 0.7)
    assert made.dtype == dtype
    # One rounding of a number of order 1.
    np.testing.assert_allclose(made, shrunk(held, 0.7), atol=float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("out_dtype", [np.float32, np.float64])
def test_unexplained_is_the_formula(dtype: type[np.floating], out_dtype: type[np.floating]) -> None:
    matrix, held = arrays(dtype)
    out = np.empty(matrix.shape, out_dtype)
    unexplained(matrix, held, 0.7, 0.6, out)
    sparse = shrunk(held, 0.7)
    wanted = matrix.astype(np.float64) - sparse + 0.6 * (held - sparse)
    # Arithmetic is float64 and rounded once, of numbers up to 8.
    np.testing.assert_allclose(out, wanted, atol=8 * float(np.finfo(out_dtype).eps))


def test_an_infinite_threshold_leaves_all_to_the_multipliers() -> None:
    matrix, held = arrays(np.float64)
    out = np.empty_like(matrix)
    unexplained(matrix, held, np.inf, 0.25, out)
    np.testing.assert_allclose(out, matrix + 0.25 * held, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_renew_is_the_formula_and_what_follows_is_that_of_unexplained(dtype: type[np.floating]) -> None:
    matrix, held = arrays(dtype)
    low_rank = np.random.default_rng(2).standard_normal(matrix.shape)
    new_held, out, again = np.empty_like(held), np.empty(matrix.shape), np.empty(matrix.shape)
    sums = np.array([1.0, 2.0, 3.0])
    renew(matrix, held, low_rank, THRESHOLDS, RATIOS, new_held, out, sums)
    carried = RATIOS[0] * (held - shrunk(held, THRESHOLDS[0]))
    # One rounding of a number up to 8.
    np.testing.assert_allclose(new_held, matrix - low_rank + carried, atol=8 * float(np.finfo(dtype).eps))
    unexplained(matrix, new_held, THRESHOLDS[1], RATIOS[1], again)
    # The compiler adds three numbers up to 8 in the order it likes.
    np.testing.assert_allclose(out, again, atol=4e-15)
    sparse = shrunk(new_held, THRESHOLDS[1])
    # With what was there before; the residual is D − L − S, but for the rounding of W in S.
    assert sums[RESIDUAL] == pytest.approx(1.0 + np.sum((new_held - carried - sparse) ** 2), rel=1e-12)
    assert sums[RESIDUAL] == pytest.approx(1.0 + np.sum((matrix - low_rank - sparse) ** 2), rel=1e-5)
    assert sums[NONZEROS] == 2.0 + np.count_nonzero(sparse)
    assert sums[ABSOLUTE] == pytest.approx(3.0 + np.abs(sparse).sum(), rel=1e-12)


def test_a_number_at_the_threshold_is_not_in_the_support() -> None:
    held = np.array([[0.5, -0.5, np.nextafter(0.5, 1.0)]])
    assert np.count_nonzero(shrink(held, 0.5)) == 1


def test_rows_may_be_read_only_and_cut_from_larger_ones() -> None:
    matrix, held = arrays(np.float64)
    for array in (matrix, held):
        array.flags.writeable = False
    out = np.empty((10, 17))
    unexplained(matrix[5:15], held[5:15], 0.7, 0.6, out)
    whole = np.empty_like(matrix)
    unexplained(matrix, held, 0.7, 0.6, whole)
    np.testing.assert_array_equal(out, whole[5:15])


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_comes_of_nothing(shape: tuple[int, int]) -> None:
    empty, sums = np.zeros(shape), np.zeros(3)
    unexplained(empty, empty, 1.0, 0.5, np.empty(shape))
    renew(empty, empty, empty, THRESHOLDS, RATIOS, np.empty(shape), np.empty(shape), sums)
    assert shrink(empty, 1.0).shape == shape
    assert not sums.any()


def test_a_missing_number_stays_one() -> None:
    held, _ = arrays(np.float64)
    held[3, 4] = np.nan
    assert np.isnan(shrink(held, 0.7)[3, 4])
