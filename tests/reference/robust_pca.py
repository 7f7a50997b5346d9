"""Robust PCA from its formulas: whole matrices and a whole SVD in every iteration. Slow and obvious on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]


@dataclass
class Answer:
    low_rank: Matrix
    sparse: Matrix
    multipliers: Matrix
    ranks: list[int]
    residuals: list[float]


def soft(matrix: Matrix, threshold: float) -> Matrix:
    return np.sign(matrix) * np.maximum(np.abs(matrix) - threshold, 0.0)


def robust_pca(
    matrix: Matrix, tolerance: float, growth: float = 1.5, sparsity: float | None = None, most: int = 1000
) -> Answer:
    """Algorithm 5 of Lin, Chen and Ma, with one step for L and one for S in each iteration."""
    weight = float(1 / np.sqrt(max(matrix.shape))) if sparsity is None else sparsity
    spectral, norm = float(np.linalg.norm(matrix, 2)), float(np.linalg.norm(matrix))
    multipliers = matrix / max(spectral, np.abs(matrix).max() / weight)
    sparse, penalty = np.zeros_like(matrix), 1.25 / spectral
    ranks: list[int] = []
    residuals: list[float] = []
    for _ in range(most):
        left, values, right = np.linalg.svd(matrix - sparse + multipliers / penalty, full_matrices=False)
        ranks.append(int((values > 1 / penalty).sum()))
        low_rank = left @ np.diag(soft(values, 1 / penalty)) @ right
        sparse = soft(matrix - low_rank + multipliers / penalty, weight / penalty)
        rest = matrix - low_rank - sparse
        multipliers = multipliers + penalty * rest
        penalty *= growth
        residuals.append(float(np.linalg.norm(rest) / norm))
        if residuals[-1] <= tolerance:
            break
    return Answer(low_rank, sparse, multipliers, ranks, residuals)


def objective(low_rank: Matrix, sparse: Matrix, sparsity: float) -> float:
    """‖L‖_* + λ‖S‖₁."""
    return float(np.linalg.norm(low_rank, "nuc") + sparsity * np.abs(sparse).sum())


def lower_bound(matrix: Matrix, multipliers: Matrix, sparsity: float) -> float:
    """What no separation of the matrix has less of: ⟨D, Y⟩ of any Y with ‖Y‖₂ ≤ 1 and |Y| ≤ λ (weak duality)."""
    into_ball = max(np.linalg.norm(multipliers, 2), np.abs(multipliers).max() / sparsity)
    return float(np.sum(matrix * multipliers) / into_ball)
