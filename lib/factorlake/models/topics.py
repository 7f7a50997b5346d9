"""Topics of a non-negative factorization: what each factor is made of, and which one a row mostly is.

The factors of a topic may be stretched on one side and shrunk on the other without any change to the product, so what
is told here looks at rank-one terms x_a y_aᵀ, never at one side's numbers alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.types import FloatMatrix


@dataclass(frozen=True)
class Topic:
    """One factor."""

    factor: int
    """Its column in the factors."""
    share: float
    """Of Σ XYᵀ, the sum of what all topics make together; 0 where that is 0."""
    columns: tuple[int, ...]
    """Positions of the columns (words) with the largest factors, largest first; equal ones by position."""
    weights: tuple[float, ...]
    """Their factors over the topic's largest."""


def topics_of(row_factors: FloatMatrix, column_factors: FloatMatrix, top: int = 10) -> tuple[Topic, ...]:
    """Return the topics of X (n_rows, rank) and Y (n_columns, rank), that of the largest share first.

    Columns with a factor of 0 are in no topic, so a topic may have less than ``top`` of them.

    Raises
    ------
    ConfigError : ``top`` is less than 1, or factors of different ranks.
    """
    if top < 1:
        raise ConfigError(f"top must be at least 1, got {top}")
    _check(row_factors, column_factors)
    of_rows: NDArray[np.float64] = row_factors.sum(axis=0, dtype=np.float64)
    parts = of_rows * column_factors.sum(axis=0, dtype=np.float64)
    total = float(parts.sum())
    topics = []
    for factor in np.argsort(-parts, kind="stable").tolist():
        own = np.asarray(column_factors[:, factor], dtype=np.float64)
        best = [one for one in np.argsort(-own, kind="stable")[:top].tolist() if own[one] > 0]
        topics.append(
            Topic(
                factor=factor,
                share=float(parts[factor]) / total if total > 0 else 0.0,
                columns=tuple(best),
                weights=tuple(float(own[one] / own[best[0]]) for one in best),
            )
        )
    return tuple(topics)


def main_topic(row_factors: FloatMatrix, column_factors: FloatMatrix) -> NDArray[np.int64]:
    """Return (n_rows,): the factor whose part x_ua·|y_a| of each row is largest, the first of equal ones; −1 for a row
    of zeros.

    |x_ua y_a| is the length of what topic a adds to row u, in the norm that the Frobenius objective measures.

    Raises
    ------
    ConfigError : factors of different ranks.
    """
    _check(row_factors, column_factors)
    lengths = np.sqrt(np.sum(np.square(np.asarray(column_factors, dtype=np.float64)), axis=0))
    parts = np.asarray(row_factors, dtype=np.float64) * lengths
    return np.where(parts.max(axis=1) > 0, parts.argmax(axis=1), -1).astype(np.int64)


def _check(row_factors: FloatMatrix, column_factors: FloatMatrix) -> None:
    if row_factors.shape[1] != column_factors.shape[1]:
        raise ConfigError(
            f"rows have {row_factors.shape[1]} factors and columns {column_factors.shape[1]}; "
            "give both sides of one model"
        )
