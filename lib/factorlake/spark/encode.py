"""Pairs become numbers where they lie: each partition's ids are replaced by codes of a dictionary of its own.

Ids are long and repeat; codes are four bytes. So pairs leave the JVM once, as columns, and everything after moves
codes: to the driver, or to the tasks that pack rating blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import DataRefusedError
from factorlake.kernels.initial import hash_ids
from factorlake.spark.compat import large_rows

_ENCODED = pa.schema(
    [
        ("part", pa.int32()),
        ("n_obs", pa.int64()),
        ("n_refused", pa.int64()),
        ("user_ids", pa.list_(pa.string())),
        ("users", pa.binary()),
        ("item_ids", pa.list_(pa.string())),
        ("items", pa.binary()),
        ("values", pa.binary()),
    ]
)
ENCODED_SCHEMA = (
    "part int, n_obs bigint, n_refused bigint, user_ids array<string>, users binary, item_ids array<string>, "
    "items binary, values binary"
)


@dataclass(frozen=True)
class Codes:
    """The ids of one side in training order, by (signed xxhash64, id), and each partition's way into it."""

    ids: pa.Array
    hashes: NDArray[np.int64]
    positions: list[NDArray[np.int32]]
    """One array a partition: the position of each of its codes."""


def encode_pairs(pairs: DataFrame, drop_zero: bool) -> DataFrame:
    """Return one row per partition of (user_id, item_id, value) that has ratings: its dictionaries and codes.

    Parameters
    ----------
    pairs : user_id and item_id of any type that casts to a string; value a number.
    drop_zero : whether a rating of 0 says nothing and is left out.

    A dictionary holds the partition's ids in the order of their bytes, so that a partition that is computed again with
    its rows in another order gets the same codes. ``values`` is null when every rating is 1. ``n_refused`` counts
    ratings that are null, NaN or infinite, and pairs without an id; they are left out.
    """
    wanted = pairs.select("user_id", "item_id", F.col("value").cast("float").alias("value"))

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = list(batches)
        if not found:
            return
        context = TaskContext.get()
        part = 0 if context is None else context.partitionId()
        row = _encode(pa.Table.from_batches(found), drop_zero)
        if row is not None:
            yield pa.RecordBatch.from_pylist([{"part": part, **row}], schema=_ENCODED)

    return wanted.mapInArrow(encode, ENCODED_SCHEMA)


def _encode(table: pa.Table, drop_zero: bool) -> dict[str, object] | None:
    valid = pc.and_(table["user_id"].is_valid(), table["item_id"].is_valid())
    valid = pc.and_(valid, pc.fill_null(pc.is_finite(table["value"]), False))
    n_refused = len(valid) - (pc.sum(valid).as_py() or 0)
    if n_refused:
        table = table.filter(valid)
    if drop_zero:
        told = pc.not_equal(table["value"], 0)
        if not pc.all(told).as_py():
            table = table.filter(told)
    if not table.num_rows and not n_refused:
        return None
    values = table["value"].to_numpy()
    user_ids, users = _dictionary(table["user_id"])
    item_ids, items = _dictionary(table["item_id"])
    return {
        "n_obs": table.num_rows,
        "n_refused": n_refused,
        "user_ids": user_ids,
        "users": users.tobytes(),
        "item_ids": item_ids,
        "items": items.tobytes(),
        "values": None if np.all(values == 1) else values.tobytes(),
    }


def _dictionary(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct ids in the order of their bytes, and the place of each row's id among them."""
    # Every chunk carries the dictionary of the whole column.
    encoded = column.dictionary_encode()
    if not encoded.num_chunks or not len(encoded):
        return pa.array([], pa.string()), np.empty(0, np.int32)
    ids = encoded.chunk(0).dictionary.cast(pa.string())
    order = pc.array_sort_indices(ids)
    rank = np.empty(len(ids), np.int32)
    rank[order.to_numpy()] = np.arange(len(ids), dtype=np.int32)
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks])
    return ids.take(order), rank[codes]


@dataclass(frozen=True)
class Sizes:
    """How much was encoded."""

    n_obs: int
    most_users: int
    """Upper bound of the number of users: the sum over the partitions' dictionaries."""
    most_items: int


def check_encoded(encoded: DataFrame) -> Sizes:
    """Return how much was encoded.

    Raises
    ------
    DataRefusedError : there is no rating, or some cannot be trained on.
    """
    row = encoded.agg(
        F.sum("n_obs").alias("n_obs"),
        F.sum("n_refused").alias("n_refused"),
        F.sum(F.size("user_ids")).alias("most_users"),
        F.sum(F.size("item_ids")).alias("most_items"),
    ).collect()[0]
    if row["n_refused"]:
        raise DataRefusedError(
            f"{row['n_refused']} ratings cannot be trained on: an id is null, or the value is null, NaN or infinite; "
            "leave such rows out"
        )
    if not row["n_obs"]:
        raise DataRefusedError(
            "there is nothing to train on: no rating is left (of a log: after select, event_weights and the holdout)"
        )
    return Sizes(int(row["n_obs"]), int(row["most_users"]), int(row["most_items"]))


@dataclass(frozen=True)
class Decoded:
    """All ratings on the driver, by position."""

    users: Codes
    items: Codes
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    value: NDArray[np.float32] | None


def decode_pairs(encoded: DataFrame) -> Decoded:
    """Bring encoded ratings to the driver and number both sides' ids in training order."""
    with large_rows(encoded.sparkSession):
        table = encoded.select("user_ids", "users", "item_ids", "items", "values").toArrow()
    users = number_ids(table["user_ids"])
    items = number_ids(table["item_ids"])
    values = None
    if table["values"].null_count < table.num_rows:
        sizes = [len(cell.as_buffer()) // 4 for cell in table["users"]]
        values = np.concatenate(
            [
                np.frombuffer(cell.as_buffer(), np.float32) if cell.is_valid else np.ones(n, np.float32)
                for cell, n in zip(table["values"], sizes, strict=True)
            ]
        )
    return Decoded(users, items, _by_position(table["users"], users), _by_position(table["items"], items), values)


def _by_position(column: pa.ChunkedArray, codes: Codes) -> NDArray[np.int32]:
    parts = [
        positions[np.frombuffer(cell.as_buffer(), np.int32)]
        for positions, cell in zip(codes.positions, column, strict=True)
    ]
    return np.concatenate(parts)


def number_ids(dictionaries: pa.ChunkedArray) -> Codes:
    """Return the distinct ids of lists of ids in training order, with the position of each list's entries."""
    lists = dictionaries.combine_chunks()
    encoded = lists.flatten().dictionary_encode()
    ids = encoded.dictionary
    hashes = hash_ids(ids.to_pylist())
    order = np.argsort(hashes, kind="stable")
    if np.any(np.diff(hashes[order]) == 0):
        by_bytes = pc.array_sort_indices(ids).to_numpy()
        order = by_bytes[np.argsort(hashes[by_bytes], kind="stable")]
    position = np.empty(len(ids), np.int32)
    position[order] = np.arange(len(ids), dtype=np.int32)
    places = position[encoded.indices.to_numpy()]
    ends = np.cumsum(pc.list_value_length(lists).to_numpy())
    return Codes(ids.take(pa.array(order)), hashes[order], np.split(places, ends[:-1]))
