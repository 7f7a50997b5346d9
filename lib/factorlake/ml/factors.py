"""What a model holds: frames of factors, and how they become arrays and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType

from factorlake.models.plan import ArrayRows
from factorlake.models.trained import Stopped, TraceRow
from factorlake.spark.arrow_lists import matrix
from factorlake.spark.ids import Positions
from factorlake.spark.stored_rows import StoredRows
from factorlake.types import FloatMatrix, Side

# Offsets of Arrow's lists have 31 bits.
NUMBERS_PER_ARRAY = 1 << 30

BROADCAST_BYTES = 10 << 20
"""Spark's own default of spark.sql.autoBroadcastJoinThreshold: a factor frame known to be smaller is broadcast."""


@dataclass(frozen=True)
class Factors:
    """A trained model as frames."""

    users: DataFrame
    """id (int or string), features (array<float>), bias (float; 0 where the model has none)."""
    items: DataFrame
    rank: int
    mean: float = 0.0
    """μ of a model with biases, else 0."""
    biases: bool = False
    sizes: tuple[int, int] | None = None
    """Numbers of users and items, where they are known without counting."""
    trace: tuple[TraceRow, ...] = ()
    stopped: Stopped | None = None
    """Why training ended; None for a model of another trainer."""
    seen: DataFrame | None = None
    """(user, item) of the training data, where lists shall leave them out."""

    def side(self, side: Side) -> DataFrame:
        return self.users if side == "user" else self.items

    def is_small(self, side: Side) -> bool:
        """Whether a side's factors are known to be few enough to be broadcast."""
        return (
            self.sizes is not None and self.sizes[0 if side == "user" else 1] * (4 * self.rank + 16) <= BROADCAST_BYTES
        )


def factor_frame(
    spark: SparkSession,
    known: Positions,
    kind: DataType,
    rows: ArrayRows | StoredRows,
    rank: int,
) -> DataFrame:
    """Return (id, features, bias) of one side of a trained model.

    Parameters
    ----------
    known : ids as text, by position of the rows.
    kind : type of the ids in the frame that was trained on: int or string.
    rows : factors, then the bias where there is one. Rows in files stay with the workers, and so does the frame.
    """
    if isinstance(rows, StoredRows):
        stored = rows

        def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                found = stored.at(batch["position"].to_numpy())
                yield pa.record_batch(
                    [batch["id"], _lists(found[:, :rank]), _bias(found, rank)], names=["id", "features", "bias"]
                )

        named = known.frame.select("id", "position").mapInArrow(read, "id string, features array<float>, bias float")
        return named.withColumn("id", F.col("id").cast(kind)).localCheckpoint()
    table = known.frame.select(F.col("id").cast(kind).alias("id"), "position").toArrow()
    found = rows.at(table["position"].to_numpy())
    n_rows = NUMBERS_PER_ARRAY // rank
    parts = [_lists(found[first : first + n_rows, :rank]) for first in range(0, len(found), n_rows)]
    features = pa.chunked_array(parts, pa.list_(pa.float32()))
    columns = {"id": table["id"], "features": features, "bias": _bias(found, rank)}
    return spark.createDataFrame(pa.table(columns))


def _lists(rows: FloatMatrix) -> pa.Array:
    ends = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.ascontiguousarray(rows).ravel(), pa.float32()))


def _bias(rows: FloatMatrix, rank: int) -> pa.Array:
    return pa.array(rows[:, rank] if rows.shape[1] > rank else np.zeros(len(rows), np.float32), pa.float32())


@dataclass(frozen=True)
class FactorTable:
    """One side on the driver, by ascending id (numbers by value, text by bytes)."""

    ids: pa.Array
    factors: NDArray[np.float32]
    biases: NDArray[np.float32]


def factor_table(frame: DataFrame, rank: int) -> FactorTable:
    """Bring one side's factors to the driver."""
    table = frame.select("id", "features", "bias").toArrow()
    order = pc.array_sort_indices(table["id"].combine_chunks())
    places = order.to_numpy()
    return FactorTable(
        table["id"].combine_chunks().take(order),
        matrix(table["features"], rank)[places],
        table["bias"].to_numpy().astype(np.float32)[places],
    )


def packed_factors(factors: Factors, side: Side, id_name: str, packed_name: str) -> DataFrame:
    """Return (``id_name``, ``packed_name``) of one side, each row's numbers as the bytes of float32.

    A user's row is (x, μ + b_u, 1), an item's (y, 1, b_i): their product is the whole prediction. A model without
    biases has x and y alone.
    """
    frame = factors.side(side)
    kind = frame.schema["id"].dataType.simpleString()
    pack = _packer(factors.rank, factors.mean, factors.biases, side, id_name, packed_name)
    return frame.select("id", "features", "bias").mapInArrow(pack, f"`{id_name}` {kind}, `{packed_name}` binary")


def _packer(
    rank: int, mean: float, biases: bool, side: Side, id_name: str, packed_name: str
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = matrix(batch["features"], rank)
            if biases:
                rows = with_bias_columns(rows, batch["bias"].to_numpy(zero_copy_only=False), mean, side)
            offsets = np.arange(len(rows) + 1, dtype=np.int32) * (4 * rows.shape[1])
            packed = pa.Array.from_buffers(
                pa.binary(), len(rows), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(rows.tobytes())]
            )
            yield pa.record_batch([batch["id"], packed], names=[id_name, packed_name])

    return pack


def with_bias_columns(
    rows: NDArray[np.float32], bias: NDArray[np.float32], mean: float, side: Side
) -> NDArray[np.float32]:
    """Return (x, μ + b_u, 1) of users or (y, 1, b_i) of items, (n, rank + 2): their products are whole predictions."""
    n, rank = rows.shape
    wide = np.ones((n, rank + 2), np.float32)
    wide[:, :rank] = rows
    wide[:, rank if side == "user" else rank + 1] = bias + mean if side == "user" else bias
    return wide


def dot_product(left: str, right: str) -> Column:
    """Return the product of two packed columns as float, summed in float64; null where one of them is null."""

    def dot(users: pd.Series, items: pd.Series) -> pd.Series:
        known = (users.notna() & items.notna()).to_numpy()
        products = np.full(len(known), np.nan, np.float32)
        n = int(known.sum())
        if n:
            x, y = (np.frombuffer(b"".join(side[known]), np.float32).reshape(n, -1) for side in (users, items))
            products[known] = np.einsum("na,na->n", x, y, dtype=np.float64)
        return pd.Series(products)

    return F.pandas_udf(dot, "float")(F.col(left), F.col(right))  # type: ignore[call-overload]
