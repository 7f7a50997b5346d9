"""Ids of any kind become numbers: dense indexes for the dictionaries, positions in hash order for training.

Nothing here collects ids on the driver but a bounded sample for range boundaries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

# New ids ranked by one task.
IDS_PER_RANGE = 500_000
SAMPLED_IDS = 20_000


@dataclass(frozen=True)
class Positions:
    """The ids of one side in training order: by (64-bit hash, id)."""

    make_frame: Callable[[], DataFrame]
    """Returns ``frame``; asked once, when that is first needed."""
    block_ptr: NDArray[np.int64]
    """(n_blocks + 1,) positions where logical blocks start; the last is the number of ids."""

    @cached_property
    def frame(self) -> DataFrame:
        """id, hash, block, position."""
        return self.make_frame()

    @property
    def n_ids(self) -> int:
        return int(self.block_ptr[-1])


def logical_block(hash_column: Column, n_blocks: int) -> Column:
    """Return the logical block of a row: the leading bits of its signed 64-bit hash, from 0. ``n_blocks`` is a power
    of two."""
    bits = n_blocks.bit_length() - 1
    if bits == 0:
        return F.lit(0)
    return (F.shiftright(hash_column, 64 - bits) + F.lit(n_blocks // 2)).cast("int")


def positions(ids: DataFrame, n_blocks: int) -> Positions:
    """Return the distinct ``id`` values of a frame with their positions in hash order.

    A position is the number of ids with a smaller (hash, id): blocks are contiguous ranges of positions, whatever
    the order of arrival or the number of partitions. Only the ``n_blocks`` block sizes reach the driver.
    """
    hashed = ids.select("id").distinct().withColumn("hash", F.xxhash64("id"))
    hashed = hashed.withColumn("block", logical_block(F.col("hash"), n_blocks))
    sizes = {row["block"]: row["count"] for row in hashed.groupBy("block").count().collect()}
    block_ptr = np.zeros(n_blocks + 1, np.int64)
    np.cumsum([sizes.get(block, 0) for block in range(n_blocks)], out=block_ptr[1:])
    in_block = F.row_number().over(Window.partitionBy("block").orderBy("hash", "id")) - 1
    offset = F.array(*(F.lit(value).cast("bigint") for value in block_ptr[:-1].tolist()))[F.col("block")]
    placed = hashed.withColumn("position", (offset + in_block).cast("int"))
    return Positions(lambda: placed, block_ptr)


def rank_new_ids(new_ids: DataFrame, first: int, count: int) -> DataFrame:
    """Return (id, index) with index = ``first`` + rank by bytes of each distinct ``id``.

    ``count`` is the number of distinct ids. Large sets are cut into ranges at sampled
    boundaries, so that no task ranks more than about IDS_PER_RANGE ids. An empty frame gives an empty frame.
    """
    ids = new_ids.select("id").distinct()
    boundaries: list[str] = []
    offsets = [first]
    if count > IDS_PER_RANGE:
        n_ranges = -(-count // IDS_PER_RANGE)
        chosen = F.pmod(F.xxhash64("id"), F.lit(max(1, count // SAMPLED_IDS))) == 0
        sample = sorted((row["id"] for row in ids.where(chosen).collect()), key=str.encode)
        boundaries = sorted({sample[len(sample) * cut // n_ranges] for cut in range(1, n_ranges)}, key=str.encode)
    placed = ids.withColumn("range", sum((F.col("id") >= F.lit(b)).cast("int") for b in boundaries) + F.lit(0))
    if boundaries:
        sizes = {row["range"]: row["count"] for row in placed.groupBy("range").count().collect()}
        offsets = [first + sum(sizes.get(part, 0) for part in range(end)) for end in range(len(boundaries) + 1)]
    rank = F.row_number().over(Window.partitionBy("range").orderBy("id")) - 1
    offset = F.array(*(F.lit(value).cast("bigint") for value in offsets))[F.col("range")]
    return placed.select("id", (offset + rank).cast("bigint").alias("index"))
