"""The whole training objective of given factors, in one pass in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from factorlake.kernels.gram import gram_matrix
from factorlake.kernels.half_step import solve_block
from factorlake.kernels.objective import all_pairs_loss
from factorlake.types import FloatMatrix, FloatVector, RatingBlock, Side

from .half_step import prepare_fixed, regularization_loss
from .parameters import AlsParameters
from .weighting import confidence_and_target, ridge_counts, ridge_weights


def objective_value(
    user_blocks: Sequence[RatingBlock],
    item_blocks: Sequence[RatingBlock],
    user_factors: FloatMatrix,
    item_factors: FloatMatrix,
    parameters: AlsParameters,
    user_biases: FloatVector | None = None,
    item_biases: FloatVector | None = None,
    mean: float = 0.0,
) -> float:
    """Return the objective that ``AlsParameters`` states, of any factors: trained here or elsewhere.

    Parameters
    ----------
    user_blocks, item_blocks : the ratings both ways; the item blocks are read for their counts only.
    user_factors (n_users, rank), item_factors (n_items, rank) : rows in the order of the blocks.
    user_biases, item_biases, mean : with biases only.
    """
    users, items = _rows(user_factors, user_biases), _rows(item_factors, item_biases)
    total = 0.0
    if parameters.pair_weight is not None:
        total += all_pairs_loss(gram_matrix(users), gram_matrix(items), parameters.pair_weight)
    fixed = prepare_fixed(parameters, mean, items)
    unused = np.zeros(parameters.width)
    sides: tuple[tuple[Side, Sequence[RatingBlock], FloatMatrix, int], ...] = (
        ("user", user_blocks, users, len(items)),
        ("item", item_blocks, items, len(users)),
    )
    for side, blocks, rows, n_other in sides:
        for block in blocks:
            own = rows[block.first_row : block.first_row + block.n_rows]
            weights = ridge_weights(ridge_counts(block, parameters), n_other, parameters)
            ridge = parameters.ridge_of(side) * weights
            total += regularization_loss(own, ridge, parameters)
            if blocks is user_blocks:
                confidence, target = confidence_and_target(block.values, parameters)
                total += solve_block(
                    block.row_ptr,
                    block.neighbours,
                    confidence,
                    target,
                    fixed.factors,
                    own,
                    unused,
                    ridge,
                    unused,
                    # No sweep moves anything, and no mask keeps factors from being negative: the rows as they are.
                    "hals" if parameters.objective == "frobenius" else "residual",
                    steps=0,
                    offset=fixed.offset,
                ).observed_loss
    return total


def _rows(factors: FloatMatrix, biases: FloatVector | None) -> FloatMatrix:
    wide = np.asarray(factors, dtype=np.float64)
    return wide if biases is None else np.concatenate([wide, np.asarray(biases, np.float64)[:, None]], axis=1)
