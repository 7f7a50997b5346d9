"""The report's figures: matplotlib drawings as inline SVG that takes its colours from the page.

Each function returns the SVG as markup, or empty markup when there is nothing to draw. Text stays text, so a
figure reads in the page's own font, in light and dark, and can be searched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from factorlake.reporting.content import PROBABILITY_ERRORS, RATING_ERRORS, MetricRow, Skew, TraceRow
from factorlake.reporting.drawing import (
    BIASES,
    INK,
    LIVE,
    MEAN,
    MODEL,
    NEIGHBOURS,
    OTHER,
    POPULARITY,
    PYSPARK_ML,
    WARN,
    compact,
    drawing,
    thinned,
)
from factorlake.reporting.markup import Html
from factorlake.reporting.text import count, figure, plural, printable
from factorlake.types import FloatVector

NAMES = ("model", "live", "popularity", "neighbours", "biases", "mean", "pyspark_ml")
"""Whom the page knows, in its order; tables that were handed in come after them."""
LABELS = {"live": "published model", "neighbours": "item neighbours", "pyspark_ml": "pyspark.ml ALS"}
NAME_COLOURS = dict(zip(NAMES, (MODEL, LIVE, POPULARITY, NEIGHBOURS, BIASES, MEAN, PYSPARK_ML), strict=True))
# Colour is never the only sign: each name has a marker of its own as well.
NAME_MARKERS = dict(zip(NAMES, "oDsP^vX", strict=True))
TABLE_COLOURS = (OTHER, WARN, INK)
TABLE_MARKERS = "<>ph*d8H"
MAX_BARS = 14
MAX_METRICS = 16
# About as many characters of a legend fit beside each other.
LEGEND_CHARACTERS = 84
LEGEND_LABEL = 22
# Metrics that share a panel share a scale and a direction.
SCALES = (
    ((), "mean over users (more is better), with 95 % interval"),
    (("novelty", "popularity_lift"), "mean over users (neither more nor less is better)"),
    (RATING_ERRORS, "error in rating units (less is better)"),
)


def label_of(row_name: str) -> str:
    """Return how the page calls a model or baseline that the table evaluation names."""
    return LABELS.get(row_name) or printable(row_name, 30)


def in_order(names: Iterable[str]) -> list[str]:
    """Return names as the page orders them: those it knows, then tables by name."""
    place = {name: at for at, name in enumerate(NAMES)}
    return sorted(set(names), key=lambda name: (place.get(name, len(NAMES)), name))


def style_of(row_name: str, names: Iterable[str]) -> tuple[str, str]:
    """Return the (colour, marker) of one of the names of a figure."""
    if row_name in NAME_MARKERS:
        return NAME_COLOURS[row_name], NAME_MARKERS[row_name]
    at = [name for name in in_order(names) if name not in NAME_MARKERS].index(row_name)
    return TABLE_COLOURS[at % len(TABLE_COLOURS)], TABLE_MARKERS[at % len(TABLE_MARKERS)]


def training_figure(trace: Sequence[TraceRow], beside: Sequence[MetricRow] = ()) -> Html:
    """Draw the objective by half steps done, the held-out metric if there is one, and the seconds spent.

    beside : what others reach by that metric on the same ratings, drawn as lines across; those of another are not.
    """
    rows = [row for row in trace if np.isfinite(row.loss)]
    if not rows:
        return Html("")
    by_epoch = rows[0].side == "both"
    # A loss of the state before half step h describes the state after h − 1 half steps.
    halves = np.array([at + (row.state != "before") for at, row in enumerate(rows)], dtype=float)
    done = np.array([float(row.epoch) for row in rows]) if by_epoch else halves / 2
    loss = np.array([row.loss for row in rows])
    metric = [(row.epoch, row.metric) for row in rows if row.metric is not None and np.isfinite(row.metric)]
    panels = 3 if metric else 2
    with drawing("training", 3.6 if metric else 3.0) as (page, result):
        axes = page.subplots(panels, 1, sharex=True, height_ratios=[3, 1.6, 1.2] if metric else [3, 1.2])
        keep = thinned(len(rows))
        axes[0].plot(done[keep], loss[keep], color=MODEL, marker="o", markersize=3)
        if rows[-1].state == "final":
            # Early stopping may keep an earlier epoch than the last: the last point is then another state.
            axes[0].plot(done[-1], loss[-1], "s", color=WARN, markersize=5, label="finished model")
            axes[0].legend(loc="upper right", fontsize=8)
        axes[0].set_ylabel("objective")
        axes[0].yaxis.set_major_formatter(FuncFormatter(compact))
        if metric:
            epochs, values = np.array(metric).T
            name = next(row.metric_name for row in rows if row.metric is not None) or "metric"
            axes[1].plot(epochs, values, color=LIVE, marker="D", markersize=3)
            axes[1].set_ylabel(f"held-out\n{printable(name, 20)}")
            others = beside_metric(name, beside)
            for row in others:
                colour, _ = style_of(row.name, [row.name])
                dashes = (0, (2 + 3 * in_order(one.name for one in others).index(row.name), 2))
                axes[1].axhline(row.value, color=colour, linestyle=dashes, linewidth=1.2, label=label_of(row.name))
            if others:
                axes[1].legend(ncols=2, loc="upper right", fontsize=8)
        for side, colour in (("user", MODEL), ("item", POPULARITY), ("both", MODEL)):
            mine = [at for at in keep if rows[at].side == side]
            lengths = [rows[at].seconds for at in mine]
            middles = [done[at] - 0.5 if by_epoch else at / 2 + 0.25 for at in mine]
            if mine:
                label = "both sides" if side == "both" else f"{side} side"
                axes[-1].bar(middles, lengths, width=0.4, color=colour, label=label)
        axes[-1].set_ylabel("seconds")
        axes[-1].set_xlabel("epochs done" if by_epoch else "epochs done (a user and an item half step each)")
        if axes[-1].get_legend_handles_labels()[0]:
            axes[-1].legend(ncols=2, loc="upper right", fontsize=8, handlelength=1, borderaxespad=0)
        axes[-1].set_ylim(top=1.45 * max((row.seconds for row in rows), default=1) or 1)
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        result.append(
            f"Line: the training objective goes from {figure(loss[0])} to {figure(loss[-1])} "
            f"over {plural(len(rows), 'trace row')}."
        )
        if metric:
            result += [f"{name}: {label_of(row.name)} {figure(row.value)}." for row in beside_metric(name, beside)]
    return result.markup


def beside_metric(metric_name: str, rows: Sequence[MetricRow]) -> list[MetricRow]:
    """Return the rows of the metric that a trace names, such as ``validation rmse``, that have a value to draw."""
    wanted = metric_name.split()[-1]
    return [row for row in rows if row.metric == wanted and np.isfinite(row.value)]


def metrics_figure(rows: Sequence[MetricRow]) -> Html:
    """Draw each metric of one split as a dot with its 95 % interval, the model beside the baselines.

    At most MAX_METRICS metrics are drawn; the table beside the figure has them all. Errors of probabilities are told
    with the calibration.
    """
    kept = list(dict.fromkeys(row.metric for row in rows if _scale_of(row.metric) is not None))[:MAX_METRICS]
    drawn = [row for row in rows if row.metric in kept and np.isfinite(row.value)]
    groups = [[row for row in drawn if _scale_of(row.metric) == scale] for scale in range(len(SCALES))]
    groups = [group for group in groups if group]
    if not groups:
        return Html("")
    heights = [len({row.metric for row in group}) for group in groups]
    names = in_order(row.name for row in drawn)
    with drawing("metrics", 0.9 + max(0.42, 0.1 * len(names)) * sum(heights)) as (page, result):
        axes = page.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
        for panel, group in zip(axes, groups, strict=True):
            _metric_panel(panel, group, names)
        seen: dict[str, Artist] = {}
        for panel in axes:
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                seen.setdefault(label, handle)
        handles, labels = list(seen.values()), [printable(label, LEGEND_LABEL) for label in seen]
        columns = min(5, LEGEND_CHARACTERS // max(len(label) + 6 for label in labels))
        page.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=8, handletextpad=0.1)
        said = (f"{row.name} {row.metric} {figure(row.value)}" for row in drawn)
        result.append("Dots with intervals: " + "; ".join(printable(text, 80) for text in said) + ".")
    return result.markup


def _scale_of(metric: str) -> int | None:
    """Return which of SCALES a metric has; None: that of a probability."""
    kind = metric.split("@")[0]
    if kind in PROBABILITY_ERRORS:
        return None
    return next((at for at, (kinds, _) in enumerate(SCALES) if kind in kinds), 0)


def _metric_panel(panel: Axes, rows: Sequence[MetricRow], names: Sequence[str]) -> None:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    for at, name in enumerate(names):
        mine = [row for row in rows if row.name == name]
        shift = (at - (len(names) - 1) / 2) * min(0.2, 0.8 / len(names))
        heights = [metrics.index(row.metric) + shift for row in mine]
        colour, marker = style_of(name, names)
        panel.plot([row.value for row in mine], heights, marker, color=colour, markersize=5, label=label_of(name))
        for row, height in zip(mine, heights, strict=True):
            if row.lower is not None and row.upper is not None:
                panel.plot([row.lower, row.upper], [height] * 2, color=colour, linewidth=1.4)
    panel.set_yticks(range(len(metrics)), [printable(metric, 20) for metric in metrics])
    panel.set_ylim(len(metrics) - 0.5, -0.5)
    panel.grid(axis="y", visible=False)
    scale = _scale_of(metrics[0]) or 0
    if scale == 0:
        panel.set_xlim(left=0)
    panel.set_xlabel(SCALES[scale][1])


def reasons_figure(reasons: Mapping[str, int]) -> Html:
    """Draw how many records each reason put into quarantine, most frequent first, the rest as one bar."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    if not ordered:
        return Html("")
    bars = [(printable(reason, 28), number) for reason, number in ordered[:MAX_BARS]]
    if len(ordered) > MAX_BARS:
        rest = ordered[MAX_BARS:]
        bars.append((plural(len(rest), "other reason"), sum(number for _, number in rest)))
    with drawing("reasons", 0.5 + 0.27 * len(bars)) as (page, result):
        panel = page.subplots()
        # Positions, not labels, place the bars: two long reasons may read the same once they are cut.
        drawn = panel.barh(range(len(bars)), [number for _, number in bars], color=WARN, height=0.62)
        panel.bar_label(drawn, [count(number) for _, number in bars], padding=4, fontsize=8)
        panel.set_yticks(range(len(bars)), [reason for reason, _ in bars])
        panel.invert_yaxis()
        panel.grid(axis="y", visible=False)
        panel.set_xlim(0, 1.16 * max(number for _, number in bars) or 1)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.xaxis.set_major_formatter(FuncFormatter(compact))
        panel.set_xlabel("records refused (one with two reasons counts twice)")
        result.append("Bars: " + "; ".join(f"{reason} {count(number)}" for reason, number in bars) + ".")
    return result.markup


