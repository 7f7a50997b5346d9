"""The user systems of a finished model: what training's last half step, fold-in and every later solve share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import NumericalError
from factorlake.kernels.gram import eigenbasis, rotate_rows
from factorlake.types import FloatMatrix

from .half_step import HalfStepTask
from .parameters import AlsParameters


@dataclass(frozen=True)
class UserSystem:
    """How to solve user rows exactly, in float64, for given item rows. Small: it holds no row."""

    task: HalfStepTask
    eigenvalues: NDArray[np.float64]
    """(width,) of the items' Gram matrix; zeros for explicit."""
    basis: NDArray[np.float64] | None
    """(rank, rank) Q, in which the all-pairs part is diagonal; None for explicit."""

    def turn(self, items: FloatMatrix) -> NDArray[np.float64]:
        """Return item rows (n, width), as published, in the basis of the system; row by row."""
        wide = np.asarray(items, dtype=np.float64)
        return wide if self.basis is None else rotate_rows(wide, self.basis)

    def restore(self, rows: FloatMatrix, first_row: int = 0) -> NDArray[np.float32]:
        """Turn solved rows (n, width) back into the basis of the given item factors and round them once.

        Raises
        ------
        NumericalError : a row is too large for float32; names it, counted from ``first_row``.
        """
        turned = rows if self.basis is None else rotate_rows(rows, np.ascontiguousarray(self.basis.T))
        with np.errstate(over="ignore"):
            rounded = np.asarray(turned, dtype=np.float32)
        bad_rows = np.flatnonzero(~np.isfinite(rounded).all(axis=1))
        if len(bad_rows):
            raise NumericalError(
                f"factors of user row {first_row + int(bad_rows[0])} are too large for float32; look for extreme "
                "values or raise the regularization"
            )
        return rounded


def base_diagonal(parameters: AlsParameters, eigenvalues: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (width,) the part of D that all rows share: α0 Λ, or the ridge of the bias."""
    if parameters.objective == "implicit":
        return parameters.alpha0 * eigenvalues
    base = np.zeros(parameters.width)
    base[parameters.rank :] = parameters.bias_regularization
    return base


def user_system(parameters: AlsParameters, mean: float, gram: NDArray[np.float64], n_items: int) -> UserSystem:
    """Return the exact float64 systems of user rows for item rows rounded to float32.

    Parameters
    ----------
    mean : μ of the model, 0 without biases.
    gram : (rank, rank) YᵀY of those factors, as recorded with the model.
    n_items : items in training, which the ridge weights count.
    """
    basis, eigenvalues = None, np.zeros(parameters.width)
    if parameters.objective == "implicit":
        basis, eigenvalues = eigenbasis(gram)
    task = HalfStepTask(
        side="user",
        parameters=parameters,
        n_other=n_items,
        base_diagonal=base_diagonal(parameters, eigenvalues),
        solver="exact",
        steps=0,
        mean=mean,
    )
    return UserSystem(task, eigenvalues, basis)
