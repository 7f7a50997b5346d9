"""Row solves of one block against loops, against their NumPy twin, and against laws."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from factorlake.errors import NumericalError
from factorlake.kernels.conjugate_gradients import KEPT_BYTES
from factorlake.kernels.half_step import SolvedBlock, segment_sums, solve_block
from factorlake.kernels.half_step_numpy import solve_block_numpy
from factorlake.kernels.observations import long_sums
from factorlake.kernels.row_solvers import SEGMENT, TILE
from factorlake.kernels.subspace import SUBSPACE
from tests.reference.als import solve_row

# float32 products of at most a few hundred observations on systems with condition up to about 1e3.
SINGLE = 2e-3
# The same in float64.
DOUBLE = 1e-9


def block(
    lengths: list[int],
    rank: int,
    dtype: type = np.float64,
    seed: int = 0,
    n_other: int = 40,
    biased: bool = False,
) -> dict[str, Any]:
    """Arguments of solve_block for random rows of the given lengths; with a bias column and offsets on
    request."""
    rng = np.random.default_rng(seed)
    row_ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n_obs = int(row_ptr[-1])
    factors: np.ndarray = rng.standard_normal((n_other, rank)).astype(dtype)
    base, mask, offset = rng.uniform(0.1, 2, rank), np.ones(rank), None
    if biased:
        factors[:, -1] = 1
        base, mask = np.r_[np.zeros(rank - 1), 3.0], np.r_[np.ones(rank - 1), 0.0]
        offset = rng.standard_normal(n_other)
    return {
        "row_ptr": row_ptr,
        "neighbours": rng.integers(0, n_other, n_obs).astype(np.int32),
        "confidence": rng.uniform(0.1, 4, n_obs),
        "target": rng.standard_normal(n_obs),
        "factors": factors,
        "warm": rng.standard_normal((len(lengths), rank)).astype(dtype),
        "base_diagonal": base,
        "ridge": rng.uniform(0.5, 1.5, len(lengths)),
        "mask": mask,
        "offset": offset,
    }


def oracle(arguments: dict[str, Any]) -> np.ndarray:
    rows = []
    for row in range(len(arguments["row_ptr"]) - 1):
        part = slice(arguments["row_ptr"][row], arguments["row_ptr"][row + 1])
        neighbours = arguments["neighbours"][part]
        offset = 0.0 if arguments["offset"] is None else arguments["offset"][neighbours]
        diagonal = arguments["base_diagonal"] + arguments["ridge"][row] * arguments["mask"]
        rows.append(
            solve_row(
                arguments["factors"][neighbours],
                arguments["confidence"][part],
                arguments["target"][part] - offset,
                diagonal,
            )
        )
    return np.array(rows).reshape(len(rows), arguments["factors"].shape[1])


def merged(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same normal equations with one observation of each neighbour: its weights added, its targets averaged."""
    n_rows, n_other = len(arguments["row_ptr"]) - 1, len(arguments["factors"])
    confidence, weighted = np.zeros((2, n_rows, n_other))
    row = np.repeat(np.arange(n_rows), np.diff(arguments["row_ptr"]))
    np.add.at(confidence, (row, arguments["neighbours"]), arguments["confidence"].astype(np.float64))
    products = arguments["confidence"].astype(np.float64) * arguments["target"]
    np.add.at(weighted, (row, arguments["neighbours"]), products)
    return arguments | {
        "row_ptr": np.arange(n_rows + 1) * n_other,
        "neighbours": np.tile(np.arange(n_other, dtype=np.int32), n_rows),
        "confidence": confidence.ravel(),
        "target": np.divide(weighted, confidence, out=np.zeros_like(weighted), where=confidence != 0).ravel(),
    }


