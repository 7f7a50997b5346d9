"""The short cut that robust PCA is compared with: the nearest matrix of a rank as background, the rest as foreground.

The nearest in the sense of least squares, so what passes in front leaves its ghost in the background.

Source: Eckart and Young, Psychometrika 1 (1936).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.row_products import MatrixRows, dense
from factorlake.types import FloatMatrix

from .row_plan import H, RowPlan
from .threads import single_threaded_blas
from .truncated_svd import SvdParameters, TruncatedSvd, truncated_svd


def plain_background(plan: RowPlan[H], matrix: H, n_columns: int, rank: int = 1, seed: int = 7) -> TruncatedSvd[H]:
    """Return the best approximation of a rank; see ``background_rows`` and ``foreground_rows``.

    Raises
    ------
    ConfigError, NumericalError : as ``truncated_svd``.
    """
    return truncated_svd(plan, matrix, n_columns, SvdParameters(rank=rank, seed=seed), measure_error=False)


def background_rows(plan: RowPlan[H], found: TruncatedSvd[H]) -> H:
    """Return UΣVᵀ (n_rows, n_columns) in the matrix's precision, held as rows."""
    scaled = found.right * found.singular_values

    def make(first_row: int, left: FloatMatrix) -> tuple[FloatMatrix, None]:
        return _product(left, scaled), None

    with single_threaded_blas():
        return plan.map_rows(make, found.left)[0]


def foreground_rows(plan: RowPlan[H], matrix: H, found: TruncatedSvd[H]) -> H:
    """Return A − UΣVᵀ (n_rows, n_columns) in the matrix's precision, held as rows."""
    scaled = found.right * found.singular_values

    def make(first_row: int, rows: MatrixRows, left: FloatMatrix) -> tuple[FloatMatrix, None]:
        return dense(rows) - _product(left, scaled), None

    with single_threaded_blas():
        return plan.map_rows(make, matrix, found.left)[0]


def _product(left: FloatMatrix, scaled: NDArray[np.float64]) -> FloatMatrix:
    return np.asarray(left @ scaled.T.astype(left.dtype))
