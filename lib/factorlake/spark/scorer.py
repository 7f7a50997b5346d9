"""Top-k for many users: exact, seen items left out inside the kernel, no score leaves the worker but the best.

What users have seen outweighs all else that moves. It leaves the JVM once, as two columns; ids become numbers where
they arrive, and each group of users gets its part as a few long rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.kernels.packing import compress_rows
from factorlake.kernels.top_k import OrderedItems, best_items, order_items, similar_items
from factorlake.models.blocks import block_of
from factorlake.models.threads import single_threaded_blas
from factorlake.spark.arrow_text import distinct_values, hash_strings
from factorlake.spark.ids import logical_block
from factorlake.spark.item_side import ItemSide
from factorlake.spark.parquet_scan import map_columns

LIST_SCHEMA = "user_id string, rank int, item_id string, score float, source string"
_LIST = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float32()),
        ("source", pa.string()),
    ]
)
SIMILAR_SCHEMA = "item_id string, rank int, similar_item_id string, score float"
_SEEN_SCHEMA = "block int, user_ids array<string>, lengths binary, positions binary"
_SEEN = pa.schema(
    [
        ("block", pa.int32()),
        ("user_ids", pa.list_(pa.string())),
        ("lengths", pa.binary()),
        ("positions", pa.binary()),
    ]
)
# Pairs that a task holds before it hands them on: about 100 MB.
PAIRS_AT_ONCE = 4_000_000


def score_top_k(users: DataFrame, seen: DataFrame, items: ItemSide, k: int, n_blocks: int) -> DataFrame:
    """Return the best ``k`` items of each user (columns of LIST_SCHEMA).

    Parameters
    ----------
    users : user_id, factor (array<float>), bias (float). One row a user.
    seen : user_id, item_id: items never to be listed for that user, in any order, repeated or not, known to the model
        or not; users without rows have none.
    items : the item side.
    k : list length; fewer rows come out only where fewer items may be listed.
    n_blocks : a power of two: users are grouped by the leading bits of their id's hash.

    A user whose factor is zero is answered by popularity and says so in ``source``. Scores are x·y (+ b_u + b_i + μ),
    summed in a fixed order, so they do not depend on the grouping; ties go by item id.
    """

    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            if batch.num_rows:
                waiting.append(batch)
            if sum(part.num_rows for part in waiting) >= PAIRS_AT_ONCE:
                yield from _pack_seen(pa.Table.from_batches(waiting), items, n_blocks)
                waiting = []
        if waiting:
            yield from _pack_seen(pa.Table.from_batches(waiting), items, n_blocks)

    def score(left: pa.Table, right: pa.Table) -> pa.Table:
        with single_threaded_blas():
            return _score_block(left, right, items, k)

    left = users.select("user_id", "factor", "bias").withColumn("block", logical_block(F.xxhash64("user_id"), n_blocks))
    right = map_columns(seen.select("user_id", "item_id"), pack, _SEEN_SCHEMA)
    return left.groupBy("block").cogroup(right.groupBy("block")).applyInArrow(score, LIST_SCHEMA)


def score_similar(items: ItemSide, item_frame: DataFrame, n: int) -> DataFrame:
    """Return the ``n`` items at the smallest angle to each item (columns of SIMILAR_SCHEMA), by cosine.

    Parameters
    ----------
    items : the item side. Items that may not be listed have a list of their own, but stand in none.
    item_frame : position: the items that get a list.
    n : list length; fewer rows come out only where there are fewer other items.

    Items whose factors are zero have no direction, so neither a list nor a place in one. Ties go by item id.
    """

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = np.sort(batch["position"].to_numpy().astype(np.int32))
            with single_threaded_blas():
                best, cosines = similar_items(
                    items.factors.load(), n, items.tie_rank.load(), rows=rows, allowed=items.allowed.load()
                )
            row, rank = np.nonzero(best >= 0)
            ids = items.once("ids", items.ids)
            yield pa.record_batch(
                [
                    ids.take(pa.array(rows[row])),
                    pa.array(rank + 1, pa.int32()),
                    ids.take(pa.array(best[row, rank])),
                    pa.array(cosines[row, rank], pa.float32()),
                ],
                names=["item_id", "rank", "similar_item_id", "score"],
            )

    return item_frame.select("position").mapInArrow(score, SIMILAR_SCHEMA)


def _pack_seen(pairs: pa.Table, items: ItemSide, n_blocks: int) -> Iterator[pa.RecordBatch]:
    """Yield what the users of each block have seen: their ids, how much each, and the items' positions."""
    users, user = distinct_values(pairs["user_id"])
    seen, item = distinct_values(pairs["item_id"])
    places = pc.fill_null(pc.index_in(seen, value_set=items.once("ids", items.ids)), -1).to_numpy()
    # A null item is no item: −1 asks for the place after the last.
    position = np.append(places, np.int32(-1))[item]
    known = np.flatnonzero((position >= 0) & (user >= 0))
    if len(known) < len(user):
        user, position = user[known], position[known]
    block = block_of(hash_strings(users), n_blocks)
    order = np.argsort(block, kind="stable")
    row_of = np.empty(len(order), np.int32)
    row_of[order] = np.arange(len(order), dtype=np.int32)
    packed = compress_rows(row_of[user], position, None, len(order), len(items.id_ptr.load()) - 1)
    ends = np.searchsorted(block[order], np.arange(n_blocks + 1)).astype(np.int32)
    ptr = packed.row_ptr
    # A log repeats what people like; the kernel does not mind, but the network does.
    first = np.ones(len(packed.neighbours), np.bool_)
    first[1:] = packed.neighbours[1:] != packed.neighbours[:-1]
    first[ptr[:-1][np.diff(ptr) > 0]] = True
    ptr = np.concatenate([[0], np.cumsum(first)])[ptr]
    neighbours = packed.neighbours[first]
    lengths = np.diff(ptr).astype(np.int32)
    blocks = range(n_blocks)
    yield pa.RecordBatch.from_arrays(
        [
            pa.array(np.arange(n_blocks, dtype=np.int32)),
            pa.ListArray.from_arrays(pa.array(ends), users.take(pa.array(order))),
            pa.array([lengths[ends[b] : ends[b + 1]].tobytes() for b in blocks], pa.binary()),
            pa.array([neighbours[ptr[ends[b]] : ptr[ends[b + 1]]].tobytes() for b in blocks], pa.binary()),
        ],
        schema=_SEEN,
    )