def loss_of(arguments: dict[str, Any], rows: np.ndarray) -> float:
    """Σ c (t − o − x·f)², observation by observation."""
    total = 0.0
    for row in range(len(rows)):
        for p in range(arguments["row_ptr"][row], arguments["row_ptr"][row + 1]):
            j = arguments["neighbours"][p]
            e = float(arguments["target"][p]) - float(rows[row] @ arguments["factors"][j].astype(np.float64))
            e -= 0.0 if arguments["offset"] is None else float(arguments["offset"][j])
            total += float(arguments["confidence"][p]) * e * e
    return total


def whole_loss(arguments: dict[str, Any], rows: np.ndarray) -> float:
    diagonal = arguments["base_diagonal"] + arguments["ridge"][:, None] * arguments["mask"]
    return loss_of(arguments, rows) + float(np.sum(diagonal * rows.astype(np.float64) ** 2))


def assert_close(got: SolvedBlock, wanted: SolvedBlock, tolerance: float) -> None:
    np.testing.assert_allclose(got.factors, wanted.factors, rtol=tolerance, atol=tolerance)
    assert got.observed_loss == pytest.approx(wanted.observed_loss, rel=tolerance)
    assert got.residual_sum == pytest.approx(wanted.residual_sum, rel=tolerance, abs=tolerance * 100)


def test_a_row_worked_by_hand() -> None:
    # f = (1, 0) with t = 1, f = (0, 2) with t = 1, c = 1, D = 1: 2 x_0 = 1 and 5 x_1 = 2.
    solved = solve_block(
        np.array([0, 2]),
        np.array([0, 1], np.int32),
        1.0,
        1.0,
        np.array([[1.0, 0.0], [0.0, 2.0]]),
        None,
        np.zeros(2),
        np.ones(1),
        np.ones(2),
        "exact",
    )
    np.testing.assert_allclose(solved.factors, [[0.5, 0.4]], rtol=1e-15)
    assert solved.observed_loss == pytest.approx(0.25 + 0.04, rel=1e-14)
    assert solved.residual_sum == pytest.approx(0.5 + 0.2, rel=1e-14)


@pytest.mark.parametrize("biased", [False, True], ids=["implicit form", "explicit form with biases"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, DOUBLE), (np.float32, SINGLE)])
def test_exact_solves_equal_the_loop_oracle_in_dual_and_primal_form(
    dtype: type, tolerance: float, biased: bool
) -> None:
    # Rows of 0, 1, a few, one less than the rank, the rank, and many observations.
    arguments = block([0, 1, 3, 7, 8, 9, 200, 0], rank=8, dtype=dtype, biased=biased)
    solved = solve_block(**arguments, solver="exact")
    wanted = oracle(arguments)
    np.testing.assert_allclose(solved.factors, wanted, rtol=tolerance, atol=tolerance)
    assert not solved.factors[0].any()
    assert solved.factors.dtype == dtype
    assert solved.observed_loss == pytest.approx(loss_of(arguments, solved.factors.astype(np.float64)), rel=1e-5)


@given(
    lengths=st.lists(st.integers(0, 30), max_size=6),
    rank=st.integers(1, 12),
    seed=st.integers(0, 2**16),
    biased=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_exact_solves_equal_the_loop_oracle_on_any_shape(
    lengths: list[int], rank: int, seed: int, biased: bool
) -> None:
    arguments = block(lengths, rank, seed=seed, biased=biased)
    got = solve_block(**arguments, solver="exact").factors
    np.testing.assert_allclose(got, oracle(arguments), rtol=DOUBLE, atol=DOUBLE)


@pytest.mark.parametrize("solver", ["cg", "subspace", "exact", "nonnegative", "residual"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, DOUBLE), (np.float32, SINGLE)])
def test_compiled_kernels_equal_their_numpy_twin(solver: Any, biased: bool, dtype: type, tolerance: float) -> None:
    arguments = block([0, 1, 3, 7, 8, 90], rank=8, dtype=dtype, seed=3, biased=biased)
    assert_close(
        solve_block(**arguments, solver=solver, steps=3),
        solve_block_numpy(**arguments, solver=solver, steps=3),
        tolerance,
    )


