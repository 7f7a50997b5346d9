"""Top-k for many users: exact, seen items left out inside the kernel, no score leaves the worker but the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from threadpoolctl import threadpool_limits

from factorlake.kernels.top_k import top_k
from factorlake.spark.exchange import Exchange, Handle
from factorlake.spark.ids import logical_block

LIST_SCHEMA = "user_id string, rank int, position int, score float, source string"
_ARROW_LIST = pa.schema(
    [
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("position", pa.int32()),
        ("score", pa.float32()),
        ("source", pa.string()),
    ]
)


@dataclass(frozen=True)
class ItemSide:
    """What a worker needs of the items, by position."""

    factors: Handle
    """(n_items, rank) float32."""
    biases: Handle
    """(n_items,) float32; zeros for implicit."""
    tie_rank: Handle
    """(n_items,) int64: rank of each item's id by bytes; equal scores are ordered by it."""
    counts: Handle
    """(n_items,) float32: pairs behind each item, the fall-back for users the model knows nothing of."""
    allowed: Handle
    """(n_items,) bool: items that may be listed."""
    mean: float
    """μ of the explicit objective, 0 for implicit."""


def ship_items(
    exchange: Exchange,
    factors: NDArray[np.float32],
    biases: NDArray[np.float32],
    tie_rank: NDArray[np.int64],
    counts: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    mean: float,
) -> ItemSide:
    """Ship the item side once for any number of scoring jobs."""
    return ItemSide(
        exchange.ship(np.ascontiguousarray(factors, np.float32)),
        exchange.ship(np.ascontiguousarray(biases, np.float32)),
        exchange.ship(np.ascontiguousarray(tie_rank, np.int64)),
        exchange.ship(np.ascontiguousarray(counts, np.float32)),
        exchange.ship(np.ascontiguousarray(allowed, np.bool_)),
        mean,
    )


def score_top_k(users: DataFrame, seen: DataFrame, items: ItemSide, k: int, n_blocks: int) -> DataFrame:
    """Return the best ``k`` items of each user (columns of LIST_SCHEMA).

    Parameters
    ----------
    users : user_id, factor (array<float>), bias (float). One row a user.
    seen : user_id, position: items never to be listed for that user; users without rows have none.
    items : the item side.
    k : list length; fewer rows come out only where fewer items may be listed.
    n_blocks : a power of two: users are grouped by the leading bits of their id's hash.

    A user whose factor is zero is answered by popularity and says so in ``source``. Scores are x·y (+ b_u + b_i + μ),
    summed in a fixed order, so they do not depend on the grouping; ties go by item id.
    """
    rank_limit = k
    item_side = items

    def score(left: pa.Table, right: pa.Table) -> pa.Table:
        with threadpool_limits(1):
            return _score_block(left, right, item_side, rank_limit)

    left = users.select("user_id", "factor", "bias").withColumn("block", logical_block(F.xxhash64("user_id"), n_blocks))
    right = seen.select("user_id", "position").withColumn("block", logical_block(F.xxhash64("user_id"), n_blocks))
    return left.groupBy("block").cogroup(right.groupBy("block")).applyInArrow(score, LIST_SCHEMA)


def _score_block(users: pa.Table, seen: pa.Table, items: ItemSide, k: int) -> pa.Table:
    if users.num_rows == 0:
        return _ARROW_LIST.empty_table()
    ids = users["user_id"].combine_chunks()
    factors = _matrix(users["factor"])
    biases = users["bias"].to_numpy().astype(np.float32)
    seen_ptr, seen_items = _seen_rows(ids, seen)
    known = np.any(factors != 0, axis=1)
    parts = []
    for mask, source in ((known, "model"), (~known, "popularity")):
        rows = np.flatnonzero(mask)
        if not len(rows):
            continue
        row_ptr, row_items = _rows_of(seen_ptr, seen_items, rows)
        if source == "model":
            best, scores = top_k(
                factors[rows],
                items.factors.load(),
                k,
                row_ptr,
                row_items,
                items.tie_rank.load(),
                user_bias=biases[rows] + np.float32(items.mean),
                item_bias=items.biases.load(),
                allowed=items.allowed.load(),
            )
        else:
            counts = items.counts.load().reshape(-1, 1)
            best, scores = top_k(
                np.ones((len(rows), 1), np.float32),
                counts,
                k,
                row_ptr,
                row_items,
                items.tie_rank.load(),
                allowed=items.allowed.load(),
            )
        parts.append(_list_table(ids, rows, best, scores, source))
    return pa.concat_tables(parts)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    array = column.combine_chunks()
    return np.ascontiguousarray(array.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(array), -1)


def _seen_rows(ids: pa.Array, seen: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the seen positions as rows of ``ids`` (row pointers, ascending positions)."""
    owner = pc.index_in(seen["user_id"], value_set=ids)
    known = pc.is_valid(owner).to_numpy(zero_copy_only=False)
    row = owner.to_numpy()[known].astype(np.int64)
    position = seen["position"].to_numpy()[known].astype(np.int32)
    order = np.lexsort((position, row))
    row_ptr = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=len(ids)), out=row_ptr[1:])
    return row_ptr, position[order]


def _rows_of(
    row_ptr: NDArray[np.int64], items: NDArray[np.int32], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the given rows of a compressed row structure."""
    lengths = np.diff(row_ptr)[rows]
    chosen = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(lengths, out=chosen[1:])
    source = np.repeat(row_ptr[rows] - chosen[:-1], lengths) + np.arange(chosen[-1])
    return chosen, items[source]


def _list_table(
    ids: pa.Array, rows: NDArray[np.int64], best: NDArray[np.int32], scores: NDArray[np.float32], source: str
) -> pa.Table:
    filled = best >= 0
    row, rank = np.nonzero(filled)
    return pa.table(
        {
            "user_id": ids.take(pa.array(rows[row])),
            "rank": pa.array(rank + 1, pa.int32()),
            "position": pa.array(best[filled], pa.int32()),
            "score": pa.array(scores[filled], pa.float32()),
            "source": pa.array([source] * len(row), pa.string()),
        },
        schema=_ARROW_LIST,
    )
