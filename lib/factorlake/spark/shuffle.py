"""The shuffle plan: rows of both sides lie in files, one per logical block, and only tasks ever touch them.

A task that solves a block gathers the rows that this block sees, once; it holds those, the block and its own rows, and
no more. The driver holds sizes and sums. What is done with a block is what every plan does, on the same numbers, so
factors are equal bit for bit.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

from factorlake.models.half_step import (
    BlockSums,
    Fixed,
    HalfStepTask,
    Segment,
    prepare_fixed,
    solve_one_block,
    sum_segment,
)
from factorlake.models.plan import Look, NewRows, T
from factorlake.models.problem import AlsProblem
from factorlake.models.threads import single_threaded_blas
from factorlake.spark.stored_blocks import StoredBlock, sum_long_rows
from factorlake.spark.stored_rows import (
    RowReader,
    StoredRows,
    look_at_rows,
    map_stored_rows,
    new_folder,
    rows_file,
)
from factorlake.spark.task_farm import mapped, run_balanced, save_array
from factorlake.types import FloatMatrix, Side


class ShufflePlan:
    """Solve blocks in Spark tasks that share nothing but files under ``folder``, which must stay as long as the model
    is used."""

    def __init__(
        self, spark: SparkSession, folder: str, problem: AlsProblem, blocks: dict[Side, list[StoredBlock]]
    ) -> None:
        self.spark = spark
        self.folder = folder
        self.problem = problem
        self.blocks = blocks

    def hold(self, side: Side, factors: DataFrame, rank: int) -> StoredRows:
        """Return (block, position, factor) of every row of one side as this plan holds rows; a null factor is NaN."""
        target = new_folder(self.folder)
        first_rows = {block.number: block.first_row for block in self.blocks[side]}

        def write(table: pa.Table) -> pa.Table:
            number = table["block"][0].as_py()
            rows = np.full((table.num_rows, rank), np.nan, np.float32)
            given = table.filter(table["factor"].is_valid())
            flat = given["factor"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            rows[given["position"].to_numpy() - first_rows[number]] = flat.reshape(given.num_rows, rank)
            save_array(rows_file(target, number), rows)
            return table.select(["block"]).slice(0, 1)

        factors.groupBy("block").applyInArrow(write, "block int").collect()
        return StoredRows.of(target, self.blocks[side])

    def map_rows(self, side: Side, work: NewRows[T], *held: StoredRows) -> tuple[StoredRows, list[T]]:
        """See ``Plan``."""

        def make(stored: StoredBlock, *rows: FloatMatrix) -> tuple[FloatMatrix, T]:
            return work(stored.rows(), *rows)

        return map_stored_rows(self.spark, self.folder, self._by_rows(side), make, held)

    def look(self, side: Side, work: Look[T], *held: StoredRows) -> list[T]:
        """See ``Plan``."""

        def ask(stored: StoredBlock, *rows: FloatMatrix) -> T:
            return work(stored.rows(), *rows)

        return look_at_rows(self.spark, self.folder, self._by_rows(side), ask, held)

    def half_step(
        self, task: HalfStepTask, fixed: StoredRows, own: StoredRows | None
    ) -> tuple[StoredRows, list[BlockSums]]:
        """See ``Plan``."""
        target = new_folder(self.folder)
        reader = RowReader(fixed.files(), fixed.block_ptr)
        own_folder = None if own is None else own.folder

        def fixed_rows(positions: NDArray[np.int32]) -> Fixed:
            return prepare_fixed(task.parameters, task.mean, reader.rows_at(positions))

        def add_up(stored: StoredBlock, segment: Segment) -> NDArray[np.float64]:
            block = stored.load()
            places = block.neighbours[segment.first : segment.last]
            seen = fixed_rows(stored.neighbour_rows()[places])
            return sum_segment(task, block, segment, np.arange(len(places), dtype=np.int32), seen)

        def solve(stored: StoredBlock) -> BlockSums:
            warm = None if own_folder is None else np.array(mapped(rows_file(own_folder, stored.number)))
            with single_threaded_blas():
                seen = fixed_rows(stored.neighbour_rows())
                rows, sums = solve_one_block(task, stored.load(), seen, warm, known.get(stored.number))
            save_array(rows_file(target, stored.number), rows)
            return sums

        blocks = self.blocks[task.side]
        known = {} if task.solver == "residual" else sum_long_rows(self.spark, blocks, add_up)
        made = StoredRows.of(target, blocks)
        return made, run_balanced(self.spark, [(block, block.weight) for block in blocks], solve)

    def _by_rows(self, side: Side) -> list[tuple[StoredBlock, int]]:
        return [(block, block.n_rows) for block in self.blocks[side]]
