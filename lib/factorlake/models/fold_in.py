"""Fold-in: solve rows against a trained model's items, exactly as training's last half step did."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatMatrix, FloatVector, RatingBlock

from .half_step import Fixed, prepare_fixed, solve_one_block
from .systems import UserSystem


@dataclass(frozen=True)
class FoldedRows:
    """Solved rows: factors (n_rows, rank) float32, and biases (n_rows,) float32 or None."""

    factors: NDArray[np.float32]
    biases: NDArray[np.float32] | None


def turned_items(system: UserSystem, factors: FloatMatrix, biases: FloatVector | None) -> Fixed:
    """Return a model's items, factors (n_items, rank) and biases (n_items,) or None, as its user systems see them."""
    rows = factors if biases is None else np.concatenate([factors, biases[:, None]], axis=1)
    return prepare_fixed(system.task.parameters, system.task.mean, np.ascontiguousarray(system.turn(rows)))


def fold_in_rows(
    row_ptr: NDArray[np.int64],
    neighbours: NDArray[np.int32],
    values: NDArray[np.float32] | None,
    system: UserSystem,
    items: Fixed,
    prior: tuple[FloatMatrix, FloatVector] | None = None,
) -> FoldedRows:
    """Return each row's exact solution in float64, rounded once to float32.

    For a row of the training set the result equals the trained one bit for bit: the same system, the same
    sums.

    Parameters
    ----------
    row_ptr, neighbours, values : the rows' ratings; neighbours are positions of the model's items, ascending
        within a row. A row without ratings gets zeros. values None: every rating is 1.
    system : from `user_system`.
    items : `turned_items`, made once for any number of rows.
    prior : of a model with features prior rows (n_rows, width) (`prior.prior_rows`) and their strength (width,); a row
        without ratings is its prior row then.

    Raises
    ------
    NumericalError : a row's system cannot be solved; names the row.
    """
    parameters = system.task.parameters
    block = RatingBlock(0, row_ptr, neighbours, values, np.zeros(len(row_ptr) - 1, np.int64))
    task = system.task if prior is None else replace(system.task, prior_strength=np.asarray(prior[1]))
    solved, _ = solve_one_block(task, block, items, None if prior is None else system.turn(prior[0]))
    rows = system.restore(solved)
    rank = parameters.rank
    biases = np.ascontiguousarray(rows[:, rank]) if parameters.has_biases else None
    return FoldedRows(np.ascontiguousarray(rows[:, :rank]), biases)
