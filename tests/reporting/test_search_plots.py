"""Figures of a search hold the trials they were given, and stay away where there is nothing to draw."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from factorlake.reporting.content import Drawing, RunReport, Search, SearchTrial
from factorlake.reporting.html import render_html
from factorlake.reporting.search_plots import rank_figure, search_drawings, space_figure, trials_figure
from factorlake.reporting.summary import render_summary

VALUES = [0.10, 0.20, 0.15, math.nan, 0.25, 0.22]


def found_of(values: list[float] | None = None, weight: float | None = 0.1, larger_is_better: bool = True) -> Search:
    stages = ("design", "design", "halving", "refine", "ranks", "finish")
    trials = tuple(
        SearchTrial(n, stages[(n - 1) % 6], 16 if n < 5 else 32, 0.01 * n, weight and weight * n, value, 3, 1.5,
                    "" if math.isfinite(value) else "<b>too large</b>")
        for n, value in enumerate(VALUES if values is None else values, start=1)
    )  # fmt: skip
    return Search(
        metric="ndcg@20" if larger_is_better else "rmse",
        larger_is_better=larger_is_better,
        protocol="10 % of the pairs, by hash",
        weight_name="α0",
        trials=trials,
        compared=(("settings as given", 0.12), ("popularity", 0.05)),
        facts=(("rank", "32"), ("conf file", "/lake/tuned.yaml")),
    )


def texts(drawing: Drawing) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(drawing.markup).iter("text")]


def corners(drawing: Drawing, number: int) -> np.ndarray:
    """Return the corners (n, 2) of a panel's line of that number, across and down."""
    for group in ElementTree.fromstring(drawing.markup).iter("g"):
        if re.search(r"-axes_1$", group.get("id", "")):
            lines = [part for part in group if re.search(r"-line2d_\d+$", part.get("id", ""))]
            path = lines[number].find("path")
            assert path is not None
            numbers = re.findall(r"-?\d+\.?\d*", path.attrib["d"])
            return np.array(numbers, dtype=float).reshape(-1, 2)
    raise AssertionError("there is no panel")


def test_every_figure_is_well_formed_described_and_needs_nothing_beside_itself() -> None:
    drawings = search_drawings(found_of())
    assert len(drawings) == 3
    for drawn in drawings:
        root = ElementTree.fromstring(drawn.markup)
        assert root.tag == "svg"
        assert (root.findtext("title") or "") == drawn.caption
        assert not re.search(r"#0102\d\d\b", drawn.markup), "a stand-in for a colour of the page was left"
        ids = re.findall(r'\bid="([^"]+)"', drawn.markup)
        assert len(set(ids)) == len(ids)
        for reference in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawn.markup):
            assert "".join(reference) in ids
    assert drawings == search_drawings(found_of())


def test_trials_are_drawn_in_order_with_the_best_so_far() -> None:
    drawn = trials_figure(found_of())
    said = set(texts(drawn))
    assert {"design", "halving", "ranks", "finish", "failed", "best so far", "settings as given"} <= said
    assert "refine" not in said, "its only trial failed"
    assert drawn.caption == "ndcg@20 of 6 trials, 1 of which failed: from 0.1000 for the first to 0.2500 for the best."
    # Down the page is towards less: the line never goes down.
    line = next(
        path
        for number in range(40)
        if len(path := corners(drawn, number)) > 4 and np.all(np.diff(path[:, 0]) >= 0) and np.ptp(path[:, 1]) > 20
    )
    assert np.all(np.diff(line[:, 1]) <= 0)


def test_of_errors_the_best_is_the_least() -> None:
    drawn = trials_figure(found_of([1.0, 0.9, 0.95, 1.2, 0.85, 0.8], None, larger_is_better=False))
    assert drawn.caption.endswith("from 1.0000 for the first to 0.8000 for the best.")
    assert found_of([1.0, 0.9, 0.95, 1.2, 0.85, 0.8], None, larger_is_better=False).rank_curve == ((16, 0.9), (32, 0.8))


def test_the_space_has_a_panel_for_the_weight_where_there_is_one() -> None:
    both, one = space_figure(found_of()), space_figure(found_of(weight=None))
    assert {"λ", "α0", "rank 16", "rank 32"} <= set(texts(both))
    assert "α0" not in texts(one)
    assert both.caption.endswith("the best at λ 0.05 and α0 0.5, rank 32.")
    assert one.caption.endswith("the best at λ 0.05, rank 32.")


def test_one_rank_is_no_curve() -> None:
    assert rank_figure(found_of(VALUES[:4])).markup == ""
    drawn = rank_figure(found_of())
    assert drawn.caption == "The best ndcg@20 at each rank: 16: 0.2000; 32: 0.2500."
    assert {"16", "32", "rank"} <= set(texts(drawn))


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_without_a_trial_that_ended_nothing_is_drawn(values: list[float]) -> None:
    assert search_drawings(found_of(values)) == ()


def test_one_trial_is_drawn() -> None:
    assert len(search_drawings(found_of([0.3]))) == 2


def report_of(found: Search) -> RunReport:
    return RunReport("run", "main", datetime(2025, 1, 1, tzinfo=UTC), search=found)


def test_the_report_has_the_result_the_curve_and_every_trial() -> None:
    found = found_of()
    page = render_html(report_of(replace(found, drawings=search_drawings(found))))
    assert page.count("<svg") == 3
    assert "6 trials, judged by ndcg@20 on 10 % of the pairs, by hash." in page
    for text in ("popularity", "/lake/tuned.yaml", "The best at each rank", "&lt;b&gt;too large&lt;/b&gt;"):
        assert text in page
    assert "<b>too" not in page
    for number in range(1, 7):
        assert f'<th scope="row" class="n">{number}</th>' in page


def test_the_summary_has_the_result_and_the_curve() -> None:
    told = render_summary(report_of(found_of()))
    assert "Rank curve" in told
    assert "/lake/tuned.yaml" in told
    assert re.search(r"ndcg@20 of popularity\s+0\.0500", told)
    assert re.search(r"32\s+0\.2500", told)


def test_a_report_without_a_search_says_nothing_of_one() -> None:
    report = RunReport("run", "main", datetime(2025, 1, 1, tzinfo=UTC))
    assert "Search for settings" not in render_html(report)
    assert "Rank curve" not in render_summary(report)
