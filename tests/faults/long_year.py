"""A log's year of nights in a process whose clock is moved on by a day after each: what they leave, and how long a look
at it takes.

    LD_PRELOAD=clock.so FACTORLAKE_CLOCK=FILE python -m tests.faults.long_year FOLDER DAYS

Every night ingests and validates a file of a few events, every seventh also maintains the tables. Prints a line of JSON
a day: data files and log files of each table, and the seconds that Spark takes to plan a count over each, its notes of
them forgotten before.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deltalake import DeltaTable
from pyspark.sql import SparkSession

from factorlake.config.loader import build
from factorlake.config.settings import Settings, SparkSettings
from factorlake.pipelines.jobs import execute
from factorlake.spark.session import open_session
from tests.conftest import QUICK_PLANS, SHARED_JVM
from tests.reference.contents import tables_of

DAY = timedelta(days=1)
LOOKS = 5


def run(spark: SparkSession, verb: str, settings: Settings) -> None:
    line = execute(verb, settings, conf_dir="conf", open_session=lambda: spark, progress=lambda _: None)
    if line["exit_code"] != 0:
        raise RuntimeError(f"{verb}: {line['reason']}")


def planning_seconds(spark: SparkSession, path: Path) -> float:
    def look() -> float:
        spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]
        began = time.perf_counter()
        spark.read.format("delta").load(str(path)).groupBy().count()._jdf.queryExecution().executedPlan()
        return time.perf_counter() - began

    return statistics.median(look() for _ in range(LOOKS))


def main() -> None:
    folder, days = Path(sys.argv[1]), int(sys.argv[2])
    os.environ["JDK_JAVA_OPTIONS"] = SHARED_JVM
    clock = Path(os.environ["FACTORLAKE_CLOCK"])
    spark = open_session(SparkSettings(master="local[2]", driver_memory="2g", shuffle_partitions=2, conf=QUICK_PLANS))
    given = {"root": str(folder / "lake"), "input": str(folder / "log"), "events": {"columns": {"value": "value"}}}
    settings = build(given)
    (folder / "log").mkdir(parents=True)
    dated: set[Path] = set()
    for day in range(1, days + 1):
        now = datetime.now(UTC)
        rows = [f"u{n},i{(n * day) % 7},{n},{now:%Y-%m-%dT%H}:00:{n:02d}Z" for n in range(20)]
        # One of them is refused.
        text = "\n".join(["user_id,item_id,value,event_time", *rows, f"u1,i1,many,{now:%Y-%m-%d}T00:00:00Z", ""])
        (folder / "log" / f"{now:%Y-%m-%d}.csv").write_text(text)
        for verb in ("ingest", "validate", *(("maintain",) if day % 7 == 0 else ())):
            run(spark, verb, settings)
        # The system dates files by its own clock.
        new = {path for path in folder.rglob("*") if path.is_file()} - dated
        for path in new:
            os.utime(path, (now.timestamp(), now.timestamp()))
        dated |= new
        sys.stdout.write(json.dumps({"day": day, "tables": measured(spark, folder / "lake", day in (5, days))}) + "\n")
        sys.stdout.flush()
        with clock.open("r+b") as file:
            file.write(struct.pack("l", int(day * DAY.total_seconds())))


def measured(spark: SparkSession, root: Path, plan: bool) -> dict[str, Any]:
    return {
        name: {
            "live": len(DeltaTable(str(path)).file_uris()),
            "kept": sum(1 for _ in path.rglob("*.parquet") if "_delta_log" not in _.parts),
            "log": sum(1 for _ in (path / "_delta_log").iterdir()),
            **({"planning": planning_seconds(spark, path)} if plan else {}),
        }
        for name, path in tables_of(root).items()
    }


if __name__ == "__main__":
    main()
