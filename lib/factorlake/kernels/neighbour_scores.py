"""Scores of given pairs by item neighbours: what a user rated of the items nearest to each."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.kernels.packing import CompressedRows


def neighbour_scores(known: CompressedRows, asked: CompressedRows, near: CompressedRows) -> NDArray[np.float32]:
    """Return Σ_j w_ij r_uj over the neighbours j of item i that user u rated, for each pair (u, i) that is asked for.

    Parameters
    ----------
    known : (n_users) what each user rated: items, and ratings (None: all 1).
    asked : (n_users) the items asked for, in any order; its values do not matter.
    near : (n_items) each item's neighbours with their weights. Weights that are not positive take no part.

    Returns
    -------
    (number of pairs asked for,) float32 in the order of ``asked``; sums are taken in float64 in the order of ``near``.
    NaN where no neighbour of the item was rated.

    Source: Deshpande and Karypis, ACM TOIS 22(1) 2004, section 4.
    """
    ratings = np.ones(len(known.neighbours), np.float32) if known.values is None else known.values
    weights = np.ones(len(near.neighbours), np.float32) if near.values is None else near.values
    return _scores(
        np.asarray(known.row_ptr, np.int64),
        np.asarray(known.neighbours, np.int32),
        np.asarray(ratings, np.float32),
        np.asarray(asked.row_ptr, np.int64),
        np.asarray(asked.neighbours, np.int32),
        np.asarray(near.row_ptr, np.int64),
        np.asarray(near.neighbours, np.int32),
        np.asarray(weights, np.float32),
    )


@njit(cache=True, nogil=True)
def _scores(
    known_ptr: NDArray[np.int64],
    known_items: NDArray[np.int32],
    ratings: NDArray[np.float32],
    asked_ptr: NDArray[np.int64],
    asked_items: NDArray[np.int32],
    near_ptr: NDArray[np.int64],
    near_items: NDArray[np.int32],
    weights: NDArray[np.float32],
) -> NDArray[np.float32]:
    scores = np.full(len(asked_items), np.nan, np.float32)
    rated = np.zeros(len(near_ptr) - 1)
    # Marks hold the number of the user who set them, so that they need no clearing between users.
    rated_by = np.full(len(near_ptr) - 1, -1, np.int64)
    for user in range(len(known_ptr) - 1):
        for at in range(known_ptr[user], known_ptr[user + 1]):
            rated[known_items[at]] = ratings[at]
            rated_by[known_items[at]] = user
        for at in range(asked_ptr[user], asked_ptr[user + 1]):
            total, terms = 0.0, 0
            for place in range(near_ptr[asked_items[at]], near_ptr[asked_items[at] + 1]):
                if rated_by[near_items[place]] == user and weights[place] > 0:
                    total += np.float64(weights[place]) * rated[near_items[place]]
                    terms += 1
            if terms > 0:
                scores[at] = total
    return scores
