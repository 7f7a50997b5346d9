"""The bias model r̂ = μ + b_u + b_i of all ratings, by blocks of users: the driver holds one number for each item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, NumericalError
from factorlake.spark.compat import keep, large_rows, release
from factorlake.spark.exchange import Exchange, Handle
from factorlake.spark.ids import logical_block, positions

_PACKED_SCHEMA = (
    "block int, n bigint, total double, least double, greatest double, "
    "user_ids array<string>, row_ptr binary, items binary, values binary"
)
_SUM_SCHEMA = "position int, block int, n bigint, total double"
_BIAS_SCHEMA = "user_id string, bias double"


@dataclass(frozen=True)
class Biases:
    """The fitted model, and the scale of the ratings behind it."""

    mean: float
    least: float
    greatest: float
    users: DataFrame
    """user_id, bias."""
    items: DataFrame
    """item_id, bias."""
    kept: tuple[DataFrame, ...]

    def release(self) -> None:
        """Give up what is cached; the frames are computed anew when they are asked for again."""
        for frame in self.kept:
            release(frame)

    def predict(self, pairs: DataFrame) -> DataFrame:
        """Return (user_id, item_id, score) of pairs; an unknown user or item has bias 0."""
        users = self.users.withColumnRenamed("bias", "user_bias")
        items = self.items.withColumnRenamed("bias", "item_bias")
        told = pairs.join(users, on="user_id", how="left").join(items, on="item_id", how="left")
        # One order of adding for all, as in evaluation.baselines.
        sum_of_all = (F.lit(self.mean) + F.coalesce("user_bias", F.lit(0.0))) + F.coalesce("item_bias", F.lit(0.0))
        return told.select("user_id", "item_id", sum_of_all.alias("score"))


def fit_biases(
    pairs: DataFrame,
    exchange: Exchange,
    n_blocks: int,
    *,
    user_damping: float = 15.0,
    item_damping: float = 10.0,
    sweeps: int = 10,
) -> Biases:
    """Minimise Σ (r − μ − b_u − b_i)² + λ_u Σ b_u² + λ_i Σ b_i² by turns: ``evaluation.baselines.BiasBaseline``,
    whose sums are taken here block by block.

    Parameters
    ----------
    pairs : user_id, item_id, value; a pair once.
    n_blocks : a power of two, fixed by the data: it decides about the order of sums.
    user_damping, item_damping, sweeps : as there.

    The frames of biases are computed when they are asked for, from what stays cached until ``Biases.release``.

    Raises
    ------
    ConfigError : no ratings. NumericalError : a rating is not finite.
    """
    placed = positions(pairs.select(F.col("item_id").alias("id")), n_blocks)
    numbered = keep(placed.frame.select("id", "position"))
    located = pairs.join(numbered.withColumnRenamed("id", "item_id"), on="item_id")
    block = logical_block(F.xxhash64("user_id"), n_blocks).alias("block")
    grouped = located.select("user_id", "position", F.col("value").cast("double").alias("value"), block)
    packed = keep(grouped.groupBy("block").applyInArrow(_pack, _PACKED_SCHEMA))
    told = sorted(packed.select("block", "n", "total", "least", "greatest").collect())
    n = sum(row["n"] for row in told)
    if not n:
        raise ConfigError("biases need ratings, and there is none")
    mean = sum(row["total"] for row in told) / n
    if not np.isfinite(mean):
        raise NumericalError("a known rating is not finite: refuse such values by a rule (validate.rules)")
    biases = np.zeros(placed.n_ids)
    handle: Handle | None = None
    for _ in range(sweeps):
        total, count = _item_sums(packed, handle, mean, user_damping, placed.n_ids)
        biases = total / (count + item_damping)
        handle = exchange.ship(biases)
    assert handle is not None
    users = packed.mapInArrow(_user_biases(handle, mean, user_damping), _BIAS_SCHEMA)
    table = pa.table({"position": pa.array(np.arange(placed.n_ids, dtype=np.int32)), "bias": pa.array(biases)})
    items = numbered.join(pairs.sparkSession.createDataFrame(table), on="position")
    least, greatest = min(row["least"] for row in told), max(row["greatest"] for row in told)
    by_item = items.select(F.col("id").alias("item_id"), "bias")
    return Biases(mean, least, greatest, users, by_item, (packed, numbered))


def _pack(table: pa.Table) -> pa.Table:
    """Return a block's ratings as one row, by user and item."""
    table = table.sort_by([("user_id", "ascending"), ("position", "ascending")])
    encoded = table["user_id"].combine_chunks().dictionary_encode()
    lengths = np.bincount(encoded.indices.to_numpy(), minlength=len(encoded.dictionary))
    values = table["value"].to_numpy()
    row = {
        "block": table["block"][0].as_py(),
        "n": len(values),
        "total": float(values.sum()),
        "least": float(values.min()),
        "greatest": float(values.max()),
        "user_ids": encoded.dictionary.to_pylist(),
        "row_ptr": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64).tobytes(),
        "items": table["position"].to_numpy().astype(np.int32).tobytes(),
        "values": values.astype(np.float64).tobytes(),
    }
    kinds = {"block": pa.int32(), "row_ptr": pa.binary(), "items": pa.binary(), "values": pa.binary()}
    return pa.table({name: pa.array([value], kinds.get(name)) for name, value in row.items()})


