"""Recommendations that a judged model stands beside, made the slow way from dictionaries of ratings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ratings = Mapping[str, Mapping[str, float]]
"""user → item → rating."""
Lists = dict[str, list[str]]


def ratings_of(pairs: Iterable[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for user, item, value in pairs:
        assert item not in found.setdefault(user, {}), "a pair stands twice"
        found[user][item] = value
    return found


def best(scores: Mapping[str, float], own: Iterable[str], k: int) -> list[str]:
    """The k items of the greatest scores that are not one's own; ties by the id's bytes."""
    free = [item for item in scores if item not in set(own)]
    return sorted(free, key=lambda item: (-scores[item], item.encode()))[:k]


def counts_of(known: Ratings) -> dict[str, int]:
    counts: dict[str, int] = {}
    for items in known.values():
        for item in items:
            counts[item] = counts.get(item, 0) + 1
    return counts


def popularity_lists(known: Ratings, users: Iterable[str], k: int) -> Lists:
    counts = counts_of(known)
    return {user: best(counts, known.get(user, {}), k) for user in users}


def item_neighbours(known: Ratings, n: int) -> dict[str, dict[str, float]]:
    """item → its n nearest items with their cosines, rounded to float32."""
    items = sorted(counts_of(known), key=str.encode)
    columns = {item: np.array([known[user].get(item, 0.0) for user in sorted(known)]) for item in items}
    near = {}
    for item in items:
        cosines = {}
        for other in items:
            met = any(item in of and other in of for of in known.values())
            if other != item and met:
                lengths = math.sqrt(float(columns[item] @ columns[item])) * math.sqrt(
                    float(columns[other] @ columns[other])
                )
                cosines[other] = float(np.float32(float(columns[item] @ columns[other]) / lengths))
        near[item] = {other: cosines[other] for other in best(cosines, (), n)}
    return near


def neighbour_scores(known: Ratings, user: str, near: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Σ cosine · rating over what the user rated among an item's neighbours, where any cosine is positive."""
    own = known.get(user, {})
    scores = {}
    for item, neighbours in near.items():
        terms = [cosine * own[other] for other, cosine in neighbours.items() if other in own and cosine > 0]
        if terms:
            scores[item] = float(np.float32(math.fsum(terms)))
    return scores


def implicit_row(
    own: Mapping[str, float], items: Mapping[str, NDArray[np.float64]], n_items: int, train: Mapping[str, Any]
) -> NDArray[np.float64]:
    """The factor of a user of modern iALS: confidence |r|, target 1 where r > 0 and 0 below."""
    everything = np.stack(list(items.values()))
    alpha0 = train["unobserved_weight"]
    known = {item: r for item, r in own.items() if item in items and r != 0}
    ridge = train["regularization"] * (len(known) + alpha0 * n_items) ** train["frequency_exponent"]
    left = alpha0 * everything.T @ everything + ridge * np.eye(everything.shape[1])
    right = np.zeros(len(left))
    for item, r in known.items():
        left += abs(r) * np.outer(items[item], items[item])
        right += (r > 0) * abs(r) * items[item]
    return np.linalg.solve(left, right)


def explicit_row(
    own: Mapping[str, float],
    items: Mapping[str, tuple[NDArray[np.float64], float]],
    mean: float,
    train: Mapping[str, Any],
) -> tuple[NDArray[np.float64], float]:
    """(factor, bias) of a user of the explicit objective with biases, for (factor, bias) of the items."""
    rank = len(next(iter(items.values()))[0])
    known = {item: r for item, r in own.items() if item in items}
    ridge = np.full(rank + 1, train["regularization"] * len(known) ** train["frequency_exponent"])
    ridge[-1] = train["bias_regularization"]
    left, right = np.diag(ridge), np.zeros(rank + 1)
    for item, r in known.items():
        factor, bias = items[item]
        row = np.append(factor, 1.0)
        left += np.outer(row, row)
        right += (r - mean - bias) * row
    if not known:
        return np.zeros(rank), 0.0
    solved = np.linalg.solve(left, right).astype(np.float64)
    return solved[:-1], float(solved[-1])
