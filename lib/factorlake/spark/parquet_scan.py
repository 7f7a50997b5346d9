"""Columns straight from Parquet files, where a frame is no more than these.

What costs most about a row of two ids is its way out of the JVM. Where a frame only names columns of Parquet files that
the workers see, its tasks read the files themselves: text keeps the dictionaries it is stored with.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame

from factorlake.errors import DataRefusedError
from factorlake.models.estimate import PAIRS_OF_PARTITION
from factorlake.spark.compat import is_local, optimized_plan, task_slots
from factorlake.spark.task_farm import run_tasks, tasks_of_job

log = logging.getLogger(__name__)

Work = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

ROWS_OF_TASK = PAIRS_OF_PARTITION
BYTES_OF_TASK = 512 << 20
"""A task that reads files itself gets about so many rows, and bytes of them, at most, where row groups allow."""
ROWS_OF_BATCH = 1_000_000
MOST_FILES = 10_000
"""The driver reads the footer of every file. Of more files Spark's own reading starts sooner."""
_CODECS = ("UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD")
"""What Arrow and Spark call by one name and mean alike; not so LZ4."""
_OPTIONS = ("spark.sql.files.ignoreCorruptFiles", "spark.sql.files.ignoreMissingFiles")
"""With these Spark may see fewer rows than files hold."""
_FIELD_ID = "parquet.field.id"
"""What a schema names columns by whose names may be others."""
_STORED_AS = {
    "string": ("BYTE_ARRAY", "String", pa.string()),
    "byte": ("INT32", "Int(bitWidth=8, isSigned=true)", pa.int8()),
    "short": ("INT32", "Int(bitWidth=16, isSigned=true)", pa.int16()),
    "integer": ("INT32", "Int(bitWidth=32, isSigned=true)", pa.int32()),
    "long": ("INT64", "Int(bitWidth=64, isSigned=true)", pa.int64()),
    "float": ("FLOAT", "None", pa.float32()),
    "double": ("DOUBLE", "None", pa.float64()),
}
"""Spark's types with the physical and logical types of Parquet that mean the same, and Arrow's type."""
_WHOLE_NUMBERS = ("byte", "short", "integer", "long")
_TYPES = {"float": np.float32, "double": np.float64}


@dataclass(frozen=True)
class _Column:
    """A column of the frame, and how it comes from the files."""

    name: str
    stored: str
    """Name in the files."""
    kind: str
    """Spark's type in the files."""
    steps: tuple[tuple[str, float], ...]
    """What becomes of the values: ("float", _), ("double", _), ("times", by), ("string", _) of whole numbers, or
    ("integer", _), null where that does not hold the number."""


@dataclass(frozen=True)
class _File:
    """A file as its footer told of it."""

    path: str
    size: int
    written_ns: int
    n_rows: int
    n_row_groups: int

    @staticmethod
    def of(path: str, footer: pq.FileMetaData) -> _File:
        now = os.stat(path)
        return _File(path, now.st_size, now.st_mtime_ns, footer.num_rows, footer.num_row_groups)


@dataclass(frozen=True)
class _Slice:
    """Row groups of one file."""

    file: _File
    row_groups: tuple[int, ...]


class _NotPlain(Exception):
    """The frame is more than columns of files that can be read here."""


def map_columns(frame: DataFrame, work: Work, schema: str) -> DataFrame:
    """Return what ``frame.mapInArrow(work, schema)`` returns, the order of rows and their division into tasks aside.

    ``work`` is handed the same columns, but text may come as dictionaries (unused and repeated values in them or not).
    Where the frame is columns of Parquet files or of a Delta table without deletion vectors, column mapping or
    partitions, which lie on a file system that is mounted, tasks read the files; casts of numbers and a factor are
    taken over. Which files that are is settled by this call. Whatever else the frame is, Spark reads it and hands rows
    over.

    Where a file changed or vanished since this call, the result fails with a PythonException that names the file.
    """
    try:
        columns, tasks = _plan(frame)
    except _NotPlain:
        return frame.mapInArrow(work, schema)

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        numbers = (number for batch in batches for number in batch["id"].to_pylist())
        return work(batch for number in numbers for slice in tasks[number] for batch in _read(slice, columns))

    return frame.sparkSession.range(0, len(tasks), 1, len(tasks)).mapInArrow(read, schema)


