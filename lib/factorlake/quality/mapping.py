"""Raw fields to the five columns of an event, as Spark columns that never fail on a value."""

from __future__ import annotations

import re

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.config.settings import EventSettings
from factorlake.errors import ConfigError
from factorlake.quality.conditions import MAPPED
from factorlake.texts import NUMBER, WHITE_SPACE

NOT_FINITE = r"(?i)\A[+-]?(nan|inf|infinity)\z"
ISO_TIME = r"\A\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?( ?(Z|UTC|GMT|[+-]\d{2}(:?\d{2})?))?)?\z"
WITH_ZONE = r"\A.{11,}(Z|UTC|GMT|[+-]\d{2}(:?\d{2})?)\z"
# Of a pattern of times, outside quotes.
ZONE_LETTERS = "[XxZzVO]"
EPOCH = r"\A-?\d{1,15}(\.\d{1,9})?\z"
# Python's datetime begins and ends here, and with it all that reads the tables through Python. A day is left for zones.
FIRST_TIME = "0001-01-02T00:00:00Z"
LAST_TIME = "9999-12-31T00:00:00Z"
TEXT = "_text"


def raw_text(name: str) -> Column:
    """Return the raw field ``name`` as text; null where a record has none."""
    return F.try_element_at("fields", F.lit(name))


def stripped(text: Column) -> Column:
    """Return ``text`` without white space around it, null where nothing else is in it."""
    bare = _bare(text)
    return F.when(bare != "", bare)


def is_given(text: Column) -> Column:
    """Whether there is more in ``text`` than white space; never null."""
    return F.coalesce(_bare(text) != "", F.lit(False))


def with_texts(records: DataFrame, texts: dict[str, list[str]]) -> DataFrame:
    """Add a column for each name: of its raw fields the first that holds more than white space, stripped; else null.

    Spark computes an expression anew wherever it is used, and keeps a step to itself where the next one uses it more
    than once: so each field is stripped once, however many rules look at it.
    """
    fields = dict.fromkeys(field for of_name in texts.values() for field in of_name)
    bare = {field: f"_bare_{at}" for at, field in enumerate(fields)}
    once = records.withColumns({name: _bare(raw_text(field)) for field, name in bare.items()})
    filled = {field: F.when(F.col(name) != "", F.col(name)) for field, name in bare.items()}
    chosen = {name: F.coalesce(*(filled[field] for field in of_name)) for name, of_name in texts.items()}
    return once.withColumns(chosen).drop(*bare.values())


def read_id(bare: Column, text: Column, events: EventSettings) -> Column:
    """Return an id, null where there is none, from a text and the same stripped. White space alone is none, whether
    ids are trimmed or not."""
    found = bare if events.trim_ids else F.when(bare.isNotNull(), text)
    if events.integral_float_ids:
        # In a column of floats an id that is missing is a NaN.
        found = F.when(~found.rlike(r"(?i)\A[+-]?nan\z"), F.regexp_replace(found, r"\A([+-]?\d+)\.0+\z", "$1"))
    return found


def read_number(bare: Column) -> Column:
    """Return the number a stripped text is, which may be infinite or NaN; null where it is none. Spark's cast alone
    takes 5d for 5."""
    # Spark knows no sign before nan.
    words = F.regexp_replace(F.lower(bare), r"\A[+-](?=nan)", "")
    is_number = bare.rlike(rf"\A{NUMBER}\z")
    return F.when(is_number, bare.try_cast("double")).when(bare.rlike(NOT_FINITE), words.try_cast("double"))


def read_time(bare: Column, formats: list[str], zone: str | None) -> Column:
    """Return the instant that the first fitting format reads in a stripped text, null where none fits. See
    `check_times` for zones."""
    return F.coalesce(*(_by_format(bare, form, zone) for form in formats))


def lacks_zone(bare: Column, formats: list[str], zone: str | None) -> Column:
    """Whether a stripped text could be read as a time if only a zone were known."""
    if zone is not None or "iso" not in formats:
        return F.lit(False)
    shaped = F.when(bare.rlike(ISO_TIME) & ~bare.rlike(WITH_ZONE), F.translate(bare, ",", "."))
    # The 30th of February is no time in any zone.
    return F.try_to_timestamp(shaped).isNotNull()


