"""What validation costs: its seconds over those of a plain copy of the same records, and of the layer beside it.

    python -m benchmarks.validation

A log as in `benchmarks.ingest` is ingested once. Then, in turn and in one session, `validate` runs on it without and
with a Great Expectations suite, each time into a lake where nothing was validated yet; beside them stands a plain copy
of raw_events, all rows and columns, as another Delta table, and the least that any validation does: the same copy with
the fields read as columns. Validation reads each record, judges it by all rules, looks for copies, measures the batch,
and writes interactions, quarantine, both dictionaries and its results; the copy does none of that.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from benchmarks.ingest import write_log
from benchmarks.result import finish
from factorlake.config.loader import build
from factorlake.config.settings import Settings, SparkSettings
from factorlake.pipelines.jobs import execute
from factorlake.spark.session import open_session

SUITE = str(Path(__file__).parents[1] / "conf" / "expectations" / "interactions.yaml")
MAPPED = ("user_id", "item_id", "value", "event_time")


def run(spark: SparkSession, verb: str, settings: Settings) -> None:
    """Run one job in the session at hand; RuntimeError where it does not end well."""
    line = execute(verb, settings, conf_dir="conf", open_session=lambda: spark, progress=lambda _: None)
    if line["exit_code"] != 0:
        raise RuntimeError(line["reason"])


def copy(spark: SparkSession, source: str, target: str) -> None:
    """Write all rows and columns of a Delta table to another."""
    spark.read.format("delta").load(source).write.format("delta").save(target)


def copy_read(spark: SparkSession, source: str, target: str) -> None:
    """The copy, with the mapped fields as columns."""
    raw = spark.read.format("delta").load(source)
    fields = {name: F.try_element_at("fields", F.lit(name)) for name in MAPPED}
    raw.withColumns(fields).write.format("delta").save(target)


def main() -> None:
    """Parse the arguments, time everything in turn, print the figures and the result line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the batch")
    parser.add_argument("--repeat", type=int, default=5, help="rounds, of which the median counts")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--driver-memory", default="4g")
    parser.add_argument("--keep", action="store_true", help="keep the result under benchmarks/results")
    given = parser.parse_args()
    spark = open_session(SparkSettings(master=given.master, driver_memory=given.driver_memory))
    with tempfile.TemporaryDirectory() as folder:
        log, ingested = Path(folder, "log"), Path(folder, "ingested")

        def lake(root: Path, suite: str | None) -> Settings:
            events = {"columns": {"value": "value"}}
            return build({"root": str(root), "input": str(log), "events": events, "validate": {"expectations": suite}})

        write_log(log, given.rows, 0, seed=1)
        run(spark, "ingest", lake(ingested, None))
        raw = f"{ingested}/raw_events"

        def validate(suite: str | None) -> Callable[[Path], None]:
            return lambda root: run(spark, "validate", lake(root, suite))

        ways: dict[str, Callable[[Path], None]] = {
            "copy": lambda root: copy(spark, raw, f"{root}/copied"),
            "copy_read": lambda root: copy_read(spark, raw, f"{root}/copied"),
            "validate": validate(None),
            "validate_with_great_expectations": validate(SUITE),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        # The first round is for the session, the compiler and Great Expectations' import; it does not count.
        for turn in range(1 + given.repeat):
            for name, way in ways.items():
                root = Path(folder, name)
                shutil.rmtree(root, ignore_errors=True)
                shutil.copytree(ingested, root)
                began = time.perf_counter()
                way(root)
                if turn:
                    seconds[name].append(time.perf_counter() - began)
    spark.stop()
    figures = {name: statistics.median(of_name) for name, of_name in seconds.items()}
    layer = figures["validate_with_great_expectations"] - figures["validate"]
    for name, median in figures.items():
        print(f"{name}: {median:.2f} s, {median / figures['copy']:.2f} × the copy")
    print(f"the Great Expectations layer: {layer:.2f} s")
    ratios = {
        "validate_over_copy": figures["validate"] / figures["copy"],
        "validate_over_copy_read": figures["validate"] / figures["copy_read"],
        "great_expectations_over_validate": layer / figures["validate"],
    }
    finish("validation", vars(given), {**figures, "great_expectations": layer, "rounds": seconds}, ratios, given.keep)


if __name__ == "__main__":
    main()
