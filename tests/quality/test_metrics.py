"""The state of a batch as Spark measures it, beside one counted by pandas; and faults that the row rules find."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.config.settings import EventSettings, GateSettings, RowRule, ValidateSettings
from factorlake.quality.gate import judge_batch
from factorlake.quality.metrics import BatchMetrics, measure
from factorlake.quality.rules import judge_rows, reason_names
from factorlake.quality.states import BatchState, IdCounts, merged
from tests.reference.log_days import clean_day, state_of
from tests.reference.xxh64 import xxh64

pytestmark = pytest.mark.spark

COLUMNS = (
    "user_id string, item_id string, event_type string, value double, event_time timestamp, verdict string, "
    "reasons array<string>"
)


def measured(spark: SparkSession, day: pd.DataFrame) -> BatchMetrics:
    """What Spark measures of a day, when even users and items are known."""
    rows = day.assign(user_id="u" + day["user"].astype(str), item_id="i" + day["item"].astype(str), event_type="play")
    rows["event_time"] = pd.to_datetime(rows["time"], unit="us", utc=True)
    rows["reasons"] = [["odd"] if verdict == "quarantined" else [] for verdict in rows["verdict"]]
    names = [column.split()[0] for column in COLUMNS.split(", ")]
    records = spark.createDataFrame(rows[names], COLUMNS)
    ids = {
        side: records.filter("verdict = 'accepted'")
        .groupBy(F.col(f"{side}_id").alias("id"))
        .agg(F.count("*").alias("events"))
        .withColumn("known", F.substring("id", 2, 9).cast("int") % 2 == 0)
        for side in ("user", "item")
    }
    return measure(records, ["never", "odd"], ids)


def counted(day: pd.DataFrame) -> BatchState:
    """The same by pandas, with Spark's hash of ids written from its specification."""
    even = set(range(0, 100_000, 2))
    state = state_of(day, even, even)
    events = day[day["verdict"] == "accepted"]
    ids = {}
    for side, letter in (("user", "u"), ("item", "i")):
        buckets: dict[int, int] = {}
        for number, count in events[side].value_counts().items():
            bucket = xxh64(f"{letter}{number}".encode(), 42) % 256
            buckets[bucket] = buckets.get(bucket, 0) + int(count)
        ids[side] = IdCounts(state.ids[side].new_events, buckets)
    nulls = {"user_id": 0, "item_id": 0, "event_type": 0, **state.nulls, "event_time": 0}
    return replace(state, ids=ids, nulls=nulls, reasons={"never": 0, "odd": state.counts["quarantined"]})


def agrees(found: BatchState, expected: BatchState) -> None:
    assert replace(found, value=expected.value) == expected
    # Spark and NumPy sum in other orders.
    assert (found.value.n, found.value.min, found.value.max) == (
        expected.value.n,
        expected.value.min,
        expected.value.max,
    )
    assert found.value.mean == pytest.approx(expected.value.mean, rel=1e-9)
    assert found.value.m2 == pytest.approx(expected.value.m2, rel=1e-9)


def test_spark_measures_a_batch_as_pandas_counts_it_and_two_halves_merge_to_it(spark: SparkSession) -> None:
    day = clean_day(6, 3, 1_500)
    day.loc[day.index[:4], "value"] = [0.0, -2.5, 1e-300, 3.4e38]
    whole = measured(spark, day)
    expected = counted(day.assign(value=day["value"].abs().clip(lower=1.0)))
    # The oracle's logarithm knows positive values alone; these four buckets are worked by hand.
    plain = counted(day.iloc[4:])
    values = dict(plain.values)
    for row, bucket in ((0, 0), (1, -(round(16 * 1.3219280948873624) + 2033)), (2, 0), (3, 16 * 128 + 2033)):
        if day["verdict"].iloc[row] == "accepted":
            values[bucket] = values.get(bucket, 0) + 1
    accepted = day.loc[day["verdict"] == "accepted", "value"]
    assert whole.state.values == values
    assert (whole.state.value.min, whole.state.value.max) == (accepted.min(), accepted.max())
    assert (whole.state.counts, whole.state.ids, whole.state.days) == (expected.counts, expected.ids, expected.days)
    events = day[day["verdict"] == "accepted"]
    assert (whole.users, whole.items) == (events["user"].nunique(), events["item"].nunique())
    assert whole.counts["rows"] == len(day)

    rest = day.iloc[4:]
    halves = [measured(spark, half).state for _, half in rest.groupby(rest["user"] % 3 == 0)]
    agrees(merged(halves), plain)
    nothing = measured(spark, day.head(0))
    assert (nothing.counts["rows"], nothing.users, nothing.state.values) == (0, 0, {})
    assert nothing.null_shares == dict.fromkeys(plain.nulls, 0.0)


