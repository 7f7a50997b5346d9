"""Figures of decompositions hold the pictures, words and curves they were given, and refuse what cannot be drawn."""

from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from factorlake.errors import ConfigError, NumericalError
from factorlake.reporting.content import Drawing, Topic, TraceRow
from factorlake.reporting.decomposition_plots import (
    MAX_TOPICS,
    TOPIC_WORDS,
    ErrorCurve,
    convergence_figure,
    learning_figure,
    singular_values_figure,
    topics_figure,
)
from factorlake.reporting.drawing import MAX_POINTS, standing_alone
from factorlake.reporting.picture_plates import (
    FILE_PIXELS,
    REPORT_PIXELS,
    Plate,
    picture_plate,
    plate_drawing,
    plate_png,
    separation_plate,
)


def texts(drawing: Drawing) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(drawing.markup).iter("text")]


def panels(drawing: Drawing) -> list[ElementTree.Element]:
    groups = ElementTree.fromstring(drawing.markup).iter("g")
    return [group for group in groups if re.search(r"-axes_\d+$", group.get("id", ""))]


def embedded(drawing: Drawing) -> list[NDArray[np.uint8]]:
    """Return the pictures in a drawing, as red, green and blue, in the order they were drawn."""
    found = []
    for image in ElementTree.fromstring(drawing.markup).iter("image"):
        kind, data = image.attrib["href"].split(",", 1)
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as stored:
            found.append(np.asarray(stored.convert("RGB")))
    return found


