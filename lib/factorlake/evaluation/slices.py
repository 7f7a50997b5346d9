"""Figures of some users apart: by a label that each user has, or by how active the user is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from factorlake.errors import ConfigError
from factorlake.evaluation.intervals import Interval, mean_interval
from factorlake.types import IntVector


def sliced_intervals(figures: ArrayLike, labels: ArrayLike, level: float = 0.95) -> dict[Any, Interval]:
    """Return the mean of a figure with its interval for each label, labels ascending.

    A slice of one user has the ends −∞ and +∞. With many slices some intervals miss by chance alone: of twenty at 95 %
    about one.

    Parameters
    ----------
    figures : (n_users,) one figure a user.
    labels : (n_users,) that user's slice: text or numbers that compare (a segment, an activity decile, the category the
        user chooses most). Leave users without a label out.

    Returns
    -------
    label → interval, with Python's own text and numbers as labels. No users give no slices.

    Raises
    ------
    ConfigError : not as many labels as figures, labels that do not compare, or `level` out of range.
    NumericalError : a figure is NaN or infinite.
    """
    values, names = np.asarray(figures, dtype=np.float64), np.asarray(labels)
    if values.shape != names.shape or values.ndim != 1:
        raise ConfigError(f"figures {values.shape} and labels {names.shape} are not one of each for every user")
    try:
        distinct, code = np.unique(names, return_inverse=True)
    except TypeError as error:
        raise ConfigError("labels must be of one kind; leave users without a label out") from error
    # A stable sort keeps the users' order within a slice, so that a slice sums as it would alone.
    order = np.argsort(code, kind="stable")
    parts = np.split(values[order], np.cumsum(np.bincount(code, minlength=len(distinct)))[:-1]) if len(values) else []
    return {label: mean_interval(part, level) for label, part in zip(distinct.tolist(), parts, strict=True)}


def activity_deciles(n_known: IntVector) -> NDArray[np.int64]:
    """Return each user's activity decile, 1 (least active) to 10.

    Users with equal counts stay together, in the decile of the middle of their places: with b users below and e equal
    to a user, 1 + ⌊10 (b + e/2) / n⌋. Deciles are therefore even only as far as ties let them, and some may be empty.

    Parameters
    ----------
    n_known : (n_users,) what each user is known to have. May be empty.
    """
    counts = np.asarray(n_known)
    distinct, code, equal = np.unique(counts, return_inverse=True, return_counts=True)
    return deciles_of_counts(equal)[code] if len(distinct) else np.zeros(0, np.int64)


def deciles_of_counts(n_users: IntVector) -> NDArray[np.int64]:
    """Return the decile of each distinct activity from how many users have it, activities ascending.

    Parameters
    ----------
    n_users : (n_activities,) users of each, at least 1.
    """
    users = np.asarray(n_users, np.int64)
    below = np.cumsum(users) - users
    return 1 + 10 * (2 * below + users) // (2 * users.sum())
