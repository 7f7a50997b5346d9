"""Accepted events become one rating per (user, item), in a way that no order of rows can change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from factorlake.errors import ConfigError
from factorlake.times import from_micros

MICROS_PER_DAY = 86_400_000_000


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
    faded_below: float = 0.0
    """With a half-life: a pair of smaller |r| is as one without events, where pairs with r = 0 do not stay."""

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


def newest_time(events: DataFrame) -> datetime | None:
    """Return the time of the newest event; None where there is none, or none that has a time."""
    micros = events.agg(F.unix_micros(F.max("event_time"))).collect()[0][0]
    return None if micros is None else from_micros(micros)


def combine_pairs(events: DataFrame, rule: PairRule, newest: datetime | None = None) -> DataFrame:
    """Return (user_id, item_id, value): one row per pair with an event.

    An event weighs its type's weight · its value (where the rule uses it) · 2^(−age/half-life), and the weights of a
    pair's events combine into r. Age is measured back from one time for all events, never from the clock; an event
    without a time, or newer than that, has age 0. Under implicit feedback a pair whose r is 0 as a float32 is left out:
    after about 149 half-lives an event of weight 1 is gone.

    Float sums depend on their order, and Spark's order is not fixed, so sums run over the sorted values.

    Parameters
    ----------
    events : those that may be known, and no others.
    newest : the newest of their times, where the caller has it; else a rule with a half-life looks for it in a pass
        over the events.

    Raises
    ------
    ConfigError : a half-life, and events none of which has a time.

    Sources: the logarithm, Hu, Koren, Volinsky, ICDM 2008, section 4; the half-life, Ding, Li, CIKM 2005.
    """
    weight: Column = F.lit(1.0)
    if rule.event_weights:
        table = F.create_map(*chain.from_iterable((F.lit(k), F.lit(float(v))) for k, v in rule.event_weights.items()))
        weight = F.coalesce(F.try_element_at(table, F.col("event_type")), weight)
    if rule.use_value:
        weight = weight * F.col("value")
    if rule.half_life_days:
        newest = newest if newest is not None else newest_time(events)
        if newest is not None:
            weight = weight * _decay(rule.half_life_days, newest)
        elif events.take(1):
            raise ConfigError(
                "half_life_days needs the times of events, and none has one: name their column by "
                "events.columns.event_time, or leave train.half_life_days out"
            )
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
        pairs = pairs.withColumn("value", F.signum("value") * F.log1p(F.abs("value") / rule.log_scale))
    # Models take ratings as float32: what is 0 there says nothing either.
    if rule.keep_zero:
        return pairs
    pairs = pairs.where(F.col("value").cast("float") != 0)
    return pairs.where(F.abs("value") >= rule.faded_below) if rule.half_life_days else pairs


def _decay(half_life_days: float | dict[str, float], newest: datetime) -> Column:
    """Return 2^(−age/half-life) of each event; 1 where its type has no half-life or the event no time.

    Each row's power is its own, by Java's StrictMath, whose results are the same bits on every machine; ages of whole
    half-lives give exact powers.
    """
    if isinstance(half_life_days, dict):
        lengths = ((F.lit(k), F.lit(days * MICROS_PER_DAY)) for k, days in half_life_days.items())
        half_life = F.try_element_at(F.create_map(*chain.from_iterable(lengths)), F.col("event_type"))
    else:
        half_life = F.lit(half_life_days * MICROS_PER_DAY)
    # Whole microseconds: their difference is exact. The greatest passes over a null.
    age = F.greatest(F.unix_micros(F.lit(newest)) - F.unix_micros("event_time"), F.lit(0))
    return F.coalesce(F.pow(F.lit(2.0), -age / half_life), F.lit(1.0))


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
