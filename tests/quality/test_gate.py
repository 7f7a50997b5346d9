"""The gate, with worked examples."""

from __future__ import annotations

import pytest

from factorlake.config.settings import GateSettings
from factorlake.quality.gate import judge_batch

STEADY = [0.20, 0.21, 0.19, 0.20, 0.22, 0.18, 0.20]


def test_batch_within_its_limits_passes() -> None:
    assert judge_batch(100, 20, 80, STEADY, GateSettings()).passed


def test_batch_with_fewer_rows_than_allowed_is_refused() -> None:
    verdict = judge_batch(0, 0, 0, [], GateSettings())
    assert not verdict.passed
    assert "min_rows" in str(verdict.reason)


def test_batch_of_duplicates_only_passes() -> None:
    assert judge_batch(100, 0, 0, STEADY, GateSettings()).passed


def test_share_is_of_all_rows_but_duplicates() -> None:
    # 1,000 rows came in, 900 of them copies: 60 of 100 are refused, not 60 of 1,000.
    verdict = judge_batch(1000, 60, 40, [], GateSettings())
    assert not verdict.passed
    assert "60 of 100 rows (60.0%)" in str(verdict.reason)


def test_share_equal_to_the_limit_passes() -> None:
    assert judge_batch(100, 50, 50, [], GateSettings()).passed


def test_batch_out_of_line_with_history_is_refused_under_the_absolute_limit() -> None:
    # Median 0.20, median absolute deviation 0.01: 0.40 is 0.20 / 0.014826 = 13.5 robust deviations away.
    verdict = judge_batch(100, 40, 60, STEADY, GateSettings())
    assert not verdict.passed
    assert "13.5 robust deviations" in str(verdict.reason)


def test_history_has_no_say_before_enough_batches() -> None:
    assert judge_batch(100, 40, 60, STEADY[:6], GateSettings()).passed


def test_history_can_be_switched_off() -> None:
    assert judge_batch(100, 40, 60, STEADY, GateSettings(history=False)).passed


@pytest.mark.parametrize(("n_quarantined", "passes"), [(25, True), (26, False)])
def test_floor_keeps_a_steady_past_from_refusing_small_changes(n_quarantined: int, passes: bool) -> None:
    # A past that never varied has no deviation at all; the floor of 5 % around 20 % decides alone.
    assert judge_batch(100, n_quarantined, 100 - n_quarantined, [0.2] * 9, GateSettings()).passed is passes


def test_fewer_bad_rows_than_ever_are_no_fault() -> None:
    assert judge_batch(100, 0, 100, STEADY, GateSettings()).passed


def test_one_wild_day_in_the_past_does_not_widen_the_limits() -> None:
    assert not judge_batch(100, 40, 60, [*STEADY, 0.87], GateSettings()).passed
