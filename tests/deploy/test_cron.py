"""The cron wrapper: one run at a time, a time limit, logs that do not pile up, the job's own exit code."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "deploy" / "cron" / "run.sh"


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    folder = tmp_path / "logs"
    folder.mkdir()
    return folder


def cron(logs: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the wrapper as cron does: with next to no environment."""
    environment = {"HOME": str(logs), "PATH": "/usr/bin:/bin", "FACTORLAKE_LOGS": str(logs), **variables}
    for name in ("JAVA_HOME",):
        if name in os.environ:
            environment[name] = os.environ[name]
    return subprocess.run([RUN, *arguments], env=environment, capture_output=True, text=True, check=False)


def test_exit_code_and_output_of_the_job_are_kept(logs: Path) -> None:
    done = cron(logs, "train", "--set", "no_such_setting=1")
    assert done.returncode == 2
    (log,) = logs.glob("*.log")
    assert "no_such_setting" in log.read_text(encoding="utf-8")
    assert done.stdout.strip() == log.read_text(encoding="utf-8").strip().splitlines()[-1]


def test_second_run_ends_with_five_while_the_first_holds_the_lock(logs: Path) -> None:
    with (logs / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = cron(logs, "train", "--dry-run")
    assert done.returncode == 5
    assert not list(logs.glob("*.log"))
    assert cron(logs, "train", "--dry-run").returncode == 0


def test_time_limit_ends_the_job_as_a_transient_fault(logs: Path) -> None:
    # No Python starts in a thousandth of a second.
    done = cron(logs, "train", "--dry-run", FACTORLAKE_TIMEOUT="0.001")
    assert done.returncode == 4
    assert "stopped after 0.001" in done.stdout


def test_only_the_newest_logs_are_kept(logs: Path) -> None:
    for day in range(1, 6):
        (logs / f"2020010{day}T030000Z-1.log").write_text("old\n", encoding="utf-8")
    assert cron(logs, "train", "--dry-run", FACTORLAKE_KEEP="2").returncode == 0
    kept = sorted(log.name for log in logs.glob("*.log"))
    assert len(kept) == 2
    assert kept[0] == "20200105T030000Z-1.log"


def test_job_sees_the_variables_of_the_environment_file_and_no_others(logs: Path, tmp_path: Path) -> None:
    given = tmp_path / "environment"
    given.write_text("# settings\nFACTORLAKE__TRAIN__RANK=17\n", encoding="utf-8")
    done = cron(logs, "train", "--print-config", FACTORLAKE_ENV=str(given), FACTORLAKE__SEED="99")
    assert done.returncode == 0
    (log,) = logs.glob("*.log")
    printed = log.read_text(encoding="utf-8")
    assert '"rank": 17' in printed
    assert '"seed": 99' not in printed