def test_a_number_for_all_observations_equals_that_number_for_each() -> None:
    arguments = block([5, 0, 40], rank=6)
    for solver in ("cg", "subspace", "exact", "nonnegative", "residual"):
        shared = arguments | {"confidence": 2.0, "target": 0.5}
        each = arguments | {"confidence": np.full(45, 2.0), "target": np.full(45, 0.5)}
        one, other = solve_block(**shared, solver=solver), solve_block(**each, solver=solver)
        assert np.array_equal(one.factors, other.factors)
        assert one.observed_loss == other.observed_loss


@pytest.mark.parametrize("warm", [False, True])
def test_nonnegative_rows_equal_lawson_and_hanson(warm: bool) -> None:
    arguments = block([1, 4, 9, 60, 300], rank=9, seed=6)
    root = np.random.default_rng(7).standard_normal((9, 12))
    common = root @ root.T
    if not warm:
        arguments["warm"] = None
    solved = solve_block(**arguments, solver="nonnegative", steps=1000, base_matrix=common)
    for row, (first, last) in enumerate(pairwise(arguments["row_ptr"])):
        f = arguments["factors"][arguments["neighbours"][first:last]]
        c, t = arguments["confidence"][first:last], arguments["target"][first:last]
        matrix = common + np.diag(arguments["base_diagonal"] + arguments["ridge"][row] * arguments["mask"])
        lower = np.linalg.cholesky(matrix + f.T @ (f * c[:, None]))
        # |Lᵀx − L⁻¹b|² is xᵀAx − 2bᵀx and a constant.
        wanted, _ = nnls(lower.T, np.linalg.solve(lower, f.T @ (c * t)))
        assert 0 < np.sum(wanted == 0) < 9
        # Sweeps end when they lower the row's objective by 1e-14 of it: its square root, and what condition adds.
        np.testing.assert_allclose(solved.factors[row], wanted, atol=1e-6 * np.abs(wanted).max())
    assert solved.observed_loss == pytest.approx(loss_of(arguments, solved.factors), rel=1e-9)


def test_without_a_bound_coordinate_descent_ends_at_the_exact_solution() -> None:
    arguments = block([4, 9, 60], rank=7, seed=8) | {"mask": np.zeros(7)}
    solved = solve_block(**arguments, solver="nonnegative", steps=1000).factors
    assert solved.min() < 0
    # As above.
    np.testing.assert_allclose(solved, oracle(arguments), atol=1e-6)


