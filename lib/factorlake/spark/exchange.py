"""How arrays reach the workers: as a file under the table root where they can read it, else inside the task."""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from factorlake.models.plan import ArrayRows
from factorlake.paths import has_scheme
from factorlake.spark.compat import is_local, task_slots
from factorlake.spark.stored_rows import StoredRows
from factorlake.spark.task_farm import mapped, run_tasks
from factorlake.types import FloatMatrix

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Handle:
    """An array on its way to the workers: the file that holds it, or the array itself."""

    path: str | None
    array: NDArray | None

    def load(self) -> NDArray:
        """Return the array; a file is memory-mapped, so that the workers of one machine share its pages."""
        if self.path is None:
            assert self.array is not None
            return self.array
        return _mapped(self.path)


_arrays: dict[str, NDArray] = {}
"""What this process has mapped, by path."""


def _mapped(path: str) -> NDArray:
    if path not in _arrays:
        # A file that was dropped keeps its room on the disk as long as somebody maps it.
        for gone in [known for known in _arrays if not os.path.exists(known)]:
            del _arrays[gone]
        _arrays[path] = mapped(path)
    return _arrays[path]


@dataclass(frozen=True)
class ShippedRows:
    """Rows of one side that tasks may ask for by position."""

    handle: Handle

    def at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        """Return the rows at some positions."""
        return self.handle.load()[positions]


class Exchange:
    """Ships arrays to workers and cleans up after itself. Use as a context manager.

    ``folder`` lies under the table root. Whether workers on other machines see it is tried once, by a task on every
    slot; where one does not, arrays travel inside the tasks (slower, always right). ``by_file`` tells which.
    """

    def __init__(self, spark: SparkSession, folder: str) -> None:
        self.folder = folder
        self.by_file = not has_scheme(folder) and self._workers_see(spark)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        if not has_scheme(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)

    def ship(self, array: NDArray) -> Handle:
        """Make ``array`` reachable for tasks. A shipped file's name is never used twice."""
        if not self.by_file:
            return Handle(None, array)
        # An exchange opened and closed in between, by a fit inside an evaluation, has taken the folder with it.
        os.makedirs(self.folder, exist_ok=True)
        path = os.path.join(self.folder, f"{uuid.uuid4().hex}.npy")
        np.save(path, array, allow_pickle=False)
        return Handle(path, None)

    def ship_rows(self, rows: ArrayRows | StoredRows) -> ShippedRows | StoredRows:
        """Make rows reachable for tasks, where they are not already."""
        return rows if isinstance(rows, StoredRows) else ShippedRows(self.ship(rows.array))

    def drop(self, handle: Handle) -> None:
        """Remove a shipped file that no task will ask for again."""
        if handle.path is not None:
            os.unlink(handle.path)

    def _workers_see(self, spark: SparkSession) -> bool:
        if is_local(spark):
            return True
        os.makedirs(self.folder, exist_ok=True)
        token = uuid.uuid4().hex
        marker = os.path.join(self.folder, f"{token}.marker")
        with open(marker, "w", encoding="ascii") as file:
            file.write(token)

        def look(_: int) -> bool:
            try:
                with open(marker, encoding="ascii") as file:
                    return file.read() == token
            except OSError:
                return False

        answers = run_tasks(spark, range(task_slots(spark)), look)
        os.unlink(marker)
        return all(answers)
