"""Features as a prior of factors: a row x is drawn around Aᵀf, f what is known of its id beside the ratings.

To the ridge λ Σ w |x|² comes ρ (Σ |x − Aᵀf|² + μ |A|²) with ρ = s λ w̄, w̄ the mean of w: A (n_features, rank) is a
ridge regression of the rows on their features. It is solved anew after each half step of its side, so the objective
falls as it does without. ρ is the same for every row: the more ratings a row has, the less its features say. The bias
of a row has a prior of the same kind, with ρ_b = s λ_b. An id without ratings is where its features put it.

Source: Agarwal and Chen, Regression-based latent factor models, KDD 2009 (here by alternating least squares).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.kernels.gram import rotate_rows
from factorlake.types import FloatMatrix, Side

from .features import Vocabulary
from .half_step import regularization_loss
from .parameters import AlsParameters
from .plan import Look, Plan, R
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
    """(n_features, n_features) FᵀF + μ I."""
    strength: NDArray[np.float64]
    """(width,) ρ, and ρ_b for the bias."""

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

        def look(block: RowBlock, rows: FloatMatrix) -> tuple[NDArray[np.float64], float]:
            gram = np.zeros((rows.shape[1],) * 2)
            for first in range(0, len(rows), ROWS_AT_ONCE):
                part = _known(rows[first : first + ROWS_AT_ONCE])
                if not np.isfinite(part).all():
                    raise NumericalError(f"a feature of {side} row {block.first_row + first} or after it is infinite")
                gram += part.T @ part
            return gram, float(ridge_weights(block.counts, n_other, parameters).sum())

        told = plan.look(side, look, features)
        gram = parameters.feature_regularization * np.eye(len(told[0][0]))
        total = 0.0
        for of_block, weights in told:
            gram += of_block
            total += weights
        strength = np.full(parameters.width, parameters.ridge_of(side) * total / max(plan.problem.n_rows(side), 1))
        strength[parameters.rank :] = parameters.bias_regularization
        return SidePrior(side, features, parameters, n_other, gram, parameters.feature_strength * strength)

    def beside(self, plan: Plan[R], rows: R | None, weights: NDArray[np.float64]) -> R:
        """Return [rows | prior rows] in the rows' precision, or the prior rows alone; weights (n_features, width) A."""
        dtype = np.float64 if self.parameters.double_precision else np.float32

        def lay(_: RowBlock, features: FloatMatrix, *own: FloatMatrix) -> tuple[FloatMatrix, None]:
            prior = np.nan_to_num(features.astype(dtype), nan=0.0) @ weights.astype(dtype)
            return np.concatenate([*own, prior], axis=1), None

        return plan.map_rows(self.side, lay, self.features, *(() if rows is None else (rows,)))[0]

    def fit(self, plan: Plan[R], state: SideState[R]) -> SideState[R]:
        """Return a side's state with A as the ridge regression of its rows, and the ridge part that this leaves.

        NumericalError where features follow from each other and no ridge stands beside them.
        """
        told = plan.look(self.side, self._moments(), state.rows, self.features)
        pulls = np.zeros((len(self.gram), self.parameters.width))
        squares, ridge_part = np.zeros(self.parameters.width), 0.0
        for of_block, squares_of_block, ridge_of_block in told:
            pulls += of_block
            squares += squares_of_block
            ridge_part += ridge_of_block
        try:
            weights = np.asarray(np.linalg.solve(self.gram, pulls), np.float64)
        except np.linalg.LinAlgError:
            raise NumericalError(
                f"features of {self.side}s follow from each other, so their regression has no solution: raise "
                f"train.features.regularization, which is {self.parameters.feature_regularization}"
            ) from None
        # At the lowest point Σ |x − Aᵀf|² + μ |A|² = Σ |x|² − <A, FᵀX>, coordinate by coordinate.
        ridge_part += float(np.sum(self.strength * (squares - np.sum(weights * pulls, axis=0))))
        return replace(state, prior=weights, regularization_loss=ridge_part)

    def own_ridge(self, weights: NDArray[np.float64]) -> float:
        """Return the ridge part of A itself."""
        return self.parameters.feature_regularization * float(np.sum(self.strength * np.sum(weights**2, axis=0)))

    def _moments(self) -> Look[tuple[NDArray[np.float64], NDArray[np.float64], float]]:
        """Return what tells (FᵀX, Σ x² by coordinate, λ Σ w |x|² + λ_b Σ b²) of a block's rows."""
        parameters, n_other, side = self.parameters, self.n_other, self.side

        def tell(
            block: RowBlock, rows: FloatMatrix, features: FloatMatrix
        ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
            ridge = parameters.ridge_of(side) * ridge_weights(block.counts, n_other, parameters)
            pulls, squares = np.zeros((features.shape[1], parameters.width)), np.zeros(parameters.width)
            for first in range(0, len(rows), ROWS_AT_ONCE):
                part = slice(first, first + ROWS_AT_ONCE)
                own = rows[part].astype(np.float64)
                pulls += _known(features[part]).T @ own
                squares += np.sum(own**2, axis=0)
            return pulls, squares, regularization_loss(rows, ridge, parameters)

        return tell


def prior_rows(features: FloatMatrix, weights: FloatMatrix) -> NDArray[np.float64]:
    """Return Aᵀf of rows (n, n_features) in float64, each the same whatever rows stand beside it; NaN counts as 0."""
    return rotate_rows(_known(features), weights)


def prior_of_texts(
    texts: Sequence[Sequence[str | None]], vocabulary: Vocabulary, weights: FloatMatrix
) -> NDArray[np.float64]:
    """Return Aᵀf (n, width) of ids given by the texts of their attributes; no more than ROWS_AT_ONCE rows of features
    are made at a time."""
    made = np.empty((len(texts), weights.shape[1]))
    for first in range(0, len(texts), ROWS_AT_ONCE):
        part = slice(first, first + ROWS_AT_ONCE)
        made[part] = prior_rows(vocabulary.rows(texts[part]), weights)
    return made


def _known(features: FloatMatrix) -> NDArray[np.float64]:
    return np.nan_to_num(features.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf)
