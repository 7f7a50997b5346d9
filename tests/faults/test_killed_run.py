"""Killed anywhere and run again: the same contents as a run that nobody disturbed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from factorlake.pipelines.jobs import execute
from factorlake.tables import delta_io
from tests.faults.dying import Killed, die_after
from tests.faults.processes import kill_session
from tests.pipelines.demo_lake import CONF, DEMO, DemoRun, demo_settings, overrides, run_verb
from tests.reference.contents import lake_contents, rows_of

pytestmark = [pytest.mark.spark, pytest.mark.faults]

FACTORLAKE = Path(sys.executable).with_name("factorlake")
SESSION = (
    "spark.master=local[2]",
    "spark.driver_memory=1g",
    "spark.shuffle_partitions=2",
    "train.checkpoint_seconds=0",
)
# What stands on stderr, or which file lies in the lake, when the run is killed.
MOMENTS = [
    pytest.param("validate   start", id="after-ingest"),
    pytest.param(
        Path("main/item_factors/_delta_log/00000000000000000001.json"),
        id="between-published-tables",
        marks=pytest.mark.soak,
    ),
    *(
        pytest.param(text, id=text.replace(" ", "-"), marks=pytest.mark.soak)
        for text in (
            "ingest     reading",
            "validate   validating",
            "validate   running",
            "attributes attributes of items",
            "train      packing",
            "train      epoch 2 item",
            "train      epoch 5 user",
            "train      solving",
            "evaluate   judging",
            "recommend  start",
            "recommend  scoring",
            "publish    start",
            "publish    publishing",
        )
    ),
]


def kill_run_at(moment: str | Path, root: Path, log: Path, scratch: Path) -> None:
    """Start `factorlake run` and kill all its processes, JVM and workers too, when the moment comes."""
    sets = [part for value in overrides(root, log, *SESSION) for part in ("--set", value)]
    command = [str(FACTORLAKE), "run", "--config", str(DEMO), *sets]
    told = scratch / "stderr"
    with told.open("wb") as stderr, (scratch / "stdout").open("wb") as stdout:
        run = subprocess.Popen(command, cwd=scratch, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        while not has_come(moment, root, told):
            assert run.poll() is None, f"the run ended before {moment}: {told.read_text()[-2000:]}"
            time.sleep(0.01)
    finally:
        kill_session(run.pid)
        run.wait()
    assert run.returncode == -signal.SIGKILL


def has_come(moment: str | Path, root: Path, told: Path) -> bool:
    return (root / moment).exists() if isinstance(moment, Path) else moment in told.read_text(errors="replace")


def folders_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir() and "_" not in path.name[:1]}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_started_again_leaves_what_an_undisturbed_run_leaves(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path, moment: str | Path
) -> None:
    root = tmp_path / "lake"
    kill_run_at(moment, root, demo_run.log, tmp_path)
    line = run_verb(spark, "run", demo_settings(root, demo_run.log))
    assert line["exit_code"] == 0, line["reason"]
    assert lake_contents(root) == lake_contents(demo_run.root)
    assert folders_of(root) == folders_of(demo_run.root)


def run_until(
    spark: SparkSession, n_commits: int, root: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> int | None:
    """Run until that many commits are made; return the exit code of a run that ended before, else None."""
    with monkeypatch.context() as patch:
        patch.setattr(delta_io, "_write", die_after(n_commits, delta_io._write))
        try:
            return int(run_verb(spark, "run", demo_settings(root, log))["exit_code"])
        except Killed:
            return None


def test_training_killed_in_an_epoch_goes_on_from_the_one_before(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(demo_run.root, tmp_path / "lake"))
    made = ("candidates", "models", "training_trace")
    for table in made:
        shutil.rmtree(root / "main" / table)

    def train(*more: str, die: str = "") -> list[str]:
        """Train, and die when that is told; return what was told."""
        told: list[str] = []

        def hear(line: str) -> None:
            told.append(line)
            if die and line.startswith(die):
                raise Killed

        settings = demo_settings(root, demo_run.log, "demo=null", *more)
        line = execute("train", settings, conf_dir=str(CONF), open_session=lambda: spark, progress=hear)
        assert line["exit_code"] == 0, line["reason"]
        return told

    with pytest.raises(Killed):
        train("train.checkpoint_seconds=0", die="epoch 5 user")
    told = train()
    assert "training goes on after epoch 4" in told
    assert not any(line.startswith("epoch 4 ") for line in told)
    (version,) = (one.name for one in (root / "main" / "candidates").iterdir())
    for table in ("training_trace", f"candidates/{version}/factors"):
        assert rows_of(root / "main" / table) == rows_of(demo_run.root / "main" / table)
    assert [one.name for one in (root / "main" / "candidates" / version).iterdir()] == ["factors"]


@pytest.mark.soak
def test_a_run_that_ends_after_any_one_of_its_commits_is_finished_by_the_next(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = lake_contents(demo_run.root)
    for n_commits in range(1, 100):
        root = tmp_path / f"lake{n_commits}"
        if run_until(spark, n_commits, root, demo_run.log, monkeypatch) is not None:
            break
        # 99: the run had ended but for its last word.
        assert run_verb(spark, "run", demo_settings(root, demo_run.log))["exit_code"] in (0, 99)
        assert lake_contents(root) == expected, f"after commit {n_commits}"
    assert n_commits > 15, "a run makes more commits than that"


def test_a_run_that_dies_a_commit_later_each_time_ends_as_one_that_never_died(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "lake"
    for n_commits in range(1, 100):
        if run_until(spark, n_commits, root, demo_run.log, monkeypatch) is not None:
            break
    assert n_commits > 4, "a run makes more commits than that"
    assert lake_contents(root) == lake_contents(demo_run.root)
