"""Work that lies in files both driver and workers see: Spark starts the tasks and counts their retries, no more."""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from factorlake.errors import FactorlakeError
from factorlake.spark.compat import is_local, task_slots

Job = TypeVar("Job")
Told = TypeVar("Told")
Weighed = TypeVar("Weighed")


def tasks_of_job(spark: SparkSession) -> int:
    """Return how many tasks to cut weighed work into: two for each slot, so that a slow machine does not leave the
    others idle. On one machine one: starting another takes as long as a small half step."""
    return task_slots(spark) * (1 if is_local(spark) else 2)


def run_tasks(spark: SparkSession, jobs: Sequence[Job], work: Callable[[Job], Told]) -> list[Told]:
    """Run ``work`` once for each job, a Spark task each, and return what it tells, in the order of the jobs.

    A task may run more than once, even at the same time: ``work`` writes files by `whole_file`. What it returns passes
    the driver's JVM: sums, not rows. A FactorlakeError of it is raised here, as if it had run here.
    """
    if not jobs:
        return []

    def run(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                told = attempt(work, jobs[number])
                yield pa.RecordBatch.from_arrays([pa.array([number]), pa.array([told], pa.binary())], ["id", "told"])

    frame = spark.range(0, len(jobs), 1, len(jobs)).mapInArrow(run, "id bigint, told binary")
    rows = frame.toArrow().to_pylist()
    return [outcome(row["told"]) for row in sorted(rows, key=lambda row: row["id"])]


def attempt(work: Callable[..., Any], *given: Any) -> bytes:
    """Return what ``work`` returns, or the FactorlakeError it raises, on its way to the driver."""
    try:
        return pickle.dumps((work(*given), None), protocol=5)
    except FactorlakeError as error:
        return pickle.dumps((None, error), protocol=5)


def outcome(told: bytes) -> Any:
    """Return or raise what `attempt` sent."""
    value, error = pickle.loads(told)
    if error is not None:
        raise error
    return value


def run_balanced(
    spark: SparkSession, weighed: Sequence[tuple[Weighed, int]], work: Callable[[Weighed], Told]
) -> list[Told]:
    """Run ``work`` once for each of some weighed things, several to a task, and return what it tells in their order."""
    places = [(place, weight) for place, (_, weight) in enumerate(weighed)]
    groups = balanced(places, tasks_of_job(spark)) if weighed else []
    things = [[weighed[place][0] for place in group] for group in groups]
    told = run_tasks(spark, things, lambda group: [work(one) for one in group])
    placed = zip(chain.from_iterable(groups), chain.from_iterable(told), strict=True)
    return [one for _, one in sorted(placed, key=lambda pair: pair[0])]


def balanced(weighed: Sequence[tuple[Weighed, int]], n_groups: int) -> list[list[Weighed]]:
    """Return at most ``n_groups`` groups with even weights: the heaviest first, each to the lightest group."""
    groups: list[list[Weighed]] = [[] for _ in range(max(1, min(n_groups, len(weighed))))]
    weights = [0] * len(groups)
    for one, weight in sorted(weighed, key=lambda pair: -pair[1]):
        lightest = weights.index(min(weights))
        groups[lightest].append(one)
        weights[lightest] += weight + 1
    return groups


@contextmanager
def whole_file(path: str) -> Iterator[str]:
    """Name a file to write, which then stands at ``path``, whole where it is seen: tasks that run twice write the
    same."""
    fresh = f"{path}.{uuid.uuid4().hex}"
    yield fresh
    os.replace(fresh, path)


def save_array(path: str, array: NDArray[Any]) -> None:
    """Write an array as a whole file."""
    with whole_file(path) as fresh, open(fresh, "wb") as file:
        np.save(file, array)


def mapped(path: str) -> NDArray[Any]:
    """Return the array of a file, mapped into memory: workers of one machine share its pages."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
