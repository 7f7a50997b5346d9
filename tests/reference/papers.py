"""Objectives and row solutions as their papers write them, over dense matrices in float64. R holds 0 where nothing is
observed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]


def hu_koren_objective(r: Matrix, x: Matrix, y: Matrix, regularization: float, alpha: float) -> float:
    """Σ_ui c_ui (p_ui − x_u·y_i)² + λ (Σ|x_u|² + Σ|y_i|²) with c = 1 + α|r|, p = [r > 0]: their equation 3."""
    loss = ((1 + alpha * np.abs(r)) * ((r > 0) - x @ y.T) ** 2).sum()
    return float(loss + regularization * ((x**2).sum() + (y**2).sum()))


def hu_koren_user(r_u: Matrix, y: Matrix, regularization: float, alpha: float) -> Matrix:
    """(YᵀC_uY + λI)⁻¹ YᵀC_u p(u): their equation 4."""
    c = np.diag(1 + alpha * np.abs(r_u))
    return np.linalg.solve(y.T @ c @ y + regularization * np.eye(y.shape[1]), y.T @ c @ (r_u > 0))


def ials_objective(r: Matrix, x: Matrix, y: Matrix, regularization: float, alpha0: float, nu: float) -> float:
    """Σ_S (1 − s)² + α0 Σ_all s² + λ (Σ_u (|S_u| + α0 |I|)^ν |x_u|² + Σ_i (|S_i| + α0 |U|)^ν |y_i|²)."""
    s = x @ y.T
    seen = r != 0
    of_users = (seen.sum(axis=1) + alpha0 * r.shape[1]) ** nu @ (x**2).sum(axis=1)
    of_items = (seen.sum(axis=0) + alpha0 * r.shape[0]) ** nu @ (y**2).sum(axis=1)
    return float(((1 - s)[seen] ** 2).sum() + alpha0 * (s**2).sum() + regularization * (of_users + of_items))


def ials_user(r_u: Matrix, y: Matrix, regularization: float, alpha0: float, nu: float) -> Matrix:
    """(Σ_S y yᵀ + α0 YᵀY + λ (|S_u| + α0 |I|)^ν I)⁻¹ Σ_S y."""
    seen = y[r_u != 0]
    ridge = regularization * (len(seen) + alpha0 * len(y)) ** nu
    return np.linalg.solve(seen.T @ seen + alpha0 * y.T @ y + ridge * np.eye(y.shape[1]), seen.sum(axis=0))


def spark_objective(r: Matrix, x: Matrix, y: Matrix, reg_param: float, alpha: float | None) -> float:
    """Spark's objective, implicit with α and explicit without; its ridge counts ratings r > 0, or all of them."""
    counted = r > 0 if alpha is not None else r != 0
    ridge = counted.sum(axis=1) @ (x**2).sum(axis=1) + counted.sum(axis=0) @ (y**2).sum(axis=1)
    s = x @ y.T
    loss = ((r - s)[r != 0] ** 2).sum() if alpha is None else ((1 + alpha * np.abs(r)) * ((r > 0) - s) ** 2).sum()
    return float(loss + reg_param * ridge)


def spark_user(r_u: Matrix, y: Matrix, reg_param: float, alpha: float | None) -> Matrix:
    """The row that minimises ``spark_objective`` over one user; zeros where the system says nothing."""
    if alpha is not None:
        return hu_koren_user(r_u, y, reg_param * float((r_u > 0).sum()), alpha)
    seen, rated = y[r_u != 0], r_u[r_u != 0]
    return np.linalg.solve(seen.T @ seen + reg_param * len(seen) * np.eye(y.shape[1]), seen.T @ rated)
