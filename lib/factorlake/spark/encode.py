"""Pairs become numbers where they lie: each partition's ids are replaced by codes of a dictionary of its own.

Ids are long and repeat; codes are four bytes. So pairs leave the JVM once, as columns, and everything after moves
codes: as files of the workspace where driver and workers see it, else as binary rows.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import DataRefusedError
from factorlake.kernels.arrays import distinct
from factorlake.kernels.packing import join_values
from factorlake.spark.arrow_text import distinct_values, hash_strings
from factorlake.spark.compat import large_rows, small_rows
from factorlake.spark.parquet_scan import map_columns
from factorlake.spark.task_farm import mapped
from factorlake.types import Side


@dataclass(frozen=True)
class PartSide:
    """One side of one partition's pairs."""

    ids: pa.Array
    """The distinct ids in training order, by (signed xxhash64, id)."""
    hashes: NDArray[np.int64]
    codes: NDArray[np.int32]
    """(n_obs,) the place of each pair's id in ``ids``."""


@dataclass(frozen=True)
class Part:
    """The pairs of one partition. Computed again with its rows in another order, it has the same dictionaries."""

    users: PartSide
    items: PartSide
    values: NDArray[np.float32] | None
    """(n_obs,), or None when every rating is 1."""

    def side(self, side: Side) -> PartSide:
        return self.users if side == "user" else self.items


HASHES_COUNTED = 4_000_000
NUMBERS_PER_ID = 4
"""Ids that are whole numbers are looked up in a table where that has at most so many places for each rating."""
_SIDE_FILES = ("ids", "hashes.npy", "codes.npy")


@dataclass(frozen=True)
class PartFile:
    """Where a part lies in the workspace."""

    prefix: str
    n_obs: int
    n_users: int
    n_items: int

    def load(self) -> Part:
        """Return the part, mapped from its files."""
        values = f"{self.prefix}.values.npy"
        return Part(self._side("user"), self._side("item"), mapped(values) if os.path.exists(values) else None)

    def hashes(self, side: Side) -> NDArray[np.int64]:
        """Return the hashes of one side's ids, ascending, mapped from their file."""
        hashes: NDArray[np.int64] = mapped(f"{self.prefix}.{side}.{_SIDE_FILES[1]}")
        return hashes

    def remove(self) -> None:
        """Remove the part's files."""
        for suffix in ("values.npy", *(f"{side}.{name}" for side in ("user", "item") for name in _SIDE_FILES)):
            Path(f"{self.prefix}.{suffix}").unlink(missing_ok=True)

    def _side(self, side: Side) -> PartSide:
        ids, hashes, codes = (f"{self.prefix}.{side}.{name}" for name in _SIDE_FILES)
        return PartSide(load_ids(ids), mapped(hashes), mapped(codes))


def save_ids(path: str, ids: pa.Array) -> None:
    """Write ids as an Arrow file."""
    batch = pa.record_batch([ids], names=["id"])
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def load_ids(path: str) -> pa.Array:
    """Return the ids of an Arrow file, mapped into memory."""
    with pa.memory_map(path) as source:
        return pa.ipc.open_file(source).get_batch(0).column(0)


