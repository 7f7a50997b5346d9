"""Drawn pictures and clips: a landscape with the spectrum of a photograph, and a scene with people walking through it.

Everything comes from one seed, so that whoever judges a decomposition knows the truth: of a picture every pixel, of
a clip the empty scene in each frame's light and the pixels that someone covers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlake.errors import ConfigError
from factorlake.types import FloatMatrix

Floats = NDArray[np.float64]

LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the grey value (ITU-R BT.601)."""
# Separate streams of one seed, so that drawing more of one thing changes nothing of another.
_LANDSCAPE, _SCENE, _WALKERS = 0, 1, 2
_SKYLINE, _SHORE, _BANK = 0.42, 0.62, 0.86
"""Heights where the far hills, the water and the near bank begin, as shares of the picture from the top."""
_MOST_WALKERS = 5


class DrawnClip(NamedTuple):
    """A clip and its truth.

    ``frames`` (n_frames, height, width) uint8. ``background`` (n_frames, height, width) float64: the empty scene in the
    light of each frame, in grey levels and not rounded; as a matrix of pixels × frames its rank is 2. ``masks``
    (n_frames, height, width) bool: where a walker or a shadow covers the scene. Outside the masks a frame is its
    background, rounded.
    """

    frames: NDArray[np.uint8]
    background: Floats
    masks: NDArray[np.bool_]


def picture(size: int, seed: int = 0) -> Floats:
    """Return a drawn landscape in grey, (size, size) within [0, 1]: `colour_picture` weighted by `LUMINANCE`.

    Its singular values fall as those of photographs do, slowly and without a gap: no rank below size is exact.

    Raises
    ------
    ConfigError : a size below 16.
    """
    return np.asarray(np.clip(colour_picture(size, seed) @ LUMINANCE, 0.0, 1.0))


def colour_picture(size: int, seed: int = 0) -> Floats:
    """Return a drawn landscape, (size, size, 3) red, green and blue within [0, 1].

    Sky with a low sun and clouds, four ranges of hills that fade with distance, firs on the nearest, a lake that
    mirrors them in its ripples, a bank with grass.

    Raises
    ------
    ConfigError : a size below 16.
    """
    if size < 16:
        raise ConfigError(f"a drawn picture needs a size of at least 16, got {size}")
    rng = np.random.default_rng([seed, _LANDSCAPE])
    down, across = np.mgrid[0:size, 0:size] / size
    sun = (rng.uniform(0.25, 0.75), _SKYLINE - 0.13)
    drawn = _sky(rng, down, across, sun)
    _hills(rng, drawn, down, across)
    _firs(rng, drawn, down, across)
    _lake(rng, drawn, down, across, sun[0])
    _bank(rng, drawn, down, across)
    # A lens: a little darker towards the corners, and the grain of a sensor.
    drawn *= (1.0 - 0.35 * ((down - 0.5) ** 2 + (across - 0.5) ** 2))[..., None]
    drawn += 0.008 * rng.standard_normal((size, size, 1))
    return np.clip(drawn, 0.0, 1.0)


def clip(n_frames: int, height: int, width: int, seed: int = 0) -> DrawnClip:
    """Return a clip of a still square with trees and a wall, in slowly changing light, and people who walk through it.

    Each frame's background is scene · (1 + a_t) + shade · b_t, a_t and b_t slow waves. Walkers cross from side to side
    at steady paces and cast shadows; what they cover differs from the background by at least 8 grey levels,
    so that the masks can be told from the frames.

    Parameters
    ----------
    n_frames, height, width : at least 1 frame of at least 24 × 24.

    Raises
    ------
    ConfigError : fewer frames or a smaller size.
    """
    if n_frames < 1 or min(height, width) < 24:
        raise ConfigError(f"a drawn clip needs a frame of at least 24 × 24, got {n_frames} of {height} × {width}")
    rng = np.random.default_rng([seed, _SCENE])
    scene, shade = _square(rng, height, width)
    time = np.linspace(0.0, 1.0, n_frames)[:, None, None]
    brighter = 0.06 * np.sin(2 * np.pi * (0.7 * time + rng.uniform()))
    clouded = 10.0 * np.sin(2 * np.pi * (1.1 * time + rng.uniform()))
    background = scene * (1.0 + brighter) + shade * clouded
    shown = background.copy()
    masks = np.zeros(shown.shape, dtype=bool)
    _walk(np.random.default_rng([seed, _WALKERS]), shown, masks)
    # A covered pixel that came out like what it covers is moved away from it, into the room that the range leaves.
    near = masks & (np.abs(shown - background) < 8.5)
    away = np.where(background > 127.5, -12.0, 12.0)
    shown[near] = (background + away)[near]
    return DrawnClip(np.clip(np.rint(shown), 0, 255).astype(np.uint8), background, masks)


