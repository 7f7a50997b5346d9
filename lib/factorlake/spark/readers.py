"""Files and Delta tables to frames of records: one row a record, parsed in the workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    BooleanType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
)

from factorlake.errors import DataRefusedError
from factorlake.spark.files import SourceFile, with_content
from factorlake.spark.pseudonyms import Pseudonyms
from factorlake.spark.records import (
    FileFormat,
    Record,
    UnreadableFileError,
    check_parquet,
    columns_of,
    parse,
    records_of,
    unpack,
)

RECORD_SCHEMA = StructType(
    [
        StructField("file", StringType()),
        StructField("position", LongType()),
        StructField("raw", StringType()),
        StructField("fields", MapType(StringType(), StringType())),
        StructField("defect", StringType()),
        StructField("event_id", StringType()),
    ]
)
INSPECTION_SCHEMA = StructType(
    [
        StructField("path", StringType()),
        StructField("content_hash", StringType()),
        StructField("is_empty", BooleanType()),
        StructField("problem", StringType()),
        StructField("columns", ArrayType(StringType())),
    ]
)
RECORDS_PER_BATCH = 20_000
_INSPECTION = pa.schema(
    [
        ("path", pa.string()),
        ("content_hash", pa.string()),
        ("is_empty", pa.bool_()),
        ("problem", pa.string()),
        ("columns", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Inspection:
    """What one look at a file's bytes tells, before any of them is taken."""

    file: SourceFile
    content_hash: str | None
    is_empty: bool
    problem: str | None
    columns: list[str] | None


def inspect_files(spark: SparkSession, files: list[SourceFile]) -> list[Inspection]:
    """Read every file once to its end and return, in the order given, its hash, its columns and what is wrong
    with it.

    A file that the file system does not give has neither hash nor columns, only a problem. No files: no rows.
    """
    # Spark plans no read of a file of zero bytes.
    nothing = (hashlib.sha256(b"").hexdigest(), True, None, None)
    rows = {file.path: nothing for file in files if file.size == 0}
    to_read = [file for file in files if file.size > 0]
    found = _try_inspect(spark, to_read) if to_read else {}
    if found is None:
        # One file that cannot be opened fails the whole read: ask for each alone to learn which.
        found = {}
        for file in to_read:
            found.update(_try_inspect(spark, [file]) or {})
    rows.update(found)
    missing = "the file system does not give it (deleted, or no permission)"
    return [
        Inspection(file, *rows[file.path]) if file.path in rows else Inspection(file, None, False, missing, None)
        for file in files
    ]


def read_records(spark: SparkSession, files: list[SourceFile], pseudonyms: Pseudonyms | None = None) -> DataFrame:
    """Return the records of the files as a frame of `RECORD_SCHEMA`, ids of users replaced by ``pseudonyms`` if any are
    given. No files: no rows.

    Raises, when the frame is computed, whatever makes a file unreadable; `inspect_files` finds that
    beforehand.
    """
    if not files:
        return spark.createDataFrame([], RECORD_SCHEMA)
    return with_content(spark, files).mapInArrow(_parser(_forms(files), pseudonyms), RECORD_SCHEMA)


def read_table_records(rows: DataFrame, file: str, pseudonyms: Pseudonyms | None = None) -> DataFrame:
    """Return the rows of a table as records; the column ``file`` tells the data file each stood in.

    Every other column becomes a field; the text of a record is its JSON. A table's rows have no order of
    their own: their position is their rank by id within their data file, where exact copies are
    interchangeable.
    """
    records = rows.mapInArrow(_table_parser(file, pseudonyms), RECORD_SCHEMA)
    rank = F.row_number().over(Window.partitionBy("file").orderBy("event_id"))
    return records.withColumn("position", (rank - 1).cast("bigint"))


def _forms(files: list[SourceFile]) -> dict[str, FileFormat]:
    return {file.path: file.form for file in files}


