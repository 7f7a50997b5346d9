"""Faults in real runs: a trial of each kind that starts no JVM, the ledger, and (make soak) all trials of all kinds."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.faults import ledger
from tests.faults.bench import Bench
from tests.faults.kinds import KINDS, Kind
from tests.faults.ledger import CHECKOUT, Trial
from tests.faults.soak import make_trial, planned

pytestmark = pytest.mark.faults

FAST = [kind for kind in KINDS.values() if kind.fast]
CLEAN = Trial("abc", "a kind", 1, "somewhere", True, [0], 0, 0, 0, False, False, 1.5)


@pytest.fixture(scope="module")
def bench(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(spark, tmp_path_factory.mktemp("bench"), "any", stages=("ingest", "validate"))
    yield made
    made.close()


@pytest.mark.spark
@pytest.mark.parametrize("kind", FAST, ids=lambda kind: kind.name.replace(" ", "-"))
def test_a_trial_of_a_kind_is_clean(bench: Bench, kind: Kind) -> None:
    trial = make_trial(bench, kind, seed=1, commit="any")
    assert trial.is_clean and trial.landed, trial


@pytest.mark.spark
@pytest.mark.soak
def test_all_trials_of_all_kinds_are_clean() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.faults.soak"], cwd=CHECKOUT, check=False)
    assert done.returncode == 0, f"the ledger {ledger.ledger_path()} has what was found"


def test_a_ledger_gives_back_the_trials_of_a_commit_and_skips_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    other = dataclasses.replace(CLEAN, commit="def", lost=3)
    assert ledger.read(path, "abc") == []
    ledger.append(path, CLEAN)
    with path.open("a") as file:
        file.write('{"commit": "abc", "ki\n')
    ledger.append(path, other)
    with path.open("a") as file:
        file.write('{"commit": "abc"')
    assert ledger.read(path, "abc") == [CLEAN]
    assert ledger.read(path, "def") == [other]


def test_the_table_sums_up_kinds_and_leaves_out_faults_that_came_too_late() -> None:
    trials = [
        CLEAN,
        dataclasses.replace(CLEAN, seed=2, lost=2, torn=1, wrong_exit=True),
        dataclasses.replace(CLEAN, seed=3, landed=False, stuck=True),
        dataclasses.replace(CLEAN, kind="b kind", stuck=True, duplicated=4),
    ]
    assert ledger.table(trials).splitlines()[2:] == [
        "| a kind | 2 | 2 | 0 | 1 | 1 | 0 |",
        "| b kind | 1 | 0 | 4 | 0 | 0 | 1 |",
        "| all | 3 | 2 | 4 | 1 | 1 | 1 |",
    ]


def test_kinds_take_turns_by_their_share_and_every_seed_once() -> None:
    kinds = list(KINDS.values())
    made = [(kind.name, seed) for seed, kind in planned(kinds, None)]
    assert sorted(made) == sorted((kind.name, seed) for kind in kinds for seed in range(kind.trials))
    assert {name for name, _ in made[: len(kinds)]} == set(KINDS)
