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

LEAST_EIGENVALUE = 1e-12
"""Share of the greatest eigenvalue of a Gram matrix below which one is rounding noise. A row must not be led along such
a direction by what rounding left in it of the fixed rows, which only a ridge would keep it from."""
LAST_SWEEPS = 1000
"""Of coordinate descent, at most, in the half step that ends training."""


@dataclass(frozen=True)
class SharedPart:
    """What the systems of all rows of a half step share, and the basis in which they are solved."""

    basis: NDArray[np.float64] | None
    """(width, width) Q, in which the all-pairs part is diagonal; None: solved as the fixed rows are given."""
    gram: NDArray[np.float64]
    """(width, width) Gram matrix of the fixed rows in that basis; zeros for explicit."""
    diagonal: NDArray[np.float64]
    """(width,) α0 Λ, or the ridge of the bias."""
    matrix: NDArray[np.float64] | None = None
    """(width, width) α0 G where there is no such basis: factors that must not be negative are never turned."""


def shared_part(parameters: AlsParameters, gram: NDArray[np.float64]) -> SharedPart:
    """Return the shared part for fixed rows with a Gram matrix (width, width), which explicit does not look at."""
    width = parameters.width
    weight = parameters.pair_weight
    if weight is None:
        ridge = np.zeros(width)
        ridge[parameters.rank :] = parameters.bias_regularization
        return SharedPart(None, np.zeros((width, width)), ridge)
    if parameters.nonnegative:
        return SharedPart(None, gram, np.zeros(width), weight * gram)
    basis, eigenvalues = eigenbasis(gram)
    diagonal = weight * np.maximum(eigenvalues, LEAST_EIGENVALUE * eigenvalues[0])
    return SharedPart(basis, np.diag(eigenvalues), diagonal)


@dataclass(frozen=True)
class UserSystem:
    """How to solve user rows exactly, in float64, for given item rows. Small: it holds no row."""

    task: HalfStepTask
    shared: SharedPart

    def turn(self, items: FloatMatrix) -> NDArray[np.float64]:
        """Return item rows (n, width), as published, in the basis of the system; row by row."""
        wide = np.asarray(items, dtype=np.float64)
        return wide if self.shared.basis is None else rotate_rows(wide, self.shared.basis)

    def restore(self, rows: FloatMatrix, first_row: int = 0) -> NDArray[np.float32]:
        """Turn solved rows (n, width) back into the basis of the given item factors and round them once.

        Raises
        ------
        NumericalError : a row is too large for float32; names it, counted from ``first_row``.
        """
        basis = self.shared.basis
        turned = rows if basis is None else rotate_rows(rows, np.ascontiguousarray(basis.T))
        with np.errstate(over="ignore"):
            rounded = np.asarray(turned, dtype=np.float32)
        bad_rows = np.flatnonzero(~np.isfinite(rounded).all(axis=1))
        if len(bad_rows):
            raise NumericalError(
                f"factors of user row {first_row + int(bad_rows[0])} are too large for float32; look for extreme "
                "values or raise the regularization"
            )
        return rounded


def user_system(parameters: AlsParameters, mean: float, gram: NDArray[np.float64], n_items: int) -> UserSystem:
    """Return the exact float64 systems of user rows for item rows rounded to float32.

    Parameters
    ----------
    mean : μ of the model, 0 without biases.
    gram : (rank, rank) YᵀY of those factors, as recorded with the model.
    n_items : items in training, which the ridge weights count.
    """
    shared = shared_part(parameters, gram)
    task = HalfStepTask(
        side="user",
        parameters=parameters,
        n_other=n_items,
        base_diagonal=shared.diagonal,
        base_matrix=shared.matrix,
        solver=parameters.last_solver,
        steps=LAST_SWEEPS,
        mean=mean,
    )
    return UserSystem(task, shared)