def _plan(frame: DataFrame) -> tuple[list[_Column], list[list[_Slice]]]:
    """Return the columns, and for each task what it reads."""
    spark = frame.sparkSession
    try:
        plan = optimized_plan(frame)
        if plan is None or any(spark.conf.get(option, "false") != "false" for option in _OPTIONS):
            raise _NotPlain
        columns, paths = _plain_scan(plan)
        row_groups = _row_groups_of(paths, columns)
    except _NotPlain:
        raise
    except Exception as error:  # platforms refuse a look at the plan, and files that they are read, in many ways
        log.info("Spark reads the rows, since its plan or files could not be looked at: %s", error)
        raise _NotPlain from error
    if not row_groups:
        raise _NotPlain
    # As the driver can: asked of every slot.
    if not (is_local(spark) or all(run_tasks(spark, range(task_slots(spark)), lambda _: os.access(paths[0], os.R_OK)))):
        raise _NotPlain
    n_tasks = max(tasks_of_job(spark), math.ceil(sum(share for _, share in row_groups)))
    return columns, [_merged(task) for task in _cut(row_groups, n_tasks)]


def _plain_scan(plan: Any) -> tuple[list[_Column], list[str]]:
    """Return the columns and the files of a plan of Spark's optimizer (a JVM object)."""
    projections = []
    while _class_of(plan) == "Project":
        projections.append(plan.projectList())
        plan = plan.child()
    if _class_of(plan) != "LogicalRelation" or len(projections) > 1 or plan.isStreaming():
        raise _NotPlain
    relation = plan.relation()
    if _class_of(relation) != "HadoopFsRelation" or relation.partitionSchema().size():
        raise _NotPlain
    options = relation.options().toString().lower()
    if "ignorecorruptfiles" in options or "ignoremissingfiles" in options:
        raise _NotPlain
    form, index = _class_of(relation.fileFormat()), relation.location()
    is_delta = form == "DeltaParquetFileFormat"
    # Whatever lets a reader see other rows than the files hold asks for a higher version of readers. The index that is
    # ready for a scan knows the snapshot it lists; the format may be that of an earlier one.
    if is_delta and (_class_of(index) != "PreparedDeltaFileIndex" or index.protocol().minReaderVersion() > 1):
        raise _NotPlain
    if not is_delta and form != "ParquetFileFormat":
        raise _NotPlain
    if _FIELD_ID in relation.dataSchema().json():
        raise _NotPlain
    stored = set(relation.dataSchema().fieldNames())
    output = projections[0] if projections else plan.output()
    columns = [_column(output.apply(place)) for place in range(output.size())]
    if not all(column.stored in stored and "." not in column.stored for column in columns):
        raise _NotPlain
    files = index.inputFiles()
    if not 0 < len(files) <= MOST_FILES:
        raise _NotPlain
    # Spark escapes paths, Delta does not.
    return columns, sorted(_local(str(file), escaped=not is_delta) for file in files)


def _class_of(thing: Any) -> str:
    name: str = thing.getClass().getSimpleName()
    return name


def _column(expression: Any) -> _Column:
    """Return what an expression of a projection does to one column."""
    name, steps = expression.name(), []
    if _class_of(expression) == "Alias":
        expression = expression.child()
    while _class_of(expression) != "AttributeReference":
        step, expression = _step(expression)
        steps.append(step)
    kind = expression.dataType().typeName()
    if kind not in _STORED_AS or (kind == "string" and steps):
        raise _NotPlain
    return _Column(name, expression.name(), kind, tuple(reversed(steps)))


def _step(expression: Any) -> tuple[tuple[str, float], Any]:
    """Return what an expression does, and the one that it does it to."""
    wanted = expression.dataType().typeName()
    if _class_of(expression) == "Multiply" and wanted == "double":
        left, right = expression.left(), expression.right()
        if _class_of(left) == "Literal":
            left, right = right, left
        if _class_of(right) == "Literal" and right.value() is not None:
            return ("times", float(right.value())), left
    if _class_of(expression) == "Cast":
        child = expression.child()
        given = child.dataType().typeName()
        if wanted in _TYPES and given in (*_WHOLE_NUMBERS, *_TYPES):
            return (wanted, 0.0), child
        if wanted == "string" and given in _WHOLE_NUMBERS:
            return (wanted, 0.0), child
        # Else a number that is too large would be an error.
        if wanted == "integer" and given in _WHOLE_NUMBERS and str(expression.evalMode()) == "TRY":
            return (wanted, 0.0), child
    raise _NotPlain


def _local(uri: str, *, escaped: bool) -> str:
    scheme, _, path = uri.partition(":")
    if scheme != "file" or not path.startswith("/"):
        raise _NotPlain
    path = "/" + path.lstrip("/")
    return unquote(path) if escaped else path


def _row_groups_of(paths: Sequence[str], columns: Sequence[_Column]) -> list[tuple[_Slice, float]]:
    """Return the row groups of files and the share of a task that each is."""
    first = _row_groups(paths[0], columns)
    with ThreadPoolExecutor(8) as pool:
        others = pool.map(lambda path: _row_groups(path, columns), paths[1:])
        return [*first, *(one for of_file in others for one in of_file)]


