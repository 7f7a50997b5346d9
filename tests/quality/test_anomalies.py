"""What the history says: faults it must find, clean days it must pass, and worked examples."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from pydantic import ValidationError

from factorlake.config.settings import GateSettings, HistoryCheck
from factorlake.quality.anomalies import CHECKS, Finding, distance, judge
from factorlake.quality.gate import judge_batch
from factorlake.quality.states import BatchState
from tests.reference.log_days import MICROS, clean_day, state_of, with_fault

LEARNT, JUDGED = 35, 30
GATE = GateSettings()
# Kind of fault: the check that must find it, and the smallest share of records from which it always does in days of
# 20,000 records, and in days of a million. Less is not told from the noise of days, or not worth a warning (CHECKS).
SMALLEST = {
    "lost records": ("volume", 0.5, 0.5),
    "doubled records": ("duplicates", 0.015, 0.015),
    "values that are gone": ("null_share", 0.015, 0.015),
    "values in another unit": ("values", 0.04, 0.03),
    "values 3 sigma away": ("values", 0.05, 0.04),
    "times a week ago": ("late", 0.03, 0.03),
    "times a year ahead": ("advance", 0.0001, 0.0001),
    "a user that floods": ("user_peak", 0.02, 0.02),
    "an item that floods": ("item_peak", 0.02, 0.02),
    "user ids in another format": ("new_users", 0.07, 0.07),
    "item ids in a wrong encoding": ("new_items", 0.07, 0.07),
    "records that break rules": ("quarantined_share", 0.07, 0.07),
}


class Log:
    """Clean days in a row, the state of each, and what the dictionaries held before it."""

    def __init__(self, seed: int, usual: int) -> None:
        self.seed, self.usual = seed, usual
        self.users: set[int] = set()
        self.items: set[int] = set()
        self.states: list[BatchState] = []
        for day in range(LEARNT):
            self.take(day)

    def take(self, day: int) -> list[Finding]:
        records = clean_day(day, self.seed, self.usual)
        state = state_of(records, self.users, self.items)
        found = judge(state, self.states, GATE)
        self.states.append(state)
        events = records[records["verdict"] == "accepted"]
        self.users.update(events["user"].unique().tolist())
        self.items.update(events["item"].unique().tolist())
        return found

    def judge_with(self, kind: str, rate: float) -> list[Finding]:
        """What is said of the next day, which nobody has seen yet, with a fault."""
        day = with_fault(clean_day(len(self.states), self.seed, self.usual), kind, rate, self.seed)
        return judge(state_of(day, self.users, self.items), self.states, GATE)


def out_of_line(findings: list[Finding]) -> set[str]:
    return {found.check for found in findings if not found.passed}


def prove(usual: int, column: int) -> None:
    log = Log(2_024, usual)
    missed = []
    for kind, told in SMALLEST.items():
        check, smallest = told[0], float(told[column])
        for rate in sorted({smallest, min(0.5, 2 * smallest), min(0.5, 5 * smallest), 0.5}):
            if check not in out_of_line(log.judge_with(kind, rate)):
                missed.append((kind, rate))
    assert missed == []
    # One record in ten thousand lost is less than the days differ by: to warn of it would be to warn every day.
    assert out_of_line(log.judge_with("lost records", 0.0001)) == set()
    alarms = {day: out_of_line(log.take(day)) for day in range(LEARNT, LEARNT + JUDGED)}
    assert len([day for day, checks in alarms.items() if checks]) <= 1, alarms


def test_every_fault_is_found_by_its_check_and_clean_days_pass() -> None:
    prove(20_000, 1)


@pytest.mark.soak
def test_every_fault_of_a_day_of_a_million_records_is_found_and_clean_days_pass() -> None:
    prove(1_000_000, 2)


@pytest.mark.parametrize("seed", range(5))
def test_a_drift_of_three_sigma_is_found_in_the_run_that_brings_it(seed: int) -> None:
    # Three standard deviations of the values (their logarithm, since they are lognormal), of all records of one day.
    log = Log(seed, 5_000)
    assert out_of_line(log.judge_with("values 3 sigma away", 1.0)) == {"values"}


def steady(n: int, **counts: int) -> list[BatchState]:
    figures = {"rows": 10_000, "quarantined": 0, "duplicates": 0, **counts}
    return [BatchState(figures, nulls={"value": 100}) for _ in range(n)]


def test_a_past_that_never_varied_leaves_the_floor_alone() -> None:
    past = steady(9)
    assert judge(steady(1)[0], past, GATE) != []
    for rows, passes in ((6_800, True), (6_600, False), (14_800, True), (15_000, False)):
        # exp(0.4) is 1.49: a third fewer, or half as many again.
        (volume,) = (f for f in judge(steady(1, rows=rows)[0], past, GATE) if f.name == "volume")
        assert volume.passed is passes
    for nulls, passes in ((200, True), (201, False), (0, True)):
        (of_value,) = (
            f for f in judge(replace(past[0], nulls={"value": nulls}), past, GATE) if f.check == "null_share"
        )
        assert (of_value.name, of_value.passed) == ("null_share_value", passes)


def test_a_figure_is_told_in_its_own_unit() -> None:
    (volume,) = (f for f in judge(steady(1, rows=1_000)[0], steady(9), GATE) if f.name == "volume")
    assert volume.sentence() == (
        "volume: records without duplicates 1,000, against a median of 10,000 in 9 earlier batches "
        "(230.3 robust deviations)"
    )


def test_checks_do_what_the_settings_say() -> None:
    lost, past = BatchState({"rows": 1_000}), steady(9)

    def verdict(**settings: object) -> tuple[bool, int]:
        found = judge_batch(lost, past, GateSettings.model_validate(settings))
        return found.passed, len(found.warnings)

    assert verdict() == (True, 1)
    assert verdict(history_checks={"volume": "refuse"}) == (False, 0)
    assert verdict(history_checks={"volume": "off"}) == (True, 0)
    assert verdict(history_floors={"volume": 3.0}) == (True, 0)
    assert verdict(history_zs={"volume": 240.0}) == (True, 0)
    assert verdict(history=False) == (True, 0)
    assert verdict(history_runs=10) == (True, 0)
    refused = judge_batch(lost, past, GateSettings(history_checks={"volume": "refuse"}))
    assert "records without duplicates 1,000" in str(refused.reason)


def test_only_quarantined_records_refuse_by_default() -> None:
    assert [name for name, check in CHECKS.items() if check.action == "refuse"] == ["quarantined_share"]


def test_quiet_weekends_are_learnt_and_a_quiet_weekday_is_told() -> None:
    def batch(day: int, rows: int) -> BatchState:
        return BatchState({"rows": rows}, last_event=day * MICROS)

    # 1 January 1970 was a Thursday: days 2 and 3 of each seven are the weekend.
    past = [batch(day, 2_000 if day % 7 in (2, 3) else 10_000) for day in range(28)]
    assert [f.passed for f in judge(batch(30, 2_000), past, GATE)] == [True, True, True]
    assert "volume" in out_of_line(judge(batch(32, 2_000), past, GATE))
    assert "volume" in out_of_line(judge(batch(30, 10_000), past, GATE))


def test_batches_from_before_states_were_kept_are_compared_by_their_counts() -> None:
    counts_alone = [BatchState({"rows": 10_000, "quarantined": 100, "duplicates": 0}) for _ in range(8)]
    found = judge(state_of(clean_day(1, 1, 10_000), set(), set()), counts_alone, GATE)
    assert {one.name for one in found} == {"volume", "quarantined_share", "duplicates"}


def test_the_distance_of_sketches_is_that_of_kolmogorov_and_smirnov() -> None:
    # Shares up to each bucket: 1/4, 3/4, 3/4, 1 and 0, 1/2, 1, 1.
    assert distance({1: 1, 2: 2, 9: 1}, {2: 2, 5: 2}) == 0.25
    assert distance({1: 5}, {1: 50}) == 0.0
    assert distance({1: 5}, {2: 50}) == 1.0


def test_settings_name_every_check_and_no_window_is_too_short_for_a_say() -> None:
    assert set(get_args(HistoryCheck)) == set(CHECKS)
    with pytest.raises(ValidationError, match="never have a say"):
        GateSettings(history_window=5)
    past = [*steady(30, rows=1_000), *steady(8)]
    # Of 38 past batches the last eight are looked at: 10,000 records are the usual now.
    assert judge_batch(steady(1)[0], past, GateSettings(history_window=8)).warnings == []
    assert judge_batch(steady(1)[0], past, GateSettings()).warnings != []
