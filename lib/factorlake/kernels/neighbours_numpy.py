"""Neighbours of rows by cosine in plain NumPy: what the compiled kernel is tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, IntVector

from .neighbours import PADDING


def cosine_neighbours_numpy(
    ratings: FloatMatrix,
    n: int,
    tie_rank: IntVector,
    *,
    min_support: int = 1,
    positive_only: bool = False,
    shrinkage: float = 0.0,
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32]]:
    """The plain twin of ``offer_cosines`` over all pairs of rows, from a dense matrix (n_rows, n_others) in which 0 is
    missing: neighbours, similarities and support (n_rows, n), best first. Slow."""
    values = np.asarray(ratings, np.float32).astype(np.float64)
    n_rows = len(values)
    dots, squares = np.zeros((n_rows, n_rows)), np.zeros(n_rows)
    # Column by column: every sum runs in the order of the compiled kernel, so ties are the same ties.
    for column in values.T:
        dots += np.multiply.outer(column, column)
        squares += column * column
    told = (values != 0).astype(np.float64)
    support = (told @ told.T).astype(np.int32)
    norms = np.sqrt(squares)
    lengths = np.multiply.outer(norms, norms)
    cosines = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths > 0)
    if shrinkage > 0:
        cosines *= support / (support + shrinkage)
    similarity = cosines.astype(np.float32)
    listed = support >= max(min_support, 1)
    if positive_only:
        listed &= similarity > 0
    np.fill_diagonal(listed, False)
    neighbours = np.full((n_rows, n), PADDING, np.int32)
    similarities = np.full((n_rows, n), -np.inf, np.float32)
    supports = np.zeros((n_rows, n), np.int32)
    for row in range(n_rows):
        left = np.flatnonzero(listed[row])
        order = left[np.lexsort((np.asarray(tie_rank)[left], -similarity[row, left]))][:n]
        neighbours[row, : len(order)] = order
        similarities[row, : len(order)] = similarity[row, order]
        supports[row, : len(order)] = support[row, order]
    return neighbours, similarities, supports
