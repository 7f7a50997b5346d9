"""ALS from its formulas, in plain loops and float64. Slow and obvious on purpose."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.models.parameters import AlsParameters

Ratings = dict[tuple[int, int], float]
"""(user position, item position) → r."""


def solve_row(
    f: NDArray[np.floating], c: NDArray[np.floating], t: NDArray[np.floating], diagonal: NDArray[np.floating]
) -> NDArray[np.floating]:
    """Minimise Σ_j c_j (t_j − x·f_j)² + Σ_a D_a x_a² from its normal equations, summed observation by
    observation."""
    rank = f.shape[1]
    left, right = np.zeros((rank, rank)), np.zeros(rank)
    for a in range(rank):
        left[a, a] = float(diagonal[a])
    for j in range(len(f)):
        for a in range(rank):
            right[a] += float(c[j]) * float(t[j]) * float(f[j, a])
            for b in range(rank):
                left[a, b] += float(c[j]) * float(f[j, a]) * float(f[j, b])
    if not len(f):
        return right
    return np.linalg.solve(left, right)


def ridge_weight(ratings: Ratings, parameters: AlsParameters, side: int, row: int, n_other: int) -> float:
    """w = (n + κ·n_other)^ν; with α only positive ratings count."""
    n = 0
    for pair, r in ratings.items():
        if pair[side] == row and (parameters.objective == "explicit" or parameters.alpha is None or r > 0):
            n += 1
    kappa = parameters.kappa
    if kappa is None:
        kappa = parameters.alpha0 if parameters.objective == "implicit" and parameters.alpha is None else 0.0
    return (n + kappa * n_other) ** parameters.nu


def dense_objective(
    ratings: Ratings,
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    parameters: AlsParameters,
    user_biases: NDArray[np.floating] | None = None,
    item_biases: NDArray[np.floating] | None = None,
    mean: float = 0.0,
) -> float:
    """The objective as papers write it, over every cell of the matrix.

    With α it is Hu-Koren-Volinsky's Σ_all (1 + α|r|)(preference − x·y)² itself, which differs from ours by
    Σ_S (1 + α r)²/(α r) − (1 + α r) over positive r, a constant that is added here.
    """
    total = 0.0
    for u in range(len(x)):
        for i in range(len(y)):
            p = sum(float(x[u, a]) * float(y[i, a]) for a in range(x.shape[1]))
            r = ratings.get((u, i))
            if parameters.objective == "frobenius":
                total += ((0.0 if r is None else r) - p) ** 2
            elif parameters.objective == "explicit":
                if r is not None:
                    b_u = 0.0 if user_biases is None else float(user_biases[u])
                    b_i = 0.0 if item_biases is None else float(item_biases[i])
                    total += (r - mean - b_u - b_i - p) ** 2
            elif parameters.alpha is None:
                total += parameters.alpha0 * p * p
                if r is not None and r != 0:
                    total += abs(r) * ((1.0 if r > 0 else 0.0) - p) ** 2
            else:
                strength = 0.0 if r is None else parameters.alpha * abs(r)
                preference = 1.0 if r is not None and r > 0 else 0.0
                total += (1 + strength) * (preference - p) ** 2
                if r is not None and r > 0:
                    total += (1 + strength) ** 2 / strength - (1 + strength)
    for u in range(len(x)):
        weight = ridge_weight(ratings, parameters, 0, u, len(y))
        total += parameters.regularization * weight * float(np.sum(np.asarray(x[u], np.float64) ** 2))
    for i in range(len(y)):
        weight = ridge_weight(ratings, parameters, 1, i, len(x))
        ridge = parameters.regularization if parameters.item_regularization is None else parameters.item_regularization
        total += ridge * weight * float(np.sum(np.asarray(y[i], np.float64) ** 2))
    if user_biases is not None and item_biases is not None:
        total += parameters.bias_regularization * float(
            np.sum(np.asarray(user_biases, np.float64) ** 2) + np.sum(np.asarray(item_biases, np.float64) ** 2)
        )
    return total


def dense_user_half_step(
    ratings: Ratings, n_users: int, y: NDArray[np.floating], parameters: AlsParameters
) -> NDArray[np.float64]:
    """Solve every user of the implicit objective with every item written out, zeros and all."""
    wide = np.asarray(y, np.float64)
    x = np.zeros((n_users, wide.shape[1]))
    for u in range(n_users):
        left = parameters.alpha0 * wide.T @ wide
        left += parameters.regularization * ridge_weight(ratings, parameters, 0, u, len(y)) * np.eye(wide.shape[1])
        right = np.zeros(wide.shape[1])
        rated = False
        for (owner, i), r in ratings.items():
            if owner != u or r == 0:
                continue
            rated = True
            strength = abs(r) if parameters.alpha is None else parameters.alpha * abs(r)
            left += strength * np.outer(wide[i], wide[i])
            if r > 0:
                right += (strength if parameters.alpha is None else 1 + strength) * wide[i]
        if rated:
            x[u] = np.linalg.solve(left, right)
    return x
