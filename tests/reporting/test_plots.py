"""Figures draw from whatever a run has, and from nothing they draw nothing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from factorlake.models.spectrum import Spectrum
from factorlake.reporting import model_plots, plots
from factorlake.reporting.content import CalibrationCurve, MetricRow, TraceRow, skew_of
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
        model_plots.spectrum_figure(Spectrum((), 0.0, (), ())),
        model_plots.calibration_figure(CalibrationCurve("time", (), (), 0)),
        plots.metrics_figure([MetricRow("time", "model", "ece@10", 0.1)]),
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
        model_plots.spectrum_figure(Spectrum((0.0,), 0.0, (0.0,) * 5, (0.0,) * 5)),
        model_plots.calibration_figure(CalibrationCurve("time", (0.2,), (0.1,), 3)),
        model_plots.calibration_figure(CalibrationCurve("time", (-1.0, 0.5, 7.0), (0.0, 0.25, 1.0), 5000)),
        model_plots.spectrum_figure(Spectrum(tuple(np.linspace(9, 1, 1024)), 700.0, (1.0,) * 5, (1.0,) * 5)),
    ],
)
def test_figure_is_well_formed_and_described(picture: str) -> None:
    drawing = ElementTree.fromstring(picture)
    assert drawing.tag == "svg"
    assert drawing.findtext("title")
    assert not re.search(r"#0102\d\d\b", picture), "a stand-in for a colour of the page was left"


def texts_of(picture: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(picture).iter() if element.tag == "text"]


def test_everyone_who_was_judged_is_drawn_under_a_name_of_their_own() -> None:
    names = ["model", "live", "popularity", "neighbours", "pyspark_ml", *(f"table_{at}" for at in range(9))]
    picture = plots.metrics_figure([MetricRow("time", name, "ndcg@10", 0.1 * at) for at, name in enumerate(names)])
    wanted = ["model", "published model", "popularity", "item neighbours", "pyspark.ml ALS", *names[5:]]
    assert [text for text in texts_of(picture) if text in wanted] == wanted
    styles = [plots.style_of(name, names) for name in names]
    assert len(set(styles)) == len(names)


def test_metrics_of_one_scale_share_a_panel() -> None:
    metrics = ["ndcg@10", "novelty@10", "rmse", "recall@10", "popularity_lift@10", "mae", "brier@10"]
    picture = plots.metrics_figure([MetricRow("time", "model", metric, 0.5) for metric in metrics])
    texts = [text for text in texts_of(picture) if text in metrics]
    assert texts == ["ndcg@10", "recall@10", "novelty@10", "popularity_lift@10", "rmse", "mae"]


def test_baselines_on_the_validation_ratings_are_drawn_beside_the_curve() -> None:
    trace = [TraceRow(epoch, "both", "after", 9.0 - epoch, 5.0, 1.0, 0.1, "validation rmse", 1.0 - 0.1 * epoch)
             for epoch in range(4)]  # fmt: skip
    beside = [MetricRow("validation", name, metric, value) for name, metric, value in (
        ("mean", "rmse", 1.1), ("biases", "rmse", 0.9), ("mean", "mae", 0.8), ("biases", "mae", 0.7))]  # fmt: skip
    picture = plots.training_figure(trace, beside)
    assert {"mean", "biases", "epochs done"} <= set(texts_of(picture))
    title = ElementTree.fromstring(picture).findtext("title") or ""
    assert "validation rmse: mean 1.1000." in title
    assert "validation rmse: biases 0.9000." in title
    assert "0.8000" not in title
    assert "mean" not in texts_of(plots.training_figure(trace))
    # A trace without that metric has no such lines.
    assert plots.training_figure([row(1, "user", 5.0)], beside) == plots.training_figure([row(1, "user", 5.0)])


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
