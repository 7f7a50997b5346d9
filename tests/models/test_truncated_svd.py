"""Truncated SVD against LAPACK's."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.planted_pictures import picture
from factorlake.models.plan import ArrayRows
from factorlake.models.row_plan import CsrRows, LocalRowPlan, even_blocks, even_cells
from factorlake.models.truncated_svd import SvdParameters, SvdPass, TruncatedSvd, truncated_svd
from factorlake.types import FloatMatrix

SPECTRA = {
    "steep": 0.9 ** np.arange(120.0),
    "slow": np.arange(1, 121.0) ** -0.5,
    "one strong direction": np.concatenate([[1000.0], 1 / np.arange(1, 120.0)]),
    "two levels": np.concatenate([np.linspace(10, 9, 20), np.linspace(1, 0.9, 100)]),
}


def planted(n_rows: int, n_columns: int, spectrum: NDArray[np.float64], seed: int = 1) -> NDArray[np.float64]:
    """A matrix with these singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, len(spectrum))))[0] for n in (n_rows, n_columns))
    return (left * spectrum) @ right.T


def decompose(
    matrix: FloatMatrix, threads: int = 2, n_blocks: int = 8, passes: list[SvdPass] | None = None, **parameters: object
) -> TruncatedSvd[ArrayRows]:
    block_ptr = even_blocks(len(matrix), 8 * matrix.shape[1], at_least=n_blocks)
    told = None if passes is None else passes.append
    with LocalRowPlan(block_ptr, threads) as plan:
        return truncated_svd(plan, plan.hold(matrix), matrix.shape[1], SvdParameters(**parameters), told)  # type: ignore[arg-type]


def approximation(found: TruncatedSvd[ArrayRows]) -> NDArray[np.float64]:
    return np.asarray(found.left.whole().astype(np.float64) * found.singular_values @ found.right.T)


def assert_orthonormal(columns: FloatMatrix) -> None:
    # A few hundred units of rounding of the columns' own precision.
    tolerance = 300 * float(np.finfo(columns.dtype).eps)
    wide = columns.astype(np.float64)
    np.testing.assert_allclose(wide.T @ wide, np.eye(columns.shape[1]), atol=tolerance)


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("shape", [(900, 200), (150, 700)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_error_is_that_of_lapacks_best_rank(
    spectrum: NDArray[np.float64], shape: tuple[int, int], dtype: type[np.floating]
) -> None:
    matrix = planted(*shape, spectrum).astype(dtype)
    found = decompose(matrix, rank=20)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    best = float(np.sqrt(np.sum(values[20:] ** 2)))
    error = float(np.linalg.norm(matrix - approximation(found)))
    # The aim: within 1 % of the best; measured: 0.1 %, but where float32 cannot tell (its unit times ‖A‖).
    assert error <= 1.01 * best + 4 * np.finfo(dtype).eps * float(np.linalg.norm(values))
    assert found.error is not None
    # In float32 the entries of A − UΣVᵀ are rounded to a unit of those of A.
    np.testing.assert_allclose(found.error.relative * np.linalg.norm(values), error, rtol=1e-3)
    # Values beside which others lie close are found least exactly; never above the true ones but by rounding.
    np.testing.assert_allclose(found.singular_values, values[:20], rtol=0.03)
    assert np.all(found.singular_values <= values[:20] + 8 * np.finfo(dtype).eps * values[0])
    assert_orthonormal(found.left.whole())
    assert_orthonormal(found.right)
    assert found.left.whole().dtype == dtype
    largest = np.abs(found.right).argmax(axis=0)
    assert np.all(found.right[largest, np.arange(20)] > 0)


def test_separated_singular_vectors_are_lapacks() -> None:
    matrix = planted(300, 150, 0.7 ** np.arange(60.0))
    found = decompose(matrix, rank=8)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    # A few units of rounding of σ_1 over the smallest gap of σ².
    np.testing.assert_allclose(found.singular_values, values[:8], rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(found.right * right[:8].T, axis=0)), 1, atol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(found.left.whole() * left[:, :8], axis=0)), 1, atol=1e-10)


def test_a_picture_at_rank_50_is_within_one_percent_of_the_best() -> None:
    matrix = picture(512)
    found = decompose(matrix, rank=50)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert found.error is not None
    assert found.error.relative <= 1.01 * np.sqrt(np.sum(values[50:] ** 2) / np.sum(values**2))
    assert found.left.whole().size + found.right.size + found.rank == 51_250


