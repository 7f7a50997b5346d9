"""The item side of a model for scoring and folding in: factors by position, and the frame that maps ids to
positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from factorlake.spark.exchange import Exchange
from factorlake.spark.ids import positions, rank_new_ids
from factorlake.spark.scorer import ItemSide, ship_items


@dataclass(frozen=True)
class LoadedItems:
    """A model's items: numbers on the driver and with the workers, ids in a frame."""

    frame: DataFrame
    """id, position."""
    factors: NDArray[np.float32]
    """(n_items, rank) by position."""
    biases: NDArray[np.float32]
    """(n_items,) by position."""
    shipped: ItemSide


def load_items(items: DataFrame, exchange: Exchange, mean: float, unavailable: DataFrame | None = None) -> LoadedItems:
    """Number the items of a factor frame (id, factor, bias, n_observed) by hash order and ship them once.

    ``unavailable`` holds the ids that must not be listed; they take part in everything else.

    Only numbers reach the driver; ids stay in the frame. The order is that of training, so rows fold in with the
    very sums that training used. Raises nothing on an empty frame: then there are no positions.
    """
    numbered = positions(items.select("id"), 1).frame.select("id", "position")
    ranked = rank_new_ids(items.select("id"), 0)
    frame = items.join(numbered, on="id").join(ranked, on="id")
    if unavailable is None:
        frame = frame.withColumn("barred", F.lit(False))
    else:
        barred = unavailable.select("id").distinct().withColumn("barred", F.lit(True))
        frame = frame.join(barred, on="id", how="left").withColumn("barred", F.coalesce("barred", F.lit(False)))
    count = F.col("n_observed").cast("float").alias("count")
    table = frame.select("position", F.col("index").alias("tie"), "factor", "bias", count, "barred").toArrow()
    order = np.argsort(table["position"].to_numpy())
    flat = table["factor"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    factors = np.ascontiguousarray(flat.astype(np.float32).reshape(len(order), -1)[order])
    biases = table["bias"].to_numpy().astype(np.float32)[order]
    shipped = ship_items(
        exchange,
        factors,
        biases,
        table["tie"].to_numpy()[order],
        table["count"].to_numpy()[order],
        ~table["barred"].to_numpy()[order],
        mean,
    )
    return LoadedItems(numbered, factors, biases, shipped)
