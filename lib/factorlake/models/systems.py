"""The row systems with one side fixed: what training's last half step, fold-in and every later solve
share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.gram import eigenbasis, rotate_rows
from factorlake.types import FloatMatrix, FloatVector

from .half_step import HalfStepTask
from .parameters import AlsParameters


@dataclass(frozen=True)
class UserSystem:
    """How to solve user rows exactly, in float64, for given item factors."""

    task: HalfStepTask
    factors: NDArray[np.float64]
    """(n_items, width), in the basis where the all-pairs part is diagonal (implicit) or with a constant 1
    (biases)."""
    eigenvalues: NDArray[np.float64]
    """(rank,) of the items' Gram matrix; zeros for explicit."""
    basis: NDArray[np.float64] | None
    """(rank, rank) Q; None for explicit."""

    def restore(self, rows: FloatMatrix) -> NDArray[np.float32]:
        """Turn solved rows (n, width) back into the basis of the given item factors and round them once."""
        turned = rows if self.basis is None else rotate_rows(rows, np.ascontiguousarray(self.basis.T))
        return np.asarray(turned, dtype=np.float32)


def explicit_system(
    parameters: AlsParameters, rows: FloatMatrix, mean: float
) -> tuple[NDArray[np.float64], FloatMatrix, FloatVector | None]:
    """Return (base diagonal, augmented factors, offset) of the explicit half step against ``rows`` (n,
    width).

    With biases the fixed row is (f, 1), its own bias and μ move into the target, and the last unknown has the
    ridge λ_b.
    """
    base = np.zeros(parameters.width)
    if not parameters.has_biases:
        return base, rows, None
    base[parameters.rank] = parameters.bias_regularization
    factors = np.array(rows)
    factors[:, parameters.rank] = 1
    return base, factors, mean + rows[:, parameters.rank].astype(np.float64)


def user_system(
    parameters: AlsParameters,
    item_factors: FloatMatrix,
    item_biases: FloatVector | None,
    mean: float,
    gram: NDArray[np.float64],
    n_items: int,
) -> UserSystem:
    """Return the exact float64 systems of user rows for rounded item factors.

    Parameters
    ----------
    item_factors : (n_items, rank) float32, as published. item_biases : (n_items,) float32, or None.
    gram : (rank, rank) YᵀY of those factors, as recorded with the model.
    n_items : items in training, which the ridge weights count.
    """
    basis, eigenvalues = None, np.zeros(parameters.rank)
    offset: FloatVector | None = None
    factors: FloatMatrix = np.asarray(item_factors, dtype=np.float64)
    if parameters.objective == "implicit":
        basis, eigenvalues = eigenbasis(gram)
        factors = rotate_rows(factors, basis)
        base = parameters.alpha0 * eigenvalues
    else:
        rows = factors
        if item_biases is not None:
            rows = np.concatenate([factors, np.asarray(item_biases, np.float64)[:, None]], axis=1)
        base, factors, offset = explicit_system(parameters, rows, mean)
    task = HalfStepTask(
        side="user",
        parameters=parameters,
        n_other=n_items,
        base_diagonal=base,
        solver="exact",
        steps=0,
        offset=offset,
    )
    return UserSystem(task, np.ascontiguousarray(factors, dtype=np.float64), eigenvalues, basis)