def _noise(rng: np.random.Generator, height: int, width: int, decay: float, stretch: float = 1.0) -> Floats:
    """Return noise of mean 0 and variance 1 whose amplitude falls as frequency^−decay, (height, width).

    ``stretch`` above 1 draws its grains out sideways.
    """
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.hypot(down, stretch * across)
    # The mean is dropped, not divided by zero.
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((height, width))) * frequency**-decay
    drawn = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray(drawn / drawn.std())


def _ridge(rng: np.random.Generator, width: int, decay: float) -> Floats:
    """Return a line of mean 0 and variance 1 as a range of hills has, (width,)."""
    return _noise(rng, 1, 2 * width, decay)[0, :width]


def _between(share: Floats, first: tuple[float, ...], last: tuple[float, ...]) -> Floats:
    """Return colours that go from the first (share 0) to the last (share 1), one more axis than ``share``."""
    return np.asarray(np.array(first) + share[..., None] * (np.array(last) - np.array(first)))


def _sky(rng: np.random.Generator, down: Floats, across: Floats, sun: tuple[float, float]) -> Floats:
    size = len(down)
    drawn = _between(np.clip(down / _SKYLINE, 0, 1) ** 0.8, (0.30, 0.50, 0.78), (0.95, 0.80, 0.62))
    distance = np.hypot(across - sun[0], down - sun[1])
    drawn += np.exp(-((distance / 0.16) ** 2))[..., None] * np.array([0.30, 0.20, 0.05])
    clouds = _noise(rng, size, size, 1.6, stretch=2.5) + 0.35 * _noise(rng, size, size, 1.1, stretch=1.6)
    cover = 0.75 / (1.0 + np.exp(-3.5 * (clouds - 0.45))) * np.clip(1.3 - down / _SKYLINE, 0, 1)
    lit = _between(np.clip(0.5 + 0.3 * clouds, 0, 1), (0.62, 0.60, 0.66), (1.0, 0.96, 0.92))
    drawn = drawn * (1.0 - cover[..., None]) + lit * cover[..., None]
    drawn[distance < 0.035] = (1.0, 0.97, 0.85)
    return drawn


def _hills(rng: np.random.Generator, drawn: Floats, down: Floats, across: Floats) -> None:
    size = len(down)
    haze, near = np.array([0.78, 0.74, 0.76]), np.array([0.20, 0.30, 0.16])
    for layer, share in enumerate((0.1, 0.4, 0.7, 1.0)):
        line = _SKYLINE + 0.045 * layer + (0.034 - 0.004 * layer) * _ridge(rng, size, 1.5 + 0.1 * (layer < 2))
        inside = (down >= line) & (down < _SHORE)
        # Woods and rock: light falls from the left, so a slope is the brighter the faster it rises to the right.
        ground = _noise(rng, size, size, 1.3)
        light = np.gradient(ground, axis=1)
        light = 0.05 * ground + 0.10 * light / light.std() + 0.03 * _noise(rng, size, size, 0.4)
        colour = haze + share * (near - haze)
        fade = np.clip((down - line) / 0.2, 0, 1)[..., None]
        shown = colour * (1.0 + share * 1.6 * light[..., None]) * (1 - 0.25 * fade) + 0.06 * fade
        drawn[inside] = shown[inside]


