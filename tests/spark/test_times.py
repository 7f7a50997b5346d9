"""Times of collected rows keep their moment on a machine in any zone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from factorlake.times import as_utc, from_micros


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
@pytest.mark.parametrize("second_pass", [False, True])
def test_both_passes_of_the_hour_that_clocks_repeat_keep_their_moment(second_pass: bool) -> None:
    moment = datetime(2026, 11, 1, 6 if second_pass else 5, 30, 0, 123_457, tzinfo=UTC)
    # As a collected row has it: naive, in the machine's zone, from the seconds since 1970.
    collected = datetime.fromtimestamp(int(moment.timestamp())).replace(microsecond=123_457)
    assert (collected.hour, collected.fold) == (1, second_pass)
    assert as_utc(collected) == moment


@pytest.mark.parametrize("moment", [datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999, UTC)])
def test_microseconds_of_any_year_come_back(moment: datetime) -> None:
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    assert from_micros(micros) == moment
