"""Metrics written from their definitions: dictionaries and loops, fractions where figures are ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from scipy import stats

Id = Any
Pairs = Iterable[tuple[Any, Any]]


def by_user(pairs: Pairs) -> dict[Id, set[Id]]:
    found: dict[Id, set[Id]] = {}
    for user, item in pairs:
        found.setdefault(user, set()).add(item)
    return found


def lists_of(rows: Iterable[tuple[Any, Any, float]], *, by_rank: bool) -> dict[Id, list[Id]]:
    """(user, item, rank or score) → each user's items, best first; equal scores by item."""
    found: dict[Id, list[Id]] = {}
    for user, item, _ in sorted(rows, key=lambda row: (row[2] if by_rank else -row[2], row[1])):
        found.setdefault(user, []).append(item)
    return found


def user_metrics(listed: Sequence[Id], truth: set[Id], k: int) -> dict[str, float]:
    """Every metric of one user that counts hits. Gaps in ``listed`` (None) never hit."""
    dcg = ideal = 0.0
    precisions = Fraction(0)
    hits, first = 0, 0
    for rank in range(1, k + 1):
        if rank <= len(truth):
            ideal += 1 / math.log2(rank + 1)
        if rank <= len(listed) and listed[rank - 1] in truth:
            hits += 1
            dcg += 1 / math.log2(rank + 1)
            precisions += Fraction(hits, rank)
            first = first or rank
    best = min(k, len(truth))
    return {
        f"ndcg@{k}": dcg / ideal,
        f"recall@{k}": float(Fraction(hits, len(truth))),
        f"recall_min@{k}": float(Fraction(hits, best)),
        f"precision@{k}": float(Fraction(hits, k)),
        f"map@{k}": float(precisions / best),
        f"mrr@{k}": float(Fraction(1, first)) if first else 0.0,
        f"hit@{k}": 1.0 if hits else 0.0,
    }


def popularity_of(known: Mapping[Id, set[Id]]) -> dict[Id, int]:
    counts: dict[Id, int] = {}
    for items in known.values():
        for item in items:
            counts[item] = counts.get(item, 0) + 1
    return counts


def novelty(listed: Sequence[Id], known: Mapping[Id, set[Id]], k: int) -> float:
    counts = popularity_of(known)
    bits = [-math.log2(Fraction(max(counts.get(item, 0), 1), len(known))) for item in listed[:k]]
    return sum(bits) / len(bits)


def popularity_lift(listed: Sequence[Id], own: set[Id], known: Mapping[Id, set[Id]], k: int) -> float:
    counts = popularity_of(known)
    of_list = Fraction(sum(counts.get(item, 0) for item in listed[:k]), len(listed[:k]))
    return float(of_list / Fraction(sum(counts[item] for item in own), len(own)))


def judge(
    lists: Mapping[Id, Sequence[Id]],
    held_out: Mapping[Id, set[Id]],
    known: Mapping[Id, set[Id]] | None,
    k: int,
) -> dict[Id, dict[str, float]]:
    """Each judged user's figures; a figure that a user does not have is absent."""
    figures = {}
    for user, items in held_out.items():
        had = set() if known is None else known.get(user, set())
        truth = items - had
        if not truth:
            continue
        listed = [item for item in lists.get(user, []) if item not in had]
        figures[user] = user_metrics(listed, truth, k)
        if known and listed:
            figures[user][f"novelty@{k}"] = novelty(listed, known, k)
            if had:
                figures[user][f"popularity_lift@{k}"] = popularity_lift(listed, had, known, k)
    return figures


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float, float, int]:
    """(mean, lower, upper, n)."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return mean, -math.inf, math.inf, 1
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half, n


def sampled(candidates: Mapping[Id, float], held_out: set[Id], k: int) -> dict[str, float]:
    """Metrics of one user's candidates; a tie counts against what was held out."""
    ordered = sorted(candidates, key=lambda item: (-candidates[item], item in held_out, item))
    figures = user_metrics(ordered, held_out, k)
    return {name: figures[name] for name in (f"hit@{k}", f"ndcg@{k}", f"mrr@{k}")}
