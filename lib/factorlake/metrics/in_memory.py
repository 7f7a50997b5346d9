"""Lists and ratings that lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from factorlake.errors import DataRefusedError
from factorlake.evaluation.intervals import Interval, mean_interval
from factorlake.evaluation.list_rows import (
    Figure,
    Popularity,
    check_held_out,
    check_lists,
    compressed_pairs,
    padded_lists,
    user_figures,
)
from factorlake.evaluation.rating_error import UserErrors
from factorlake.evaluation.slices import activity_deciles
from factorlake.metrics.frames import (
    HELD_OUT,
    KNOWN,
    LISTS,
    PREDICTIONS,
    RATINGS,
    Codes,
    Labels,
    arrow_columns,
    codes_of,
    labels_of,
    place_column,
    rating_columns,
)
from factorlake.metrics.results import (
    ACTIVITY,
    ALL,
    COLD,
    Intervals,
    difference_name,
    label_text,
    naming,
    refuse_nobody,
)

_Figures = dict[str, dict[str, Figure]]
"""By name, then metric."""


def judge(
    recommendations: Mapping[str, Any], held_out: Any, k: int, known: Any, slices: Any, level: float
) -> Intervals:
    """Return every interval of `compare_rankings`, in any order."""
    labels = None if slices is None or isinstance(slices, str) else labels_of(slices)
    task, users, items = _task(recommendations, held_out, k, known, labels)
    judged = task.judge(np.ones(len(task.held_user), np.bool_))
    refuse_nobody(len(judged.users))
    found = _sliced(judged.figures, {ALL: judged.warm, COLD: ~judged.warm}, level)
    if task.popularity is not None and judged.warm.any():
        n_warm = int(judged.warm.sum())
        for name, lists in judged.lists.items():
            share = len(np.intersect1d(lists[judged.warm], task.catalogue)) / len(task.catalogue)
            found[name, ALL, f"coverage@{k}"] = Interval(share, np.nan, np.nan, n_warm)
    if isinstance(slices, str):
        deciles = np.zeros(len(judged.users), np.int64)
        deciles[judged.warm] = activity_deciles(task.n_known[judged.users[judged.warm]])
        masks = {label_text(ACTIVITY, decile): deciles == decile for decile in range(1, 11)}
        found |= _sliced(judged.figures, masks, level)
    elif labels is not None and labels.key == "user_id":
        for column, of_user in labels.places(users).items():
            own = of_user[judged.users]
            found |= _sliced(
                judged.figures,
                {label_text(column, text): (own == at) & judged.warm for at, text in enumerate(labels.texts[column])},
                level,
            )
    elif labels is not None:
        for column, of_item in labels.places(items).items():
            for at, text in enumerate(labels.texts[column]):
                some = task.judge(of_item[task.held_item] == at)
                found |= _sliced(some.figures, {label_text(column, text): some.warm}, level)
    return found


def user_errors(predicted: Any, actual: Any) -> UserErrors:
    """Return the sums of each user's errors, users by id."""
    guess_column, rating_column = rating_columns(predicted, actual)
    tables = {
        PREDICTIONS: arrow_columns(predicted, PREDICTIONS, guess_column),
        RATINGS: arrow_columns(actual, RATINGS, rating_column),
    }
    users, items = codes_of(tables, "user_id"), codes_of(tables, "item_id")
    # By user, then item: sums do not depend on the order of rows.
    keys, values = {}, {}
    for told, column in ((PREDICTIONS, guess_column), (RATINGS, rating_column)):
        of_rows = users.of[told] * np.int64(items.size) + items.of[told]
        order = np.argsort(of_rows, kind="stable")
        keys[told] = of_rows[order]
        values[told] = tables[told][column].cast(pa.float64()).to_numpy()[order]
        if (keys[told][1:] == keys[told][:-1]).any():
            raise DataRefusedError(f"a pair of user and item stands twice in {told}: keep each once")
    n_bad = int((~np.isfinite(values[RATINGS])).sum())
    if n_bad:
        raise DataRefusedError(f"{n_bad} ratings are null or not finite: leave them out")
    place = np.searchsorted(keys[PREDICTIONS], keys[RATINGS])
    # The place after the last has a key that is no pair's.
    met = np.append(keys[PREDICTIONS], -1)[place] == keys[RATINGS]
    guesses = np.where(met, np.append(values[PREDICTIONS], np.nan)[place], np.nan)
    who, row = np.unique(keys[RATINGS] // np.int64(max(items.size, 1)), return_inverse=True)
    return UserErrors.of_rows(row, guesses, values[RATINGS], len(who))


@dataclass(frozen=True)
class _Judged:
    """``users`` (n,) positions of those judged, ascending; ``warm`` (n,) which of them are known, all where nothing is
    said of that; ``lists`` (n, k) of each name; the figures."""

    users: NDArray[np.int64]
    warm: NDArray[np.bool_]
    lists: dict[str, NDArray[np.int64]]
    figures: _Figures


@dataclass(frozen=True)
class _Task:
    """Everything as numbers: what is listed (by name: user, item, place) and held out, without what was known.

    ``popularity`` (n_items,), and ``n_users`` who chose anything; ``n_known`` and ``own`` mean popularity by user.
    ``popularity`` is None where nothing is said of what is known."""

    k: int
    rows: dict[str, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]
    held_user: NDArray[np.int64]
    held_item: NDArray[np.int64]
    catalogue: NDArray[np.int64]
    popularity: NDArray[np.int64] | None
    n_users: int
    n_known: NDArray[np.int64]
    own: NDArray[np.float64]

    def judge(self, asked: NDArray[np.bool_]) -> _Judged:
        """Judge every name on some of the held-out pairs."""
        users = np.unique(self.held_user[asked])
        row_of = np.full(len(self.n_known), -1)
        row_of[users] = np.arange(len(users))
        truth_ptr, truth_items = compressed_pairs(row_of[self.held_user[asked]], self.held_item[asked], len(users))
        known = None if self.popularity is None else Popularity(self.popularity, self.n_users, self.own[users])
        lists, figures = {}, {}
        for name, (user, item, place) in self.rows.items():
            has = row_of[user] >= 0
            lists[name] = padded_lists(row_of[user[has]], item[has], place[has], item[has], len(users), self.k)
            figures[name] = user_figures(lists[name], truth_ptr, truth_items, self.k, known)
        warm = np.ones(len(users), np.bool_) if known is None else self.n_known[users] > 0
        return _Judged(users, warm, lists, figures)


def _task(
    recommendations: Mapping[str, Any], held_out: Any, k: int, known: Any, labels: Labels | None
) -> tuple[_Task, Codes, Codes]:
    named = {name: f"{LISTS} {name!r}" for name in recommendations}
    places = {name: place_column(frame) for name, frame in recommendations.items()}
    tables = {named[name]: arrow_columns(frame, LISTS, places[name]) for name, frame in recommendations.items()}
    tables[HELD_OUT] = arrow_columns(held_out, HELD_OUT)
    if known is not None:
        tables[KNOWN] = arrow_columns(known, KNOWN)
    users, items = codes_of(tables, "user_id", labels), codes_of(tables, "item_id", labels)
    stride = np.int64(max(items.size, 1))
    keys = {told: users.of[told] * stride + items.of[told] for told in tables}
    had = np.unique(keys[KNOWN]) if known is not None else np.empty(0, np.int64)
    check_held_out(users.of[HELD_OUT], items.of[HELD_OUT])
    new = ~np.isin(keys[HELD_OUT], had)
    held_user, held_item = users.of[HELD_OUT][new], items.of[HELD_OUT][new]
    rows = {}
    for name, told in named.items():
        place = tables[told][places[name]].cast(pa.float64()).to_numpy()
        with naming(name, recommendations):
            check_lists(users.of[told], items.of[told], place, places[name] == "rank")
        left = ~np.isin(keys[told], had)
        ascending = place if places[name] == "rank" else -place
        rows[name] = users.of[told][left], items.of[told][left], ascending[left]
    known_user, known_item = had // stride, had % stride
    popularity = np.bincount(known_item, minlength=items.size)
    n_known = np.bincount(known_user, minlength=users.size)
    totals = np.bincount(known_user, weights=popularity[known_item], minlength=users.size)
    task = _Task(
        k,
        rows,
        held_user,
        held_item,
        np.unique(np.concatenate([known_item, held_item])),
        None if known is None else popularity,
        int((n_known > 0).sum()),
        n_known,
        totals / np.maximum(n_known, 1),
    )
    return task, users, items


def _sliced(figures: _Figures, masks: Mapping[str, NDArray[np.bool_]], level: float) -> Intervals:
    """Return the intervals of each name, and of each difference to the first, on each slice of the users."""
    first, *others = figures
    differences = {
        difference_name(other, first): {
            metric: _difference(figure, figures[first][metric]) for metric, figure in figures[other].items()
        }
        for other in others
    }
    found: Intervals = {}
    for name, of_name in (figures | differences).items():
        for metric, figure in of_name.items():
            for label, mask in masks.items():
                values = figure.values[mask[figure.users]]
                if len(values):
                    found[name, label, metric] = mean_interval(values, level)
    return found


def _difference(one: Figure, other: Figure) -> Figure:
    users, at, at_other = np.intersect1d(one.users, other.users, assume_unique=True, return_indices=True)
    return Figure(users, one.values[at] - other.values[at_other])
