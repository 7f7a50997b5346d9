"""Row rules: each reason with a worked example; all of a row's reasons at once; settings that cannot work."""

from __future__ import annotations

import re
import timeit
from datetime import UTC, datetime
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.config.settings import EventSettings, RowRule, ValidateSettings
from factorlake.errors import ConfigError
from factorlake.quality.rules import check_rules, judge_rows, reason_names, rules_hash
from factorlake.texts import NUMBER

pytestmark = pytest.mark.spark

GOOD = {"user": "u", "item": "i", "kind": "play", "value": "1", "at": "2024-05-01T10:00:00Z", "note": "n"}
EVENTS = EventSettings.model_validate(
    {
        "columns": {
            "user_id": "user",
            "item_id": "item",
            "event_type": "kind",
            "value": "value",
            "event_time": "at",
        },
        "types": ["play", "like"],
        "value_range": (0, 100),
        "latest": "2030-01-01T00:00:00Z",
    }
)


def rule(name: str, kind: str, **arguments: Any) -> RowRule:
    return RowRule.model_validate({"name": name, "type": kind, **arguments})


RULES = ValidateSettings(
    rules=[
        rule("no_note", "required", column="note"),
        rule("bot", "not_matches", column="note", pattern="(?i)bot$"),
        rule("shape", "matches", column="item", pattern="^[a-z0-9]+$"),
        rule("banned", "not_one_of", column="user_id", values=["eve", "mallory"]),
        rule("place", "one_of", column="place", values=["DE", "FR"]),
        rule("price", "range", column="price", above=0, max=10),
        rule("late", "range", column="event_time", max="2029-01-01"),
        rule("long_note", "max_length", column="note", length=20),
        rule("odd", "sql", condition="not (user_id = 'odd' and value > 5)"),
    ]
)

EXAMPLES: list[tuple[dict[str, str | None], list[str]]] = [
    ({}, []),
    ({"user": None}, ["missing_user_id"]),
    ({"user": " \t\u00a0"}, ["missing_user_id"]),
    ({"item": ""}, ["missing_item_id"]),
    ({"place": "", "note": " "}, ["no_note"]),
    ({"user": "x" * 1024}, []),
    ({"user": "x" * 1025}, ["id_too_long"]),
    ({"kind": "hover"}, ["unknown_event_type"]),
    ({"kind": None}, ["unknown_event_type"]),
    ({"value": "five"}, ["value_not_a_number"]),
    ({"value": "5d"}, ["value_not_a_number"]),
    ({"value": "0x10"}, ["value_not_a_number"]),
    ({"value": "1,5"}, ["value_not_a_number"]),
    ({"value": ""}, ["missing_value"]),
    ({"value": "NaN"}, ["value_not_finite"]),
    ({"value": "-nan"}, ["value_not_finite"]),
    ({"value": "-Infinity"}, ["value_not_finite"]),
    ({"value": "1e309"}, ["value_not_finite"]),
    # No float32 holds it, and models are made of those.
    ({"value": "1e39"}, ["value_not_finite"]),
    ({"value": "1e2"}, []),
    ({"value": " +7 "}, []),
    ({"value": "101"}, ["value_out_of_range"]),
    ({"value": "-0.5"}, ["value_out_of_range"]),
    ({"at": None}, ["missing_time"]),
    ({"at": "soon"}, ["unreadable_time"]),
    ({"at": "2024-02-30T00:00:00Z"}, ["unreadable_time"]),
    ({"at": "12:30"}, ["unreadable_time"]),
    ({"at": "2024"}, ["unreadable_time"]),
    ({"at": "2024-05-01 10:00:00"}, ["time_without_zone"]),
    ({"at": "2023-02-29"}, ["unreadable_time"]),
    ({"at": "2023-02-28"}, ["time_without_zone"]),
    ({"at": "2024-05-01 10:00:00+02:00"}, []),
    ({"at": "2024-05-01T10:00:00.123456Z"}, []),
    ({"at": "1970-01-01T00:00:00Z"}, ["impossible_time"]),
    ({"at": "2099-01-01T00:00:00Z"}, ["impossible_time", "late"]),
    ({"at": "2029-06-01T00:00:00Z"}, ["late"]),
    ({"note": " "}, ["no_note"]),
    ({"note": None}, ["no_note"]),
    ({"note": "Crawl-BOT"}, ["bot"]),
    ({"note": "a bottle"}, []),
    ({"item": "abc\n"}, ["shape"]),
    ({"user": "eve"}, ["banned"]),
    ({"place": "US"}, ["place"]),
    ({"place": "FR"}, []),
    ({"price": "0"}, ["price"]),
    ({"price": "free"}, ["price"]),
    ({"price": "NaN"}, ["price"]),
    ({"price": "10"}, []),
    ({"note": "x" * 21}, ["long_note"]),
    ({"user": "odd", "value": "6"}, ["odd"]),
    ({"user": "odd", "value": "five"}, ["odd", "value_not_a_number"]),
    (
        {"user": "", "value": "five", "at": "x"},
        ["missing_user_id", "odd", "unreadable_time", "value_not_a_number"],
    ),
]


