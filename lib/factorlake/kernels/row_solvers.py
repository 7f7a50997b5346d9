"""Row solvers: one small least-squares system per user or item, exactly or by conjugate gradients.

One file on purpose: numba looks at the file of a compiled function, not at the files of the functions it
calls, to tell whether its cached machine code is still good.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from factorlake.types import FloatMatrix, FloatVector

from .arrays import FAST_SUMS
from .observations import Observations, RowRidge

# Observations whose outer products are summed by one matrix product. A constant of the data layout: partial
# sums are added in tile order, so changing it changes the last bits of every long row.
TILE = 8192
FIRST_JITTER = 1e-10
# A pivot below this share of its diagonal entry is rounding noise, and dividing by it would make up a
# solution.
LEAST_PIVOT = 1e-13
MAX_JITTERS = 12


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _factorize(matrix: FloatMatrix, size: int, lower: FloatMatrix, jitter: float) -> bool:
    """Write L of A + jitter·I = LLᵀ into ``lower``; False if A is not positive definite.

    Only lower triangles are read and written. The diagonal of ``lower`` holds 1/L_ii.
    """
    for i in range(size):
        for j in range(i):
            total = 0.0
            for k in range(j):
                total += lower[i, k] * lower[j, k]
            lower[i, j] = (matrix[i, j] - total) * lower[j, j]
        total = 0.0
        for k in range(i):
            total += lower[i, k] * lower[i, k]
        entry = matrix[i, i] + jitter
        pivot = entry - total
        # The comparisons are written so that NaN fails them too.
        if not (pivot > 0.0 and pivot > LEAST_PIVOT * entry):
            return False
        lower[i, i] = 1.0 / pivot**0.5
    return True


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _substitute(lower: FloatMatrix, size: int, vector: FloatVector) -> None:
    """Overwrite b with the solution of LLᵀx = b, for L as ``_factorize`` leaves it."""
    for i in range(size):
        total = 0.0
        for k in range(i):
            total += lower[i, k] * vector[k]
        vector[i] = (vector[i] - total) * lower[i, i]
    for i in range(size - 1, -1, -1):
        value = vector[i] * lower[i, i]
        vector[i] = value
        for k in range(i):
            vector[k] -= value * lower[i, k]


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _solve_cholesky(matrix: FloatMatrix, size: int, lower: FloatMatrix, vector: FloatVector) -> int:
    """Overwrite b with A⁻¹b and return how many ridge jitters it took, or −1 if no jitter was enough.

    A matrix that rounding made indefinite gets a growing ridge: 1e-10, 1e-9, ... 10 times its mean diagonal.
    """
    if _factorize(matrix, size, lower, 0.0):
        _substitute(lower, size, vector)
        return 0
    trace = 0.0
    for i in range(size):
        trace += matrix[i, i]
    jitter = FIRST_JITTER * trace / size
    for attempt in range(1, MAX_JITTERS + 1):
        if _factorize(matrix, size, lower, jitter):
            _substitute(lower, size, vector)
            return attempt
        jitter *= 10.0
    return -1


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _add_row_loss(observed: Observations, row: int, x: FloatVector, sums: FloatVector) -> None:
    """Add one row's Σ c e² to sums[0] and its Σ c e to sums[1], e = t − o − x·f, in float64."""
    factors = observed.factors
    squares = 0.0
    signed = 0.0
    for p in range(observed.row_ptr[row], observed.row_ptr[row + 1]):
        j = observed.neighbours[p]
        product = factors.dtype.type(0)
        for a in range(x.shape[0]):
            product += x[a] * factors[j, a]
        c = np.float64(observed.confidence[p * observed.confidence_step])
        e = np.float64(observed.target[p * observed.target_step]) - np.float64(product)
        if observed.offset.shape[0] > 0:
            e -= np.float64(observed.offset[j])
        squares += c * e * e
        signed += c * e
    sums[0] += squares
    sums[1] += signed


