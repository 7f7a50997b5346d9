"""Attributes: names and properties of users and items. Reads files, or raw_events and interactions; writes
user_attributes and item_attributes.

Each table is rewritten as a whole, and only when its content changed, or where it comes from.
"""

from __future__ import annotations

import logging

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from factorlake.config.settings import AttributeSource
from factorlake.errors import NOTHING_TO_DO, ConfigError, DataRefusedError
from factorlake.pipelines.context import Context, JobResult
from factorlake.pipelines.ingest import check_columns
from factorlake.pipelines.pseudonyms import pseudonyms_of
from factorlake.quality.mapping import check_times, raw_text, read_id, read_time, stripped
from factorlake.spark.compat import keep, release
from factorlake.spark.files import list_files
from factorlake.spark.readers import inspect_files, read_records
from factorlake.tables import delta_io
from factorlake.tables.schemas import SCHEMAS

log = logging.getLogger(__name__)

TEXTS = ("name", "category", "segment")
TIMES = ("available_from", "available_to")
SOURCE = "source"
"""What a table's commit notes: where its attributes come from, which decides on what they may be features of."""
CONTENT = ("id", *TEXTS, *TIMES, "features")


def run(context: Context) -> JobResult:
    """Write the attributes of each side that the settings name; 99 when none is named or nothing changed.

    Raises
    ------
    ConfigError : the input of a side does not exist, or its `columns` do not fit its source.
    DataRefusedError : a file cannot be read or lacks a column, or, for the source `events`, nothing is
        accepted yet.
    """
    result = JobResult(NOTHING_TO_DO, "attributes are as they were")
    check_times(context.spark, context.settings.events)
    for side, source in (
        ("user", context.settings.attributes.users),
        ("item", context.settings.attributes.items),
    ):
        if source is None:
            continue
        context.progress(f"attributes of {side}s from {source.source}")
        read = _from_events if source.source == "events" else _from_files
        found = read(context, side, source, result)
        if found is None:
            context.progress(f"there are no files with attributes of {side}s")
            continue
        attributes = keep(found)
        try:
            _write(context, side, source.source, attributes, result)
        finally:
            release(attributes)
    return result


def _write(context: Context, side: str, source: str, attributes: DataFrame, result: JobResult) -> None:
    table = f"{side}_attributes"
    path = context.lake.shared(table)
    n_rows, content = _content_hash(attributes)
    result.counts[f"{side}s"] = n_rows
    if delta_io.exists(context.spark, path):
        result.versions[table] = delta_io.version(context.spark, path)
        noted = delta_io.last_details(context.spark, path).get(SOURCE)
        if noted == source and _content_hash(delta_io.read(context.spark, path)) == (n_rows, content):
            return
    rows = attributes.withColumn("run_id", F.lit(context.run_id))
    commit = context.overwrite(rows, path, SCHEMAS[table], details={SOURCE: source})
    result.exit_code, result.reason = 0, "done"
    result.versions[table] = commit.version
    log.info("%s rows=%d version=%d", table, n_rows, commit.version)


def _content_hash(frame: DataFrame) -> tuple[int, int]:
    """Return the number of rows and a hash of what they hold, whatever their order; of an empty frame (0,
    0)."""
    entries = F.array_sort(F.map_entries("features"))
    columns = [F.col(name) for name in CONTENT if name != "features"]
    # Null and absent must differ in the hash, which skips nulls: each column brings whether it is null.
    parts = [part for column in columns for part in (column.isNull(), column)]
    row_hash = F.xxhash64(*parts, F.to_json(entries)).cast("decimal(38,0)")
    row = frame.agg(F.count(F.lit(1)).alias("n"), F.coalesce(F.sum(row_hash), F.lit(0)).alias("hash")).first()
    return (int(row["n"]), int(row["hash"])) if row is not None else (0, 0)


