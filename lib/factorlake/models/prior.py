"""Features as a prior of factors: a row x is drawn around A f, f what is known of its id beside the ratings.

λ Σ w |x|² becomes λ Σ w |x − Aᵀf|² + λ μ w̄ |A|², w̄ the mean of w: A (n_features, rank) is a ridge regression of the
rows on their features, in which μ average rows at zero stand beside the real ones. It is solved anew after each half
step of its side, so the objective falls as it does without. The bias of a row has a prior of the same kind, with λ_b
and w = 1. An id without ratings is where its features put it.

Source: Agarwal and Chen, Regression-based latent factor models, KDD 2009 (here by alternating least squares).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.kernels.gram import rotate_rows
from factorlake.types import FloatMatrix, Side

from .half_step import regularization_loss
from .parameters import AlsParameters
from .plan import NewRows, Plan, R
from .problem import RowBlock
from .state import SideState
from .weighting import ridge_weights

ROWS_AT_ONCE = 8192
"""Of features that stand in float64 at a time; a constant of the data layout, on which last bits depend."""


@dataclass(frozen=True)
class Features(Generic[R]):
    """What is known of each row beside its ratings, as a plan holds rows; None: nothing is known of that side.

    (n, n_features) float32. A row of NaN is an id of which nothing is known: it counts as zeros. A column of ones makes
    room for a prior mean.
    """

    user: R | None = None
    item: R | None = None


@dataclass(frozen=True)
class SidePrior(Generic[R]):
    """The regression of one side's rows on its features: what it needs in every epoch."""

    side: Side
    features: R
    parameters: AlsParameters
    n_other: int
    gram: NDArray[np.float64]
    """(n_features, n_features) FᵀWF + μ w̄ I."""
    plain_gram: NDArray[np.float64]
    """(n_features, n_features) FᵀF + μ I, for biases; empty without."""
    mean_weight: float
    """w̄."""

    @staticmethod
    def of(plan: Plan[R], side: Side, features: R, parameters: AlsParameters) -> SidePrior[R]:
        """Look at a side's features once.

        Raises
        ------
        ConfigError : factors that must not be negative, which have no such prior here.
        NumericalError : a feature is infinite.
        """
        if parameters.nonnegative:
            raise ConfigError(
                "features need factors of either sign: leave train.nonnegative or train.features out of the settings"
            )
        n_other = plan.problem.n_rows("item" if side == "user" else "user")

        def look(block: RowBlock, rows: FloatMatrix) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
            weights = ridge_weights(block.counts, n_other, parameters)
            n_features = rows.shape[1]
            gram = np.zeros((n_features, n_features))
            plain = np.zeros((n_features if parameters.has_biases else 0,) * 2)
            for first in range(0, len(rows), ROWS_AT_ONCE):
                part = _known(rows[first : first + ROWS_AT_ONCE])
                if not np.isfinite(part).all():
                    raise NumericalError(f"a feature of {side} row {block.first_row + first} or after it is infinite")
                gram += (part * weights[first : first + ROWS_AT_ONCE, None]).T @ part
                if parameters.has_biases:
                    plain += part.T @ part
            return gram, plain, float(weights.sum())

        told = plan.look(side, look, features)
        mean_weight = sum(one[2] for one in told) / max(plan.problem.n_rows(side), 1)
        shrinkage = parameters.feature_regularization
        gram = shrinkage * mean_weight * np.eye(len(told[0][0]))
        plain = shrinkage * np.eye(len(told[0][1]))
        for of_block, plain_of_block, _ in told:
            gram += of_block
            plain += plain_of_block
        return SidePrior(side, features, parameters, n_other, gram, plain, mean_weight)

    def beside(self, plan: Plan[R], rows: R | None, weights: NDArray[np.float64]) -> R:
        """Return [rows | prior rows] in the rows' precision, or the prior rows alone; weights (n_features, width) A."""
        dtype = np.float64 if self.parameters.double_precision else np.float32

        def lay(_: RowBlock, features: FloatMatrix, *own: FloatMatrix) -> tuple[FloatMatrix, None]:
            prior = np.nan_to_num(features.astype(dtype), nan=0.0) @ weights.astype(dtype)
            return np.concatenate([*own, prior], axis=1), None

        return plan.map_rows(self.side, lay, self.features, *(() if rows is None else (rows,)))[0]

    def fit(self, plan: Plan[R], state: SideState[R]) -> SideState[R]:
        """Return a side's state with A as the ridge regression of its rows, and the ridge part that this leaves."""
        parameters, rank = self.parameters, self.parameters.rank
        told = plan.look(self.side, self._moments(), state.rows, self.features)
        pulls, ridge_part = np.zeros((len(self.gram), parameters.width)), 0.0
        for of_block, ridge_of_block in told:
            pulls += of_block
            ridge_part += ridge_of_block
        weights = np.zeros_like(pulls)
        weights[:, :rank] = np.linalg.solve(self.gram, pulls[:, :rank])
        # At the lowest point Σ w |x − Aᵀf|² + μ w̄ |A|² = Σ w |x|² − <A, FᵀWX>.
        ridge_part -= parameters.ridge_of(self.side) * float(np.sum(weights[:, :rank] * pulls[:, :rank]))
        if parameters.has_biases:
            weights[:, rank:] = np.linalg.solve(self.plain_gram, pulls[:, rank:])
            ridge_part -= parameters.bias_regularization * float(np.sum(weights[:, rank:] * pulls[:, rank:]))
        return replace(state, prior=weights, regularization_loss=ridge_part)

    def own_ridge(self, weights: NDArray[np.float64]) -> float:
        """Return the ridge part of A itself."""
        parameters, rank, shrinkage = self.parameters, self.parameters.rank, self.parameters.feature_regularization
        of_factors = parameters.ridge_of(self.side) * self.mean_weight * float(np.sum(weights[:, :rank] ** 2))
        of_biases = parameters.bias_regularization * float(np.sum(weights[:, rank:] ** 2))
        return shrinkage * (of_factors + of_biases)

    def _moments(self) -> NewRows[float]:
        """Return what tells (FᵀWX with Fᵀb beside it, λ Σ w |x|² + λ_b Σ b²) of a block's rows."""
        parameters, n_other, side = self.parameters, self.n_other, self.side
        rank = parameters.rank

        def tell(block: RowBlock, rows: FloatMatrix, features: FloatMatrix) -> tuple[NDArray[np.float64], float]:
            weights = ridge_weights(block.counts, n_other, parameters)
            pulls = np.zeros((features.shape[1], parameters.width))
            for first in range(0, len(rows), ROWS_AT_ONCE):
                part = slice(first, first + ROWS_AT_ONCE)
                known, own = _known(features[part]), rows[part].astype(np.float64)
                own[:, :rank] *= weights[part, None]
                pulls += known.T @ own
            return pulls, regularization_loss(rows, parameters.ridge_of(side) * weights, parameters)

        return tell


def prior_rows(features: FloatMatrix, weights: FloatMatrix) -> NDArray[np.float64]:
    """Return Aᵀf of rows (n, n_features) in float64, each the same whatever rows stand beside it; NaN counts as 0."""
    return rotate_rows(_known(features), weights)


def _known(features: FloatMatrix) -> NDArray[np.float64]:
    return np.nan_to_num(features.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
