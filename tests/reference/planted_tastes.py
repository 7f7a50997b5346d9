"""A small log of planted tastes: what a search for settings can find, and how much there is to find."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Log = tuple[list[str], list[str], NDArray[np.float32] | None]
"""(user of each pair, its item, its rating; None: every rating is 1), each pair once."""


def planted_log(explicit: bool = False, n_users: int = 90, n_items: int = 40, seed: int = 0) -> Log:
    """Users of three tastes, each with a third of the items to it: five of six items a user has are of the own taste.

    Ratings are 4 of the own taste and 2 of others, moved by how lenient a user is and by noise.
    """
    rng = np.random.default_rng(seed)
    users, items, values = [], [], []
    for user in range(n_users):
        liking = np.where(np.arange(n_items) % 3 == user % 3, 10.0, 1.0)
        for item in rng.choice(n_items, 10, replace=False, p=liking / liking.sum()):
            users.append(f"u{user}")
            items.append(f"i{item}")
            own = 4.0 if item % 3 == user % 3 else 2.0
            values.append(np.clip(own + 0.3 * (user % 5 - 2) + 0.5 * rng.standard_normal(), 1, 5))
    return users, items, np.array(values, np.float32) if explicit else None
