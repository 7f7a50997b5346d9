"""Many epochs leave no more behind than few."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.ledger import CHECKOUT

pytestmark = [pytest.mark.spark, pytest.mark.faults, pytest.mark.soak]

EPOCHS = 100
# Of what one epoch keeps on disk.
MOST_DISK = 3.0


def test_a_hundred_epochs_of_the_shuffle_plan_keep_plans_and_disk_within_bounds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.long_training", str(tmp_path), str(EPOCHS)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert max(line["epoch"] for line in told) == EPOCHS
    first = [line for line in told if line["epoch"] == 1]
    for folder in ("scratch", "workspace"):
        assert max(line[folder] for line in told) <= MOST_DISK * max(line[folder] for line in first), folder
    assert max(line["stages"] for line in told) <= max(line["stages"] for line in first)
