"""Pictures and clips in files, as numbers between 0 (black) and 1 (white), and as the matrices that are decomposed.

A picture is (height, width) where it is grey and (height, width, 3) where it has colour: red, green, blue. It counts as
grey where its three channels are the same in every pixel, however the file keeps it. A clip is frames of one size, with
one more axis in front.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.types import FloatMatrix

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Endings of picture files."""
VIDEOS = (".avi", ".mp4", ".mov", ".mkv", ".webm")
"""Endings of videos, which need the extra ``video``."""
CLIPS = (".npz", *VIDEOS)
"""Endings of files that hold a clip; a folder of pictures is one as well."""

_WRITTEN_FRAME = re.compile(r"frame-\d{4,}\.png\Z")
# Faults of a broken picture or archive, as Pillow, NumPy and zipfile raise them.
_BROKEN_PICTURE = (
    OSError,
    SyntaxError,
    ValueError,
    KeyError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_BROKEN_ARCHIVE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class Footprint(NamedTuple):
    """How much a matrix takes as it is, and as factors: in numbers and in bytes."""

    numbers: int
    kept_numbers: int
    bytes: int
    kept_bytes: int


def read_picture(path: str | Path) -> NDArray[np.float64]:
    """Return a picture, (height, width) or (height, width, 3), within [0, 1].

    8-bit levels are divided by 255, 16-bit grey ones by 65,535 (Pillow reads 16-bit colour as 8). A palette becomes its
    colours. Transparency is dropped: the stored colours count, as if nothing were transparent. A picture that says how
    it was held is turned upright. Of several pictures in one file the first is read.

    Raises
    ------
    DataRefusedError : the file is missing, broken or no picture; or its levels have no known white.
    """
    return _simplest(_stored_pixels(Path(path)), 2)


def write_picture(path: str | Path, pixels: FloatMatrix) -> None:
    """Write a picture within [0, 1] as an 8-bit PNG; values beyond are black or white.

    Raises
    ------
    ConfigError : the shape is no picture's. NumericalError : a value is NaN or infinite.
    """
    Path(path).write_bytes(png(pixels))


def png(pixels: FloatMatrix) -> bytes:
    """Return what `write_picture` writes."""
    target = io.BytesIO()
    Image.fromarray(eight_bits(pixels)).save(target, format="PNG")
    return target.getvalue()


def eight_bits(pixels: FloatMatrix) -> NDArray[np.uint8]:
    """Return a picture's values within [0, 1] as the nearest of 256 levels; values beyond are black or white.

    Raises
    ------
    ConfigError : not (height, width) or (height, width, 3), or no pixels. NumericalError : NaN or infinite values.
    """
    pixels = np.asarray(pixels)
    if not pixels.size or not _is_picture(pixels.shape):
        raise ConfigError(f"a picture is (height, width) or (height, width, 3), got {pixels.shape}")
    if not np.isfinite(pixels).all():
        raise NumericalError("a picture has values that are not finite: there is no shade for them")
    return np.rint(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)


def read_clip(path: str | Path) -> NDArray[np.float32]:
    """Return the frames of a clip, (n_frames, height, width) or (n_frames, height, width, 3), float32 within [0, 1].

    Parameters
    ----------
    path : a folder of pictures, in the natural order of their names (frame-9 before frame-10; hidden files, folders
        and files without a picture's ending are passed over); an .npz with the array ``frames``, or with one array only
        (whole numbers of 8 or 16 bits, logical values, or floats within [0, 1]); or a video, by PyAV.

    Raises
    ------
    DataRefusedError : no frames, a broken file, or frames of different sizes; names the first that differs.
    ConfigError : a video without PyAV, or a path that is none of these.
    """
    path = Path(path)
    if path.is_dir():
        return _simplest(_folder_frames(path), 3)
    if path.suffix.lower() == ".npz":
        return _simplest(_archived_frames(path), 3)
    if path.suffix.lower() in VIDEOS:
        return _video_frames(path)
    raise ConfigError(f"{path} is no clip: give a folder of pictures, or a file that ends in {', '.join(CLIPS)}")


def write_clip(path: str | Path, frames: FloatMatrix) -> None:
    """Write frames within [0, 1] in 8 bits: as the array ``frames`` of an .npz where the path ends so, else as a folder
    of pictures frame-0001.png and so on. Frames that an earlier, longer clip left in that folder are removed.

    Raises
    ------
    ConfigError : no frames, or not frames. NumericalError : a value is NaN or infinite.
    """
    path = Path(path)
    if frames.ndim not in (3, 4) or not len(frames):
        raise ConfigError(f"a clip is (n_frames, height, width) or (n_frames, height, width, 3), got {frames.shape}")
    if path.suffix.lower() == ".npz":
        levels = np.stack([eight_bits(frame) for frame in frames])
        with path.open("wb") as target:
            np.savez_compressed(target, frames=levels)
        return
    path.mkdir(parents=True, exist_ok=True)
    names = [f"frame-{number:04d}.png" for number in range(1, len(frames) + 1)]
    for name, frame in zip(names, frames, strict=True):
        write_picture(path / name, frame)
    for file in path.iterdir():
        if _WRITTEN_FRAME.match(file.name) and file.name not in set(names):
            file.unlink()


def picture_matrix(pixels: FloatMatrix) -> FloatMatrix:
    """Return a picture as the matrix to decompose: grey as it is, colour (height, 3 · width).

    Red, green and blue lie side by side, so that one set of row factors serves all three.
    """
    if pixels.ndim == 2:
        return pixels
    return np.concatenate([pixels[:, :, channel] for channel in range(pixels.shape[2])], axis=1)


def matrix_picture(matrix: FloatMatrix, shape: Sequence[int]) -> FloatMatrix:
    """Return the picture of that shape that a matrix stands for, cut off at 0 and 1: undoes `picture_matrix`.

    Raises
    ------
    ConfigError : the matrix has not that many numbers.
    """
    if not _is_picture(shape) or matrix.shape != (shape[0], int(np.prod(shape[1:]))):
        raise ConfigError(f"a matrix {matrix.shape} is no picture {tuple(shape)}")
    within = np.clip(matrix, 0.0, 1.0)
    return within if len(shape) == 2 else np.stack(np.split(within, shape[2], axis=1), axis=2)


def clip_matrix(frames: FloatMatrix) -> FloatMatrix:
    """Return a clip as the matrix to decompose, (pixels, n_frames), rows contiguous: a pixel's course is a row, and
    what stands still has rank 1. The three values of a colour are pixels of their own."""
    return np.ascontiguousarray(frames.reshape(len(frames), -1).T)


def matrix_clip(matrix: FloatMatrix, shape: Sequence[int]) -> FloatMatrix:
    """Return the frames of that shape that a matrix (pixels, n_frames) stands for, cut off at 0 and 1: undoes
    `clip_matrix`.

    Raises
    ------
    ConfigError : the matrix has not that many rows.
    """
    if not _is_picture(shape) or matrix.ndim != 2 or len(matrix) != int(np.prod(shape)):
        raise ConfigError(f"a matrix {matrix.shape} is no clip of frames {tuple(shape)}")
    return np.clip(np.ascontiguousarray(matrix.T).reshape(-1, *shape), 0.0, 1.0)


def footprint(shape: tuple[int, int], rank: int, cell_bytes: int = 1, factor_bytes: int = 4) -> Footprint:
    """Return how much a matrix (m, n) takes, m · n numbers, and its factors of a rank, r (m + n + 1).

    Parameters
    ----------
    cell_bytes : of a number of the matrix: 1 in a picture of 8 bits.
    factor_bytes : of a number of the factors: 4 in a factor table.
    """
    numbers, kept = shape[0] * shape[1], rank * (shape[0] + shape[1] + 1)
    return Footprint(numbers, kept, numbers * cell_bytes, kept * factor_bytes)


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key under which numbers in a name count as numbers: frame-9 before frame-10."""
    parts = re.split(r"([0-9]+)", name)
    # Text and numbers alternate, so that like is compared with like; names that read the same go by their characters.
    return [(int(part), "") if at % 2 else (0, part) for at, part in enumerate(parts)], name


def _is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)


def _simplest(pixels: Any, axes: int) -> Any:
    """Return pixels without their channels where all are grey; ``axes`` is how many axes there are without channels."""
    if pixels.ndim == axes:
        return pixels
    red = pixels[..., 0]
    if np.array_equal(red, pixels[..., 1]) and np.array_equal(red, pixels[..., 2]):
        return np.ascontiguousarray(red)
    return pixels


def _stored_pixels(path: Path) -> NDArray[np.float64]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures long before it refuses them.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
                levels, white = _levels(upright)
    except _BROKEN_PICTURE as error:
        raise DataRefusedError(f"the picture {path} cannot be read ({_reason(error)}); write it again") from error
    if not levels.size or not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > white:
        raise DataRefusedError(
            f"the picture {path} has no pixels, or some beyond the range of 0 to {white:g} that its kind "
            f"({upright.mode}) stands for; save it with 8 or 16 bits a channel"
        )
    return np.asarray(levels / white, dtype=np.float64)


def _levels(image: Image.Image) -> tuple[NDArray[Any], float]:
    """Return a picture's levels as stored, and that of white."""
    if image.mode in ("L", "1", "LA"):
        return np.asarray(image.convert("L")), 255.0
    if image.mode == "I" or image.mode.startswith("I;16"):
        # 32-bit integers are what 16-bit levels are read into by some readers of files.
        return np.asarray(image), 65535.0
    if image.mode == "F":
        return np.asarray(image), 1.0
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "RGBX"):
        return np.asarray(image)[:, :, :3], 255.0
    return np.asarray(image.convert("RGB")), 255.0


