"""A year of nights leaves no more files in a table, and no slower plans, than its first weeks."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from factorlake.tables.delta_io import COMPACT_EVERY
from tests.faults.kinds import built_clock
from tests.faults.ledger import CHECKOUT

pytestmark = [pytest.mark.spark, pytest.mark.faults, pytest.mark.soak]

DAYS = int(os.environ.get("FACTORLAKE_SOAK_DAYS", "365"))
# A night makes at most three commits to a table, each of as many files as a shuffle has partitions.
COMMITS, FILES = 3, 2
# Files that were replaced stay until the `maintain` after their week; versions stay in the log for thirty days,
# until the next checkpoint.
KEPT_NIGHTS, LOGGED_NIGHTS = 14, 40


def test_a_year_of_nights_keeps_files_and_planning_within_bounds(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_bytes(struct.pack("l", 0))
    moved = {"LD_PRELOAD": str(built_clock(tmp_path)), "FACTORLAKE_CLOCK": str(clock)}
    command = [sys.executable, "-m", "tests.faults.long_year", str(tmp_path / "year"), str(DAYS)]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, **moved}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    days = [json.loads(line)["tables"] for line in done.stdout.splitlines()]
    assert len(days) == DAYS
    for name in days[-1]:
        most = {what: max(day[name][what] for day in days if name in day) for what in ("live", "kept", "log")}
        assert most["live"] <= FILES * COMPACT_EVERY, name
        assert most["kept"] <= FILES * (COMPACT_EVERY + COMMITS * KEPT_NIGHTS), name
        # Beside each version there may be a checkpoint, and the mark of the last one.
        assert most["log"] <= 2 * (COMMITS + 1) * LOGGED_NIGHTS, name
    planning = [sum(table["planning"] for table in day.values()) for day in (days[4], days[-1])]
    assert planning[1] <= 2 * planning[0]
