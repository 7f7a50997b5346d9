"""The soak: faults of every kind in real runs, each trial noted in the ledger. What is noted is not run again.

    python -m tests.faults.soak [--kinds NAME,NAME] [--trials N] [--seconds S]

Trials of the kinds take turns, so that a soak that ends early has some of each. Where the soak is not root, the kinds
that need a small disk are left out.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest import MonkeyPatch

from factorlake.config.settings import SparkSettings
from factorlake.spark.session import open_session
from tests.conftest import QUICK_PLANS, SHARED_JVM
from tests.faults.bench import LAKE_DISK, LOCAL_DISK, Bench, scratch_of
from tests.faults.kinds import KINDS, Kind
from tests.faults.ledger import Trial, append, commit_at_hand, ledger_path, read, table

log = logging.getLogger("soak")

ON_SMALL_DISKS = ("disk full under spark.local.dir", "disk full under the lake")
SMALL_DISK = "300m"
# An hour where nobody says otherwise.
LIMIT_OF_WORKERS = {"spark.python.worker.idleTimeoutSeconds": "20"}


def make_trial(bench: Bench, kind: Kind, seed: int, commit: str) -> Trial:
    """Run one trial and return its line for the ledger."""
    began = time.monotonic()
    verdict = kind.trial(bench, seed)
    return Trial(commit, kind.name, seed, seconds=round(time.monotonic() - began, 1), **vars(verdict))


def planned(kinds: list[Kind], trials: int | None) -> list[tuple[int, Kind]]:
    """Return (seed, kind) of all trials: every kind's share of the way through at once."""
    wanted = [(seed / n, seed, kind) for kind in kinds for n in [trials or kind.trials] for seed in range(n)]
    return [(seed, kind) for _, seed, kind in sorted(wanted, key=lambda one: one[0])]


@contextmanager
def small_disks(disks: list[Path]) -> Iterator[bool]:
    """Mount the small disks that trials fill; yields False where that is not allowed."""
    mounted: list[Path] = []
    try:
        for disk in disks:
            disk.mkdir(parents=True)
            command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "soak", str(disk)]
            if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
                break
            mounted.append(disk)
        yield len(mounted) == len(disks)
    finally:
        for disk in mounted:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Inject faults into real runs; resumable.")
    parser.add_argument("--kinds", help="names of kinds, or beginnings of names, with commas between")
    parser.add_argument("--trials", type=int, help="trials of each kind; by default as many as the kind has")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so long")
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    log.setLevel(logging.INFO)
    wanted = tuple(given.kinds.split(",")) if given.kinds else ("",)
    kinds = [kind for name, kind in KINDS.items() if name.startswith(wanted)]
    commit, path, began = commit_at_hand(), ledger_path(), time.monotonic()
    folder = path.parent / "bench"
    scratch = scratch_of(folder)
    with small_disks([scratch / name for name in (LAKE_DISK, LOCAL_DISK)]) as have_disks:
        if not have_disks:
            log.warning("no small disks can be mounted here: %s are left out", ", ".join(ON_SMALL_DISKS))
            kinds = [kind for kind in kinds if kind.name not in ON_SMALL_DISKS]
        local = {"spark.local.dir": str(scratch / LOCAL_DISK)} if have_disks else {}
        # A task is tried four times, as on a cluster.
        settings = SparkSettings(
            master="local[2,4]",
            driver_memory="2g",
            shuffle_partitions=2,
            conf={**QUICK_PLANS, **LIMIT_OF_WORKERS, **local},
        )
        # This JVM lives long; those of drivers do not (tests/conftest.py says what that is for).
        with MonkeyPatch.context() as patch:
            patch.setenv("JDK_JAVA_OPTIONS", SHARED_JVM)
            spark = open_session(settings, name="factorlake-soak")
        bench = Bench(spark, folder, commit)
        try:
            for seed, kind in planned(kinds, given.trials):
                # Another soak may be at work on the same ledger.
                done = {(trial.kind, trial.seed) for trial in read(path, commit)}
                if (kind.name, seed) in done or time.monotonic() - began > given.seconds:
                    continue
                trial = make_trial(bench, kind, seed, commit)
                append(path, trial)
                bench.tidy()
                log.info("%s %d (%s): %s, %.0f s", kind.name, seed, trial.what, _said(trial), trial.seconds)
        finally:
            bench.close()
            spark.stop()
    found = [trial for trial in read(path, commit) if trial.kind in KINDS]
    sys.stdout.write(table(found) + "\n")
    return int(not all(trial.is_clean for trial in found))


def _said(trial: Trial) -> str:
    if trial.is_clean:
        return "clean" if trial.landed else "clean, the fault came too late"
    return f"NOT CLEAN {trial}"


if __name__ == "__main__":
    sys.exit(main())
