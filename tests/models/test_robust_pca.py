"""Robust PCA beside planted answers, its own formulas, and clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import DTypeLike, NDArray
from pyspark.sql import SparkSession
from scipy.sparse import csr_array

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation import planted_pictures
from factorlake.models import robust_pca as module
from factorlake.models.plain_background import background_rows, foreground_rows, plain_background
from factorlake.models.plan import ArrayRows
from factorlake.models.robust_pca import (
    RobustPca,
    RobustPcaIteration,
    RobustPcaParameters,
    least_tolerance,
    low_rank_rows,
    robust_pca,
    sparse_rows,
)
from factorlake.models.row_plan import CsrRows, LocalRowPlan, even_blocks
from tests.reference import robust_pca as plain

Floats = NDArray[np.floating]


class Separated(NamedTuple):
    found: RobustPca[ArrayRows]
    low_rank: Floats
    sparse: Floats


def separate(matrix: NDArray[np.floating], threads: int = 1, **parameters: float) -> Separated:
    """Separate an array, and bring both parts into memory."""
    chosen = RobustPcaParameters(**parameters)  # type: ignore[arg-type]
    with LocalRowPlan(even_blocks(len(matrix), matrix.shape[1] * 8), threads) as plan:
        found = robust_pca(plan, plan.hold(matrix), matrix.shape[1], chosen)
        return Separated(found, low_rank_rows(plan, found).whole(), sparse_rows(plan, found).whole())


def planted(n_rows: int, n_columns: int, rank: int, share: float, errors: str, seed: int) -> tuple[Floats, Floats]:
    """Return L and S. ``signs``: entries of L's factors of variance 1/n and errors ±1, as in table 1 of Candès, Li, Ma
    and Wright; ``uniform``: of variance 1 and errors within ±500, as in section 5 of Lin, Chen and Ma."""
    random = np.random.default_rng(seed)
    low_rank = random.standard_normal((n_rows, rank)) @ random.standard_normal((rank, n_columns))
    places = random.permutation(n_rows * n_columns)[: round(share * n_rows * n_columns)]
    sparse = np.zeros(n_rows * n_columns)
    if errors == "signs":
        low_rank /= max(n_rows, n_columns)
        sparse[places] = random.choice([-1.0, 1.0], len(places))
    else:
        sparse[places] = random.uniform(-500, 500, len(places))
    return low_rank, sparse.reshape(n_rows, n_columns)


def relative(found: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(found.astype(np.float64) - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("errors", ["signs", "uniform"])
@pytest.mark.parametrize(("tolerance", "allowed"), [(1e-7, 2e-6), (1e-8, 1e-6)])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_parts_are_found_with_rank_and_support_exact(
    errors: str, tolerance: float, allowed: float, seed: int
) -> None:
    low_rank, sparse = planted(500, 500, 25, 0.05, errors, seed)
    found = separate(low_rank + sparse, tolerance=tolerance)
    assert found.found.converged
    assert found.found.residual <= tolerance
    assert found.found.rank == 25
    # The support is where the sparse part is not zero: shrinkage makes exact zeros, so no threshold is needed.
    np.testing.assert_array_equal(found.sparse != 0, sparse != 0)
    assert relative(found.low_rank, low_rank) <= allowed


def test_two_threads_give_the_same_bits_as_one() -> None:
    low_rank, sparse = planted(400, 150, 6, 0.05, "signs", 4)
    one, two = (separate((low_rank + sparse).astype(np.float32), threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.low_rank, two.low_rank)
    np.testing.assert_array_equal(one.sparse, two.sparse)
    np.testing.assert_array_equal(one.found.singular_values, two.found.singular_values)
    assert one.found.residual == two.found.residual


@pytest.mark.spark
def test_spark_gives_the_same_bits_as_threads(spark: SparkSession, tmp_path: Path) -> None:
    from factorlake.spark.row_plan import StoredRowPlan

    low_rank, sparse = planted(160, 60, 2, 0.05, "signs", 4)
    matrix = (low_rank + sparse).astype(np.float32)
    local = separate(matrix, max_iterations=4)
    plan = StoredRowPlan(spark, str(tmp_path), even_blocks(160, 480))
    found = robust_pca(plan, plan.hold(matrix), 60, RobustPcaParameters(max_iterations=4))
    np.testing.assert_array_equal(low_rank_rows(plan, found).whole(), local.low_rank)
    np.testing.assert_array_equal(sparse_rows(plan, found).whole(), local.sparse)
    assert [row.residual for row in found.trace] == [row.residual for row in local.found.trace]
    # W and UΣ; what else was held on the way is gone.
    assert len(list(tmp_path.iterdir())) == 2


def test_iterations_are_those_of_the_plain_method_where_the_search_spans_all_columns() -> None:
    low_rank, sparse = planted(90, 14, 2, 0.05, "signs", 5)
    matrix = low_rank + sparse
    theirs, ours = plain.robust_pca(matrix, 1e-7), separate(matrix)
    assert [row.rank for row in ours.found.trace] == theirs.ranks
    # Residuals are differences of numbers of order 1, rounded at 1e-16, divided by the norm (about 8).
    np.testing.assert_allclose([row.residual for row in ours.found.trace], theirs.residuals, rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(ours.low_rank, theirs.low_rank, atol=1e-12)
    np.testing.assert_allclose(ours.sparse, theirs.sparse, atol=1e-12)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(300, 60), (300, 250), (90, 400)])
def test_parts_are_those_of_the_plain_method(n_rows: int, n_columns: int) -> None:
    low_rank, sparse = planted(n_rows, n_columns, 4, 0.05, "uniform", 6)
    matrix = low_rank + sparse
    theirs, ours = plain.robust_pca(matrix, 1e-9), separate(matrix, tolerance=1e-9)
    assert ours.found.rank == theirs.ranks[-1] == 4
    # μ starts a per cent apart, so both end at different points within their tolerance: 1e-9 of ‖D‖, which is about
    # 30 ‖L‖.
    assert relative(ours.low_rank, theirs.low_rank) < 1e-7
    assert relative(ours.sparse, theirs.sparse) < 1e-7


def test_a_rank_above_a_tenth_of_the_columns_is_found_by_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    low_rank, sparse = planted(300, 200, 30, 0.03, "signs", 7)
    whole = separate(low_rank + sparse)
    monkeypatch.setattr(module, "MOST_WHOLE", 0)
    directed = separate(low_rank + sparse)
    assert whole.found.rank == directed.found.rank == 30
    assert sum(row.passes for row in whole.found.trace) < sum(row.passes for row in directed.found.trace)
    # Both end within 1e-7 of ‖D‖, which is about 25 ‖L‖.
    assert relative(whole.low_rank, directed.low_rank) < 4e-6


def test_slow_growth_comes_near_the_optimum() -> None:
    random = np.random.default_rng(8)
    # Nothing planted: neither part is simple, and the answer is known by duality only.
    matrix = random.standard_normal((60, 40)) + 3.0 * random.standard_normal((60, 1))
    sparsity = 1 / np.sqrt(60)
    multipliers = plain.robust_pca(matrix, 1e-9, growth=1.01).multipliers
    bound = plain.lower_bound(matrix, multipliers, sparsity)
    gaps = []
    for growth in (1.5, 1.02):
        found = separate(matrix, tolerance=1e-9, growth=growth, max_iterations=3000)
        value = plain.objective(found.low_rank, found.sparse, sparsity)
        gaps.append(value / bound - 1.0)
        # The residual of 1e-9 of ‖D‖ could be put into either part.
        assert value >= bound * (1 - 1e-6)
    assert gaps[1] < 1e-4
    assert gaps[1] < gaps[0]


def test_the_trace_tells_the_state_of_the_parts() -> None:
    low_rank, sparse = planted(120, 50, 3, 0.1, "signs", 9)
    matrix = low_rank + sparse
    told: list[RobustPcaIteration] = []
    for iterations in (2, 5):
        with LocalRowPlan(even_blocks(120, 400)) as plan:
            parameters = RobustPcaParameters(max_iterations=iterations)
            found = robust_pca(plan, plan.hold(matrix), 50, parameters, told.append)
            parts = low_rank_rows(plan, found).whole(), sparse_rows(plan, found).whole()
            left = found.left.whole()
        last = found.trace[-1]
        assert found.stopped == "iterations"
        assert not found.converged
        assert last.iteration == found.iterations == iterations
        assert last.nonzeros == found.nonzeros == np.count_nonzero(parts[1])
        # Sums of 6,000 float64 numbers of order 1.
        assert last.residual == pytest.approx(np.linalg.norm(matrix - parts[0] - parts[1]) / np.linalg.norm(matrix))
        assert last.objective == pytest.approx(plain.objective(*parts, 1 / np.sqrt(120)))
        assert found.rank == np.linalg.matrix_rank(parts[0])
        np.testing.assert_allclose(found.right.T @ found.right, np.eye(found.rank), atol=1e-12)
        np.testing.assert_allclose(np.linalg.norm(left, axis=0), found.singular_values, rtol=1e-12)
    assert [row.iteration for row in told] == [1, 2, 1, 2, 3, 4, 5]


def test_a_matrix_twice_as_large_has_parts_twice_as_large() -> None:
    low_rank, sparse = planted(200, 120, 5, 0.05, "signs", 10)
    one, two = separate(low_rank + sparse), separate(2.0 * (low_rank + sparse))
    assert one.found.iterations == two.found.iterations
    # The same numbers but for the exponent; LAPACK may scale by other than powers of two.
    np.testing.assert_allclose(2.0 * one.low_rank, two.low_rank, atol=1e-12)
    np.testing.assert_allclose(2.0 * one.sparse, two.sparse, atol=1e-12)


def test_a_smaller_weight_moves_more_into_the_sparse_part() -> None:
    low_rank, sparse = planted(150, 100, 5, 0.05, "signs", 11)
    found = [separate(low_rank + sparse, sparsity=weight).found for weight in (0.005, 0.3)]
    # Below 1/√(mn) all goes there: then λ·sign(D) proves it optimal.
    assert found[0].rank == 0
    assert found[0].sparsity == 0.005
    assert found[1].nonzeros < found[0].nonzeros


def test_float32_reaches_the_precision_of_its_numbers_and_stops_there() -> None:
    low_rank, sparse = planted(600, 200, 5, 0.05, "uniform", 12)
    matrix = (low_rank + sparse).astype(np.float32)
    usual, strict = separate(matrix, tolerance=1e-7), separate(matrix, tolerance=1e-12)
    assert usual.found.converged
    assert strict.found.stopped == "rounding"
    assert strict.found.residual <= least_tolerance(np.float32) < 1e-7
    for one in (usual, strict):
        assert one.low_rank.dtype == one.sparse.dtype == np.float32
        assert one.found.rank == 5
        # As for float64 at tolerance 1e-7; rounding of D (6e-8, of which ‖D‖ is about 50 ‖L‖) comes on top.
        assert relative(one.low_rank, low_rank) < 4e-6


def test_a_tolerance_below_all_rounding_ends() -> None:
    low_rank, sparse = planted(60, 30, 2, 0.05, "signs", 13)
    found = separate(low_rank + sparse, tolerance=1e-300).found
    assert found.stopped == "rounding"
    assert found.iterations < 200
    assert found.residual < 1e-13


def test_sparse_rows_give_what_dense_ones_give() -> None:
    low_rank, sparse = planted(200, 40, 2, 0.1, "uniform", 14)
    matrix = np.where(np.random.default_rng(14).random((200, 40)) < 0.5, low_rank + sparse, 0.0)
    block_ptr = even_blocks(200, 320)
    dense = separate(matrix)
    with LocalRowPlan(block_ptr) as plan:
        held: Any = CsrRows.of(csr_array(matrix), block_ptr)
        found: RobustPca[Any] = robust_pca(plan, held, 40)
        parts = low_rank_rows(plan, found).whole(), sparse_rows(plan, found).whole()
    assert found.iterations == dense.found.iterations
    # Norms are added up in another order: rounding at 1e-16 of numbers up to 500, over some tens of iterations.
    np.testing.assert_allclose(parts[0], dense.low_rank, atol=1e-9)
    np.testing.assert_allclose(parts[1], dense.sparse, atol=1e-9)


def test_the_matrix_may_be_read_only_and_stays_as_it_is() -> None:
    low_rank, sparse = planted(80, 40, 2, 0.05, "signs", 15)
    matrix = low_rank + sparse
    before = matrix.copy()
    matrix.flags.writeable = False
    separate(matrix)
    np.testing.assert_array_equal(matrix, before)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (40, 7)])
def test_a_matrix_without_numbers_or_of_zeros_has_zero_parts(shape: tuple[int, int]) -> None:
    found = separate(np.zeros(shape, np.float32))
    assert found.found.converged
    assert found.found.rank == found.found.iterations == found.found.nonzeros == 0
    assert found.found.residual == 0.0
    for part in (found.low_rank, found.sparse):
        assert part.shape == shape
        assert part.dtype == np.float32
        assert not part.any()


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (3, 200), (200, 3), (1, 1)])
def test_narrow_matrices_are_separated_as_the_plain_method_does(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(16).standard_normal(shape)
    ours, theirs = separate(matrix), plain.robust_pca(matrix, 1e-7)
    assert ours.found.converged
    # ‖D‖₂ is exact here, so both run through the same numbers but for rounding.
    np.testing.assert_allclose(ours.low_rank, theirs.low_rank, atol=1e-10)
    np.testing.assert_allclose(ours.sparse, theirs.sparse, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_matrix_is_of_low_rank_alone(dtype: DTypeLike) -> None:
    found = separate(np.full((60, 25), -3.0, dtype))
    assert found.found.rank == 1
    # L and S meet at the tolerance, 1e-7 of ‖D‖: in one entry it may be up to √1500 times its share.
    np.testing.assert_allclose(found.low_rank, -3.0, atol=1.2e-5)
    np.testing.assert_allclose(found.sparse, 0.0, atol=1.2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(bad: float) -> None:
    matrix = np.ones((100, 6))
    matrix[71, 2] = matrix[90, 0] = bad
    with pytest.raises(NumericalError, match="row 71 "):
        separate(matrix)


def test_rows_of_another_width_or_type_are_refused() -> None:
    with LocalRowPlan(even_blocks(4, 24)) as plan:
        with pytest.raises(ConfigError, match="3 columns"):
            robust_pca(plan, plan.hold(np.ones((4, 2))), 3)
        with pytest.raises(ConfigError, match="int64"):
            robust_pca(plan, plan.hold(np.ones((4, 3), np.int64)), 3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sparsity", 0.0),
        ("sparsity", np.nan),
        ("tolerance", 0.0),
        ("tolerance", 1.0),
        ("growth", 1.0),
        ("growth", np.inf),
        ("max_iterations", 0),
        ("oversampling", -1),
        ("seed", -1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        RobustPcaParameters(**{name: value})  # type: ignore[arg-type]


def test_a_drawn_clip_comes_apart_into_its_scene_and_its_walkers() -> None:
    clip = planted_pictures.clip(60, 72, 96, seed=3)
    frames = _as_columns(clip.frames) / 255.0
    scene, masks = _as_columns(clip.background), _as_columns(clip.masks)
    found = separate(frames)
    plain_scene, plain_rest = _plain_parts(frames)
    # The scene's light changes in two ways; what else L has is rounding of grey levels.
    assert int(np.sum(found.found.singular_values > 0.01 * found.found.singular_values[0])) <= 2

    def off(background: Floats) -> float:
        """Root mean square in grey levels, where walkers cover the scene."""
        return float(np.sqrt(np.mean((255.0 * background - scene)[masks] ** 2)))

    # Grey levels are rounded, which alone is 0.29; walkers differ by 8 or more, and the best rank-1 scene keeps ghosts.
    assert off(found.low_rank) < 0.5
    assert off(plain_scene) > 5 * off(found.low_rank)

    def overlap(foreground: Floats) -> float:
        moving = np.abs(foreground) > 8 / 255
        return float((moving & masks).sum() / (moving | masks).sum())

    assert overlap(found.sparse) > 0.9
    assert overlap(found.sparse) > overlap(plain_rest)
    assert (np.abs(found.sparse) > 8 / 255).any(axis=0).all()


@pytest.mark.parametrize("clip", ["video-escalator", "video-shop"])
def test_people_in_a_clip_are_in_the_sparse_part_and_the_scene_in_the_other(data_dir: Path, clip: str) -> None:
    with np.load(data_dir / clip / "frames.npz") as file:
        frames = _as_columns(file["frames"][:, ::2, ::2]) / 255.0
    found = separate(frames)
    plain_scene, _ = _plain_parts(frames)
    assert found.found.converged
    # The scene changes by its light, and on the escalator by its steps: few strong directions of 157 or 198.
    assert int(np.sum(found.found.singular_values > 0.01 * found.found.singular_values[0])) <= 10
    # Where nothing moves in most frames, the median over time is the empty scene.
    median = np.median(frames, axis=1)
    low, high = np.percentile(frames, [25, 75], axis=1)
    still = high - low <= 6 / 255
    assert still.mean() > 0.2

    def near_median(background: Floats) -> float:
        return float(np.mean(np.abs(background - median[:, None])[still] <= 5 / 255))

    assert near_median(found.low_rank) > 0.85
    assert near_median(found.low_rank) > near_median(plain_scene)

    def motion(part: Floats) -> float:
        return float(np.sum(np.diff(part[still], axis=1) ** 2))

    assert motion(found.sparse) > 0.9 * motion(frames)
    assert motion(found.low_rank) < 0.04 * motion(frames)
    # Both clips show people in every frame; they cover a few per cent of the picture.
    moving = np.abs(found.sparse) > 0.1
    assert 0.02 < moving.mean() < 0.06
    assert moving.any(axis=0).all()


def _as_columns(frames: NDArray[Any]) -> NDArray[Any]:
    """Return a matrix of pixels × frames."""
    return np.ascontiguousarray(frames.reshape(len(frames), -1).T)


def _plain_parts(frames: Floats) -> tuple[Floats, Floats]:
    """Return the best rank-1 approximation, and the rest."""
    with LocalRowPlan(even_blocks(len(frames), frames.shape[1] * 8)) as plan:
        matrix = plan.hold(frames)
        found = plain_background(plan, matrix, frames.shape[1])
        return background_rows(plan, found).whole(), foreground_rows(plan, matrix, found).whole()


def test_the_short_cut_is_the_best_approximation_of_its_rank() -> None:
    matrix = np.random.default_rng(17).standard_normal((50, 12))
    with LocalRowPlan(even_blocks(50, 96)) as plan:
        held = plan.hold(matrix)
        found = plain_background(plan, held, 12, rank=3)
        background = background_rows(plan, found).whole()
        foreground = foreground_rows(plan, held, found).whole()
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    # 22 directions are sought in 12 dimensions, so the decomposition is exact but for rounding.
    np.testing.assert_allclose(background, (left[:, :3] * values[:3]) @ right[:3], atol=1e-12)
    np.testing.assert_allclose(background + foreground, matrix, atol=1e-14)
