"""Settings that a job lends from the session it was given."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession

from factorlake.spark.compat import job_settings

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
