"""The broadcast plan: Spark tasks solve blocks against one side's factors, which every worker gets whole.

The driver holds the rows of both sides and does with them what it does in the local plan; the tasks call the same pure
function on the same arrays. So the factors are equal bit for bit.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.kernels.observations import LongSums
from factorlake.models.half_step import (
    BlockSums,
    Fixed,
    HalfStepTask,
    Segment,
    prepare_fixed,
    solve_one_block,
    sum_segment,
)
from factorlake.models.parameters import AlsParameters
from factorlake.models.plan import ArrayRows, DriverRows, joined
from factorlake.models.problem import AlsProblem, SideLayout, rating_sum
from factorlake.models.threads import single_threaded_blas
from factorlake.models.weighting import ridge_counts
from factorlake.spark.blocks import unpack
from factorlake.spark.compat import large_rows
from factorlake.spark.exchange import Exchange, Handle
from factorlake.spark.stored_blocks import StoredBlock, stored_layout, sum_long_rows
from factorlake.spark.task_farm import attempt, mapped, outcome, run_balanced, save_array
from factorlake.types import FloatMatrix, RatingBlock, Side


class _Shipped(NamedTuple):
    """What every task of a half step reads."""

    factors: Handle
    offset: Handle | None
    own: Handle | None

    def fixed(self) -> Fixed:
        return Fixed(self.factors.load(), None if self.offset is None else self.offset.load())

    def solve(
        self, task: HalfStepTask, block: RatingBlock, known: LongSums | None = None
    ) -> tuple[FloatMatrix, BlockSums]:
        own = None if self.own is None else np.array(self.own.load()[block.first_row : block.first_row + block.n_rows])
        with single_threaded_blas():
            return solve_one_block(task, block, self.fixed(), own, known)


class _BroadcastPlan(DriverRows):
    """Ship the rows that a half step needs, and take them back when it is over."""

    def __init__(
        self, spark: SparkSession, exchange: Exchange, problem: AlsProblem, users: SideLayout, items: SideLayout
    ) -> None:
        super().__init__(problem, users, items)
        self.spark = spark
        self.exchange = exchange

    def half_step(
        self, task: HalfStepTask, fixed: ArrayRows, own: ArrayRows | None
    ) -> tuple[ArrayRows, list[BlockSums]]:
        """See ``Plan``."""
        prepared = prepare_fixed(task.parameters, task.mean, fixed.array)
        shipped = _Shipped(
            self.exchange.ship(prepared.factors),
            None if prepared.offset is None else self.exchange.ship(prepared.offset),
            None if own is None else self.exchange.ship(own.array),
        )
        try:
            solved = self._solve(task, shipped)
        finally:
            for handle in shipped:
                if handle is not None:
                    self.exchange.drop(handle)
        return self.hold(task.side, joined([rows for rows, _ in solved])), [sums for _, sums in solved]

    def _solve(self, task: HalfStepTask, shipped: _Shipped) -> list[tuple[FloatMatrix, BlockSums]]:
        raise NotImplementedError


class FileBroadcastPlan(_BroadcastPlan):
    """For workers that see the workspace: blocks and rows are files, mapped into memory."""

    def __init__(
        self, spark: SparkSession, exchange: Exchange, problem: AlsProblem, blocks: dict[Side, list[StoredBlock]]
    ) -> None:
        super().__init__(spark, exchange, problem, stored_layout(blocks["user"]), stored_layout(blocks["item"]))
        self.blocks = blocks

    def _solve(self, task: HalfStepTask, shipped: _Shipped) -> list[tuple[FloatMatrix, BlockSums]]:
        blocks = self.blocks[task.side]
        prefix = os.path.join(self.exchange.folder, uuid.uuid4().hex)

        def add_up(stored: StoredBlock, segment: Segment) -> NDArray[np.float64]:
            block = stored.load()
            neighbours = block.neighbours[segment.first : segment.last]
            return sum_segment(task, block, segment, neighbours, shipped.fixed())

        def solve(stored: StoredBlock) -> BlockSums:
            rows, sums = shipped.solve(task, stored.load(), known.get(stored.number))
            save_array(f"{prefix}-{stored.number}.npy", rows)
            return sums

        known = {} if task.solver == "residual" else sum_long_rows(self.spark, blocks, add_up)
        told = run_balanced(self.spark, [(block, block.weight) for block in blocks], solve)
        files = [f"{prefix}-{block.number}.npy" for block in blocks]
        rows = [mapped(path) for path in files]
        for path in files:
            # What is mapped stays readable until it is let go.
            os.unlink(path)
        return list(zip(rows, told, strict=True))


class TaskBroadcastPlan(_BroadcastPlan):
    """For workers that do not see the workspace: blocks are rows of a Delta table and factors travel with the tasks;
    a long row is summed where its block is solved (slower, always right)."""

    def __init__(self, spark: SparkSession, exchange: Exchange, path: str, parameters: AlsParameters) -> None:
        self.path = path
        super().__init__(spark, exchange, *describe_blocks(spark, path, parameters))

    def _solve(self, task: HalfStepTask, shipped: _Shipped) -> list[tuple[FloatMatrix, BlockSums]]:
        def solve(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for number, block in unpack(batch):
                    yield _row(number, attempt(shipped.solve, task, block))

        blocks = self.spark.read.format("delta").load(self.path).where(F.col("side") == task.side)
        with large_rows(self.spark):
            rows = blocks.mapInArrow(solve, _TOLD).toArrow().to_pylist()
        solved = {row["block"]: outcome(row["told"]) for row in rows}
        return [solved[number] for number in sorted(solved)]


_TOLD = "block int, told binary"


def _row(number: int, told: bytes) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.array([number], pa.int32()), pa.array([told], pa.binary())], ["block", "told"]
    )


def describe_blocks(
    spark: SparkSession, path: str, parameters: AlsParameters
) -> tuple[AlsProblem, SideLayout, SideLayout]:
    """Return sizes and layouts of the blocks in a Delta table; their ratings stay with the workers."""

    def sizes_of(block: RatingBlock) -> tuple[NDArray[np.int64], NDArray[np.int64], int, float]:
        return block.hashes, ridge_counts(block, parameters), block.n_obs, rating_sum(block)

    def describe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number, block in unpack(batch):
                yield _row(number, attempt(sizes_of, block))

    layouts, sizes = [], []
    with large_rows(spark):
        for side in ("user", "item"):
            blocks = spark.read.format("delta").load(path).where(F.col("side") == side)
            rows = sorted(blocks.mapInArrow(describe, _TOLD).toArrow().to_pylist(), key=lambda row: row["block"])
            told = [outcome(row["told"]) for row in rows]
            layouts.append(SideLayout.of_blocks([one[0] for one in told], [one[1] for one in told]))
            sizes.append(told)
    users, items = layouts
    total = 0.0
    for one in sizes[0]:
        total += one[3]
    return AlsProblem(users.n_rows, items.n_rows, sum(one[2] for one in sizes[0]), total), users, items
