"""Drawn pictures have the spectrum of photographs, and a drawn clip keeps its truth to the letter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from factorlake.errors import ConfigError
from factorlake.evaluation.planted_pictures import LUMINANCE, clip, colour_picture, picture


def test_a_picture_is_within_black_and_white_and_the_same_for_the_same_seed() -> None:
    drawn = colour_picture(64, seed=5)
    assert drawn.shape == (64, 64, 3)
    assert drawn.dtype == np.float64
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    np.testing.assert_array_equal(drawn, colour_picture(64, seed=5))
    assert not np.array_equal(drawn, colour_picture(64, seed=6))


def test_the_grey_picture_is_the_weighted_colour_picture() -> None:
    red, green, blue = np.moveaxis(colour_picture(48, seed=2), -1, 0)
    assert LUMINANCE.sum() == pytest.approx(1.0, abs=1e-15)
    np.testing.assert_allclose(picture(48, seed=2), 0.299 * red + 0.587 * green + 0.114 * blue, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_singular_values_fall_slowly_and_without_a_gap(seed: int) -> None:
    values = np.linalg.svd(picture(256, seed), compute_uv=False)
    rest = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1])
    share_beyond = {rank: rest[rank] / rest[0] for rank in (1, 10, 25, 100)}
    # A flat picture would be below the one bound, noise above the other.
    assert 0.05 < share_beyond[10] < 0.25
    assert share_beyond[100] < share_beyond[25] / 2
    assert share_beyond[25] < share_beyond[1] / 1.5
    assert values[-1] > 1e-6 * values[0], "the picture has a low rank after all"
    # The first few hold sky against ground; the last few of a random matrix are far apart by themselves.
    assert np.all(values[5:-8] / values[6:-7] < 1.4), "the singular values have a gap"


def test_amplitudes_of_waves_fall_with_their_frequency_as_in_photographs() -> None:
    # A window keeps the borders, which do not meet, from counting as edges.
    window = np.hanning(256)
    grey = picture(256)
    waves = np.abs(np.fft.fft2((grey - grey.mean()) * window[:, None] * window)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    edges = np.geomspace(0.02, 0.25, 8)
    power = [waves[(frequency >= low) & (frequency < high)].mean() for low, high in itertools.pairwise(edges)]
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(power), 1)[0]
    # Field: the power spectra of natural scenes fall as frequency to the power of −2, ± about 1 (Field, JOSA A, 1987).
    assert -3.2 < slope < -1.2


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return clip(40, 60, 80, seed=4)


def test_outside_the_masks_a_frame_is_its_background_rounded(drawn: tuple[np.ndarray, ...]) -> None:
    frames, background, masks = drawn
    assert frames.dtype == np.uint8
    assert masks.dtype == np.bool_
    assert frames.shape == background.shape == masks.shape == (40, 60, 80)
    np.testing.assert_array_equal(frames[~masks], np.rint(background[~masks]))


def test_inside_the_masks_a_frame_differs_from_its_background(drawn: tuple[np.ndarray, ...]) -> None:
    frames, background, masks = drawn
    assert np.abs(frames - background)[masks].min() >= 8


def test_the_background_has_rank_two_and_moves_slowly(drawn: tuple[np.ndarray, ...]) -> None:
    _, background, _ = drawn
    values = np.linalg.svd(background.reshape(len(background), -1), compute_uv=False)
    assert values[1] > 1e-3 * values[0], "the light does not change"
    # What is left is rounding of the products in double precision.
    assert values[2] < 1e-12 * values[0]
    assert np.abs(np.diff(background, axis=0)).max() < 8, "the light flickers"


def test_no_pixel_is_covered_most_of_the_time_and_people_are_in_most_frames() -> None:
    masks = clip(120, 60, 80, seed=1).masks
    assert masks.mean(axis=0).max() < 0.5
    assert masks.any(axis=(1, 2)).mean() > 0.8
    assert 0.01 < masks.mean() < 0.15


def test_walkers_move(drawn: tuple[np.ndarray, ...]) -> None:
    masks = drawn[2]
    assert all(not np.array_equal(before, after) for before, after in itertools.pairwise(masks))


def test_the_same_seed_draws_the_same_clip_and_another_one_another() -> None:
    first, same, other = clip(3, 32, 40, 7), clip(3, 32, 40, 7), clip(3, 32, 40, 8)
    for left, right in zip(first, same, strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(first.frames, other.frames)


def test_the_least_sizes_are_drawn_and_smaller_ones_refused() -> None:
    assert picture(16).shape == (16, 16)
    assert clip(1, 24, 24).frames.shape == (1, 24, 24)
    with pytest.raises(ConfigError, match="at least 16, got 15"):
        picture(15)
    with pytest.raises(ConfigError, match="got 1 of 23 × 24"):
        clip(1, 23, 24)
    with pytest.raises(ConfigError, match="got 0 of 24 × 24"):
        clip(0, 24, 24)
