"""Rating blocks as files that driver and workers see: tasks map them into memory, so workers of one machine share
their pages and nothing is read twice."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from factorlake.kernels.observations import LongSums
from factorlake.models.half_step import Segment, known_sums, segments_of
from factorlake.models.problem import RowBlock, SideLayout
from factorlake.spark.task_farm import mapped, run_balanced, save_array
from factorlake.types import RatingBlock


@dataclass(frozen=True)
class StoredBlock:
    """Where one rating block lies."""

    number: int
    path: str
    """The beginning of its files' names."""
    first_row: int
    n_rows: int
    n_obs: int
    segments: tuple[Segment, ...] = ()
    """Of its long rows, each summed by a task of its own."""

    @property
    def weight(self) -> int:
        """What the block asks of the task that solves it, in observations: of those of long rows only the loss is
        left, about a quarter."""
        return self.n_obs - sum(segment.n_obs for segment in self.segments) * 3 // 4

    def load(self) -> RatingBlock:
        """Return the block. Its neighbours are positions, or places in `neighbour_rows` where it has such."""
        values = f"{self.path}.values.npy"
        return RatingBlock(
            first_row=self.first_row,
            row_ptr=mapped(f"{self.path}.row_ptr.npy"),
            neighbours=mapped(f"{self.path}.neighbours.npy"),
            values=mapped(values) if os.path.exists(values) else None,
            hashes=mapped(f"{self.path}.hashes.npy"),
        )

    def rows(self) -> RowBlock:
        """Return what is known of the block's rows."""
        return RowBlock(self.first_row, mapped(f"{self.path}.hashes.npy"), mapped(f"{self.path}.counts.npy"))

    def neighbour_rows(self) -> NDArray[np.int32]:
        """Return the ascending positions of the other side's rows that the block sees."""
        return mapped(f"{self.path}.neighbour_rows.npy")


def store_block(
    number: int, path: str, block: RatingBlock, counts: NDArray[np.int64], neighbour_rows: NDArray[np.int32] | None
) -> StoredBlock:
    """Write a block, n of each of its rows, and the rows it sees where its neighbours are places among them."""
    save_array(f"{path}.row_ptr.npy", block.row_ptr)
    save_array(f"{path}.neighbours.npy", block.neighbours)
    if block.values is not None:
        save_array(f"{path}.values.npy", block.values)
    save_array(f"{path}.hashes.npy", block.hashes)
    save_array(f"{path}.counts.npy", counts)
    if neighbour_rows is not None:
        save_array(f"{path}.neighbour_rows.npy", neighbour_rows)
    return StoredBlock(number, path, block.first_row, block.n_rows, block.n_obs, tuple(segments_of(block.row_ptr)))


def stored_layout(blocks: Sequence[StoredBlock]) -> SideLayout:
    """Bring the layout of one side to the driver."""
    rows = [block.rows() for block in blocks]
    return SideLayout.of_blocks([one.hashes for one in rows], [one.counts for one in rows])


def sum_long_rows(
    spark: SparkSession,
    blocks: Sequence[StoredBlock],
    work: Callable[[StoredBlock, Segment], NDArray[np.float64]],
) -> dict[int, LongSums]:
    """Run ``work`` for each segment of the blocks' long rows, spread over tasks; return the sums by block number."""
    tasks = [((block, segment), segment.n_obs) for block in blocks for segment in block.segments]
    if not tasks:
        return {}
    found = iter(run_balanced(spark, tasks, lambda pair: work(*pair)))
    return {
        block.number: known_sums(block.segments, [next(found) for _ in block.segments])
        for block in blocks
        if block.segments
    }