@njit(cache=True, nogil=True)
def residual_rows(observed: Observations, warm: FloatMatrix, sums: FloatVector) -> None:
    """Add the observed loss (sums[0]) and the weighted residual sum (sums[1]) of all rows, in row order."""
    for row in range(observed.row_ptr.shape[0] - 1):
        _add_row_loss(observed, row, warm[row], sums)


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _solve_dual_row(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    gathered: FloatMatrix,
    lower: FloatMatrix,
    solution: FloatVector,
) -> int:
    """Solve one row with fewer observations L than unknowns through an L × L system; return jitters, −1 on
    failure.

    With B = C^½ F D^-½ the normal equations D^½(I + BᵀB)D^½ x = FᵀC t turn into x = D^-½ Bᵀ (I + BBᵀ)⁻¹ C^½
    t. Every entry of the diagonal D must be positive. Source: Woodbury's identity.
    """
    rank = diagonal.shape[0]
    first = observed.row_ptr[row]
    n = observed.row_ptr[row + 1] - first
    factors = observed.factors
    rows = gathered[:n]
    dual = np.empty(n)
    for a in range(rank):
        solution[a] = 1.0 / diagonal[a] ** 0.5
    for i in range(n):
        p = first + i
        j = observed.neighbours[p]
        t = np.float64(observed.target[p * observed.target_step])
        if observed.offset.shape[0] > 0:
            t -= np.float64(observed.offset[j])
        root = np.float64(observed.confidence[p * observed.confidence_step]) ** 0.5
        dual[i] = root * t
        for a in range(rank):
            rows[i, a] = root * solution[a] * factors[j, a]
    system = np.dot(rows, rows.T).astype(np.float64)
    for i in range(n):
        system[i, i] += 1.0
    jitters = _solve_cholesky(system, n, lower, dual)
    back = np.zeros(rank)
    for i in range(n):
        for a in range(rank):
            back[a] += dual[i] * rows[i, a]
    for a in range(rank):
        solution[a] *= back[a]
    return jitters


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _solve_primal_row(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    gathered: FloatMatrix,
    lower: FloatMatrix,
    solution: FloatVector,
) -> int:
    """Solve (D + Σ c f fᵀ) x = Σ c t f for one row of any length; return jitters, −1 on failure.

    The outer products are summed by one matrix product per tile of TILE observations, in the factors' own
    precision; the tiles' sums are added in float64, in tile order.
    """
    rank = diagonal.shape[0]
    first, last = observed.row_ptr[row], observed.row_ptr[row + 1]
    factors = observed.factors
    matrix = np.zeros((rank, rank))
    for a in range(rank):
        matrix[a, a] = diagonal[a]
        solution[a] = 0.0
    for start in range(first, last, TILE):
        n = min(TILE, last - start)
        rows = gathered[:n]
        for i in range(n):
            p = start + i
            j = observed.neighbours[p]
            t = np.float64(observed.target[p * observed.target_step])
            if observed.offset.shape[0] > 0:
                t -= np.float64(observed.offset[j])
            c = np.float64(observed.confidence[p * observed.confidence_step])
            root = c**0.5
            weighted = c * t
            for a in range(rank):
                rows[i, a] = root * factors[j, a]
                solution[a] += weighted * factors[j, a]
        partial = np.dot(rows.T, rows)
        for a in range(rank):
            for b in range(a + 1):
                matrix[a, b] += partial[a, b]
    return _solve_cholesky(matrix, rank, lower, solution)


@njit(cache=True, nogil=True)
def _longest_row(observed: Observations) -> int:
    """Return the greatest number of observations of any row."""
    longest = 0
    for row in range(observed.row_ptr.shape[0] - 1):
        longest = max(longest, observed.row_ptr[row + 1] - observed.row_ptr[row])
    return longest


@njit(cache=True, nogil=True)
def exact_rows(observed: Observations, system: RowRidge, solved: FloatMatrix, sums: FloatVector) -> int:
    """Solve every row exactly; sums[0] and sums[1] take the loss and residual sum after, sums[2] the jitters.

    Returns −1, or the first row that could not be solved. A row without observations becomes zero.
    """
    rank = observed.factors.shape[1]
    gathered = np.empty((min(_longest_row(observed), TILE), rank), dtype=observed.factors.dtype)
    lower = np.empty((rank, rank))
    diagonal = np.empty(rank)
    solution = np.empty(rank)
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n == 0:
            solved[row, :] = 0.0
            continue
        for a in range(rank):
            diagonal[a] = system.base[a] + system.ridge[row] * system.mask[a]
        if n < rank and diagonal.min() > 0.0:
            jitters = _solve_dual_row(observed, row, diagonal, gathered, lower, solution)
        else:
            jitters = _solve_primal_row(observed, row, diagonal, gathered, lower, solution)
        if jitters < 0:
            return row
        sums[2] += jitters
        for a in range(rank):
            solved[row, a] = solution[a]
        _add_row_loss(observed, row, solved[row], sums)
    return -1


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _first_residual(
    observed: Observations,
    row: int,
    x: FloatVector,
    residual: FloatVector,
    preconditioner: FloatVector,
    sums: FloatVector,
) -> None:
    """Add Σ c e f to the residual, Σ c f² to the preconditioner, Σ c e² and Σ c e to the sums.

    e = t − o − x·f.
    """
    factors = observed.factors
    squares = 0.0
    signed = 0.0
    for p in range(observed.row_ptr[row], observed.row_ptr[row + 1]):
        j = observed.neighbours[p]
        product = factors.dtype.type(0)
        for a in range(x.shape[0]):
            product += x[a] * factors[j, a]
        c = observed.confidence[p * observed.confidence_step]
        e = observed.target[p * observed.target_step] - product
        if observed.offset.shape[0] > 0:
            e -= observed.offset[j]
        weighted = c * e
        squares += np.float64(weighted) * np.float64(e)
        signed += np.float64(weighted)
        for a in range(x.shape[0]):
            f = factors[j, a]
            residual[a] += weighted * f
            preconditioner[a] += c * f * f
    sums[0] += squares
    sums[1] += signed


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _add_curvature(observed: Observations, row: int, direction: FloatVector, curvature: FloatVector) -> None:
    """Add Σ c (p·f) f to the curvature, p the direction."""
    factors = observed.factors
    for p in range(observed.row_ptr[row], observed.row_ptr[row + 1]):
        j = observed.neighbours[p]
        product = factors.dtype.type(0)
        for a in range(direction.shape[0]):
            product += direction[a] * factors[j, a]
        product *= observed.confidence[p * observed.confidence_step]
        for a in range(direction.shape[0]):
            curvature[a] += product * factors[j, a]


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _dot(left: FloatVector, right: FloatVector) -> float:
    total = 0.0
    for a in range(left.shape[0]):
        total += np.float64(left[a]) * np.float64(right[a])
    return total


