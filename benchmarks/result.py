"""The one JSON object that every benchmark ends with, and where it is kept."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numba
import numpy as np

from factorlake.models.threads import single_threaded_blas

RESULTS = Path(__file__).parent / "results"
SIDE, TABLE_ROWS, ROW = 1024, 200_000, 64
"""Of the matrices that are multiplied, and of the table whose rows are read: 51 MB, more than caches hold."""


def peaks() -> dict[str, float]:
    """Return what this machine does at best, all cores at once, one thread each.

    ``sgemm_gflops``: products of 1024 × 1024 float32 matrices. ``copy_gb_per_second``: bytes read and written by
    copies of 51 MB. ``rows_gb_per_second``: bytes of rows of 64 float32 read at random places, as a half step reads
    factors, and written in turn.
    """
    threads = os.cpu_count() or 1
    rng = np.random.default_rng(1)
    square = rng.random((SIDE, SIDE), np.float32)
    table = rng.random((TABLE_ROWS, ROW), np.float32)
    places = rng.integers(0, TABLE_ROWS, TABLE_ROWS)
    products = [np.empty_like(square) for _ in range(threads)]
    copies = [np.zeros_like(table) for _ in range(threads)]
    with single_threaded_blas(), ThreadPoolExecutor(threads) as pool:

        def best(work: Callable[[int], Any]) -> float:
            """Return the seconds of the fastest of ten rounds of all threads."""
            seconds = []
            for _ in range(10):
                began = time.perf_counter()
                list(pool.map(work, range(threads)))
                seconds.append(time.perf_counter() - began)
            return min(seconds)

        product = best(lambda thread: np.matmul(square, square, out=products[thread]))
        copy = best(lambda thread: np.copyto(copies[thread], table))
        rows = best(lambda thread: np.take(table, places, axis=0, out=copies[thread], mode="clip"))
    return {
        "sgemm_gflops": round(threads * 2 * SIDE**3 / product / 1e9, 1),
        "copy_gb_per_second": round(threads * 2 * table.nbytes / copy / 1e9, 1),
        "rows_gb_per_second": round(threads * 2 * table.nbytes / rows / 1e9, 1),
    }


def machine() -> dict[str, Any]:
    """Describe this machine, now, and the libraries that decide the speed."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
        if Path("/proc/cpuinfo").exists()
        else iter(()),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "peaks": peaks(),
    }


def finish(
    name: str, settings: dict[str, Any], figures: dict[str, Any], ratios: dict[str, Any], keep: bool
) -> dict[str, Any]:
    """Print the result as the last line of standard output; keep it under results/ when asked to."""
    result = {
        "name": name,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        # A folder lies elsewhere on every machine and says nothing.
        "settings": {key: value for key, value in settings.items() if not isinstance(value, Path)},
        "machine": machine(),
        "figures": figures,
        "ratios": ratios,
    }
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{result['date']}-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result), flush=True)
    return result
