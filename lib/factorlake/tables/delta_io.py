"""Reading and writing Delta tables by path: idempotent by application id, every commit read back.

A commit is read back from the session's own note of it, so threads that write at once need a session each
(`spark.newSession()`).
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from delta.tables import DeltaTable
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from factorlake.errors import ConfigError, DataRefusedError, FactorlakeError
from factorlake.tables.schemas import READABLE, SCHEMA_VERSION, TableSchema
from factorlake.times import from_micros

log = logging.getLogger(__name__)

# Where Delta notes, session by session, the version of the last commit to any table.
LAST_COMMIT = "spark.databricks.delta.lastCommitVersionInSession"
VERSION_PROPERTY = "factorlake.schemaVersion"
# A table that grows is put together at every so many versions. Delta's own automatic compaction counts the files that
# the running process added, and compacts at the first commit of every process: every night anew.
COMPACT_EVERY = 32
COMPACTED_FILE_SIZE = 128 * 2**20
# Held at 1 while rows are erased: each commit then makes a checkpoint.
EVERY_COMMIT = "delta.checkpointInterval"
ERASED_BY = "factorlake.erasedBy"
# A compaction may have followed a write: then the write is the last entry but one of the table's history.
WRITE_AND_COMPACTION = 2


@dataclass(frozen=True)
class Commit:
    """What a write left behind: the table's version, after the compaction where one followed, whether Delta skipped
    the write as done before, and the token that the table's history knows it by."""

    version: int
    skipped: bool
    token: str


def _quoted(path: str) -> str:
    return "delta.`" + path.replace("`", "``") + "`"


def _find(spark: SparkSession, path: str) -> DataFrame | None:
    """Return the latest version of the table at ``path``; None when no Delta table lies there."""
    try:
        frame = spark.read.format("delta").load(path)
        # Spark Connect looks at the path only when it is asked for something.
        _ = frame.schema
    except AnalysisException as error:
        if error.getCondition() in ("DELTA_TABLE_NOT_FOUND", "DELTA_MISSING_DELTA_TABLE", "PATH_NOT_FOUND") or (
            "DELTA_" in str(error) and "not" in str(error).lower()
        ):
            return None
        raise
    _check_readable(frame, path)
    return frame


def _check_readable(frame: DataFrame, path: str) -> None:
    """Raise ConfigError where the table is of a schema version that this release does not read."""
    noted = [field.metadata.get("schema_version") for field in frame.schema.fields]
    found = max((version for version in noted if version is not None), default=None)
    if found is None:
        # Made before columns carried the version, or by a migration of such a table.
        found = schema_version(frame.sparkSession, path)
    if found is not None and found not in READABLE:
        way_out = (
            "use that release, or a later one"
            if found > SCHEMA_VERSION
            else "bring the lake forward by `factorlake migrate` of an earlier release first"
        )
        raise ConfigError(
            f"the table at {path} has schema version {found}, written by "
            f"{'a newer' if found > SCHEMA_VERSION else 'an older'} release than this one, which reads "
            f"{' and '.join(map(str, READABLE))}: {way_out}"
        )


def exists(spark: SparkSession, path: str) -> bool:
    """Whether a Delta table lies at ``path``."""
    return _find(spark, path) is not None


def read(spark: SparkSession, path: str, version: int | None = None) -> DataFrame:
    """Return the table at ``path``, at ``version`` or the latest. DataRefusedError when there is none."""
    latest = _find(spark, path)
    if latest is None:
        raise DataRefusedError(f"there is no Delta table at {path}; run the job that writes it first")
    return latest if version is None else spark.read.format("delta").option("versionAsOf", version).load(path)


def read_whole(spark: SparkSession, path: str, version: int, column: str, way_out: str) -> DataFrame:
    """Return the table at ``version``, after a look at one column of every file of it. DataRefusedError, with the way
    out, where the version or a file of it is gone: vacuumed, or cleaned from the log."""
    try:
        frame = read(spark, path, version)
        # A hash, since counts and bounds are answered from the log without the files.
        frame.agg(F.bit_xor(F.xxhash64(column))).collect()
    except Exception as error:  # what fails in a task comes as the gateway's own error, or as Spark Connect's
        if isinstance(error, AnalysisException) or "FILE_NOT_EXIST" in str(error):
            raise DataRefusedError(
                f"version {version} of the table at {path} can no longer be read, a vacuum took its files: {way_out}"
            ) from error
        raise
    return frame


