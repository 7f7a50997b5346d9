"""Figures of decompositions: the fall of singular values, convergence, topics, and errors of models over epochs.

As in `plots`, drawings are inline SVG in the page's colours; each comes with what it shows in words. With nothing to
draw the markup is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from factorlake.errors import ConfigError, NumericalError
from factorlake.reporting.content import Drawing, Topic
from factorlake.reporting.drawing import (
    BIASES,
    INK,
    LIVE,
    MEAN,
    MODEL,
    POPULARITY,
    WARN,
    compact,
    drawing,
    thinned,
)
from factorlake.reporting.markup import Html
from factorlake.reporting.text import count, figure, plural, printable, seconds, share
from factorlake.types import FloatVector

NOTHING = Drawing(Html(""), "")
ENERGIES = (0.9, 0.95, 0.99)
MAX_TOPICS = 24
"""Topics that are drawn; the table beside the figure has more."""
TOPIC_COLUMNS = 3
TOPIC_WORDS = 8
MAX_CURVES = 4
MAX_LEVELS = 6
# Colour is never the only sign: each curve has a marker, each level a pattern of dashes.
_CURVES = tuple(zip((MODEL, POPULARITY, LIVE, BIASES), "oDs^", strict=True))
_LEVELS = tuple(
    zip(
        (MEAN, BIASES, LIVE, WARN, POPULARITY, INK),
        ("--", "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (2, 1)), (0, (8, 3)), (0, (8, 1, 2, 1))),
        strict=True,
    )
)
# A scale is logarithmic from this ratio of the largest to the least on.
_DECADES = 100.0
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class TracePoint(Protocol):
    """What the figures read of one pass, iteration or half step; rows of a trace have it."""

    @property
    def epoch(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def seconds(self) -> float: ...
    @property
    def metric_name(self) -> str | None: ...
    @property
    def metric(self) -> float | None: ...


@dataclass(frozen=True)
class ErrorCurve:
    """Errors of one model after each epoch, on what it was trained on and on what it was not.

    ``epochs``, ``training`` and ``validation`` are of one length; NaN where an error was not measured. ``kept`` is the
    epoch whose factors were kept, if not the last.
    """

    name: str
    epochs: FloatVector
    training: FloatVector
    validation: FloatVector
    kept: int | None = None

    def __post_init__(self) -> None:
        if not len(self.epochs) == len(self.training) == len(self.validation):
            raise ConfigError(
                f"curve {self.name}: {len(self.epochs)} epochs, {len(self.training)} training errors and "
                f"{len(self.validation)} validation errors"
            )


def singular_values_figure(
    singular_values: FloatVector, squared_norm: float | None = None, rank: int | None = None
) -> Drawing:
    """Draw singular values by number, and the share of the sum of squares that the first of them reach together.

    Parameters
    ----------
    singular_values : (n,) descending and not negative.
    squared_norm : ‖A‖², the sum of squares of all of them; where it is not given these are all there are.
    rank : how many are kept, if not all of these.

    Raises
    ------
    NumericalError : a value is NaN, infinite or negative. ConfigError : they do not descend.
    """
    values = np.asarray(singular_values, dtype=np.float64)
    if not np.isfinite(values).all() or np.any(values < 0):
        raise NumericalError("singular values are finite and not negative")
    if np.any(np.diff(values) > 0):
        raise ConfigError("singular values are drawn in descending order")
    total = float(np.sum(values**2)) if squared_norm is None else float(squared_norm)
    if not len(values) or not total > 0:
        return NOTHING
    # Sums in another order than the total's may pass it by rounding.
    reached = np.minimum(np.cumsum(values**2) / total, 1.0)
    number = np.arange(1.0, len(values) + 1)
    keep = thinned(len(values))
    with drawing("spectrum", 3.2) as (page, result):
        upper, lower = page.subplots(2, 1, sharex=True)
        _line(upper, number[keep], values[keep], MODEL, "o")
        _scale(upper, values[values > 0])
        upper.set_ylabel("singular value")
        _line(lower, number[keep], reached[keep], LIVE, "D")
        lower.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{100 * part:.4g} %"))
        lower.set_ylabel("sum of squares\nup to here")
        lower.set_xlabel("number")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        if rank is not None and 1 <= rank <= len(values):
            for panel in (upper, lower):
                panel.axvline(rank, color=WARN, linestyle="--", linewidth=1, label=f"rank {count(rank)}")
            upper.legend(loc="upper right", fontsize=8)
        marks = [
            f"{100 * energy:g} % by {count(int(np.searchsorted(reached, energy)) + 1)}"
            for energy in ENERGIES
            if energy <= reached[-1]
        ]
        result.append(
            f"{plural(len(values), 'singular value')}, from {figure(values[0])} to {figure(values[-1])}; together "
            f"{share(float(reached[-1]), 1.0)} of the sum of squares{': ' if marks else ''}{', '.join(marks)}."
        )
    return Drawing(result.markup, result.words)


def convergence_figure(trace: Sequence[TracePoint], tolerance: float | None = None) -> Drawing:
    """Draw the objective over the steps of a decomposition, and the metric that says when to stop.

    Parameters
    ----------
    trace : in the order of the steps; those without a finite objective are left out.
    tolerance : of the metric; drawn as a line.
    """
    rows = [row for row in trace if np.isfinite(row.loss)]
    if not rows:
        return NOTHING
    epochs, loss = np.array([row.epoch for row in rows]), np.array([row.loss for row in rows])
    measured = [(row.epoch, row.metric) for row in rows if row.metric is not None and np.isfinite(row.metric)]
    keep = thinned(len(rows))
    with drawing("convergence", 3.4 if measured else 2.2) as (page, result):
        panels = page.subplots(2 if measured else 1, 1, sharex=True, squeeze=False)[:, 0]
        _line(panels[0], epochs[keep], loss[keep], MODEL, "o")
        _scale(panels[0], loss)
        panels[0].set_ylabel("objective")
        length = seconds(sum(row.seconds for row in rows))
        result.append(
            f"The objective goes from {figure(loss[0])} to {figure(loss[-1])} in {plural(len(rows), 'step')}, {length}."
        )
        if measured:
            steps, values = np.array(measured, dtype=np.float64).T
            name = printable(next(row.metric_name for row in rows if row.metric is not None) or "metric", 30)
            keep = thinned(len(values))
            _line(panels[1], steps[keep], values[keep], LIVE, "D")
            _scale(panels[1], values if tolerance is None else np.append(values, tolerance))
            panels[1].set_ylabel(name)
            result.append(f"{name}: from {_exact(values[0])} to {_exact(values[-1])}.")
            if tolerance is not None:
                panels[1].axhline(
                    tolerance, color=WARN, linestyle="--", linewidth=1.2, label=f"tolerance {_exact(tolerance)}"
                )
                panels[1].legend(loc="upper right", fontsize=8)
        panels[-1].set_xlabel("step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return Drawing(result.markup, result.words)


def topics_figure(topics: Sequence[Topic], labels: Sequence[str] = ()) -> Drawing:
    """Draw the words that weigh most in each topic as bars, a small chart a topic.

    Parameters
    ----------
    topics : with words and weights, largest first; at most MAX_TOPICS are drawn, and TOPIC_WORDS of each.
    labels : a title for each topic; none: its number and its share.
    """
    drawn = list(topics[:MAX_TOPICS])
    if not drawn or not any(topic.words for topic in drawn):
        return NOTHING
    if labels and len(labels) != len(topics):
        raise ConfigError(f"{len(topics)} topics have {len(labels)} titles")
    columns = min(TOPIC_COLUMNS, len(drawn))
    lines = -(-len(drawn) // columns)
    bars = max(len(topic.words[:TOPIC_WORDS]) for topic in drawn)
    with drawing("topics", lines * (0.42 + 0.135 * bars)) as (page, result):
        panels = page.subplots(lines, columns, squeeze=False).ravel()
        for number, (panel, topic) in enumerate(zip(panels, drawn, strict=False), start=1):
            title = labels[number - 1] if labels else f"{number} · {share(topic.share, 1)}"
            _topic_panel(panel, topic, printable(title, 30), bars)
        for panel in panels[len(drawn) :]:
            panel.set_axis_off()
        told = f"The words that weigh most in {plural(len(drawn), 'topic')}"
        result.append(f"{told}, by weight." if len(topics) == len(drawn) else f"{told} of {count(len(topics))}.")
        # For whoever cannot see the bars; the caption beside them need not repeat the words.
        caption = result.words
        for number, topic in enumerate(drawn, start=1):
            result.append(f"{number}: {', '.join(printable(word, 30) for word in topic.words[:TOPIC_WORDS])}.")
    return Drawing(result.markup, caption)


def _topic_panel(panel: Axes, topic: Topic, title: str, bars: int) -> None:
    weights = topic.weights[:TOPIC_WORDS]
    # Positions, not words, place the bars: two long words may read the same once they are cut.
    panel.barh(range(len(weights)), weights, color=MODEL, height=0.68)
    panel.set_yticks(range(len(weights)), [printable(word, 16) for word in topic.words[:TOPIC_WORDS]], fontsize=7)
    panel.set_ylim(bars - 0.4, -0.6)
    panel.set_xticks([])
    panel.spines[["bottom", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.grid(visible=False)
    panel.set_title(title, fontsize=8, loc="left")


def learning_figure(curves: Sequence[ErrorCurve], levels: Mapping[str, float], metric: str = "MAE") -> Drawing:
    """Draw errors over epochs, training dotted and validation solid, beside levels that do not learn.

    Parameters
    ----------
    curves : at most MAX_CURVES; those without a finite error are left out.
    levels : name → error on the cells of the validation, at most MAX_LEVELS: baselines, and models judged once (ALS).
    metric : what the errors are.

    Raises
    ------
    ConfigError : more curves or levels than can be told apart.
    """
    if len(curves) > MAX_CURVES or len(levels) > MAX_LEVELS:
        raise ConfigError(
            f"at most {MAX_CURVES} curves and {MAX_LEVELS} levels can be told apart, got {len(curves)}, {len(levels)}"
        )
    drawn = [curve for curve in curves if np.isfinite([*curve.training, *curve.validation]).any()]
    beside = {name: error for name, error in levels.items() if np.isfinite(error)}
    if not drawn:
        return NOTHING
    with drawing("learning", 3.4) as (page, result):
        panel = page.subplots()
        for curve, (colour, marker) in zip(drawn, _CURVES, strict=False):
            result.append(_error_curve(panel, curve, colour, marker, metric))
        for (name, error), (colour, dashes) in zip(beside.items(), _LEVELS, strict=False):
            label = f"{printable(name, 30)}: {figure(error)}"
            panel.axhline(error, color=colour, linestyle=dashes, linewidth=1.3, label=label)
        if beside:
            told = ", ".join(f"{printable(name, 30)} {figure(error)}" for name, error in beside.items())
            result.append(f"Beside it, on the same cells: {told}.")
        panel.set_xlabel("epoch")
        panel.set_ylabel(printable(metric, 20))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        page.legend(loc="outside lower center", ncols=2, fontsize=7.5)
    return Drawing(result.markup, result.words)


def _error_curve(panel: Axes, curve: ErrorCurve, colour: str, marker: str, metric: str) -> str:
    """Draw one curve; return what it shows in words."""
    epochs, name, words = np.asarray(curve.epochs, np.float64), printable(curve.name, 30), []
    for kind, errors, line in (("training", curve.training, ":"), ("validation", curve.validation, "-")):
        values = np.asarray(errors, np.float64)
        at = np.flatnonzero(np.isfinite(values))
        if not len(at):
            continue
        keep = at[thinned(len(at))]
        few = len(keep) <= 40
        panel.plot(
            epochs[keep],
            values[keep],
            linestyle=line,
            color=colour,
            marker=marker if kind == "validation" and few else None,
            markersize=3,
            linewidth=1.8 if kind == "validation" else 1.2,
            label=f"{name}, {kind}",
        )
        words.append(f"{kind} {figure(values[at[0]])} to {figure(values[at[-1]])}")
        if kind == "validation" and curve.kept is not None and curve.kept in epochs[at]:
            best = float(values[at][epochs[at] == curve.kept][0])
            panel.plot(curve.kept, best, marker, color=WARN, markersize=6, label=f"{name}, kept: {figure(best)}")
            words.append(f"kept after epoch {count(curve.kept)} at {figure(best)}")
    return f"{name}, {printable(metric, 20)} over {plural(len(epochs), 'epoch')}: {', '.join(words)}."


def _line(panel: Axes, across: FloatVector, up: FloatVector, colour: str, marker: str) -> None:
    panel.plot(across, up, color=colour, marker=marker if len(across) <= 100 else None, markersize=3)


def _scale(panel: Axes, values: FloatVector) -> None:
    """Make the upward scale logarithmic where values, all above 0, differ by decades."""
    if len(values) and values.min() > 0 and values.max() / values.min() >= _DECADES:
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(FuncFormatter(_power_of_ten))
        panel.yaxis.set_minor_formatter(NullFormatter())
    else:
        panel.yaxis.set_major_formatter(FuncFormatter(compact))


def _power_of_ten(value: float, _position: int | None = None) -> str:
    return "10" + str(round(np.log10(value))).translate(_RAISED) if value > 0 else ""


def _exact(value: float) -> str:
    """Return a figure that may be far below 1."""
    return figure(value) if value == 0 or abs(value) >= 1e-2 else f"{value:.2e}"
