"""Times are the same wherever the machine's clock is: jobs in JVMs of other zones, in nights when clocks change."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.compute as pc
import pytest

from tests.pipelines.lakes import write_csv
from tests.reference.contents import content_hash, read_table

pytestmark = [pytest.mark.spark, pytest.mark.faults]

ZONE = "Europe/Berlin"
# Clocks go from 2 to 3, and from 3 to 2.
NIGHTS = (datetime(2025, 3, 30), datetime(2025, 10, 26))
# West of UTC with other nights; half an hour off, with a change of half an hour; a quarter off, without any.
MACHINES = ("America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
JOBS = """
import sys
from factorlake.cli import invoke

settings = sys.argv[1:]
sys.exit(invoke(["ingest", *settings]) or invoke(["validate", *settings]))
"""


def wall_clock() -> list[datetime]:
    """Times on the wall, every ten minutes of both nights: an hour of them never was, another was twice."""
    return [night + timedelta(minutes=10 * step) for night in NIGHTS for step in range(6 * 6)]


def log_of(path: Path) -> Path:
    rows = [f"u{n},i{n % 7},1,{moment:%Y-%m-%d %H:%M:%S}" for n, moment in enumerate(wall_clock())]
    return write_csv(path, *rows)


def run_in(zone: str, root: Path, log: Path) -> None:
    """Both jobs in a process of their own whose machine is in a zone."""
    settings = [
        f"root={root}",
        f"input={log}",
        "events.columns.value=value",
        f"events.zone={ZONE}",
        'events.time_formats=["yyyy-MM-dd HH:mm:ss"]',
        "spark.shuffle_partitions=2",
    ]
    command = [sys.executable, "-c", JOBS, *(part for value in settings for part in ("--set", value))]
    there = {**os.environ, "TZ": zone, "JAVA_TOOL_OPTIONS": f"-Duser.timezone={zone}"}
    ended = subprocess.run(command, cwd=root.parent, env=there, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.parametrize(
    "machine", [MACHINES[0], *(pytest.param(zone, marks=pytest.mark.soak) for zone in MACHINES[1:])]
)
def test_nights_when_clocks_change_are_read_alike_on_machines_of_any_zone(machine: str, tmp_path: Path) -> None:
    log = log_of(tmp_path / "log" / "nights.csv")
    run_in(machine, tmp_path / "lake", log)
    found = read_table(tmp_path / "lake" / "interactions")
    micros = pc.cast(found["event_time"], "int64").to_pylist()
    told = dict(zip(found["user_id"].to_pylist(), micros, strict=True))
    # Python's rule for times without an offset is Java's: of an hour that was twice the first, and an hour that never
    # was read by the offset from before it.
    zone = ZoneInfo(ZONE)
    expected = {f"u{n}": round(moment.replace(tzinfo=zone).timestamp() * 1e6) for n, moment in enumerate(wall_clock())}
    assert told == expected
    run_in("UTC", tmp_path / "utc", log)
    for table in ("raw_events", "interactions", "validation_results"):
        assert content_hash(tmp_path / "lake" / table) == content_hash(tmp_path / "utc" / table)
