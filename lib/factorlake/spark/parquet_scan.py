"""Columns straight from Parquet files, where a frame is no more than these.

What costs most about a row of two ids is its way out of the JVM. Where a frame only names columns of Parquet files that
the workers see, its tasks read the files themselves: text keeps the dictionaries it is stored with.
"""

from __future__ import annotations

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
from factorlake.spark.compat import is_connect
from factorlake.spark.task_farm import tasks_of_job

Work = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]

ROWS_OF_TASK = PAIRS_OF_PARTITION
"""A task that reads files itself gets about so many rows at most, where row groups allow."""
_STORED_AS = {
    "string": ("BYTE_ARRAY", ("STRING",), pa.string()),
    "byte": ("INT32", ("NONE", "INT"), pa.int8()),
    "short": ("INT32", ("NONE", "INT"), pa.int16()),
    "integer": ("INT32", ("NONE", "INT"), pa.int32()),
    "long": ("INT64", ("NONE", "INT"), pa.int64()),
    "float": ("FLOAT", ("NONE",), pa.float32()),
    "double": ("DOUBLE", ("NONE",), pa.float64()),
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
class _Slice:
    """Row groups of one file."""

    path: str
    row_groups: tuple[int, ...]


class _NotPlain(Exception):
    """The frame is more than columns of files that can be read here."""


def map_columns(frame: DataFrame, work: Work, schema: str) -> DataFrame:
    """Return what ``frame.mapInArrow(work, schema)`` returns, the order of rows and their division into tasks aside.

    ``work`` is handed the same columns, but text may come as dictionaries (unused and repeated values in them or not).
    Where the frame is columns of Parquet files or of a Delta table without deletion vectors, column mapping or
    partitions, which lie on a file system that is mounted, tasks read XX
    Raises, when the result is computed
    ------
    DataRefusedError : a file changed or vanished since this call.
    """
    try:
        columns, tasks = _plan(frame)
    except _NotPlain:
        return frame.mapInArrow(work, schema)
    if not tasks:
        return frame.mapInArrow(work, schema)

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        numbers = (number for batch in batches for number in batch["id"].to_pylist())
        return work(batch for number in numbers for slice in tasks[number] for batch in _read(slice, columns))

    return frame.sparkSession.range(0, len(tasks), 1, len(tasks)).mapInArrow(read, schema)


def _plan(frame: DataFrame) -> tuple[list[_Column], list[list[_Slice]]]:
    """Return the columns, and for each task what it reads."""
    if is_connect(frame.sparkSession):
        raise _NotPlain
    try:
        columns, paths = _plain_scan(frame._jdf.queryExecution().optimizedPlan())
    except _NotPlain:
        raise
    except Exception as error:  # platforms refuse a look at the plan each in a way of its own
        raise _NotPlain from error
    with ThreadPoolExecutor(8) as pool:
        row_groups = [one for of_file in pool.map(lambda path: _row_groups(path, columns), paths) for one in of_file]
    n_rows = sum(rows for _, rows in row_groups)
    n_tasks = max(tasks_of_job(frame.sparkSession), -(-n_rows // ROWS_OF_TASK))
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
    form = relation.fileFormat()
    is_delta = _class_of(form) == "DeltaParquetFileFormat"
    # Whatever lets a reader see other rows than the files hold asks for a higher version of readers.
    if is_delta and form.protocol().minReaderVersion() > 1:
        raise _NotPlain
    if not is_delta and _class_of(form) != "ParquetFileFormat":
        raise _NotPlain
    stored = set(relation.dataSchema().fieldNames())
    output = projections[0] if projections else plan.output()
    columns = [_column(output.apply(place)) for place in range(output.size())]
    if not all(column.stored in stored for column in columns):
        raise _NotPlain
    # Spark escapes paths, Delta does not.
    files = [_local(str(file), escaped=not is_delta) for file in relation.location().inputFiles()]
    return columns, sorted(files)


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


def _row_groups(path: str, columns: Sequence[_Column]) -> list[tuple[_Slice, int]]:
    """Return the row groups of a file and their rows, where it holds the columns as Spark takes them to be."""
    try:
        footer = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        # Spark shall tell what is wrong with it, or pass over it.
        raise _NotPlain from error
    leaves = [footer.schema.column(number) for number in range(len(footer.schema))]
    for column in columns:
        physical, logical, _ = _STORED_AS[column.kind]
        alike = [number for number, leaf in enumerate(leaves) if leaf.path.lower() == column.stored.lower()]
        if len(alike) != 1:
            raise _NotPlain
        leaf = leaves[alike[0]]
        if leaf.path != column.stored or leaf.physical_type != physical or leaf.logical_type.type not in logical:
            raise _NotPlain
        codecs = {footer.row_group(group).column(alike[0]).compression for group in range(footer.num_row_groups)}
        if not all(codec == "UNCOMPRESSED" or pa.Codec.is_available(codec.lower()) for codec in codecs):
            raise _NotPlain
    return [(_Slice(path, (group,)), footer.row_group(group).num_rows) for group in range(footer.num_row_groups)]


def _cut(row_groups: Sequence[tuple[_Slice, int]], n_tasks: int) -> list[list[_Slice]]:
    """Cut row groups into at most so many tasks of about as many rows. What lies together stays together: files often
    hold some users or some days, whose ids the task then has to number once."""
    tasks: list[list[_Slice]] = [[]]
    left, size = sum(rows for _, rows in row_groups), 0
    for one, rows in row_groups:
        to_fill = n_tasks - len(tasks) + 1
        if tasks[-1] and to_fill > 1 and size + rows / 2 > left / to_fill:
            tasks.append([])
            left, size = left - size, 0
        tasks[-1].append(one)
        size += rows
    return [task for task in tasks if task]


def _merged(slices: Sequence[_Slice]) -> list[_Slice]:
    """Return neighbouring row groups of one file as one slice."""
    return [
        _Slice(path, tuple(group for one in of_path for group in one.row_groups))
        for path, of_path in groupby(slices, key=lambda one: one.path)
    ]


def _read(slice: _Slice, columns: Sequence[_Column]) -> Iterator[pa.RecordBatch]:
    stored = list(dict.fromkeys(column.stored for column in columns))
    texts = [column.stored for column in columns if column.kind == "string"]
    try:
        with pq.ParquetFile(slice.path, read_dictionary=texts) as file:
            for group in slice.row_groups:
                rows = file.read_row_group(group, columns=stored, use_threads=False)
                table = pa.table(
                    [_as_wanted(rows[column.stored], column) for column in columns], [column.name for column in columns]
                )
                yield from table.to_batches()
    except (OSError, pa.ArrowException) as error:
        raise DataRefusedError(f"{slice.path} changed while it was read: {error}") from error


def _as_wanted(values: pa.ChunkedArray, column: _Column) -> pa.ChunkedArray:
    if column.kind == "string":
        return _dictionaries(values)
    values = values.cast(_STORED_AS[column.kind][2])
    for step, by in column.steps:
        if step == "string":
            values = _dictionaries(values.dictionary_encode())
        else:
            values = pa.chunked_array([_changed(chunk, step, by) for chunk in values.chunks])
    return values


def _dictionaries(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return dictionaries of strings of one type: as few texts as there are distinct ones."""
    return pa.chunked_array(
        [
            pa.DictionaryArray.from_arrays(chunk.indices.cast(pa.int32()), chunk.dictionary.cast(pa.string()))
            for chunk in values.chunks
        ],
        pa.dictionary(pa.int32(), pa.string()),
    )


def _changed(chunk: pa.Array, step: str, by: float) -> pa.Array:
    """Return numbers after one step, as Java does it: to the nearest number, what is too large to an infinity."""
    numbers, is_null = chunk.fill_null(0).to_numpy(), np.asarray(chunk.is_null())
    with np.errstate(over="ignore"):
        if step == "times":
            changed = numbers * by
        elif step == "integer":
            changed = numbers.astype(np.int32)
            is_null = is_null | (changed != numbers)
        else:
            changed = numbers.astype(_TYPES[step])
    return pa.array(changed, mask=is_null)
