"""The broadcast plan: Spark tasks solve blocks against one side's factors, which every worker gets whole.

The driver rotates, sums and decides exactly as in the local plan; the tasks call the same pure function on the same
arrays. So the factors are equal bit for bit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.models.half_step import BlockResult, HalfStepTask, solve_one_block
from factorlake.models.parameters import AlsParameters
from factorlake.models.problem import AlsProblem, SideLayout
from factorlake.models.threads import single_threaded_blas
from factorlake.models.weighting import ridge_counts
from factorlake.spark.blocks import unpack
from factorlake.spark.compat import large_rows, task_slots
from factorlake.spark.exchange import Exchange, Handle
from factorlake.spark.file_packing import TASKS_PER_SLOT, StoredBlock, balanced, load_block
from factorlake.types import FloatMatrix, RatingBlock, Side

log = logging.getLogger(__name__)

_RESULT = (
    "block int, factors binary, observed_loss double, residual_sum double, regularization_loss double, "
    "gram binary, jitters int"
)
_LAYOUT = "side string, block int, n_obs bigint, rating_sum double, hashes binary, counts binary"


def describe_blocks(blocks: DataFrame, parameters: AlsParameters) -> AlsProblem:
    """Return the sizes and layouts of packed blocks; their ratings stay with the workers."""

    def describe(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            sides = batch["side"].to_pylist()
            for side, (number, block) in zip(sides, unpack(batch), strict=True):
                ratings = block.n_obs if block.values is None else np.sum(block.values, dtype=np.float64)
                yield pa.RecordBatch.from_pylist(
                    [
                        {
                            "side": side,
                            "block": number,
                            "n_obs": block.n_obs,
                            "rating_sum": float(ratings),
                            "hashes": block.hashes.tobytes(),
                            "counts": ridge_counts(block, parameters).astype(np.int64).tobytes(),
                        }
                    ],
                    schema=pa.schema(
                        [
                            ("side", pa.string()),
                            ("block", pa.int32()),
                            ("n_obs", pa.int64()),
                            ("rating_sum", pa.float64()),
                            ("hashes", pa.binary()),
                            ("counts", pa.binary()),
                        ]
                    ),
                )

    with large_rows(blocks.sparkSession):
        rows = sorted(blocks.mapInArrow(describe, _LAYOUT).toArrow().to_pylist(), key=lambda row: row["block"])
    users = [row for row in rows if row["side"] == "user"]
    rating_sum = 0.0
    for row in users:
        rating_sum += row["rating_sum"]
    return AlsProblem(
        users=_layout(users),
        items=_layout([row for row in rows if row["side"] == "item"]),
        n_obs=sum(row["n_obs"] for row in users),
        rating_sum=rating_sum,
    )


def _layout(rows: list[dict]) -> SideLayout:
    return SideLayout.of_blocks(
        [np.frombuffer(row["hashes"], np.int64) for row in rows],
        [np.frombuffer(row["counts"], np.int64) for row in rows],
    )


class BroadcastHalfStep:
    """Solve one side's blocks in Spark tasks.

    Where workers see the workspace, a task maps its blocks and the factors from files (``blocks`` says where);
    elsewhere blocks, rows of the table at ``path``, and factors travel with the tasks (slower, always right).
    """

    def __init__(
        self, spark: SparkSession, exchange: Exchange, blocks: dict[Side, list[StoredBlock]] | None, path: str
    ) -> None:
        self.spark = spark
        self.exchange = exchange
        self.blocks = blocks
        self.path = path
        log.info("broadcast plan: blocks and factors travel by %s", "task" if blocks is None else "file")

    def __call__(self, task: HalfStepTask, fixed: FloatMatrix, warm: FloatMatrix | None) -> Sequence[BlockResult]:
        fixed_handle = self.exchange.ship(fixed)
        warm_handle = None if warm is None else self.exchange.ship(warm)
        try:
            if self.blocks is None:
                solved = self._with_tasks(task, fixed_handle, warm_handle)
            else:
                solved = self._by_file(task, self.blocks[task.side], fixed_handle, warm_handle)
            with large_rows(self.spark):
                rows = solved.toArrow().to_pylist()
            results = {row["block"]: _unpack_result(row, task, fixed.dtype) for row in rows}
        finally:
            for handle in (fixed_handle, warm_handle):
                if handle is not None:
                    self.exchange.drop(handle)
        return [results[block] for block in sorted(results)]

    def _by_file(self, task: HalfStepTask, blocks: list[StoredBlock], fixed: Handle, warm: Handle | None) -> DataFrame:
        weighed = [(block, block.n_obs) for block in blocks]
        groups = balanced(weighed, TASKS_PER_SLOT * task_slots(self.spark))

        def solve(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for group in batch["id"].to_pylist():
                    for stored in groups[group]:
                        yield _solve(task, stored.number, load_block(stored.path), fixed, warm)

        return self.spark.range(0, len(groups), 1, len(groups)).mapInArrow(solve, _RESULT)

    def _with_tasks(self, task: HalfStepTask, fixed: Handle, warm: Handle | None) -> DataFrame:
        def solve(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for number, block in unpack(batch):
                    yield _solve(task, number, block, fixed, warm)

        blocks = self.spark.read.format("delta").load(self.path).where(F.col("side") == task.side)
        return blocks.mapInArrow(solve, _RESULT)


def _solve(task: HalfStepTask, number: int, block: RatingBlock, fixed: Handle, warm: Handle | None) -> pa.RecordBatch:
    own = None if warm is None else np.array(warm.load()[block.first_row : block.first_row + block.n_rows])
    with single_threaded_blas():
        result = solve_one_block(task, block, fixed.load(), own)
    return pa.RecordBatch.from_pydict(
        {
            "block": pa.array([number], pa.int32()),
            "factors": pa.array([np.ascontiguousarray(result.factors).tobytes()], pa.binary()),
            "observed_loss": pa.array([result.observed_loss], pa.float64()),
            "residual_sum": pa.array([result.residual_sum], pa.float64()),
            "regularization_loss": pa.array([result.regularization_loss], pa.float64()),
            "gram": pa.array([None if result.gram is None else result.gram.tobytes()], pa.binary()),
            "jitters": pa.array([result.jitters], pa.int32()),
        }
    )


def _unpack_result(row: dict, task: HalfStepTask, dtype: np.dtype) -> BlockResult:
    width = task.parameters.width
    factors = np.frombuffer(row["factors"], dtype)
    return BlockResult(
        factors=factors.reshape(-1, width),
        observed_loss=row["observed_loss"],
        residual_sum=row["residual_sum"],
        regularization_loss=row["regularization_loss"],
        gram=None if row["gram"] is None else np.frombuffer(row["gram"], np.float64).reshape(width, width),
        jitters=row["jitters"],
    )