N = 10_000
RATES = (0.0001, 0.01, 0.5)
GOOD = {"user": "u", "item": "i", "value": "3", "at": "2024-05-01T10:00:00Z", "agent": "web"}
FAULTS: dict[str, tuple[str, str | None, str]] = {
    "ids that are gone": ("user", None, "missing_user_id"),
    "item ids of white space": ("item", " \t", "missing_item_id"),
    "words for numbers": ("value", "n/a", "value_not_a_number"),
    "values in another unit": ("value", "300", "value_out_of_range"),
    "seconds read as milliseconds": ("at", "1970-01-20T20:22:30Z", "impossible_time"),
    "times in another format": ("at", "05/01/2024 10:00", "unreadable_time"),
    "robots": ("agent", "crawl-bot/1.0", "robots"),
    "damaged bytes": ("defect", "wrong_encoding", "broken_record"),
}
EVENTS = EventSettings.model_validate(
    {
        "columns": {"user_id": "user", "item_id": "item", "value": "value", "event_time": "at"},
        "value_range": (0, 5),
    }
)
RULES = ValidateSettings(
    rules=[RowRule.model_validate({"name": "robots", "type": "not_matches", "column": "agent", "pattern": "bot"})]
)


def damaged_days(spark: SparkSession) -> DataFrame:
    """A day of good records for each fault and rate; exactly the rate's share of each is damaged."""
    cases = [(kind, rate) for kind in FAULTS for rate in RATES]
    days = spark.range(N * len(cases)).select(
        F.floor(F.col("id") / N).cast("int").alias("day"),
        # 7,919 is prime: every row of a day has a number of its own under N.
        F.pmod(F.col("id") * 7_919, F.lit(N)).alias("number"),
    )

    def field(name: str, usual: Column) -> Column:
        for at, (kind, rate) in enumerate(cases):
            column, text, _ = FAULTS[kind]
            if column == name:
                hit = (F.col("day") == at) & (F.col("number") < round(rate * N))
                usual = F.when(hit, F.lit(text)).otherwise(usual)
        return usual

    fields = [part for name, text in GOOD.items() for part in (F.lit(name), field(name, F.lit(text)))]
    return days.withColumns({"fields": F.create_map(*fields), "defect": field("defect", F.lit(None).cast("string"))})


def test_row_rules_find_every_damaged_record_at_any_rate_and_the_gate_a_day_of_them(spark: SparkSession) -> None:
    reasons = reason_names(RULES)
    rows = (
        judge_rows(damaged_days(spark), EVENTS, RULES)
        .groupBy("day")
        .agg(
            F.count_if(F.size("reasons") > 0).alias("refused"),
            *(F.count_if(F.array_contains("reasons", reason)).alias(reason) for reason in reasons),
        )
        .collect()
    )
    of_day = {row["day"]: row for row in rows}
    past = [BatchState({"rows": N, "quarantined": 5 + at, "accepted": N - 5 - at}) for at in range(9)]
    for at, (kind, rate) in enumerate((kind, rate) for kind in FAULTS for rate in RATES):
        hits, expected = round(rate * N), FAULTS[kind][2]
        found = {reason: of_day[at][reason] for reason in reasons if of_day[at][reason]}
        assert (of_day[at]["refused"], found) == (hits, {expected: hits}), (kind, rate)
        state = BatchState({"rows": N, "quarantined": hits, "accepted": N - hits})
        # A few bad records go to quarantine; of a day that is half bad nothing goes in.
        assert judge_batch(state, past, GateSettings()).passed is (rate < 0.05)
