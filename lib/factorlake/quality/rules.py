"""Row rules: which reasons a record has to be refused, all of them."""

from __future__ import annotations

import hashlib
import json

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.config.settings import EventSettings, RowRule, ValidateSettings
from factorlake.errors import ConfigError
from factorlake.quality.conditions import MAPPED, anchored, compile_condition
from factorlake.quality.mapping import (
    FIRST_TIME,
    LAST_TIME,
    TEXT,
    is_given,
    lacks_zone,
    map_events,
    raw_text,
    read_number,
    stripped,
    time_probes,
    try_columns,
)
from factorlake.quality.metrics import COUNTS

MAX_ID_LENGTH = 1024
# The greatest float32.
LARGEST = float(2**128 - 2**104)

BUILT_IN = (
    "broken_record",
    "id_too_long",
    "impossible_time",
    "missing_item_id",
    "missing_time",
    "missing_user_id",
    "missing_value",
    "time_without_zone",
    "unknown_event_type",
    "unreadable_time",
    "value_not_a_number",
    "value_not_finite",
    "value_out_of_range",
)


def rules_hash(events: EventSettings, validation: ValidateSettings) -> str:
    """Return a hash of everything that decides whether and how a record is accepted: of what differs from the defaults,
    so that a setting that a later release adds changes nothing by being there."""
    told = [events, *validation.rules]
    decisive = [one.model_dump(mode="json", exclude_defaults=True) for one in told]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def check_rules(spark: SparkSession, events: EventSettings, validation: ValidateSettings) -> None:
    """Raise ConfigError for a rule that cannot work, before any data is read.

    That is: two rules of one name, a name that a built-in reason or figure has, a pattern that is no regular
    expression, a bound or choice of the wrong type, a condition outside the language, a time format without a
    zone.
    """
    probes = time_probes(events)
    names = [rule.name for rule in validation.rules]
    for name in names:
        if name in (*BUILT_IN, *COUNTS) or names.count(name) > 1:
            raise ConfigError(f"rule {name!r}: this name is taken; choose another")
    for key in events.event_key:
        if key not in MAPPED:
            raise ConfigError(f"`events.event_key` has {key!r}; it can hold {', '.join(MAPPED)}")
    for rule in validation.rules:
        broken = _breaks(rule)
        # On the probe's one empty event Spark never looks at a pattern: each is tried on a text of its own.
        tried = [F.lit("").rlike(anchored(rule.pattern))] if rule.pattern is not None else []
        if rule.type == "sql":
            patterns = compile_condition(rule.condition or "", rule.name).patterns
            tried += [F.lit("").rlike(pattern) for pattern in patterns]
        if rule.type == "range" and rule.column == "event_time":
            # A bound that is no time would be null, and the rule would refuse nothing.
            tried += [F.lit(str(bound)).cast("timestamp") for bound in (rule.min, rule.max) if bound is not None]
        if tried or rule.type == "sql":
            probes += [(column, f"rule {rule.name!r} cannot be used") for column in (broken, *tried)]
    try_columns(_blank_event(spark), probes)


def judge_rows(raw: DataFrame, events: EventSettings, validation: ValidateSettings) -> DataFrame:
    """Return ``raw`` with the mapped columns and ``reasons``: the names of all rules a record breaks, sorted.

    A record without reasons is acceptable. Absent and null are the same. Every rule is judged on every record
    that could be split into fields, so that mending one fault shows no second one.
    """
    conditions = {**_built_in(events), **{rule.name: _breaks(rule) for rule in validation.rules}}
    whole = F.col("fields").isNotNull()
    reasons = [
        F.when(F.coalesce(condition if name == "broken_record" else whole & condition, F.lit(False)), F.lit(name))
        for name, condition in sorted(conditions.items())
    ]
    judged = map_events(raw, events).withColumn("reasons", F.array_compact(F.array(*reasons)))
    return judged.drop(*(name + TEXT for name in MAPPED))


def reason_names(validation: ValidateSettings) -> list[str]:
    """Return every reason a record can have, sorted."""
    return sorted({*BUILT_IN, *(rule.name for rule in validation.rules)})


