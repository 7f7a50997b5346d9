"""Figures of a search for settings: what the trials reached, where in the space, and the rank curve.

As in `plots`, drawings are inline SVG in the page's colours; each comes with what it shows in words. With nothing to
draw the markup is empty.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from factorlake.reporting.content import Drawing, Search, SearchTrial
from factorlake.reporting.drawing import BIASES, INK, LIVE, MEAN, MODEL, POPULARITY, WARN, compact, drawing
from factorlake.reporting.markup import Html
from factorlake.reporting.text import count, figure, plural, printable

NOTHING = Drawing(Html(""), "")
STAGES = ("design", "halving", "refine", "ranks", "finish")
# Colour is never the only sign: each stage and each rank has a marker of its own as well.
_MARKS = tuple(zip((MEAN, POPULARITY, BIASES, LIVE, MODEL, WARN, INK), "vDs^oPX", strict=True))
_LEVELS = ("--", ":", "-.")


def search_drawings(search: Search) -> tuple[Drawing, ...]:
    """Return every figure of a search that has something to show."""
    made = (trials_figure(search), space_figure(search), rank_figure(search))
    return tuple(one for one in made if one.markup)


def trials_figure(search: Search) -> Drawing:
    """Draw the metric of each trial in the order they ran, the best so far, and what they are compared with."""
    drawn = _finished(search)
    if not drawn:
        return NOTHING
    values = np.array([trial.value for trial in drawn])
    best = np.maximum.accumulate(values) if search.larger_is_better else np.minimum.accumulate(values)
    numbers = np.array([trial.number for trial in drawn])
    with drawing("trials", 3.0) as (page, result):
        panel = page.subplots()
        panel.step(numbers, best, where="post", color=MODEL, label="best so far")
        for stage, (colour, marker) in zip(STAGES, _MARKS, strict=False):
            mine = [trial for trial in drawn if trial.stage == stage]
            if mine:
                panel.plot([t.number for t in mine], [t.value for t in mine], marker, color=colour, ms=4, label=stage)
        failed = [trial.number for trial in search.trials if not np.isfinite(trial.value)]
        if failed:
            panel.plot(failed, [np.min(values)] * len(failed), "x", color=WARN, ms=6, label="failed")
        for (name, value), line in zip(search.compared, _LEVELS, strict=False):
            if np.isfinite(value):
                panel.axhline(value, color=MEAN, linestyle=line, linewidth=1, label=f"{printable(name, 20)}")
        panel.set_xlabel("trial")
        panel.set_ylabel(printable(search.metric, 20))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        page.legend(loc="outside upper center", ncols=4, fontsize=8, handletextpad=0.4)
        of_them = f", {count(len(failed))} of which failed" if failed else ""
        result.append(
            f"{printable(search.metric, 20)} of {plural(len(search.trials), 'trial')}{of_them}: from "
            f"{figure(values[0])} for the first to {figure(best[-1])} for the best."
        )
    return Drawing(result.markup, result.words)


def space_figure(search: Search) -> Drawing:
    """Draw the metric against λ, and against the weight where there is one, each rank with a mark of its own."""
    drawn = _finished(search)
    if not drawn:
        return NOTHING
    ranks = sorted({trial.rank for trial in drawn})
    weighed = [trial for trial in drawn if trial.weight is not None and trial.weight > 0]
    with drawing("space", 2.7) as (page, result):
        panels = page.subplots(1, 2 if weighed else 1, sharey=True, squeeze=False)[0]
        _against(panels[0], drawn, [trial.regularization for trial in drawn], ranks)
        panels[0].set_xlabel("λ")
        panels[0].set_ylabel(printable(search.metric, 20))
        if weighed:
            _against(panels[1], weighed, [float(t.weight or 0) for t in weighed], ranks)
            panels[1].set_xlabel(search.weight_name)
        handles, labels = panels[0].get_legend_handles_labels()
        page.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=8, handletextpad=0.1)
        best = _best(search, drawn)
        weight = "" if best.weight is None else f" and {search.weight_name} {best.weight:.3g}"
        result.append(
            f"{printable(search.metric, 20)} of each trial by λ{f' and by {search.weight_name}' if weighed else ''}; "
            f"the best at λ {best.regularization:.3g}{weight}, rank {count(best.rank)}."
        )
    return Drawing(result.markup, result.words)


def rank_figure(search: Search) -> Drawing:
    """Draw the best value at each rank; one rank alone is no curve."""
    curve = search.rank_curve
    if len(curve) < 2:
        return NOTHING
    with drawing("ranks", 2.4) as (page, result):
        panel = page.subplots()
        panel.plot([rank for rank, _ in curve], [value for _, value in curve], color=MODEL, marker="o", markersize=4)
        panel.set_xscale("log", base=2)
        panel.set_xticks([rank for rank, _ in curve], [count(rank) for rank, _ in curve])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel("rank")
        panel.set_ylabel(f"best {printable(search.metric, 20)}")
        said = "; ".join(f"{count(rank)}: {figure(value)}" for rank, value in curve)
        result.append(f"The best {printable(search.metric, 20)} at each rank: {said}.")
    return Drawing(result.markup, result.words)


def _against(panel: Axes, trials: Sequence[SearchTrial], places: Sequence[float], ranks: Sequence[int]) -> None:
    for at, rank in enumerate(ranks):
        colour, marker = _MARKS[at % len(_MARKS)]
        mine = [(place, trial.value) for place, trial in zip(places, trials, strict=True) if trial.rank == rank]
        if mine:
            panel.plot(*zip(*mine, strict=True), marker, color=colour, ms=4, label=f"rank {count(rank)}")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(compact))
    panel.xaxis.set_minor_formatter(NullFormatter())


def _finished(search: Search) -> list[SearchTrial]:
    return [trial for trial in search.trials if np.isfinite(trial.value)]


def _best(search: Search, drawn: Sequence[SearchTrial]) -> SearchTrial:
    choose = max if search.larger_is_better else min
    return choose(drawn, key=lambda trial: trial.value)
