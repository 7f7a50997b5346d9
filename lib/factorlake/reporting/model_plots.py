"""Figures of a model itself: its spectrum, and what its scores are worth. Drawn as those of `plots` are."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from factorlake.models.spectrum import Spectrum
from factorlake.reporting.content import CalibrationCurve
from factorlake.reporting.drawing import MODEL, WARN, compact, drawing, thinned
from factorlake.reporting.markup import Html
from factorlake.reporting.text import count, figure, plural


def spectrum_figure(found: Spectrum) -> Html:
    """Draw the singular values in order, and where the effective rank lies among them."""
    values = np.array(found.singular_values)
    if not len(values) or not np.isfinite(values).all():
        return Html("")
    with drawing("spectrum", 2.6) as (page, result):
        panel = page.subplots()
        keep = thinned(len(values))
        panel.plot(np.array(keep) + 1, values[keep], color=MODEL, marker="o", markersize=3)
        panel.axvline(found.effective_rank, color=WARN, linestyle="--", linewidth=1.2, label="effective rank")
        panel.set_ylim(bottom=0)
        panel.set_xlabel("number of the singular value, largest first")
        panel.set_ylabel("singular value")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.yaxis.set_major_formatter(FuncFormatter(compact))
        panel.legend(loc="upper right", fontsize=8)
        result.append(
            f"Line of {plural(len(values), 'singular value')} from {figure(values[0])} to {figure(values[-1])}, "
            f"effective rank {figure(found.effective_rank, 2)}."
        )
    return result.markup


def calibration_figure(found: CalibrationCurve) -> Html:
    """Draw the map from score to probability: straight lines between its knots."""
    scores, probabilities = np.array(found.scores), np.array(found.probabilities)
    if not len(scores):
        return Html("")
    with drawing("calibration", 2.6) as (page, result):
        panel = page.subplots()
        panel.plot(scores, probabilities, color=MODEL, marker="o", markersize=2.5)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("score of a listed item")
        panel.set_ylabel("probability of a hit")
        result.append(
            f"Line through {plural(len(scores), 'knot')}: from probability {figure(probabilities[0])} at score "
            f"{figure(scores[0])} to {figure(probabilities[-1])} at {figure(scores[-1])}, "
            f"by {count(found.n)} listed items."
        )
    return result.markup