@given(seed=st.integers(0, 2**16), sweeps=st.integers(1, 4), biased=st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_sweep_raises_the_loss_or_leaves_the_bounds(seed: int, sweeps: int, biased: bool) -> None:
    arguments = block([1, 4, 9, 50], rank=7, seed=seed, biased=biased)
    bounded = arguments["mask"] != 0
    arguments["warm"][:, bounded] = np.abs(arguments["warm"][:, bounded])
    fewer, more = (
        solve_block(**arguments, solver="nonnegative", steps=steps).factors for steps in (sweeps, sweeps + 1)
    )
    assert more[:, bounded].min() >= 0
    # Float64 sums of about 100 terms.
    assert whole_loss(arguments, fewer) <= whole_loss(arguments, arguments["warm"]) * (1 + 1e-12)
    assert whole_loss(arguments, more) <= whole_loss(arguments, fewer) * (1 + 1e-12)


def test_dual_and_primal_form_give_the_same_row() -> None:
    # A zero in D forbids the dual form, so the same short row goes through the normal equations.
    arguments = block([5], rank=9, seed=4)
    arguments["base_diagonal"] = np.full(9, 1e-12)
    arguments["mask"] = np.ones(9)
    dual = solve_block(**arguments, solver="exact").factors
    # The last coordinate touches nothing: it may have D = 0 in an augmented system without changing the
    # others.
    augmented = arguments | {
        "factors": np.concatenate([arguments["factors"], np.zeros((40, 1))], axis=1),
        "base_diagonal": np.r_[arguments["base_diagonal"], 0.0],
        "mask": np.r_[arguments["mask"], 0.0],
        "warm": None,
    }
    primal = solve_block(**augmented, solver="exact")
    assert primal.jitters > 0
    # The jitter is 1e-10 of the mean diagonal, about 5: it moves the solution by about as much.
    np.testing.assert_allclose(primal.factors[:, :9], dual, atol=1e-8)


@pytest.mark.parametrize("biased", [False, True])
def test_enough_cg_steps_reach_the_exact_solution(biased: bool) -> None:
    arguments = block([1, 5, 60, 300], rank=6, biased=biased)
    exact = solve_block(**arguments, solver="exact").factors
    # In exact arithmetic rank steps are enough; rounding asks for a few more.
    near = solve_block(**arguments, solver="cg", steps=12).factors
    np.testing.assert_allclose(near, exact, rtol=1e-8, atol=1e-8)


@given(seed=st.integers(0, 2**16), steps=st.integers(1, 4), biased=st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_cg_step_raises_the_loss(seed: int, steps: int, biased: bool) -> None:
    arguments = block([1, 4, 9, 50], rank=7, seed=seed, biased=biased)
    before = whole_loss(arguments, arguments["warm"])
    fewer = whole_loss(arguments, solve_block(**arguments, solver="cg", steps=steps).factors)
    more = whole_loss(arguments, solve_block(**arguments, solver="cg", steps=steps + 1).factors)
    # Float64 sums of about 100 terms.
    assert fewer <= before * (1 + 1e-12)
    assert more <= fewer * (1 + 1e-12)


@pytest.mark.parametrize("rank", [1, 6, 16, 20, 32, 37])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, DOUBLE), (np.float32, SINGLE)])
def test_a_sweep_solves_its_blocks_of_coordinates_in_turn(
    rank: int, biased: bool, dtype: type, tolerance: float
) -> None:
    arguments = block([1, 5, 60, 300], rank, dtype=dtype, biased=biased and rank > 1)
    swept = solve_block(**arguments, solver="subspace").factors
    if rank <= SUBSPACE:
        np.testing.assert_allclose(swept, oracle(arguments), rtol=tolerance, atol=tolerance)
    else:
        assert_close(
            solve_block(**arguments, solver="subspace"), solve_block_numpy(**arguments, solver="subspace"), tolerance
        )
    # The last block's own gradient is zero: no other block has moved since.
    last = (rank - 1) // SUBSPACE * SUBSPACE
    wide = {name: arguments[name].astype(np.float64) for name in ("factors", "confidence", "target")}
    for row, x in enumerate(swept.astype(np.float64)):
        part = slice(arguments["row_ptr"][row], arguments["row_ptr"][row + 1])
        f = wide["factors"][arguments["neighbours"][part]]
        offset = 0.0 if arguments["offset"] is None else arguments["offset"][arguments["neighbours"][part]]
        diagonal = arguments["base_diagonal"] + arguments["ridge"][row] * arguments["mask"]
        pull = f.T @ (wide["confidence"][part] * (wide["target"][part] - offset - f @ x)) - diagonal * x
        size = (np.abs(f).T @ (wide["confidence"][part] * (1 + np.abs(f) @ np.abs(x))))[last:].max()
        assert np.abs(pull[last:]).max() <= tolerance * size


@given(seed=st.integers(0, 2**16), rank=st.integers(1, 40), biased=st.booleans())
@settings(max_examples=30, deadline=None)
def test_no_sweep_raises_the_loss(seed: int, rank: int, biased: bool) -> None:
    arguments = block([1, 4, 9, 50], rank, seed=seed, biased=biased and rank > 1)
    losses = [whole_loss(arguments, arguments["warm"])]
    for _ in range(5):
        arguments["warm"] = solve_block(**arguments, solver="subspace").factors
        losses.append(whole_loss(arguments, arguments["warm"]))
    # Float64 sums of about 100 terms.
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))