def _row_groups(path: str, columns: Sequence[_Column]) -> list[tuple[_Slice, float]]:
    """Return `_row_groups_of` one file, where it holds the columns as Spark takes them to be."""
    footer = pq.read_metadata(path)
    leaves = [footer.schema.column(number) for number in range(len(footer.schema))]
    places = []
    for column in columns:
        alike = [number for number, leaf in enumerate(leaves) if leaf.path.lower() == column.stored.lower()]
        if len(alike) != 1 or not _is_stored_as(leaves[alike[0]], column):
            raise _NotPlain
        places.append(alike[0])
    file = _File.of(path, footer)
    found = []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunks = [group.column(place) for place in places]
        if any(chunk.compression not in _CODECS for chunk in chunks):
            raise _NotPlain
        n_bytes = sum(chunk.total_uncompressed_size for chunk in chunks)
        if group.num_rows:
            found.append((_Slice(file, (number,)), max(group.num_rows / ROWS_OF_TASK, n_bytes / BYTES_OF_TASK)))
    return found


def _is_stored_as(leaf: Any, column: _Column) -> bool:
    physical, logical, _ = _STORED_AS[column.kind]
    # Numbers of four and eight bytes need no logical type.
    meanings = (logical, "None") if column.kind in ("integer", "long") else (logical,)
    return (
        leaf.path == column.stored
        and leaf.max_repetition_level == 0
        and leaf.physical_type == physical
        and str(leaf.logical_type) in meanings
    )


def _cut(row_groups: Sequence[tuple[_Slice, float]], n_tasks: int) -> list[list[_Slice]]:
    """Cut row groups, each with what it weighs, into at most so many tasks of about the same weight. What lies together
    stays together: files often hold some users or some days, whose ids the task then has to number once."""
    tasks: list[list[_Slice]] = [[]]
    left, size = sum(weight for _, weight in row_groups), 0.0
    for one, weight in row_groups:
        to_fill = n_tasks - len(tasks) + 1
        if tasks[-1] and to_fill > 1 and size + weight / 2 > left / to_fill:
            tasks.append([])
            left, size = left - size, 0.0
        tasks[-1].append(one)
        size += weight
    return [task for task in tasks if task]


def _merged(slices: Sequence[_Slice]) -> list[_Slice]:
    """Return neighbouring row groups of one file as one slice."""
    return [
        _Slice(file, tuple(group for one in of_file for group in one.row_groups))
        for file, of_file in groupby(slices, key=lambda one: one.file)
    ]


def _read(slice: _Slice, columns: Sequence[_Column]) -> Iterator[pa.RecordBatch]:
    known = slice.file
    stored = list(dict.fromkeys(column.stored for column in columns))
    texts = [column.stored for column in columns if column.kind == "string"]
    try:
        with pq.ParquetFile(known.path, read_dictionary=texts) as file:
            if _File.of(known.path, file.metadata) != known:
                raise DataRefusedError(f"{known.path} changed while it was read; run again")
            for rows in file.iter_batches(ROWS_OF_BATCH, slice.row_groups, stored, use_threads=False):
                values = [_as_wanted(rows[column.stored], column) for column in columns]
                yield pa.RecordBatch.from_arrays(values, [column.name for column in columns])
    except (OSError, pa.ArrowException) as error:
        raise DataRefusedError(f"{known.path} can no longer be read: {error}") from error


def _as_wanted(values: pa.Array, column: _Column) -> pa.Array:
    if column.kind == "string":
        return _dictionary(values)
    values = values.cast(_STORED_AS[column.kind][2])
    for step, by in column.steps:
        values = _dictionary(values.dictionary_encode()) if step == "string" else _changed(values, step, by)
    return values


def _dictionary(values: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return dictionaries of strings of one type: as few texts as there are distinct ones."""
    return pa.DictionaryArray.from_arrays(values.indices.cast(pa.int32()), values.dictionary.cast(pa.string()))


def _changed(values: pa.Array, step: str, by: float) -> pa.Array:
    """Return numbers after one step, as Java does it: to the nearest number, what is too large to an infinity."""
    numbers, is_null = values.fill_null(0).to_numpy(), np.asarray(values.is_null())
    with np.errstate(over="ignore"):
        if step == "times":
            changed = numbers * by
        elif step == "integer":
            changed = numbers.astype(np.int32)
            is_null = is_null | (changed != numbers)
        else:
            changed = numbers.astype(_TYPES[step])
    return pa.array(changed, mask=is_null)
