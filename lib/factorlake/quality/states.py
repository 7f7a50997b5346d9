"""The figures of a batch as states that merge: part + part = whole, and day + day = month, without reading a row again.

Counts merge exactly, moments up to rounding, and the sketch of the values keeps its error. Nothing in a state
names a user or an item. NumPy only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlake.types import SIDES

STEPS = 16
"""Buckets of the sketch for each doubling of a value."""
SMALLEST = -127
"""Values nearer to 0 than 2 to this power count as 0."""
OFFSET = 1 - STEPS * SMALLEST
"""Makes the key of the smallest bucket 1."""
RELATIVE_ERROR = 2 ** (1 / (2 * STEPS)) - 1
"""Of a quantile from the sketch: 2.2 %."""
ID_BUCKETS = 256
"""Ids are counted by hash into so many buckets."""
DAY = 86_400_000_000
"""Microseconds."""


@dataclass(frozen=True)
class Moments:
    """Number, mean, sum of squared deviations from the mean, least and greatest of some values; of none, zeros."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0
    min: float = 0.0
    max: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        """Chan, Golub, LeVeque, 1979, equation 2.1."""
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        delta = other.mean - self.mean
        return Moments(
            n,
            self.mean + delta * (other.n / n),
            self.m2 + other.m2 + delta * delta * (self.n / n * other.n),
            min(self.min, other.min),
            max(self.max, other.max),
        )


@dataclass(frozen=True)
class IdCounts:
    """Accepted events by the hash of their user, or item: which id is in which bucket is not known here."""

    new_events: int = 0
    """Events whose id no earlier batch had."""
    buckets: Mapping[int, int] = field(default_factory=dict)
    """Bucket → events."""

    def __add__(self, other: IdCounts) -> IdCounts:
        return IdCounts(self.new_events + other.new_events, _summed(self.buckets, other.buckets))


@dataclass(frozen=True)
class BatchState:
    """What is known of a batch, or of some batches together. ``a + b`` is the state of both.

    ``counts``: records by verdict. ``reasons``: records in quarantine by reason; a record counts for each of its
    reasons. ``nulls``: records other than duplicates by mapped column that has no value in them. Of accepted events:
    ``value``, the sketch ``values`` (`bucket_of` → events), ``days`` (days since 1970, UTC → events), ``ids`` by side,
    and the first and last event in microseconds since 1970.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    nulls: Mapping[str, int] = field(default_factory=dict)
    value: Moments = Moments()
    values: Mapping[int, int] = field(default_factory=dict)
    days: Mapping[int, int] = field(default_factory=dict)
    ids: Mapping[str, IdCounts] = field(default_factory=dict)
    first_event: int | None = None
    last_event: int | None = None

    @property
    def rows(self) -> int:
        return self.counts.get("rows", 0)

    @property
    def judged(self) -> int:
        """Records other than duplicates."""
        return self.rows - self.counts.get("duplicates", 0)

    @property
    def quarantined_share(self) -> float:
        """Share of refused records among all but duplicates; 0 when there are only duplicates."""
        return self.counts.get("quarantined", 0) / self.judged if self.judged else 0.0

    def __add__(self, other: BatchState) -> BatchState:
        sides = [side for side in SIDES if side in self.ids or side in other.ids]
        moments = [state.first_event for state in (self, other) if state.first_event is not None]
        ends = [state.last_event for state in (self, other) if state.last_event is not None]
        return BatchState(
            counts=_summed(self.counts, other.counts),
            reasons=_summed(self.reasons, other.reasons),
            nulls=_summed(self.nulls, other.nulls),
            value=self.value + other.value,
            values=_summed(self.values, other.values),
            days=_summed(self.days, other.days),
            ids={side: self.ids.get(side, IdCounts()) + other.ids.get(side, IdCounts()) for side in sides},
            first_event=min(moments, default=None),
            last_event=max(ends, default=None),
        )

    def to_json(self) -> str:
        """The state as one line of JSON; moments that overflowed are null."""
        told = asdict(self)
        told["value"] = {name: number if math.isfinite(number) else None for name, number in told["value"].items()}
        return json.dumps(told, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> BatchState:
        """Read what `to_json` wrote."""
        told: dict[str, Any] = json.loads(text)
        for name in ("values", "days"):
            told[name] = _by_number(told[name])
        moments: dict[str, Any] = {name: math.nan if n is None else n for name, n in told["value"].items()}
        told["value"] = Moments(**moments)
        told["ids"] = {
            side: IdCounts(counts["new_events"], _by_number(counts["buckets"])) for side, counts in told["ids"].items()
        }
        return BatchState(**told)


def merged(states: Iterable[BatchState]) -> BatchState:
    """Return the state of all batches together; of none, an empty one."""
    return reduce(BatchState.__add__, states, BatchState())


def bucket_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return each value's bucket in the sketch: its sign times 1 + the number of steps above the smallest bucket.

    The bucket of |v| is that of the nearest 2^(k/16), so whole powers of two lie in the middle of theirs and no value
    that people write lies on an edge. Buckets ascend as values do. Values must be finite.
    """
    size = np.abs(values)
    steps = np.floor(np.log2(np.maximum(size, 2.0**SMALLEST)) * STEPS + 0.5).astype(np.int64)
    return np.where(size < 2.0**SMALLEST, 0, np.sign(values).astype(np.int64) * (steps + OFFSET))


def quantile(values: Mapping[int, int], share: float) -> float:
    """Return the value that ``share`` of a sketch's values do not exceed, within `RELATIVE_ERROR` of the true one.

    Of n values in order it is the one at position ⌈share · n⌉, counted from 1, and at least the first. NaN for none.
    """
    if not values:
        return math.nan
    keys = sorted(values)
    reached = np.cumsum([values[key] for key in keys])
    wanted = max(1, math.ceil(share * int(reached[-1])))
    key = keys[int(np.searchsorted(reached, wanted))]
    return 0.0 if key == 0 else math.copysign(2.0 ** ((abs(key) - OFFSET) / STEPS), key)


def _summed(one: Mapping[Any, int], other: Mapping[Any, int]) -> dict[Any, int]:
    total = dict(one)
    for key, count in other.items():
        total[key] = total.get(key, 0) + count
    return total


def _by_number(told: Mapping[str, int]) -> dict[int, int]:
    return {int(key): count for key, count in told.items()}
