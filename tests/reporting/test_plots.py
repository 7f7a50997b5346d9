"""Figures draw from whatever a run has, and from nothing they draw nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from factorlake.reporting import plots
from factorlake.reporting.content import MetricRow, TraceRow, skew_of
from factorlake.reporting.drawing import MAX_POINTS, thinned


def row(epoch: int, side: str, loss: float, metric: float | None = None) -> TraceRow:
    return TraceRow(epoch, side, "before", loss, loss, 0.0, 0.01, "rmse" if metric else None, metric)


@pytest.mark.parametrize(
    "picture",
    [
        plots.training_figure([]),
        plots.metrics_figure([]),
        plots.reasons_figure({}),
        plots.skew_figure([]),
        plots.scores_figure(None),
        plots.scores_figure(np.array([])),
        plots.scores_figure(np.array([np.nan, np.inf])),
        plots.training_figure([row(1, "user", float("nan"))]),
        plots.metrics_figure([MetricRow("time", "model", "rmse", float("nan"))]),
    ],
)
def test_nothing_to_draw_gives_no_figure(picture: str) -> None:
    assert picture == ""


@pytest.mark.parametrize(
    "picture",
    [
        plots.training_figure([row(1, "user", 5.0)]),
        plots.training_figure([row(1, "user", 5.0), row(1, "item", 4.0, 0.9)]),
        plots.training_figure([row(1, "user", 0.0), row(1, "item", float("nan")), row(2, "user", 3.0, float("nan"))]),
        plots.metrics_figure([MetricRow("time", "model", "rmse", 0.93), MetricRow("time", "other", "hit@10", 0.5)]),
        plots.metrics_figure([MetricRow("time", "model", "ndcg@10", 0.0, 0.0, 0.0)]),
        plots.reasons_figure({"bot": 0}),
        plots.reasons_figure({f"reason_{at}": at for at in range(40)}),
        plots.scores_figure(np.array([0.5])),
        plots.scores_figure(np.full(100, -1e30)),
        plots.skew_figure([skew for skew in [skew_of("user", np.array([3]))] if skew]),
    ],
)
def test_figure_is_well_formed_and_described(picture: str) -> None:
    drawing = ElementTree.fromstring(picture)
    assert drawing.tag == "svg"
    assert drawing.findtext("title")
    assert not re.search(r"#0102\d\d\b", picture), "a stand-in for a colour of the page was left"


def test_reason_bars_show_the_counts_given() -> None:
    texts = [
        element.text
        for element in ElementTree.fromstring(plots.reasons_figure({"bot": 1480, "<b>$x$": 12})).iter()
        if element.tag == "text"
    ]
    assert "1,480" in texts
    assert "12" in texts
    assert "<b>$x$" in texts


def test_reasons_beyond_the_bars_are_summed_into_one() -> None:
    reasons = {f"reason_{at:02d}": 10 for at in range(plots.MAX_BARS + 6)}
    assert "6 other reasons 60" in plots.reasons_figure(reasons)


def test_drawing_leaves_matplotlibs_settings_as_they_were() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.reasons_figure({"bot": 1})
    assert dict(matplotlib.rcParams) == before


def test_long_trace_is_thinned_but_keeps_its_ends() -> None:
    kept = thinned(10_000)
    assert len(kept) <= MAX_POINTS
    assert (kept[0], kept[-1]) == (0, 9_999)