def _folder_frames(folder: Path) -> NDArray[np.float32]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURES and not file.name.startswith(".")]
    files = sorted((file for file in files if file.is_file()), key=lambda file: natural_order(file.name))
    if not files:
        raise DataRefusedError(f"the folder {folder} has no frames: no file that ends in {', '.join(PICTURES)}")
    frames = np.empty(0, dtype=np.float32)
    for number, file in enumerate(files):
        pixels = _stored_pixels(file)
        if number == 0:
            frames = np.empty((len(files), *pixels.shape), dtype=np.float32)
        elif pixels.shape[:2] != frames.shape[1:3]:
            raise _another_size(f"the frame {file}", pixels.shape, f"the first, {files[0].name},", frames.shape[1:])
        elif pixels.ndim > frames.ndim - 1:
            # Frames before were grey, as files keep some frames of a colour clip.
            frames = np.repeat(frames[..., None], 3, axis=-1)
        frames[number] = pixels if pixels.ndim == frames.ndim - 1 else pixels[..., None]
    return frames


def _archived_frames(path: Path) -> NDArray[np.float32]:
    try:
        # Opened here, since np.load forgets to close what it cannot read.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is an array, no archive of arrays")
            names = list(archive.files)
            if "frames" not in names and len(names) != 1:
                raise DataRefusedError(
                    f"{path} holds {', '.join(names) or '(none)'}: a clip is the array `frames` or the only one"
                )
            stored = archive["frames" if "frames" in names else names[0]]
    except _BROKEN_ARCHIVE as error:
        raise DataRefusedError(f"the clip {path} is no readable .npz ({_reason(error)}); write it again") from error
    if stored.ndim not in (3, 4) or not _is_picture(stored.shape[1:]) or not stored.size:
        raise DataRefusedError(
            f"the frames in {path} have the shape {stored.shape}: a clip is (n_frames, height, width) or "
            "(n_frames, height, width, 3), with at least one frame"
        )
    white = {"uint8": 255.0, "uint16": 65535.0, "bool": 1.0}.get(stored.dtype.name)
    if white is None:
        # NaN is neither at least 0 nor at most 1.
        if stored.dtype.kind != "f" or not (stored.min() >= 0 and stored.max() <= 1):
            raise DataRefusedError(
                f"the frames in {path} ({stored.dtype}) are neither unsigned numbers of 8 or 16 bits nor all within "
                "0 (black) to 1 (white): it cannot be told what white is"
            )
        white = 1.0
    return np.divide(stored, np.float32(white), dtype=np.float32, casting="same_kind")


