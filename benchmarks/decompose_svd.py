"""Truncated SVD beside LAPACK's best rank, and beside scikit-learn's `randomized_svd` on a large dense matrix.

    python -m benchmarks.decompose --method svd

The first part decomposes a drawn picture and compares the error with that of LAPACK's best matrix of the same rank, and
the numbers kept with those of the picture. The second part plants a dense float32 matrix (a slowly falling spectrum and
noise), which tasks write as blocks, and decomposes it inside Spark: from blocks that rest in mapped files to U, Σ and
V, the driver never holding the matrix. scikit-learn decomposes the same matrix resting in memory, with as many threads
of BLAS as Spark has slots: with its own number of iterations, and with the least that reaches our error. What it takes
to write and to load the matrix is told apart, and so is our pass that measures the error; the errors of both are
computed by it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from factorlake.config.settings import SparkSettings
from factorlake.evaluation.planted_pictures import picture
from factorlake.models.row_plan import LocalRowPlan, even_blocks
from factorlake.models.threads import single_threaded_blas
from factorlake.models.truncated_svd import SvdParameters, approximation_error, truncated_svd
from factorlake.spark.row_plan import StoredRowPlan
from factorlake.spark.session import open_session
from factorlake.types import FloatMatrix

SLOTS = 2
EQUAL = 1e-4
"""Errors that differ by no more than this share count as equal."""
MOST_ITERATIONS = 12
PLANTED = 200
"""Directions of the planted matrix beside its noise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` is told."""
    parser.add_argument("--parts", default="picture,dense", help="comma-separated: picture, dense")
    parser.add_argument("--size", type=int, default=512, help="of the picture")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--columns", type=int, default=2_000)
    parser.add_argument("--rank", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--driver-memory", default="2g", help="of the JVM")


def run(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, float]]:
    """Return figures and ratios of the parts asked for."""
    figures: dict[str, Any] = {}
    ratios: dict[str, float] = {}
    parts = arguments.parts.split(",")
    if "picture" in parts:
        figures["picture"] = of_picture(arguments.size, arguments.rank)
        ratios["picture_error_over_best"] = figures["picture"]["error_over_best"]
    if "dense" in parts:
        figures["dense"] = of_dense(arguments)
        ours, theirs = figures["dense"]["factorlake"]["seconds"], figures["dense"]["scikit_learn"]
        ratios["seconds_over_sklearn_default"] = ours / theirs["auto"]["seconds"]
        ratios["seconds_over_sklearn_at_equal_error"] = ours / theirs["equal_error"]["seconds"]
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.4f}", flush=True)
    return figures, ratios


def of_picture(size: int, rank: int) -> dict[str, Any]:
    """Decompose a drawn picture at a rank, and by energy, beside LAPACK."""
    drawn = picture(size)
    values = np.linalg.svd(drawn, compute_uv=False)
    squares = values**2
    best = float(np.sqrt(squares[rank:].sum() / squares.sum()))
    energy = 0.99
    with LocalRowPlan(even_blocks(size, 8 * size), SLOTS) as plan:
        began = time.perf_counter()
        found = truncated_svd(plan, plan.hold(drawn), size, SvdParameters(rank=rank))
        seconds = time.perf_counter() - began
        by_energy = truncated_svd(plan, plan.hold(drawn), size, SvdParameters(energy=energy))
    assert found.error is not None
    return {
        "relative_error": found.error.relative,
        "best_relative_error": best,
        "error_over_best": found.error.relative / best,
        "spectral_bound": found.error.spectral_bound,
        "spectral_error_of_best": float(values[rank]),
        "seconds": seconds,
        "numbers": size * size,
        "numbers_kept": footprint(size, size, rank),
        "numbers_kept_at_rank_10": footprint(size, size, 10),
        "energy": energy,
        "rank_found": by_energy.rank,
        "best_rank_of_energy": int(np.argmax(np.cumsum(squares) >= energy * squares.sum())) + 1,
    }


def footprint(n_rows: int, n_columns: int, rank: int) -> int:
    """Return how many numbers U, Σ and V are."""
    return rank * (n_rows + n_columns + 1)


def planted_rows(n_columns: int, block_ptr: NDArray[np.int64]) -> Callable[[int], tuple[FloatMatrix, None]]:
    """Return what makes the rows of a block from its first row: σ_j = j^−½ over PLANTED directions, and noise whose
    energy is about a tenth of theirs. Every task draws its own rows."""
    first_rows, ends = block_ptr[:-1].tolist(), block_ptr[1:].tolist()
    ends_of = dict(zip(first_rows, ends, strict=True))

    def make(first_row: int) -> tuple[FloatMatrix, None]:
        right = np.random.default_rng([1, 0]).standard_normal((PLANTED, n_columns), np.float32)
        spectrum = (np.arange(1, PLANTED + 1) ** -0.5).astype(np.float32)
        rng = np.random.default_rng([1, 1, first_row])
        n_rows = ends_of[first_row] - first_row
        rows = (rng.standard_normal((n_rows, PLANTED), np.float32) * spectrum) @ right
        for row in rows:
            row += np.float32(0.75) * rng.standard_normal(n_columns, np.float32)
        return rows, None

    return make


def of_dense(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decompose a planted matrix inside Spark, and by scikit-learn in memory."""
    n_rows, n_columns = arguments.rows, arguments.columns
    parameters = SvdParameters(rank=arguments.rank)
    block_ptr = even_blocks(n_rows, 4 * n_columns)
    spark = open_session(SparkSettings(master=f"local[{SLOTS}]", driver_memory=arguments.driver_memory))
    with tempfile.TemporaryDirectory() as folder:
        plan = StoredRowPlan(spark, folder, block_ptr)
        began = time.perf_counter()
        matrix, _ = plan.map_rows(planted_rows(n_columns, block_ptr))
        seconds_to_write = time.perf_counter() - began
        before = peak()
        # The first one loads compiled code and brings pages that were let go back to memory.
        found = truncated_svd(plan, matrix, n_columns, parameters, measure_error=False)
        seconds, passes = [], []
        for _ in range(arguments.repeat):
            began = time.perf_counter()
            found = truncated_svd(plan, matrix, n_columns, parameters, measure_error=False)
            seconds.append(time.perf_counter() - began)
            passes.append([round(one.seconds, 3) for one in found.trace])
        began = time.perf_counter()
        error = approximation_error(
            plan, matrix, found.left, found.singular_values, found.right, found.squared_norm, parameters
        )
        ours = {
            "seconds": statistics.median(seconds),
            "each": seconds,
            "seconds_of_passes": passes,
            "seconds_to_measure_error": time.perf_counter() - began,
            "relative_error": error.relative,
            "spectral_bound": error.spectral_bound,
            "driver_peak_mb": peak(),
            "driver_peak_mb_before": before,
        }
        print(f"factorlake {ours['seconds']:.2f} s, relative error {error.relative:.6f}", flush=True)
        began = time.perf_counter()
        in_memory = matrix.whole()
        seconds_to_load = time.perf_counter() - began
        del matrix, found
    spark.stop()
    return {
        "rows": n_rows,
        "columns": n_columns,
        "matrix_mb": in_memory.nbytes / 1e6,
        "relative_error": error.relative,
        "seconds_to_write_blocks": seconds_to_write,
        "seconds_to_load_in_memory": seconds_to_load,
        "factorlake": ours,
        "scikit_learn": sklearns(in_memory, block_ptr, parameters, error.relative, arguments.repeat),
    }


def sklearns(
    matrix: FloatMatrix, block_ptr: NDArray[np.int64], parameters: SvdParameters, our_error: float, repeat: int
) -> dict[str, Any]:
    """Time scikit-learn with its own number of iterations, and with the least that reaches an error as ours."""
    norm_squared = float(sum(np.sum(np.square(rows, dtype=np.float64)) for rows in np.array_split(matrix, 64)))

    def decomposed(iterations: int | str) -> tuple[float, float]:
        with threadpool_limits(SLOTS, user_api="blas"):
            began = time.perf_counter()
            left, values, right = randomized_svd(matrix, parameters.rank, n_iter=iterations, random_state=0)
            seconds = time.perf_counter() - began
        with LocalRowPlan(block_ptr, SLOTS) as plan, single_threaded_blas():
            wide = values.astype(np.float64)
            found = approximation_error(
                plan, plan.hold(matrix), plan.hold(left), wide, right.T, norm_squared, parameters
            )
        return seconds, found.relative

    def timed(iterations: int | str, times: int) -> dict[str, Any]:
        tries = [decomposed(iterations) for _ in range(times)]
        each = [seconds for seconds, _ in tries]
        one = {
            "iterations": iterations,
            "seconds": statistics.median(each),
            "each": each,
            "relative_error": tries[0][1],
        }
        print(f"scikit-learn, n_iter {iterations}: {one['seconds']:.2f} s, error {tries[0][1]:.6f}", flush=True)
        return one

    each = []
    for iterations in range(1, MOST_ITERATIONS + 1):
        each.append(timed(iterations, 1))
        if each[-1]["relative_error"] <= our_error * (1 + EQUAL):
            break
    equal = timed(each[-1]["iterations"], repeat)
    equal["reaches_our_error"] = equal["relative_error"] <= our_error * (1 + EQUAL)
    return {"auto": timed("auto", repeat), "equal_error": equal, "by_iterations": each}


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
