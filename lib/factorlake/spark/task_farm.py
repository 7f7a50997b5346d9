"""Work that lies in files both driver and workers see: Spark starts the tasks and counts their retries, no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
from pyspark.sql import SparkSession

Job = TypeVar("Job")


def run_tasks(spark: SparkSession, jobs: Sequence[Job], work: Callable[[Job], dict[str, Any]]) -> list[dict[str, Any]]:
    """Run ``work`` once for each job, a Spark task each, and return what it tells, in the order of the jobs.

    A task may run more than once, even at the same time: ``work`` writes files under another name first and moves them
    into place. What it returns must be JSON and small.
    """
    if not jobs:
        return []

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                told = json.dumps(work(jobs[number]))
                yield pa.RecordBatch.from_arrays([pa.array([number]), pa.array([told])], names=["id", "told"])

    rows = spark.range(0, len(jobs), 1, len(jobs)).mapInArrow(run, "id bigint, told string").collect()
    return [json.loads(row["told"]) for row in sorted(rows, key=lambda row: row["id"])]
