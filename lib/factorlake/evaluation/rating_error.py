"""Errors of predicted ratings: root mean square and mean absolute, with intervals over users."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.intervals import Interval, ratio_interval
from factorlake.types import FloatVector, IntVector


class UserErrors(NamedTuple):
    """Sums of each user: ``squared`` Σ (r̂ − r)², ``absolute`` Σ |r̂ − r|, ``n`` ratings with a prediction and
    ``n_asked`` ratings in all; (n_users,) each."""

    squared: NDArray[np.float64]
    absolute: NDArray[np.float64]
    n: NDArray[np.int64]
    n_asked: NDArray[np.int64]

    @classmethod
    def of_rows(cls, users: IntVector, predicted: FloatVector, actual: FloatVector, n_users: int) -> UserErrors:
        """Return the sums of ratings given by row, NaN being no prediction. The rows' order is that of the sums."""
        error = np.asarray(predicted, np.float64) - np.asarray(actual, np.float64)
        has = ~np.isnan(error)
        user, error = users[has], error[has]
        return cls(
            np.bincount(user, weights=error * error, minlength=n_users).astype(np.float64),
            np.bincount(user, weights=np.abs(error), minlength=n_users).astype(np.float64),
            np.bincount(user, minlength=n_users),
            np.bincount(users, minlength=n_users),
        )


def rating_errors(
    users: IntVector, predicted: FloatVector, actual: FloatVector, level: float = 0.95
) -> dict[str, Interval]:
    """Return ``rmse`` = √(Σ (r̂ − r)² / N) and ``mae`` = Σ |r̂ − r| / N over N ratings, in units of the
    rating.

    Parameters
    ----------
    users : (N,) position ≥ 0 of the user who gave each rating; only says which ratings belong together.
    predicted, actual : (N,) ratings.

    Raises
    ------
    ConfigError : lengths differ, no ratings, or `level` out of range.
    NumericalError : a predicted or actual rating is NaN or infinite; names the first.
    """
    if not len(users) == len(predicted) == len(actual):
        raise ConfigError(
            f"lengths differ: {len(users)} users, {len(predicted)} predicted, {len(actual)} actual ratings"
        )
    errors = np.asarray(predicted, dtype=np.float64) - np.asarray(actual, dtype=np.float64)
    finite = np.isfinite(errors)
    if not finite.all():
        first = int(np.argmin(finite))
        raise NumericalError(f"rating {first}: predicted {predicted[first]}, actual {actual[first]}")
    counts = np.bincount(users)
    rated = counts > 0
    return errors_from_sums(
        np.bincount(users, weights=errors * errors)[rated].astype(np.float64),
        np.bincount(users, weights=np.abs(errors))[rated].astype(np.float64),
        counts[rated],
        level,
    )


def errors_from_sums(
    squared: NDArray[np.float64], absolute: NDArray[np.float64], counts: IntVector, level: float = 0.95
) -> dict[str, Interval]:
    """Return rmse and mae from the sums of each user, as a distributed count delivers them.

    The interval of the mean square is that of a ratio of sums (see `ratio_interval`); the root of its ends
    gives that of rmse, a lower end below 0 counting as 0.

    Parameters
    ----------
    squared, absolute, counts : (n_users,) each user's Σ (r̂ − r)², Σ |r̂ − r| and number of ratings, above 0.

    Raises
    ------
    ConfigError, NumericalError : as `ratio_interval`.
    """
    mean_square = ratio_interval(squared, counts, level)
    rmse = Interval(
        math.sqrt(mean_square.value),
        math.sqrt(max(mean_square.lower, 0.0)),
        math.sqrt(mean_square.upper),
        mean_square.n,
    )
    return {"rmse": rmse, "mae": ratio_interval(absolute, counts, level)}
