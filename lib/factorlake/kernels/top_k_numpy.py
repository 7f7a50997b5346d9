"""The best k items of each user in plain NumPy: what the compiled scorer is tested against."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, FloatVector, IntVector

from .top_k import PADDING


def top_k_numpy(
    user_factors: FloatMatrix,
    item_factors: FloatMatrix,
    k: int,
    seen_ptr: IntVector,
    seen_items: IntVector,
    tie_rank: IntVector,
    user_bias: FloatVector | None = None,
    item_bias: FloatVector | None = None,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The plain twin of ``top_k``: every score in float64, a full sort. Slow."""
    n_users, n_items = len(user_factors), len(item_factors)
    best = np.full((n_users, k), PADDING, np.int32)
    scores = np.full((n_users, k), -np.inf, np.float32)
    listed = np.ones(n_items, bool) if allowed is None else np.asarray(allowed)
    for user in range(n_users):
        exact = np.zeros(n_items)
        # Column by column: every sum runs in the order of the compiled kernel, so ties are the same ties.
        for a in range(user_factors.shape[1]):
            exact += np.float64(user_factors[user, a]) * np.asarray(item_factors[:, a], np.float64)
        exact += 0.0 if user_bias is None else np.float64(np.float32(user_bias[user]))
        exact += 0.0 if item_bias is None else np.asarray(item_bias, np.float32).astype(np.float64)
        row = exact.astype(np.float32)
        left = np.setdiff1d(np.flatnonzero(listed), seen_items[seen_ptr[user] : seen_ptr[user + 1]])
        order = left[np.lexsort((np.asarray(tie_rank)[left], -row[left]))][:k]
        best[user, : len(order)] = order
        scores[user, : len(order)] = row[order]
    return best, scores