def order_by_hash(ids: pa.Array, hashes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the order of distinct ids by (hash, id)."""
    order = np.argsort(hashes)
    if np.any(np.diff(hashes[order]) == 0):
        by_bytes = pc.array_sort_indices(ids).to_numpy()
        order = by_bytes[np.argsort(hashes[by_bytes], kind="stable")]
    return order


def encode_table(table: pa.Table, drop_zero: bool) -> tuple[Part, int]:
    """Return the part that (user_id, item_id, value) rows make, and the number of rows that cannot be trained on.

    Refused and left out: a null id, a value that is null, NaN or infinite. Without the column every rating is 1.
    """
    has_values = "value" in table.column_names
    valid = pc.and_(table["user_id"].is_valid(), table["item_id"].is_valid())
    if has_values:
        valid = pc.and_(valid, pc.fill_null(pc.is_finite(table["value"]), False))
    n_refused = len(valid) - (pc.sum(valid).as_py() or 0)
    if n_refused:
        table = table.filter(valid)
    if has_values and drop_zero:
        told = pc.not_equal(table["value"], 0)
        if not pc.all(told).as_py():
            table = table.filter(told)
    values = table["value"].to_numpy() if has_values else None
    if values is not None and np.all(values == 1):
        values = None
    part = Part(_side(table["user_id"]), _side(table["item_id"]), values)
    return part, n_refused


def _side(column: pa.ChunkedArray) -> PartSide:
    if pa.types.is_integer(column.type) and len(column):
        bounds = pc.min_max(column)
        low, high = bounds["min"].as_py(), bounds["max"].as_py()
        if high - low < NUMBERS_PER_ID * len(column):
            return _numbered_side(column.to_numpy(), low, high - low + 1)
    found, codes = distinct_values(column)
    ids, hashes, position = _in_order(found.cast(pa.string()))
    return PartSide(ids, hashes, position[codes])


def _in_order(ids: pa.Array) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.int32]]:
    """Return distinct ids in training order, their hashes, and where each of them went."""
    hashes = hash_strings(ids)
    order = order_by_hash(ids, hashes)
    return ids.take(pa.array(order)), hashes[order], _inverse(order)


def _numbered_side(numbers: NDArray[np.integer], low: int, span: int) -> PartSide:
    """Return the side that ids make which are numbers from ``low`` on, of a span that a table can have places for."""
    place = np.subtract(numbers, low, dtype=np.int64)
    occurs = np.zeros(span, np.bool_)
    occurs[place] = True
    found = np.flatnonzero(occurs)
    ids, hashes, position = _in_order(pa.array(found + low).cast(pa.string()))
    codes = np.zeros(span, np.int32)
    codes[found] = position
    return PartSide(ids, hashes, np.take(codes, place, mode="clip"))


def _wanted(pairs: DataFrame) -> DataFrame:
    # What a column costs is to leave the JVM: ones stay there.
    values = [F.col("value").cast("float").alias("value")] if "value" in pairs.columns else []
    return pairs.select("user_id", "item_id", *values)


def encode_to_files(pairs: DataFrame, drop_zero: bool, folder: str) -> list[PartFile]:
    """Encode pairs into files of ``folder``, which driver and workers see; return where each partition's part lies.

    Parameters
    ----------
    pairs : user_id and item_id of any type that casts to a string; value a number, left out where all are 1.
    drop_zero : whether a rating of 0 says nothing and is left out.

    Raises
    ------
    DataRefusedError : there is no rating, or some cannot be trained on.
    """

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = list(batches)
        if found:
            part, n_refused = encode_table(pa.Table.from_batches(found), drop_zero)
            # A task that runs twice writes twice; the row that comes back names the files that count.
            prefix = f"{folder}/{uuid.uuid4().hex}"
            for side in ("user", "item"):
                own = part.side(side)
                ids, hashes, codes = (f"{prefix}.{side}.{name}" for name in _SIDE_FILES)
                save_ids(ids, own.ids)
                np.save(hashes, own.hashes)
                np.save(codes, own.codes)
            if part.values is not None:
                np.save(f"{prefix}.values.npy", part.values)
            sizes = len(part.users.codes), n_refused, len(part.users.ids), len(part.items.ids)
            yield pa.RecordBatch.from_arrays(
                [pa.array([prefix]), *(pa.array([size], pa.int64()) for size in sizes)],
                names=["prefix", "n_obs", "n_refused", "n_users", "n_items"],
            )

    schema = "prefix string, n_obs bigint, n_refused bigint, n_users bigint, n_items bigint"
    with small_rows(pairs.sparkSession):
        rows = map_columns(_wanted(pairs), encode, schema).collect()
    _check(sum(row["n_obs"] for row in rows), sum(row["n_refused"] for row in rows))
    return [PartFile(row["prefix"], row["n_obs"], row["n_users"], row["n_items"]) for row in rows if row["n_obs"]]


def count_ids(parts: Sequence[PartFile], side: Side) -> int:
    """Return how many distinct ids parts have, near enough to choose a plan by.

    Partitions share ids, so their sizes do not add up. Hashes are evenly spread and lie in order: up to about
    HASHES_COUNTED of them, from the lowest on, are compared and stand for all.
    """
    total = sum(part.n_users if side == "user" else part.n_items for part in parts)
    share = min(1.0, HASHES_COUNTED / max(total, 1))
    last = np.int64(min(2**63 - 1, int(share * 2.0**64) - 2**63))
    lowest = [hashes[: np.searchsorted(hashes, last, side="right")] for hashes in (part.hashes(side) for part in parts)]
    return round(len(distinct(np.concatenate(lowest))) / share)


ENCODED_SCHEMA = (
    "part int, n_obs bigint, n_refused bigint, user_ids array<string>, users binary, item_ids array<string>, "
    "items binary, values binary"
)
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


def encode_to_rows(pairs: DataFrame, drop_zero: bool) -> DataFrame:
    """Return one row per partition of pairs: its number, its dictionaries, and its codes and values as binaries.

    As `encode_to_files`, for workers that do not see the workspace. Keep the frame, then ask `check_rows`.
    """

    def encode(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = list(batches)
        if found:
            part, n_refused = encode_table(pa.Table.from_batches(found), drop_zero)
            context = TaskContext.get()
            row = {
                "part": 0 if context is None else context.partitionId(),
                "n_obs": len(part.users.codes),
                "n_refused": n_refused,
                "user_ids": part.users.ids,
                "users": part.users.codes.tobytes(),
                "item_ids": part.items.ids,
                "items": part.items.codes.tobytes(),
                "values": None if part.values is None else part.values.tobytes(),
            }
            yield pa.RecordBatch.from_pylist([row], schema=_ENCODED)

    return map_columns(_wanted(pairs), encode, ENCODED_SCHEMA)


def check_rows(encoded: DataFrame) -> tuple[int, int, int]:
    """Return the number of ratings in rows of `encode_to_rows`, and bounds on the numbers of users and items.

    Raises as `encode_to_files`.
    """
    sizes = F.sum("n_obs"), F.sum("n_refused"), F.sum(F.size("user_ids")), F.sum(F.size("item_ids"))
    n_obs, n_refused, most_users, most_items = (int(size or 0) for size in encoded.agg(*sizes).collect()[0])
    _check(n_obs, n_refused)
    return n_obs, most_users, most_items


def parts_of(encoded: DataFrame) -> list[Part]:
    """Bring rows of `encode_to_rows` to the driver."""
    with large_rows(encoded.sparkSession):
        table = encoded.where("n_obs > 0").drop("part", "n_obs", "n_refused").toArrow()

    def side(ids: pa.ListScalar, codes: pa.BinaryScalar) -> PartSide:
        return PartSide(ids.values, hash_strings(ids.values), np.frombuffer(codes.as_buffer(), np.int32))

    return [
        Part(
            side(table["user_ids"][row], table["users"][row]),
            side(table["item_ids"][row], table["items"][row]),
            np.frombuffer(values.as_buffer(), np.float32) if (values := table["values"][row]).is_valid else None,
        )
        for row in range(table.num_rows)
    ]


def _check(n_obs: int, n_refused: int) -> None:
    if n_refused:
        raise DataRefusedError(
            f"{n_refused} ratings cannot be trained on: an id is null, or the value is null, NaN or infinite; "
            "leave such rows out"
        )
    if not n_obs:
        raise DataRefusedError(
            "there is nothing to train on: no rating is left (of a log: after select, event_weights and the holdout)"
        )


@dataclass(frozen=True)
class Ids:
    """The ids of one side in training order."""

    ids: pa.Array
    hashes: NDArray[np.int64]


def merge_ids(
    dictionaries: Sequence[tuple[pa.Array, NDArray[np.int64]]],
) -> tuple[Ids, list[NDArray[np.int32]]]:
    """Return the distinct ids of one or more dictionaries (ids, hashes), of which any may be empty, and where each
    dictionary's ids went."""
    nowhere = np.empty(0, np.int32)
    # Encoded, a chunk without ids would be gone.
    chunks = pa.chunked_array([ids for ids, _ in dictionaries if len(ids)], pa.string()).dictionary_encode().chunks
    if not chunks:
        return Ids(pa.array([], pa.string()), np.empty(0, np.int64)), [nowhere for _ in dictionaries]
    found, left = chunks[0].dictionary, iter(chunks)
    places = [next(left).indices.to_numpy() if len(ids) else nowhere for ids, _ in dictionaries]
    hashes = np.empty(len(found), np.int64)
    for place, (_, own) in zip(places, dictionaries, strict=True):
        hashes[place] = own
    order = order_by_hash(found, hashes)
    position = _inverse(order)
    return Ids(found.take(pa.array(order)), hashes[order]), [position[place] for place in places]


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int32]:
    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    return position


@dataclass(frozen=True)
class Joined:
    """All parts put together: ids of both sides, and ratings by position."""

    users: Ids
    items: Ids
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    values: NDArray[np.float32] | None


def join_parts(parts: Sequence[Part], threads: int = 1) -> Joined:
    """Put parts together in memory. The number of threads changes no number."""
    values = join_values([(len(part.users.codes), part.values) for part in parts])
    with ThreadPoolExecutor(threads) as pool:
        users, user = _join([part.users for part in parts], pool)
        items, item = _join([part.items for part in parts], pool)
    return Joined(users, items, user, item, values)


def _join(parts: Sequence[PartSide], pool: Executor) -> tuple[Ids, NDArray[np.int32]]:
    ids, positions = merge_ids([(part.ids, part.hashes) for part in parts])
    ends = np.cumsum([0, *(len(part.codes) for part in parts)]).tolist()
    joined = np.empty(ends[-1], np.int32)

    def place(number: int) -> None:
        # Codes lie within their dictionary; clipped, they are neither looked through first nor copied twice.
        out = joined[ends[number] : ends[number + 1]]
        np.take(positions[number], parts[number].codes, out=out, mode="clip")

    list(pool.map(place, range(len(parts))))
    return ids, joined
