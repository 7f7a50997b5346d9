"""The half step once more in plain NumPy, row by row: what the compiled kernels are tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.types import FloatMatrix, FloatVector

from .half_step import SHARED, RowSolver, SolvedBlock
from .nonnegative import LEAST_FALL
from .row_solvers import FIRST_JITTER, LEAST_PIVOT, MAX_JITTERS, SEGMENT, TILE
from .subspace import SUBSPACE

LONGEST = {"cg": SEGMENT, "subspace": TILE}
"""Longer rows are solved exactly instead."""


def solve_block_numpy(
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
    base_matrix: FloatMatrix | None = None,
) -> SolvedBlock:
    """The plain twin of ``half_step.solve_block``: same arguments, same meaning, same errors; no speed."""
    n_obs, n_rows = len(neighbours), len(row_ptr) - 1
    c_all = np.broadcast_to(np.asarray(confidence, dtype=factors.dtype), n_obs)
    t_all = np.broadcast_to(np.asarray(target, dtype=factors.dtype), n_obs)
    if offset is not None:
        t_all = t_all - np.asarray(offset, dtype=factors.dtype)[neighbours]
    solved = np.zeros((n_rows, factors.shape[1]), dtype=factors.dtype)
    loss = residual_sum = 0.0
    jitters = 0
    for row in range(n_rows):
        part = slice(row_ptr[row], row_ptr[row + 1])
        f, c, t = factors[neighbours[part]], c_all[part], t_all[part]
        diagonal = base_diagonal + ridge[row] * mask
        reported = solved[row]
        if len(f) and (solver == "exact" or len(f) > LONGEST.get(solver, len(f))):
            solution, taken = _exact(f, c, t, diagonal)
            if solution is None:
                raise NumericalError(
                    f"the system of row {first_row + row} cannot be solved; "
                    "look for extreme values or raise the regularization"
                )
            solved[row] = solution
            jitters += taken
        elif len(f) and solver == "cg" and warm is not None:
            solved[row] = _descend(f, c, t, diagonal.astype(factors.dtype), warm[row], steps)
        elif len(f) and solver == "subspace" and warm is not None:
            solved[row] = _sweep(f, c, t, diagonal.astype(factors.dtype), warm[row])
        elif len(f) and solver == "nonnegative":
            matrix = np.diag(diagonal) if base_matrix is None else np.diag(diagonal) + base_matrix
            start = np.zeros(len(mask)) if warm is None else warm[row]
            solution = _coordinates(f, c, t, matrix, mask, start, steps)
            if not np.isfinite(solution).all():
                raise NumericalError(
                    f"the system of row {first_row + row} cannot be solved; "
                    "look for extreme values or raise the regularization"
                )
            reported[:] = solution
        elif len(f) and solver in SHARED:
            pull = f.astype(np.float64).T @ (c.astype(np.float64) * t.astype(np.float64))
            if solver == "product":
                solved[row] = pull
                continue
            matrix = np.diag(diagonal) if base_matrix is None else np.diag(diagonal) + base_matrix
            start = np.zeros(len(mask)) if warm is None else warm[row]
            solution = _lowest(matrix, pull, mask, start, steps)
            if not np.isfinite(solution).all():
                raise NumericalError(
                    f"the system of row {first_row + row} cannot be solved; "
                    "look for extreme values or raise the regularization"
                )
            reported[:] = solution
            loss += float(np.sum(c.astype(np.float64) * t.astype(np.float64) ** 2) - 2 * reported @ pull)
            continue
        elif solver == "residual" and warm is not None:
            solved[row] = warm[row]
        if warm is not None and solver not in ("exact", "nonnegative"):
            reported = np.asarray(warm[row], dtype=factors.dtype)
        e = t.astype(np.float64) - (f @ reported).astype(np.float64)
        loss += float(np.sum(c * e * e))
        residual_sum += float(np.sum(c * e))
    return SolvedBlock(solved, loss, residual_sum, jitters)


def _exact(
    f: FloatMatrix, c: FloatVector, t: FloatVector, diagonal: NDArray[np.float64]
) -> tuple[NDArray[np.float64] | None, int]:
    """Solve (D + Σ c f fᵀ) x = Σ c t f in float64; return (x or None, jitters)."""
    wide = f.astype(np.float64)
    matrix = np.diag(diagonal) + wide.T @ (wide * c[:, None])
    right = wide.T @ (c.astype(np.float64) * t)
    if not matrix.any() and not right.any():
        return right, 1
    jitter = 0.0
    for taken in range(MAX_JITTERS + 1):
        ridged = matrix + jitter * np.eye(len(matrix))
        try:
            lower = np.linalg.cholesky(ridged)
        except np.linalg.LinAlgError:
            lower = np.zeros_like(matrix)
        if np.all(np.diagonal(lower) ** 2 > LEAST_PIVOT * np.diagonal(ridged)):
            return np.linalg.solve(lower.T, np.linalg.solve(lower, right)), taken
        jitter = 10.0 * jitter if taken else FIRST_JITTER * np.trace(matrix) / len(matrix)
    return None, MAX_JITTERS


def _descend(
    f: FloatMatrix, c: FloatVector, t: FloatVector, diagonal: FloatVector, start: FloatVector, steps: int
) -> FloatVector:
    """Take CG steps on (D + Σ c f fᵀ) x = Σ c t f, preconditioned by its diagonal."""
    x = np.array(start, dtype=f.dtype)
    residual = f.T @ (c * (t - f @ x)) - diagonal * x
    bends = diagonal + (f * f).T @ c
    scale = np.divide(1.0, bends, out=np.zeros_like(bends), where=bends > 0)
    direction = scale * residual
    descent = residual @ direction
    for _ in range(steps):
        curvature = diagonal * direction + f.T @ (c * (f @ direction))
        bend = direction @ curvature
        if not bend > 0:
            break
        length = descent / bend
        x += length * direction
        residual -= length * curvature
        next_descent = residual @ (scale * residual)
        direction = scale * residual + next_descent / descent * direction
        descent = next_descent
    return x


def _sweep(f: FloatMatrix, c: FloatVector, t: FloatVector, diagonal: FloatVector, start: FloatVector) -> FloatVector:
    """Solve (D + Σ c f fᵀ) x = Σ c t f for SUBSPACE coordinates after the other, each once."""
    x = np.array(start, dtype=f.dtype)
    e = t - f @ x
    for first in range(0, len(x), SUBSPACE):
        part = slice(first, first + SUBSPACE)
        own = f[:, part]
        matrix = own.T @ (own * c[:, None]) + np.diag(diagonal[part])
        step = np.linalg.solve(matrix.astype(np.float64), own.T @ (c * e) - diagonal[part] * x[part])
        x[part] += step
        e = e - own @ step.astype(f.dtype)
    return x


def _coordinates(
    f: FloatMatrix,
    c: FloatVector,
    t: FloatVector,
    base: FloatMatrix,
    mask: FloatVector,
    start: FloatVector,
    sweeps: int,
) -> NDArray[np.float64]:
    """Lower xᵀ(B + Σ c f fᵀ)x − 2 Σ c t f·x coordinate by coordinate, those with a mask of 1 from 0 up."""
    wide = f.astype(np.float64)
    right = wide.T @ (c.astype(np.float64) * t)
    return _lowest(base + wide.T @ (wide * c[:, None]), right, mask, start, sweeps)


def _lowest(
    matrix: FloatMatrix, right: FloatVector, mask: FloatVector, start: FloatVector, sweeps: int
) -> NDArray[np.float64]:
    """Lower xᵀAx − 2bᵀx coordinate by coordinate, those with a mask of 1 from 0 up."""
    lowest = np.where(mask != 0, 0.0, -np.inf)
    x = np.maximum(np.asarray(start, dtype=np.float64), lowest)
    for _ in range(sweeps):
        before = x.copy()
        for a in range(len(x)):
            bend = matrix[a, a]
            x[a] = np.maximum(0.0 if bend <= 0 else x[a] + (right[a] - matrix[a] @ x) / bend, lowest[a])
        fall = np.sum(np.diagonal(matrix) * (x - before) ** 2)
        if not fall > LEAST_FALL * np.sum(np.abs(x * right)):
            break
    return x
