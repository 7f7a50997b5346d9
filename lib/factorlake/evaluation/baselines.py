"""What a model must beat: the popularity list for rankings, mean and biases for ratings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.types import FloatVector, IntVector

UNKNOWN = -1


def popularity_order(counts: NDArray[np.number], tie_rank: IntVector | None = None) -> NDArray[np.int64]:
    """Return item positions, most popular first; ties by `tie_rank` ascending.

    Parameters
    ----------
    counts : (n_items,) how often each item was chosen, in any unit.
    tie_rank : (n_items,) rank of each item's id; none: positions themselves.
    """
    ties = np.arange(len(counts)) if tie_rank is None else tie_rank
    return np.lexsort((ties, -np.asarray(counts, dtype=np.float64)))


def popularity_lists(order: IntVector, seen_ptr: IntVector, seen_items: IntVector, k: int) -> NDArray[np.int32]:
    """Return each user's k most popular items among those not seen.

    Parameters
    ----------
    order : (n_items,) item positions, most popular first (`popularity_order`).
    seen_ptr, seen_items : items each user has already, compressed by row: user u's are
        ``seen_items[seen_ptr[u]:seen_ptr[u + 1]]``, in any order.
    k : length of the lists.

    Returns
    -------
    (n_users, k) int32, padded with −1 where fewer than k items are left.

    Raises
    ------
    ConfigError : k below 1.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    return _first_unseen(
        np.asarray(order, dtype=np.int64),
        np.asarray(seen_ptr, dtype=np.int64),
        np.asarray(seen_items, dtype=np.int64),
        k,
    )


@njit(cache=True, nogil=True)
def _first_unseen(
    order: NDArray[np.int64], seen_ptr: NDArray[np.int64], seen_items: NDArray[np.int64], k: int
) -> NDArray[np.int32]:
    n_users = len(seen_ptr) - 1
    lists = np.full((n_users, k), -1, dtype=np.int32)
    # Marks hold the number of the user who set them, so that they need no clearing between users.
    seen_by = np.full(len(order), -1, dtype=np.int64)
    for user in range(n_users):
        for at in range(seen_ptr[user], seen_ptr[user + 1]):
            seen_by[seen_items[at]] = user
        length = 0
        for item in order:
            if length == k:
                break
            if seen_by[item] != user:
                lists[user, length] = item
                length += 1
    return lists


@dataclass(frozen=True)
class BiasBaseline:
    """r̂ = μ + b_u + b_i: what ratings owe to lenient users and good items alone."""

    mean: float
    user_bias: NDArray[np.float64]
    item_bias: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        users: IntVector,
        items: IntVector,
        ratings: FloatVector,
        n_users: int,
        n_items: int,
        *,
        user_damping: float = 15.0,
        item_damping: float = 10.0,
        sweeps: int = 10,
    ) -> BiasBaseline:
        """Minimise Σ (r − μ − b_u − b_i)² + λ_u Σ b_u² + λ_i Σ b_i², μ being the mean rating, by turns.

        Each sweep solves first the items, then the users in closed form, b = Σ residual / (n + λ); the
        objective falls with each, and ten sweeps are close to its least value.

        Parameters
        ----------
        users, items : (n_ratings,) positions. ratings : (n_ratings,), in their own unit.
        user_damping, item_damping : λ_u and λ_i, in ratings, positive: a bias with λ ratings behind it is
            halved.

        Raises
        ------
        ConfigError : no ratings, lengths that differ, or a damping that is not positive.
        NumericalError : a rating is NaN or infinite.

        Source: Koren, ACM TKDD 4(1) 2010, section 3.1; the alternation and the defaults are those of
        BaselineOnly in Surprise (Hug, JOSS 5(52) 2020).
        """
        values = np.asarray(ratings, dtype=np.float64)
        if len(values) == 0 or not len(users) == len(items) == len(values):
            raise ConfigError(f"biases need ratings: {len(users)} users, {len(items)} items, {len(values)} ratings")
        if not (user_damping > 0 and item_damping > 0):
            raise ConfigError(f"dampings must be positive, got {user_damping} and {item_damping}")
        if not np.isfinite(values).all():
            raise NumericalError(f"rating {int(np.argmin(np.isfinite(values)))} is not finite")
        mean = float(values.mean())
        residual = values - mean
        user_weight = np.bincount(users, minlength=n_users) + user_damping
        item_weight = np.bincount(items, minlength=n_items) + item_damping
        user_bias, item_bias = np.zeros(n_users), np.zeros(n_items)
        for _ in range(sweeps):
            item_bias = np.bincount(items, residual - user_bias[users], minlength=n_items) / item_weight
            user_bias = np.bincount(users, residual - item_bias[items], minlength=n_users) / user_weight
        return cls(mean, user_bias, item_bias)

    def predict(self, users: IntVector, items: IntVector) -> NDArray[np.float64]:
        """Return r̂ of each pair; a user or item unknown to the baseline (position −1) has bias 0."""
        from_user = np.where(users == UNKNOWN, 0.0, self.user_bias[users])
        from_item = np.where(items == UNKNOWN, 0.0, self.item_bias[items])
        return self.mean + from_user + from_item