@dataclass(frozen=True)
class _Ratings:
    owner: NDArray[np.int64]
    items: NDArray[np.int32]
    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @staticmethod
    def of(batch: pa.RecordBatch, row: int) -> _Ratings:
        ptr = np.frombuffer(batch["row_ptr"][row].as_buffer(), np.int64)
        items = np.frombuffer(batch["items"][row].as_buffer(), np.int32)
        values = np.frombuffer(batch["values"][row].as_buffer(), np.float64)
        counts = np.diff(ptr)
        return _Ratings(np.repeat(np.arange(len(counts)), counts), items, values, counts)

    def user_biases(self, item_biases: NDArray[np.float64], mean: float, damping: float) -> NDArray[np.float64]:
        left = self.values - mean - item_biases[self.items]
        return np.bincount(self.owner, left, minlength=len(self.counts)) / (self.counts + damping)


def _item_sums(
    packed: DataFrame, handle: Handle | None, mean: float, damping: float, n_items: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return each item's Σ (r − μ − b_u) and number of ratings; b_u from the items' biases, 0 where there are none."""

    def add_up(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in range(batch.num_rows):
                ratings = _Ratings.of(batch, row)
                left = ratings.values - mean
                if handle is not None:
                    left -= ratings.user_biases(handle.load(), mean, damping)[ratings.owner]
                totals = np.bincount(ratings.items, left)
                counts = np.bincount(ratings.items)
                rated = np.flatnonzero(counts).astype(np.int32)
                block = np.full(len(rated), batch["block"][row].as_py(), np.int32)
                yield pa.record_batch(
                    [pa.array(rated), pa.array(block), pa.array(counts[rated]), pa.array(totals[rated])],
                    names=["position", "block", "n", "total"],
                )

    parts = packed.mapInArrow(add_up, _SUM_SCHEMA)
    # Float sums depend on their order: block by block.
    in_order = F.array_sort(F.collect_list(F.struct("block", "total")))
    summed = parts.groupBy("position").agg(
        F.sum("n").alias("n"),
        F.aggregate(in_order, F.lit(0.0), lambda so_far, one: so_far + one["total"]).alias("total"),
    )
    # Batches hold one row each on their way out as well: all sums are one row.
    in_one = summed.agg(F.collect_list(F.struct("position", "n", "total")).alias("sums"))
    with large_rows(packed.sparkSession):
        told = in_one.toArrow()["sums"].combine_chunks().flatten()
    total, count = np.zeros(n_items), np.zeros(n_items, np.int64)
    position = told.field("position").to_numpy(zero_copy_only=False)
    total[position] = told.field("total").to_numpy(zero_copy_only=False)
    count[position] = told.field("n").to_numpy(zero_copy_only=False)
    return total, count


def _user_biases(
    handle: Handle, mean: float, damping: float
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def solve(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for row in range(batch.num_rows):
                biases = _Ratings.of(batch, row).user_biases(handle.load(), mean, damping)
                yield pa.record_batch([batch["user_ids"][row].values, pa.array(biases)], names=["user_id", "bias"])

    return solve