def _firs(rng: np.random.Generator, drawn: Floats, down: Floats, across: Floats) -> None:
    size = len(down)
    rough = _noise(rng, size, size, 0.5)
    needles = np.array([0.07, 0.13, 0.08]) * (1.0 + 0.35 * rough[..., None])
    for _ in range(46):
        middle = rng.uniform(0, 1)
        # Trees stand in groups: places near the sides are likelier than the open middle.
        if rng.uniform() > 0.25 + 1.5 * abs(middle - 0.5):
            continue
        tall = rng.uniform(0.07, 0.19)
        foot = _SHORE + rng.uniform(-0.012, 0.004)
        height = (foot - down) / tall
        boughs = 0.55 + 0.45 * ((height * rng.integers(7, 12)) % 1.0)
        half_width = 0.17 * tall * np.clip(1.0 - height, 0, 1) * boughs * (1.0 + 0.2 * rough)
        inside = (height >= 0) & (height <= 1) & (np.abs(across - middle) < half_width + 0.0015)
        drawn[inside] = needles[inside] * rng.uniform(0.7, 1.4)


def _lake(rng: np.random.Generator, drawn: Floats, down: Floats, across: Floats, sun: float) -> None:
    size = len(down)
    first = min(int(np.ceil(_SHORE * size)), size - 1)
    rows = np.arange(first, size)
    depth = (rows - first) / (size - first)
    ripples = _noise(rng, size - first, size, 1.0, stretch=6.0)
    # A row mirrors the row as far above the shore; ripples shift it, the more the nearer.
    sway = (depth * 0.020 + 0.002)[:, None] * size * ripples
    source = np.clip(np.rint(2 * first - 1 - rows[:, None] + sway), 0, first - 1).astype(np.int64)
    columns = np.arange(size)
    aside = np.clip(np.rint(columns + 0.4 * sway), 0, size - 1).astype(np.int64)
    mirrored = drawn[source, aside]
    water = np.array([0.16, 0.26, 0.34])
    clear = (0.80 - 0.45 * depth)[:, None, None]
    shown = clear * mirrored + (1.0 - clear) * water * (1.0 + 0.35 * ripples[..., None])
    glitter = np.exp(-(((across[first:] - sun) / (0.03 + 0.10 * depth[:, None])) ** 2)) * np.clip(ripples - 0.3, 0, 1.6)
    drawn[first:] = shown + 0.42 * glitter[..., None] * np.array([1.0, 0.85, 0.6])


def _bank(rng: np.random.Generator, drawn: Floats, down: Floats, across: Floats) -> None:
    size = len(down)
    edge = _BANK + 0.030 * _ridge(rng, size, 1.2) + 0.10 * (across[0] - 0.5)
    inside = down >= edge
    ground = _noise(rng, size, size, 0.9)
    # Blades of grass are the same noise drawn out upwards.
    blades = _noise(rng, size, size, 0.5, stretch=5.0).T
    colour = _between(np.clip(0.5 + 0.25 * ground, 0, 1), (0.10, 0.15, 0.05), (0.34, 0.38, 0.14))
    shown = colour * (1.0 + 0.45 * blades[..., None])
    drawn[inside] = shown[inside]