def read_or_empty(spark: SparkSession, path: str, schema: TableSchema, *, pinned: bool = False) -> DataFrame:
    """Return the table at ``path``, or a frame of its schema without rows when it does not exist yet. Columns that an
    older table lacks are null.

    ``pinned``: the latest version by its number, which no later commit changes. Of a frame that is not pinned Spark
    throws away what is cached at every commit to its table, and computes it again from the table as it is then.
    """
    latest = _find(spark, path)
    if latest is None:
        return spark.createDataFrame([], schema.fields)
    if pinned:
        number = int(_history(spark, path, 1)[0]["version"])
        latest = spark.read.format("delta").option("versionAsOf", number).load(path)
    return with_columns_of(latest, schema)


def with_columns_of(frame: DataFrame, schema: TableSchema) -> DataFrame:
    """Return the frame with the schema's columns that it lacks, as nulls: a table written before they were thought
    of."""
    missing = {f.name: F.lit(None).cast(f.dataType) for f in schema.fields if f.name not in frame.columns}
    return frame.withColumns(missing) if missing else frame


def _history(spark: SparkSession, path: str, limit: int) -> list[Any]:
    told = spark.sql(f"DESCRIBE HISTORY {_quoted(path)} LIMIT {int(limit)}")
    return told.select("version", "userMetadata", "operationMetrics").collect()


def rows_written(spark: SparkSession, path: str, commit: Commit) -> int | None:
    """Return how many rows the latest write to the table put into its files, as the table's history tells; None where
    that write was skipped or the history keeps no figures."""
    for row in _history(spark, path, WRITE_AND_COMPACTION):
        if row["userMetadata"] == commit.token:
            told = (row["operationMetrics"] or {}).get("numOutputRows")
            return None if told is None else int(told)
    return None


def last_details(spark: SparkSession, path: str) -> dict[str, Any]:
    """Return what the latest write to the table at ``path`` noted beside its rows (``details``, and the run); nothing
    where there is no table or no note."""
    for row in _history(spark, path, WRITE_AND_COMPACTION) if exists(spark, path) else []:
        if row["userMetadata"]:
            return dict(json.loads(row["userMetadata"]))
    return {}


def version(spark: SparkSession, path: str) -> int:
    """Return the latest version of the table at ``path``; -1 when there is none."""
    return int(_history(spark, path, 1)[0]["version"]) if exists(spark, path) else -1


def version_at(spark: SparkSession, path: str, moment: datetime) -> int:
    """Return the version that the table at ``path`` had at a moment; -1 where it was not there yet.

    DataRefusedError where its log no longer tells: Delta lets go of entries that are older than the table's
    `delta.logRetentionDuration`, 30 days by default.
    """
    if not exists(spark, path):
        return -1
    told = spark.sql(f"DESCRIBE HISTORY {_quoted(path)}").select("version", F.unix_micros("timestamp").alias("us"))
    rows = sorted((row["version"], row["us"]) for row in told.collect())
    by_then = [version for version, us in rows if from_micros(us) <= moment]
    if not by_then and rows[0][0] > 0:
        raise DataRefusedError(
            f"the log of the table at {path} no longer tells what it was at {moment.isoformat()}; its oldest entry is "
            f"of {from_micros(rows[0][1]).isoformat()}"
        )
    return int(by_then[-1]) if by_then else -1


def conform(frame: DataFrame, schema: TableSchema) -> DataFrame:
    """Select the schema's columns by name, with its types (numbers widen; another kind of type is refused), comments
    and schema version."""
    missing = [field.name for field in schema.fields if field.name not in frame.columns]
    if missing:
        raise FactorlakeError(f"a frame for table {schema.name} lacks the columns {', '.join(missing)}")
    return frame.to(schema.fields)


def create(spark: SparkSession, path: str, schema: TableSchema) -> None:
    """Create the table with its comments when it is not there yet.

    Deletion vectors stay off: readers of Delta's reader protocol 1 (DuckDB, Polars, delta-rs, pandas) must be able
    to read every table.
    """
    if exists(spark, path):
        return
    made = DeltaTable.createIfNotExists(spark).location(path).comment(schema.comment).addColumns(schema.fields)
    for name, value in properties_of(schema).items():
        made = made.property(name, value)
    made.execute()


def properties_of(schema: TableSchema) -> dict[str, str]:
    """Return the properties that a table of this schema has."""
    properties = {"delta.enableDeletionVectors": "false", VERSION_PROPERTY: str(SCHEMA_VERSION)}
    if schema.skipped_by:
        properties["delta.dataSkippingStatsColumns"] = ",".join(schema.skipped_by)
    return properties


