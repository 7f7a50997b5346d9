"""Tables of rows, or of cells, as stored blocks of a matrix.

Tasks write what they read as parts, each with its ids in order; the driver puts the ids of all parts in order, which
says where every row goes; tasks then gather each block from the parts. So a table is read once, the driver holds ids
and no numbers, and neither the order of rows nor their partitions change a bit.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, BooleanType, DataType, FloatType, IntegralType, NumericType
from scipy.sparse import csr_array

from factorlake.errors import ConfigError, DataRefusedError
from factorlake.models.row_plan import even_blocks, even_cells
from factorlake.spark.arrow_text import distinct_values
from factorlake.spark.compat import large_rows, named_jobs, small_rows
from factorlake.spark.encode import load_ids, save_ids
from factorlake.spark.exchange import Exchange
from factorlake.spark.parquet_scan import map_columns
from factorlake.spark.row_plan import StoredRowPlan
from factorlake.spark.stored_rows import StoredCsrRows, StoredRows, new_folder, rows_file, save_csr
from factorlake.spark.task_farm import attempt, mapped, outcome, run_balanced, save_array

PART_BYTES = 128 << 20
"""Of what a task reads before it writes a part."""
LARGE_ROW = 8 << 10
"""Bytes of a row from which on rows leave the JVM one by one: Spark's batches hold thousands."""


@dataclass(frozen=True)
class StoredMatrix:
    """A matrix that lies in files which driver and workers see. They go when nothing refers to ``rows`` any more."""

    plan: StoredRowPlan
    rows: StoredRows | StoredCsrRows
    row_ids: pa.Array
    """The id of each row, ascending: int64 by number, or text by bytes."""
    column_ids: pa.Array | None
    """The id of each column, ascending likewise; None of a table of rows, whose columns are numbered."""
    n_columns: int

    @property
    def n_rows(self) -> int:
        return len(self.row_ids)


def matrix_of_rows(spark: SparkSession, frame: DataFrame, folder: str) -> StoredMatrix:
    """Return the matrix whose rows a frame holds, an id and an array of numbers each.

    Parameters
    ----------
    frame : two columns, the id (numbers, or what casts to a string) and the array. Arrays of float make a matrix of
        float32, others of float64.
    folder : of files that driver and workers see; it is made where it is not there.

    Raises
    ------
    ConfigError : workers do not see the folder.
    DataRefusedError : there is no row, an id is missing or occurs twice, or arrays are missing, of different lengths,
        or hold what is no finite number; names the row.
    """
    id_name, values_name = frame.columns
    kind = frame.schema[values_name].dataType
    if not isinstance(kind, ArrayType) or not isinstance(kind.elementType, NumericType):
        raise DataRefusedError(
            f"column {values_name} is {kind.simpleString()}; a table of rows has an array of numbers there (of vectors "
            "of pyspark.ml: pyspark.ml.functions.vector_to_array)"
        )
    is_single = isinstance(kind.elementType, FloatType)
    values = F.col(f"`{values_name}`")
    wanted = frame.select(
        _id(frame, id_name).alias("id"), (values if is_single else values.cast("array<double>")).alias("values")
    )
    _check_seen(spark, folder)
    # One row tells how wide all have to be.
    first = wanted.where(F.col("values").isNotNull()).select(F.size("values")).first()
    if first is None:
        raise DataRefusedError("the table of rows is empty: there is no matrix to decompose")
    n_columns = int(first[0])
    if not n_columns:
        raise DataRefusedError(f"the arrays of column {values_name} are empty: there is no matrix to decompose")
    item = 4 if is_single else 8
    batches = large_rows(spark) if n_columns * item > LARGE_ROW else nullcontext()
    with named_jobs(spark, "rows of a matrix"), _parts_folder(folder) as parts_folder:
        with batches:
            parts = _write_parts(wanted, _RowPart(parts_folder, n_columns))
        row_ids, positions = _in_order([load_ids(f"{prefix}.ids") for prefix in parts])
        _refuse_twice(row_ids)
        for prefix, of_part in zip(parts, positions, strict=True):
            save_array(f"{prefix}.positions.npy", of_part)
        plan = StoredRowPlan(spark, folder, even_blocks(len(row_ids), n_columns * item))
        held = StoredRows(new_folder(folder), range(len(plan.block_ptr) - 1), plan.block_ptr)
        dtype = np.float32 if is_single else np.float64
        target = held.folder

        def gather(block: tuple[int, int, int]) -> None:
            number, begin, end = block
            rows = np.empty((end - begin, n_columns), dtype)
            for prefix in parts:
                places = mapped(f"{prefix}.positions.npy")
                first, last = np.searchsorted(places, [begin, end])
                if first < last:
                    order = mapped(f"{prefix}.order.npy")[first:last]
                    rows[places[first:last] - begin] = mapped(f"{prefix}.values.npy")[order]
            save_array(rows_file(target, number), rows)

        run_balanced(spark, [(block, 1) for block in _numbered(plan.block_ptr)], gather)
    return StoredMatrix(plan, held, row_ids, None, n_columns)


