"""Rows in files that driver and workers see, one file per logical block, and work on them in tasks.

Only tasks touch the rows: they map the files of a block into memory, so workers of one machine share their pages. The
driver gets what they tell.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from scipy.sparse import csr_array

from factorlake.errors import FactorlakeError
from factorlake.models.threads import single_threaded_blas
from factorlake.spark.task_farm import mapped, run_balanced, save_array, whole_file
from factorlake.types import FloatMatrix

T = TypeVar("T")
B = TypeVar("B", bound="Block")
MOST_TOLD = 64 << 10
"""Bytes that a task sends through Spark about one block; more goes by a file, which is quicker and knows no limit on
results."""


class Block(Protocol):
    """A logical block of rows."""

    @property
    def number(self) -> int:
        """By which its files are named."""

    @property
    def n_rows(self) -> int: ...


class HeldRows(Protocol):
    """Rows in files. They never change."""

    def reader(self) -> Callable[[int], Any]:
        """Return what maps the rows of the block of a number, to be sent to tasks."""


class _Folder:
    """A folder of rows, one block after the other. It goes when nothing refers to this object any more."""

    def __init__(self, folder: str, numbers: Sequence[int], block_ptr: NDArray[np.int64]) -> None:
        self.folder = folder
        self.numbers = list(numbers)
        self.block_ptr = block_ptr
        """(n_blocks + 1,) where blocks start."""
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


class StoredRows(_Folder):
    """Dense rows in files, one per logical block. The files go when nothing refers to this object any more."""

    @staticmethod
    def of(folder: str, blocks: Sequence[Block]) -> StoredRows:
        """Return the rows of blocks that lie, or will lie, in a folder."""
        return StoredRows(folder, [one.number for one in blocks], np.cumsum([0, *(one.n_rows for one in blocks)]))

    def files(self) -> list[str]:
        """Return where each block's rows lie, in block order."""
        return [rows_file(self.folder, number) for number in self.numbers]

    def reader(self) -> Callable[[int], FloatMatrix]:
        """See ``HeldRows``."""
        return partial(_dense_block, self.folder)

    def blocks(self) -> Iterator[FloatMatrix]:
        """See ``Rows``."""
        for path in self.files():
            yield mapped(path)

    def at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        """See ``Rows``."""
        order = np.argsort(positions, kind="stable")
        ascending = RowReader(self.files(), self.block_ptr).rows_at(positions[order])
        rows = np.empty_like(ascending)
        rows[order] = ascending
        return rows

    def whole(self) -> FloatMatrix:
        """See ``Rows``."""
        return np.concatenate(list(self.blocks()))


class StoredCsrRows(_Folder):
    """Rows of a sparse matrix in files, three per block. The files go when nothing refers to this object any more."""

    def __init__(self, folder: str, numbers: Sequence[int], block_ptr: NDArray[np.int64], n_columns: int) -> None:
        super().__init__(folder, numbers, block_ptr)
        self.n_columns = n_columns

    def reader(self) -> Callable[[int], csr_array]:
        """See ``HeldRows``."""
        return partial(_csr_block, self.folder, self.n_columns)

    def blocks(self) -> Iterator[csr_array]:
        """Yield the rows of each block, in block order, mapped from their files."""
        yield from map(self.reader(), self.numbers)


def rows_file(folder: str, number: int) -> str:
    """Return where the rows of one logical block lie."""
    return f"{folder}/{number}.npy"


def _dense_block(folder: str, number: int) -> FloatMatrix:
    return mapped(rows_file(folder, number))


def _csr_file(folder: str, number: int, part: str) -> str:
    return f"{folder}/{number}.{part}.npy"


def _csr_block(folder: str, n_columns: int, number: int) -> csr_array:
    data, indices, row_ptr = (mapped(_csr_file(folder, number, part)) for part in ("data", "indices", "row_ptr"))
    return csr_array((data, indices, row_ptr), shape=(len(row_ptr) - 1, n_columns), copy=False)


def save_csr(folder: str, number: int, block: csr_array) -> None:
    """Write the rows of one block of a sparse matrix."""
    save_array(_csr_file(folder, number, "data"), block.data)
    save_array(_csr_file(folder, number, "indices"), block.indices)
    save_array(_csr_file(folder, number, "row_ptr"), block.indptr)


