"""What the judgements have in common: rows of the table, their order, what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from factorlake.errors import DataRefusedError
from factorlake.evaluation.intervals import Interval
from factorlake.evaluation.list_rows import metric_names

ALL, COLD = "all", "cold users"
ACTIVITY = "activity decile"
Intervals = dict[tuple[str, str, str], Interval]
"""(name, slice, metric) → interval."""


def difference_name(other: str, first: str) -> str:
    """Return the name of rows that tell by how much ``other`` is above ``first``."""
    return f"{other} - {first}"


def label_text(column: str, label: object) -> str:
    """Return the name of a slice."""
    return f"{column}={label}"


def in_order(found: Intervals, names: Sequence[str], k: int) -> Intervals:
    """Return the intervals by name (differences last), slice (everyone first, numbers as numbers) and metric."""
    rows = [*names, *(difference_name(other, names[0]) for other in names[1:])]
    metrics = [*metric_names(k, True), f"coverage@{k}"]

    def place(key: tuple[str, str, str]) -> tuple[int, tuple[int, str, float, str], int]:
        name, label, metric = key
        return rows.index(name), _slice_order(label), metrics.index(metric)

    return {key: found[key] for key in sorted(found, key=place)}


def _slice_order(label: str) -> tuple[int, str, float, str]:
    if label in (ALL, COLD):
        return 0, label, 0.0, ""
    column, _, value = label.partition("=")
    return 1, column, float(value) if re.fullmatch(r"-?\d{1,15}", value) else float("inf"), value


def table(intervals: Intervals) -> pd.DataFrame:
    """Return one row for each interval, in their order."""
    rows = [
        (name, metric, one.value, one.lower, one.upper, one.n, label)
        for (name, label, metric), one in intervals.items()
    ]
    return pd.DataFrame(rows, columns=["name", "metric", "value", "lower", "upper", "n", "slice"])


def refuse_nobody(n_users: int) -> None:
    """Refuse to judge without users.

    Raises
    ------
    DataRefusedError : there are none.
    """
    if not n_users:
        raise DataRefusedError(
            "no user has a held-out pair that was not known before: there is nothing to judge the recommendations by"
        )


@contextmanager
def naming(name: str, among: Mapping[str, Any]) -> Iterator[None]:
    """Say which of several recommendations are refused."""
    try:
        yield
    except DataRefusedError as error:
        if len(among) == 1:
            raise
        raise DataRefusedError(f"{name}: {error}") from error
