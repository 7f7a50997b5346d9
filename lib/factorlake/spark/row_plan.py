"""The rows of one matrix in files that driver and workers see, worked on by tasks: ``RowPlan`` inside Spark.

What is done with a block is what the local plan does, on the same numbers, so results are equal bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from factorlake.models.row_plan import LookAtRows, NewMatrixRows, T
from factorlake.spark.stored_rows import (
    StoredCsrRows,
    StoredRows,
    look_at_rows,
    map_stored_rows,
    new_folder,
    rows_file,
)
from factorlake.spark.task_farm import save_array
from factorlake.types import FloatMatrix


@dataclass(frozen=True)
class RowRange:
    """The rows of one block."""

    number: int
    first_row: int
    n_rows: int


class StoredRowPlan:
    """Rows in files under ``folder``, which driver and workers see and which must stay as long as rows are used."""

    def __init__(self, spark: SparkSession, folder: str, block_ptr: NDArray[np.int64]) -> None:
        self.spark = spark
        self.folder = folder
        self.block_ptr = block_ptr
        self._blocks = [
            RowRange(number, first, last - first) for number, (first, last) in enumerate(pairwise(block_ptr.tolist()))
        ]
        # Blocks are cut so that one costs what another does.
        self._weighed = [(block, 1) for block in self._blocks]

    def hold(self, array: FloatMatrix) -> StoredRows:
        """Return an array of all rows as this plan holds rows: written to files, by the driver."""
        held = StoredRows.of(new_folder(self.folder), self._blocks)
        for block in self._blocks:
            rows = array[block.first_row : block.first_row + block.n_rows]
            save_array(rows_file(held.folder, block.number), np.ascontiguousarray(rows))
        return held

    def map_rows(self, work: NewMatrixRows[T], *held: StoredRows | StoredCsrRows) -> tuple[StoredRows, list[T]]:
        """See ``RowPlan``."""

        def make(block: RowRange, *rows: Any) -> tuple[FloatMatrix, T]:
            return work(block.first_row, *rows)

        return map_stored_rows(self.spark, self.folder, self._weighed, make, held)

    def look(self, work: LookAtRows[T], *held: StoredRows | StoredCsrRows) -> list[T]:
        """See ``RowPlan``."""

        def ask(block: RowRange, *rows: Any) -> T:
            return work(block.first_row, *rows)

        return look_at_rows(self.spark, self.folder, self._weighed, ask, held)
