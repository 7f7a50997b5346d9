"""Small rating problems that the tests of models share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.kernels.hashing import hash_ids
from factorlake.kernels.packing import compress_rows
from factorlake.models.blocks import cut_blocks, order_ids
from factorlake.models.parameters import AlsParameters
from factorlake.types import RatingBlock
from tests.reference.als import Ratings


@dataclass(frozen=True)
class Problem:
    """Ratings with positions, and the blocks they make."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float32] | None
    user_blocks: list[RatingBlock]
    item_blocks: list[RatingBlock]
    n_users: int
    n_items: int

    def ratings(self) -> Ratings:
        values = np.ones(len(self.users)) if self.values is None else self.values
        return {(int(u), int(i)): float(r) for u, i, r in zip(self.users, self.items, values, strict=True)}


def problem_of(
    user_ids: list[str], item_ids: list[str], values: NDArray[np.float32] | None, n_blocks: int = 8
) -> Problem:
    distinct_users, user_hashes = order_ids(user_ids)
    distinct_items, item_hashes = order_ids(item_ids)
    assert np.array_equal(hash_ids(distinct_users), user_hashes)
    user_of, item_of = ({one: n for n, one in enumerate(distinct)} for distinct in (distinct_users, distinct_items))
    u = np.array([user_of[one] for one in user_ids])
    i = np.array([item_of[one] for one in item_ids])
    n_users, n_items = len(distinct_users), len(distinct_items)
    return Problem(
        users=u,
        items=i,
        values=values,
        user_blocks=cut_blocks(compress_rows(u, i, values, n_users, n_items), user_hashes, n_blocks),
        item_blocks=cut_blocks(compress_rows(i, u, values, n_items, n_users), item_hashes, n_blocks),
        n_users=n_users,
        n_items=n_items,
    )


def random_ids(
    n_users: int, n_items: int, n_obs: int, seed: int, rating: str = "one"
) -> tuple[list[str], list[str], NDArray[np.float32] | None]:
    """Distinct random pairs; ratings: one (all 1), stars (1 to 5), signed (whole numbers with both signs, no
    0)."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(n_users * n_items, n_obs, replace=False)
    values = {
        "one": None,
        "stars": rng.integers(1, 6, n_obs).astype(np.float32),
        "signed": (rng.integers(1, 4, n_obs) * rng.choice([-1, 1, 1], n_obs)).astype(np.float32),
    }[rating]
    return [f"u{p // n_items}" for p in pairs], [f"i{p % n_items}" for p in pairs], values


def small_problem(rating: str, seed: int = 0) -> Problem:
    return problem_of(*random_ids(30, 17, 150, seed, rating))


MODERN = AlsParameters(rank=5, epochs=4, tolerance=None, regularization=0.02, alpha0=0.2, nu=0.8)
SPARK = AlsParameters(rank=5, epochs=4, tolerance=None, regularization=0.1, alpha0=1.0, alpha=3.0, nu=1.0)
HU_KOREN = AlsParameters(rank=5, epochs=4, tolerance=None, regularization=2.0, alpha0=1.0, alpha=3.0, nu=0.0)
EXPLICIT = AlsParameters(objective="explicit", rank=5, epochs=4, tolerance=None, regularization=0.05)
NO_BIASES = AlsParameters(objective="explicit", rank=5, epochs=4, tolerance=None, regularization=0.05, biases=False)
FROBENIUS = AlsParameters(
    objective="frobenius", nonnegative=True, rank=5, epochs=4, tolerance=None, regularization=0.05
)
"""One set of parameters for each objective; four epochs, all of them run."""
