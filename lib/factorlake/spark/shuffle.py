"""The shuffle plan: rows of both sides lie in files, one per logical block, and only tasks ever touch them.

A task that solves a block gathers the rows that this block sees, once; it holds those, the block and its own rows, and
no more. The driver holds sizes and sums. What is done with a block is what every plan does, on the same numbers, so
factors are equal bit for bit.
"""

from __future__ import annotations

import os
import shutil
import uuid
import weakref
from collections.abc import Iterator, Sequence
from itertools import pairwise

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
from factorlake.spark.task_farm import mapped, run_balanced, save_array
from factorlake.types import FloatMatrix, Side


class StoredRows:
    """Rows of one side in files, one per logical block. The files go when nothing refers to this object any more."""

    def __init__(self, folder: str, blocks: Sequence[StoredBlock]) -> None:
        self.folder = folder
        self.numbers = [block.number for block in blocks]
        self.block_ptr = np.cumsum([0, *(block.n_rows for block in blocks)])
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def files(self) -> list[str]:
        """Return where each block's rows lie, in block order."""
        return [rows_file(self.folder, number) for number in self.numbers]

    def blocks(self) -> Iterator[FloatMatrix]:
        """See ``Rows``."""
        for path in self.files():
            yield mapped(path)

    def at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        """See ``Rows``."""
        order = np.argsort(positions, kind="stable")
        ascending = RowReader(self.files(), self.block_ptr).rows_at(positions[order])
        rows = np.empty_like(ascending)
        rows[order] = ascending
        return rows

    def whole(self) -> FloatMatrix:
        """See ``Rows``."""
        return np.concatenate(list(self.blocks()))


def rows_file(folder: str, number: int) -> str:
    """Return where the rows of one logical block lie."""
    return f"{folder}/{number}.npy"


class RowReader:
    """Reads rows of a side whose blocks lie in files. A task makes the most of one: each file is mapped once, and the
    rows asked for last lie where those before them lay."""

    def __init__(self, files: Sequence[str], block_ptr: NDArray[np.int64]) -> None:
        self._files = files
        self._block_ptr = block_ptr
        self._mapped: dict[int, FloatMatrix] = {}
        self._memory: FloatMatrix | None = None

    def rows_at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        """Return the rows at positions, ascending; they stay as they are until the next call."""
        first = self._block(0)
        if self._memory is None or len(self._memory) < len(positions):
            self._memory = np.empty((len(positions), first.shape[1]), first.dtype)
        rows = self._memory[: len(positions)]
        ends = np.searchsorted(positions, self._block_ptr).tolist()
        for number, (begin, end) in enumerate(pairwise(ends)):
            if begin < end:
                places = positions[begin:end] - self._block_ptr[number]
                # In the other modes NumPy needs no copy of its own, in case a place turns out to be none.
                np.take(self._block(number), places, axis=0, out=rows[begin:end], mode="clip")
        return rows

    def _block(self, number: int) -> FloatMatrix:
        if number not in self._mapped:
            self._mapped[number] = mapped(self._files[number])
        return self._mapped[number]


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
        target = self._new_folder()
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
        return StoredRows(target, self.blocks[side])

    def map_rows(self, side: Side, work: NewRows[T], *held: StoredRows) -> tuple[StoredRows, list[T]]:
        """See ``Plan``."""
        target = self._new_folder()
        folders = [rows.folder for rows in held]

        def make(stored: StoredBlock) -> T:
            with single_threaded_blas():
                rows, told = work(stored.rows(), *(mapped(rows_file(folder, stored.number)) for folder in folders))
            save_array(rows_file(target, stored.number), rows)
            return told

        made = StoredRows(target, self.blocks[side])
        return made, run_balanced(self.spark, [(block, block.n_rows) for block in self.blocks[side]], make)

    def look(self, side: Side, work: Look[T], *held: StoredRows) -> list[T]:
        """See ``Plan``."""
        folders = [rows.folder for rows in held]

        def ask(stored: StoredBlock) -> T:
            with single_threaded_blas():
                return work(stored.rows(), *(mapped(rows_file(folder, stored.number)) for folder in folders))

        return run_balanced(self.spark, [(block, block.n_rows) for block in self.blocks[side]], ask)

    def half_step(
        self, task: HalfStepTask, fixed: StoredRows, own: StoredRows | None
    ) -> tuple[StoredRows, list[BlockSums]]:
        """See ``Plan``."""
        target = self._new_folder()
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
        made = StoredRows(target, blocks)
        return made, run_balanced(self.spark, [(block, block.weight) for block in blocks], solve)

    def _new_folder(self) -> str:
        folder = f"{self.folder}/rows-{uuid.uuid4().hex}"
        os.makedirs(folder)
        return folder
