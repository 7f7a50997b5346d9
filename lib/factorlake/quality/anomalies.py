"""What is out of line with the log's own history: the figures of a batch beside those of earlier ones.

A figure x of the batch is compared with the same figure of each of the past batches. With m their median, s 1.4826
times their median absolute deviation from m, and e what chance alone does to a batch of this size, x is out of line
when its distance from m is more than the check's floor **and** more than z · max(s, e). The floor keeps a past that
never varied from calling every change an alarm; e keeps small batches from being called one.

A log has a week. From `WEEKDAY_BATCHES` past batches of the batch's own weekday on, each figure is compared after its
weekday's effect (that weekday's median less m) is taken off, and z · s grows by √((k+1)/(k−1)), since an effect that is
the middle of k figures follows them. Plain numbers in and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import cast

import numpy as np

from factorlake.config.settings import GateSettings, HistoryAction, HistoryCheck
from factorlake.quality.states import DAY, BatchState, merged
from factorlake.types import SIDES

# 1 / Φ⁻¹(3/4): makes the median absolute deviation of a normal sample estimate its standard deviation.
MAD_TO_SIGMA = 1.4826
WEEKDAY_BATCHES = 3

Buckets = Mapping[str, Mapping[int, int]]
"""The sketch of the values, and for each side the events by bucket of ids."""


@dataclass(frozen=True)
class Check:
    """How one kind of figure is compared. ``floor``: least distance from the median that counts, in the figure's
    unit."""

    floor: float
    told: str
    """What the figure is, in words that a number follows."""
    action: HistoryAction = "warn"
    both_sides: bool = False
    """Whether a figure under the median can be out of line too."""
    unit: str = "share"


CHECKS: dict[HistoryCheck, Check] = {
    "volume": Check(0.4, "records without duplicates", both_sides=True, unit="log"),
    "duplicates": Check(0.01, "share of duplicates"),
    "quarantined_share": Check(0.05, "share of refused records", action="refuse"),
    "null_share": Check(0.01, "share of records without {column}"),
    "new_users": Check(0.05, "share of events by new users"),
    "new_items": Check(0.05, "share of events on new items"),
    "user_peak": Check(0.01, "share that one group of users gained"),
    "item_peak": Check(0.01, "share that one group of items gained"),
    "values": Check(0.02, "distance of the values from those of the past"),
    "advance": Check(0.5, "days that the newest event moved on", both_sides=True, unit="days"),
    "late": Check(0.01, "share of events more than a day before the newest"),
}
"""Floors of shares are a hundredth of a batch or more: less is not worth a person's time, however sure it is. That of
volume is a third fewer, or half as many again. New ids come in waves, so five in a hundred. quarantined_share alone
refuses: there the records themselves are at fault. The others look at records that passed every rule, and
what they show may be a holiday."""


@dataclass(frozen=True)
class Figure:
    """A figure of one batch, and what chance does to it: its standard error at a given median."""

    value: float
    error: Callable[[float], float]


@dataclass(frozen=True)
class Finding:
    """What one check says of one batch. ``limit``: the distance from the median that is out of line."""

    name: str
    """The check's; of null_share with the column behind it."""
    check: HistoryCheck
    value: float
    median: float
    limit: float
    deviations: float
    """Distance from the median over max(s, e)."""
    n_history: int
    action: HistoryAction
    passed: bool

    def sentence(self) -> str:
        """Say in one sentence, without a full stop, what is out of line."""
        check = CHECKS[self.check]
        what = check.told.format(column=self.name.removeprefix("null_share_"))
        far = (
            f"{abs(self.deviations):.1f} robust deviations" if math.isfinite(self.deviations) else "which never varied"
        )
        return (
            f"{self.name}: {what} {_told(self.value, check.unit)}, against a median of "
            f"{_told(self.median, check.unit)} in {self.n_history} earlier batches "
            f"({far})"
        )


def judge(state: BatchState, history: Sequence[BatchState], gate: GateSettings) -> list[Finding]:
    """Return what every check that is on says of a batch.

    Parameters
    ----------
    state : the batch.
    history : the batches that went in before, oldest first; the last `history_window` of them are compared with.
    gate : the settings. A check has no say with fewer than `history_runs` past figures.
    """
    past = list(history)[-gate.history_window :]
    if not gate.history or len(past) < gate.history_runs:
        return []
    whole = _buckets(merged(past))
    newest = [None, *accumulate((one.last_event for one in past), _later)]
    now = _figures(state, whole, newest[-1])
    # Each past batch is compared with all the others, as this one is.
    then = [_figures(one, _without(whole, _buckets(one)), last) for one, last in zip(past, newest, strict=False)]
    days = [_weekday(one) for one in past]
    findings = []
    for name, figure in now.items():
        check: HistoryCheck = "null_share" if name.startswith("null_share") else cast(HistoryCheck, name)
        action = gate.history_checks.get(check, CHECKS[check].action)
        known = [(of[name].value, day) for of, day in zip(then, days, strict=True) if name in of]
        if action != "off" and len(known) >= gate.history_runs:
            findings.append(_compare(name, check, figure, known, _weekday(state), action, gate))
    return findings


