"""Work on the rows of one matrix, block by block: what a decomposition asks of the place where the matrix lies.

A decomposition never touches a row: it says what shall be done with the rows of each block, by pure functions, and adds
what they tell in block order. So its numbers are equal bit for bit wherever the rows lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from threading import Lock
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix

from factorlake.types import FloatMatrix

from .plan import ArrayRows

H = TypeVar("H")
T = TypeVar("T")
NewMatrixRows = Callable[..., tuple[FloatMatrix, T]]
"""(first row, rows of the block as held, ...) → (its new rows, what to tell of them)."""
LookAtRows = Callable[..., T]
"""(first row, rows of the block as held, ...) → what to tell of them."""


class RowPlan(Protocol[H]):
    """How the rows of one matrix are held and worked on. All work may run twice, and in any order. Inside it BLAS has
    one thread. What it is given, it must not change: rows may be mapped from files, read-only."""

    block_ptr: NDArray[np.int64]
    """(n_blocks + 1,) the rows where blocks start; the last is the number of rows."""

    def map_rows(self, work: NewMatrixRows[T], *held: H) -> tuple[H, list[T]]:
        """Make new rows, block by block, from some that are held; tell in block order."""

    def look(self, work: LookAtRows[T], *held: H) -> list[T]:
        """Ask something of rows that are held, block by block; tell in block order."""


@dataclass(frozen=True)
class CsrRows:
    """Rows of a sparse matrix in memory. Work is handed a CSR matrix for each block."""

    held: Sequence[csr_array]
    """A block each, in block order."""

    @staticmethod
    def of(matrix: csr_array | csr_matrix, block_ptr: NDArray[np.int64]) -> CsrRows:
        """Cut a matrix into blocks that share its memory."""
        cuts = []
        for first, last in pairwise(block_ptr.tolist()):
            ptr = matrix.indptr[first : last + 1]
            held = slice(int(ptr[0]), int(ptr[-1]))
            parts = matrix.data[held], matrix.indices[held], ptr - ptr[0]
            cuts.append(csr_array(parts, shape=(last - first, matrix.shape[1]), copy=False))
        return CsrRows(cuts)

    def blocks(self) -> Iterator[csr_array]:
        """Yield the rows of each block, in block order."""
        yield from self.held


class LocalRowPlan:
    """Rows in memory, worked on by threads, one block each at a time. Use as a context manager.

    The caller limits BLAS to one thread (``single_threaded_blas``).
    """

    def __init__(self, block_ptr: NDArray[np.int64], threads: int = 1) -> None:
        self.block_ptr = block_ptr
        self._pool = ThreadPoolExecutor(max_workers=max(1, threads), thread_name_prefix="rows")

    def hold(self, array: FloatMatrix) -> ArrayRows:
        """Return an array of all rows as this plan holds rows."""
        return ArrayRows(array, self.block_ptr)

    def map_rows(self, work: NewMatrixRows[T], *held: ArrayRows | CsrRows) -> tuple[ArrayRows, list[T]]:
        """See ``RowPlan``. A block's new rows go to their place at once, so that they are in memory but once."""
        whole: list[FloatMatrix] = []
        first_made = Lock()

        def place(first_row: int, *own: FloatMatrix | csr_array) -> T:
            rows, told = work(first_row, *own)
            with first_made:
                if not whole:
                    whole.append(np.empty((int(self.block_ptr[-1]), rows.shape[1]), rows.dtype))
            whole[0][first_row : first_row + len(rows)] = rows
            return told

        told = self.look(place, *held)
        return self.hold(whole[0]), told

    def look(self, work: LookAtRows[T], *held: ArrayRows | CsrRows) -> list[T]:
        """See ``RowPlan``."""
        return list(self._pool.map(work, self.block_ptr[:-1].tolist(), *(rows.blocks() for rows in held)))

    def __enter__(self) -> LocalRowPlan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


def even_cells(cells: NDArray[np.int64], cell_bytes: int = 12, block_bytes: int = 32 << 20) -> NDArray[np.int64]:
    """Return block_ptr of the rows of a sparse matrix, of ``cells`` (n_rows,) cells each: as many blocks as
    `even_blocks` of as many bytes, with nearly equal numbers of cells, none without rows."""
    n_rows, ends = len(cells), np.cumsum(cells)
    if not n_rows or not ends[-1]:
        return even_blocks(n_rows, 0, block_bytes)
    n_blocks = len(even_blocks(int(ends[-1]), cell_bytes, block_bytes)) - 1
    cuts = np.searchsorted(ends, ends[-1] * np.arange(1, n_blocks) / n_blocks) + 1
    return np.unique(np.concatenate([[0], cuts, [n_rows]])).astype(np.int64)


def even_blocks(n_rows: int, row_bytes: int, block_bytes: int = 32 << 20, at_least: int = 8) -> NDArray[np.int64]:
    """Return block_ptr of blocks of nearly equal numbers of rows, fixed by the matrix alone: as many as keep a block
    within ``block_bytes``, but no fewer than ``at_least``, and none empty. No rows: one block of none."""
    n_blocks = max(at_least, -(-n_rows * row_bytes // block_bytes))
    n_blocks = max(1, min(n_blocks, n_rows))
    return np.linspace(0, n_rows, n_blocks + 1).astype(np.int64)