def _built_in(events: EventSettings) -> dict[str, Column]:
    columns = events.columns
    value, time = F.col("value"), F.col("event_time")
    conditions = {
        "broken_record": F.col("defect").isNotNull(),
        "missing_user_id": F.col("user_id").isNull(),
        "missing_item_id": F.col("item_id").isNull(),
        "id_too_long": (F.length("user_id") > MAX_ID_LENGTH) | (F.length("item_id") > MAX_ID_LENGTH),
    }
    if columns.event_type:
        known = F.col("event_type").isin(events.types) if events.types else F.lit(True)
        conditions["unknown_event_type"] = F.col("event_type").isNull() | ~known
    if columns.value:
        given = F.col("value" + TEXT).isNotNull()
        # Models hold ratings as float32.
        finite = value.isNotNull() & ~F.isnan(value) & (F.abs(value) <= LARGEST)
        conditions["missing_value"] = ~given
        conditions["value_not_a_number"] = given & value.isNull()
        conditions["value_not_finite"] = value.isNotNull() & ~finite
        low, high = events.value_range
        if low is not None or high is not None:
            conditions["value_out_of_range"] = finite & ~_within(value, low, high)
    if columns.event_time:
        text = F.col("event_time" + TEXT)
        zoneless = time.isNull() & lacks_zone(text, events.time_formats, events.zone)
        conditions["missing_time"] = text.isNull()
        conditions["time_without_zone"] = zoneless
        conditions["unreadable_time"] = text.isNotNull() & time.isNull() & ~zoneless
        first = F.lit(events.earliest or FIRST_TIME).cast("timestamp")
        last = F.lit(events.latest or LAST_TIME).cast("timestamp")
        conditions["impossible_time"] = (time > last) | (time < first)
    return conditions


def _within(column: Column, low: Column | float | None, high: Column | float | None) -> Column:
    inside = F.lit(True)
    if low is not None:
        inside = inside & (column >= low)
    if high is not None:
        inside = inside & (column <= high)
    return inside


def _breaks(rule: RowRule) -> Column:
    """Return where a record breaks ``rule``; null and false both mean that it does not."""
    if rule.type == "sql":
        # Null is not true, so the row is refused there too.
        return ~F.coalesce(F.expr(compile_condition(rule.condition or "", rule.name).sql), F.lit(False))
    name = rule.column or ""
    column = F.col(name) if name in MAPPED else raw_text(name)
    text = column.cast("string") if name in MAPPED else column
    given = is_given(text)
    if rule.type == "required":
        return ~given
    if rule.type == "max_length":
        return F.length(text) > (rule.length or 0)
    if rule.type == "range":
        return given & _outside(rule, name, column)
    found = (
        _is_one_of(rule, name, column)
        if rule.type in ("one_of", "not_one_of")
        else text.rlike(anchored(rule.pattern or ""))
    )
    return given & (~found if rule.type in ("one_of", "matches") else found)


def _outside(rule: RowRule, name: str, column: Column) -> Column:
    if name == "event_time":
        if rule.above is not None:
            raise ConfigError(f"rule {rule.name!r}: `above` is for numbers; use `min` and `max` with times")
        low, high = (None if bound is None else F.try_to_timestamp(F.lit(str(bound))) for bound in (rule.min, rule.max))
        return ~_within(column, low, high)
    try:
        low_number, high_number = (None if bound is None else float(bound) for bound in (rule.min, rule.max))
    except ValueError:
        raise ConfigError(f"rule {rule.name!r}: `min` and `max` must be numbers for {name!r}") from None
    number = column if name == "value" else read_number(stripped(column))
    inside = _within(number, low_number, high_number)
    if rule.above is not None:
        inside = inside & (number > rule.above)
    # NaN is greater than any number to Spark; text that is no number is within no range.
    return number.isNull() | F.isnan(number) | ~inside


def _is_one_of(rule: RowRule, name: str, column: Column) -> Column:
    if name == "event_time":
        raise ConfigError(f"rule {rule.name!r}: {rule.type} is not for times; use range")
    if name != "value":
        return column.isin(rule.values)
    try:
        return column.isin([float(value) for value in rule.values])
    except ValueError:
        raise ConfigError(f"rule {rule.name!r}: `values` must be numbers for the column value") from None


def _blank_event(spark: SparkSession) -> DataFrame:
    kinds = {"text": "string", "number": "double", "time": "timestamp"}
    return spark.range(1).select(
        F.expr("map('', '')").alias("fields"),
        *(F.lit(None).cast(kinds[kind]).alias(name) for name, kind in MAPPED.items()),
    )