Rows = list[tuple[dict[str, str | None] | None, str | None]]


def raw_frame(spark: SparkSession, rows: Rows) -> DataFrame:
    return spark.createDataFrame(
        [(n, fields, defect) for n, (fields, defect) in enumerate(rows)],
        "n int, fields map<string,string>, defect string",
    )


def reasons(
    spark: SparkSession, rows: Rows, events: EventSettings = EVENTS, validation: ValidateSettings = RULES
) -> list[list[str]]:
    judged = judge_rows(raw_frame(spark, rows), events, validation)
    return [row["reasons"] for row in judged.orderBy("n").select("reasons").collect()]


@pytest.mark.parametrize("ansi", ["true", "false"])
def test_each_row_has_exactly_the_reasons_it_deserves(spark: SparkSession, ansi: str) -> None:
    before = spark.conf.get("spark.sql.ansi.enabled") or "true"
    spark.conf.set("spark.sql.ansi.enabled", ansi)
    try:
        found = reasons(spark, [({**GOOD, **change}, None) for change, _ in EXAMPLES])
    finally:
        spark.conf.set("spark.sql.ansi.enabled", before)
    # An unknown user is neither odd nor not odd: SQL's null is not true, and the sql rule refuses what is not
    # true.
    assert list(zip([change for change, _ in EXAMPLES], found, strict=True)) == EXAMPLES


def test_broken_record_without_fields_has_that_reason_alone(spark: SparkSession) -> None:
    rows: Rows = [(None, "broken_json"), ({**GOOD}, "wrong_encoding")]
    assert reasons(spark, rows) == [["broken_record"], ["broken_record"]]


def test_ids_are_read_as_the_settings_say(spark: SparkSession) -> None:
    texts = ["17850.0", " 17850 ", "17850.50", "a.0", "-3.00", "007", "NaN"]
    frame = raw_frame(spark, [({**GOOD, "user": text}, None) for text in texts])

    def ids(**settings: Any) -> list[str | None]:
        events = EVENTS.model_copy(update=settings)
        return [row[0] for row in judge_rows(frame, events, RULES).orderBy("n").select("user_id").collect()]

    assert ids(integral_float_ids=True) == ["17850", "17850", "17850.50", "a.0", "-3", "007", None]
    assert ids() == ["17850.0", "17850", "17850.50", "a.0", "-3.00", "007", "NaN"]
    assert ids(trim_ids=False) == texts


def test_of_several_columns_the_first_with_a_value_is_read(spark: SparkSession) -> None:
    columns = {"user_id": ["user", "account"], "item_id": "item", "value": ["stars", "value"]}
    events = EventSettings.model_validate({"columns": {**columns, "event_time": ["at", "day"]}})
    rows: Rows = [
        ({**GOOD, "account": "a", "stars": "4"}, None),
        ({**GOOD, "user": " \t", "account": "a", "at": None, "day": "2024-06-01T00:00:00Z"}, None),
        # A value that is there but wrong is the record's answer: another column does not mend it.
        ({**GOOD, "stars": "five"}, None),
        ({**GOOD, "user": None, "value": ""}, None),
    ]
    judged = judge_rows(raw_frame(spark, rows), events, ValidateSettings()).orderBy("n")
    found = judged.select("user_id", "value", F.dayofyear("event_time"), "reasons").collect()
    assert [tuple(row) for row in found] == [
        ("u", 4.0, 122, []),
        ("a", 1.0, 153, []),
        ("u", None, 122, ["value_not_a_number"]),
        (None, None, 122, ["missing_user_id", "missing_value"]),
    ]


