"""What the events of a pair come to: half-lives, the logarithm and each way to combine, beside plain Python."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError
from factorlake.spark.pairs import PairRule, combine_pairs, newest_time

pytestmark = pytest.mark.spark

NEWEST = datetime(2024, 3, 31, 1, 30, 0, 123457, tzinfo=UTC)
SCHEMA = "user_id string, item_id string, event_type string, value double, event_time timestamp, event_id string"
# A row's weight and power may round differently in Java's library and in C's, by an ulp each; the sums have 30 terms.
TOLERANCE = 1e-13
Event = tuple[str, str, str, float, datetime | None, str]


def rule(combine: str = "sum", **more: Any) -> PairRule:
    given: dict[str, Any] = {"event_weights": {}, "use_value": True, "log_scaling": False, "keep_zero": True}
    return PairRule(**{**given, **more}, combine=combine)


def days(age: float) -> datetime:
    return NEWEST - timedelta(days=age)


def pairs_of(events: DataFrame, of: PairRule, newest: datetime | None = None) -> dict[tuple[str, str], float]:
    return {(row[0], row[1]): row[2] for row in combine_pairs(events, of, newest).collect()}


@pytest.mark.parametrize(
    ("combine", "half_life", "expected"),
    [
        # Three events of 3, 5 and 8 now, 10 and 20 days ago; plays weigh 1 and likes 2.
        ("sum", 10.0, 3 + 5 / 2 * 2 + 8 / 4),
        ("mean", 10.0, (3 + 5 / 2 * 2 + 8 / 4) / 3),
        ("max", 10.0, 5.0),
        ("last", 10.0, 3.0),
        ("sum", 5.0, 3 + 5 / 4 * 2 + 8 / 16),
        ("sum", {"play": 10.0}, 3 + 5 * 2 + 8 / 4),
        ("max", {"play": 10.0}, 10.0),
        ("sum", {"like": 2.5, "play": 20.0}, 3 + 5 / 16 * 2 + 8 / 2),
        ("sum", {"skip": 1.0}, 3 + 5 * 2 + 8),
        ("sum", None, 3 + 5 * 2 + 8),
    ],
)
def test_whole_half_lives_give_exact_powers_of_one_half(
    spark: SparkSession, combine: str, half_life: Any, expected: float
) -> None:
    rows = [
        ("u", "i", "play", 3.0, NEWEST, "a"),
        ("u", "i", "like", 5.0, days(10), "b"),
        ("u", "i", "play", 8.0, days(20), "c"),
    ]
    decayed = rule(combine, event_weights={"like": 2.0}, half_life_days=half_life)
    assert pairs_of(spark.createDataFrame(rows, SCHEMA), decayed) == {("u", "i"): expected}


def test_age_is_of_the_whole_log_and_not_of_the_pair(spark: SparkSession) -> None:
    rows = [
        ("u", "i", "play", 1.0, days(30), "a"),
        ("u", "j", "play", 1.0, days(0), "b"),
        # Events without a time have no age, and those of a later time than the newest that is given are as new.
        ("v", "i", "play", 1.0, None, "c"),
        # More than 1,074 half-lives: less than the least positive number.
        ("v", "j", "play", 1.0, days(11_000), "d"),
    ]
    events = spark.createDataFrame(rows, SCHEMA)
    assert newest_time(events) == NEWEST
    expected = {("u", "i"): 1 / 8, ("u", "j"): 1.0, ("v", "i"): 1.0, ("v", "j"): 0.0}
    decayed = rule(half_life_days=10.0)
    assert pairs_of(events, decayed) == expected
    assert pairs_of(events, decayed, NEWEST) == expected
    assert pairs_of(events, decayed, days(20)) == expected | {("u", "i"): 1 / 2}
    assert pairs_of(events, decayed.without_decay()) == dict.fromkeys(expected, 1.0)


def test_a_pair_is_gone_when_float32_holds_no_more_of_its_weight(spark: SparkSession) -> None:
    # The least positive float32 is 2^-149; half of it rounds to 0.
    rows = [("u", f"i{age}", "play", 1.0, days(age), str(age)) for age in (0, 149, 151, 1080)]
    events = spark.createDataFrame(rows, SCHEMA)
    left = pairs_of(events, rule(half_life_days=1.0, keep_zero=False))
    assert left == {("u", "i0"): 1.0, ("u", "i149"): 2.0**-149}
    assert pairs_of(events, rule(half_life_days=1.0))["u", "i1080"] == 0.0
    # Or before, where the rule says so; what does not decay does not fade.
    sooner = rule(half_life_days=1.0, keep_zero=False, faded_below=2.0**-149)
    assert pairs_of(events, sooner) == left
    assert pairs_of(events, replace(sooner, faded_below=2.0**-148)) == {("u", "i0"): 1.0}
    assert len(pairs_of(events, replace(sooner, faded_below=2.0).without_decay())) == len(rows)


@pytest.mark.parametrize(("value", "scale", "expected"), [(3.0, 1.0, 4.0), (-3.0, 1.0, -4.0), (0.75, 0.25, 4.0)])
def test_the_logarithm_of_ratings_by_their_scale(
    spark: SparkSession, value: float, scale: float, expected: float
) -> None:
    events = spark.createDataFrame([("u", "i", "e", value, NEWEST, "a")], SCHEMA)
    found = pairs_of(events, rule(log_scaling=True, log_scale=scale))
    assert found["u", "i"] == pytest.approx(math.copysign(math.log(abs(expected)), value), rel=1e-15)


def some_events(n: int) -> list[Event]:
    """Events of a few pairs, some at the same time, some without one."""
    rng = np.random.default_rng(5)
    rows: list[Event] = []
    for number in range(n):
        age = 90 * rng.random() if number % 4 else float(rng.integers(0, 3))
        time = None if number % 17 == 3 else days(age)
        kind = str(rng.choice(["play", "like", "skip"]))
        value = float(rng.lognormal())
        rows.append((f"u{rng.integers(4)}", f"i{rng.integers(3)}", kind, value, time, f"{number:04d}"))
    rows.append(("u0", "i0", "play", 1.0, NEWEST, "newest"))
    return rows


def by_hand(rows: list[Event], of: PairRule) -> dict[tuple[str, str], float]:
    """The same from the definition, in plain Python."""
    newest = max(row[4] for row in rows if row[4] is not None)
    found: dict[tuple[str, str], list[tuple[Any, float]]] = {}
    for user, item, kind, value, time, event_id in rows:
        weight = of.event_weights.get(kind, 1.0) * value
        half_life = of.half_life_days.get(kind) if isinstance(of.half_life_days, dict) else of.half_life_days
        if half_life is not None and time is not None:
            weight *= 0.5 ** ((newest - time) / timedelta(days=1) / half_life)
        order = (time is not None, time or NEWEST, event_id)
        found.setdefault((user, item), []).append((order, weight))
    ratings = {}
    for pair, events in found.items():
        weights = [weight for _, weight in events]
        r = {
            "sum": math.fsum(weights),
            "mean": math.fsum(weights) / len(weights),
            "max": max(weights),
            "last": max(events)[1],
            "count": float(len(weights)),
        }[of.combine]
        ratings[pair] = math.copysign(math.log(1 + abs(r) / of.log_scale), r) if of.log_scaling else r
    return ratings


@pytest.mark.parametrize("half_life", [None, 7.3, {"play": 30.0, "like": 2.2}], ids=["none", "one", "by_type"])
@pytest.mark.parametrize("combine", ["sum", "mean", "max", "last", "count"])
def test_ratings_are_those_of_the_definition(spark: SparkSession, combine: str, half_life: Any) -> None:
    rows = some_events(300)
    events = spark.createDataFrame(rows, SCHEMA)
    for log_scaling, log_scale in ((False, 1.0), (True, 1.0), (True, 0.04)):
        of = rule(
            combine,
            event_weights={"like": 2.5, "skip": -0.7},
            half_life_days=half_life,
            log_scaling=log_scaling,
            log_scale=log_scale,
        )
        found, expected = pairs_of(events, of), by_hand(rows, of)
        assert found.keys() == expected.keys()
        for pair, value in expected.items():
            # Sums of weights of either sign are as exact as their terms, of which none is larger than 30.
            assert found[pair] == pytest.approx(value, rel=TOLERANCE, abs=100 * TOLERANCE / log_scale), (pair, of)


@pytest.mark.parametrize("half_life", [7.3, {"play": 30.0, "like": 2.2}], ids=["one", "by_type"])
def test_decayed_ratings_are_the_same_bits_whatever_the_order_of_rows(spark: SparkSession, half_life: Any) -> None:
    rows = some_events(400)
    decayed = rule("sum", event_weights={"skip": -0.7}, half_life_days=half_life, log_scaling=True, log_scale=0.1)
    expected = pairs_of(spark.createDataFrame(rows, SCHEMA), decayed)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        events = spark.createDataFrame([rows[place] for place in order], SCHEMA)
        assert pairs_of(events.repartition(1 + 2 * seed, F.rand(seed)), decayed) == expected
    codegen = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "CODEGEN_ONLY"}
    before = {name: str(spark.conf.get(name)) for name in codegen}
    try:
        for name, value in codegen.items():
            spark.conf.set(name, value)
        assert pairs_of(spark.createDataFrame(rows, SCHEMA).repartition(2), decayed) == expected
    finally:
        for name, old in before.items():
            spark.conf.set(name, old)


def test_a_half_life_without_times_is_refused_and_without_events_is_none(spark: SparkSession) -> None:
    timeless = spark.createDataFrame([("u", "i", "e", 1.0, None, "a")], SCHEMA)
    with pytest.raises(ConfigError, match=r"half_life_days.*events\.columns\.event_time"):
        combine_pairs(timeless, rule(half_life_days=1.0))
    assert pairs_of(timeless, rule()) == {("u", "i"): 1.0}
    assert pairs_of(timeless.limit(0), rule(half_life_days=1.0)) == {}