@pytest.mark.parametrize("biased", [False, True])
def test_enough_sweeps_reach_the_exact_solution(biased: bool) -> None:
    arguments = block([1, 5, 60, 300], rank=20, biased=biased)
    exact = solve_block(**arguments, solver="exact").factors
    for _ in range(1000):
        arguments["warm"] = solve_block(**arguments, solver="subspace").factors
    np.testing.assert_allclose(arguments["warm"], exact, rtol=1e-8, atol=1e-8)


def test_cg_reports_the_loss_of_the_state_before_and_exact_of_the_state_after() -> None:
    arguments = block([3, 0, 20, 70], rank=5)
    before, after = solve_block(**arguments, solver="cg"), solve_block(**arguments, solver="exact")
    warm = arguments["warm"].copy()
    assert before.observed_loss == pytest.approx(loss_of(arguments, warm), rel=1e-12)
    assert after.observed_loss == pytest.approx(loss_of(arguments, after.factors), rel=1e-12)
    looked = solve_block(**arguments, solver="residual")
    assert np.array_equal(looked.factors, warm)
    assert looked.observed_loss == pytest.approx(before.observed_loss, rel=1e-14)


@pytest.mark.parametrize(
    ("solver", "length"), [("cg", SEGMENT + 1), ("cg", SEGMENT + 17), ("subspace", TILE + 1), ("exact", 2 * TILE + 17)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, DOUBLE), (np.float32, SINGLE)])
def test_a_very_long_row_is_solved_exactly_by_every_solver(
    solver: Any, length: int, dtype: type, tolerance: float
) -> None:
    arguments = block([3, length], rank=3, dtype=dtype, n_other=500)
    wanted = oracle(arguments)[1]
    solved = solve_block(**arguments, solver=solver, steps=1)
    np.testing.assert_allclose(solved.factors[1], wanted, rtol=tolerance, atol=tolerance * abs(wanted).max())
    state = (solved.factors if solver == "exact" else arguments["warm"]).astype(np.float64)
    assert solved.observed_loss == pytest.approx(loss_of(arguments, state), rel=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, DOUBLE), (np.float32, 1e-4)])
