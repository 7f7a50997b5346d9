"""Pictures for the report and beside it: what a decomposition makes of a picture or a clip, next to what it was."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from factorlake.media import png
from factorlake.reporting.content import Drawing
from factorlake.reporting.markup import tag
from factorlake.types import FloatMatrix

GAP = 4
"""White pixels between pictures."""
MOST_PIXELS = 600_000
"""Of a picture in the report: with more it is shown coarser, so that the page stays small."""


def side_by_side(pictures: Sequence[FloatMatrix]) -> FloatMatrix:
    """Return pictures of one shape, (height, width) or (height, width, 3), in a row with a white gap between them."""
    gap = np.ones((pictures[0].shape[0], GAP, *pictures[0].shape[2:]))
    parts = [pictures[0]]
    for one in pictures[1:]:
        parts += [gap, one]
    return np.concatenate(parts, axis=1)


def contact_sheet(rows: Sequence[FloatMatrix]) -> FloatMatrix:
    """Return clips of one shape, (n_frames, height, width) or (n_frames, height, width, 3), one under the other, each
    frame by frame."""
    strips = [side_by_side(list(frames)) for frames in rows]
    gap = np.ones((GAP, *strips[0].shape[1:]))
    parts = [strips[0]]
    for one in strips[1:]:
        parts += [gap, one]
    return np.concatenate(parts, axis=0)


def picture_drawing(pixels: FloatMatrix, caption: str) -> Drawing:
    """Return a picture as a drawing of the report, its pixels within the page."""
    step = int(np.ceil(np.sqrt(pixels.shape[0] * pixels.shape[1] / MOST_PIXELS)))
    coarse = pixels[::step, ::step]
    source = f"data:image/png;base64,{base64.b64encode(png(coarse)).decode('ascii')}"
    return Drawing(tag("img", src=source, alt=caption, style="max-width:100%"), caption)
