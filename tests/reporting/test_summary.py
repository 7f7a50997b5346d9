"""The terminal summary and metrics.json say what the report holds."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from factorlake.reporting.content import Batch, MetricRow, Publication, RunReport, Suggestion, UserSample
from factorlake.reporting.summary import render_summary, to_json

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def test_summary_holds_the_accounting_equation_and_it_adds_up(report: RunReport) -> None:
    line = render_summary(report).splitlines()[0]
    assert line == "56,120 records in = 52,804 accepted + 2,506 quarantined + 810 duplicates"
    left, right = line.split("=")
    numbers = [int(number.replace(",", "")) for number in re.findall(r"[\d,]+", right)]
    assert sum(numbers) == int(re.findall(r"[\d,]+", left)[0].replace(",", ""))


def test_summary_shows_metrics_beside_popularity_and_the_planted_share(report: RunReport) -> None:
    text = render_summary(report)
    line = next(line for line in text.splitlines() if line.strip().startswith("ndcg@10 "))
    assert line.split()[-6:] == ["0.3312", "0.3255", "0.1409", "0.2713", "0.3001", "0.2222"]
    heads = next(line for line in text.splitlines() if line.strip().startswith("metric "))
    assert heads.split()[-6:] == ["model", "live", "popularity", "neighbours", "pyspark_ml", "last_year"]
    assert "68.7 % of the planted taste found" in text


def test_summary_ends_with_the_path_of_the_report_in_one_piece(report: RunReport) -> None:
    path = "/lake/" + "long-folder-name/" * 12 + "report.html"
    assert render_summary(report, width=60, html_path=path).splitlines()[-1] == f"report: {path}"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_summary_keeps_to_the_width(report: RunReport, width: int) -> None:
    assert max(len(line) for line in render_summary(report, width=width).splitlines()) <= width


def test_color_changes_nothing_but_the_color(report: RunReport) -> None:
    colored = render_summary(report, color=True)
    assert ANSI.search(colored)
    stripped = [ANSI.sub("", line).rstrip() for line in colored.splitlines()]
    assert stripped == render_summary(report).splitlines()


def test_hostile_names_cannot_reach_the_terminal_or_its_markup(report: RunReport) -> None:
    name = "[red]x[/red] [bold] \x1b]0;owned\x07\x1b[2J :smile:"
    batch = Batch(name, 2, 1, 1, 0, 0, {name: 1})
    hostile = replace(report, batches=(batch,), samples=(UserSample((name,), (Suggestion(name, 1.0),)),))
    text = render_summary(hostile, width=200)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red] [bold]" in text
    assert ":smile:" in text


def test_refused_batch_and_refused_publication_are_told_with_their_reasons(report: RunReport) -> None:
    batch = Batch("late", 10, 1, 9, 0, 0, {"blank": 9}, False, "90 % quarantined, the limit is 50 %")
    refused = replace(report, batches=(batch,), publication=Publication(False, "live", "worse by 0.02"))
    text = render_summary(refused, width=120)
    assert "10 records in = 0 accepted + 0 quarantined + 0 duplicates + 10 held back in refused batches" in text
    assert "batch late refused: 90 % quarantined, the limit is 50 %" in text
    assert "not published into slot live: worse by 0.02" in text


def test_summary_of_a_run_that_reached_nothing_is_one_empty_line() -> None:
    assert render_summary(RunReport("run", "main", datetime(2026, 1, 1, tzinfo=UTC))) == "\n"


def test_json_holds_the_figures_given(report: RunReport) -> None:
    figures = json.loads(to_json(report))
    assert figures["accounting"]["accepted"] == 52_804
    assert figures["planted"]["value"] == 0.687
    assert [row["loss"] for row in figures["trace"]] == [row.loss for row in report.trace]
    assert figures["seconds"]["ingest"] == 8.31
    assert len(figures["slices"]) == len(report.slices)
    assert figures["calibration"]["probabilities"] == [0.01, 0.05, 0.7]
    assert figures["spectrum"]["effective_rank"] == 3.1
    assert figures["model_version"] == report.model_version


def test_json_names_no_item_and_no_setting(report: RunReport) -> None:
    text = to_json(replace(report, settings={"root": "canary-root"}))
    assert "canary-root" not in text
    assert report.samples[0].suggestions[0].item not in text


def test_json_writes_null_for_what_is_not_finite_and_unwraps_numpy_scalars(report: RunReport) -> None:
    rows = (
        MetricRow("time", "model", "ndcg@10", float("nan"), np.float64("inf"), np.float32(0.5), np.int64(3)),  # type: ignore[arg-type]
    )
    figures = json.loads(to_json(replace(report, evaluation=rows)))
    row = figures["evaluation"][0]
    assert (row["value"], row["lower"], row["upper"], row["n"]) == (None, None, 0.5, 3)
