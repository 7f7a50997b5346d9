"""How a figure is drawn: matplotlib to inline SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from factorlake.reporting.markup import Html, tag
from factorlake.reporting.style import CSS

# Marks in the drawing stand for colours of the page, which fall back to those of Okabe and Ito.
INK, FAINT, MODEL, LIVE, POPULARITY, BIASES, MEAN, WARN, NEIGHBOURS, PYSPARK_ML, OTHER = (
    f"#0102{number:02d}" for number in range(1, 12)
)
COLOURS = {
    INK: "currentColor",
    FAINT: "var(--rule, #b8bcc4)",
    MODEL: "var(--model, #0072b2)",
    LIVE: "var(--live, #009e73)",
    POPULARITY: "var(--popularity, #e69f00)",
    BIASES: "var(--biases, #cc79a7)",
    MEAN: "var(--mean, #7f7f7f)",
    WARN: "var(--warn, #d55e00)",
    NEIGHBOURS: "var(--neighbours, #6f4fb5)",
    PYSPARK_ML: "var(--pyspark, #9a4a1d)",
    OTHER: "var(--other, #2f8083)",
}
WIDTH = 4.7
MAX_POINTS = 400
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.labelsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


class Result(list[str]):
    """What the drawing shows, in words, and its markup once it is drawn."""

    markup: Html = Html("")

    @property
    def words(self) -> str:
        return " ".join(self)


@contextmanager
def drawing(key: str, height: float, layout: str = "constrained") -> Iterator[tuple[Figure, Result]]:
    """Hand out an empty figure and what is to be said of it; when the block ends it becomes markup.

    Parameters
    ----------
    key : letters that set the figure's ids apart from those of other figures of the page.
    height : in inches; the width is WIDTH.
    layout : none where the figure's parts are put in their places by hand.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=(WIDTH, height), layout=layout)  # type: ignore[arg-type]
        result = Result()
        yield figure, result
        target = io.StringIO()
        with warnings.catch_warnings():
            # The browser sets the text, in a font of its own: what matplotlib's lacks is no fault.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(target, format="svg", transparent=True, metadata={"Date": None})
    result.markup = _inline(target.getvalue(), key, result.words)


def standing_alone(markup: Html) -> str:
    """Return a drawing as an SVG file of its own, with the page's colours in light and dark."""
    palette = CSS[: CSS.index("*{")].replace("\n", "")
    style = f"{palette}svg{{background:var(--card);color:var(--ink)}}text{{font-family:system-ui,sans-serif!important}}"
    head, rest = markup.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{style}</style>{rest}\n'


def thinned(rows: int) -> list[int]:
    """Positions of at most MAX_POINTS rows, evenly spread, first and last among them."""
    return [int(at) for at in np.unique(np.linspace(0, rows - 1, min(rows, MAX_POINTS)).round())]


def compact(value: float, _position: int | None = None) -> str:
    """Return a figure of an axis in few characters: 1.5 M."""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}"
    return f"{value:.6g}"


def _inline(svg: str, key: str, description: str) -> Html:
    """Fit matplotlib's SVG into a page: no prologue, no outside names, ids of its own, the page's colours."""
    body = svg[svg.index("<svg") :]
    viewbox = re.search(r'viewBox="([^"]+)"', body)
    inner = body[body.index(">") + 1 : body.rindex("</svg>")]
    # The metadata block and the global style are the only parts that would reach outside this drawing.
    inner = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", inner, flags=re.DOTALL)
    inner = inner.replace("xlink:href", "href")
    inner = re.sub(r'\bid="', f'id="{key}-', inner)
    inner = re.sub(r'(href="#|url\(#)', rf"\1{key}-", inner)
    for mark, colour in COLOURS.items():
        inner = inner.replace(mark, colour)
    return tag(
        "svg",
        tag("title", description),
        Html(inner.strip()),
        viewBox=viewbox[1] if viewbox else None,
        role="img",
        class_="plot",
    )