def _video_frames(path: Path) -> NDArray[np.float32]:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"{path} is a video, which needs PyAV: pip install 'factorlake[video]', or give the clip as a folder of "
            "pictures or as an .npz with the array `frames`"
        ) from error
    frames: list[NDArray[Any]] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataRefusedError(f"{path} has no pictures, only sound or text")
            for frame in container.decode(container.streams.video[0]):
                frames.append(frame.to_ndarray(format="rgb24"))
    except (av.FFmpegError, OSError, ValueError) as error:
        raise DataRefusedError(
            f"the video {path} cannot be read after {len(frames)} frames ({_reason(error)}); write it again"
        ) from error
    if not frames:
        raise DataRefusedError(f"the video {path} has no frames")
    for number, pixels in enumerate(frames, start=1):
        if pixels.shape != frames[0].shape:
            raise _another_size(f"frame {number} of {path}", pixels.shape, "the first", frames[0].shape)
    levels = _simplest(np.stack(frames), 3)
    return np.divide(levels, np.float32(255), dtype=np.float32)


def _another_size(what: str, shape: Sequence[int], first: str, first_shape: Sequence[int]) -> DataRefusedError:
    return DataRefusedError(
        f"{what} is {shape[1]} × {shape[0]} pixels, {first} {first_shape[1]} × {first_shape[0]}: "
        "the frames of a clip have one size"
    )


def _reason(error: BaseException) -> str:
    """Return an error's own words on one line; its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
