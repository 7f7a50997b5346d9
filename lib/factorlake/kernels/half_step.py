"""One half step of one block: every row solved with the other side's factors fixed."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.types import FloatMatrix, FloatVector

from .arrays import read_only
from .conjugate_gradients import cg_rows
from .hals import add_segment_pull, hals_rows, product_rows
from .nonnegative import nonnegative_rows
from .observations import LongSums, RowRidge, long_sums, observations
from .residuals import residual_rows
from .row_solvers import add_segment, exact_rows
from .subspace import subspace_rows

RowSolver = Literal["cg", "subspace", "exact", "nonnegative", "hals", "product", "residual"]
SHARED: tuple[RowSolver, ...] = ("hals", "product")
"""Solvers of rows that share one matrix: their observations give the right-hand side only."""


class SolvedBlock(NamedTuple):
    """What a half step gives back for one block."""

    factors: FloatMatrix
    """(n_rows, rank), in the precision of the fixed side."""
    observed_loss: float
    """Σ c (t − o − x·f)²: of the state after under exact and nonnegative, before under the others. Under hals
    Σ c (t² − 2 t x·f) after, which may be negative, as x·f counts in every cell; 0 under product."""
    residual_sum: float
    """Σ c (t − o − x·f) of that same state; 0 under hals and product."""
    jitters: int
    """Ridge jitters that indefinite systems took."""


def solve_block(
    row_ptr: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    confidence: FloatVector | float,
    target: FloatVector | float,
    factors: FloatMatrix,
    warm: FloatMatrix | None,
    base_diagonal: FloatVector,
    ridge: FloatVector,
    mask: FloatVector,
    solver: RowSolver,
    steps: int = 2,
    offset: FloatVector | None = None,
    first_row: int = 0,
    known: LongSums | None = None,
    base_matrix: FloatMatrix | None = None,
) -> SolvedBlock:
    """Minimise Σ c (t − o − x·f)² + Σ D x² + xᵀBx, D = base_diagonal + ridge·mask, for every row x of one block; under
    nonnegative with x ≥ 0 where the mask is 1. Under hals, where every cell counts and B holds what they share,
    minimise Σ D x² + xᵀBx − 2 Σ c (t − o) x·f, with x ≥ 0 likewise.

    A row's result depends on its own observations only, never on its block, and the sums run over rows in
    order.

    Parameters
    ----------
    row_ptr, neighbours : (n_rows + 1,) and (n_obs,), the block's observations compressed by row; neighbours
        are rows of ``factors``. A row without observations gets zeros; no rows at all give an empty matrix.
    confidence, target : (n_obs,) c > 0 and t, or one number for all observations.
    factors : (n_other, rank) the fixed side; float32 or float64, which is the precision of all products.
    warm : (n_rows, rank) the rows' present factors; None where the solver is exact or product, or nonnegative or hals
        from zeros.
    base_diagonal, mask : (rank,); ridge : (n_rows,).
    solver : cg (``steps`` steps from ``warm``), subspace (one sweep from ``warm``), exact, nonnegative and hals (at
        most ``steps`` sweeps from ``warm``), product (each row becomes its Σ c (t − o) f), or residual (nothing is
        solved, only the loss is taken).
    offset : (n_other,) subtracted from the target of each observation, or None.
    first_row : position of the block's first row on its side, to name a bad row.
    known : sums of the rows longer than SEGMENT, as `segment_sums` makes them; without them those rows are summed here,
        to the same bits.
    base_matrix : (rank, rank) B, under nonnegative and hals only; None: zeros.

    Raises
    ------
    NumericalError : a row's system stays indefinite whatever ridge is added; names the row.
    """
    observed = observations(row_ptr, neighbours, confidence, target, offset, factors)
    system = RowRidge(
        base=read_only(base_diagonal, np.float64),
        mask=read_only(mask, np.float64),
        ridge=read_only(ridge, np.float64),
    )
    known = long_sums([], []) if known is None else known
    dtype = observed.factors.dtype
    sums = np.zeros(3)
    failed = -1
    if solver == "exact":
        solved = np.empty((len(row_ptr) - 1, factors.shape[1]), dtype=dtype)
        failed = exact_rows(observed, system, known, solved, sums)
    elif solver in ("nonnegative", "hals"):
        rank = factors.shape[1]
        solved = np.empty((len(row_ptr) - 1, rank), dtype=dtype)
        common = read_only(np.zeros((rank, rank)) if base_matrix is None else base_matrix, np.float64)
        start = np.zeros_like(solved) if warm is None else warm
        descend = hals_rows if solver == "hals" else nonnegative_rows
        failed = descend(observed, system, common, known, read_only(start, dtype), steps, solved, sums)
    elif solver == "product":
        solved = np.empty((len(row_ptr) - 1, factors.shape[1]), dtype=dtype)
        product_rows(observed, known, solved)
    elif warm is None:
        raise ValueError(f"the solver {solver!r} starts from the rows' present factors; give `warm`")
    elif solver == "cg":
        solved = np.empty((len(row_ptr) - 1, factors.shape[1]), dtype=dtype)
        failed = cg_rows(observed, system, known, read_only(warm, dtype), steps, solved, sums)
    elif solver == "subspace":
        solved = np.empty((len(row_ptr) - 1, factors.shape[1]), dtype=dtype)
        failed = subspace_rows(observed, system, known, read_only(warm, dtype), solved, sums)
    else:
        solved = np.array(warm, dtype=dtype)
        residual_rows(observed, read_only(warm, dtype), sums)
    if failed >= 0:
        raise NumericalError(
            f"the system of row {first_row + failed} cannot be solved; "
            "look for extreme values or raise the regularization"
        )
    return SolvedBlock(solved, float(sums[0]), float(sums[1]), int(sums[2]))


def segment_sums(
    neighbours: NDArray[np.int32],
    confidence: FloatVector | float,
    target: FloatVector | float,
    factors: FloatMatrix,
    offset: FloatVector | None = None,
    solver: RowSolver = "exact",
) -> NDArray[np.float64]:
    """Return Σ c f fᵀ and Σ c (t − o) f of one segment of a row: (rank, rank + 1), as ``LongSums`` holds them.

    A segment has SEGMENT observations, the last of a row what is left. Parameters are those of `solve_block`. Solvers
    of rows that share one matrix ask for no Σ c f fᵀ; it is 0 for them.
    """
    row_ptr = np.array([0, len(neighbours)])
    observed = observations(row_ptr, neighbours, confidence, target, offset, factors)
    sums = np.zeros((factors.shape[1], factors.shape[1] + 1))
    if solver in SHARED:
        add_segment_pull(observed, sums)
    else:
        add_segment(observed, sums)
    return sums