def map_events(raw: DataFrame, events: EventSettings) -> DataFrame:
    """Return rows of raw_events with user_id, item_id, event_type, value and event_time; null is unread. The stripped
    text each was read from is in the column of its name with `TEXT` behind it, if settings map it."""
    columns = events.columns
    mapped = {name: _names(getattr(columns, name)) for name in MAPPED if getattr(columns, name)}
    text = {name: F.col(name + TEXT) for name in mapped}
    return with_texts(raw, {name + TEXT: fields for name, fields in mapped.items()}).withColumns(
        {
            "user_id": read_id(text["user_id"], _first_given(mapped["user_id"]), events),
            "item_id": read_id(text["item_id"], _first_given(mapped["item_id"]), events),
            "event_type": text.get("event_type", F.lit(events.default_type)),
            "value": read_number(text["value"]) if "value" in text else F.lit(1.0),
            "event_time": read_time(text["event_time"], events.time_formats, events.zone)
            if "event_time" in text
            else F.lit(None).cast("timestamp"),
        }
    )


def check_times(spark: SparkSession, events: EventSettings) -> None:
    """Raise ConfigError when a format or a zone is none that Spark knows, or a format needs `events.zone`."""
    try_columns(spark.range(1), time_probes(events))


def time_probes(events: EventSettings) -> list[tuple[Column, str]]:
    """Return a column for each format, zone and bound of times, and what is wrong where Spark cannot compute it.

    Raises ConfigError for what is wrong without asking Spark.
    """
    if events.columns.event_time is None:
        return []
    if not events.time_formats:
        raise ConfigError("`events.time_formats` is empty: name at least one format, such as iso")
    unknown = "which Spark does not know"
    probes = []
    for form in events.time_formats:
        if form in ("iso", "epoch_s", "epoch_ms"):
            continue
        if re.search(rf"\[[^]]*{ZONE_LETTERS}", _unquoted(form)):
            raise ConfigError(
                f"the time format {form!r} has a zone that may be absent: give two formats, first the one with the "
                "zone, then the one without"
            )
        if events.zone is None and not _names_zone(form):
            raise ConfigError(
                f"the time format {form!r} holds no zone: set `events.zone`, such as Europe/London or UTC"
            )
        read = F.try_to_timestamp(F.lit("x"), F.lit(form))
        probes.append((read, f"`events.time_formats` has {form!r}, {unknown}"))
    if events.zone is not None:
        moved = F.to_utc_timestamp(F.lit("2000-01-01").cast("timestamp"), events.zone)
        probes.append((moved, f"`events.zone` is {events.zone!r}, {unknown}"))
    for name, text in (("earliest", events.earliest), ("latest", events.latest)):
        if text is not None and not re.match(r"\d{4}-\d{2}-\d{2}", text):
            raise ConfigError(f"`events.{name}` is {text!r}, which is no ISO 8601 time")
        if text is not None:
            probes.append((F.lit(text).cast("timestamp"), f"`events.{name}` is {text!r}, {unknown}"))
    return probes


def try_columns(row: DataFrame, probes: list[tuple[Column, str]]) -> None:
    """Compute every column on a frame of one row, in one query; ConfigError with the first one's fault and reason
    when one cannot be computed."""
    try:
        row.select(*(column for column, _ in probes)).collect()
    except PySparkException:
        for column, fault in probes:
            try:
                row.select(column).collect()
            except PySparkException as error:
                reason = (str(error).splitlines() or [""])[0][:200]
                raise ConfigError(f"{fault}: {reason}") from None
        raise


def _bare(text: Column) -> Column:
    return F.btrim(text, F.lit(WHITE_SPACE))


def _names(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else names


def _first_given(fields: list[str]) -> Column:
    texts = [raw_text(field) for field in fields]
    return F.coalesce(*(F.when(is_given(text), text) for text in texts)) if len(texts) > 1 else texts[0]


def _names_zone(pattern: str) -> bool:
    return re.search(ZONE_LETTERS, _unquoted(pattern)) is not None


def _unquoted(pattern: str) -> str:
    return re.sub(r"'[^']*'", "", pattern)


def _by_format(bare: Column, form: str, zone: str | None) -> Column:
    if form in ("epoch_s", "epoch_ms"):
        number = F.when(bare.rlike(EPOCH), bare.try_cast("decimal(28,9)"))
        micros = (number * (1_000_000 if form == "epoch_s" else 1000)).try_cast("bigint")
        return F.timestamp_micros(micros)
    if form == "iso":
        # Spark reads 12:30 as today at 12:30, and 2010 as its first day: only whole dates may pass.
        whole = F.when(bare.rlike(ISO_TIME), F.translate(bare, ",", "."))
        instant = F.try_to_timestamp(whole)
        if zone is None:
            return F.when(bare.rlike(WITH_ZONE), instant)
        return F.when(bare.rlike(WITH_ZONE), instant).otherwise(F.to_utc_timestamp(instant, zone))
    instant = F.try_to_timestamp(bare, F.lit(form))
    return instant if zone is None or _names_zone(form) else F.to_utc_timestamp(instant, zone)
