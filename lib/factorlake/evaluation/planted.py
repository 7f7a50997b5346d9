"""Planted taste: interactions drawn from known user and item vectors, and how much of them a model found.

User u chooses item i with a log-odds of s_ui = strength · p_u·q_i + log(popularity_i). A user's items are
drawn without replacement in proportion to exp(s_ui), so what is popular and what is liked both show in the
log, as they do in real ones.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.evaluation.baselines import popularity_lists, popularity_order
from factorlake.evaluation.ranking import PADDING
from factorlake.types import IntVector

_SCORES_AT_ONCE = 1 << 22
# Separate streams of one seed, so that drawing more of one thing changes nothing of another.
_TASTE, _PAIRS, _STARS = 0, 1, 2
_NEWTON_STEPS = 50
_STILL = 1e-9
"""A step shorter than this moves no score that float32 could tell."""
_LARGEST_LOG_RATE = 6.0
"""From exp(6) on an item is chosen but for one part in e⁴⁰⁰: larger rates tell nothing and would overflow."""


@dataclass(frozen=True)
class PlantedTaste:
    """A population with known tastes.

    ``user_taste`` (n_users, rank) and ``item_taste`` (n_items, rank) are float32 with products p_u·q_i of
    variance 1. ``log_popularity`` (n_items,) float32 is the log of shares that sum to 1. ``activity``
    (n_users,) float64 is proportional to how much each user does. ``leniency`` (n_users,) and ``quality``
    (n_items,) shift star ratings, in stars.
    """

    user_taste: NDArray[np.float32]
    item_taste: NDArray[np.float32]
    log_popularity: NDArray[np.float32]
    activity: NDArray[np.float64]
    leniency: NDArray[np.float32]
    quality: NDArray[np.float32]
    strength: float
    seed: int

    @classmethod
    def make(
        cls,
        n_users: int,
        n_items: int,
        *,
        rank: int = 10,
        seed: int = 0,
        strength: float = 2.0,
        popularity_exponent: float = 0.8,
        activity_spread: float = 1.0,
    ) -> PlantedTaste:
        """Draw a population.

        Parameters
        ----------
        rank : length of the taste vectors, whose entries are normal and independent.
        strength : weight of taste against popularity; 0 leaves popularity alone.
        popularity_exponent : a of popularity ∝ place^−a (Zipf's law), places being dealt at random.
        activity_spread : σ of log activity, which is normal.

        Raises
        ------
        ConfigError : no users, no items or a rank below 1.
        """
        if n_users < 1 or n_items < 1 or rank < 1:
            raise ConfigError(f"need users, items and a rank of at least 1: got {n_users}, {n_items}, {rank}")
        rng = np.random.default_rng([seed, _TASTE])
        popularity = (1.0 + rng.permutation(n_items)) ** -popularity_exponent
        return cls(
            user_taste=rng.standard_normal((n_users, rank)).astype(np.float32),
            item_taste=(rng.standard_normal((n_items, rank)) / np.sqrt(rank)).astype(np.float32),
            log_popularity=np.log(popularity / popularity.sum()).astype(np.float32),
            activity=np.exp(activity_spread * rng.standard_normal(n_users)),
            leniency=(0.3 * rng.standard_normal(n_users)).astype(np.float32),
            quality=(0.3 * rng.standard_normal(n_items)).astype(np.float32),
            strength=strength,
            seed=seed,
        )

    @property
    def n_users(self) -> int:
        return len(self.user_taste)

    @property
    def n_items(self) -> int:
        return len(self.item_taste)

    def scores(self, users: IntVector | slice, liking: float = 1.0) -> NDArray[np.float32]:
        """Return the planted log-odds, liking · strength · p_u·q_i + log(popularity_i), of these users and
        all items.

        Parameters
        ----------
        users : positions, or a slice of them.
        liking : 1 for what users seek out; negative for what reaches them by its popularity and is not to
            their taste.
        """
        taste = self.user_taste[users] @ self.item_taste.T
        return np.float32(liking * self.strength) * taste + self.log_popularity

    def items_per_user(self, n_pairs: int) -> NDArray[np.int64]:
        """Return how many distinct items each user has, of `n_pairs` in all: in proportion to activity, but
        at least one and at most half the catalogue (all of it where there is no other way).

        Raises
        ------
        ConfigError : fewer pairs than users, or more than users × items.
        """
        if not self.n_users <= n_pairs <= self.n_users * self.n_items:
            raise ConfigError(
                f"{n_pairs} pairs do not fit {self.n_users} users and {self.n_items} items: "
                "each user needs at least one, and has none twice"
            )
        most = self.n_items if 2 * n_pairs > self.n_users * self.n_items else max(self.n_items // 2, 1)
        low, high = 0.0, n_pairs / self.activity.min()
        for _ in range(200):  # Bisection to the last bit of a double: the clipped total grows with the scale.
            scale = (low + high) / 2
            if np.clip(self.activity * scale, 1, most).sum() > n_pairs:
                high = scale
            else:
                low = scale
        wanted = np.clip(self.activity * low, 1, most)
        counts = np.floor(wanted).astype(np.int64)
        missing = n_pairs - int(counts.sum())
        # What rounding down took goes to those it took most from, never above the bound.
        loss = np.where(counts < most, wanted - counts, -1.0)
        counts[np.argsort(-loss, kind="stable")[:missing]] += 1
        return counts

    def sample_pairs(
        self, n_pairs: int, *, liking: float = 1.0, stream: int = 0, threads: int = 1
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Draw distinct pairs: users ascending, and each user's items ascending.

        Each user's items are the n_u smallest of E_i · exp(−s_ui), E_i exponential and independent: a draw
        without replacement in proportion to exp(s_ui). It runs over chunks of users, so that memory stays at
        the result and some tens of megabytes a thread; threads do not change the result.

        Parameters
        ----------
        n_pairs : in all; `items_per_user` says how they spread.
        liking : as in `scores`.
        stream : another number draws another, independent sample.

        Raises
        ------
        ConfigError : as `items_per_user`.

        Source: Efraimidis and Spirakis, Information Processing Letters 97(5) 2006 (weighted sampling by
        keys).
        """
        counts = self.items_per_user(n_pairs)
        ends = np.cumsum(counts)
        items = np.empty(n_pairs, dtype=np.int32)
        chunk_size = max(1, _SCORES_AT_ONCE // self.n_items)

        def draw(first: int) -> None:
            rng = np.random.default_rng([self.seed, _PAIRS, stream, first])
            keys = self.scores(slice(first, first + chunk_size), liking)
            np.negative(keys, out=keys)
            np.exp(keys, out=keys)
            keys *= rng.standard_exponential(keys.shape, dtype=np.float32)
            for row, row_keys in enumerate(keys):
                n, end = counts[first + row], ends[first + row]
                items[end - n : end] = np.sort(np.argpartition(row_keys, n - 1)[:n])

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(draw, range(0, self.n_users, chunk_size)):
                pass
        return np.repeat(np.arange(self.n_users, dtype=np.int32), counts), items

    def inferred_scores(self, ptr: IntVector, items: IntVector) -> NDArray[np.float64]:
        """Return the log-odds of all items that some users' own items tell, with the items' tastes and popularity
        known: the planted optimum of what a model can find out.

        A user's items are those whose exponential clock of rate exp(s_ui) rings before the user is done, at τ_u, so

            P(items) = Π_in (1 − exp(−τ exp s)) · Π_out exp(−τ exp s),      s_i = strength · p·q_i + log popularity_i.

        The taste p, normal beforehand, and log τ are taken where their posterior density is highest; its logarithm is
        concave in both, and Newton's steps find it. Held-out items count as not chosen, as any model sees them.

        Parameters
        ----------
        ptr, items : what the users are known to have, compressed by row: ``items[ptr[u]:ptr[u + 1]]``, each once.

        Returns
        -------
        (n_users, n_items) float64; of a user without items the popularity alone. No users give no rows.

        Source: McCullagh and Nelder, Generalized Linear Models, 2nd edition 1989, section 4.3 (complementary log-log).
        """
        # The last column belongs to log τ, which is free.
        design = np.concatenate(
            [self.strength * self.item_taste.astype(np.float64), np.ones((self.n_items, 1))], axis=1
        )
        scores = np.empty((len(ptr) - 1, self.n_items))
        for user in range(len(scores)):
            chosen = np.zeros(self.n_items, bool)
            chosen[items[ptr[user] : ptr[user + 1]]] = True
            scores[user] = _most_likely(design, self.log_popularity.astype(np.float64), chosen)
        return scores

    def expected_stars(self, users: IntVector | slice) -> NDArray[np.float32]:
        """Return 3.2 + 0.9 p_u·q_i + leniency_u + quality_i of these users and all items, in stars,
        unbounded."""
        taste = self.user_taste[users] @ self.item_taste.T
        return np.float32(3.2) + np.float32(0.9) * taste + self.leniency[users][:, None] + self.quality

    def stars(self, users: IntVector, items: IntVector, noise: float = 0.2) -> NDArray[np.float32]:
        """Return star ratings of the pairs: `expected_stars` and noise, to the nearest half star within 1 to
        5.

        Parameters
        ----------
        users, items : (n,) positions.
        noise : standard deviation of what no model can know, in stars.
        """
        rng = np.random.default_rng([self.seed, _STARS])
        taste = np.einsum("nd,nd->n", self.user_taste[users], self.item_taste[items])
        expected = 3.2 + 0.9 * taste + self.leniency[users] + self.quality[items]
        noisy = expected + noise * rng.standard_normal(len(expected))
        return np.clip(np.round(2 * noisy) / 2, 1, 5).astype(np.float32)


def _most_likely(
    design: NDArray[np.float64], log_popularity: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the scores of all items at the highest posterior density of one user (see ``inferred_scores``)."""
    if not chosen.any():
        return log_popularity
    prior = np.ones(design.shape[1])
    prior[-1] = 0.0
    unknown = np.zeros(design.shape[1])
    unknown[-1] = np.log(chosen.sum())
    value, gradient, curvature = _posterior(design, log_popularity, chosen, prior, unknown)
    for _ in range(_NEWTON_STEPS):
        step = np.linalg.solve((design.T * curvature) @ design + np.diag(prior), design.T @ gradient - prior * unknown)
        while True:
            moved = _posterior(design, log_popularity, chosen, prior, unknown + step)
            # A concave function rises along Newton's direction, if not by the whole step; at the top by rounding only.
            if moved[0] >= value or np.abs(step).max() < _STILL:
                break
            step /= 2
        unknown = unknown + step
        value, gradient, curvature = moved
        if np.abs(step).max() < _STILL:
            break
    scores: NDArray[np.float64] = design[:, :-1] @ unknown[:-1] + log_popularity
    return scores


def _posterior(
    design: NDArray[np.float64],
    log_popularity: NDArray[np.float64],
    chosen: NDArray[np.bool_],
    prior: NDArray[np.float64],
    unknown: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the log density but for a constant, and its first and negative second derivative by each item's score."""
    rate = np.exp(np.minimum(design @ unknown + log_popularity, _LARGEST_LOG_RATE))
    odds = rate / np.expm1(rate)
    value = np.where(chosen, np.log(-np.expm1(-rate)), -rate).sum() - 0.5 * np.sum(prior * unknown**2)
    gradient = np.where(chosen, odds, -rate)
    curvature = np.where(chosen, odds * (rate + odds - 1), rate)
    return float(value), gradient, curvature


def recovered_share(
    planted_scores: NDArray[np.floating],
    lists: NDArray[np.integer],
    seen_ptr: IntVector,
    seen_items: IntVector,
) -> float:
    """Return how far the lists go from the popularity list (0) to the best possible list (1).

    With P, L and B the mean planted score of a user's popularity list, of the user's list under judgement and
    of the best list, all of the same length and without what the user has seen: Σ_u (L − P) / Σ_u (B − P).
    Lists worse than popularity give a negative share.

    Parameters
    ----------
    planted_scores : (n_users, n_items), `PlantedTaste.scores` (or `expected_stars`) of the users judged.
    lists : (n_users, k) item positions, padded with −1; a user with an empty list is left out.
    seen_ptr, seen_items : what each user has seen, compressed by row; popularity counts these too.

    Raises
    ------
    ConfigError : shapes that do not fit, a seen item in a list, or not a single list.
    NumericalError : the popularity lists are already the best possible.
    """
    n_users, n_items = planted_scores.shape
    if len(lists) != n_users or len(seen_ptr) != n_users + 1:
        raise ConfigError(f"{n_users} users have scores, {len(lists)} lists, {len(seen_ptr) - 1} seen items")
    counts = np.bincount(seen_items, minlength=n_items)
    popular = popularity_lists(popularity_order(counts), seen_ptr, seen_items, max(lists.shape[1], 1))
    gained = possible = 0.0
    for user in range(n_users):
        listed = lists[user][lists[user] != PADDING]
        if len(listed) == 0:
            continue
        seen = seen_items[seen_ptr[user] : seen_ptr[user + 1]]
        if np.isin(listed, seen).any():
            raise ConfigError("a list names an item its user has seen: the share is of new items")
        scores = planted_scores[user].astype(np.float64)
        base = float(scores[popular[user, : len(listed)]].mean())
        gained += float(scores[listed].mean()) - base
        scores[seen] = -np.inf
        possible += float(np.sort(scores)[-len(listed) :].mean()) - base
    if possible == 0:
        raise NumericalError(
            "the popularity lists are already the best possible, or there are no lists: nothing to recover"
        )
    return gained / possible
