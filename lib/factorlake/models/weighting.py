"""From ratings r to the confidence and target of each observation, and to each row's ridge weight."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import DataRefusedError
from factorlake.types import FloatVector, RatingBlock

from .parameters import AlsParameters


def confidence_and_target(
    values: NDArray[np.float32] | None, parameters: AlsParameters
) -> tuple[FloatVector | float, FloatVector | float]:
    """Return (c, t) of each observation; one number where all observations share it.

    - implicit without α (modern iALS): c = |r|, t = 1 for r > 0 and 0 for r < 0;
    - implicit with α (Hu-Koren-Volinsky, Spark): c = α|r|, t = 1 + 1/(α r) for r > 0 and 0 for r < 0, so that
      c (t − p)² + p² equals (1 + α|r|) (preference − p)² up to a constant;
    - explicit and Frobenius: c = 1, t = r.

    Parameters
    ----------
    values : (n_obs,) ratings, or None when every r is 1. An r of 0 says nothing about implicit feedback and
        is left out before blocks are packed; one that is here weighs nothing.

    Sources: Rendle et al., RecSys 2022, section 2; Hu, Koren, Volinsky, ICDM 2008, section 4.
    """
    if parameters.objective != "implicit":
        return 1.0, (1.0 if values is None else values)
    if parameters.alpha is None:
        if values is None:
            return 1.0, 1.0
        if len(values) == 0 or values.min() > 0:
            return values, 1.0
        return np.abs(values), (values > 0).astype(np.float32)
    if values is None:
        return parameters.alpha, 1.0 + 1.0 / parameters.alpha
    confidence = parameters.alpha * np.abs(values.astype(np.float64))
    target = np.zeros(len(values))
    positive = values > 0
    target[positive] = 1.0 + 1.0 / confidence[positive]
    return confidence, target


def ridge_counts(block: RatingBlock, parameters: AlsParameters) -> NDArray[np.int64]:
    """Return n of each row of a block: its observations, or with α only those with r > 0, as Spark counts.

    Raises
    ------
    DataRefusedError : a rating that the objective cannot be trained on: a negative one under Frobenius.
    """
    if parameters.objective == "frobenius" and block.values is not None and np.any(block.values < 0):
        raise DataRefusedError(
            f"a rating is {block.values.min():g}, and the objective frobenius takes amounts: leave negative ones out "
            "(select.min_value, or a weight of 0 for their event type), or take the objective explicit or implicit"
        )
    return counts_of_rows(block, parameters)


def counts_of_rows(block: RatingBlock, parameters: AlsParameters) -> NDArray[np.int64]:
    """Return what ``ridge_counts`` does, of ratings that are new to the model too: those are not refused."""
    if parameters.objective != "implicit" or parameters.alpha is None or block.values is None:
        return np.diff(block.row_ptr)
    positives = np.zeros(block.n_obs + 1, dtype=np.int64)
    np.cumsum(block.values > 0, out=positives[1:])
    return np.diff(positives[block.row_ptr])


def ridge_weights(counts: NDArray[np.int64], n_other: int, parameters: AlsParameters) -> NDArray[np.float64]:
    """Return w = (n + κ·n_other)^ν of each row.

    counts (n_rows,) as ``ridge_counts`` gives them; n_other is the number of rows of the other side.
    """
    shift = parameters.count_offset * n_other
    if parameters.nu == 1:
        return np.asarray(counts + shift, dtype=np.float64)
    # One scalar power per distinct count: a vectorised power may round differently at the end of an array.
    bases, position = np.unique(counts, return_inverse=True)
    powers = np.array([math.pow(float(n) + shift, parameters.nu) for n in bases], dtype=np.float64)
    return powers[position] if len(counts) else np.zeros(0)
