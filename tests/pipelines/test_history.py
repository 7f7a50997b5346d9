"""Validate beside the log's own history: warnings where people look, refusals that a person can overrule, and a gate
that decides without Great Expectations."""

from __future__ import annotations

import sys
from html import unescape
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from factorlake.pipelines import ingest, report, validate
from factorlake.pipelines.context import Context, JobResult
from factorlake.quality.states import BatchState, merged
from factorlake.reporting.html import render_html
from factorlake.tables import delta_io
from tests.pipelines.lakes import context_at, write_csv

pytestmark = pytest.mark.spark
GATE = {"history_runs": 3, "history_checks": {"values": "refuse"}}


def day_of(log: Path, day: int, rows: int, times: int = 1) -> None:
    """A file of one day: users and items come again every day, values are 1 to 5, ``times`` something."""
    lines = [f"u{n},i{n},{(1 + n % 5) * times},2024-01-{day:02d}T00:00:{n:02d}Z" for n in range(rows)]
    write_csv(log / f"{day:02d}.csv", *lines)


def taken(context: Context, log: Path, day: int, rows: int, times: int = 1) -> str:
    """Ingest one day; return its batch."""
    day_of(log, day, rows, times)
    (batch,) = ingest.run(context).details["batches"]
    return str(batch)


def kept(context: Context, batch: str, kind: str) -> list[tuple[str, bool]]:
    frame = delta_io.read(context.spark, context.lake.shared("validation_results"))
    rows = frame.where((F.col("batch") == batch) & (F.col("kind") == kind)).collect()
    return sorted((row["rule"], row["success"]) for row in rows)


def test_what_is_out_of_line_is_told_or_refused_and_great_expectations_is_not_needed(
    spark: SparkSession, lake_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    suite = tmp_path / "suite.yaml"
    suite.write_text("- {type: expect_column_values_to_not_be_null, column: user_id}\n")
    plain = context_at(spark, lake_root, log, validate={"gate": GATE})
    context = context_at(spark, lake_root, log, validate={"gate": GATE, "expectations": str(suite)})
    days = [taken(plain, log, day, 60) for day in (1, 2, 3)]
    assert validate.run(plain).counts["accepted"] == 180
    assert [kept(plain, day, "history") for day in days] == [[], [], []]

    # The values of the fourth day are in cents. Great Expectations, which is not there, has no say.
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    cents = taken(context, log, 4, 60, times=100)
    refused = validate.run(context)
    assert (refused.exit_code, refused.details["refused"]) == (3, [cents])
    for told in ("out of line with the log's own history", "values: distance", f"validate --accept {cents}"):
        assert told in refused.reason
    assert ("values", False) in kept(context, cents, "history")
    accepted = validate.run(context, accept=cents)
    assert (accepted.exit_code, accepted.counts["accepted"]) == (0, 60)
    assert kept(context, cents, "expectation") == [("great_expectations", None)]

    few = taken(plain, log, 5, 15)
    warned = validate.run(plain)
    assert (warned.exit_code, warned.counts["accepted"], warned.counts["warnings"]) == (0, 15, 1)
    (warning,) = warned.details["warnings"]
    assert warning.startswith(f"batch {few}: volume: records without duplicates 15, against a median of 60")
    assert warning in warned.reason
    assert [rule for rule, passed in kept(plain, few, "history") if not passed] == ["volume"]

    # The page tells all of it, and that Great Expectations did not run.
    page = unescape(render_html(report.build_report(context, JobResult(), [])))
    for told in ("Beside the log's own history", "records without duplicates 15", "1 did not run"):
        assert told in page, told

    # States of all days merge to what the table of events holds.
    frame = delta_io.read(spark, context.lake.shared("validation_results")).where("kind = 'state'")
    latest = {row["batch"]: BatchState.from_json(row["detail"]) for row in frame.orderBy("recorded_at").collect()}
    whole = merged(latest.values())
    events = delta_io.read(spark, context.lake.shared("interactions"))
    figures = events.select(F.count("*"), F.avg("value"), F.count_distinct(F.to_date("event_time")))
    ((n, mean, days_held),) = figures.collect()
    assert (whole.counts["accepted"], len(whole.days)) == (n, days_held) == (255, 5)
    assert whole.value.mean == pytest.approx(mean, rel=1e-9)


def test_a_table_that_is_gone_is_refused_by_name(spark: SparkSession, lake_root: str, tmp_path: Path) -> None:
    context = context_at(spark, lake_root, tmp_path / "log")
    taken(context, tmp_path / "log", 1, 5)
    (Path(lake_root) / "raw_events").rename(tmp_path / "elsewhere")
    with pytest.raises(validate.DataRefusedError, match="raw_events"):
        validate.run(context)
    assert not delta_io.exists(spark, context.lake.shared("interactions"))
