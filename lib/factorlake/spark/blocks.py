"""Pairs become rating blocks: packed once per run, both ways, kept as a durable table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import RepeatedPairsError
from factorlake.kernels.packing import compress_rows, join_values, repeated_pair
from factorlake.spark.compat import large_rows
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

_BUCKET_SCHEMA = "side string, block int, rows binary, neighbours binary, values binary"
_BUCKET = pa.schema(
    [
        ("side", pa.string()),
        ("block", pa.int32()),
        ("rows", pa.binary()),
        ("neighbours", pa.binary()),
        ("values", pa.binary()),
    ]
)


def pack_blocks(encoded: DataFrame, users: Positions, items: Positions) -> DataFrame:
    """Return one row per logical block of each side (columns of BLOCK_SCHEMA) of encoded ratings (``encode_to_rows``).

    Codes become positions partition by partition: only the dictionaries are joined with the ids, never the ratings.
    """
    located = encoded.select("part", "users", "items", "values")
    for side, known in (("user", users), ("item", items)):
        entries = encoded.select("part", F.posexplode(f"{side}_ids").alias("code", "id"))
        placed = entries.join(known.frame.select("id", "position"), on="id")
        in_order = F.array_sort(F.collect_list(F.struct("code", "position")))
        maps = placed.groupBy("part").agg(F.transform(in_order, lambda one: one["position"]).alias(f"{side}_positions"))
        located = located.join(maps, on="part")
    user_ptr, item_ptr = users.block_ptr, items.block_ptr

    def bucket(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in range(batch.num_rows):
                u = _positions_of(batch, row, "user")
                i = _positions_of(batch, row, "item")
                cell = batch["values"][row]
                values = np.frombuffer(cell.as_buffer(), np.float32) if cell.is_valid else None
                yield from _buckets("user", u, i, values, user_ptr)
                yield from _buckets("item", i, u, values, item_ptr)

    def ids_of(known: Positions, side: Side) -> DataFrame:
        in_order = F.array_sort(F.collect_list(F.struct("position", "hash")))
        rows = known.frame.groupBy(F.lit(side).alias("side"), "block").agg(in_order.alias("rows"))
        return rows.select(
            "side",
            "block",
            F.col("rows")[0]["position"].alias("first"),
            F.transform("rows", lambda one: one["hash"]).alias("hashes"),
        )

    buckets = located.mapInArrow(bucket, _BUCKET_SCHEMA).groupBy("side", "block")
    ids = ids_of(users, "user").unionByName(ids_of(items, "item")).groupBy("side", "block")
    n_of = {"user": items.n_ids, "item": users.n_ids}

    def pack(parts: pa.Table, rows: pa.Table) -> pa.Table:
        return _pack_one(parts, rows, n_of[rows["side"][0].as_py()])

    return buckets.cogroup(ids).applyInArrow(pack, BLOCK_SCHEMA)


def _positions_of(batch: pa.RecordBatch, row: int, side: Side) -> NDArray[np.int32]:
    positions = batch[f"{side}_positions"][row].values.to_numpy()
    codes = np.frombuffer(batch[f"{side}s"][row].as_buffer(), np.int32)
    return positions[codes]


def _buckets(
    side: Side,
    rows: NDArray[np.int32],
    neighbours: NDArray[np.int32],
    values: NDArray[np.float32] | None,
    block_ptr: NDArray[np.int64],
) -> Iterator[pa.RecordBatch]:
    """Yield one row per logical block that some of the ratings belong to."""
    block = (np.searchsorted(block_ptr, rows, side="right") - 1).astype(np.uint16)
    order = np.argsort(block, kind="stable")
    ends = np.searchsorted(block[order], np.arange(len(block_ptr)))
    for number, (first, last) in enumerate(pairwise(ends.tolist())):
        if first < last:
            part = order[first:last]
            row = {
                "side": side,
                "block": number,
                "rows": rows[part].tobytes(),
                "neighbours": neighbours[part].tobytes(),
                "values": None if values is None else values[part].tobytes(),
            }
            yield pa.RecordBatch.from_pylist([row], schema=_BUCKET)


def _pack_one(parts: pa.Table, ids: pa.Table, n_neighbours: int) -> pa.Table:
    first = ids["first"][0].as_py()
    hashes = ids["hashes"][0].values.to_numpy()
    rows, neighbours = _joined(parts["rows"], np.int32) - first, _joined(parts["neighbours"], np.int32)
    values = join_values(
        [
            (
                len(of.as_buffer()) // rows.itemsize,
                np.frombuffer(cell.as_buffer(), np.float32) if cell.is_valid else None,
            )
            for cell, of in zip(parts["values"], parts["rows"], strict=True)
        ]
    )
    packed = compress_rows(rows, neighbours, values, len(hashes), n_neighbours)
    repeats = repeated_pair(packed)
    if repeats is not None:
        raise RepeatedPairsError(f"{repeats[0]} pairs occur more than once; combine their ratings first")
    told = None if packed.values is None or bool(np.all(packed.values == 1)) else packed.values.tobytes()
    return pa.table(
        {
            "side": [ids["side"][0].as_py()],
            "block": pa.array([ids["block"][0].as_py()], pa.int32()),
            "first_row": pa.array([first], pa.int32()),
            "n_rows": pa.array([len(hashes)], pa.int32()),
            "n_obs": pa.array([len(rows)], pa.int64()),
            "row_ptr": pa.array([packed.row_ptr.tobytes()], pa.binary()),
            "neighbours": pa.array([packed.neighbours.tobytes()], pa.binary()),
            "values": pa.array([told], pa.binary()),
            "hashes": pa.array([hashes.tobytes()], pa.binary()),
        },
        schema=_ARROW_SCHEMA,
    )


def _joined(column: pa.ChunkedArray, dtype: DTypeLike) -> NDArray[Any]:
    return np.concatenate([np.frombuffer(cell.as_buffer(), dtype) for cell in column])


def write_blocks(blocks: DataFrame, path: str) -> None:
    """Write packed blocks as a Delta table partitioned by side and block, replacing what a killed run left there."""
    with large_rows(blocks.sparkSession):
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
