"""Robust PCA on planted errors, on clips, and beside a plain NumPy implementation on a large planted matrix.

    python -m benchmarks.decompose --method rpca

The first part plants a square float64 matrix of low rank with gross errors, as Candès, Li, Ma and Wright do (L of
entries with variance rank/n², errors ±1) and as Lin, Chen and Ma do (L of entries with variance rank, errors uniform
within ±500), and tells the error of L, the rank, and at how many cells the support of S is wrong: the support is where
S is not zero. The second takes clips apart into an empty scene and what moves, told by numbers; beside it the short
cut, the best rank-1 approximation. The third plants a float32 matrix of many rows and takes it apart three times: by
threads, inside Spark (from blocks in mapped files), and by the same method as it is usually written in NumPy, with a
whole SVD in every iteration, and as many threads of BLAS as make that quickest. Each runs in a process of its own, with
the same two cores; memory is the most that its processes held, the matrix included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from factorlake.config.settings import SparkSettings
from factorlake.models.plain_background import background_rows, plain_background
from factorlake.models.robust_pca import (
    RobustPca,
    RobustPcaParameters,
    low_rank_rows,
    robust_pca,
    sparse_rows,
)
from factorlake.models.row_plan import H, LocalRowPlan, RowPlan, even_blocks
from factorlake.spark.row_plan import StoredRowPlan
from factorlake.spark.session import open_session
from factorlake.types import FloatMatrix

THREADS = 2
CLIPS = ("video-escalator", "video-shop")
ERROR_SIZE = 10.0
"""Errors in the large matrix are uniform within ± so many standard deviations of the low-rank part's entries."""
_RIGHT, _ROWS = 0, 1
"""Separate streams of one seed."""

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` is told."""
    parser.add_argument("--parts", default="planted,clips,large", help="comma-separated: planted, clips, large")
    parser.add_argument("--size", type=int, default=500, help="rows and columns of the planted matrix")
    parser.add_argument("--planted-rank", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3, help="planted matrices of each kind")
    parser.add_argument("--rows", type=int, default=76_800, help="of the large matrix")
    parser.add_argument("--columns", type=int, default=794)
    parser.add_argument("--rank", type=int, default=10, help="of the large matrix")
    parser.add_argument("--share", type=float, default=0.05, help="of cells with errors, in both planted parts")
    parser.add_argument("--tolerance", type=float, default=1e-7, help="of clips and the large matrix")
    parser.add_argument("--repeat", type=int, default=3, help="times that ours runs on the large matrix")
    parser.add_argument("--systems", default="local,spark,numpy", help="that take the large matrix apart")
    parser.add_argument("--numpy-iterations", type=int, default=100, help="most iterations of the NumPy implementation")
    parser.add_argument("--driver-memory", default="2g", help="of the JVM")


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Return figures and ratios of the parts asked for."""
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    parts = arguments.parts.split(",")
    if "planted" in parts:
        figures["planted"] = of_planted(arguments)
        for tolerance in (1e-7, 1e-8):
            same = [one for one in figures["planted"] if one["tolerance"] == tolerance]
            ratios[f"planted_error_at_{tolerance:.0e}"] = max(one["relative_error"] for one in same)
        exact = [one["rank_found"] == arguments.planted_rank for one in figures["planted"]]
        ratios["planted_ranks_exact"] = statistics.mean(exact)
        ratios["planted_supports_exact"] = statistics.mean(one["cells_wrong"] == 0 for one in figures["planted"])
    if "clips" in parts and arguments.folder is not None:
        figures["clips"] = {
            clip: of_clip(Path(arguments.folder) / clip / "frames.npz", arguments.tolerance) for clip in CLIPS
        }
    if "large" in parts:
        large = figures["large"] = of_large(arguments)
        if "numpy" in large:
            for name in ("local", "spark"):
                if name in large:
                    ratios[f"numpy_seconds_over_{name}"] = large["numpy"]["seconds"] / large[name]["seconds"]
            if "local" in large:
                ratios["numpy_memory_over_local"] = large["numpy"]["peak_mb"] / large["local"]["peak_mb"]
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.4g}", flush=True)
    return figures, ratios


def of_planted(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Take planted matrices apart at two tolerances."""
    n, rank, rows = arguments.size, arguments.planted_rank, []
    for errors in ("signs", "uniform"):
        for seed in range(1, arguments.seeds + 1):
            low_rank, sparse = planted(n, rank, arguments.share, errors, seed)
            for tolerance in (1e-7, 1e-8):
                one = separated(low_rank + sparse, RobustPcaParameters(tolerance=tolerance))
                wrong = int(np.sum((one.sparse != 0) != (sparse != 0)))
                rows.append(
                    {
                        "errors": errors,
                        "seed": seed,
                        "tolerance": tolerance,
                        "relative_error": _relative(one.low_rank, low_rank),
                        "rank_found": one.found.rank,
                        "cells_wrong": wrong,
                        "residual": one.found.residual,
                        "iterations": one.found.iterations,
                        "seconds": one.seconds,
                    }
                )
                print(
                    f"planted, {errors:<7} seed {seed}, tolerance {tolerance:.0e}: "
                    f"relative error of L {rows[-1]['relative_error']:.2e}, rank {one.found.rank}, "
                    f"{wrong} cells of the support wrong, {one.seconds:.2f} s",
                    flush=True,
                )
    return rows


def planted(n: int, rank: int, share: float, errors: str, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return L and S (n, n); ``errors``: signs or uniform."""
    random = np.random.default_rng(seed)
    low_rank = random.standard_normal((n, rank)) @ random.standard_normal((rank, n))
    places = random.permutation(n * n)[: round(share * n * n)]
    sparse = np.zeros(n * n)
    if errors == "signs":
        low_rank /= n
        sparse[places] = random.choice([-1.0, 1.0], len(places))
    else:
        sparse[places] = random.uniform(-500, 500, len(places))
    return low_rank, sparse.reshape(n, n)


@dataclass(frozen=True)
class Separated:
    """Both parts of a matrix in memory, and how they were found."""

    found: RobustPca[Any]
    low_rank: FloatMatrix
    sparse: FloatMatrix
    seconds: float


def separated(matrix: FloatMatrix, parameters: RobustPcaParameters) -> Separated:
    """Take an array apart by threads."""
    with LocalRowPlan(_block_ptr(matrix), THREADS) as plan:
        began = time.perf_counter()
        found = robust_pca(plan, plan.hold(matrix), matrix.shape[1], parameters)
        seconds = time.perf_counter() - began
        return Separated(found, low_rank_rows(plan, found).whole(), sparse_rows(plan, found).whole(), seconds)


def of_clip(path: Path, tolerance: float) -> dict[str, Any]:
    """Take a clip apart, as float32 between 0 and 1.

    Still pixels are those whose quartiles over time lie within 6 grey levels; of these the median over time is taken
    for the empty scene. Motion is the energy of the differences from frame to frame.
    """
    with np.load(path) as file:
        frames = file["frames"]
    matrix = np.ascontiguousarray(frames.reshape(len(frames), -1).T, dtype=np.float32) / np.float32(255)
    one = separated(matrix, RobustPcaParameters(tolerance=tolerance))
    with LocalRowPlan(_block_ptr(matrix), THREADS) as plan:
        plain = background_rows(plan, plain_background(plan, plan.hold(matrix), len(frames))).whole()
    low, median, high = np.percentile(matrix, [25, 50, 75], axis=1)
    still = high - low <= 6 / 255

    def near_median(scene: FloatMatrix) -> float:
        return float(np.mean(np.abs(scene - median[:, None])[still] <= 5 / 255))

    def motion(part: FloatMatrix) -> float:
        return float(np.sum(np.square(np.diff(part[still], axis=1)), dtype=np.float64))

    moving = np.abs(one.sparse) > 0.1
    values = one.found.singular_values
    found = {
        "pixels": len(matrix),
        "frames": len(frames),
        "seconds": one.seconds,
        "iterations": one.found.iterations,
        "residual": one.found.residual,
        "rank_found": one.found.rank,
        "singular_values_above_a_hundredth": int(np.sum(values > 0.01 * values[0])),
        "still_share": float(still.mean()),
        "scene_near_median": near_median(one.low_rank),
        "scene_near_median_of_rank_1": near_median(plain),
        "motion_in_sparse": motion(one.sparse) / motion(matrix),
        "motion_in_scene": motion(one.low_rank) / motion(matrix),
        "moving_share": float(moving.mean()),
        "least_moving_share_of_a_frame": float(moving.mean(axis=0).min()),
    }
    print(
        f"{path.parent.name}: {one.seconds:.2f} s; of still pixels {found['scene_near_median']:.1%} of the scene are "
        f"within 5 grey levels of the median (rank 1: {found['scene_near_median_of_rank_1']:.1%}), and "
        f"{found['motion_in_sparse']:.1%} of the motion is in the sparse part",
        flush=True,
    )
    return found


@dataclass(frozen=True)
class Plant:
    """A large float32 matrix of which every block of rows can be drawn by itself."""

    n_rows: int
    n_columns: int
    rank: int
    share: float

    def block_ptr(self) -> NDArray[np.int64]:
        return even_blocks(self.n_rows, 4 * self.n_columns)

    def parts(self, first_row: int) -> tuple[FloatMatrix, FloatMatrix]:
        """Return the rows of L and S of the block that starts at a row. Entries of L have variance 1."""
        ends = self.block_ptr()
        n_rows = int(ends[np.searchsorted(ends, first_row, side="right")]) - first_row
        right = np.random.default_rng([1, _RIGHT]).standard_normal((self.rank, self.n_columns), np.float32)
        random = np.random.default_rng([1, _ROWS, first_row])
        left = random.standard_normal((n_rows, self.rank), np.float32) / np.float32(np.sqrt(self.rank))
        low_rank = left @ right
        sparse = random.uniform(-ERROR_SIZE, ERROR_SIZE, low_rank.shape).astype(np.float32)
        sparse[random.random(low_rank.shape) >= self.share] = 0.0
        return low_rank, sparse

    def rows(self, first_row: int) -> tuple[FloatMatrix, None]:
        """Return the rows of the matrix of a block, for ``map_rows``."""
        low_rank, sparse = self.parts(first_row)
        low_rank += sparse
        return low_rank, None

    def misses(self, first_row: int, low_rank: FloatMatrix, sparse: FloatMatrix) -> tuple[float, float, int]:
        """Return ‖L − L₀‖² and ‖L₀‖² of a block, and the number of cells at which the support is wrong."""
        true_low_rank, true_sparse = self.parts(first_row)
        wrong = int(np.sum((sparse != 0) != (true_sparse != 0)))
        off = np.sum(np.square(low_rank - true_low_rank, dtype=np.float64))
        return float(off), float(np.sum(np.square(true_low_rank, dtype=np.float64))), wrong


def of_large(arguments: argparse.Namespace) -> dict[str, Any]:
    """Take the large matrix apart by each system, in a process of its own."""
    plant = Plant(arguments.rows, arguments.columns, arguments.rank, arguments.share)
    systems: dict[str, Callable[[], dict[str, Any]]] = {
        "local": partial(by_threads, plant, arguments.tolerance, arguments.repeat),
        "spark": partial(by_spark, plant, arguments.tolerance, arguments.repeat, arguments.driver_memory),
        "numpy": partial(by_numpy, plant, arguments.tolerance, arguments.numpy_iterations),
    }
    figures: dict[str, Any] = {
        "rows": plant.n_rows,
        "columns": plant.n_columns,
        "matrix_mb": 4e-6 * plant.n_rows * plant.n_columns,
    }
    for name in arguments.systems.split(","):
        figures[name] = one = apart(systems[name])
        print(
            f"{name:<6}{one['seconds']:8.2f} s  {one['peak_mb']:6,.0f} MB  relative error of L "
            f"{one['relative_error']:.2e}, rank {one['rank_found']}, {one['cells_wrong']} cells of the support wrong, "
            f"residual {one['residual']:.1e} after {one['iterations']} iterations",
            flush=True,
        )
    return figures


def apart(work: Callable[[], T]) -> T:
    """Return what ``work`` returns in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work).result()


def by_threads(plant: Plant, tolerance: float, repeat: int) -> dict[str, Any]:
    """Ours, rows in memory."""
    with LocalRowPlan(plant.block_ptr(), THREADS) as plan:
        matrix, _ = plan.map_rows(plant.rows)
        figures = _ours(plan, matrix, plant, tolerance, repeat)
        return {**figures, "peak_mb": _peak()}


def by_spark(plant: Plant, tolerance: float, repeat: int, driver_memory: str) -> dict[str, Any]:
    """Ours, inside Spark. Tasks plant the rows; the driver never has them."""
    spark = open_session(SparkSettings(master=f"local[{THREADS}]", driver_memory=driver_memory))
    with tempfile.TemporaryDirectory() as folder:
        plan = StoredRowPlan(spark, folder, plant.block_ptr())
        matrix, _ = plan.map_rows(plant.rows)
        figures = _ours(plan, matrix, plant, tolerance, repeat)

        def held(first_row: int) -> tuple[int, float]:
            return os.getpid(), _peak()

        workers = dict(plan.look(held))
        del matrix
    spark.stop()
    # Pages of mapped files that workers share are counted in each.
    return {**figures, "driver_peak_mb": _peak(), "peak_mb": _peak() + sum(workers.values())}


def _ours(plan: RowPlan[H], matrix: H, plant: Plant, tolerance: float, repeat: int) -> dict[str, Any]:
    parameters = RobustPcaParameters(tolerance=tolerance)
    # Compiled code is loaded before the clock runs.
    found = robust_pca(plan, matrix, plant.n_columns, RobustPcaParameters(max_iterations=1))
    each = []
    for _ in range(repeat):
        began = time.perf_counter()
        found = robust_pca(plan, matrix, plant.n_columns, parameters)
        each.append(time.perf_counter() - began)
    separation = found.separation

    def judge(first_row: int, left: FloatMatrix, held: FloatMatrix) -> tuple[float, float, int]:
        return plant.misses(first_row, separation.low_rank(left), separation.sparse(held))

    return {
        "seconds": statistics.median(each),
        "each": each,
        "rank_found": found.rank,
        "iterations": found.iterations,
        "passes": sum(row.passes for row in found.trace),
        "residual": found.residual,
        "stopped": found.stopped,
        **_judged(plan.look(judge, found.left, found.held)),
    }


def by_numpy(plant: Plant, tolerance: float, most_iterations: int) -> dict[str, Any]:
    """The same method as it is usually written: whole float32 matrices, ``np.linalg.svd`` in every iteration."""
    starts = plant.block_ptr()[:-1].tolist()
    matrix = np.empty((plant.n_rows, plant.n_columns), np.float32)
    for first_row in starts:
        rows, _ = plant.rows(first_row)
        matrix[first_row : first_row + len(rows)] = rows
    threads = quicker_threads(matrix[: len(matrix) // 4])
    with threadpool_limits(threads, user_api="blas"):
        began = time.perf_counter()
        low_rank, sparse, rank, residuals = numpy_robust_pca(matrix, tolerance, most_iterations)
        seconds = time.perf_counter() - began
    peak = _peak()
    ends = plant.block_ptr()[1:].tolist()
    judged = [
        plant.misses(first, low_rank[first:last], sparse[first:last]) for first, last in zip(starts, ends, strict=True)
    ]
    return {
        "seconds": seconds,
        "blas_threads": threads,
        "peak_mb": peak,
        "rank_found": rank,
        "iterations": len(residuals),
        "residual": residuals[-1],
        "least_residual": min(residuals),
        **_judged(judged),
    }


def quicker_threads(matrix: FloatMatrix) -> int:
    """Return with how many threads of BLAS, from 1 to THREADS, NumPy's SVD is quickest: not always with all."""

    def seconds(threads: int) -> float:
        with threadpool_limits(threads, user_api="blas"):
            began = time.perf_counter()
            np.linalg.svd(matrix, full_matrices=False)
            return time.perf_counter() - began

    return min(range(1, THREADS + 1), key=seconds)


def numpy_robust_pca(
    matrix: FloatMatrix, tolerance: float, most_iterations: int, growth: float = 1.5
) -> tuple[FloatMatrix, FloatMatrix, int, list[float]]:
    """Return L, S, the rank of L, and the residual after each iteration: the inexact augmented Lagrangian method
    without anything that spares time or memory."""
    weight = 1.0 / np.sqrt(max(matrix.shape))
    norm = np.linalg.norm(matrix)
    spectral = np.linalg.norm(matrix, 2)
    multipliers = matrix / max(spectral, np.abs(matrix).max() / weight)
    penalty = float(1.25 / spectral)
    sparse = np.zeros_like(matrix)
    residuals: list[float] = []
    while True:
        left, values, right = np.linalg.svd(matrix - sparse + multipliers / penalty, full_matrices=False)
        rank = int(np.sum(values > 1 / penalty))
        low_rank = (left[:, :rank] * (values[:rank] - 1 / penalty)) @ right[:rank]
        rest = matrix - low_rank + multipliers / penalty
        sparse = np.sign(rest) * np.maximum(np.abs(rest) - weight / penalty, 0)
        residual = matrix - low_rank - sparse
        multipliers = multipliers + penalty * residual
        penalty *= growth
        residuals.append(float(np.linalg.norm(residual) / norm))
        if residuals[-1] <= tolerance or len(residuals) >= most_iterations:
            return low_rank, sparse, rank, residuals


def _judged(blocks: list[tuple[float, float, int]]) -> dict[str, Any]:
    off, total, wrong = (sum(column) for column in zip(*blocks, strict=True))
    return {"relative_error": float(np.sqrt(off / total)), "cells_wrong": int(wrong)}


def _block_ptr(matrix: FloatMatrix) -> NDArray[np.int64]:
    return even_blocks(len(matrix), matrix.shape[1] * matrix.itemsize)


def _relative(found: FloatMatrix, truth: FloatMatrix) -> float:
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def _peak() -> float:
    """Return the most memory that this process has held since its program was loaded, in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6