@pytest.mark.parametrize(
    ("formats", "zone", "text", "moment"),
    [
        (["iso"], "Europe/London", "2011-07-01 12:00:00", datetime(2011, 7, 1, 11, tzinfo=UTC)),
        (["iso"], "Europe/London", "2011-07-01T12:00:00Z", datetime(2011, 7, 1, 12, tzinfo=UTC)),
        (["iso"], None, "2011-07-01 12:00:00.5-03:30", datetime(2011, 7, 1, 15, 30, 0, 500_000, UTC)),
        (["epoch_s"], None, "1309521600.25", datetime(2011, 7, 1, 12, 0, 0, 250_000, UTC)),
        (["epoch_ms"], None, "1309521600001", datetime(2011, 7, 1, 12, 0, 0, 1000, UTC)),
        (["dd/MM/yyyy HH:mm", "iso"], "UTC", "01/07/2011 12:00", datetime(2011, 7, 1, 12, tzinfo=UTC)),
        (["dd/MM/yyyy HH:mm", "iso"], "UTC", "2011-07-01", datetime(2011, 7, 1, tzinfo=UTC)),
        (["yyyyMMdd HHmm XXX"], None, "20110701 1200 +02:00", datetime(2011, 7, 1, 10, tzinfo=UTC)),
        (["epoch_s"], None, "99999999999999999999", None),
    ],
)
def test_times_are_read_by_format_and_zone(
    spark: SparkSession, formats: list[str], zone: str | None, text: str, moment: datetime | None
) -> None:
    events = EVENTS.model_copy(update={"time_formats": formats, "zone": zone})
    judged = judge_rows(raw_frame(spark, [({**GOOD, "at": text}, None)]), events, ValidateSettings())
    ((micros,),) = judged.select(F.unix_micros("event_time")).collect()
    assert micros == (None if moment is None else round(moment.timestamp() * 1_000_000))


@pytest.mark.parametrize(
    ("rules", "events", "named"),
    [
        ([rule("missing_time", "required", column="x")], {}, "taken"),
        ([rule("accepted", "required", column="x")], {}, "taken"),
        ([rule("a", "required", column="x"), rule("a", "required", column="y")], {}, "taken"),
        ([rule("a", "matches", column="x", pattern="[")], {}, "'a'"),
        ([rule("a", "sql", condition="java_method('x') = 1")], {}, "java_method"),
        ([rule("a", "sql", condition="user_id rlike '['")], {}, "'a'"),
        ([rule("a", "range", column="value", min="low")], {}, "numbers"),
        ([rule("a", "range", column="event_time", min="01/02/2020")], {}, "'a'"),
        ([rule("a", "one_of", column="value", values=["x"])], {}, "numbers"),
        ([], {"time_formats": ["yyyy-MM-dd HH:mm:ss"]}, "events.zone"),
        ([], {"time_formats": ["qqqq nonsense"], "zone": "UTC"}, "nonsense"),
        ([], {"zone": "Mars/Olympus"}, "Mars/Olympus"),
        ([], {"time_formats": ["yyyy-MM-dd HH:mm:ss[XXX]"], "zone": "UTC"}, "give two formats"),
        ([], {"latest": "tomorrow"}, "tomorrow"),
        ([], {"event_key": ["user"]}, "event_key"),
    ],
)
def test_settings_that_cannot_work_are_told_before_data_is_read(
    spark: SparkSession, rules: list[RowRule], events: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=r".") as caught:
        check_rules(spark, EVENTS.model_copy(update=events), ValidateSettings(rules=rules))
    assert named in str(caught.value)


def test_settings_that_work_pass(spark: SparkSession) -> None:
    check_rules(spark, EVENTS, RULES)
    assert reason_names(RULES) == sorted(reason_names(RULES))


def test_rules_hash_changes_with_what_decides_and_with_nothing_else() -> None:
    same = rules_hash(EVENTS, RULES)
    assert rules_hash(EVENTS, RULES.model_copy(update={"data_docs": True})) == same
    assert rules_hash(EVENTS, ValidateSettings()) != same
    assert rules_hash(EVENTS.model_copy(update={"trim_ids": False}), RULES) != same


def test_a_time_before_all_calendars_is_refused_without_an_earliest_time_too(spark: SparkSession) -> None:
    events = EVENTS.model_copy(update={"time_formats": ["epoch_s"], "earliest": None})
    judged = judge_rows(raw_frame(spark, [({**GOOD, "at": "-99999999999"}, None)]), events, ValidateSettings())
    assert judged.select("reasons").collect()[0][0] == ["impossible_time"]


def test_a_number_is_told_from_a_long_field_in_time_linear_in_its_length() -> None:
    # Python's engine tries as Spark's does. What takes a second for quadratic trying is over at once.
    pattern = re.compile(NUMBER)
    assert [bool(pattern.fullmatch(text)) for text in ("1", "1.", "1.5", ".5", "+1e5", "-.5E-3")] == [True] * 6
    assert [bool(pattern.fullmatch(text)) for text in ("", ".", "1d", "1.5.2", "e5", "1e")] == [False] * 6

    def seconds(n: int) -> float:
        return min(timeit.repeat(lambda: pattern.fullmatch("1" * n + "x"), number=3))

    short, long = seconds(10_000), seconds(100_000)
    # Ten times as long takes ten times as long; a hundred times would be quadratic.
    assert long < 40 * short
