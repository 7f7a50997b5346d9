"""The search for settings on one machine, from (user, item, value) triples, without Spark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.evaluation.splits import HashedIds, per_user_fold, per_user_split
from factorlake.kernels.hashing import hash_ids
from factorlake.types import FloatVector

from .fit import PackedRatings, pack_ratings
from .held_out import LIST_METRICS, HeldOut, HeldOutLists, HeldOutMetric, HeldOutRatings
from .local_plan import LocalPlan
from .parameters import AlsParameters
from .search import Space, Trial
from .trials import Fold, Outcome, Searched, TrialRunner, scales_of, search

Triples = tuple[list[str], list[str], FloatVector | None]


def tune_ratings(
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    values: FloatVector | None,
    start: AlsParameters,
    budget: int = 40,
    *,
    metric: HeldOutMetric = "ndcg",
    k: int = 20,
    folds: int = 1,
    share: float = 0.1,
    base_rank: int = 64,
    max_rank: int = 1024,
    max_epochs: int = 16,
    max_users: int = 20_000,
    threads: int = 1,
    on_trial: Callable[[Trial, Outcome], None] | None = None,
) -> Searched:
    """Search settings for (user, item, value) triples, as ``fit_als`` takes them, on parts of them held out by hash.

    Parameters
    ----------
    start : where the search starts; its objective, solver and seed stay.
    budget : trials.
    metric : ndcg and recall at ``k``, of lists without what a user has; rmse and mae of explicit ratings.
    folds, share : with one fold about ``share`` of each user's pairs is held out; with more each pair is held out in
        one of them, and ``share`` does not count.
    max_users : most users whose lists are judged, chosen by hash.
    threads : changes no number.

    Raises
    ------
    ConfigError : numbers out of range, a metric that does not fit the objective, or every trial failed.
    DataRefusedError : ratings that cannot be packed, or nothing held out.
    """
    check_metric(metric, start)
    users, items = np.asarray(user_ids, dtype=object), np.asarray(item_ids, dtype=object)
    hashed = hashed_ids(user_ids), hashed_ids(item_ids)
    with ExitStack() as open_plans:
        made = []
        for number in range(folds):
            held = held_in_fold(hashed[0], hashed[1], number, folds, share, start.seed)
            known = pack_ratings(*_part(users, items, values, ~held), start)
            judge = held_out_of(known, _part(users, items, values, held), metric, max_users).judge(metric, k, threads)
            plan = LocalPlan(known.user_blocks, known.item_blocks, start, threads)
            made.append(Fold(open_plans.enter_context(plan), judge))
        space = Space(start, scales_of(made[0].plan), min(base_rank, max_rank), max_rank, max_epochs)
        return search(TrialRunner(made, space, budget, start.seed), on_trial=on_trial)


def check_metric(metric: HeldOutMetric, parameters: AlsParameters) -> None:
    """Raise a ConfigError where the objective's models are not judged by this metric."""
    if (metric not in LIST_METRICS) != (parameters.objective == "explicit"):
        raise ConfigError(
            f"metric {metric} does not fit the objective {parameters.objective}: take rmse or mae for explicit "
            "ratings, ndcg or recall for lists"
        )


def held_in_fold(
    users: HashedIds, items: HashedIds, number: int, folds: int, share: float, seed: int
) -> NDArray[np.bool_]:
    """Return which pairs fold ``number`` (from 0) of ``folds`` holds out.

    One fold holds out about ``share`` of each user's pairs (`per_user_split`); in several each pair is held out once
    (`per_user_fold`).
    """
    if folds == 1:
        return per_user_split(users, items, share, seed)
    return per_user_fold(users, items, number, folds, seed)


def held_out_of(packed: PackedRatings, held: Triples, metric: HeldOutMetric, max_users: int) -> HeldOut:
    """Return held-out triples by position. Pairs of unknown ids are left out, and where lists are judged those whose
    value is not positive.

    Raises
    ------
    DataRefusedError : nothing is left to judge by.
    """
    user_at = {name: place for place, name in enumerate(packed.user_ids)}
    item_at = {name: place for place, name in enumerate(packed.item_ids)}
    users = np.array([user_at.get(name, -1) for name in held[0]], np.int64)
    items = np.array([item_at.get(name, -1) for name in held[1]], np.int64)
    values = np.ones(len(users)) if held[2] is None else np.asarray(held[2], np.float64)
    judged = (users >= 0) & (items >= 0)
    if metric not in LIST_METRICS:
        return HeldOutRatings.of_pairs(users[judged], items[judged], values[judged])
    judged &= values > 0
    chosen = np.unique(users[judged])
    if len(chosen) > max_users:
        # Positions are in the order of the ids' hashes: any even choice of them is one by hash.
        chosen = chosen[np.linspace(0, len(chosen) - 1, max_users).astype(np.int64)]
    judged &= np.isin(users, chosen)
    blocks = packed.user_blocks
    owners = np.concatenate([np.repeat(np.arange(b.n_rows) + b.first_row, np.diff(b.row_ptr)) for b in blocks])
    neighbours = np.concatenate([block.neighbours for block in blocks])
    return HeldOutLists.of_pairs(users[judged], items[judged], owners, neighbours)


def _part(
    users: NDArray[np.object_], items: NDArray[np.object_], values: FloatVector | None, chosen: NDArray[np.bool_]
) -> Triples:
    return users[chosen].tolist(), items[chosen].tolist(), None if values is None else np.asarray(values)[chosen]


def hashed_ids(column: Sequence[str]) -> HashedIds:
    """Return of each id its position by (signed hash, id), and its hash."""
    names, at = np.unique(np.asarray(column, dtype=str), return_inverse=True)
    hashes = hash_ids(names.tolist())
    position = np.empty(len(names), np.int64)
    position[np.lexsort((names, hashes))] = np.arange(len(names))
    return HashedIds(position[at], hashes[at])
