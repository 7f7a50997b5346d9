"""A Delta table as the log: the rows that came with commits newer than the last one taken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from factorlake.errors import DataRefusedError
from factorlake.spark.pseudonyms import Pseudonyms
from factorlake.spark.readers import read_table_records

# Commits that move rows between files without changing any.
MAINTENANCE = ("OPTIMIZE", "REORG", "CLUSTER BY")
CHANGED_ROWS = ("numDeletedRows", "numUpdatedRows", "numTargetRowsUpdated", "numTargetRowsDeleted")
FILE = "__file"


@dataclass(frozen=True)
class TableVersion:
    """A version of a Delta table. The id is the table's at that version; a replaced or remade table has another."""

    table_id: str
    number: int

    def __str__(self) -> str:
        return f"{self.table_id}@{self.number}"

    @staticmethod
    def parse(text: str) -> TableVersion:
        """Return what `str` made a text of; in the first rows of a ledger the id is missing."""
        table_id, _, number = text.rpartition("@")
        return TableVersion(table_id, int(number))


@dataclass(frozen=True)
class Taken:
    """The version up to which a table was ingested, and when, in microseconds since 1970."""

    version: TableVersion
    at_us: int


@dataclass(frozen=True)
class NewRows:
    """The rows a table got after the version ``since`` (None: all) up to ``version``: pairs of a version and the data
    files it added, and the columns."""

    path: str
    since: int | None
    version: TableVersion
    added: list[tuple[int, list[str]]]
    schema: StructType
    """Of the table at ``version``."""


def find_new_rows(spark: SparkSession, path: str, taken: Taken | None) -> NewRows:
    """Find the data files of the Delta table at ``path`` whose rows were added after the version that was taken.

    Raises
    ------
    DataRefusedError : a commit since then changed or removed rows, or is no longer kept in the table's
        history; or the table was made anew, so that its versions are others than those taken.
    """
    table_id = str(spark.sql(f"DESCRIBE DETAIL {_quoted(path)}").select("id").collect()[0]["id"])
    since = None if taken is None else taken.version.number
    kept = {
        row["version"]: row
        for row in spark.sql(f"DESCRIBE HISTORY {_quoted(path)}")
        .filter(F.col("version") >= (0 if since is None else since))
        .select("version", F.unix_micros("timestamp").alias("at_us"), "operation", "operationMetrics")
        .collect()
    }
    if taken is not None:
        _refuse_another_table(path, table_id, taken, kept)
    history = {number: row for number, row in kept.items() if number != since}
    version = max(history, default=since)
    if version is None:
        raise DataRefusedError(f"{path} has no history to read from: set `input` to a table that keeps its log")
    latest = TableVersion(table_id, version)
    newest = _at(spark, path, version)
    if since is None:
        return NewRows(path, None, latest, [(version, sorted(newest.inputFiles()))], newest.schema)
    added: list[tuple[int, list[str]]] = []
    try:
        before = set(_at(spark, path, since).inputFiles()) if history else set()
        for number in range(since + 1, version + 1):
            after = set(_at(spark, path, number).inputFiles())
            if history[number]["operation"] not in MAINTENANCE:
                _refuse_a_rewrite(path, number, history[number], before - after)
                if after - before:
                    added.append((number, sorted(after - before)))
            before = after
    except (AnalysisException, KeyError) as error:
        raise DataRefusedError(
            f"{path} no longer keeps every version since {since}, so its new rows cannot be told: {_way_out()}"
        ) from error
    return NewRows(path, since, latest, added, newest.schema)


def read_new_rows(spark: SparkSession, rows: NewRows, pseudonyms: Pseudonyms | None = None) -> DataFrame:
    """Return the new rows as records; there must be some. A row's file is the table, the version and the data
    file it stands in."""
    # Each version is read as it was, since a later compaction takes its files out of the latest one.
    parts = [_rows_of(spark, rows, version, files) for version, files in rows.added]
    return read_table_records(reduce(DataFrame.unionByName, parts), FILE, pseudonyms)


def _rows_of(spark: SparkSession, rows: NewRows, version: int, files: list[str]) -> DataFrame:
    # By name, of which no two are equal: paths are spelt one way by Delta and another, escaped, by Spark.
    name = F.col("_metadata.file_name")
    table = _at(spark, rows.path, version)
    present = set(table.columns)
    return (
        table.select(
            F.concat(F.lit(f"{rows.path}@v{version}/"), name).alias(FILE),
            name.alias("__name"),
            *(
                F.col(f"`{field.name}`")
                if field.name in present
                else F.lit(None).cast(field.dataType).alias(field.name)
                for field in rows.schema
            ),
        )
        .filter(F.col("__name").isin([file.rpartition("/")[2] for file in files]))
        .drop("__name")
    )


def _refuse_another_table(path: str, table_id: str, taken: Taken, kept: dict[int, Row]) -> None:
    """Refuse a table that was made anew. Its id alone does not tell: some writers change it with the schema. Then the
    version that was taken is still there, and older than its taking."""
    if taken.version.table_id in ("", table_id):
        return
    then = kept.get(taken.version.number)
    if not kept or (then is not None and then["at_us"] > taken.at_us):
        raise DataRefusedError(
            f"{path} was made anew since its version {taken.version.number} was taken, so its new rows cannot be told: "
            f"{_way_out()}"
        )


def _refuse_a_rewrite(path: str, version: int, commit: object, removed: set[str]) -> None:
    metrics = commit["operationMetrics"] or {}  # type: ignore[index]
    if removed or any(int(metrics.get(name) or 0) for name in CHANGED_ROWS):
        raise DataRefusedError(
            f"version {version} of {path} ({commit['operation']}) changed or removed rows that may have been "  # type: ignore[index]
            f"taken already; only appended rows can be followed: {_way_out()}"
        )


def _way_out() -> str:
    return (
        "copy the table as it is now to a new path and set `input` to that; rows taken before come out as exact "
        "duplicates in validate, where no column has changed its type (else set `events.event_key`)"
    )


def _at(spark: SparkSession, path: str, version: int) -> DataFrame:
    return spark.read.format("delta").option("versionAsOf", version).load(path)


def _quoted(path: str) -> str:
    return "delta.`" + path.replace("`", "``") + "`"