def matrix_of_cells(spark: SparkSession, frame: DataFrame, folder: str) -> StoredMatrix:
    """Return the sparse matrix whose cells a frame holds. Cells that it lacks are 0.

    Parameters
    ----------
    frame : the ids of row and column (numbers, or what casts to a string) and the value. Without a third column every
        cell is 1. Values of float make a matrix of float32, others of float64; ones are float32.
    folder : as of `matrix_of_rows`.

    Raises
    ------
    ConfigError : workers do not see the folder.
    DataRefusedError : there is no cell, an id is missing, a value is missing or no finite number, or a cell occurs
        twice; names the cell.
    """
    row_name, column_name, *value_names = frame.columns
    values = []
    is_single = True
    for name in value_names:
        kind = frame.schema[name].dataType
        if not isinstance(kind, NumericType | BooleanType):
            raise DataRefusedError(f"column {name} is {kind.simpleString()}; a table of cells has a number there")
        is_single = isinstance(kind, FloatType)
        value = F.col(f"`{name}`")
        values.append((value if is_single else value.cast("double")).alias("value"))
    wanted = frame.select(_id(frame, row_name).alias("row"), _id(frame, column_name).alias("column"), *values)
    _check_seen(spark, folder)
    with named_jobs(spark, "cells of a matrix"), _parts_folder(folder) as parts_folder:
        with small_rows(spark):
            parts = _write_parts(wanted, _CellPart(parts_folder))
        if not parts:
            raise DataRefusedError("the table of cells is empty: there is no matrix to decompose")
        row_ids, rows_of_parts = _merged([load_ids(f"{prefix}.row_ids") for prefix in parts])
        column_ids, columns_of_parts = _merged([load_ids(f"{prefix}.column_ids") for prefix in parts])
        cells = np.zeros(len(row_ids), np.int64)
        for prefix, rows, columns in zip(parts, rows_of_parts, columns_of_parts, strict=True):
            save_array(f"{prefix}.rows.npy", rows)
            save_array(f"{prefix}.columns.npy", columns)
            cells[rows] += np.diff(mapped(f"{prefix}.row_ptr.npy"))
        plan = StoredRowPlan(spark, folder, even_cells(cells))
        n_blocks, n_columns = len(plan.block_ptr) - 1, len(column_ids)
        held = StoredCsrRows(new_folder(folder), range(n_blocks), plan.block_ptr, n_columns)
        dtype = np.float32 if is_single else np.float64
        target = held.folder

        def gather(block: tuple[int, int, int]) -> tuple[int, int] | None:
            number, begin, end = block
            found = [_cells_between(prefix, begin, end) for prefix in parts]
            row, column, value = (np.concatenate(some) for some in zip(*found, strict=True))
            order = np.lexsort((column, row))
            row, column = row[order], column[order]
            twice = np.flatnonzero((row[1:] == row[:-1]) & (column[1:] == column[:-1]))
            if len(twice):
                return int(row[twice[0]]) + begin, int(column[twice[0]])
            row_ptr = np.zeros(end - begin + 1, np.int32)
            np.cumsum(np.bincount(row, minlength=end - begin), out=row_ptr[1:])
            cells_of_block = value[order].astype(dtype), column, row_ptr
            save_csr(target, number, csr_array(cells_of_block, shape=(end - begin, n_columns)))
            return None

        for cell in run_balanced(spark, [(block, 1) for block in _numbered(plan.block_ptr)], gather):
            if cell is not None:
                names = f"({row_ids[cell[0]]}, {column_ids[cell[1]]})"
                raise DataRefusedError(f"the cell {names} occurs more than once; combine its values first")
    return StoredMatrix(plan, held, row_ids, column_ids, n_columns)


