"""How the run went: time by stage, table versions, settings, as one section."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from factorlake.reporting.content import RunReport
from factorlake.reporting.markup import Html, section, table, tag
from factorlake.reporting.text import count, printable, seconds


def work(report: RunReport) -> Html:
    """Time by stage, what was published, table versions and settings."""
    longest = max((stage.seconds for stage in report.stages), default=0.0) or 1.0
    stages = table(
        f"Time by stage, {seconds(report.seconds)} in all",
        ("stage", "time", "", "outcome"),
        [
            (
                printable(stage.name, 40),
                seconds(stage.seconds),
                tag(
                    "span",
                    tag("i", "", style=f"width:{100 * stage.seconds / longest:.1f}%"),
                    class_="meter",
                    aria_hidden="true",
                ),
                printable(stage.outcome, 60),
            )
            for stage in report.stages
        ],
        numeric=(1,),
        limit=40,
    )
    versions = table(
        "Delta versions read and written",
        ("table", "version"),
        [(tag("code", printable(key)), str(number)) for key, number in sorted(report.versions.items())],
        numeric=(1,),
        limit=60,
    )
    settings = table(
        "Settings as resolved; secrets and ids of users are masked",
        ("setting", "value"),
        [(tag("code", printable(key)), tag("code", printable(value))) for key, value in _flat(report.settings)],
        limit=300,
    )
    return section(
        "How it ran",
        None,
        tag("div", stages, tag("div", _published(report), versions), class_="two"),
        tag("details", tag("summary", "Settings"), settings) if settings else None,
    )


def _published(report: RunReport) -> Html:
    publication = report.publication
    if publication is None or publication.changed is None:
        return Html("")
    return table(
        f"Lists in slot {printable(publication.slot, 40)}",
        ("lists", "users"),
        [("changed", count(publication.changed)), ("kept as they were", count(publication.unchanged))],
        numeric=(1,),
    )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            for at, item in enumerate(value):
                yield from _flat(item, f"{prefix}{key}[{at}].")
        elif value not in (None, [], {}):
            yield f"{prefix}{key}", value
