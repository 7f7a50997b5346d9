"""Figures by slice, and users by activity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorlake.errors import ConfigError
from factorlake.evaluation.intervals import mean_interval
from factorlake.evaluation.slices import activity_deciles, deciles_of_counts, sliced_intervals


def test_slices_are_the_means_of_their_users() -> None:
    figures = np.array([0.0, 1.0, 0.5, 0.25])
    found = sliced_intervals(figures, ["tin", "gold", "tin", "gold"])
    assert list(found) == ["gold", "tin"]
    assert found["gold"] == mean_interval([1.0, 0.25])
    assert found["tin"] == mean_interval([0.0, 0.5])


def test_a_slice_of_one_user_has_open_ends() -> None:
    alone = sliced_intervals([0.3, 0.4, 0.5], np.array([1, 2, 2]))[1]
    assert (alone.value, alone.lower, alone.upper, alone.n) == (0.3, -math.inf, math.inf, 1)


def test_no_users_have_no_slices() -> None:
    assert sliced_intervals([], []) == {}


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=30))
def test_a_slice_sums_as_it_would_alone(rows: list[tuple[float, str]]) -> None:
    found = sliced_intervals([value for value, _ in rows], [label for _, label in rows])
    for label in {label for _, label in rows}:
        assert found[label] == mean_interval([value for value, own in rows if own == label])


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="one of each for every user"):
        sliced_intervals([1.0], ["a", "b"])
    with pytest.raises(ConfigError, match="of one kind"):
        sliced_intervals([1.0, 2.0], np.array(["a", None], dtype=object))


def test_deciles_without_ties_hold_a_tenth_each() -> None:
    counts = np.random.default_rng(0).permutation(200)
    deciles = activity_deciles(counts)
    assert np.bincount(deciles).tolist() == [0] + [20] * 10
    assert deciles[np.argmax(counts)] == 10
    assert deciles[np.argmin(counts)] == 1


def test_equal_counts_stay_together_in_the_middle_of_their_places() -> None:
    # Three of five have 1 item: their middle place is 1.5 of 5, the others' 3.5 and 4.5.
    assert activity_deciles(np.array([1, 9, 1, 5, 1])).tolist() == [4, 10, 4, 8, 4]
    assert activity_deciles(np.array([3, 3])).tolist() == [6, 6]
    assert activity_deciles(np.array([], dtype=np.int64)).tolist() == []


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60))
def test_deciles_follow_the_definition(counts: list[int]) -> None:
    found = activity_deciles(np.array(counts)).tolist()
    for own, decile in zip(counts, found, strict=True):
        below = sum(other < own for other in counts)
        equal = sum(other == own for other in counts)
        assert decile == 1 + math.floor(10 * (2 * below + equal) / (2 * len(counts)))
        assert 1 <= decile <= 10


def test_deciles_of_a_histogram_are_those_of_its_users() -> None:
    counts = np.random.default_rng(1).poisson(3, 500)
    distinct, n_users = np.unique(counts, return_counts=True)
    of_count = dict(zip(distinct.tolist(), deciles_of_counts(n_users).tolist(), strict=True))
    assert activity_deciles(counts).tolist() == [of_count[count] for count in counts.tolist()]
