"""The canonical form: of all rotations that score the same, the one in which XᵀW_uX is diagonal.

Signs: the entry of largest magnitude in each item column is positive. X·Y is the same for every rotation of both, so
the rotation is a choice of names; this one is a function of the products alone (where the eigenvalues differ).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.gram import block_gram, column_signs, eigenbasis, rotate_rows
from factorlake.types import FloatMatrix

from .parameters import AlsParameters
from .plan import Plan, R
from .problem import RowBlock
from .weighting import ridge_weights


def canonical_turn(plan: Plan[R], users: R, items: R, parameters: AlsParameters) -> NDArray[np.float64]:
    """Return B (rank, rank): item rows times B are canonical."""
    rank, n_items = parameters.rank, plan.problem.n_items

    def weigh(block: RowBlock, rows: FloatMatrix) -> NDArray[np.float64]:
        return block_gram(rows[:, :rank], block.first_row, ridge_weights(block.counts, n_items, parameters))

    weighed = np.zeros((rank, rank))
    for part in plan.look("user", weigh, users):
        weighed += part
    basis, _ = eigenbasis(weighed)

    def largest(_: RowBlock, rows: FloatMatrix) -> NDArray[np.float64]:
        turned = rotate_rows(rows[:, :rank], basis)
        return turned[np.abs(turned).argmax(axis=0), np.arange(rank)]

    # The largest of each block's largest, the first of equals: what one search over all rows finds.
    return basis * column_signs(np.array(plan.look("item", largest, items)).reshape(-1, rank))