def _by_popularity(items: ItemSide) -> OrderedItems:
    return order_items(items.counts.load().reshape(-1, 1), items.tie_rank.load(), None, items.allowed.load())


def _score_block(users: pa.Table, seen: pa.Table, items: ItemSide, k: int) -> pa.Table:
    if users.num_rows == 0:
        return _LIST.empty_table()
    ids = users["user_id"].combine_chunks()
    column = users["factor"].combine_chunks()
    factors = np.ascontiguousarray(column.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(column), -1)
    biases = users["bias"].to_numpy().astype(np.float32) + np.float32(items.mean)
    seen_ptr, seen_items = _seen_rows(ids, seen, len(items.id_ptr.load()) - 1)
    known = np.any(factors != 0, axis=1)
    parts = []
    for source, rows in (("model", np.flatnonzero(known)), ("popularity", np.flatnonzero(~known))):
        if not len(rows):
            continue
        row_ptr, row_items = _rows_of(seen_ptr, seen_items, rows)
        if source == "model":
            ordered = items.once("factors", items.in_order)
            best, scores = best_items(factors[rows], ordered, k, row_ptr, row_items, biases[rows])
        else:
            ordered = items.once("popularity", lambda: _by_popularity(items))
            best, scores = best_items(np.ones((len(rows), 1), np.float32), ordered, k, row_ptr, row_items)
        parts.append(_list_table(ids, rows, items.once("ids", items.ids), best, scores, source))
    return pa.concat_tables(parts)


def _seen_rows(ids: pa.Array, seen: pa.Table, n_items: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the seen positions as rows of ``ids``: row pointers and positions."""
    if seen.num_rows == 0:
        return np.zeros(len(ids) + 1, np.int64), np.empty(0, np.int32)
    owner = pc.index_in(seen["user_ids"].combine_chunks().flatten(), value_set=ids)
    lengths = np.concatenate([np.frombuffer(cell.as_buffer(), np.int32) for cell in seen["lengths"]])
    position = np.concatenate([np.frombuffer(cell.as_buffer(), np.int32) for cell in seen["positions"]])
    row = np.repeat(pc.fill_null(owner, -1).to_numpy(), lengths)
    asked = row >= 0
    if not asked.all():
        row, position = row[asked], position[asked]
    packed = compress_rows(row, position, None, len(ids), n_items)
    return packed.row_ptr, packed.neighbours


def _rows_of(
    row_ptr: NDArray[np.int64], items: NDArray[np.int32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the given rows of a compressed row structure."""
    if len(rows) == len(row_ptr) - 1:
        return row_ptr, items
    lengths = np.diff(row_ptr)[rows]
    chosen = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=chosen[1:])
    source = np.repeat(row_ptr[rows] - chosen[:-1], lengths) + np.arange(chosen[-1])
    return chosen, items[source]


def _list_table(
    ids: pa.Array,
    rows: NDArray[np.int64],
    item_ids: pa.Array,
    best: NDArray[np.int32],
    scores: NDArray[np.float32],
    source: str,
) -> pa.Table:
    filled = best >= 0
    row, rank = np.nonzero(filled)
    return pa.table(
        {
            "user_id": ids.take(pa.array(rows[row])),
            "rank": pa.array(rank + 1, pa.int32()),
            "item_id": item_ids.take(pa.array(best[filled])),
            "score": pa.array(scores[filled], pa.float32()),
            "source": pa.array([source] * len(row), pa.string()),
        },
        schema=_LIST,
    )
