"""What a factorization is made of: the singular values of XYᵀ, how many of them matter, and how long its rows are.

Factors are defined up to a rotation of both sides (without a ridge, up to any invertible matrix), so their columns tell
little. XYᵀ is what they stand for, and its singular values are the same in every basis.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.gram import block_gram, eigenbasis
from factorlake.types import FloatMatrix

from .plan import Rows
from .threads import single_threaded_blas

NORM_LEVELS = (0.0, 0.1, 0.5, 0.9, 1.0)
"""Levels of the quantiles of row norms: the shortest, 10 %, the median, 90 %, the longest."""


@dataclass(frozen=True)
class Spectrum:
    """XYᵀ in figures; biases and mean are left out."""

    singular_values: tuple[float, ...]
    """(rank,) of XYᵀ, descending."""
    effective_rank: float
    user_norms: tuple[float, ...]
    """Quantiles of |x_u| at NORM_LEVELS."""
    item_norms: tuple[float, ...]
    """Quantiles of |y_i| at NORM_LEVELS."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Spectrum:
        kept = json.loads(text)
        return Spectrum(
            singular_values=tuple(kept["singular_values"]),
            effective_rank=kept["effective_rank"],
            user_norms=tuple(kept["user_norms"]),
            item_norms=tuple(kept["item_norms"]),
        )


def singular_values(user_gram: FloatMatrix, item_gram: FloatMatrix) -> NDArray[np.float64]:
    """Return the singular values of XYᵀ from the Gram matrices alone.

    They are the roots of the eigenvalues of G_x^½ G_y G_x^½, since (XYᵀ)ᵀ(XYᵀ) = Y G_x Yᵀ has those of G_x G_y, and
    zeros. Taken as the singular values of G_y^½ G_x^½, which spares squaring them. Those below about 10⁻⁸ of the
    largest are lost in the rounding of the Gram matrices.

    Parameters
    ----------
    user_gram, item_gram : (rank, rank) XᵀX and YᵀY.

    Returns
    -------
    (rank,) float64, descending, none negative.

    Raises
    ------
    NumericalError : a matrix has entries that are not finite.
    """
    return np.asarray(np.linalg.svd(_half(item_gram).T @ _half(user_gram), compute_uv=False), dtype=np.float64)


def _half(gram: FloatMatrix) -> NDArray[np.float64]:
    """Return QΛ^½, with HHᵀ = G; eigenvalues at the level of rounding count as 0."""
    basis, eigenvalues = eigenbasis(gram)
    rounding = len(eigenvalues) * np.finfo(np.float64).eps * eigenvalues.max(initial=0.0)
    return basis * np.sqrt(np.where(eigenvalues > rounding, eigenvalues, 0.0))


def effective_rank(values: NDArray[np.float64]) -> float:
    """Return exp(−Σ p ln p) for p = σ/Σσ: as many equal singular values would have this entropy.

    1 where one singular value makes up all, rank where all are equal, 0 where all are 0.

    Source: Roy, Vetterli, The Effective Rank, EUSIPCO 2007.
    """
    total = float(values.sum())
    if total == 0:
        return 0.0
    p = values[values > 0] / total
    return math.exp(-float(np.sum(p * np.log(p))))


def spectrum(users: Rows, items: Rows, rank: int) -> Spectrum:
    """Return the spectrum of a model from its rows, one block in memory at a time.

    Parameters
    ----------
    users, items : rows (rank columns, then a bias where there is one).

    Raises
    ------
    NumericalError : a factor is not finite.
    """
    with single_threaded_blas():
        user_gram, user_norms = _gram_and_norms(users, rank)
        item_gram, item_norms = _gram_and_norms(items, rank)
        values = singular_values(user_gram, item_gram)
    return Spectrum(tuple(values.tolist()), effective_rank(values), _quantiles(user_norms), _quantiles(item_norms))


def _gram_and_norms(rows: Rows, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    gram, norms, first_row = np.zeros((rank, rank)), [np.zeros(0)], 0
    for block in rows.blocks():
        wide = np.asarray(block[:, :rank], dtype=np.float64)
        gram += block_gram(wide, first_row)
        norms.append(np.sqrt(np.einsum("na,na->n", wide, wide)))
        first_row += len(block)
    return gram, np.concatenate(norms)


def _quantiles(norms: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.quantile(norms, NORM_LEVELS).tolist()) if len(norms) else ()
