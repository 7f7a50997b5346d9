"""Settings that a job lends from the session it was given."""

from __future__ import annotations

import pytest
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from factorlake.spark.compat import BATCH_ROWS, job_settings, large_rows, small_rows

pytestmark = pytest.mark.spark
ZONE = "spark.sql.session.timeZone"


@pytest.mark.parametrize("given", ["Asia/Tokyo", None])
def test_a_zone_is_utc_inside_and_what_it_was_after_the_last_one_leaves(spark: SparkSession, given: str | None) -> None:
    session = spark.newSession()
    session.conf.unset(ZONE) if given is None else session.conf.set(ZONE, given)
    first, second = job_settings(session), job_settings(session)
    first.__enter__()
    second.__enter__()
    # As two jobs in threads of one session leave it: not in the order in which they came.
    first.__exit__(None, None, None)
    assert session.conf.get(ZONE) == "UTC"
    second.__exit__(None, None, None)
    assert session.conf.get(ZONE, None) == given


def test_of_two_that_ask_for_batches_the_smaller_ones_are_made_meanwhile(spark: SparkSession) -> None:
    session = spark.newSession()
    session.conf.set(BATCH_ROWS, "20000")
    numbers, blocks = small_rows(session), large_rows(session)
    numbers.__enter__()
    assert session.conf.get(BATCH_ROWS) == "100000"
    blocks.__enter__()
    assert session.conf.get(BATCH_ROWS) == "1"
    with small_rows(session):
        assert session.conf.get(BATCH_ROWS) == "1"
    numbers.__exit__(None, None, None)
    assert session.conf.get(BATCH_ROWS) == "1"
    blocks.__exit__(None, None, None)
    assert session.conf.get(BATCH_ROWS) == "20000"


def test_a_session_that_asks_for_small_batches_keeps_them(spark: SparkSession) -> None:
    session = spark.newSession()
    session.conf.set(BATCH_ROWS, "777")
    with small_rows(session):
        assert session.conf.get(BATCH_ROWS) == "777"
    assert session.conf.get(BATCH_ROWS) == "777"
    with pytest.raises(PySparkException, match="of the action inside"), small_rows(session):
        raise PySparkException("of the action inside")
