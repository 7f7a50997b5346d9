"""States of batches: parts merge to the whole, and the sketch keeps its promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from factorlake.quality.states import (
    RELATIVE_ERROR,
    BatchState,
    IdCounts,
    Moments,
    bucket_of,
    merged,
    quantile,
)
from tests.reference.log_days import clean_day, state_of


@pytest.mark.parametrize("seed", range(10))
def test_a_day_split_at_random_merges_to_the_day(seed: int) -> None:
    random = np.random.default_rng(seed)
    day = clean_day(3, seed, 20_000)
    known = set(range(0, 4_000, 2)), set(range(700))
    parts = random.integers(0, random.integers(2, 30), len(day))
    split = [state_of(part, *known) for _, part in day.groupby(parts)]
    # A part without rows and one without accepted events are parts too.
    split += [BatchState(), state_of(day[day["verdict"] == "duplicate"].head(0), *known)]
    random.shuffle(split)
    whole, sum_of_parts = state_of(day, *known), merged(split)
    for name in ("counts", "reasons", "nulls", "values", "days", "ids", "first_event", "last_event"):
        assert getattr(sum_of_parts, name) == getattr(whole, name), name
    moments = sum_of_parts.value
    assert (moments.n, moments.min, moments.max) == (whole.value.n, whole.value.min, whole.value.max)
    assert moments.mean == pytest.approx(whole.value.mean, rel=1e-9)
    assert moments.m2 == pytest.approx(whole.value.m2, rel=1e-9)
    values = np.sort(day.loc[day["verdict"] == "accepted", "value"].to_numpy())
    for share in (0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0):
        true = values[max(1, math.ceil(share * len(values))) - 1]
        assert quantile(sum_of_parts.values, share) == pytest.approx(true, rel=RELATIVE_ERROR * (1 + 1e-9))


def test_buckets_ascend_with_values_and_no_value_is_further_from_its_bucket_than_promised() -> None:
    random = np.random.default_rng(1)
    size = np.concatenate([2.0 ** random.uniform(-120, 127.9, 5_000), [1, 2, 3, 4, 5, 0.5, 3.4e38, 1e-300, 0.0]])
    values = np.sort(np.concatenate([-size, size]))
    buckets = bucket_of(values)
    assert (np.diff(buckets) >= 0).all()
    for value, bucket in zip(values.tolist(), buckets.tolist(), strict=True):
        assert quantile({bucket: 1}, 1.0) == pytest.approx(value, rel=RELATIVE_ERROR * (1 + 1e-9), abs=2.0**-126)
    # What people write stands apart: ratings by halves, and whole numbers up to 20.
    written = np.array([*np.arange(0.5, 5.5, 0.5), *range(6, 21)])
    assert len(set(bucket_of(written).tolist())) == len(written)


def test_a_state_is_read_as_it_was_written() -> None:
    state = state_of(clean_day(1, 5, 2_000), set(), set())
    assert BatchState.from_json(state.to_json()) == state
    empty = BatchState.from_json(BatchState().to_json())
    assert (empty, empty.quarantined_share) == (BatchState(), 0.0)


def test_moments_that_overflow_are_null_in_json_and_the_rest_is_kept() -> None:
    huge = Moments(1, 3e38, 0.0, 3e38, 3e38) + Moments(1, -3e38, math.inf, -3e38, -3e38)
    text = BatchState(value=huge, ids={"user": IdCounts(1, {3: 1})}).to_json()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))["value"]["m2"] is None
    again = BatchState.from_json(text)
    assert math.isnan(again.value.m2) and again.value.max == 3e38
    assert again.ids["user"].buckets == {3: 1}
