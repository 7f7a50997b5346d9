"""The item side of a model for scoring and folding in: numbers and ids by position, shipped once."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.kernels.arrays import read_only
from factorlake.kernels.top_k import OrderedItems, order_items
from factorlake.spark.arrow_text import hash_strings
from factorlake.spark.exchange import Exchange, Handle

# What a worker made of shipped items is kept for this many of them: a candidate and the live model.
KEPT_IN_WORKER = 2
_made: OrderedDict[tuple[str, str], Any] = OrderedDict()
T = TypeVar("T")


@dataclass(frozen=True)
class ShippedOrder:
    """`OrderedItems` on their way to the workers."""

    factors: Handle
    positions: Handle
    place: Handle
    tie_rank: Handle
    norms_left: Handle
    biases_left: Handle
    largest_bias: float
    rank: int

    @staticmethod
    def of(items: OrderedItems, exchange: Exchange) -> ShippedOrder:
        """Ship items in their order."""
        return ShippedOrder(
            factors=exchange.ship(items.factors),
            positions=exchange.ship(items.positions),
            place=exchange.ship(items.place),
            tie_rank=exchange.ship(items.tie_rank),
            norms_left=exchange.ship(items.norms_left),
            biases_left=exchange.ship(items.biases_left),
            largest_bias=items.largest_bias,
            rank=items.rank,
        )

    def load(self) -> OrderedItems:
        """Return the items. Of a file a page is read when users meet the tile that it belongs to, and given up again
        where memory is short."""
        return OrderedItems(
            factors=read_only(self.factors.load(), np.float32),
            positions=read_only(self.positions.load(), np.int32),
            place=read_only(self.place.load(), np.int32),
            tie_rank=read_only(self.tie_rank.load(), np.int64),
            norms_left=read_only(self.norms_left.load(), np.float64),
            biases_left=read_only(self.biases_left.load(), np.float64),
            largest_bias=self.largest_bias,
            rank=self.rank,
        )


@dataclass(frozen=True)
class ItemSide:
    """What a worker needs of the items, by position."""

    key: str
    """Names what was shipped; never used twice."""
    factors: Handle
    """(n_items, rank) float32."""
    biases: Handle
    """(n_items,) float32; zeros for implicit."""
    tie_rank: Handle
    """(n_items,) int64: rank of each item's id by bytes; equal scores are ordered by it."""
    ordered: ShippedOrder | None
    """Those that may be listed, in the order in which users meet them; None where no lists are wanted."""
    counts: Handle
    """(n_items,) float32: pairs behind each item, the fall-back for users the model knows nothing of."""
    allowed: Handle
    """(n_items,) bool: items that may be listed."""
    id_bytes: Handle
    """(n_bytes,) uint8: the ids in UTF-8, one after the other."""
    id_ptr: Handle
    """(n_items + 1,) int64: where each id starts."""
    mean: float
    """μ of the explicit objective, 0 for implicit."""

    def ids(self) -> pa.Array:
        """Return the ids by position (string)."""
        ptr, text = self.id_ptr.load(), self.id_bytes.load()
        return pa.LargeStringArray.from_buffers(len(ptr) - 1, pa.py_buffer(ptr), pa.py_buffer(text)).cast(pa.string())

    def in_order(self) -> OrderedItems:
        """Return the items that may be listed, in the order in which users meet them."""
        assert self.ordered is not None, "these items were loaded with listed=False"
        return self.ordered.load()

    def once(self, purpose: str, make: Callable[[], T]) -> T:
        """Return what ``make`` returns, made once in this process for these items and this purpose."""
        entry = (self.key, purpose)
        if entry not in _made:
            while len({key for key, _ in _made} | {self.key}) > KEPT_IN_WORKER:
                _made.popitem(last=False)
            _made[entry] = make()
        made: T = _made[entry]
        return made


@dataclass(frozen=True)
class LoadedItems:
    """A model's items: by position on the driver and with the workers."""

    frame: DataFrame
    """id, position."""
    factors: NDArray[np.float32]
    """(n_items, rank) by position."""
    biases: NDArray[np.float32]
    """(n_items,) by position."""
    shipped: ItemSide


def load_items(
    items: DataFrame, exchange: Exchange, mean: float, unavailable: DataFrame | None = None, *, listed: bool = True
) -> LoadedItems:
    """Number the items of a factor frame (id, factor, bias, n_observed) by hash order and ship them once.

    ``unavailable`` holds the ids that must not be listed; they take part in everything else. Without ``listed`` the
    items are for folding in only.

    The items are read once, to the driver, ids too: they are shorter than the factors beside them. The order is that
    of training, by (hash, id), so rows fold in with the very sums that training used. Raises nothing on an empty frame:
    then there are no positions.
    """
    chosen = items.select("id", "factor", "bias", F.col("n_observed").cast("float").alias("count"))
    if unavailable is None:
        chosen = chosen.withColumn("barred", F.lit(False))
    else:
        barred = unavailable.select("id").distinct().withColumn("barred", F.lit(True))
        chosen = chosen.join(barred, on="id", how="left").withColumn("barred", F.coalesce("barred", F.lit(False)))
    table = chosen.toArrow().combine_chunks()
    by_bytes = pc.array_sort_indices(_whole(table["id"]))
    table = table.take(by_bytes)
    ids = _whole(table["id"])
    hashes = hash_strings(ids)
    order = np.argsort(hashes, kind="stable")  # stable: equal hashes stay in order of id
    ids = ids.take(pa.array(order))
    flat = _whole(table["factor"]).flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    factors = np.ascontiguousarray(flat.reshape(len(order), len(flat) // max(len(order), 1))[order])
    biases = table["bias"].to_numpy().astype(np.float32)[order]
    wide = ids.cast(pa.large_string())
    _, offsets, text = wide.buffers()
    tie_rank, allowed = order.astype(np.int64), ~table["barred"].to_numpy(zero_copy_only=False)[order]
    ordered = None
    if listed:
        # Once for all workers of a machine, which share the file's pages.
        in_order = order_items(factors, tie_rank, biases if biases.any() else None, allowed)
        ordered = ShippedOrder.of(in_order, exchange)
    shipped = ItemSide(
        key=uuid.uuid4().hex,
        factors=exchange.ship(factors),
        biases=exchange.ship(biases),
        tie_rank=exchange.ship(tie_rank),
        ordered=ordered,
        counts=exchange.ship(table["count"].to_numpy().astype(np.float32)[order]),
        allowed=exchange.ship(allowed),
        id_bytes=exchange.ship(np.frombuffer(text or b"", np.uint8)),
        id_ptr=exchange.ship(np.frombuffer(offsets, np.int64, len(wide) + 1) if len(wide) else np.zeros(1, np.int64)),
        mean=mean,
    )
    position = pa.array(np.arange(len(order), dtype=np.int32))
    frame = items.sparkSession.createDataFrame(pa.table({"id": ids, "position": position}))
    return LoadedItems(frame, factors, biases, shipped)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; of no chunks an empty one."""
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
