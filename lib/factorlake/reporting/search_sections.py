"""A search for settings, as a section of the report."""

from __future__ import annotations

import math

from factorlake.reporting.content import RunReport, Search, SearchTrial
from factorlake.reporting.markup import Html, captioned, section, table
from factorlake.reporting.text import ABSENT, count, figure, plural, printable, seconds


def search(report: RunReport) -> Html:
    """Drawings, the result and the trials of a search."""
    found = report.search
    if found is None:
        return Html("")
    metric = printable(found.metric, 20)
    beside = table(
        "On the same held-out pairs",
        ("settings", metric),
        [(printable(name, 60), figure(value)) for name, value in found.compared],
        (1,),
    )
    curve = table(
        "The best at each rank",
        ("rank", metric),
        [(count(rank), figure(value)) for rank, value in found.rank_curve],
        (0, 1),
    )
    facts = table("The result", ("what", "figure"), [(what, printable(value, 80)) for what, value in found.facts], (1,))
    return section(
        "Search for settings",
        f"{plural(len(found.trials), 'trial')}, judged by {metric} on {printable(found.protocol, 120)}.",
        *(captioned(drawing.markup, drawing.caption) for drawing in found.drawings),
        beside,
        facts,
        curve,
        _trials(found),
    )


def _trials(found: Search) -> Html:
    heads = ("trial", "stage", "rank", "λ", found.weight_name, printable(found.metric, 20), "best epoch", "time")
    rows = [
        (
            count(trial.number),
            printable(trial.stage, 20),
            count(trial.rank),
            f"{trial.regularization:.3g}",
            ABSENT if trial.weight is None else f"{trial.weight:.3g}",
            _value(trial),
            count(trial.best_epoch),
            seconds(trial.seconds),
        )
        for trial in found.trials
    ]
    return table("Trials", heads, rows, numeric=(0, 2, 3, 4, 5, 6, 7))


def _value(trial: SearchTrial) -> str:
    return figure(trial.value) if math.isfinite(trial.value) else f"failed: {printable(trial.reason, 120)}"
