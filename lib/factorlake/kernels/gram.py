"""Gram matrices of factors, their eigenbasis, and rotation into it."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.types import FloatMatrix, FloatVector

from .arrays import read_only


def gram_matrix(factors: FloatMatrix) -> NDArray[np.float64]:
    """Return FᵀF, the term every implicit row solve shares.

    Parameters
    ----------
    factors : (n_rows, rank) float32 or float64. Zero rows give the zero matrix.

    Returns
    -------
    (rank, rank), float64 whatever the input, so many small rows do not lose precision.

    Raises
    ------
    NumericalError : a factor is NaN or infinite; names the first bad row.

    Source: Hu, Koren, Volinsky, ICDM 2008, section 4.
    """
    return block_gram(factors, first_row=0)


def block_gram(factors: FloatMatrix, first_row: int, weights: FloatVector | None = None) -> NDArray[np.float64]:
    """Return FᵀWF of one logical block of rows. The Gram matrix of a side is the sum over its blocks in block
    order.

    Parameters
    ----------
    factors : (n_rows, rank). Zero rows give the zero matrix.
    first_row : position of the block's first row on its side, to name a bad row.
    weights : (n_rows,) diagonal of W, or None for ones.

    Returns
    -------
    (rank, rank) float64.

    Raises
    ------
    NumericalError : a factor is NaN or infinite; names the first bad row.
    """
    wide = np.ascontiguousarray(factors, dtype=np.float64)
    gram = wide.T @ (wide if weights is None else wide * np.asarray(weights, dtype=np.float64)[:, None])
    # A NaN or an infinity in any row reaches the diagonal, so the rows are searched only when there is one.
    if not np.isfinite(np.diagonal(gram)).all():
        bad_rows = np.flatnonzero(~np.isfinite(wide).all(axis=1))
        row = f"row {first_row + int(bad_rows[0])}" if len(bad_rows) else f"the block from row {first_row}"
        raise NumericalError(
            f"factors of {row} are not finite or too large; look for extreme values or raise the regularization"
        )
    return gram


def eigenbasis(gram: FloatMatrix) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (Q, Λ) with G = QΛQᵀ, eigenvalues descending and not negative.

    The largest entry of each eigenvector is positive, so Q is a function of G alone.

    Parameters
    ----------
    gram : (rank, rank) symmetric, positive semidefinite up to rounding.

    Returns
    -------
    Q (rank, rank) and Λ (rank,), float64.

    Raises
    ------
    NumericalError : the matrix has entries that are not finite.
    """
    matrix = np.asarray(gram, dtype=np.float64)
    if not np.isfinite(matrix).all():
        raise NumericalError("the Gram matrix is not finite; look for extreme values or raise the regularization")
    eigenvalues, vectors = np.linalg.eigh((matrix + matrix.T) / 2.0)
    basis = vectors[:, ::-1] * column_signs(vectors[:, ::-1])
    return np.ascontiguousarray(basis), np.maximum(eigenvalues[::-1], 0.0)


def column_signs(matrix: FloatMatrix) -> NDArray[np.float64]:
    """Return each column's sign, that of its first entry of largest magnitude: +1 or −1 (+1 for zeros)."""
    if matrix.shape[0] == 0:
        return np.ones(matrix.shape[1])
    largest = matrix[np.abs(matrix).argmax(axis=0), np.arange(matrix.shape[1])]
    return np.where(largest < 0, -1.0, 1.0)


def rotate_rows(factors: FloatMatrix, basis: FloatMatrix) -> NDArray[np.float64]:
    """Return F·B in float64, every row summed in the same order whatever rows stand beside it.

    BLAS results depend on the shape of the whole matrix; this product is the same for one row as for all of
    them, which lets fold-in of a few rows repeat training's numbers exactly.

    Parameters
    ----------
    factors : (n_rows, rank). Zero rows give an empty matrix.
    basis : (rank, n_columns).
    """
    rotated = np.zeros((factors.shape[0], basis.shape[1]))
    _rotate(read_only(factors, np.float64), read_only(basis, np.float64), rotated)
    return rotated


@njit(cache=True, nogil=True)
def _rotate(factors: FloatMatrix, basis: FloatMatrix, rotated: FloatMatrix) -> None:
    for row in range(factors.shape[0]):
        for k in range(factors.shape[1]):
            scale = factors[row, k]
            for column in range(basis.shape[1]):
                rotated[row, column] += scale * basis[k, column]
