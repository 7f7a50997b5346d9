"""One writer at a time, and writers that are told to stop or sleep past their lease: real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from tests.faults.processes import kill_session, members_of, signal_each
from tests.faults.test_killed_run import SESSION, has_come
from tests.pipelines.demo_lake import DEMO, RIVAL, DemoRun, demo_settings, overrides, run_verb
from tests.reference.contents import lake_contents, published_bytes, read_table

pytestmark = [pytest.mark.spark, pytest.mark.faults]

# The command line, with time enough to record its end on a machine that is busy with other things.
PATIENT = """
from factorlake.pipelines import termination

termination.GRACE_SECONDS = 600
from factorlake.cli import main

main()
"""


class Started:
    """A command of factorlake in a session of its own, and where it tells."""

    def __init__(
        self, scratch: Path, name: str, root: Path, log: Path, *words: str, more: tuple[str, ...] = ()
    ) -> None:
        self.told, self.result = scratch / f"{name}.stderr", scratch / f"{name}.stdout"
        sets = [part for value in overrides(root, log, *SESSION, *more) for part in ("--set", value)]
        command = [sys.executable, "-c", PATIENT, *words, "--config", str(DEMO), *sets]
        with self.told.open("wb") as stderr, self.result.open("wb") as stdout:
            self.process = subprocess.Popen(command, cwd=scratch, stdout=stdout, stderr=stderr, start_new_session=True)

    def wait_for(self, text: str, root: Path) -> None:
        while not has_come(text, root, self.told):
            assert self.process.poll() is None, f"it ended before {text!r}: {self.told.read_text()[-2000:]}"
            time.sleep(0.01)

    def signal_all(self, number: int) -> None:
        signal_each(members_of(self.process.pid), number)

    def line(self) -> dict[str, object]:
        return dict(json.loads(self.result.read_text().splitlines()[-1]))

    def end(self) -> None:
        kill_session(self.process.pid)
        self.process.wait()


def test_of_two_runs_at_once_one_is_refused_and_the_other_told_to_stop_is_finished_by_the_next(
    spark: SparkSession, demo_run: DemoRun, tmp_path: Path
) -> None:
    root = tmp_path / "lake"
    both = [Started(tmp_path, name, root, demo_run.log, "run") for name in ("one", "two")]
    try:
        while all(started.process.poll() is None for started in both):
            time.sleep(0.01)
        refused, holder = sorted(both, key=lambda started: started.process.poll() is None)
        assert refused.process.returncode == refused.line()["exit_code"] == 5, refused.told.read_text()[-2000:]
        reason = str(refused.line()["reason"])
        # Refused in the very moment in which the other took the lease, it cannot know whose it is.
        assert (
            reason.startswith("another run, which has just started,") or f"(process {holder.process.pid} on " in reason
        )
        assert f" is writing under {root}" in reason

        holder.wait_for("train      solving", root)
        # To the whole group, as timeout and schedulers do.
        os.killpg(holder.process.pid, signal.SIGTERM)
        assert holder.process.wait() == holder.line()["exit_code"] == 4, holder.told.read_text()[-2000:]
    finally:
        for started in both:
            started.end()
    runs = {row["run_id"]: row for row in read_table(root / "runs").to_pylist()}
    assert [(row["state"], row["exit_code"]) for row in runs.values()] == [("aborted", 4)]
    assert holder.line()["run_id"] in runs

    line = run_verb(spark, "run", demo_settings(root, demo_run.log))
    assert line["exit_code"] == 0, line["reason"]
    assert lake_contents(root) == lake_contents(demo_run.root)


@pytest.mark.soak
def test_a_publisher_that_slept_past_its_lease_publishes_nothing_more(
    spark: SparkSession, demo_run: DemoRun, rival_lake: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(rival_lake, tmp_path / "lake"))
    sleeper = Started(tmp_path, "sleeper", root, demo_run.log, "publish", "--force", more=RIVAL)
    try:
        # Somewhere before, in or after its first commit.
        sleeper.wait_for("publishing ", root)
        sleeper.signal_all(signal.SIGSTOP)
        # As if its time had passed.
        os.utime(max((root / "main" / "_lease").glob("*.json")), (0, 0))
        second = run_verb(spark, "publish", demo_settings(root, demo_run.log, *RIVAL), force=True)
        assert second["exit_code"] == 0, second["reason"]
        after = published_bytes(root)
        sleeper.signal_all(signal.SIGCONT)
        assert sleeper.process.wait() == 5, sleeper.told.read_text()[-2000:]
    finally:
        sleeper.end()
    assert "has passed to another run" in str(sleeper.line()["reason"])
    assert published_bytes(root) == after
