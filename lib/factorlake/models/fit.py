"""ALS on one machine from ids to recommendations, without Spark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import DataRefusedError
from factorlake.kernels.top_k import top_k
from factorlake.types import FloatVector, RatingBlock

from .als import train
from .blocks import order_ids, pack_positions
from .local_plan import LocalPlan
from .parameters import AlsParameters
from .plan import ArrayRows
from .threads import single_threaded_blas
from .trained import TrainedModel


@dataclass(frozen=True)
class FittedAls:
    """A trained model with the ids of its rows, in the order of the factors."""

    user_ids: list[str]
    item_ids: list[str]
    model: TrainedModel[ArrayRows]
    seen_ptr: NDArray[np.int64]
    seen_items: NDArray[np.int32]

    def predict(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return μ + b_u + b_i + x_u·y_i of pairs of positions, each (n,), in float64."""
        model = self.model
        x, y = model.user_factors[users], model.item_factors[items]
        scores = model.mean + np.einsum("na,na->n", x, y, dtype=np.float64)
        if model.user_biases is not None and model.item_biases is not None:
            scores += model.user_biases[users].astype(np.float64) + model.item_biases[items]
        return scores

    def recommend(self, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return each user's k best items that are not in the ratings: positions and scores less μ, each
        (n_users, k).

        Ties go by item id; −1 and −inf fill the place where fewer items are left.
        """
        tie_rank = np.empty(len(self.item_ids), np.int64)
        tie_rank[np.argsort(np.array(self.item_ids, dtype=object), kind="stable")] = np.arange(len(self.item_ids))
        model = self.model
        with single_threaded_blas():
            return top_k(
                model.user_factors,
                model.item_factors,
                k,
                self.seen_ptr,
                self.seen_items,
                tie_rank,
                model.user_biases,
                model.item_biases,
            )


@dataclass(frozen=True)
class PackedRatings:
    """Ratings as training reads them: rows in the order of `order_ids`, cut into blocks both ways."""

    user_ids: list[str]
    item_ids: list[str]
    user_blocks: list[RatingBlock]
    item_blocks: list[RatingBlock]


def pack_ratings(
    user_ids: Sequence[str], item_ids: Sequence[str], values: FloatVector | None, parameters: AlsParameters
) -> PackedRatings:
    """Return the blocks of (user, item, value) triples in any order; every order gives the same blocks.

    Parameters
    ----------
    user_ids, item_ids : n ids each; a pair may occur once.
    values : (n,) ratings, or None when every rating is 1. For the implicit and the Frobenius objective a rating of 0
        says nothing and is left out.

    Raises
    ------
    DataRefusedError : no ratings, a rating that is not finite, or a pair that occurs twice.
    """
    users, items = np.asarray(user_ids, dtype=object), np.asarray(item_ids, dtype=object)
    if values is not None:
        values = np.asarray(values, dtype=np.float32)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise DataRefusedError(f"the rating in row {bad[0]} is {values[bad[0]]}; leave such rows out")
        if parameters.objective != "explicit":
            told = values != 0
            users, items, values = users[told], items[told], values[told]
    if not len(users):
        raise DataRefusedError("there is no rating to train on")
    distinct_users, user_hashes = order_ids(users.tolist())
    distinct_items, item_hashes = order_ids(items.tolist())
    place_of_user = {one: place for place, one in enumerate(distinct_users)}
    place_of_item = {one: place for place, one in enumerate(distinct_items)}
    u = np.fromiter((place_of_user[one] for one in users), np.int64, len(users))
    i = np.fromiter((place_of_item[one] for one in items), np.int64, len(items))
    user_blocks, item_blocks = pack_positions(u, i, values, user_hashes, item_hashes)
    return PackedRatings(distinct_users, distinct_items, user_blocks, item_blocks)


def fit_als(
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    values: FloatVector | None,
    parameters: AlsParameters,
    threads: int = 1,
) -> FittedAls:
    """Train on (user, item, value) triples in any order; the result is the same bit for bit for every order.

    Parameters
    ----------
    user_ids, item_ids, values : as `pack_ratings` takes them.
    threads : blocks solved at the same time; changes no number.

    Raises
    ------
    DataRefusedError : ratings that cannot be packed.
    NumericalError : training went out of bounds.
    """
    packed = pack_ratings(user_ids, item_ids, values, parameters)
    user_blocks, item_blocks = packed.user_blocks, packed.item_blocks
    with LocalPlan(user_blocks, item_blocks, parameters, threads) as plan:
        model = train(plan, parameters)
    seen_ptr = np.zeros(len(packed.user_ids) + 1, np.int64)
    np.cumsum(np.concatenate([np.diff(block.row_ptr) for block in user_blocks]), out=seen_ptr[1:])
    return FittedAls(
        user_ids=packed.user_ids,
        item_ids=packed.item_ids,
        model=model,
        seen_ptr=seen_ptr,
        seen_items=np.concatenate([block.neighbours for block in user_blocks]),
    )
