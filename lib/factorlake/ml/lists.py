"""The best k of one side for each row of the other, as pyspark.ml's recommendFor… calls give them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, FloatType, StructField, StructType
from threadpoolctl import threadpool_limits

from factorlake.errors import ConfigError
from factorlake.kernels.top_k import top_k
from factorlake.ml.factors import Factors, factor_table
from factorlake.spark.arrow_lists import matrix
from factorlake.types import Side

# Entries of lists (item and score: 8 bytes) that a task holds at once.
ENTRIES_AT_ONCE = 1 << 22


def best_of_other_side(
    factors: Factors, sources: DataFrame, side: Side, own_column: str, other_column: str, k: int, skip_seen: bool
) -> DataFrame:
    """Return (``own_column``, recommendations array<(``other_column``, rating)>), best first, ties by id.

    Parameters
    ----------
    sources : rows of ``factors.side(side)`` that get a list.
    k : list length; shorter only where the other side has fewer.
    skip_seen : leave out the pairs of ``factors.seen``.

    The other side comes to the driver and travels with the tasks; no score leaves a worker but the best.

    Raises
    ------
    ConfigError : k is below 1.
    """
    if k < 1:
        raise ConfigError(f"the number of recommendations must be at least 1, got {k}")
    other: Side = "item" if side == "user" else "user"
    rank, mean = factors.rank, np.float32(factors.mean)
    table = factor_table(factors.side(other), rank)
    ids, vectors, biases = table.ids, table.factors, table.biases
    # A list cannot be longer than the other side, and as many as a batch has need not fit the memory at once.
    k = max(1, min(k, len(ids)))
    n_at_once = max(1, ENTRIES_AT_ONCE // k)
    own_type, other_type = (factors.side(one).schema["id"].dataType for one in (side, other))
    one_pair = pa.struct([(other_column, ids.type), ("rating", pa.float32())])
    listed = StructType([StructField(other_column, other_type), StructField("rating", FloatType())])
    schema = StructType([StructField(own_column, own_type, False), StructField("recommendations", ArrayType(listed))])

    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        ties = np.arange(len(vectors))
        for batch in (part for whole in batches for part in _slices(whole, n_at_once)):
            n = batch.num_rows
            seen_ptr, seen = np.zeros(n + 1, np.int64), np.empty(0, np.int32)
            if "seen" in batch.schema.names:
                lists = batch["seen"]
                np.cumsum(lists.value_lengths().fill_null(0).to_numpy(), out=seen_ptr[1:])
                seen = lists.flatten().to_numpy().astype(np.int32)
            bias = batch["bias"].to_numpy(zero_copy_only=False) + mean
            with threadpool_limits(1):
                best, scores = top_k(
                    matrix(batch["features"], rank), vectors, k, seen_ptr, seen, ties, user_bias=bias, item_bias=biases
                )
            filled = best >= 0
            ends = np.zeros(n + 1, np.int32)
            np.cumsum(filled.sum(axis=1), out=ends[1:])
            pairs = pa.StructArray.from_arrays(
                [ids.take(pa.array(best[filled])), pa.array(scores[filled], pa.float32())], fields=list(one_pair)
            )
            found = pa.ListArray.from_arrays(pa.array(ends), pairs)
            yield pa.record_batch([batch["id"], found], names=[own_column, "recommendations"])

    rows = sources.select("id", "features", "bias")
    if skip_seen and factors.seen is not None:
        rows = rows.join(_seen_places(factors, side, ids), on="id", how="left")
    return rows.mapInArrow(score, schema)


def _slices(batch: pa.RecordBatch, n_rows: int) -> Iterator[pa.RecordBatch]:
    return (batch.slice(first, n_rows) for first in range(0, batch.num_rows, n_rows))


def _seen_places(factors: Factors, side: Side, other_ids: pa.Array) -> DataFrame:
    """Return (id, seen): the places among ``other_ids`` of what each row of ``side`` was trained with, ascending."""
    assert factors.seen is not None
    own, other = ("user", "item") if side == "user" else ("item", "user")
    places = pa.table({other: other_ids, "place": pa.array(np.arange(len(other_ids), dtype=np.int32))})
    known = factors.seen.join(factors.seen.sparkSession.createDataFrame(places), on=other)
    return known.groupBy(F.col(own).alias("id")).agg(F.array_sort(F.collect_set("place")).alias("seen"))
