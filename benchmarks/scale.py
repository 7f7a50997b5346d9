"""How time and memory grow with the number of pairs, and whether `factorlake plan` foretells them.

    python -m benchmarks.scale
    python -m benchmarks.scale --users 2000000 --items 200000 --pairs 100 --plan auto --k 10 --epochs 3

Each size trains in a process of its own. ``kernel`` is what an epoch's tasks take while they solve blocks: by least
squares over the sizes so much for each pair and so much for the rows, whose number does not grow; ``spread`` is how far
the sizes lie apart in the first, ``fixed`` what an epoch takes beside it, the pairs' part shared out evenly.
Peaks are proportional set sizes (a page that processes share is counted once), of the driver's Python and of all its
workers together; the JVM is told apart, as is the most that the workspace held on disk. With ``--k`` the lists of all
users are made and written too. ``--peers pyspark_ml`` lets pyspark.ml train as many epochs on the same pairs
afterwards, with ``--peer-memory`` and no longer than ``--peer-minutes``, and tells how that ended.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StringType

from benchmarks.result import finish
from benchmarks.top_k import write_lists
from factorlake.config.settings import SparkSettings
from factorlake.kernels.arrays import distinct
from factorlake.ml.factors import factor_frame
from factorlake.models.estimate import Cluster, Load, estimate
from factorlake.models.parameters import AlsParameters
from factorlake.models.trained import TraceRow
from factorlake.spark.compat import task_slots
from factorlake.spark.session import open_session
from factorlake.spark.training import Fitted, fit_pairs

USERS_AT_ONCE = 50_000
GROUPS = 32
MIB = 1 << 20


def drawn_pairs(users: int, items: int, pairs: int) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Yield about as many distinct pairs as are asked for, some users at a time.

    Activity is log-normal, popularity Zipf-like with an order of its own in each of GROUPS groups of users.
    """
    rng = np.random.default_rng(1)
    activity = rng.lognormal(0, 1, users)
    counts = np.minimum(np.maximum(1, activity * (pairs / activity.sum())), items // 4).astype(np.int64)
    popularity = (np.arange(items) + 20.0) ** -0.8
    ends = np.cumsum(popularity / popularity.sum())
    orders = np.stack([rng.permutation(items) for _ in range(GROUPS)])
    for first in range(0, users, USERS_AT_ONCE):
        own = np.arange(first, min(first + USERS_AT_ONCE, users))
        # More than are needed, since popular items are drawn again and again.
        user = np.repeat(own, counts[own] * 2)
        rank = np.minimum(np.searchsorted(ends, rng.random(len(user))), items - 1)
        keys = rng.permutation(distinct(user * items + orders[user % GROUPS, rank]))
        user = keys // items
        by_user = np.argsort(user, kind="stable")
        start = np.searchsorted(user[by_user], own)
        place = np.arange(len(keys)) - np.repeat(start, np.diff([*start, len(keys)]))
        kept = keys[by_user[place < counts[user[by_user]]]]
        yield (kept // items).astype(np.int32), (kept % items).astype(np.int32)


def write_pairs(folder: Path, users: int, items: int, pairs: int) -> None:
    """Write pairs as Parquet."""
    folder.mkdir(parents=True)
    for part, (u, i) in enumerate(drawn_pairs(users, items, pairs)):
        pq.write_table(pa.table({"user_id": u, "item_id": i}), folder / f"{part:05d}.parquet")


class Peaks:
    """The most memory that Python and JVM took while it was open, and the most that lay in a folder, in bytes. Use as a
    context manager."""

    def __init__(self, folder: str) -> None:
        self.driver = self.workers = self.jvm = self.disk = 0
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.5):
            below = descendants(os.getpid())
            self.driver = max(self.driver, set_size(os.getpid()))
            self.disk = max(self.disk, folder_size(self._folder))
            self.jvm = max(self.jvm, sum(set_size(pid) for pid, name in below if name == "java"))
            self.workers = max(self.workers, sum(set_size(pid) for pid, name in below if name.startswith("python")))


def descendants(of: int) -> list[tuple[int, str]]:
    """Return (pid, name) of the processes that a process started, and those that they did."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = int(rest.split()[1]), name
    found, near = [], {of}
    while near:
        near = {pid for pid, (parent, _) in parents.items() if parent in near}
        found += [(pid, parents[pid][1]) for pid in near]
    return found


def set_size(pid: int) -> int:
    """Return the proportional set size of a process in bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def folder_size(folder: str) -> int:
    """Return the bytes that the files under a folder take on disk."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.stat(os.path.join(path, name)).st_blocks * 512
    return size


def train_one(given: Any, folder: Path) -> dict[str, Any]:
    """Train on the pairs of a folder and return seconds and peaks, beside what was foretold."""
    spark = open_session(SparkSettings(master=given.master, driver_memory=given.driver_memory))
    pairs = spark.read.parquet(str(folder))
    parameters = AlsParameters(rank=given.rank, epochs=given.epochs, tolerance=None)
    trace: list[TraceRow] = []
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        few = pairs.where(f"user_id < {given.users // 100 + 1}")
        warm = fit_pairs(spark, few, replace(parameters, epochs=1), workspace=work, plan=given.plan, threads=2)
        if given.k:
            seconds_of_lists(spark, few, warm, given.k, work)
        warm.release()
        with Peaks(work) as peaks:
            began = time.perf_counter()
            fitted = fit_pairs(
                spark, pairs, parameters, workspace=work, plan=given.plan, threads=2, on_half_step=trace.append
            )
            in_all = time.perf_counter() - began
            lists = seconds_of_lists(spark, pairs, fitted, given.k, work) if given.k else None
        epochs, kernels = np.zeros((2, given.epochs))
        for row in trace[:-1]:
            epochs[row.epoch - 1] += row.seconds
            kernels[row.epoch - 1] += row.kernel_seconds
        told: dict[str, Any] = {
            "pairs": fitted.n_observed,
            "plan": fitted.plan,
            "pack": in_all - sum(row.seconds for row in trace),
            "epoch": float(np.median(epochs)),
            # Of the fastest epoch: what else a machine does only adds to it.
            "kernel": float(kernels.min()),
            "slots": task_slots(spark),
            "last half step": trace[-1].seconds,
            "lists": lists,
            "driver_mib": peaks.driver / MIB,
            "workers_mib": peaks.workers / MIB,
            "jvm_mib": peaks.jvm / MIB,
            "disk_mib": peaks.disk / MIB,
        }
        load = Load(fitted.users.n_ids, fitted.items.n_ids, fitted.n_observed, given.rank, given.epochs, given.k or 1)
        fitted.release()
    # The pairs are written as numbers of four bytes.
    load = replace(load, id_bytes=4, from_files=True)
    foretold = estimate(load, Cluster("this machine", 1, os.cpu_count() or 1), given.plan)
    told["foretold"] = {
        "pack": foretold.seconds["pack"],
        "epoch": foretold.seconds["epochs"] / given.epochs,
        "last half step": foretold.seconds["last half step"],
        "lists": foretold.seconds["lists"] if given.k else None,
        "driver_mib": foretold.driver_memory / MIB,
        "workers_mib": foretold.worker_memory / MIB,
        "disk_mib": foretold.disk / MIB,
    }
    spark.stop()
    return told


def seconds_of_lists(spark: SparkSession, pairs: DataFrame, fitted: Fitted, k: int, folder: str) -> float:
    """Write the lists of all users to a Delta table, seen items left out; return the seconds."""
    began = time.perf_counter()
    users, items = (
        factor_frame(spark, known, StringType(), rows, fitted.model.rank).withColumnRenamed("features", "factor")
        for known, rows in ((fitted.users, fitted.model.users), (fitted.items, fitted.model.items))
    )
    seen = pairs.select(F.col("user_id").cast("string"), F.col("item_id").cast("string"))
    write_lists(spark, users, items.withColumn("n_observed", F.lit(1)), seen, k, fitted.n_observed, folder)
    return time.perf_counter() - began


def train_peer(given: Any, folder: Path) -> dict[str, Any]:
    """Let pyspark.ml train on the pairs of a folder and return its seconds."""
    spark = open_session(SparkSettings(master=given.master, driver_memory=given.peer_memory))
    pairs = spark.read.parquet(str(folder)).withColumn("value", F.lit(1.0))
    began = time.perf_counter()
    model = ALS(
        rank=given.rank,
        maxIter=given.epochs,
        implicitPrefs=True,
        userCol="user_id",
        itemCol="item_id",
        ratingCol="value",
        seed=1,
    ).fit(pairs)
    model.userFactors.count()
    seconds = time.perf_counter() - began
    spark.stop()
    return {"ended": "trained", "seconds": seconds}


def child(own: list[str], log: IO[str] | None = None, seconds: float | None = None) -> tuple[int, dict[str, Any]]:
    """Run this benchmark in a process of its own, which ends with all that it starts and whose errors go to ``log``;
    return its exit code and what it told.

    Raises
    ------
    TimeoutExpired : it took longer than ``seconds``.
    """
    command = [sys.executable, "-m", "benchmarks.scale", *own]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=seconds)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, json.loads(out.splitlines()[-1]) if process.returncode == 0 else {}


def ending_of_peer(own: list[str], minutes: float) -> dict[str, Any]:
    """Return how the peer's training ended, which gets so many minutes."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        try:
            code, told = child([*own, "--peer"], log, minutes * 60)
        except subprocess.TimeoutExpired:
            return {"ended": f"not trained after {minutes:g} minutes"}
        log.seek(0)
        errors = re.findall(r"java\.lang\.\w+(?:Error|Exception)[^\n]*", log.read())
    # What ran out first is behind the other errors.
    errors.sort(key=lambda error: "OutOfMemoryError" not in error)
    why = errors[0] if errors else f"exit code {code}"
    return told or {"ended": f"failed: {why}", "seconds": time.perf_counter() - began}


def growth(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Split the kernels' seconds of an epoch into what pairs and rows take, and tell the rest of an epoch."""
    names = ("pairs", "kernel", "epoch", "slots")
    pairs, kernel, epoch, slots = (np.array([one[name] for one in told]) for name in names)
    slope, of_rows = np.polyfit(pairs, kernel, 1)
    each = (kernel - of_rows) / pairs
    return {
        "kernel_nanoseconds_per_pair": float(slope * 1e9),
        "kernel_seconds_of_rows": float(of_rows),
        "spread": float((each.max() - each.min()) / each.mean()),
        "fixed_seconds_per_epoch": (epoch - slope * pairs / slots).tolist(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, train each size in a process of its own, print the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=138_493)
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--pairs", default="10,20,40,80", help="millions of pairs, comma-separated")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--plan", choices=["auto", "local", "broadcast", "shuffle"], default="broadcast")
    parser.add_argument("--k", type=int, default=0, help="make lists of this length too")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="4g")
    parser.add_argument("--peers", default="", help="comma-separated: pyspark_ml")
    parser.add_argument("--peer-memory", default="16g")
    parser.add_argument("--peer-minutes", type=float, default=30.0)
    parser.add_argument("--cache", type=Path, help="folder that keeps the pairs between runs")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.one is not None:
        print(json.dumps((train_peer if given.peer else train_one)(given, given.one)), flush=True)
        return
    told = []
    for millions in given.pairs.split(","):
        with tempfile.TemporaryDirectory() as temporary:
            name = f"pairs-{given.users}-{given.items}-{millions}"
            folder = (given.cache or Path(temporary)) / name
            if not folder.exists():
                fresh = Path(f"{folder}.new")
                shutil.rmtree(fresh, ignore_errors=True)
                write_pairs(fresh, given.users, given.items, round(float(millions) * 1e6))
                fresh.rename(folder)
            own = [*(arguments or sys.argv[1:]), "--one", str(folder)]
            code, one = child(own)
            if code:
                raise SystemExit(code)
            told.append(one)
            if "pyspark_ml" in given.peers.split(","):
                told[-1]["pyspark_ml"] = ending_of_peer(own, given.peer_minutes)
            print(told[-1], flush=True)
    figures: dict[str, Any] = {"sizes": told}
    if len(told) > 2:
        figures["epoch"] = growth(told)
        print(figures["epoch"], flush=True)
    finish(f"scale-{given.plan}-{given.pairs.replace(',', '-')}", vars(given), figures, {}, given.keep)


if __name__ == "__main__":
    main()
