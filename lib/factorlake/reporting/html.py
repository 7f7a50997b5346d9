"""The run report: one HTML file that needs nothing beside itself, no script, no network."""

from __future__ import annotations

from collections.abc import Callable

from factorlake.reporting import (
    account_sections,
    decomposition_sections,
    model_sections,
    run_sections,
    search_sections,
)
from factorlake.reporting.content import RunReport, beside_baseline
from factorlake.reporting.markup import Html, join, name, tag
from factorlake.reporting.style import CSS
from factorlake.reporting.text import count, figure, plural, printable, seconds, share

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page forbids itself to load anything from elsewhere: even markup that got past escaping could fetch nothing."""

SECTIONS: tuple[Callable[[RunReport], Html], ...] = (
    model_sections.recommendations,
    model_sections.quality,
    model_sections.slices,
    model_sections.calibration,
    decomposition_sections.decomposition,
    search_sections.search,
    account_sections.rows,
    account_sections.history,
    account_sections.expectations,
    model_sections.training,
    model_sections.spectrum,
    model_sections.shape,
    run_sections.work,
)
"""First what people come for, last how it was done."""

CALM_STATES = ("running", "nothing")
BAD_STATES = ("refused", "failed", "aborted")


def render_html(report: RunReport) -> str:
    """Return the report as one self-contained HTML5 page, under 2 MB whatever the report holds.

    All foreign text (names of items, reasons, settings) is escaped and cut; users are numbered, never named.
    Parts the run did not reach are left out. An empty report gives a page with its head and the settings.
    """
    title = f"{printable(report.recommender, 60)} · {printable(report.run_id, 60)}"
    body = tag(
        "body",
        _head_band(report),
        tag("main", _key_figures(report), *(part(report) for part in SECTIONS)),
        tag("footer", "Written by factorlake. Users are numbered, never named; secrets are masked."),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(CSS)),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _head_band(report: RunReport) -> Html:
    when = [f"{report.started:%d %B %Y, %H:%M} UTC · run ", tag("code", printable(report.run_id))]
    if report.model_version:
        when += [" · model ", tag("code", printable(report.model_version))]
    kind = "bad" if report.state in BAD_STATES else "calm" if report.state in CALM_STATES else None
    return tag(
        "header",
        tag(
            "div",
            tag("p", "factorlake run report", class_="kicker"),
            tag("h1", name(printable(report.recommender))),
            tag("p", *when, class_="when"),
            tag(
                "p",
                tag("span", printable(report.state, 30), class_=join(["badge", f" {kind}" if kind else ""])),
                _verdict(report),
                class_="verdict",
            ),
        ),
    )


def _verdict(report: RunReport) -> str:
    if report.publication is not None:
        where = f"slot {printable(report.publication.slot)}"
        if report.publication.published:
            return f"Published into {where}: {printable(report.publication.reason, 300)}"
        return f"Not published into {where}: {printable(report.publication.reason, 300)}"
    return printable(report.reason, 300) if report.reason else "Nothing was published by this run."


def _key_figures(report: RunReport) -> Html:
    cards: list[tuple[str, str, str]] = []
    account = report.accounting
    if report.batches:
        cards.append(
            (
                "Records accepted",
                count(account.accepted),
                f"{share(account.accepted, account.input)} of {plural(account.input, 'record')} read",
            )
        )
    if report.users is not None and report.items is not None:
        known = f"on {plural(report.items, 'item')}, {plural(report.pairs or 0, 'pair')}"
        cards.append(("Users", count(report.users), known))
    if report.headline:
        row = report.headline[0]
        cards.append((printable(row.metric, 20).upper(), figure(row.value), beside_baseline(report)))
    if report.planted:
        cards.append(("Planted taste found", share(report.planted.value, 1), "of what could be found"))
    if report.stages:
        slowest = max(report.stages, key=lambda stage: stage.seconds)
        most = f"most of it in {printable(slowest.name, 30)}, {seconds(slowest.seconds)}"
        cards.append(("Time", seconds(report.seconds), most))
    shown = (
        tag("div", tag("dt", label), tag("dd", big, class_="big"), tag("dd", note, class_="note"))
        for label, big, note in cards
    )
    return tag("dl", *shown, class_="figures") if cards else Html("")
