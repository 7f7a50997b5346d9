"""Pairs become rating blocks: packed once per run, both ways, kept as a durable table."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.spark.ids import Positions
from factorlake.types import RatingBlock, Side

BLOCK_SCHEMA = (
    "side string, block int, first_row int, n_rows int, n_obs bigint, "
    "row_ptr binary, neighbours binary, values binary, hashes binary"
)
_ARROW_SCHEMA = pa.schema(
    [
        ("side", pa.string()),
        ("block", pa.int32()),
        ("first_row", pa.int32()),
        ("n_rows", pa.int32()),
        ("n_obs", pa.int64()),
        ("row_ptr", pa.binary()),
        ("neighbours", pa.binary()),
        ("values", pa.binary()),
        ("hashes", pa.binary()),
    ]
)


def index_pairs(pairs: DataFrame, users: Positions, items: Positions) -> DataFrame:
    """Replace the ids of (user_id, item_id, value) by positions, hashes and logical blocks of both sides."""

    def side(frame: DataFrame, name: str) -> DataFrame:
        return frame.select(
            F.col("id").alias(f"{name}_id"),
            F.col("position").alias(name),
            F.col("hash").alias(f"{name}_hash"),
            F.col("block").alias(f"{name}_block"),
        )

    joined = pairs.join(side(users.frame, "user"), on="user_id", how="inner")
    return joined.join(side(items.frame, "item"), on="item_id", how="inner").drop("user_id", "item_id")


def pack_blocks(indexed: DataFrame) -> DataFrame:
    """Return one row per logical block of each side (columns of BLOCK_SCHEMA) from the frame of `index_pairs`."""

    def one_side(row: str, other: str, side: Side) -> DataFrame:
        narrow = indexed.select(
            F.col(f"{row}_block").alias("block"),
            F.col(row).alias("row"),
            F.col(other).alias("neighbour"),
            F.col("value").cast("float").alias("value"),
            F.col(f"{row}_hash").alias("hash"),
        )

        def pack(table: pa.Table) -> pa.Table:
            return _pack_one(table, side)

        return narrow.groupBy("block").applyInArrow(pack, BLOCK_SCHEMA)

    return one_side("user", "item", "user").unionByName(one_side("item", "user", "item"))


def _pack_one(table: pa.Table, side: Side) -> pa.Table:
    row = table["row"].to_numpy()
    neighbour = table["neighbour"].to_numpy()
    order = np.lexsort((neighbour, row))
    row, neighbour = row[order], neighbour[order].astype(np.int32)
    values = table["value"].to_numpy()[order].astype(np.float32)
    first, last = int(row[0]), int(row[-1])
    row_ptr = np.zeros(last - first + 2, np.int64)
    np.cumsum(np.bincount(row - first, minlength=last - first + 1), out=row_ptr[1:])
    hashes = table["hash"].to_numpy()[order][row_ptr[:-1]]
    constant = bool(np.all(values == 1))
    return pa.table(
        {
            "side": [side],
            "block": pa.array([table["block"][0].as_py()], pa.int32()),
            "first_row": pa.array([first], pa.int32()),
            "n_rows": pa.array([last - first + 1], pa.int32()),
            "n_obs": pa.array([len(row)], pa.int64()),
            "row_ptr": pa.array([row_ptr.tobytes()], pa.binary()),
            "neighbours": pa.array([neighbour.tobytes()], pa.binary()),
            "values": pa.array([None if constant else values.tobytes()], pa.binary()),
            "hashes": pa.array([hashes.astype(np.int64).tobytes()], pa.binary()),
        },
        schema=_ARROW_SCHEMA,
    )


def write_blocks(blocks: DataFrame, path: str) -> None:
    """Write packed blocks as a Delta table partitioned by side and block, replacing what a killed run left there."""
    (
        blocks.write.format("delta")
        .mode("overwrite")
        .option("delta.enableDeletionVectors", "false")
        .partitionBy("side", "block")
        .save(path)
    )


def unpack(batch: pa.RecordBatch | pa.Table) -> Iterator[tuple[int, RatingBlock]]:
    """Yield (block number, block) of each row of an Arrow batch with the columns of BLOCK_SCHEMA."""
    for row in batch.to_pylist():
        values = row["values"]
        yield (
            row["block"],
            RatingBlock(
                first_row=row["first_row"],
                row_ptr=np.frombuffer(row["row_ptr"], np.int64),
                neighbours=np.frombuffer(row["neighbours"], np.int32),
                values=None if values is None else np.frombuffer(values, np.float32),
                hashes=np.frombuffer(row["hashes"], np.int64),
            ),
        )


def read_blocks(spark: SparkSession, path: str, side: Side) -> list[RatingBlock]:
    """Bring one side's blocks to the driver, in block order (the local plan)."""
    frame = spark.read.format("delta").load(path).where(F.col("side") == side)
    found = dict(pair for batch in frame.toArrow().to_batches() for pair in unpack(batch))
    return [found[block] for block in sorted(found)]