def schema_version(spark: SparkSession, path: str) -> int | None:
    """Return the schema version that the table at ``path`` says it has; None where it is no table of ours."""
    told = spark.sql(f"SHOW TBLPROPERTIES {_quoted(path)} ('{_escaped(VERSION_PROPERTY)}')").collect()[0]["value"]
    # Of a property that is not there a sentence tells so.
    return int(told) if told.isdigit() else None


def migrate(spark: SparkSession, path: str, schema: TableSchema) -> list[str]:
    """Give the table at ``path`` the columns and properties of a schema; return the names of the columns that it gets.

    Rows stay as they are, and so does what readers of earlier versions see. The version comes last, so that one that
    was cut off is begun anew; of a table that has it nothing is asked.
    """
    missing = missing_columns(spark, path, schema)
    if missing:
        columns = ", ".join(
            f"`{name}` {schema.fields[name].dataType.simpleString()} "
            f"COMMENT '{_escaped(schema.fields[name].metadata['comment'])}'"
            for name in missing
        )
        spark.sql(f"ALTER TABLE {_quoted(path)} ADD COLUMNS ({columns})")
    spark.sql(f"ALTER TABLE {_quoted(path)} SET TBLPROPERTIES ({_told(properties_of(schema))})")
    return missing


def missing_columns(spark: SparkSession, path: str, schema: TableSchema) -> list[str]:
    """Return the columns of the schema that the table at ``path`` lacks."""
    have = read(spark, path).columns
    return [field.name for field in schema.fields if field.name not in have]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _write(
    frame: DataFrame,
    path: str,
    schema: TableSchema,
    mode: str,
    app_id: str | None,
    app_version: int,
    run_id: str,
    details: dict[str, Any] | None,
) -> Commit:
    spark = frame.sparkSession
    create(spark, path, schema)
    # The nonce tells this very commit from an earlier one of the same run that Delta takes for the same write.
    token = json.dumps({**(details or {}), "run_id": run_id, "app_id": app_id, "commit": uuid.uuid4().hex})
    writer = conform(frame, schema).write.format("delta").mode(mode).option("userMetadata", token)
    # A table that is older than a column of the schema gets it; its rows have null there.
    writer = writer.option("mergeSchema", "true")
    if app_id is not None:
        writer = writer.option("txnAppId", app_id).option("txnVersion", app_version)
    spark.conf.unset(LAST_COMMIT)
    writer.save(path)
    committed = spark.conf.get(LAST_COMMIT, None)
    if committed is not None:
        version_now = int(committed)
        if schema.grows and version_now % COMPACT_EVERY == 0:
            version_now = _compact(spark, path, version_now)
        return Commit(version_now, skipped=False, token=token)
    # No commit was noted: Delta took the write for one that was done before, or notes none. The history knows.
    latest = _history(spark, path, WRITE_AND_COMPACTION)
    return Commit(int(latest[0]["version"]), token not in [row["userMetadata"] for row in latest], token)


def _compact(spark: SparkSession, path: str, committed: int) -> int:
    """Put the small files of the table at ``path`` together and return the version it has then. What was written is
    safe without it: when it fails, that is logged and nothing else."""
    try:
        compact(spark, path)
    except Exception as error:  # Delta's conflicts come as errors of py4j's or of PySpark's own
        log.warning("%s was not compacted: %s", path, str(error).partition("\n")[0])
    return int(spark.conf.get(LAST_COMMIT, None) or committed)


def compact(spark: SparkSession, path: str) -> bool:
    """Put the small files of the table at ``path`` together; return whether there were any."""
    sizes = {f"spark.databricks.delta.optimize.{bound}FileSize": COMPACTED_FILE_SIZE for bound in ("min", "max")}
    before = _history(spark, path, 1)[0]["version"]
    with _setting(spark, sizes):
        spark.sql(f"OPTIMIZE {_quoted(path)}")
    return bool(_history(spark, path, 1)[0]["version"] > before)


def vacuum(spark: SparkSession, path: str, hours: float) -> None:
    """Remove the files of the table at ``path`` that its versions of the last ``hours`` do without.

    It leaves no commit: the versions that publications recorded stay the latest.
    """
    held = {
        "spark.databricks.delta.retentionDurationCheck.enabled": False,
        "spark.databricks.delta.vacuum.logging.enabled": False,
    }
    with _setting(spark, held):
        spark.sql(f"VACUUM {_quoted(path)} RETAIN {float(hours)!r} HOURS").collect()


def properties(spark: SparkSession, path: str) -> dict[str, str]:
    """Return the properties of the table at ``path``; none where there is no table."""
    if not exists(spark, path):
        return {}
    return {row["key"]: row["value"] for row in spark.sql(f"SHOW TBLPROPERTIES {_quoted(path)}").collect()}


