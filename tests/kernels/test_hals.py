"""Rows that share one matrix: against non-negative least squares, their conditions, their twin, and laws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from scipy.sparse import csr_array

from factorlake.errors import NumericalError
from factorlake.kernels.half_step import segment_sums, solve_block
from factorlake.kernels.half_step_numpy import solve_block_numpy
from factorlake.kernels.observations import long_sums
from factorlake.kernels.row_solvers import SEGMENT

# Sums of at most a few hundred products of float64 numbers.
DOUBLE = 1e-11
# Solutions rounded to float32 once; what they are made of is summed in float64.
SINGLE = 1e-6
# Sweeps end when they lower a row's objective by 1e-14 of it: the square root, and what the condition adds.
SOLVED = 1e-6
ENOUGH = 5000


def counts(
    lengths: list[int], rank: int, dtype: type = np.float64, seed: int = 0, n_other: int = 40, ridge: float = 0.5
) -> dict[str, Any]:
    """Arguments of solve_block for random rows of counts in which a missing neighbour is a zero."""
    rng = np.random.default_rng(seed)
    n_obs = sum(lengths)
    factors: np.ndarray = np.where(rng.random((n_other, rank)) < 0.6, rng.exponential(1, (n_other, rank)), 0)
    factors = factors.astype(dtype)
    wide = factors.astype(np.float64)
    return {
        "row_ptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "neighbours": np.array(
            [one for n in lengths for one in np.sort(rng.choice(n_other, n, replace=n > n_other))], np.int32
        ),
        "confidence": 1.0,
        "target": rng.integers(1, 9, n_obs).astype(dtype),
        "factors": factors,
        "warm": rng.exponential(1, (len(lengths), rank)).astype(dtype),
        "base_diagonal": np.zeros(rank),
        "ridge": ridge * rng.uniform(0.5, 1.5, len(lengths)),
        "mask": np.ones(rank),
        "base_matrix": wide.T @ wide,
    }


def dense_rows(arguments: dict[str, Any]) -> np.ndarray:
    """The rows of counts, zeros and all; a neighbour that occurs twice has the sum."""
    cells = arguments["target"].astype(np.float64), arguments["neighbours"], arguments["row_ptr"]
    return csr_array(cells, shape=(len(arguments["row_ptr"]) - 1, len(arguments["factors"]))).toarray()


def row_loss(arguments: dict[str, Any], row: int, x: np.ndarray) -> float:
    """Σ_i (r_i − x·f_i)² + ridge |x|², over every i."""
    error = dense_rows(arguments)[row] - arguments["factors"].astype(np.float64) @ x
    return float(error @ error + arguments["ridge"][row] * (x @ x))


def test_a_row_worked_by_hand() -> None:
    # f = (1, 1) with r = 3, f = (0, 1) with r = 0: A = [[1, 1], [1, 2]], b = (3, 3). Unbounded: x = (3, 0). From zeros
    # a sweep gives x_0 = 3, then x_1 = (3 − 3)/2 = 0, which is the solution.
    solved = solve_block(
        np.array([0, 1]),
        np.array([0], np.int32),
        1.0,
        np.array([3.0]),
        np.array([[1.0, 1.0], [0.0, 1.0]]),
        None,
        np.zeros(2),
        np.zeros(1),
        np.ones(2),
        "hals",
        steps=1,
        base_matrix=np.array([[1.0, 1.0], [1.0, 2.0]]),
    )
    assert solved.factors.tolist() == [[3.0, 0.0]]
    # Σ r² − 2 x·b = 9 − 18.
    assert solved.observed_loss == -9.0


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, DOUBLE), (np.float32, SINGLE)])
@pytest.mark.parametrize("solver", ["hals", "product"])
@pytest.mark.parametrize("rank", [1, 7, 8, 20])
def test_compiled_kernels_equal_their_numpy_twin(solver: Any, rank: int, dtype: type, tolerance: float) -> None:
    arguments = counts([0, 1, 3, 4, 5, 30, 200], rank, dtype=dtype)
    # Free coordinates and observations with weights and offsets go through the same door.
    mask = np.arange(rank) % 3 != 1
    others = {"confidence": np.random.default_rng(1).uniform(0.5, 2, 243), "offset": np.linspace(-1, 1, 40)}
    for more in ({}, {"mask": mask.astype(np.float64)}, others):
        given = arguments | more
        fast = solve_block(**given, solver=solver, steps=3)
        plain = solve_block_numpy(**given, solver=solver, steps=3)
        assert fast.factors.dtype == plain.factors.dtype == dtype
        atol = tolerance * np.abs(plain.factors).max()
        np.testing.assert_allclose(fast.factors, plain.factors, rtol=tolerance, atol=atol)
        # Of sums of opposite signs, some hundred times as large.
        squares = float(np.sum(np.square(arguments["target"].astype(np.float64))))
        assert fast.observed_loss == pytest.approx(plain.observed_loss, rel=tolerance, abs=100 * tolerance * squares)
        assert (fast.residual_sum, fast.jitters) == (0.0, 0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_products_are_those_of_the_sparse_matrix(dtype: type) -> None:
    arguments = counts([0, 1, 2, 7, 40, 300], rank=13, dtype=dtype, seed=2)
    got = solve_block(**arguments, solver="product").factors
    wanted = dense_rows(arguments) @ arguments["factors"].astype(np.float64)
    # Float64 sums, rounded once.
    np.testing.assert_allclose(got, wanted, rtol=DOUBLE if dtype is np.float64 else SINGLE)
    assert not got[0].any()


@pytest.mark.parametrize("ridge", [0.0, 0.5])
@pytest.mark.parametrize("warm", [False, True])
def test_rows_equal_lawson_and_hanson_on_the_stacked_system(warm: bool, ridge: float) -> None:
    arguments = counts([1, 4, 9, 30, 35], rank=9, seed=3, ridge=ridge)
    if not warm:
        arguments["warm"] = None
    solved = solve_block(**arguments, solver="hals", steps=ENOUGH)
    rows = dense_rows(arguments)
    for row, x in enumerate(solved.factors):
        stacked = np.concatenate([arguments["factors"], np.sqrt(arguments["ridge"][row]) * np.eye(9)])
        wanted, _ = nnls(stacked, np.concatenate([rows[row], np.zeros(9)]))
        assert np.any(wanted == 0) and np.any(wanted > 0)
        np.testing.assert_allclose(x, wanted, atol=SOLVED * wanted.max())
    # The told loss is the part of Σ_i (r_i − x·f_i)² that observations decide.
    every = sum(row_loss(arguments, row, x) for row, x in enumerate(solved.factors))
    shared = sum(
        x @ arguments["base_matrix"] @ x + arguments["ridge"][row] * (x @ x) for row, x in enumerate(solved.factors)
    )
    assert solved.observed_loss + shared == pytest.approx(every, rel=1e-12)


@given(
    lengths=st.lists(st.integers(0, 40), max_size=6),
    rank=st.integers(1, 20),
    seed=st.integers(0, 2**16),
    ridge=st.sampled_from([0.01, 1.0, 30.0]),
)
@settings(max_examples=40, deadline=None)
def test_solved_rows_fulfil_the_conditions_of_karush_kuhn_and_tucker(
    lengths: list[int], rank: int, seed: int, ridge: float
) -> None:
    arguments = counts(lengths, rank, seed=seed, ridge=ridge)
    solved = solve_block(**arguments, solver="hals", steps=ENOUGH).factors
    pulls = dense_rows(arguments) @ arguments["factors"]
    for row, x in enumerate(solved):
        slope = (arguments["base_matrix"] + arguments["ridge"][row] * np.eye(rank)) @ x - pulls[row]
        # The slope is known as the solution is, in units of what it is the difference of; where nothing pulls, what
        # rounding leaves of the start.
        started = arguments["base_matrix"] @ arguments["warm"][row]
        allowed = SOLVED * np.abs(pulls[row]).max() + 1e-13 * np.abs(started).max()
        assert x.min() >= 0
        assert slope.min() >= -allowed
        assert np.all(np.abs(slope[x > 0]) <= allowed)


@given(seed=st.integers(0, 2**16), sweeps=st.integers(0, 3), rank=st.integers(1, 20))
@settings(max_examples=30, deadline=None)
def test_no_sweep_raises_the_loss(seed: int, sweeps: int, rank: int) -> None:
    arguments = counts([1, 4, 9, 30], rank, seed=seed)
    fewer, more = (solve_block(**arguments, solver="hals", steps=steps).factors for steps in (sweeps, sweeps + 1))
    for row in range(4):
        before = row_loss(arguments, row, fewer[row])
        # Float64 sums of about 100 terms.
        assert row_loss(arguments, row, more[row]) <= before * (1 + 1e-12)
    assert more.min() >= 0


def test_without_a_bound_rows_are_those_of_the_normal_equations() -> None:
    arguments = counts([4, 9, 30], rank=7, seed=8, ridge=3.0) | {"mask": np.zeros(7), "base_diagonal": np.full(7, 2.0)}
    solved = solve_block(**arguments, solver="hals", steps=ENOUGH).factors
    pulls = dense_rows(arguments) @ arguments["factors"]
    assert solved.min() < 0
    wanted = np.linalg.solve(arguments["base_matrix"] + 2 * np.eye(7), pulls.T).T
    np.testing.assert_allclose(solved, wanted, atol=SOLVED * np.abs(wanted).max())


def test_no_sweep_leaves_a_row_as_it_was_and_tells_its_loss() -> None:
    arguments = counts([3, 20, 7], rank=6)
    looked = solve_block(**arguments, solver="hals", steps=0)
    assert np.array_equal(looked.factors, arguments["warm"])
    told = sum(
        float(np.sum(r**2) - 2 * r @ (arguments["factors"] @ x))
        for r, x in zip(dense_rows(arguments), arguments["warm"], strict=True)
    )
    assert looked.observed_loss == pytest.approx(told, rel=1e-12)


def test_a_factor_that_no_fixed_row_has_becomes_zero_without_a_ridge() -> None:
    arguments = counts([3, 20], rank=4, ridge=0.0)
    arguments["factors"][:, 2] = 0
    arguments["base_matrix"] = arguments["factors"].T @ arguments["factors"]
    solved = solve_block(**arguments, solver="hals", steps=2).factors
    assert np.all(solved[:, 2] == 0)
    assert np.isfinite(solved).all() and solved.any()


def test_no_rows_and_rows_without_counts() -> None:
    for solver in ("hals", "product"):
        none: Any = solver
        empty = solve_block(**counts([], rank=4), solver=none)
        assert empty.factors.shape == (0, 4)
        assert empty.observed_loss == 0.0
        assert not solve_block(**counts([0, 0], rank=4), solver=none).factors.any()


@pytest.mark.parametrize("solver", ["hals", "product"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_gets_the_same_bits_in_any_block(solver: Any, dtype: type) -> None:
    arguments = counts([3, 0, 12, 1, 40, 7, 2, 100], rank=9, dtype=dtype)
    together = solve_block(**arguments, solver=solver).factors
    for first, last in ((0, 1), (1, 5), (5, 6), (6, 8)):
        start, stop = arguments["row_ptr"][first], arguments["row_ptr"][last]
        part = arguments | {
            "row_ptr": arguments["row_ptr"][first : last + 1] - start,
            "neighbours": arguments["neighbours"][start:stop],
            "target": arguments["target"][start:stop],
            "warm": arguments["warm"][first:last],
            "ridge": arguments["ridge"][first:last],
        }
        assert np.array_equal(solve_block(**part, solver=solver).factors, together[first:last])


@pytest.mark.parametrize("solver", ["hals", "product"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_summed_in_segments_elsewhere_gets_the_bits_of_one_summed_in_its_block(solver: Any, dtype: type) -> None:
    arguments = counts([3, 2 * SEGMENT + 5, 40, SEGMENT + 1, SEGMENT], rank=3, dtype=dtype, n_other=700)
    here = solve_block(**arguments, solver=solver)
    sums = []
    for row in (1, 3):
        first, last = arguments["row_ptr"][row : row + 2].tolist()
        total = np.zeros((3, 4))
        for start in range(first, last, SEGMENT):
            part = slice(start, min(start + SEGMENT, last))
            told = arguments["neighbours"][part], 1.0, arguments["target"][part], arguments["factors"]
            total += segment_sums(*told, solver=solver)
        sums.append(total)
    elsewhere = solve_block(**arguments, solver=solver, known=long_sums([1, 3], sums))
    assert elsewhere.factors.tobytes() == here.factors.tobytes()
    assert elsewhere.observed_loss == here.observed_loss
    pulls = dense_rows(arguments) @ arguments["factors"].astype(np.float64)
    # Float64 sums of up to 600,000 terms.
    np.testing.assert_allclose(sums[0][:, 3], pulls[1], rtol=1e-11)
    # Sums that are there are used: twice as much of everything is another row.
    doubled = solve_block(**arguments, solver=solver, known=long_sums([1, 3], [2 * one for one in sums])).factors
    assert not np.array_equal(doubled[1], here.factors[1])
    assert np.array_equal(doubled[[0, 2, 4]], here.factors[[0, 2, 4]])


def test_arrays_mapped_read_only_or_unaligned_give_the_same_bits() -> None:
    arguments = counts([5, 30], rank=9, dtype=np.float32)
    shifted = np.empty(arguments["factors"].nbytes + 4, np.uint8)[4:].view(np.float32).reshape(40, 9)
    shifted[:] = arguments["factors"]
    shifted.flags.writeable = False
    one = solve_block(**arguments, solver="hals").factors
    assert np.array_equal(solve_block(**arguments | {"factors": shifted}, solver="hals").factors, one)


@pytest.mark.parametrize("solve", [solve_block, solve_block_numpy])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_row_that_cannot_be_solved_is_named(solve: Any, value: float) -> None:
    arguments = counts([4, 20], rank=6)
    arguments["target"][10] = value
    with pytest.raises(NumericalError, match="row 101"), np.errstate(invalid="ignore"):
        solve(**arguments | {"solver": "hals", "first_row": 100})