@pytest.mark.parametrize(("rank", "length"), [(3, TILE), (3, TILE + 1), (3, SEGMENT), (100, 90_000)])
def test_steps_in_a_long_row_agree_with_the_twin(rank: int, length: int, dtype: type, tolerance: float) -> None:
    # Factors that take more than KEPT_BYTES are fetched again for each step. The tolerance of float32 is that of sums
    # of as many numbers, which the twin takes in another order.
    assert (rank == 100) == (length * rank * np.dtype(dtype).itemsize > KEPT_BYTES)
    arguments = block([5, length, 3], rank=rank, dtype=dtype, n_other=700)
    fast, plain = solve_block(**arguments, solver="cg", steps=3), solve_block_numpy(**arguments, solver="cg", steps=3)
    np.testing.assert_allclose(fast.factors, plain.factors, rtol=tolerance, atol=tolerance * abs(plain.factors).max())
    assert fast.observed_loss == pytest.approx(plain.observed_loss, rel=tolerance)
    assert fast.residual_sum == pytest.approx(plain.residual_sum, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("solver", ["cg", "subspace", "exact"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_gets_the_same_bits_in_any_block(solver: Any, dtype: type) -> None:
    lengths = [3, 0, 12, 1, 40, TILE + 5, 7, 2, 100]
    arguments = block(lengths, rank=8, dtype=dtype)
    together = solve_block(**arguments, solver=solver).factors
    for first, last in ((0, 1), (1, 5), (5, 6), (6, 9)):
        start, stop = arguments["row_ptr"][first], arguments["row_ptr"][last]
        part = arguments | {
            "row_ptr": arguments["row_ptr"][first : last + 1] - start,
            "neighbours": arguments["neighbours"][start:stop],
            "confidence": arguments["confidence"][start:stop],
            "target": arguments["target"][start:stop],
            "warm": arguments["warm"][first:last],
            "ridge": arguments["ridge"][first:last],
        }
        assert np.array_equal(solve_block(**part, solver=solver).factors, together[first:last])


def test_arrays_mapped_read_only_or_unaligned_give_the_same_bits() -> None:
    arguments = block([5, 30], rank=9, dtype=np.float32)
    shifted = np.empty(arguments["factors"].nbytes + 4, np.uint8)[4:].view(np.float32).reshape(40, 9)
    shifted[:] = arguments["factors"]
    shifted.flags.writeable = False
    one = solve_block(**arguments, solver="cg").factors
    assert np.array_equal(solve_block(**arguments | {"factors": shifted}, solver="cg").factors, one)


@pytest.mark.parametrize("solver", ["cg", "subspace", "exact", "residual"])
def test_no_rows_give_an_empty_matrix(solver: Any) -> None:
    solved = solve_block(**block([], rank=4), solver=solver)
    assert solved.factors.shape == (0, 4)
    assert (solved.observed_loss, solved.residual_sum, solved.jitters) == (0.0, 0.0, 0)


def test_a_singular_system_takes_a_jitter_and_is_counted() -> None:
    arguments = block([4], rank=6) | {"base_diagonal": np.zeros(6), "ridge": np.zeros(1)}
    arguments["confidence"] = np.ones(4)
    solved = solve_block(**arguments, solver="exact")
    assert solved.jitters > 0
    # Four equations, six unknowns: with next to no ridge the fit is all but perfect.
    assert solved.observed_loss < 1e-6


@pytest.mark.parametrize("solve", [solve_block, solve_block_numpy])
def test_a_row_that_cannot_be_solved_is_named(solve: Any) -> None:
    arguments = block([4, 20], rank=6)
    arguments["target"][:] = np.nan
    arguments["confidence"][10] = np.nan
    with pytest.raises(NumericalError, match="row 101"):
        solve(**arguments | {"solver": "exact", "first_row": 100})


def test_cg_without_a_start_is_refused() -> None:
    with pytest.raises(ValueError, match="warm"):
        solve_block(**block([2], rank=2) | {"warm": None}, solver="cg")


@pytest.mark.parametrize("solver", ["cg", "subspace", "exact"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, DOUBLE), (np.float32, SINGLE)])
def test_a_row_summed_in_segments_elsewhere_gets_the_bits_of_one_summed_in_its_block(
    solver: Any, biased: bool, dtype: type, tolerance: float
) -> None:
    arguments = block([3, 2 * SEGMENT + TILE + 5, 40, SEGMENT + 1], rank=4, dtype=dtype, n_other=700, biased=biased)
    here = solve_block(**arguments, solver=solver)
    rows, sums = [], []
    for row, (first, last) in enumerate(pairwise(arguments["row_ptr"].tolist())):
        if last - first > SEGMENT:
            total = np.zeros((4, 5))
            for start in range(first, last, SEGMENT):
                part = slice(start, min(start + SEGMENT, last))
                total += segment_sums(
                    arguments["neighbours"][part],
                    arguments["confidence"][part],
                    arguments["target"][part],
                    arguments["factors"],
                    arguments["offset"],
                )
            rows.append(row)
            sums.append(total)
    assert rows == [1, 3]
    known = long_sums(rows, sums)
    elsewhere = solve_block(**arguments, solver=solver, known=known)
    assert elsewhere.factors.tobytes() == here.factors.tobytes()
    assert (elsewhere.observed_loss, elsewhere.residual_sum) == (here.observed_loss, here.residual_sum)
    np.testing.assert_allclose(here.factors[rows], oracle(merged(arguments))[rows], rtol=tolerance, atol=tolerance)
    # Sums that are there are used: twice as much of everything is another row.
    doubled = solve_block(**arguments, solver=solver, known=long_sums(rows, [2 * one for one in sums])).factors
    assert not np.array_equal(doubled[1], here.factors[1])
    assert np.array_equal(doubled[2], here.factors[2])