@pytest.mark.parametrize("spectrum", [SPECTRA["slow"], SPECTRA["steep"], np.ones(400)], ids=["slow", "steep", "flat"])
def test_the_bound_on_the_spectral_error_holds(spectrum: NDArray[np.float64]) -> None:
    matrix = planted(600, 400, spectrum)
    for seed in range(5):
        found = decompose(matrix, rank=10, seed=seed, probes=6)
        errors = matrix - approximation(found)
        assert found.error is not None
        # It fails once in a million draws.
        assert np.linalg.norm(errors, ord=2) <= found.error.spectral_bound <= np.linalg.norm(errors) * (1 + 1e-12)
        assert found.error.failure_probability == pytest.approx(1e-6)
        # σ = 1 for 390 directions: the probes tell more than ‖E‖_F does.
        assert len(spectrum) < 400 or found.error.spectral_bound < 0.8 * np.linalg.norm(errors)


@pytest.mark.parametrize("energy", [0.3, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("spectrum", ["steep", "slow", "one strong direction"])
def test_energy_finds_the_least_rank_that_reaches_it(energy: float, spectrum: str) -> None:
    matrix = planted(500, 300, SPECTRA[spectrum])
    shares = np.cumsum(SPECTRA[spectrum] ** 2) / np.sum(SPECTRA[spectrum] ** 2)
    found = decompose(matrix, energy=energy, tolerance=0, power_iterations=8)
    assert found.rank == int(np.argmax(shares >= energy)) + 1
    assert found.energy >= energy
    np.testing.assert_allclose(found.energy, shares[found.rank - 1], rtol=1e-6)


@pytest.mark.parametrize("spectrum", SPECTRA.values(), ids=SPECTRA.keys())
@pytest.mark.parametrize("energy", [0.9, 0.999999, 1.0])
def test_energy_is_reached_in_single_precision(energy: float, spectrum: NDArray[np.float64]) -> None:
    found = decompose(planted(500, 300, spectrum).astype(np.float32), energy=energy)
    assert found.error is not None
    # To a few units of rounding of float32.
    assert found.error.relative**2 <= 1 - energy + 2e-6


def test_energy_that_the_first_sketch_barely_reaches_is_found() -> None:
    found = decompose(planted(500, 400, np.ones(400)), energy=59.5 / 400, oversampling=50)
    assert found.rank == 60
    np.testing.assert_allclose(found.singular_values, 1, rtol=1e-12)


def test_all_energy_is_the_rank_of_the_matrix() -> None:
    # The first sketch holds 42 directions: fewer are too few at once, as many leave none beside those asked for.
    for rank, shape in ((30, (200, 100)), (30, (100, 200)), (40, (200, 100)), (42, (300, 200)), (60, (300, 200))):
        found = decompose(planted(*shape, np.linspace(2, 1, rank)), energy=1.0)
        assert found.rank == rank
        assert found.error is not None and found.error.relative < 1e-13


def test_threads_change_no_bit() -> None:
    matrix = planted(700, 80, SPECTRA["slow"][:80]).astype(np.float32)
    one, two = (decompose(matrix, threads=threads, rank=7) for threads in (1, 2))
    np.testing.assert_array_equal(one.singular_values, two.singular_values)
    np.testing.assert_array_equal(one.right, two.right)
    np.testing.assert_array_equal(one.left.whole(), two.left.whole())
    assert one.error == two.error


def test_sparse_rows_have_the_singular_values_of_dense_ones() -> None:
    matrix = scipy.sparse.random_array((600, 120), density=0.05, format="csr", rng=np.random.default_rng(3))
    matrix.data += 1
    for dtype, rtol in ((np.float64, 1e-11), (np.float32, 1e-5)):  # units of rounding, summed in another order
        csr = matrix.astype(dtype)
        block_ptr = even_cells(np.diff(csr.indptr).astype(np.int64), block_bytes=4096)
        parameters = SvdParameters(rank=12, tolerance=0, power_iterations=8)
        with LocalRowPlan(block_ptr, 2) as plan:
            sparse = truncated_svd(plan, CsrRows.of(csr, block_ptr), 120, parameters)
            dense = truncated_svd(plan, plan.hold(csr.toarray()), 120, parameters)
        np.testing.assert_allclose(sparse.singular_values, dense.singular_values, rtol=rtol)
        truth = np.linalg.svd(matrix.toarray(), compute_uv=False)[:12]
        np.testing.assert_allclose(sparse.singular_values, truth, rtol=1e-5)
        assert sparse.error is not None and dense.error is not None
        np.testing.assert_allclose(sparse.error.relative, dense.error.relative, rtol=rtol)
        assert_orthonormal(sparse.left.whole())


def test_blocks_of_cells_are_even_and_have_rows() -> None:
    cells = np.array([0, 0, 1000, 1, 1, 1, 1, 0, 996, 0])
    block_ptr = even_cells(cells, cell_bytes=1, block_bytes=500)
    assert block_ptr[0] == 0 and block_ptr[-1] == 10 and np.all(np.diff(block_ptr) > 0)
    np.testing.assert_array_equal(block_ptr, even_cells(cells, cell_bytes=1, block_bytes=500))
    assert max(np.add.reduceat(cells, block_ptr[:-1])) <= 1003
    assert even_cells(np.zeros(5, np.int64))[-1] == 5


@pytest.mark.parametrize("shape", [(40, 9), (9, 40), (1, 30), (30, 1), (1, 1), (12, 12)])
def test_where_the_sketch_spans_everything_the_answer_is_exact(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(2).standard_normal(shape)
    found = decompose(matrix, rank=min(shape))
    np.testing.assert_allclose(found.singular_values, np.linalg.svd(matrix, compute_uv=False), rtol=1e-12)
    np.testing.assert_allclose(approximation(found), matrix, atol=1e-13)
    assert sum(one.step == "last" for one in found.trace) == 1


def test_a_matrix_of_low_rank_comes_back_and_the_rest_is_zero() -> None:
    for shape in ((300, 100), (100, 300)):
        matrix = planted(*shape, np.array([5.0, 2.0, 1.0]))
        found = decompose(matrix, rank=6)
        np.testing.assert_allclose(found.singular_values, [5, 2, 1, 0, 0, 0], atol=1e-13)
        np.testing.assert_allclose(approximation(found), matrix, atol=1e-13)
        assert_orthonormal(found.left.whole())
        assert_orthonormal(found.right)


def test_small_singular_values_beside_large_ones_are_found() -> None:
    spectrum = np.array([1.0, 1e-3, 1e-5, 1e-6])
    found = decompose(planted(300, 100, spectrum), rank=4)
    # One unit of rounding of the largest.
    np.testing.assert_allclose(found.singular_values, spectrum, atol=1e-15, rtol=1e-9)


def test_a_zero_matrix_has_zero_values_and_orthonormal_vectors() -> None:
    for given in ({"rank": 3}, {"energy": 0.9}):
        found = decompose(np.zeros((200, 100)), **given)
        assert found.rank == given.get("rank", 1)
        assert not found.singular_values.any()
        assert found.energy == 1 and found.error is not None and found.error.relative == 0
        assert_orthonormal(found.left.whole())
        assert_orthonormal(found.right)


def test_constant_columns_are_of_rank_one() -> None:
    found = decompose(np.full((250, 60), 3.0), rank=2)
    np.testing.assert_allclose(found.singular_values, [3 * np.sqrt(250 * 60), 0], atol=1e-9)


def test_passes_are_told_and_capture_more_each_time() -> None:
    passes: list[SvdPass] = []
    found = decompose(planted(900, 300, SPECTRA["slow"]), passes=passes, rank=20, tolerance=0)
    assert tuple(passes) == found.trace
    assert [one.number for one in passes] == list(range(1, len(passes) + 1))
    assert [one.step for one in passes] == ["power"] * 4 + ["last", "error"]
    captured = [one.energy for one in passes[:5]]
    assert captured == sorted(captured) and captured[0] < captured[-1]
    assert found.energy == captured[-1]
    assert found.error is not None
    # Pythagoras: what is not captured is the error.
    np.testing.assert_allclose(1 - found.energy, found.error.relative**2, rtol=1e-10)


def test_passes_end_where_singular_values_have_settled() -> None:
    steep = decompose(planted(900, 300, SPECTRA["steep"]), rank=40, power_iterations=20)
    assert sum(one.step == "power" for one in steep.trace) <= 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
def test_a_number_that_is_not_finite_is_named_by_its_row(bad: float) -> None:
    matrix = np.ones((100, 50))
    matrix[73, 4] = matrix[88, 0] = bad
    for given in ({"rank": 2}, {"rank": 45}, {"energy": 0.5}):
        with pytest.raises(NumericalError, match=r"row 73 of the matrix"):
            decompose(matrix, **given)
    csr = scipy.sparse.csr_array(matrix)
    block_ptr = even_blocks(100, 400)
    with LocalRowPlan(block_ptr) as plan, pytest.raises(NumericalError, match=r"row 73 of the matrix"):
        truncated_svd(plan, CsrRows.of(csr, block_ptr), 50, SvdParameters(rank=2))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="the largest is 7"):
        decompose(np.ones((7, 30)), rank=8)
    with pytest.raises(ConfigError, match="0 rows"):
        decompose(np.ones((0, 30)), energy=0.5)
    with pytest.raises(ConfigError, match="int64"):
        decompose(np.ones((70, 30), np.int64), rank=2)
    for given in ({}, {"rank": 2, "energy": 0.5}, {"rank": 0}, {"energy": 1.5}, {"rank": 2, "power_iterations": 0}):
        with pytest.raises(ConfigError):
            SvdParameters(**given)
    with LocalRowPlan(even_blocks(70, 240)) as plan, pytest.raises(ConfigError, match="31 columns"):
        truncated_svd(plan, plan.hold(np.ones((70, 30))), 31, SvdParameters(rank=2))