def _compare(
    name: str,
    check: HistoryCheck,
    figure: Figure,
    known: list[tuple[float, int | None]],
    today: int | None,
    action: HistoryAction,
    gate: GateSettings,
) -> Finding:
    whole = median(value for value, _ in known)
    same = [value for value, day in known if day == today and day is not None]
    centre, widened = whole, 1.0
    residuals = [value - whole for value, _ in known]
    if len(same) >= WEEKDAY_BATCHES:
        of_day = {day: [value for value, other in known if other == day] for _, day in known}
        effects = {day: median(values) for day, values in of_day.items() if len(values) >= WEEKDAY_BATCHES}
        residuals = [value - effects.get(day, whole) for value, day in known]
        centre, widened = median(same), math.sqrt((len(same) + 1) / (len(same) - 1))
    spread = MAD_TO_SIGMA * median(abs(residual) for residual in residuals) * widened
    floor = gate.history_floors.get(check, gate.history_floor if check == "quarantined_share" else CHECKS[check].floor)
    scale = max(spread, figure.error(centre))
    limit = max(floor, gate.history_zs.get(check, gate.history_z) * scale)
    distance = figure.value - centre
    passed = (abs(distance) if CHECKS[check].both_sides else distance) <= limit
    deviations = distance / scale if scale else math.copysign(math.inf, distance) if distance else 0.0
    return Finding(name, check, figure.value, centre, limit, deviations, len(known), action, passed)


def _figures(state: BatchState, others: Buckets, newest: int | None) -> dict[str, Figure]:
    """Return the figures of a batch beside the buckets of others and the newest event before it. What the batch or the
    others lack the parts for is left out."""
    counts, found = state.counts, {}
    if state.judged:
        found["volume"] = Figure(math.log(state.judged), lambda centre: math.exp(-centre / 2))
        found["quarantined_share"] = _share(counts.get("quarantined", 0), state.judged)
        for column, nulls in state.nulls.items():
            found[f"null_share_{column}"] = _share(nulls, state.judged)
    if state.rows:
        found["duplicates"] = _share(counts.get("duplicates", 0), state.rows)
    accepted = sum(state.values.values())
    if not accepted:
        return found
    for side in SIDES:
        if side in state.ids:
            found[f"new_{side}s"] = _share(state.ids[side].new_events, accepted)
            if others.get(side):
                found[f"{side}_peak"] = _peak(state.ids[side].buckets, others[side])
    if others["values"]:
        found["values"] = Figure(distance(state.values, others["values"]), lambda _: 0.5 / math.sqrt(accepted))
    if state.days and state.last_event is not None:
        last = max(state.days)
        found["late"] = _share(sum(n for day, n in state.days.items() if day < last - 1), accepted)
        if newest is not None:
            found["advance"] = Figure((state.last_event - newest) / DAY, lambda _: 0.0)
    return found


def distance(one: Mapping[int, int], other: Mapping[int, int]) -> float:
    """Return how far two sketches lie apart: the greatest difference of their shares of values up to a bucket (the
    distance of Kolmogorov and Smirnov). By chance alone it is about 0.9 / √n, and each share's error at most ½ / √n."""
    keys = sorted({*one, *other})
    left = np.cumsum([one.get(key, 0) for key in keys], dtype=np.float64)
    right = np.cumsum([other.get(key, 0) for key in keys], dtype=np.float64)
    return float(np.max(np.abs(left / left[-1] - right / right[-1])))


def _peak(buckets: Mapping[int, int], elsewhere: Mapping[int, int]) -> Figure:
    """The most that one bucket's share is above its share elsewhere."""
    n, total = sum(buckets.values()), sum(elsewhere.values())
    gains = {key: count / n - elsewhere.get(key, 0) / total for key, count in buckets.items()}
    top = max(gains, key=lambda key: (gains[key], -key))
    usual = _smoothed(elsewhere.get(top, 0) / total, n)
    return Figure(gains[top], lambda _: math.sqrt(usual * (1 - usual) / n))


def _share(part: int, whole: int) -> Figure:
    def error(centre: float) -> float:
        usual = _smoothed(centre, whole)
        return math.sqrt(usual * (1 - usual) / whole)

    return Figure(part / whole, error)


def _smoothed(share: float, n: int) -> float:
    # A share that has always been 0 says that it is small, not that one record is a wonder.
    return (min(max(share, 0.0), 1.0) * n + 1) / (n + 2)


def _buckets(state: BatchState) -> Buckets:
    return {"values": state.values, **{side: counts.buckets for side, counts in state.ids.items()}}


def _without(whole: Buckets, part: Buckets) -> Buckets:
    left = {
        name: {key: n - part.get(name, {}).get(key, 0) for key, n in buckets.items()} for name, buckets in whole.items()
    }
    return {name: {key: n for key, n in buckets.items() if n} for name, buckets in left.items()}


def _later(one: int | None, other: int | None) -> int | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


def _weekday(state: BatchState) -> int | None:
    return None if state.last_event is None else state.last_event // DAY % 7


def _told(value: float, unit: str) -> str:
    if unit == "log":
        return f"{math.exp(value):,.0f}"
    return f"{value:.2f}" if unit == "days" else f"{value:.2%}"
