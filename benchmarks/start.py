"""What a worker takes to get started: a new Python process and its first half step and first lists.

    python -m benchmarks.start

One process after the other trains a small model and makes lists, twice each; ``process`` is all of it, most of that
imports. The first finds no compiled kernel, as on a machine where the set-up did not run; the others load what it left,
as workers do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.result import finish
from factorlake.kernels.top_k import top_k
from factorlake.models.als import train
from factorlake.models.blocks import pack_positions
from factorlake.models.local_plan import LocalPlan
from factorlake.models.parameters import AlsParameters

USERS, ITEMS, PAIRS, RANK = 500, 200, 8_000, 16


def one_process() -> dict[str, float]:
    """Return the seconds of each stage in this process."""
    seconds = {}
    rng = np.random.default_rng(1)
    pairs = np.unique(rng.integers(0, USERS * ITEMS, PAIRS))
    users, items = (np.sort(rng.integers(-(2**63), 2**63 - 1, n)) for n in (USERS, ITEMS))
    user, item = (pairs // ITEMS).astype(np.int32), (pairs % ITEMS).astype(np.int32)
    user_blocks, item_blocks = pack_positions(user, item, None, users, items)
    for name in ("first", "second"):
        began = time.perf_counter()
        with LocalPlan(user_blocks, item_blocks, AlsParameters(rank=RANK, epochs=1, tolerance=None), 1) as plan:
            model = train(plan, AlsParameters(rank=RANK, epochs=1, tolerance=None))
        seconds[f"{name} training"] = time.perf_counter() - began
        began = time.perf_counter()
        nothing_seen = np.zeros(USERS + 1, np.int64), np.empty(0, np.int32)
        top_k(model.user_factors, model.item_factors, 10, *nothing_seen, np.arange(ITEMS))
        seconds[f"{name} lists"] = time.perf_counter() - began
    return seconds


def main() -> None:
    """Time processes without and with compiled kernels, print the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="processes that find compiled kernels")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one_process()))
        return
    told: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as kernels:
        environment = {**os.environ, "NUMBA_CACHE_DIR": kernels}
        for _ in range(1 + given.repeat):
            began = time.perf_counter()
            child = subprocess.run(
                [sys.executable, "-m", "benchmarks.start", "--one"],
                env=environment, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            told.append({**json.loads(child.stdout), "process": time.perf_counter() - began})
    compiling, *starting = told
    figures: dict[str, Any] = {
        "compiling": compiling,
        "starting": {name: statistics.median(one[name] for one in starting) for name in compiling},
    }
    for name, seconds in figures["starting"].items():
        print(f"{name}: {seconds:.2f} s, without compiled kernels {compiling[name]:.2f} s", flush=True)
    finish("start", vars(given), figures, {}, given.keep)


if __name__ == "__main__":
    main()
