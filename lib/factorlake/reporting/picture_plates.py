"""Plates: pictures in a grid, with a title above each column and a name beside each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from factorlake.errors import ConfigError, NumericalError
from factorlake.media import eight_bits, footprint, picture_matrix, png
from factorlake.reporting.content import Drawing
from factorlake.reporting.drawing import STYLE, WIDTH, drawing
from factorlake.reporting.text import count, figure, share
from factorlake.types import FloatMatrix

REPORT_PIXELS = {3: 288, 8: 160}
"""Most pixels along a side of a picture in the report, by the columns of the plate: the page stays small."""
FILE_PIXELS = 640
"""The same in a file."""
MOST_COLUMNS = 8
_GAP, _ROW_NAMES, _TITLE_LINE, _MARGIN = 0.05, 0.22, 0.16, 0.03
_AMPLIFIED = tuple(2.0**power for power in range(8))


@dataclass(frozen=True)
class Plate:
    """A grid of pictures of one size, each (height, width) or (height, width, 3) within [0, 1]."""

    pictures: tuple[tuple[FloatMatrix, ...], ...]
    """By rows."""
    titles: tuple[str, ...]
    """Of the columns; each of one or more lines."""
    row_names: tuple[str, ...]
    """Empty texts: no names."""
    caption: str

    def __post_init__(self) -> None:
        shapes = {picture.shape[:2] for row in self.pictures for picture in row}
        if len(shapes) != 1 or {len(row) for row in self.pictures} != {len(self.titles)}:
            raise ConfigError(f"pictures on a plate have one size, and each column a title; got {sorted(shapes)}")
        if len(self.row_names) != len(self.pictures):
            raise ConfigError(f"a plate of {len(self.pictures)} rows has {len(self.row_names)} names of rows")
        if not all(np.isfinite(picture).all() for row in self.pictures for picture in row):
            raise NumericalError(
                f"a picture has values that are not finite: there is no shade for them ({self.caption})"
            )


def picture_plate(
    original: FloatMatrix, approximation: FloatMatrix, rank: int, relative_error: float | None = None
) -> Plate:
    """Return a picture, its approximation and the error between them, amplified so that it can be seen.

    Parameters
    ----------
    original, approximation : (height, width) or (height, width, 3) within [0, 1]; the approximation is cut off there.
    rank : of the approximation.
    relative_error : ‖A − UΣVᵀ‖/‖A‖; where it is not given it is that of the pictures as they are shown.

    Raises
    ------
    ConfigError : shapes that differ. NumericalError : a value is NaN or infinite.
    """
    if original.shape != approximation.shape:
        raise ConfigError(f"the picture is {original.shape} and its approximation {approximation.shape}")
    first, second = np.asarray(original, np.float64), np.clip(np.asarray(approximation, np.float64), 0.0, 1.0)
    error = second - first
    if relative_error is None:
        norm = float(np.linalg.norm(first))
        relative_error = float(np.linalg.norm(error)) / norm if norm else float(np.any(error))
    # As much as leaves all but one in a hundred pixels within black and white.
    large = float(np.quantile(np.abs(error), 0.99)) if np.isfinite(error).all() else 0.0
    times = max((factor for factor in _AMPLIFIED if factor * large <= 0.5), default=1.0) if large else 1.0
    matrix = picture_matrix(first)
    kept = footprint((matrix.shape[0], matrix.shape[1]), rank)
    told = f"relative error {figure(relative_error)}"
    numbers = f"{count(kept.kept_numbers)} of {count(kept.numbers)}"
    return Plate(
        pictures=((first, second, np.clip(0.5 + times * error, 0.0, 1.0)),),
        titles=(
            f"original\n{first.shape[1]} × {first.shape[0]}",
            f"rank {count(rank)}\n{numbers} numbers",
            f"error × {times:g}\n{told}",
        ),
        row_names=("",),
        caption=(
            f"A picture and its approximation of rank {count(rank)}: {told}, {numbers} numbers kept "
            f"({share(kept.kept_numbers, kept.numbers)}). Right: the error {times:g} times as large, middle grey where "
            "there is none."
        ),
    )


def separation_plate(
    frames: FloatMatrix,
    background: FloatMatrix,
    foreground: FloatMatrix,
    masks: FloatMatrix | NDArray[np.bool_],
    columns: int = 5,
) -> Plate:
    """Return the contact sheet of a clip taken apart: some frames evenly chosen, under each its background, its
    foreground and its mask.

    Parameters
    ----------
    frames, background, foreground : (n_frames, height, width) or (n_frames, height, width, 3) within [0, 1]; nothing in
        the foreground is middle grey.
    masks : (n_frames, height, width), numbers or logical values; or with colours.
    columns : at most so many frames, no more than MOST_COLUMNS.

    Raises
    ------
    ConfigError : no frames, shapes that differ, no columns or too many. NumericalError : a value is NaN or infinite.
    """
    parts = (frames, background, foreground, masks)
    if len({part.shape[:3] for part in parts}) != 1 or not len(frames):
        raise ConfigError(f"the parts of a clip have one shape and a frame at least: {[part.shape for part in parts]}")
    if not 1 <= columns <= MOST_COLUMNS:
        raise ConfigError(f"a contact sheet has 1 to {MOST_COLUMNS} columns, got {columns}")
    chosen = np.unique(np.linspace(0, len(frames) - 1, columns).round().astype(np.int64))
    numbers = ", ".join(count(int(at) + 1) for at in chosen)
    return Plate(
        pictures=tuple(tuple(np.clip(part[at].astype(np.float64), 0.0, 1.0) for at in chosen) for part in parts),
        titles=tuple(f"frame {count(int(at) + 1)}" for at in chosen),
        row_names=("original", "background", "foreground", "mask"),
        caption=(
            f"Frames {numbers} of {count(len(frames))}: as they were, what stays (the low-rank part), what moves (the "
            f"sparse part, middle grey where there is nothing), and its mask, which covers "
            f"{share(float(np.sum(masks, dtype=np.float64)), masks.size)} of the clip."
        ),
    )


def plate_drawing(plate: Plate, key: str = "plate") -> Drawing:
    """Return a plate for the report, its pictures coarser where they are large."""
    with drawing(key, _height(plate), layout="none") as (page, result):
        most = next(pixels for columns, pixels in REPORT_PIXELS.items() if len(plate.titles) <= columns)
        _draw(plate, page, most)
        result.append(plate.caption)
    return Drawing(result.markup, plate.caption)


def plate_png(plate: Plate) -> bytes:
    """Return a plate as a PNG file on white, the pictures pixel by pixel where they are no larger than FILE_PIXELS."""
    width = _coarser(plate.pictures[0][0], FILE_PIXELS).shape[1]
    with matplotlib.rc_context({**STYLE, "text.color": "black"}):
        # Small frames are enlarged, so that the words beside them can be read.
        page = Figure(figsize=(WIDTH, _height(plate)), dpi=max(width / _panel_width(plate), 150))
        canvas = FigureCanvasAgg(page)
        _draw(plate, page, FILE_PIXELS)
        canvas.draw()
        drawn = np.asarray(canvas.buffer_rgba())[:, :, :3] / 255
    is_grey = np.array_equal(drawn[..., 0], drawn[..., 1]) and np.array_equal(drawn[..., 0], drawn[..., 2])
    return png(drawn[..., 0] if is_grey else drawn)


def _panel_width(plate: Plate) -> float:
    columns = len(plate.titles)
    return (WIDTH - 2 * _MARGIN - _names_width(plate) - (columns - 1) * _GAP) / columns


def _names_width(plate: Plate) -> float:
    return _ROW_NAMES if any(plate.row_names) else 0.0


def _panel_height(plate: Plate) -> float:
    height, width = plate.pictures[0][0].shape[:2]
    return _panel_width(plate) * height / width


def _titles_height(plate: Plate) -> float:
    return _TITLE_LINE * max(title.count("\n") + 1 for title in plate.titles) + _GAP


def _height(plate: Plate) -> float:
    rows = len(plate.pictures)
    return 2 * _MARGIN + _titles_height(plate) + rows * _panel_height(plate) + (rows - 1) * _GAP


def _draw(plate: Plate, page: Figure, most: int) -> None:
    """Put each picture in its place, from the top left."""
    width, height = _panel_width(plate), _panel_height(plate)
    page_width, page_height = page.get_size_inches()
    for row, pictures in enumerate(plate.pictures):
        top = page_height - _MARGIN - _titles_height(plate) - row * (height + _GAP)
        if plate.row_names[row]:
            page.text(
                (_MARGIN + _ROW_NAMES / 2) / page_width,
                (top - height / 2) / page_height,
                plate.row_names[row],
                rotation=90,
                ha="center",
                va="center",
                fontsize=7.5,
            )
        for column, pixels in enumerate(pictures):
            left = _MARGIN + _names_width(plate) + column * (width + _GAP)
            panel = page.add_axes(
                (left / page_width, (top - height) / page_height, width / page_width, height / page_height)
            )
            # No interpolation: the picture goes into the drawing as it is, and the reader's screen fits it.
            shades = eight_bits(_coarser(pixels, most))
            colours = shades if shades.ndim == 3 else np.dstack([shades] * 3)
            panel.imshow(colours, interpolation="none", aspect="auto")
            panel.set_axis_off()
            if row == 0:
                panel.set_title(plate.titles[column], fontsize=7.5, pad=3)


def _coarser(pixels: FloatMatrix, most: int) -> FloatMatrix:
    """Return a picture of at most ``most`` pixels a side, each the mean of a square of those there were."""
    step = -(-max(pixels.shape[:2]) // most)
    if step == 1:
        return pixels
    for axis in (0, 1):
        starts: Sequence[int] = range(0, pixels.shape[axis], step)
        lengths = np.diff([*starts, pixels.shape[axis]])
        shape = [-1 if at == axis else 1 for at in range(pixels.ndim)]
        pixels = np.add.reduceat(pixels, list(starts), axis=axis) / lengths.reshape(shape)
    return pixels
