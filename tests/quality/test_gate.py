"""The gate, with worked examples."""

from __future__ import annotations

import pytest

from factorlake.config.settings import GateSettings
from factorlake.quality.gate import Verdict, judge_batch
from factorlake.quality.states import BatchState

STEADY = [0.20, 0.21, 0.19, 0.20, 0.22, 0.18, 0.20]


def batch(rows: int, quarantined: int, accepted: int) -> BatchState:
    counts = {"rows": rows, "quarantined": quarantined, "accepted": accepted}
    return BatchState({**counts, "duplicates": rows - quarantined - accepted})


def judged(
    rows: int, quarantined: int, accepted: int, shares: list[float] | None = None, gate: GateSettings | None = None
) -> Verdict:
    """The verdict after batches of 10,000 records with these quarantined shares."""
    past = [batch(10_000, round(10_000 * share), 10_000 - round(10_000 * share)) for share in shares or []]
    return judge_batch(batch(rows, quarantined, accepted), past, gate or GateSettings())


def test_batch_within_its_limits_passes() -> None:
    assert judged(10_000, 2_000, 8_000, STEADY).passed


def test_batch_with_fewer_rows_than_allowed_is_refused() -> None:
    verdict = judged(0, 0, 0)
    assert not verdict.passed
    assert "min_rows" in str(verdict.reason)


def test_batch_of_duplicates_only_passes() -> None:
    assert judged(100, 0, 0, STEADY).passed


def test_share_is_of_all_rows_but_duplicates() -> None:
    # 1,000 rows came in, 900 of them copies: 60 of 100 are refused, not 60 of 1,000.
    verdict = judged(1000, 60, 40)
    assert not verdict.passed
    assert "60 of 100 rows (60.0%)" in str(verdict.reason)


def test_share_equal_to_the_limit_passes() -> None:
    assert judged(100, 50, 50).passed


def test_batch_out_of_line_with_history_is_refused_under_the_absolute_limit() -> None:
    # Median 0.20, median absolute deviation 0.01: 0.40 is 0.20 / 0.014826 = 13.5 robust deviations away.
    verdict = judged(10_000, 4_000, 6_000, STEADY)
    assert not verdict.passed
    assert "13.5 robust deviations" in str(verdict.reason)


def test_history_has_no_say_before_enough_batches() -> None:
    assert judged(10_000, 4_000, 6_000, STEADY[:6]).passed


def test_history_can_be_switched_off() -> None:
    assert judged(10_000, 4_000, 6_000, STEADY, GateSettings(history=False)).passed


@pytest.mark.parametrize(("n_quarantined", "passes"), [(2_500, True), (2_600, False)])
def test_floor_keeps_a_steady_past_from_refusing_small_changes(n_quarantined: int, passes: bool) -> None:
    # A past that never varied has no deviation at all; the floor of 5 % around 20 % decides alone.
    assert judged(10_000, n_quarantined, 10_000 - n_quarantined, [0.2] * 9).passed is passes


def test_fewer_bad_rows_than_ever_are_no_fault() -> None:
    assert judged(10_000, 0, 10_000, STEADY).passed


def test_one_wild_day_in_the_past_does_not_widen_the_limits() -> None:
    assert not judged(10_000, 4_000, 6_000, [*STEADY, 0.87]).passed


def test_a_small_batch_is_given_the_noise_of_its_size() -> None:
    # A fifth of records is refused, always. Of 20 records 8 may be by chance (the standard error is 0.09); of 10,000
    # records 4,000 are not.
    steady = [0.2] * 9
    assert judged(20, 8, 12, steady).passed
    assert not judged(10_000, 4_000, 6_000, steady).passed