@njit(cache=True, nogil=True, fastmath=FAST_SUMS)
def _descend(
    observed: Observations,
    row: int,
    diagonal: FloatVector,
    steps: int,
    x: FloatVector,
    scratch: FloatMatrix,
    sums: FloatVector,
) -> None:
    """Take the CG steps of one row in place; ``scratch`` is (4, rank) in the factors' precision."""
    rank = x.shape[0]
    residual, preconditioner, direction, curvature = scratch[0], scratch[1], scratch[2], scratch[3]
    for a in range(rank):
        residual[a] = -diagonal[a] * x[a]
        preconditioner[a] = diagonal[a]
    _first_residual(observed, row, x, residual, preconditioner, sums)
    for a in range(rank):
        # A zero here means that neither data nor ridge touch this coordinate: leave it where it is.
        preconditioner[a] = 1.0 / preconditioner[a] if preconditioner[a] > 0.0 else 0.0
        direction[a] = preconditioner[a] * residual[a]
    descent = _dot(residual, direction)
    for step in range(steps):
        for a in range(rank):
            curvature[a] = diagonal[a] * direction[a]
        _add_curvature(observed, row, direction, curvature)
        bend = _dot(direction, curvature)
        if not bend > 0.0:
            return
        length = descent / bend
        for a in range(rank):
            x[a] += length * direction[a]
            residual[a] -= length * curvature[a]
        if step + 1 < steps:
            for a in range(rank):
                curvature[a] = preconditioner[a] * residual[a]
            next_descent = _dot(residual, curvature)
            turn = next_descent / descent
            descent = next_descent
            for a in range(rank):
                direction[a] = curvature[a] + turn * direction[a]


@njit(cache=True, nogil=True)
def cg_rows(
    observed: Observations,
    system: RowRidge,
    warm: FloatMatrix,
    steps: int,
    solved: FloatMatrix,
    sums: FloatVector,
) -> int:
    """Take ``steps`` preconditioned CG steps in every row; sums[0] and sums[1] take loss and residual sum
    before.

    The preconditioner is M = D + Σ c f². A row longer than TILE is solved exactly instead (sums[2] counts its
    jitters), after one pass for its loss. A row without observations becomes zero. Returns −1, or the first
    row that could not be solved.

    Source: Takács, Pilászy, Tikk, RecSys 2011 (CG for implicit ALS); the eigenbasis makes D diagonal.
    """
    rank = observed.factors.shape[1]
    dtype = observed.factors.dtype
    gathered = np.empty((TILE if _longest_row(observed) > TILE else 0, rank), dtype=dtype)
    lower = np.empty((rank, rank))
    solution = np.empty(rank)
    diagonal = np.empty(rank)
    own_diagonal = np.empty(rank, dtype=dtype)
    scratch = np.empty((4, rank), dtype=dtype)
    for row in range(observed.row_ptr.shape[0] - 1):
        n = observed.row_ptr[row + 1] - observed.row_ptr[row]
        if n == 0:
            solved[row, :] = 0.0
            continue
        for a in range(rank):
            diagonal[a] = system.base[a] + system.ridge[row] * system.mask[a]
        if n > TILE:
            _add_row_loss(observed, row, warm[row], sums)
            jitters = _solve_primal_row(observed, row, diagonal, gathered, lower, solution)
            if jitters < 0:
                return row
            sums[2] += jitters
            for a in range(rank):
                solved[row, a] = solution[a]
        else:
            for a in range(rank):
                own_diagonal[a] = diagonal[a]
                solved[row, a] = warm[row, a]
            _descend(observed, row, own_diagonal, steps, solved[row], scratch, sums)
    return -1
