"""Accepted events become one rating per (user, item), in a way that no order of rows can change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from factorlake.errors import ConfigError
from factorlake.times import as_utc, from_micros, in_micros


@dataclass(frozen=True)
class PairRule:
    """How the events of one pair combine into its rating r."""

    event_weights: dict[str, float]
    """Weight by event type; 1 for types not named."""
    use_value: bool
    """Multiply by the event's value."""
    combine: str
    """sum, max, last, mean or count."""
    log_scaling: bool
    """r becomes sign(r)·log(1 + |r|/ε)."""
    keep_zero: bool
    """Whether a pair with r = 0 stays (explicit ratings) or says nothing (implicit)."""
    log_scale: float = 1.0
    """ε."""
    half_life_days: float | dict[str, float] | None = None
    """Days in which an event loses half its weight, of all events or by event type; types not named keep theirs. None:
    age does not count."""

    def without_decay(self) -> PairRule:
        """Return the same rule for events whose age does not count."""
        return replace(self, half_life_days=None)


def select_events(
    events: DataFrame,
    event_types: list[str],
    min_value: float | None,
    newest: datetime | None,
    window_days: float | None,
) -> DataFrame:
    """Return the events a recommender looks at: of the given types, at least ``min_value``, inside the window.

    The window is measured back from ``newest``, the newest event of the pinned input, never from the clock.
    """
    if event_types:
        events = events.where(F.col("event_type").isin(event_types))
    if min_value is not None:
        events = events.where(F.col("value") >= min_value)
    if window_days is not None and newest is not None:
        events = events.where(
            F.col("event_time") > F.lit(newest) - F.make_dt_interval(secs=F.lit(window_days * 86400.0))
        )
    return events


def combine_pairs(events: DataFrame, rule: PairRule) -> DataFrame:
    """Return (user_id, item_id, value): one row per pair with an event.

    Float sums depend on their order, and Spark's order is not fixed, so sums run over the sorted values.
    """
    weight: Column = F.lit(1.0)
    if rule.event_weights:
        table = F.create_map(*chain.from_iterable((F.lit(k), F.lit(float(v))) for k, v in rule.event_weights.items()))
        weight = F.coalesce(F.try_element_at(table, F.col("event_type")), weight)
    if rule.use_value:
        weight = weight * F.col("value")
    weighed = events.select("user_id", "item_id", "event_time", "event_id", weight.alias("w"))
    in_order = F.array_sort(F.collect_list("w"))
    total = F.aggregate(in_order, F.lit(0.0), lambda sum_so_far, value: sum_so_far + value)
    combined = {
        "sum": total,
        "mean": total / F.count("w"),
        "max": F.max("w"),
        "last": F.max(F.struct("event_time", "event_id", "w"))["w"],
        "count": F.count("w").cast("double"),
    }[rule.combine]
    pairs = weighed.groupBy("user_id", "item_id").agg(combined.alias("value"))
    if rule.log_scaling:
        pairs = pairs.withColumn("value", F.signum("value") * F.log1p(F.abs("value")))
    return pairs if rule.keep_zero else pairs.where(F.col("value") != 0)


def fingerprint(events: DataFrame) -> dict[str, object]:
    """Return the count, newest time and an order-free hash of the events' contents in one pass.

    The hash is the count with the sum and the exclusive or of the rows' 64-bit hashes: equal for equal contents,
    whatever the order, files or Delta version.
    """
    row_hash = F.xxhash64("user_id", "item_id", "event_type", "value", "event_time", "event_id")
    row = events.agg(
        F.count(F.lit(1)).alias("n"),
        F.unix_micros(F.max("event_time")).alias("newest"),
        F.sum(row_hash.cast("decimal(38,0)")).alias("total"),
        F.bit_xor(row_hash).alias("xor"),
    ).collect()[0]
    newest = None if row["newest"] is None else from_micros(row["newest"])
    return {"n": row["n"], "newest": newest, "hash": f"{row['n']}:{row['total']}:{row['xor']}"}