@contextmanager
def _parts_folder(folder: str) -> Iterator[str]:
    path = f"{folder}/parts-{uuid.uuid4().hex}"
    os.makedirs(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _check_seen(spark: SparkSession, folder: str) -> None:
    with Exchange(spark, f"{folder}/exchange") as exchange:
        if not exchange.by_file:
            raise ConfigError(
                f"workers do not see the folder {folder}, in which a matrix lies as files while it is decomposed; give "
                "a root that driver and workers see as one folder (a shared or mounted file system)"
            )


def _id(frame: DataFrame, name: str) -> Column:
    kind: DataType = frame.schema[name].dataType
    column = F.col(f"`{name}`")
    # Whole numbers and text stay as they are, so that they may be read from their files directly.
    return column if isinstance(kind, IntegralType) or kind.typeName() == "string" else column.cast("string")


@dataclass(frozen=True)
class _RowPart:
    """Writes rows as a part: numbers as they came, and ids ascending with the place of each."""

    folder: str
    n_columns: int

    def write(self, table: pa.Table) -> str:
        """Return where the part lies."""
        ids, lists = _plain(table["id"]), table["values"]
        if ids.null_count:
            raise DataRefusedError("a row of the matrix has no id (null); give it one or leave it out")
        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy()
        odd = np.flatnonzero(lengths != self.n_columns)
        if len(odd):
            found = "no array (null)" if lengths[odd[0]] < 0 else f"{lengths[odd[0]]:,} numbers"
            raise DataRefusedError(f"row {ids[odd[0]]} has {found}, another row {self.n_columns:,}; rows must be alike")
        flat = pc.list_flatten(lists)
        rows = pc.fill_null(flat, np.nan).to_numpy().reshape(-1, self.n_columns)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise DataRefusedError(f"row {ids[bad[0]]} has a value that is missing (null, NaN) or infinite; fill it in")
        prefix = f"{self.folder}/{uuid.uuid4().hex}"
        order = pc.array_sort_indices(ids).to_numpy()
        save_ids(f"{prefix}.ids", ids.take(pa.array(order)))
        np.save(f"{prefix}.order.npy", order.astype(np.int64))
        np.save(f"{prefix}.values.npy", rows)
        return prefix


@dataclass(frozen=True)
class _CellPart:
    """Writes cells as a part, by (row, column), with the ids of both sides ascending."""

    folder: str

    def write(self, table: pa.Table) -> str:
        """Return where the part lies."""
        for name in ("row", "column"):
            if table[name].null_count:
                raise DataRefusedError(f"a cell of the matrix has no {name} id (null); give it one or leave it out")
        if "value" in table.column_names:
            values = pc.fill_null(table["value"], np.nan).to_numpy()
        else:
            values = np.ones(table.num_rows, np.float32)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            row, column = (_plain(table[name].slice(int(bad[0]), 1))[0] for name in ("row", "column"))
            raise DataRefusedError(
                f"the cell ({row}, {column}) has a value that is missing (null, NaN) or infinite; leave it out"
            )
        (row_ids, row), (column_ids, column) = (_ranked(table[name]) for name in ("row", "column"))
        order = np.lexsort((column, row))
        row_ptr = np.zeros(len(row_ids) + 1, np.int64)
        np.cumsum(np.bincount(row, minlength=len(row_ids)), out=row_ptr[1:])
        prefix = f"{self.folder}/{uuid.uuid4().hex}"
        save_ids(f"{prefix}.row_ids", row_ids)
        save_ids(f"{prefix}.column_ids", column_ids)
        np.save(f"{prefix}.row_ptr.npy", row_ptr)
        np.save(f"{prefix}.codes.npy", column[order])
        np.save(f"{prefix}.values.npy", values[order])
        return prefix


def _write_parts(frame: DataFrame, part: _RowPart | _CellPart) -> list[str]:
    """Write the rows of a frame as parts; return where these lie."""

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in _gathered(batches):
            yield pa.RecordBatch.from_arrays([pa.array([attempt(part.write, table)], pa.binary())], ["told"])

    return [outcome(row["told"]) for row in map_columns(frame, write, "told binary").collect()]


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield what batches hold in tables of about PART_BYTES."""
    found: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if batch.num_rows:
            found.append(batch)
            size += batch.nbytes
        if size >= PART_BYTES:
            yield pa.Table.from_batches(found)
            found, size = [], 0
    if found:
        yield pa.Table.from_batches(found)


def _plain(ids: pa.ChunkedArray) -> pa.Array:
    """Return ids as int64 or strings, in one array."""
    kind = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    return ids.cast(pa.int64() if pa.types.is_integer(kind) else pa.string()).combine_chunks()


def _ranked(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int32]]:
    """Return the distinct ids of a column, ascending, and the place of each row's among them."""
    found, codes = distinct_values(column)
    ids = _plain(pa.chunked_array([found]))
    order = pc.array_sort_indices(ids).to_numpy()
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return ids.take(pa.array(order)), rank[codes]


def _in_order(parts: Sequence[pa.Array]) -> tuple[pa.Array, list[NDArray[np.int64]]]:
    """Return the ids of all parts, ascending, and where each part's went."""
    ids = pa.concat_arrays(parts)
    order = pc.array_sort_indices(ids).to_numpy()
    positions = np.empty(len(order), np.int64)
    positions[order] = np.arange(len(order))
    return ids.take(pa.array(order)), np.split(positions, np.cumsum([len(one) for one in parts])[:-1])


def _merged(parts: Sequence[pa.Array]) -> tuple[pa.Array, list[NDArray[np.int32]]]:
    """Return the distinct ids of all parts, ascending, and the place of each part's among them."""
    found = pc.unique(pa.chunked_array(parts))
    ids = found.take(pc.array_sort_indices(found))
    return ids, [pc.index_in(one, value_set=ids).to_numpy() for one in parts]


def _refuse_twice(ids: pa.Array) -> None:
    if len(ids) > 1:
        twice = pc.index(pc.equal(ids[1:], ids[:-1]), True).as_py()
        if twice >= 0:
            raise DataRefusedError(f"row {ids[twice]} occurs more than once; leave one of them")


def _numbered(block_ptr: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    return [(number, first, last) for number, (first, last) in enumerate(pairwise(block_ptr.tolist()))]


def _cells_between(prefix: str, begin: int, end: int) -> tuple[NDArray[Any], ...]:
    """Return (row from ``begin``, column, value) of a part's cells in some rows."""
    rows = mapped(f"{prefix}.rows.npy")
    first, last = np.searchsorted(rows, [begin, end])
    ptr = mapped(f"{prefix}.row_ptr.npy")[first : last + 1]
    cells = slice(int(ptr[0]), int(ptr[-1]))
    columns = mapped(f"{prefix}.columns.npy")[mapped(f"{prefix}.codes.npy")[cells]]
    return np.repeat(rows[first:last] - begin, np.diff(ptr)), columns, mapped(f"{prefix}.values.npy")[cells]
