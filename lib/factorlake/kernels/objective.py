"""The parts of the training objective that need no pass over the observations."""

from __future__ import annotations

import numpy as np

from factorlake.types import FloatMatrix, FloatVector


def all_pairs_loss(user_gram: FloatMatrix, item_gram: FloatMatrix, unobserved_weight: float) -> float:
    """Return α0 Σ_u Σ_i (x_u·y_i)² = α0 Σ_ab (XᵀX)_ab (YᵀY)_ab, in float64.

    Both Gram matrices, (rank, rank), must be in the same basis. Source: Rendle et al., RecSys 2022, section
    2.2.
    """
    return float(unobserved_weight * np.sum(np.asarray(user_gram, np.float64) * np.asarray(item_gram, np.float64)))


def ridge_loss(factors: FloatMatrix, ridge: FloatVector | float) -> float:
    """Return Σ_r ridge_r |x_r|², in float64; 0 for no rows.

    factors (n_rows, rank); ridge (n_rows,) or one number for all rows.
    """
    wide = np.asarray(factors, dtype=np.float64)
    norms = np.einsum("ra,ra->r", wide, wide)
    return float(np.sum(norms * ridge))