def _from_files(context: Context, side: str, source: AttributeSource, result: JobResult) -> DataFrame | None:
    """Read a side's files; None where there are none and the source is optional.

    Of several rows of one id the last by path and position stays: no order of arrival has a say, and of daily exports
    whose names sort by date it is the newest.
    """
    setting = f"attributes.{side}s"
    path = source.input or ""
    if "{input}" in path:
        path = path.replace("{input}", context.settings.require_input().rstrip("/"))
    id_column = source.columns.get("id", "id")
    # The log's own format, delimiter and pattern need not be those of these files: their endings tell.
    own = {"format": "auto", "pattern": "*", "header": True, "delimiter": source.delimiter}
    own |= {name: value for name in ("quote", "encoding") if (value := getattr(source, name)) is not None}
    ingest = context.settings.ingest.model_copy(update=own)
    files, _ = list_files(context.spark, path, ingest, optional=source.optional)
    if not files and source.optional:
        return None
    if not files:
        raise DataRefusedError(f"{path} holds no file to read: check `{setting}.input`")
    required: dict[tuple[str, ...], str] = {(id_column,): f"{setting}.columns.id"}
    required |= {(column,): f"{setting}.columns.{name}" for name, column in source.columns.items()}
    required |= {(column,): f"{setting}.features" for column in source.features}
    for look in inspect_files(context.spark, files):
        if look.problem is not None:
            raise DataRefusedError(f"{look.file.path} cannot be read: {look.problem}. Mend or remove it")
        check_columns(look.file.path, look.columns, required)
    pseudonyms = pseudonyms_of(context, [id_column]) if side == "user" else None
    records = read_records(context.spark, files, pseudonyms)
    text = raw_text(id_column)
    rows = records.withColumn("id", read_id(stripped(text), text, context.settings.events))
    tally = rows.agg(
        F.count(F.lit(1)).alias("records"),
        F.count("defect").alias("broken"),
        F.count_if(F.col("id").isNull() & F.col("defect").isNull()).alias("nameless"),
    ).first()
    if tally is not None:
        result.counts[f"{side}_records"] = tally["records"]
        result.counts[f"{side}_broken"] = tally["broken"]
        result.counts[f"{side}_without_id"] = tally["nameless"]
    taken = [id_column, *source.columns.values()]
    features = _named_features(source.features) if source.features else _other_features(taken)
    whole = rows.filter(F.col("defect").isNull() & F.col("id").isNotNull())
    chosen = whole.groupBy("id").agg(F.max_by("fields", F.struct("file", "position")).alias("fields"))
    return chosen.select("id", *_attributes(context, source), features.alias("features"))


def _attributes(context: Context, source: AttributeSource) -> list[Column]:
    events = context.settings.events
    texts = [_optional(source, name, "string").alias(name) for name in TEXTS]
    formats = list(dict.fromkeys([*events.time_formats, "iso"]))
    times = [read_time(_optional(source, name, "string"), formats, events.zone or "UTC").alias(name) for name in TIMES]
    return [*texts, *times]


def _optional(source: AttributeSource, name: str, kind: str) -> Column:
    column = source.columns.get(name)
    return stripped(raw_text(column)) if column else F.lit(None).cast(kind)


def _named_features(names: list[str]) -> Column:
    pairs = F.map_from_arrays(
        F.array(*(F.lit(name) for name in names)), F.array(*(stripped(raw_text(name)) for name in names))
    )
    return F.map_filter(pairs, lambda _, value: value.isNotNull())


def _other_features(taken: list[str]) -> Column:
    bare = F.transform_values("fields", lambda _, value: stripped(value))
    return F.map_filter(bare, lambda name, value: value.isNotNull() & ~name.isin(taken))


def _from_events(context: Context, side: str, source: AttributeSource, result: JobResult) -> DataFrame:
    """Take each column's most frequent value among a side's accepted events, ties by the smallest value."""
    unknown = [name for name in source.columns if name not in TEXTS]
    if unknown:
        raise ConfigError(
            f"`attributes.{side}s.columns` has {unknown[0]!r}, which cannot come from events; "
            f"{', '.join(TEXTS)} can "
            "(the id is the event's own)"
        )
    columns = [*source.columns.values(), *source.features]
    if not columns:
        raise ConfigError(f"`attributes.{side}s` takes nothing from events: name `columns` or `features`")
    spark, lake = context.spark, context.lake
    accepted = delta_io.read(spark, lake.shared("interactions")).select("event_id", F.col(f"{side}_id").alias("id"))
    values = [stripped(raw_text(column)) for column in columns]
    # Exact copies share their event_id and their fields: any one of them will do.
    raw = (
        delta_io.read(spark, lake.shared("raw_events"))
        .select("event_id", F.array(*values).alias("values"))
        .dropDuplicates(["event_id"])
    )
    counted = (
        accepted.join(raw, on="event_id", how="inner")
        .select("id", F.posexplode("values").alias("key", "value"))
        .filter(F.col("value").isNotNull())
        .groupBy("id", "key", "value")
        .count()
    )
    # The least of (−count, value) is the most frequent, ties by the smallest value.
    best = counted.groupBy("id", "key").agg(
        F.min(F.struct((-F.col("count")).alias("rank"), "value"))["value"].alias("value")
    )
    wide = best.groupBy("id").agg(
        *(F.max(F.when(F.col("key") == at, F.col("value"))).alias(f"value_{at}") for at in range(len(columns)))
    )
    texts = {name: F.col(f"value_{at}") for at, name in enumerate(source.columns)}
    features = F.map_from_arrays(
        F.array(*(F.lit(name) for name in source.features)).cast("array<string>"),
        F.array(*(F.col(f"value_{at}") for at in range(len(source.columns), len(columns)))).cast("array<string>"),
    )
    return wide.select(
        "id",
        *(texts.get(name, F.lit(None).cast("string")).alias(name) for name in TEXTS),
        *(F.lit(None).cast("timestamp").alias(name) for name in TIMES),
        F.map_filter(features, lambda _, value: value.isNotNull()).alias("features"),
    )
