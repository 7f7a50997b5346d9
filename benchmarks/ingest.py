"""Taking in a log: rows a second of ingest and validate, and the seconds that a day's small batch takes.

    python -m benchmarks.ingest

A log of CSV files with text ids, where one row in a hundred breaks a rule and one in a hundred is there twice, comes in
at once; then days of a few thousand rows one at a time, in the same session. Beside it stands what people write in its
place: the same files read with a schema, checked, without duplicates, appended to a Delta table. It keeps no raw rows,
no reasons, no accounting, and reads all files each time, so it is a floor and no peer: no ratio is made of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.result import finish
from factorlake.config.loader import build
from factorlake.config.settings import Settings, SparkSettings
from factorlake.pipelines.jobs import execute
from factorlake.spark.session import open_session

ROWS_A_FILE = 250_000
STAGES = ("ingest", "validate")
SCHEMA = "user_id string, item_id string, value double, event_time timestamp"


def write_log(folder: Path, n_rows: int, first_day: int, seed: int) -> None:
    """Write CSV files of ``n_rows`` events in all: 1 in 100 without a user, 1 in 100 twice, in an order of chance."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for part, begin in enumerate(range(0, n_rows, ROWS_A_FILE)):
        n = min(ROWS_A_FILE, n_rows - begin)
        users = "user-" + pd.Series(random.zipf(1.2, n) % (n_rows // 20 + 1)).astype(str)
        users[random.random(n) < 0.01] = ""
        moments = pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(
            first_day * 86_400 + random.random(n) * 86_400, unit="s"
        )
        events = pd.DataFrame(
            {
                "user_id": users,
                "item_id": "item-" + pd.Series(random.zipf(1.3, n) % (n_rows // 100 + 1)).astype(str),
                "value": random.integers(1, 6, n),
                "event_time": moments.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            }
        )
        again = random.random(n) < 0.01
        events.loc[again] = events.to_numpy()[np.maximum(np.flatnonzero(again) - 1, 0)]
        events.to_csv(folder / f"{first_day:05d}-{part:05d}.csv", index=False)


def take(spark: SparkSession, settings: Settings) -> dict[str, Any]:
    """Ingest and validate what is new; return the seconds of each and validate's counts."""
    figures: dict[str, Any] = {}
    for verb in STAGES:
        began = time.perf_counter()
        line = execute(verb, settings, conf_dir="conf", open_session=lambda: spark, progress=lambda _: None)
        figures[verb] = time.perf_counter() - began
        if line["exit_code"] != 0:
            raise RuntimeError(line["reason"])
    counts = line["counts"]
    return {**figures, **{name: counts[name] for name in ("rows", "accepted", "quarantined", "duplicates")}}


def plain_spark(spark: SparkSession, source: str, target: str) -> None:
    """Read, check, drop repeats and append, as a script of a few lines does."""
    log = spark.read.schema(SCHEMA).option("header", True).csv(source)
    good = log.where("user_id is not null and item_id is not null and event_time is not null")
    good.dropDuplicates().withColumn("taken", F.current_timestamp()).write.format("delta").mode("append").save(target)


def main() -> None:
    """Parse the arguments, take the log in, print the figures and the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000, help="of the first batch")
    parser.add_argument("--day", type=int, default=5_000, help="rows of each later batch")
    parser.add_argument("--repeat", type=int, default=5, help="later batches, of which the median counts")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="4g")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args()
    spark = open_session(SparkSettings(master=given.master, driver_memory=given.driver_memory))
    with tempfile.TemporaryDirectory() as folder:

        def lake(name: str) -> Settings:
            columns = {"value": "value"}
            return build({"root": f"{folder}/{name}", "input": f"{folder}/log-{name}", "events": {"columns": columns}})

        # A first small lake, so that the clock finds a session that has done all this once.
        write_log(Path(folder, "log-warm"), given.day, 0, seed=0)
        take(spark, lake("warm"))
        plain_spark(spark, f"{folder}/log-warm", f"{folder}/plain-warm")

        write_log(Path(folder, "log-all"), given.rows, 0, seed=1)
        whole = take(spark, lake("all"))
        began = time.perf_counter()
        plain_spark(spark, f"{folder}/log-all", f"{folder}/plain")
        plain = time.perf_counter() - began
        days = []
        for day in range(1, given.repeat + 1):
            write_log(Path(folder, "log-all"), given.day, day, seed=1 + day)
            days.append(take(spark, lake("all")))
    spark.stop()
    seconds = whole["ingest"] + whole["validate"]
    figures = {
        "first_batch": whole,
        "rows_per_second": whole["rows"] / seconds,
        "plain_spark_seconds": plain,
        "day": {verb: statistics.median(one[verb] for one in days) for verb in STAGES},
        "days": days,
    }
    print(f"{whole['rows']:,} rows: ingest {whole['ingest']:.1f} s, validate {whole['validate']:.1f} s, ", end="")
    print(f"{figures['rows_per_second']:,.0f} rows a second; plain Spark {plain:.1f} s")
    print(f"a day of {given.day:,} rows: " + ", ".join(f"{verb} {figures['day'][verb]:.1f} s" for verb in STAGES))
    finish("ingest", vars(given), figures, {}, given.keep)


if __name__ == "__main__":
    main()
