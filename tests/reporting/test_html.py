"""The page is safe against its content, holds the figures it was given, and needs nothing beside itself."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from factorlake.reporting.content import (
    Batch,
    Expectation,
    HistoryCheck,
    MetricRow,
    Publication,
    RunReport,
    Stage,
    Suggestion,
    TraceRow,
    UserSample,
)
from factorlake.reporting.html import render_html

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><svg onload=alert(1)>",
    "'-->]]><!--",
    "javascript:alert(1)",
    "&lt;b&gt; &amp; $x_1$ \\frac{1}{2}",
    "a\u202etxt.exe\x00\x1b[31m\ud800",
    "=HYPERLINK(A1)\t=1+1\r\n-2+3 @SUM(1)*cmd|' /C calc'!A0",
    "{{7*7}}${jndi:ldap://x}<base href=//x><style>@import url(//x)",
)
STRUCTURE = "html head meta title style body header main footer section div p span code bdi h1 h2 h3 b i ol li"
TABLES = "table caption thead tbody tr th td dl dt dd details summary"
DRAWINGS = "figure figcaption svg g path defs use text tspan rect clippath line"
ALLOWED = {*STRUCTURE.split(), *TABLES.split(), *DRAWINGS.split()}
VOID = {"meta", "br", "hr", "col"}


class Page(HTMLParser):
    """Elements, attributes, text, and the tables by caption, as a browser's parser would find them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self._caption: str | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(element)
        self.attributes += [(element, key, value or "") for key, value in attributes]
        if element not in VOID:
            self.open.append(element)
        if element == "table":
            self._caption = ""
        if element == "tr" and self._caption is not None:
            self.tables.setdefault(self._caption, []).append([])
        if element in ("td", "th") and self._caption is not None:
            self.tables[self._caption][-1].append("")

    def handle_startendtag(self, element: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(element)
        self.attributes += [(element, key, value or "") for key, value in attributes]

    def handle_endtag(self, element: str) -> None:
        assert self.open.pop() == element
        if element == "table":
            self._caption = None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "caption" in self.open:
            self._caption = (self._caption or "") + data
        elif ("td" in self.open or "th" in self.open) and self._caption is not None:
            self.tables[self._caption][-1][-1] += data

    def table(self, start: str) -> list[list[str]]:
        return next(rows for caption, rows in self.tables.items() if caption.startswith(start))


def hostile_report(text: str) -> RunReport:
    return RunReport(
        run_id=text,
        recommender=text,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        state=text,
        reason=text,
        model_version=text,
        users=1,
        items=1,
        stages=(Stage(text, 1.0, text),),
        settings={text: text, "list": [{text: text}]},
        batches=(
            Batch(text, 3, 1, 2, 0, 0, {text: 2, text + "2": 1}, False, text),
            Batch("b", 2, 1, 1, 0, 0, {text: 1}),
        ),
        expectations=(Expectation(text, False, 3, text),),
        trace=(TraceRow(1, text, text, 2.0, 1.0, 1.0, 0.1, text, 0.5, text, text),),
        evaluation=(MetricRow(text, "model", text, 0.5, 0.4, 0.6, 9), MetricRow(text, text, text, 0.5)),
        slices=(
            MetricRow(text, "model", "ndcg@10", 0.5, 0.4, 0.6, 9, f"segment={text}"),
            MetricRow(text, text, text, 0.5, None, None, 9, text),
        ),
        samples=(UserSample((text,), (Suggestion(text, 1.0, text),)),),
        versions={text: 3},
        publication=Publication(False, text, text, 1, 2),
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    page = Page(render_html(hostile_report(text)))
    assert set(page.elements) <= ALLOWED
    assert page.open == []
    assert not [key for _, key, _ in page.attributes if key.startswith("on") or key in ("src", "srcset", "action")]
    assert [value for _, key, value in page.attributes if key.endswith("href") and not value.startswith("#")] == []


def test_hostile_text_is_shown_as_it_was_written() -> None:
    page = Page(render_html(hostile_report("<b>Tom & Jerry</b>")))
    assert sum("<b>Tom & Jerry</b>" in text for text in page.texts) > 10


def test_page_has_no_control_characters_even_if_names_do() -> None:
    page = render_html(hostile_report("a\x00b\x1b[2Jc\u202ed\ud800e"))
    page.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page)


def test_page_loads_nothing_from_outside_and_runs_no_script(report: RunReport) -> None:
    text = render_html(report)
    page = Page(text)
    assert "://" not in text
    assert "script" not in page.elements
    assert "link" not in page.elements
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_ids_of_elements_are_unique_and_every_reference_has_its_target(report: RunReport) -> None:
    page = Page(render_html(report))
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    references = [value[1:] for _, key, value in page.attributes if key == "href"]
    references += [found for _, _, value in page.attributes for found in re.findall(r"url\(#([^)]*)\)", value)]
    assert set(references) <= set(ids)


def test_row_accounting_on_the_page_equals_the_figures_given(report: RunReport) -> None:
    lines = {row[0]: row[1:] for row in Page(render_html(report)).table("Where every record went")}
    figures = {name: int(row[0].replace(",", "")) for name, row in lines.items() if name != "records"}
    assert figures == {"accepted": 52_804, "quarantined": 2_506, "exact duplicates": 810, "in": 56_120}


def test_reasons_on_the_page_equal_the_figures_given(report: RunReport) -> None:
    rows = Page(render_html(report)).table("Quarantined records by reason")[1:]
    assert {name: int(number.replace(",", "")) for name, number, _ in rows} == dict(report.batches[0].reasons)


def test_metrics_on_the_page_equal_the_figures_given(report: RunReport) -> None:
    rows = Page(render_html(report)).table("Split time")
    names = {"published model": "live", "item neighbours": "neighbours", "pyspark.ml ALS": "pyspark_ml"}
    assert rows[0] == ["metric", "model", "published model", "popularity", *list(names)[1:], "last_year"]
    read = {
        (row[0], names.get(head, head)): float(cell[:6])
        for row in rows[1:]
        for head, cell in zip(rows[0][1:], row[1:], strict=True)
        if cell != "–"
    }
    # The page shows four decimals, and the figures given have no more.
    assert read == {(row.metric, row.name): row.value for row in report.evaluation}


def test_trace_on_the_page_equals_the_figures_given(report: RunReport) -> None:
    rows = Page(render_html(report)).table("Training trace")[1:]
    assert [int(row[0]) for row in rows] == [row.epoch for row in report.trace]
    shown = [float(row[3].replace(",", "")) for row in rows]
    # One decimal is shown above 1,000: half of the last place, plus a breath for its rounding.
    assert shown == pytest.approx([row.loss for row in report.trace], abs=0.0501)


def test_spectrum_on_the_page_is_the_one_given(report: RunReport) -> None:
    assert report.spectrum is not None
    page = Page(render_html(report))
    rows = {row[0]: [float(cell.replace(",", "")) for cell in row[1:]] for row in page.table("Lengths of factor")[1:]}
    assert rows == {
        "users": [report.users, *report.spectrum.user_norms],
        "items": [report.items, *report.spectrum.item_norms],
    }
    assert any("rank 4; its effective rank" in text and "is 3.10." in text for text in page.texts)
    assert "What the model is made of" not in render_html(replace(report, spectrum=None))


def test_slices_on_the_page_equal_the_figures_given(report: RunReport) -> None:
    page = Page(render_html(report))
    given = {(row.slice, row.name): row for row in report.slices if row.metric == "ndcg@10" or "cat" in str(row.slice)}
    tables = {
        "By segment of users": ("segment=", ["süd", "north"]),
        "By activity of users": ("activity=", ["1", "2", "10"]),
        "By category of held-out items": ("category=", ["rock"]),
        "Users of whom nothing is known": ("", ["cold"]),
    }
    for start, (prefix, labels) in tables.items():
        rows = page.table(start)
        assert [row[0] for row in rows[1:]] == labels
        for row in rows[1:]:
            for name, cell in zip(rows[0][2:], row[2:], strict=True):
                told = given.pop((prefix + row[0], name))
                assert (float(cell[:6]), int(row[1])) == (told.value, told.n)
    assert not given
    assert "recall@10" in next(caption for caption in page.tables if caption.startswith("By category"))


def test_calibration_on_the_page_is_the_one_given(report: RunReport) -> None:
    rows = {row[0]: row[1] for row in Page(render_html(report)).table("Probabilities of a hit")[1:]}
    assert rows["calibration error of scores as they are"] == "0.2504"
    assert rows["calibration error of probabilities"] == "0.0107"
    assert rows["Brier score of probabilities"] == "0.12030.1103 to 0.1303"
    assert rows["listed items behind the map"] == "9,480"
    assert "What a score is worth" not in render_html(replace(report, calibration=None))


def test_every_recommended_name_and_score_is_on_the_page(report: RunReport) -> None:
    text = "".join(Page(render_html(report)).texts)
    for number, sample in enumerate(report.samples, start=1):
        assert f"User {number}" in text
        for suggestion in sample.suggestions:
            assert suggestion.item in text
            assert f"{suggestion.score:.3f}" in text


def test_held_back_records_of_a_refused_batch_stay_in_the_sum(report: RunReport) -> None:
    refused = Batch("late", 100, 10, 90, 0, 0, {"blank": 90}, False, "87 % quarantined, the median is 20 %")
    page = Page(render_html(replace(report, batches=(*report.batches, refused))))
    lines = {row[0]: row[1] for row in page.table("Where every record went")}
    assert lines["held back in refused batches"] == "100"
    assert lines["quarantined"] == "2,506"
    assert lines["in"] == "56,220"
    assert page.table("Batches")[1][0] == "late"


def test_secrets_given_in_settings_never_reach_the_page(report: RunReport) -> None:
    secret = "canary-9f2c"
    settings = {
        "root": f"s3a://user:{secret}@bucket/lake",
        "input": f"https://store/log?sv=1&sig={secret}",
        "spark": {"conf": {"fs.s3a.secret.key": secret, "fs.azure.account.key.x": secret, "db.password": secret}},
        "validate": {"rules": [{"name": "banned", "type": "not_one_of", "column": "customer", "values": [secret]}]},
        "events": {"columns": {"user_id": "customer"}},
    }
    assert secret not in render_html(replace(report, settings=settings))


@pytest.mark.parametrize("mark", ["名", "&", "x"])
def test_page_stays_under_two_megabytes_however_much_it_is_given(mark: str) -> None:
    name = mark * 2_000
    sample = UserSample((name,) * 100, tuple(Suggestion(name, 1.0) for _ in range(100)))
    report = RunReport(
        run_id=name,
        recommender=name,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        stages=tuple(Stage(name, 1.0) for _ in range(500)),
        settings={f"{at}{name}": name for at in range(500)},
        batches=tuple(Batch(f"{at}{name}", 2, 1, 1, 0, 0, {f"{at}{name}": 1}, True, name) for at in range(500)),
        history=tuple(HistoryCheck(name, name, False, "warn", name) for _ in range(500)),
        expectations=tuple(Expectation(name, True) for _ in range(500)),
        trace=tuple(TraceRow(at, "user", "before", 1.0 / at, 1.0, 1.0, 0.1) for at in range(1, 2000)),
        evaluation=tuple(MetricRow("time", "model", f"metric{at}@{at}", 0.5, 0.4, 0.6) for at in range(200)),
        samples=(sample,) * 200,
        scores=np.linspace(0, 1, 100_000),
        versions={f"{at}{name}": at for at in range(500)},
    )
    size = len(render_html(report).encode("utf-8"))
    assert size < 2_000_000


def test_what_is_out_of_line_with_the_history_is_shown_and_the_rest_is_counted(report: RunReport) -> None:
    texts = " ".join(Page(render_html(report)).texts)
    assert "3 figures of the latest batches, beside those of the batches before. 2 out of line." in texts
    assert "late: share of events more than a day old 9.10%" in texts
    assert "volume: records without duplicates 12" in texts
    assert "share of duplicates 1.44%" not in texts
    assert "1 did not run" in texts


def test_report_of_a_run_that_reached_nothing_is_still_a_page() -> None:
    report = RunReport("run-1", "main", datetime(2026, 1, 1, tzinfo=UTC), state="failed", reason="input is empty")
    page = Page(render_html(report))
    assert page.open == []
    assert any("input is empty" in text for text in page.texts)
    assert "table" not in page.elements


def test_figures_and_tables_have_words_for_those_who_do_not_see_them(report: RunReport) -> None:
    page = Page(render_html(report))
    assert page.elements.count("svg") == 7
    assert sum((element, key, value) == ("svg", "role", "img") for element, key, value in page.attributes) == 7
    assert page.elements.count("caption") == page.elements.count("table")
    assert page.elements.count("h1") == 1
    assert ("html", "lang", "en") in page.attributes


def test_same_report_gives_the_same_page(report: RunReport) -> None:
    assert render_html(report) == render_html(report)
