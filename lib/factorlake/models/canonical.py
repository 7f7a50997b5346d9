"""The canonical form: of all rotations that score the same, the one in which XᵀW_uX is diagonal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.gram import block_gram, column_signs, eigenbasis, rotate_rows
from factorlake.types import FloatMatrix

from .parameters import AlsParameters
from .problem import SideLayout
from .weighting import ridge_weights


def canonical_items(
    users: FloatMatrix,
    items: FloatMatrix,
    user_layout: SideLayout,
    item_layout: SideLayout,
    parameters: AlsParameters,
) -> NDArray[np.float32]:
    """Return the item factors rotated so that XᵀW_uX is diagonal, descending, rounded once to float32.

    Signs: the entry of largest magnitude in each column is positive. X·Y is the same for every rotation of
    both, so the rotation is a choice of names; this one is a function of the products alone (where the
    eigenvalues differ).

    Parameters
    ----------
    users, items : (n, at least rank) rows; columns after the rank (biases) are left out.
    """
    rank = parameters.rank
    weighed = np.zeros((rank, rank))
    for part in user_layout.slices():
        weights = ridge_weights(user_layout.counts[part], item_layout.n_rows, parameters)
        weighed += block_gram(users[part, :rank], part.start, weights)
    basis, _ = eigenbasis(weighed)
    rotated = rotate_rows(items[:, :rank], basis)
    return (rotated * column_signs(rotated)).astype(np.float32)


def item_gram(item_factors: FloatMatrix, layout: SideLayout) -> NDArray[np.float64]:
    """Return YᵀY (rank, rank), summed over the logical blocks in block order."""
    gram = np.zeros((item_factors.shape[1], item_factors.shape[1]))
    for part in layout.slices():
        gram += block_gram(item_factors[part], part.start)
    return gram