def skew_figure(skews: Sequence[Skew]) -> Html:
    """Draw observations per row against the row's rank, both logarithmic: how uneven each side is."""
    drawn = [skew for skew in skews if any(number > 0 for _, number in skew.curve)]
    if not drawn:
        return Html("")
    with drawing("skew", 2.6) as (page, result):
        panel = page.subplots()
        for skew in drawn:
            points = np.array([point for point in skew.curve if point[1] > 0]).T
            colour, line = (MODEL, "-") if skew.side == "user" else (POPULARITY, "--")
            panel.plot(points[0], points[1], color=colour, linestyle=line, label=f"{skew.side}s")
        panel.set_xscale("log")
        panel.set_yscale("log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(FuncFormatter(compact))
            axis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("rank of the user or item, most observed first")
        panel.set_ylabel("observations")
        panel.legend()
        longest = (f"{plural(skew.rows, skew.side)}, the longest with {count(skew.longest)}" for skew in drawn)
        result.append("Lines of observations by rank: " + "; ".join(longest) + ".")
    return result.markup


def scores_figure(scores: FloatVector | None) -> Html:
    """Draw the distribution of the scores in the lists."""
    finite = np.asarray(() if scores is None else scores, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) == 0:
        return Html("")
    with drawing("scores", 2.6) as (page, result):
        panel = page.subplots()
        low, high = float(finite.min()), float(finite.max())
        # Scores that are all alike, or nearly so, need a range that floating point can cut into bins.
        margin = max(0.0, 1e-3 * max(abs(low), abs(high), 1e-3) - (high - low))
        bins = min(40, max(1, int(np.sqrt(len(finite)))))
        heights, edges = np.histogram(finite, bins=bins, range=(low - margin, high + margin))
        panel.stairs(heights, edges, fill=True, color=MODEL, alpha=0.85)
        panel.set_xlabel("score of a recommended item")
        panel.set_ylabel("list entries")
        panel.yaxis.set_major_formatter(FuncFormatter(compact))
        result.append(
            f"Histogram of {count(len(finite))} scores from {figure(low, 3)} to {figure(high, 3)}, "
            f"median {figure(float(np.median(finite)), 3)}."
        )
    return result.markup