def shades(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a picture as the nearest of 256 levels of red, green and blue."""
    return np.rint(255 * (pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)))


def curves(panel: ElementTree.Element) -> list[NDArray[np.float64]]:
    """Return the corners of the lines drawn straight into a panel, each (n, 2) across and down."""
    found = []
    for group in panel:
        if re.search(r"-line2d_\d+$", group.get("id", "")):
            for path in group.findall("path"):
                numbers = re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", path.attrib["d"])
                found.append(np.array(numbers, dtype=np.float64).reshape(-1, 2))
    return found


def levels(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).integers(0, 256, shape) / 255


def trace(n: int, metric: float | None = 0.5) -> list[TraceRow]:
    return [
        TraceRow(at, "both", "after", 10.0 / at, 0.0, 0.0, 0.5, "residual" if metric else None, metric and metric**at)
        for at in range(1, n + 1)
    ]


def drawings() -> list[Drawing]:
    frames = levels(3, 6, 8)
    return [
        singular_values_figure(np.array([3.0, 2.0, 0.0])),
        singular_values_figure(np.array([5.0]), squared_norm=1e9, rank=1),
        convergence_figure(trace(4), tolerance=1e-7),
        convergence_figure(trace(1, metric=None)),
        topics_figure([Topic(("<b>$x$", "b"), (2.0, 1.0), 0.5)]),
        topics_figure([Topic(("a",), (1.0,), 1.0), Topic((), (), 0.0)]),
        learning_figure([ErrorCurve("Adam", np.array([1.0]), np.array([0.5]), np.array([np.nan]))], {"mean": np.nan}),
        plate_drawing(picture_plate(levels(4, 6), levels(4, 6, seed=1), 2)),
        plate_drawing(separation_plate(frames, frames, frames, frames > 0.5)),
    ]


@pytest.mark.parametrize("number", range(9))
def test_every_figure_is_well_formed_described_and_needs_nothing_beside_itself(number: int) -> None:
    drawn = drawings()[number]
    root = ElementTree.fromstring(drawn.markup)
    assert root.tag == "svg"
    assert drawn.caption
    assert (root.findtext("title") or "").startswith(drawn.caption)
    assert not re.search(r"#0102\d\d\b", drawn.markup), "a stand-in for a colour of the page was left"
    assert not re.search(r'(href|src)="(?!#|data:image/png)', drawn.markup), "the figure refers to something outside"
    ids = re.findall(r'\bid="([^"]+)"', drawn.markup)
    for reference in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawn.markup):
        assert "".join(reference) in ids


def test_the_same_figure_is_the_same_text() -> None:
    for first, second in zip(drawings(), drawings(), strict=True):
        assert first == second


def test_a_drawing_stands_alone_with_the_colours_of_the_page_in_light_and_dark() -> None:
    alone = standing_alone(convergence_figure(trace(4)).markup)
    root = ElementTree.fromstring(alone)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    style = root.findtext("{http://www.w3.org/2000/svg}style") or ""
    for name in set(re.findall(r"var\((--\w+)", alone)):
        light, dark = style.split("@media", 1)
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_drawing_leaves_matplotlibs_settings_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    drawings()
    plate_png(picture_plate(levels(4, 4), levels(4, 4), 1))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (1, 1)])
def test_a_picture_plate_holds_original_approximation_and_error(shape: tuple[int, ...]) -> None:
    original, approximation = levels(*shape), 0.9 * levels(*shape) + 0.02
    drawn = plate_drawing(picture_plate(original, approximation, rank=7))
    assert len(panels(drawn)) == 3
    found = embedded(drawn)
    for picture, wanted in zip(found, (original, approximation), strict=False):
        np.testing.assert_array_equal(picture, shades(wanted))
    said = texts(drawn)
    times = float(next(text for text in said if text.startswith("error ×")).split("×")[1])
    np.testing.assert_array_equal(found[2], shades(np.clip(0.5 + times * (approximation - original), 0, 1)))
    error = np.linalg.norm(approximation - original) / np.linalg.norm(original)
    kept = 7 * (shape[0] + int(np.prod(shape[1:])) + 1)
    assert f"relative error {error:.4f}" in said
    assert f"{kept:,} of {original.size:,} numbers" in said
    assert "rank 7" in said
    assert f"{error:.4f}" in drawn.caption
    assert f"{kept:,} of {original.size:,}" in drawn.caption


def test_the_footprint_of_512_by_512_at_rank_50_is_told_with_the_error_given() -> None:
    plate = picture_plate(np.full((512, 512), 0.5), np.full((512, 512), 0.5), 50, relative_error=0.0123)
    assert plate.titles == (
        "original\n512 × 512",
        "rank 50\n51,250 of 262,144 numbers",
        "error × 1\nrelative error 0.0123",
    )


def test_an_error_is_enlarged_until_one_pixel_in_a_hundred_would_pass_black_or_white() -> None:
    original = np.full((40, 40), 0.5)
    assert "error × 4" in picture_plate(original, original + 0.12, 1).titles[2]
    assert "error × 128" in picture_plate(original, original + 1e-5, 1).titles[2]
    assert "error × 1\n" in picture_plate(np.zeros((4, 4)), np.ones((4, 4)), 1).titles[2]


def test_of_a_black_picture_the_error_is_nothing_or_all() -> None:
    black = np.zeros((3, 3))
    assert "relative error 0.0000" in picture_plate(black, black, 1).titles[2]
    assert "relative error 1.0000" in picture_plate(black, black + 0.1, 1).titles[2]


def test_a_contact_sheet_has_a_row_a_part_and_a_column_a_chosen_frame() -> None:
    frames, background, foreground = (levels(9, 6, 8, seed=seed) for seed in range(3))
    masks = levels(9, 6, 8, seed=3) > 0.5
    drawn = plate_drawing(separation_plate(frames, background, foreground, masks, columns=5))
    assert [text for text in texts(drawn) if text.startswith("frame ")] == [f"frame {at}" for at in (1, 3, 5, 7, 9)]
    assert {"original", "background", "foreground", "mask"} <= set(texts(drawn))
    found = embedded(drawn)
    assert len(panels(drawn)) == len(found) == 20
    wanted = [part[at] * 1.0 for part in (frames, background, foreground, masks) for at in (0, 2, 4, 6, 8)]
    for picture, pixels in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(picture, shades(pixels))
    assert f"{100 * masks.mean():.1f} %" in drawn.caption


@pytest.mark.parametrize(("n_frames", "wanted"), [(1, [1]), (2, [1, 2]), (4, [1, 2, 3, 4]), (100, [1, 34, 67, 100])])
def test_a_short_clip_has_each_frame_once(n_frames: int, wanted: list[int]) -> None:
    frames = levels(n_frames, 2, 2)
    plate = separation_plate(frames, frames, frames, frames, columns=4)
    assert list(plate.titles) == [f"frame {at}" for at in wanted]


def test_a_colour_clip_has_a_sheet_with_grey_masks() -> None:
    frames = levels(3, 5, 6, 3)
    drawn = plate_drawing(separation_plate(frames, frames, frames, frames[..., 0] > 0.5))
    np.testing.assert_array_equal(embedded(drawn)[0], shades(frames[0]))


def test_large_pictures_are_coarser_in_the_report_by_means_of_squares() -> None:
    large = levels(700, 601)
    drawn = plate_drawing(picture_plate(large, large, 1))
    most = REPORT_PIXELS[3]
    step = -(-700 // most)
    first = embedded(drawn)[0]
    assert first.shape == (-(-700 // step), -(-601 // step), 3)
    assert max(first.shape) <= most
    for row, column in ((0, 0), (5, 7), (first.shape[0] - 1, first.shape[1] - 1)):
        square = large[row * step : (row + 1) * step, column * step : (column + 1) * step]
        assert abs(first[row, column, 0] - 255 * square.mean()) <= 0.5 + 1e-9
    assert len(drawn.markup) < 600_000


def test_a_plate_in_a_file_shows_every_pixel_of_a_picture() -> None:
    stripes = np.tile([0.0, 1.0], (FILE_PIXELS // 2, FILE_PIXELS // 4))
    with Image.open(io.BytesIO(plate_png(picture_plate(stripes, stripes, 1)))) as image:
        assert image.format == "PNG"
        assert image.mode == "L"
        drawn = np.asarray(image)
    line = drawn[-drawn.shape[0] // 4]
    # 320 stripes, black and white by turns, in each of the two pictures; the error is one grey.
    assert np.count_nonzero(np.diff((line > 127).astype(int))) >= 2 * stripes.shape[1] - 4


def test_a_plate_in_a_file_has_colours_and_white_ground() -> None:
    red = np.zeros((30, 40, 3))
    red[..., 0] = 1.0
    with Image.open(io.BytesIO(plate_png(picture_plate(red, red, 1)))) as image:
        drawn = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(drawn[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(drawn[drawn.shape[0] * 3 // 4, 100], [255, 0, 0])


def test_what_cannot_be_laid_side_by_side_is_refused() -> None:
    frames = levels(2, 3, 3)
    with pytest.raises(ConfigError, match="its approximation"):
        picture_plate(levels(3, 4), levels(4, 3), 1)
    with pytest.raises(ConfigError, match="one shape and a frame at least"):
        separation_plate(frames, frames[:1], frames, frames)
    with pytest.raises(ConfigError, match="one shape and a frame at least"):
        separation_plate(frames[:0], frames[:0], frames[:0], frames[:0])
    for columns in (0, 9):
        with pytest.raises(ConfigError, match=f"1 to 8 columns, got {columns}"):
            separation_plate(frames, frames, frames, frames, columns=columns)
    with pytest.raises(ConfigError, match="each column a title"):
        Plate(((frames[0], frames[1]),), ("one",), ("",), "")
    with pytest.raises(ConfigError, match="0 names of rows"):
        Plate(((frames[0],),), ("one",), (), "")


def test_pictures_that_are_not_finite_are_refused() -> None:
    wrong = levels(2, 3, 3)
    wrong[1, 0, 0] = np.nan
    fine = levels(2, 3, 3)
    with pytest.raises(NumericalError, match="not finite"):
        picture_plate(fine[0], wrong[1], 1)
    with pytest.raises(NumericalError, match="not finite"):
        separation_plate(fine, wrong, fine, fine)


def test_singular_values_are_drawn_with_the_share_they_reach() -> None:
    values = np.array([3.0, 2.0, 1.5, 1.0])
    drawn = singular_values_figure(values, rank=2)
    shares = np.cumsum(values**2) / np.sum(values**2)
    assert len(panels(drawn)) == 2
    for panel, wanted in zip(panels(drawn), (values, shares), strict=True):
        (curve,) = (line for line in curves(panel) if len(line) == 4)
        # Down the page is towards smaller values, in proportion; coordinates have six decimals.
        steps = np.diff(curve[:, 1]) / np.diff(wanted)
        assert steps[0] < 0
        np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
        np.testing.assert_allclose(np.diff(curve[:, 0]), curve[1, 0] - curve[0, 0], rtol=1e-4)
    assert "rank 2" in texts(drawn)
    assert "100.0 % of the sum of squares: 90 % by 3, 95 % by 4, 99 % by 4" in drawn.caption


def test_singular_values_that_leave_something_out_say_so() -> None:
    drawn = singular_values_figure(np.array([3.0, 1.0]), squared_norm=11.0)
    assert "together 90.9 % of the sum of squares: 90 % by 2." in drawn.caption
    assert "from 3.0000 to 1.0000" in drawn.caption


def test_singular_values_over_decades_have_a_scale_of_powers() -> None:
    assert {"10⁰", "10⁻²"} <= set(texts(singular_values_figure(10.0 ** -np.arange(6))))
    assert not any("10⁰" in text for text in texts(singular_values_figure(np.array([3.0, 2.0]))))


def test_wrong_singular_values_are_refused() -> None:
    for wrong in (np.nan, np.inf, -1.0):
        with pytest.raises(NumericalError, match="finite and not negative"):
            singular_values_figure(np.array([1.0, wrong]))
    with pytest.raises(ConfigError, match="descending"):
        singular_values_figure(np.array([1.0, 2.0]))


def test_convergence_has_a_panel_for_the_metric_where_there_is_one() -> None:
    with_metric, without = convergence_figure(trace(8), tolerance=1e-2), convergence_figure(trace(8, metric=None))
    assert len(panels(with_metric)) == 2
    assert len(panels(without)) == 1
    assert {"objective", "residual", "step", "tolerance 0.0100"} <= set(texts(with_metric))
    assert with_metric.caption == (
        "The objective goes from 10.0000 to 1.2500 in 8 steps, 4.00 s. residual: from 0.5000 to 3.91e-03."
    )


def test_a_long_trace_is_thinned_but_told_in_full() -> None:
    drawn = convergence_figure(trace(5_000, metric=None))
    curve = max(curves(panels(drawn)[0]), key=len)
    # matplotlib leaves out corners that cannot be seen; the whole way is there, of a figure 338 points wide.
    assert 10 < len(curve) <= MAX_POINTS
    assert np.ptp(curve[:, 0]) > 200
    assert "5,000 steps" in drawn.caption


def test_each_topic_has_a_chart_with_its_words() -> None:
    topics = [Topic(tuple(f"word{topic}{at}" for at in range(12)), tuple(range(12, 0, -1)), 0.25) for topic in range(4)]
    drawn = topics_figure(topics)
    charts = [panel for panel in panels(drawn) if list(panel.iter("text"))]
    assert len(charts) == 4
    for number, chart in enumerate(charts):
        said = ["".join(element.itertext()) for element in chart.iter("text")]
        assert {f"word{number}{at}" for at in range(TOPIC_WORDS)} <= set(said)
        assert f"word{number}{TOPIC_WORDS}" not in said
        assert f"{number + 1} · 25.0 %" in said
    assert drawn.caption == "The words that weigh most in 4 topics, by weight."
    assert {"sport", "trade"} <= set(texts(topics_figure(topics[:2], ["sport", "trade"])))


def test_bars_of_a_topic_are_as_long_as_its_weights() -> None:
    drawn = topics_figure([Topic(("a", "b", "c"), (4.0, 2.0, 1.0), 1.0)])
    widths = []
    for group in panels(drawn)[0]:
        if not re.search(r"-patch_\d+$", group.get("id", "")):
            continue
        for path in group.findall("path"):
            corners = np.array(re.findall(r"-?\d+\.?\d*", path.attrib["d"]), dtype=float).reshape(-1, 2)
            widths.append(np.ptp(corners[:, 0]))
    # The first is the ground of the panel.
    bars = np.array(widths[1:4])
    np.testing.assert_allclose(bars / bars[2], [4.0, 2.0, 1.0], rtol=1e-3)


def test_words_of_strangers_are_text_and_not_markup() -> None:
    drawn = topics_figure([Topic(("<script>x", "$a$\u202e"), (1.0, 0.5), 1.0)])
    assert "<script>x" in texts(drawn)
    assert "$a$\ufffd" in texts(drawn)


def test_more_topics_than_are_drawn_are_counted() -> None:
    topics = [Topic(("a",), (1.0,), 0.01)] * (MAX_TOPICS + 3)
    drawn = topics_figure(topics)
    assert f"{MAX_TOPICS} topics of {MAX_TOPICS + 3}." in drawn.caption
    with pytest.raises(ConfigError, match="have 1 titles"):
        topics_figure(topics, ["only one"])


def test_learning_shows_every_curve_and_level_with_its_figure() -> None:
    epochs = np.arange(1.0, 6.0)
    adam = ErrorCurve("Adam", epochs, 1.0 / epochs, 1.0 / epochs + 0.2, kept=4)
    network = ErrorCurve("network", epochs[:3], np.array([np.nan, 0.6, 0.5]), np.array([0.9, 0.8, 0.7]))
    drawn = learning_figure([adam, network], {"mean": 0.95, "biases": 0.8, "ALS": 0.33333}, "MAE")
    said = set(texts(drawn))
    assert {"Adam, training", "Adam, validation", "Adam, kept: 0.4500", "network, training"} <= said
    assert {"network, validation", "mean: 0.9500", "biases: 0.8000", "ALS: 0.3333", "epoch", "MAE"} <= said
    assert "Adam, MAE over 5 epochs: training 1.0000 to 0.2000, validation 1.2000 to 0.4000" in drawn.caption
    assert "kept after epoch 4 at 0.4500" in drawn.caption
    assert "network, MAE over 3 epochs: training 0.6000 to 0.5000" in drawn.caption
    assert "Beside it, on the same cells: mean 0.9500, biases 0.8000, ALS 0.3333." in drawn.caption


def test_levels_are_level_and_in_order() -> None:
    epochs = np.array([1.0, 2.0])
    drawn = learning_figure([ErrorCurve("Adam", epochs, epochs, epochs)], {"high": 1.8, "low": 1.2})
    panel = panels(drawn)[0]
    flat = [line for line in curves(panel) if len(line) == 2 and line[0, 1] == line[1, 1] and np.ptp(line[:, 0]) > 100]
    high, low = flat[-2:]
    assert high[0, 1] < low[0, 1], "down the page is towards smaller errors"


def test_curves_that_do_not_fit_are_refused() -> None:
    curve = ErrorCurve("a", np.ones(2), np.ones(2), np.ones(2))
    with pytest.raises(ConfigError, match="2 epochs, 1 training errors and 2 validation"):
        ErrorCurve("a", np.ones(2), np.ones(1), np.ones(2))
    with pytest.raises(ConfigError, match="got 5, 0"):
        learning_figure([curve] * 5, {})
    with pytest.raises(ConfigError, match="got 1, 7"):
        learning_figure([curve], {str(at): 1.0 for at in range(7)})


@pytest.mark.parametrize(
    "drawn",
    [
        singular_values_figure(np.array([])),
        singular_values_figure(np.zeros(3)),
        convergence_figure([]),
        convergence_figure([TraceRow(1, "both", "after", float("nan"), 0.0, 0.0, 0.1)]),
        topics_figure([]),
        topics_figure([Topic((), (), 0.0)]),
        learning_figure([], {"mean": 1.0}),
        learning_figure([ErrorCurve("a", np.ones(1), np.array([np.nan]), np.array([np.nan]))], {}),
    ],
)
def test_nothing_to_draw_gives_no_figure(drawn: Drawing) -> None:
    assert drawn == Drawing(drawn.markup, "")
    assert drawn.markup == ""