def note(spark: SparkSession, path: str, schema: TableSchema, noted: Mapping[str, str]) -> None:
    """Give the table at ``path`` more properties; it is made where it is not there yet."""
    create(spark, path, schema)
    _change(spark, f"ALTER TABLE {_quoted(path)} SET TBLPROPERTIES ({_told(noted)})")


def erase(
    spark: SparkSession,
    path: str,
    schema: TableSchema,
    keys: DataFrame,
    *,
    run_id: str,
    noted: Mapping[str, str] | None = None,
) -> int:
    """Delete the rows whose values equal a row of ``keys`` in the columns of that; return how many. No table, or no
    such row: 0, and nothing is written.

    No value of a key reaches the table's log. Around the deletion every commit makes a checkpoint, so that the commits
    before it can be dropped (`delta_log.drop_commits`); a table that has that property is one of an erasure that was
    killed, which the next finishes. ``noted``: properties that the table gets before its rows go.
    """
    held = properties(spark, path)
    begun = held.get(EVERY_COMMIT) == "1"
    if not held:
        return 0
    on = list(keys.columns)
    if not begun and read(spark, path).join(keys, on=on, how="left_semi").isEmpty():
        return 0
    first = {EVERY_COMMIT: "1", **(noted or {})}
    if schema.skipped_by:
        # A table of an earlier release may note the least and greatest user of each file.
        first["delta.dataSkippingStatsColumns"] = ",".join(schema.skipped_by)
    source = f"erased_{uuid.uuid4().hex}"
    equal = " AND ".join(f"t.`{name}` = s.`{name}`" for name in on)
    token = json.dumps({**last_details(spark, path), "run_id": run_id})
    keys.createOrReplaceTempView(source)
    try:
        with _setting(spark, {"spark.databricks.delta.commitInfo.userMetadata": token}):
            _change(spark, f"ALTER TABLE {_quoted(path)} SET TBLPROPERTIES ({_told(first)})")
            deleted = _change(
                spark, f"MERGE INTO {_quoted(path)} AS t USING {source} AS s ON {equal} WHEN MATCHED THEN DELETE"
            )
            # One more commit, and with it a checkpoint, whatever became of that of the deletion.
            _change(spark, f"ALTER TABLE {_quoted(path)} SET TBLPROPERTIES ({_told({ERASED_BY: run_id})})")
            _change(spark, f"ALTER TABLE {_quoted(path)} UNSET TBLPROPERTIES IF EXISTS ('{EVERY_COMMIT}')")
    finally:
        spark.catalog.dropTempView(source)
    return int(deleted[0]["num_deleted_rows"])


def _change(spark: SparkSession, statement: str) -> list[Any]:
    return list(spark.sql(statement).collect())


def _told(values: Mapping[str, str]) -> str:
    return ", ".join(f"'{_escaped(name)}' = '{_escaped(value)}'" for name, value in values.items())


@contextmanager
def _setting(spark: SparkSession, values: Mapping[str, bool | int | str]) -> Iterator[None]:
    """Hold some of the session's settings at other values."""
    earlier = {name: spark.conf.get(name, None) for name in values}
    try:
        for name, value in values.items():
            spark.conf.set(name, value)
        yield
    finally:
        for name, before in earlier.items():
            if before is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, before)


def append(
    spark: SparkSession,
    frame: DataFrame,
    path: str,
    schema: TableSchema,
    *,
    run_id: str,
    app_id: str | None = None,
    app_version: int = 1,
    details: dict[str, Any] | None = None,
) -> Commit:
    """Append ``frame``; a second append with the same ``app_id`` and ``app_version`` is skipped by Delta and
    reported."""
    return _write(frame, path, schema, "append", app_id, app_version, run_id, details)


def overwrite(
    spark: SparkSession,
    frame: DataFrame,
    path: str,
    schema: TableSchema,
    *,
    run_id: str,
    details: dict[str, Any] | None = None,
) -> Commit:
    """Replace the table's rows in one commit; earlier versions stay readable until vacuum."""
    return _write(frame, path, schema, "overwrite", None, 0, run_id, details)


def append_rows(
    spark: SparkSession,
    rows: list[dict[str, Any]],
    path: str,
    schema: TableSchema,
    *,
    run_id: str,
    app_id: str | None = None,
) -> Commit:
    """Append a few rows given as dictionaries; columns that a row leaves out are null."""
    values = [tuple(row.get(field.name) for field in schema.fields) for row in rows]
    frame = spark.createDataFrame(values, schema.fields).coalesce(1)
    return append(spark, frame, path, schema, run_id=run_id, app_id=app_id)
