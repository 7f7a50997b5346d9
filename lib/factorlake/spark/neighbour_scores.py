"""Scores of given pairs by item neighbours, block of users by block: the neighbours travel once."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.kernels.neighbour_scores import neighbour_scores
from factorlake.kernels.packing import CompressedRows
from factorlake.spark.arrow_codes import sorted_codes
from factorlake.spark.exchange import Exchange
from factorlake.spark.ids import logical_block

SCORE_SCHEMA = "user_id string, item_id string, score double"


def score_pairs_by_neighbours(
    near: DataFrame, known: DataFrame, asked: DataFrame, exchange: Exchange, n_blocks: int
) -> DataFrame:
    """Return the scores of the pairs asked for (columns of SCORE_SCHEMA); null where no neighbour was rated.

    Parameters
    ----------
    near : id, neighbour_id, similarity and rank of item neighbours (``cosine_neighbours_frame``). They pass the
        driver: twelve bytes each, and the ids.
    known : user_id, item_id, value. asked : user_id, item_id.
    n_blocks : a power of two: users are grouped by the leading bits of their id's hash; it does not change a score.
    """
    table = near.select("id", "neighbour_id", "rank", "similarity").toArrow()
    both = pa.chunked_array([*table["id"].chunks, *table["neighbour_id"].chunks], pa.string())
    code, ids = sorted_codes(both)
    own, other = code[: len(table)], code[len(table) :]
    order = np.lexsort((table["rank"].to_numpy(), own))
    row_ptr = np.concatenate([[0], np.cumsum(np.bincount(own, minlength=len(ids)))])
    similarity = table["similarity"].to_numpy().astype(np.float32)
    shipped = [
        exchange.ship(array) for array in (row_ptr.astype(np.int64), other[order].astype(np.int32), similarity[order])
    ]
    wide = ids.cast(pa.large_string())
    _, offsets, text = wide.buffers()
    id_ptr = exchange.ship(np.frombuffer(offsets, np.int64, len(wide) + 1) if len(wide) else np.zeros(1, np.int64))
    id_bytes = exchange.ship(np.frombuffer(text or b"", np.uint8))

    def score(left: pa.Table, right: pa.Table) -> pa.Table:
        ptr = id_ptr.load()
        named = pa.LargeStringArray.from_buffers(len(ptr) - 1, pa.py_buffer(ptr), pa.py_buffer(id_bytes.load()))
        lists = CompressedRows(*(one.load() for one in shipped))
        users = right["user_id"].combine_chunks().unique()
        rated, _ = _rows(left, users, named.cast(pa.string()), left["value"].to_numpy())
        wanted, rows = _rows(right, users, named.cast(pa.string()), None)
        scores = np.full(len(right), np.nan)
        scores[rows] = neighbour_scores(rated, wanted, lists)
        told = pa.array(scores, mask=np.isnan(scores))
        return pa.table({"user_id": right["user_id"], "item_id": right["item_id"], "score": told})

    block = logical_block(F.xxhash64("user_id"), n_blocks).alias("block")
    # Both may come from one frame, of which Spark refuses to group the same columns twice: these are new ones.
    own_columns = [F.col(name).alias(name) for name in ("user_id", "item_id")]
    left = known.select(*own_columns, F.col("value").cast("float").alias("value"), block)
    right = asked.select("user_id", "item_id", block)
    return left.groupBy("block").cogroup(right.groupBy("block")).applyInArrow(score, SCORE_SCHEMA)


def _rows(
    pairs: pa.Table, users: pa.Array, items: pa.Array, values: NDArray[np.floating] | None
) -> tuple[CompressedRows, NDArray[np.int64]]:
    """Return the pairs of known ids compressed by user, and the row that each came from."""
    user = pc.fill_null(pc.index_in(pairs["user_id"], value_set=users), -1).to_numpy()
    item = pc.fill_null(pc.index_in(pairs["item_id"], value_set=items), -1).to_numpy()
    met = np.flatnonzero((user >= 0) & (item >= 0))
    rows = met[np.lexsort((item[met], user[met]))]
    row_ptr = np.concatenate([[0], np.cumsum(np.bincount(user[rows], minlength=len(users)))]).astype(np.int64)
    told = None if values is None else values[rows].astype(np.float32)
    return CompressedRows(row_ptr, item[rows].astype(np.int32), told), rows