def _square(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Return an empty scene in grey levels, within 30 to 200, and where passing clouds shade it, within 0 to 1."""
    down, across = np.mgrid[0:height, 0:width] / np.array([height, width])[:, None, None]
    # A wall with windows above a paved square.
    scene = 150.0 + 5.0 * _noise(rng, height, width, 1.0)
    wall = down < 0.38
    bricks = ((down * 40) % 1.0 < 0.14) | ((across * 26 + 0.5 * ((down * 40) // 1 % 2)) % 1.0 < 0.08)
    scene[wall] = (118.0 - 14.0 * bricks + 3.0 * _noise(rng, height, width, 0.6))[wall]
    for middle in (0.14, 0.38, 0.62, 0.86):
        window = (np.abs(across - middle) < 0.055) & (np.abs(down - 0.18) < 0.10)
        frame = (np.abs(across - middle) < 0.070) & (np.abs(down - 0.18) < 0.12)
        scene[frame] = 175.0
        scene[window] = (60.0 + 60.0 * (0.28 - down) / 0.2)[window]
    # Flagstones grow towards the viewer, as perspective has it: the horizon lies behind the wall.
    depth = 1.0 / (np.maximum(down, 0.3) - 0.12)
    joints = ((depth * 4) % 1.0 < 0.05 * depth) | (((across - 0.5) * depth * 5) % 1.0 < 0.025 * depth)
    scene[~wall] -= (24.0 * joints + 25.0 * (1.0 - down))[~wall]
    for middle in (0.24, 0.76):
        crown = ((across - middle) / 0.10) ** 2 + ((down - 0.26) / 0.17) ** 2 < 1.0 + 0.22 * _noise(
            rng, height, width, 0.9
        )
        trunk = (np.abs(across - middle) < 0.013) & (down > 0.26) & (down < 0.50)
        scene[trunk] = 58.0
        scene[crown] = (78.0 + 14.0 * _noise(rng, height, width, 0.5))[crown]
    shade = 0.5 + 0.5 * np.tanh(_noise(rng, height, width, 2.2))
    return np.clip(scene, 30.0, 200.0), shade


def _walk(rng: np.random.Generator, shown: FloatMatrix, masks: NDArray[np.bool_]) -> None:
    """Draw the walkers and their shadows into the frames, the far ones first, and mark them."""
    n_frames, height, width = shown.shape
    down, across = np.mgrid[0:height, 0:width].astype(np.float64)
    lanes = np.sort(rng.uniform(0.52, 0.94, _MOST_WALKERS))
    for walker, lane in enumerate(lanes):
        foot = lane * height
        tall = (0.16 + 0.26 * lane) * height
        coat, legs = rng.permutation([rng.uniform(15, 60), rng.uniform(205, 245)])
        direction = -1.0 if walker % 2 else 1.0
        pace = direction * rng.uniform(0.9, 1.6) * (width + 2 * tall) / max(n_frames, 24)
        # Where each is when the clip begins is spread over the way, so that the first frame is not empty.
        start = rng.uniform(-0.2, 1.0) if direction > 0 else rng.uniform(0.0, 1.2)
        step = rng.uniform(0, 2 * np.pi)
        for at in range(n_frames):
            middle = start * width + pace * at
            # Whoever leaves comes back from the other side, beyond the frame's edge.
            middle = (middle + tall) % (width + 2 * tall) - tall
            swing = np.sin(step + 2.2 * pace * at / (0.11 * tall))
            up, aside = (foot - down) / tall, (across - middle) / tall
            body, trousers, head = _figure(up, aside, swing)
            # The light comes from the left: the figure laid down to the right on the ground.
            shadow = np.logical_or.reduce(
                _figure((foot - down) / (-0.22 * tall), aside - 1.5 * (down - foot) / tall, 0.0)
            )
            figure = body | trousers | head
            fallen = shadow & ~figure & ~masks[at]
            shown[at][fallen] *= 0.62
            shown[at][body], shown[at][trousers], shown[at][head] = coat, legs, 0.5 * (coat + legs)
            masks[at] |= figure | shadow


def _figure(up: Floats, aside: Floats, swing: float) -> tuple[NDArray[np.bool_], ...]:
    """Return which pixels a walking person's body, legs and head cover, in heights of that person from the feet."""
    head = (aside / 0.075) ** 2 + ((up - 0.91) / 0.09) ** 2 < 1.0
    body = (aside / (0.13 - 0.03 * (up > 0.75))) ** 2 + ((up - 0.62) / 0.23) ** 2 < 1.0
    stride = 0.11 * swing * np.clip(0.45 - up, 0, 0.45) / 0.45
    leg = (up >= 0.0) & (up <= 0.45)
    legs = leg & ((np.abs(aside - stride) < 0.045) | (np.abs(aside + stride) < 0.045))
    return body & ~head, legs & ~body, head
