"""A long training under the shuffle plan in a process of its own, that tells what it leaves on disk.

    python -m tests.faults.long_training FOLDER EPOCHS

Prints a line of JSON after each half step: epoch, bytes that Spark's scratch folder and the workspace hold, and the
stages of the longest job since the last line, skipped ones with them: how far back a job's plan reaches.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from factorlake.config.settings import SparkSettings
from factorlake.models.parameters import AlsParameters
from factorlake.models.trained import TraceRow
from factorlake.spark.session import open_session
from factorlake.spark.training import fit_pairs

USERS, ITEMS, PAIRS = 200, 100, 4000


def bytes_under(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def main() -> None:
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    scratch, workspace = folder / "scratch", folder / "workspace"
    # A heap of 1 GB: the driver holds sums, whatever the epochs.
    settings = SparkSettings(
        master="local[2]", driver_memory="1g", shuffle_partitions=2, conf={"spark.local.dir": str(scratch)}
    )
    spark = open_session(settings)
    rng = np.random.default_rng(8)
    cells = rng.choice(USERS * ITEMS, PAIRS, replace=False)
    rows = [(f"u{cell // ITEMS}", f"i{cell % ITEMS}", float(rng.integers(1, 6))) for cell in cells]
    pairs = spark.createDataFrame(rows, "user_id string, item_id string, value double")
    status = spark.sparkContext.statusTracker()
    seen: set[int] = set()

    def tell(row: TraceRow) -> None:
        new = set(status.getJobIdsForGroup(None)) - seen
        seen.update(new)
        stages = [len(info.stageIds) for job in new if (info := status.getJobInfo(job)) is not None]
        said = {"epoch": row.epoch, "scratch": bytes_under(scratch), "workspace": bytes_under(workspace)}
        sys.stdout.write(json.dumps({**said, "stages": max(stages, default=0)}) + "\n")
        sys.stdout.flush()

    parameters = AlsParameters(objective="implicit", rank=8, epochs=epochs, tolerance=None, seed=1)
    fit_pairs(spark, pairs, parameters, workspace=str(workspace), plan="shuffle", on_half_step=tell).release()


if __name__ == "__main__":
    main()
