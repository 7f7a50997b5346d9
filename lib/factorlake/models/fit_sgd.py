"""Stochastic gradients on one machine from ids to predictions, without Spark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.types import FloatVector

from .fit import pack_ratings
from .parameters import AlsParameters
from .plan import ArrayRows
from .sgd import SgdTraceRow, TrainedSgd, predict, train_sgd
from .sgd_parameters import SgdParameters
from .sgd_plan import LocalSgdPlan


@dataclass(frozen=True)
class LocalFittedSgd:
    """A trained model with the ids of its rows, in the order of the factors."""

    user_ids: list[str]
    item_ids: list[str]
    model: TrainedSgd[ArrayRows]

    def predict(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return r̂ of pairs of positions, each (n,), in float64; −1 stands for an unknown id."""
        return predict(self.model, users, items)


def fit_sgd(
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    values: FloatVector | None,
    parameters: SgdParameters,
    threads: int = 1,
    on_epoch: Callable[[SgdTraceRow], None] | None = None,
) -> LocalFittedSgd:
    """Train on (user, item, value) triples in any order; the result is the same bit for bit for every order.

    Parameters
    ----------
    user_ids, item_ids : n ids each; a pair may occur once.
    values : (n,) ratings, or None when every rating is 1. A rating of 0 is one like any other.
    threads : cells of a stratum trained at the same time; changes no number.
    on_epoch : as in `train_sgd`.

    Raises
    ------
    DataRefusedError : no ratings, a rating that is not finite, a pair that occurs twice, or nothing left to train on.
    NumericalError : training diverged.
    """
    packed = pack_ratings(user_ids, item_ids, values, AlsParameters(objective="explicit"))
    item_hashes = np.concatenate([block.hashes for block in packed.item_blocks])
    with LocalSgdPlan(packed.user_blocks, item_hashes, parameters, threads) as plan:
        model = train_sgd(plan, parameters, on_epoch)
    return LocalFittedSgd(packed.user_ids, packed.item_ids, model)