def new_folder(folder: str) -> str:
    """Make a folder for rows, under a name of its own."""
    fresh = f"{folder}/rows-{uuid.uuid4().hex}"
    os.makedirs(fresh)
    return fresh


def look_at_rows(
    spark: SparkSession,
    folder: str,
    weighed: Sequence[tuple[B, int]],
    work: Callable[..., T],
    held: Sequence[HeldRows],
) -> list[T]:
    """Return what ``work(block, rows of it as held, ...)`` tells of each block, in the order of blocks, which
    come with their weights.

    BLAS has one thread inside. ``folder`` is for what is too long to pass through Spark.
    """
    readers = [rows.reader() for rows in held]

    def ask(block: B) -> _Told:
        with single_threaded_blas():
            return _tell(work(block, *(read(block.number) for read in readers)), folder)

    return [told.read() for told in run_balanced(spark, weighed, ask)]


def map_stored_rows(
    spark: SparkSession,
    folder: str,
    weighed: Sequence[tuple[B, int]],
    work: Callable[..., tuple[FloatMatrix, T]],
    held: Sequence[HeldRows],
) -> tuple[StoredRows, list[T]]:
    """Make new rows in a folder of their own under ``folder``: ``work(block, rows of it as held, ...)`` returns those
    of a block and what to tell of it. Else as `look_at_rows`."""
    target = new_folder(folder)
    # Held from here on, so that the folder goes when work fails.
    made = StoredRows.of(target, [block for block, _ in weighed])

    def make(block: B, *rows: Any) -> T:
        new_rows, told = work(block, *rows)
        save_array(rows_file(target, block.number), new_rows)
        return told

    return made, look_at_rows(spark, folder, weighed, make, held)


@dataclass(frozen=True)
class _Told:
    """What a task tells of one block: as it is, or the path and the digest of a file that holds it."""

    pickled: bytes | None
    path: str | None
    digest: str | None = None

    def read(self) -> Any:
        if self.path is None:
            assert self.pickled is not None
            return pickle.loads(self.pickled)
        pickled = Path(self.path).read_bytes()
        # Others may write where the tables lie: only what the task itself wrote is unpickled.
        if hashlib.sha256(pickled).hexdigest() != self.digest:
            raise FactorlakeError(f"the file {self.path} is not what a task of this run wrote there; run the job again")
        os.unlink(self.path)
        return pickle.loads(pickled)


def _tell(told: Any, folder: str) -> _Told:
    pickled = pickle.dumps(told, protocol=5)
    if len(pickled) <= MOST_TOLD:
        return _Told(pickled, None)
    path = f"{folder}/told-{uuid.uuid4().hex}"
    with whole_file(path) as fresh, open(fresh, "wb") as file:
        file.write(pickled)
    return _Told(None, path, hashlib.sha256(pickled).hexdigest())


class RowReader:
    """Reads rows of a side whose blocks lie in files. A task makes the most of one: each file is mapped once, and the
    rows asked for last lie where those before them lay."""

    def __init__(self, files: Sequence[str], block_ptr: NDArray[np.int64]) -> None:
        self._files = files
        self._block_ptr = block_ptr
        self._mapped: dict[int, FloatMatrix] = {}
        self._memory: FloatMatrix | None = None

    def rows_at(self, positions: NDArray[np.integer]) -> FloatMatrix:
        """Return the rows at positions, ascending; they stay as they are until the next call."""
        first = self._block(0)
        if self._memory is None or len(self._memory) < len(positions):
            self._memory = np.empty((len(positions), first.shape[1]), first.dtype)
        rows = self._memory[: len(positions)]
        ends = np.searchsorted(positions, self._block_ptr).tolist()
        for number, (begin, end) in enumerate(pairwise(ends)):
            if begin < end:
                places = positions[begin:end] - self._block_ptr[number]
                # In the other modes NumPy needs no copy of its own, in case a place turns out to be none.
                np.take(self._block(number), places, axis=0, out=rows[begin:end], mode="clip")
        return rows

    def _block(self, number: int) -> FloatMatrix:
        if number not in self._mapped:
            self._mapped[number] = mapped(self._files[number])
        return self._mapped[number]
