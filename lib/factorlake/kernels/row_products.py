"""What a decomposition asks of a few rows of a matrix, dense or sparse, while they are in the cache.

Rows are a dense (n_rows, n_columns) array or a scipy.sparse CSR matrix, of float32 or float64. Products are taken in
the precision of the rows, sums over tiles of rows in float64. Every call is cut the same way whatever thread or task it
runs in: BLAS with one thread gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix, issparse

from factorlake.errors import ConfigError, NumericalError
from factorlake.types import FloatMatrix, FloatVector, IntVector

from .arrays import FAST_SUMS, read_only

MatrixRows: TypeAlias = FloatMatrix | csr_array | csr_matrix

TILE_BYTES = 2 << 20
"""A tile of rows this large stays in the cache between two products. From 1 to 8 MiB measure alike."""
FEWEST_ROWS = 32
"""Of a tile: with fewer a product of matrices is no faster than of vectors."""


def check_shape(rows: MatrixRows, n_columns: int) -> None:
    """Raise ConfigError where rows are not of float32 or float64, or have another number of columns."""
    if rows.dtype not in (np.float32, np.float64):
        raise ConfigError(f"the matrix holds {rows.dtype}; bring it to float32 or float64")
    if rows.ndim != 2 or rows.shape[1] != n_columns:
        raise ConfigError(f"rows of shape {rows.shape} do not belong to a matrix of {n_columns} columns")


def dense(rows: MatrixRows) -> FloatMatrix:
    """Return rows as an array."""
    return rows.toarray() if issparse(rows) else rows  # type: ignore[union-attr]


def squared_norm(rows: MatrixRows, first_row: int) -> float:
    """Return ‖A‖_F² of rows, a float64 sum; 0 of no rows.

    Raises
    ------
    NumericalError : a number is NaN or infinite, or its square is; names the first such row, counted from
        ``first_row``.
    """
    # Whatever is NaN or infinite reaches the sum, so rows are searched only where it is one.
    total = _sum_of_squares(read_only(_parts(rows)[2][None, :] if issparse(rows) else rows, rows.dtype))
    if np.isfinite(total):
        return total
    for row in range(rows.shape[0]):
        one = dense(rows[row : row + 1])
        if not np.isfinite(_sum_of_squares(read_only(one, one.dtype))):
            raise NumericalError(
                f"row {first_row + row} of the matrix has a number that is missing (NaN), infinite, or too large to be "
                "squared; fill it in or leave the row out"
            )
    raise NumericalError(f"rows {first_row} and following are too large to be squared and added up; scale the matrix")


def normal_product(rows: MatrixRows, basis: FloatMatrix) -> NDArray[np.float64]:
    """Return AᵀAV, reading the rows A from memory once.

    Parameters
    ----------
    rows : (n_rows, n_columns). None give zeros.
    basis : V (n_columns, width).

    Returns
    -------
    (n_columns, width) float64.
    """
    near = np.ascontiguousarray(basis, rows.dtype)
    total = np.zeros(near.shape)
    if issparse(rows):
        _add_normal_product(*_parts(rows), read_only(near, near.dtype), total)
        return total
    images = np.empty_like(near)
    for first, last in _tiles(rows):
        tile = rows[first:last]
        np.matmul(tile.T, tile @ near, out=images)
        total += images
    return total


def row_product(rows: MatrixRows, basis: FloatMatrix) -> FloatMatrix:
    """Return AV (n_rows, width) in the precision of the rows."""
    near = np.ascontiguousarray(basis, rows.dtype)
    return np.asarray(rows @ near)


def residual_sums(
    rows: MatrixRows, left: FloatMatrix, right: FloatMatrix, probes: FloatMatrix
) -> tuple[float, NDArray[np.float64]]:
    """Return ‖E‖_F², a sum of squares of E's own entries, and EᵀEΩ for E = A − LRᵀ, reading the rows A once.

    Parameters
    ----------
    rows : A (n_rows, n_columns). None give zeros.
    left, right : L (n_rows, rank) and R (n_columns, rank).
    probes : Ω (n_columns, n_probes).

    Returns
    -------
    A float64 sum, and (n_columns, n_probes) float64.
    """
    left, right, probes = (np.ascontiguousarray(array, rows.dtype) for array in (left, right, probes))
    squares, images = 0.0, np.zeros(probes.shape)
    for first, last in _tiles(rows):
        tile = dense(rows[first:last])
        errors = left[first:last] @ right.T
        squares += _subtract_from(read_only(tile, tile.dtype), errors)
        images += errors.T @ (errors @ probes)
    return squares, images


def _tiles(rows: MatrixRows) -> Iterator[tuple[int, int]]:
    n_rows, n_columns = rows.shape
    step = max(FEWEST_ROWS, TILE_BYTES // max(1, n_columns * rows.dtype.itemsize))
    for first in range(0, n_rows, step):
        yield first, min(first + step, n_rows)


def _parts(rows: MatrixRows) -> tuple[IntVector, IntVector, FloatVector]:
    return (
        read_only(rows.indptr, np.int64),  # type: ignore[union-attr]
        read_only(rows.indices, rows.indices.dtype),  # type: ignore[union-attr]
        read_only(rows.data, rows.dtype),
    )


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _sum_of_squares(rows: FloatMatrix) -> float:
    total = 0.0
    for row in range(rows.shape[0]):
        of_row = 0.0
        for column in range(rows.shape[1]):
            value = np.float64(rows[row, column])
            of_row += value * value
        total += of_row
    return total


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _subtract_from(rows: FloatMatrix, product: FloatMatrix) -> float:
    """Make ``product`` rows − product; return its sum of squares."""
    total = 0.0
    for row in range(rows.shape[0]):
        of_row = 0.0
        for column in range(rows.shape[1]):
            error = rows[row, column] - product[row, column]
            product[row, column] = error
            value = np.float64(error)
            of_row += value * value
        total += of_row
    return total


@njit(cache=True, nogil=True)
def _add_normal_product(
    row_ptr: IntVector, columns: IntVector, values: FloatVector, basis: FloatMatrix, total: FloatMatrix
) -> None:
    width = basis.shape[1]
    seen = np.empty(width)
    for row in range(row_ptr.shape[0] - 1):
        seen[:] = 0.0
        for place in range(row_ptr[row], row_ptr[row + 1]):
            value, column = values[place], columns[place]
            for k in range(width):
                seen[k] += value * basis[column, k]
        for place in range(row_ptr[row], row_ptr[row + 1]):
            value, column = values[place], columns[place]
            for k in range(width):
                total[column, k] += value * seen[k]
