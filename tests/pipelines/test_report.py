"""The report's accounting over many batches, and a result line that comes whatever fails around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from factorlake.pipelines import ingest, report, run, validate
from factorlake.pipelines.jobs import execute
from factorlake.tables import registry
from tests.pipelines.lakes import context_at, events, write_csv

pytestmark = pytest.mark.spark
LONG = {"name": "long_user_id", "type": "max_length", "column": "user_id", "length": 1}


def test_every_batch_is_accounted_for_and_reasons_are_those_of_its_last_decision(
    spark: SparkSession, lake_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "EXPECTED_BATCHES", 1)
    strict = context_at(spark, lake_root, tmp_path / "log", validate={"rules": [LONG]})
    write_csv(tmp_path / "log" / "a.csv", *events(1, 2, 3), ",i,1,x")
    ingest.run(strict)
    assert validate.run(strict).exit_code == 3
    lenient = context_at(spark, lake_root, tmp_path / "log")
    write_csv(tmp_path / "log" / "b.csv", *events(4, 5))
    ingest.run(lenient)
    assert validate.run(lenient).exit_code == 0
    batches, _, _ = report._validation(lenient)
    assert [(batch.input, batch.accepted, batch.passed) for batch in batches] == [(4, 3, True), (2, 2, True)]
    assert batches[0].reasons["missing_user_id"] == 1
    assert "long_user_id" not in batches[0].reasons


def test_a_run_that_cannot_be_recorded_still_tells_how_it_ended(
    spark: SparkSession,
    lake_root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("the session is gone")

    monkeypatch.setattr(registry, "record_run", fail)
    settings = context_at(spark, lake_root, write_csv(tmp_path / "a.csv", *events(1))).settings
    line = execute("ingest", settings, conf_dir="conf", open_session=lambda: spark, progress=lambda _: None)
    assert (line["exit_code"], line["counts"]["records"]) == (0, 1)
    assert "could not be recorded" in caplog.text


def test_a_report_that_cannot_be_written_does_not_change_how_the_run_ended(
    spark: SparkSession,
    lake_root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(run, "write_report", fail)
    context = context_at(spark, lake_root, write_csv(tmp_path / "a.csv", *events(1)))
    result = run.run(context, last="ingest")
    assert (result.exit_code, result.counts["ingest.records"], "report" in result.details) == (0, 1, False)
    assert "report could not be written" in caplog.text