def _try_inspect(spark: SparkSession, files: list[SourceFile]) -> dict[str, tuple] | None:
    try:
        rows = with_content(spark, files).mapInArrow(_inspector(_forms(files)), INSPECTION_SCHEMA).collect()
    except Exception as error:  # each file system has errors of its own
        if not _is_about_a_file(error):
            raise
        return None
    return {row["path"]: (row["content_hash"], row["is_empty"], row["problem"], row["columns"]) for row in rows}


def _is_about_a_file(error: Exception) -> bool:
    signs = (
        "FAILED_READ_FILE",
        "AccessControlException",
        "FileNotFoundException",
        "Permission denied",
        "PATH_NOT_FOUND",
    )
    return any(sign in str(error) for sign in signs)


def _inspector(
    forms: dict[str, FileFormat],
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def inspect(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [
                _inspect(path.as_py(), content.as_py(), forms)
                for path, content in zip(batch.column("path"), batch.column("content"), strict=True)
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=_INSPECTION)

    return inspect


def _inspect(path: str, content: bytes, forms: dict[str, FileFormat]) -> dict:
    form = forms[path]
    found = {"path": path, "content_hash": hashlib.sha256(content).hexdigest(), "is_empty": not content}
    try:
        data = unpack(content, form.packed)
        found["is_empty"] = not data
        found["columns"] = columns_of(data, form)
        if form.kind == "parquet" and data:
            check_parquet(data)
    except UnreadableFileError as error:
        found["problem"] = str(error)
    return found


def _parser(
    forms: dict[str, FileFormat], pseudonyms: Pseudonyms | None
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def parse_files(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for path, content in zip(batch.column("path"), batch.column("content"), strict=True):
                form = forms[path.as_py()]
                try:
                    records = parse(unpack(content.as_py(), form.packed), form)
                    yield from _in_batches(path.as_py(), _hidden(records, pseudonyms))
                except UnreadableFileError as error:
                    raise DataRefusedError(f"{path.as_py()} changed while it was read: {error}") from error

    return parse_files


def _table_parser(
    file: str, pseudonyms: Pseudonyms | None
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def parse_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            files = batch.column(file).to_pylist()
            fields = batch.select([name for name in batch.schema.names if name != file])
            records = _hidden(records_of(fields, range(batch.num_rows)), pseudonyms)
            yield _arrow(files, list(records))

    return parse_rows


def _hidden(records: Iterator[Record], pseudonyms: Pseudonyms | None) -> Iterator[Record]:
    return records if pseudonyms is None else map(pseudonyms.hide, records)


def _in_batches(path: str, records: Iterator[Record]) -> Iterator[pa.RecordBatch]:
    waiting: list[Record] = []
    for record in records:
        waiting.append(record)
        if len(waiting) == RECORDS_PER_BATCH:
            yield _arrow([path] * len(waiting), waiting)
            waiting = []
    if waiting:
        yield _arrow([path] * len(waiting), waiting)


def _arrow(files: list[str], records: list[Record]) -> pa.RecordBatch:
    offsets: list[int | None] = [0]
    names: list[str] = []
    values: list[str | None] = []
    for record in records:
        if record.fields is not None:
            names.extend(record.fields)
            values.extend(record.fields.values())
        offsets.append(len(names))
    absent = pa.array([record.fields is None for record in records], pa.bool_())
    fields = pa.MapArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(names, pa.string()),
        pa.array(values, pa.string()),
        mask=absent,
    )
    return pa.RecordBatch.from_arrays(
        [
            pa.array(files, pa.string()),
            pa.array([record.position for record in records], pa.int64()),
            pa.array([record.raw for record in records], pa.string()),
            fields,
            pa.array([record.defect for record in records], pa.string()),
            pa.array([record.event_id for record in records], pa.string()),
        ],
        names=[field.name for field in RECORD_SCHEMA.fields],
    )


def count_by_file(records: DataFrame) -> dict[str, tuple[int, int]]:
    """Return, of each file with records, how many it has and how many of them are broken."""
    rows = records.groupBy("file").agg(F.count(F.lit(1)).alias("records"), F.count("defect").alias("broken"))
    return {row["file"]: (row["records"], row["broken"]) for row in rows.collect()}
