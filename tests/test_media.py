"""Pictures and clips come back as they were written, and what cannot be read is refused by name."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from factorlake.errors import ConfigError, DataRefusedError, NumericalError
from factorlake.media import (
    clip_matrix,
    footprint,
    matrix_clip,
    matrix_picture,
    natural_order,
    picture_matrix,
    png,
    read_clip,
    read_picture,
    write_clip,
    write_picture,
)


def levels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def written_png(path: Path, rows: NDArray[np.generic], kind: int, bits: int) -> None:
    """Write a PNG by the letter of its standard (W3C PNG, third edition): a second opinion beside Pillow's."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], bits, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in rows)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("shape", [(256, 3), (1, 1), (7, 5, 3), (1, 256, 3)])
def test_a_picture_of_8_bits_comes_back_exactly(tmp_path: Path, shape: tuple[int, ...]) -> None:
    wanted = np.resize(np.arange(256, dtype=np.uint8), shape) if shape[0] == 256 else levels(*shape)
    write_picture(tmp_path / "a.png", wanted / 255)
    found = read_picture(str(tmp_path / "a.png"))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, wanted / 255)
    write_picture(tmp_path / "b.png", found.astype(np.float32))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_values_beyond_black_and_white_are_cut_off_and_others_rounded(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.array([[-0.5, 0.4 / 255, 0.6 / 255, 1.7]]))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png") * 255, [[0, 0, 1, 255]])


def test_a_png_is_written_whatever_the_name(tmp_path: Path) -> None:
    write_picture(tmp_path / "approximation", np.zeros((2, 2)))
    assert (tmp_path / "approximation").read_bytes() == png(np.zeros((2, 2)))
    assert png(np.zeros((2, 2))).startswith(b"\x89PNG")


def test_sixteen_bits_of_grey_are_kept(tmp_path: Path) -> None:
    wanted = np.array([[0, 1, 256], [65535, 40000, 255]], dtype=np.uint16)
    written_png(tmp_path / "a.png", wanted, kind=0, bits=16)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), wanted / 65535)


def test_a_png_by_the_letter_is_read_as_its_channels(tmp_path: Path) -> None:
    wanted = levels(4, 5, 3)
    written_png(tmp_path / "a.png", wanted, kind=2, bits=8)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), wanted / 255)


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_transparency_is_dropped_and_the_stored_colours_stay(tmp_path: Path, mode: str, channels: int) -> None:
    stored = levels(5, 6, channels + 1)
    stored[0, :, -1] = 0
    Image.frombytes(mode, (6, 5), stored.tobytes()).save(tmp_path / "a.png")
    wanted = stored[:, :, :-1] if channels == 3 else stored[:, :, 0]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), wanted / 255)


@pytest.mark.parametrize("transparent", [None, 1])
def test_a_palette_becomes_its_colours(tmp_path: Path, transparent: int | None) -> None:
    places = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    colours = np.array([[10, 20, 30], [200, 100, 0], [255, 255, 255]], dtype=np.uint8)
    image = Image.fromarray(places, mode="P")
    image.putpalette(colours.tobytes())
    if transparent is not None:
        image.info["transparency"] = transparent
    image.save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
        assert stored.info.get("transparency") == transparent
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), colours[places] / 255)


def test_a_palette_of_greys_is_grey_and_so_is_colour_without_colour(tmp_path: Path) -> None:
    grey = levels(3, 4)
    image = Image.fromarray(grey, mode="P")
    image.putpalette(bytes(np.repeat(np.arange(256, dtype=np.uint8), 3)))
    image.save(tmp_path / "a.gif")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "b.png")
    for name in ("a.gif", "b.png"):
        np.testing.assert_array_equal(read_picture(tmp_path / name), grey / 255)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False, True]])).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), [[1.0, 0.0, 1.0]])


def test_a_picture_held_sideways_is_turned_upright(tmp_path: Path) -> None:
    stored = levels(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: the first row is the right side.
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.rot90(stored, -1) / 255)


def test_floats_within_black_and_white_are_kept_and_others_refused(tmp_path: Path) -> None:
    inside = np.array([[0.0, 0.25], [1.0, 0.123]], dtype=np.float32)
    Image.fromarray(inside).save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tiff"), inside)
    for wrong in (1.5, -0.1, np.nan):
        Image.fromarray(np.full((2, 2), wrong, dtype=np.float32)).save(tmp_path / "b.tiff")
        with pytest.raises(DataRefusedError, match=r"b\.tiff .* beyond the range of 0 to 1"):
            read_picture(tmp_path / "b.tiff")


def test_a_picture_that_is_missing_cut_short_or_none_is_refused_by_name(tmp_path: Path) -> None:
    whole = png(levels(40, 40) / 255)
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (tmp_path / "flipped.png").write_bytes(flipped)
    for name in ("short.png", "empty.png", "text.png", "flipped.png", "missing.png"):
        with pytest.raises(DataRefusedError, match=name):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 4), (2, 2, 3, 1), (0, 4)])
def test_what_is_no_picture_is_not_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="a picture is"):
        write_picture(tmp_path / "a.png", np.zeros(shape))
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_picture_that_is_not_finite_is_not_written(tmp_path: Path, wrong: float) -> None:
    with pytest.raises(NumericalError, match="not finite"):
        write_picture(tmp_path / "a.png", np.array([[0.5, wrong]]))


def test_names_sort_as_people_count() -> None:
    names = ["frame-10.png", "frame-9.png", "frame-009b.png", "10.png", "a.png", "2.png", "frame-9.jpg", "frame.png"]
    wanted = ["2.png", "10.png", "a.png", "frame-9.jpg", "frame-9.png", "frame-009b.png", "frame-10.png", "frame.png"]
    assert sorted(names, key=natural_order) == wanted


@pytest.mark.parametrize("shape", [(11, 4, 5), (11, 4, 5, 3), (1, 1, 1)])
@pytest.mark.parametrize("name", ["frames", "frames.npz"])
def test_a_clip_of_8_bits_comes_back_exactly(tmp_path: Path, shape: tuple[int, ...], name: str) -> None:
    wanted = levels(*shape)
    write_clip(str(tmp_path / name), wanted / 255)
    found = read_clip(str(tmp_path / name))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (wanted / 255).astype(np.float32))
    write_clip(tmp_path / f"again-{name}", found)
    np.testing.assert_array_equal(read_clip(tmp_path / f"again-{name}"), found)


def test_frames_are_named_by_number_and_those_of_a_longer_clip_are_removed(tmp_path: Path) -> None:
    write_clip(tmp_path, levels(3, 2, 2) / 255)
    (tmp_path / "frame-notes.txt").write_text("kept")
    write_clip(tmp_path, levels(2, 2, 2, seed=1) / 255)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["frame-0001.png", "frame-0002.png", "frame-notes.txt"]
    np.testing.assert_array_equal(np.rint(read_clip(tmp_path) * 255), levels(2, 2, 2, seed=1))


def test_a_folder_is_read_in_natural_order_and_only_its_pictures(tmp_path: Path) -> None:
    for number in (1, 2, 9, 10, 100):
        write_picture(tmp_path / f"shot{number}.png", np.full((2, 3), number / 255))
    (tmp_path / ".hidden.png").write_text("not a picture")
    (tmp_path / "Thumbs.db").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    np.testing.assert_array_equal(np.rint(read_clip(tmp_path)[:, 0, 0] * 255), [1, 2, 9, 10, 100])


def test_grey_frames_among_coloured_ones_keep_their_place(tmp_path: Path) -> None:
    frames = levels(4, 3, 2, 3)
    frames[[0, 2]] = frames[[0, 2], :, :, :1]
    for number, frame in enumerate(frames):
        Image.fromarray(frame[:, :, 0] if number in (0, 2) else frame).save(tmp_path / f"{number}.png")
    np.testing.assert_array_equal(np.rint(read_clip(tmp_path) * 255), frames)


def test_the_first_frame_of_another_size_is_named(tmp_path: Path) -> None:
    for number, shape in enumerate([(4, 6), (4, 6), (4, 5), (3, 3)]):
        write_picture(tmp_path / f"frame-{number}.png", np.zeros(shape))
    with pytest.raises(DataRefusedError, match=r"frame-2\.png is 5 × 4 pixels, the first, frame-0\.png, 6 × 4"):
        read_clip(tmp_path)


def test_a_broken_frame_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path, levels(3, 8, 8) / 255)
    broken = tmp_path / "frame-0002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataRefusedError, match=r"frame-0002\.png cannot be read"):
        read_clip(tmp_path)


def test_an_empty_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataRefusedError, match=f"{tmp_path.name} has no frames"):
        read_clip(tmp_path)


@pytest.mark.parametrize(
    ("stored", "wanted"),
    [
        (np.array([0, 51, 255], dtype=np.uint8), [0.0, 0.2, 1.0]),
        (np.array([0, 13107, 65535], dtype=np.uint16), [0.0, 0.2, 1.0]),
        (np.array([False, True, True]), [0.0, 1.0, 1.0]),
        (np.array([0.0, 0.2, 1.0]), [0.0, 0.2, 1.0]),
        (np.array([0.0, 0.25, 1.0], dtype=np.float16), [0.0, 0.25, 1.0]),
    ],
)
def test_every_kind_of_number_has_its_white(tmp_path: Path, stored: np.ndarray, wanted: list[float]) -> None:
    np.savez(tmp_path / "a.npz", frames=stored.reshape(3, 1, 1), other=np.zeros(1))
    np.testing.assert_array_equal(read_clip(tmp_path / "a.npz").ravel(), np.array(wanted, dtype=np.float32))


def test_the_only_array_of_an_archive_is_the_clip_whatever_its_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", levels(2, 3, 4))
    np.testing.assert_array_equal(np.rint(read_clip(tmp_path / "a.npz") * 255), levels(2, 3, 4))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"left": np.zeros((1, 2, 2)), "right": np.zeros((1, 2, 2))}, "holds left, right: a clip is"),
        ({}, r"holds \(none\)"),
        ({"frames": np.zeros((0, 4, 4), dtype=np.uint8)}, r"\(0, 4, 4\).* at least one frame"),
        ({"frames": np.zeros((4, 4), dtype=np.uint8)}, r"have the shape \(4, 4\)"),
        ({"frames": np.zeros((2, 4, 4, 2), dtype=np.uint8)}, r"have the shape \(2, 4, 4, 2\)"),
        ({"frames": np.zeros((2, 4, 4), dtype=np.int64)}, "cannot be told what white is"),
        ({"frames": np.full((2, 4, 4), 255.0)}, "cannot be told what white is"),
        ({"frames": np.full((2, 4, 4), np.nan)}, "cannot be told what white is"),
        ({"frames": np.array([None, "a"], dtype=object)}, "no readable"),
    ],
)
def test_an_archive_that_is_no_clip_is_refused_by_name(
    tmp_path: Path, arrays: dict[str, np.ndarray], said: str
) -> None:
    np.savez(tmp_path / "clip.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataRefusedError, match=rf"clip\.npz.*{said}"):
        read_clip(tmp_path / "clip.npz")


def test_a_broken_archive_is_refused_by_name(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "whole.npz", frames=levels(5, 20, 20))
    whole = (tmp_path / "whole.npz").read_bytes()
    np.save(tmp_path / "array.npy", levels(5, 20, 20))
    (tmp_path / "short.npz").write_bytes(whole[:500])
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "array.npz").write_bytes((tmp_path / "array.npy").read_bytes())
    flipped = bytearray(whole)
    flipped[900] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("short.npz", "empty.npz", "array.npz", "flipped.npz", "missing.npz"):
        with pytest.raises(DataRefusedError, match=name):
            read_clip(tmp_path / name)


def test_a_path_that_is_no_clip_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"notes\.txt is no clip: give a folder of pictures"):
        read_clip(tmp_path / "notes.txt")


def test_no_frames_are_not_written(tmp_path: Path) -> None:
    for shape in [(0, 2, 2), (2, 2), (2, 2, 2, 2)]:
        with pytest.raises(ConfigError, match=r"is \(.*height, width"):
            write_clip(tmp_path / "frames", np.zeros(shape))
    with pytest.raises(NumericalError, match="not finite"):
        write_clip(tmp_path / "frames.npz", np.full((1, 2, 2), np.nan))
    assert not (tmp_path / "frames.npz").exists()


@pytest.mark.parametrize(("folder", "video"), [("video-escalator", "escalator.avi"), ("video-shop", "shop.avi")])
def test_a_video_is_the_frames_kept_beside_it(data_dir: Path, folder: str, video: str) -> None:
    found = read_clip(data_dir / folder / video)
    kept = read_clip(data_dir / folder / "frames.npz")
    assert found.dtype == kept.dtype
    np.testing.assert_array_equal(found, kept)


def small_video(path: Path, frames: NDArray[np.uint8], codec: str = "ffv1", pixels: str = "bgr0") -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), mode="w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        for frame in frames:
            kind = "rgb24" if frame.ndim == 3 else "gray"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=kind)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("name", ["a.avi", "a.MKV"])
def test_a_video_without_loss_comes_back_exactly_in_colour_and_grey(tmp_path: Path, name: str) -> None:
    colour, grey = levels(5, 32, 48, 3), levels(4, 32, 48)
    for frames, pixels in ((colour, "bgr0"), (grey, "gray")):
        small_video(tmp_path / name, frames, pixels=pixels)
        np.testing.assert_array_equal(np.rint(read_clip(tmp_path / name) * 255), frames)


def test_a_video_that_is_broken_or_has_no_frames_is_refused_by_name(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    (tmp_path / "text.avi").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.avi"), mode="w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    for name in ("text.avi", "empty.mp4", "sound.avi", "missing.avi"):
        with pytest.raises(DataRefusedError, match=name):
            read_clip(tmp_path / name)


def test_without_pyav_a_video_names_the_extra_and_the_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"factorlake\[video\].*folder of pictures.*\.npz"):
        read_clip(tmp_path / "a.mp4")


def test_a_grey_picture_is_its_own_matrix_and_colours_lie_side_by_side() -> None:
    grey = levels(4, 5) / 255
    np.testing.assert_array_equal(picture_matrix(grey), grey)
    colour = levels(4, 5, 3) / 255
    matrix = picture_matrix(colour)
    assert matrix.shape == (4, 15)
    for row, column, channel in ((0, 0, 0), (3, 4, 2), (1, 2, 1)):
        assert matrix[row, channel * 5 + column] == colour[row, column, channel]


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (1, 1), (1, 1, 3)])
def test_a_matrix_goes_back_to_its_picture(shape: tuple[int, ...]) -> None:
    pixels = levels(*shape) / 255
    np.testing.assert_array_equal(matrix_picture(picture_matrix(pixels), shape), pixels)


def test_a_matrix_beyond_black_and_white_is_cut_off() -> None:
    np.testing.assert_array_equal(matrix_picture(np.array([[-1.0, 0.5, 2.0]]), (1, 3)), [[0.0, 0.5, 1.0]])
    np.testing.assert_array_equal(matrix_clip(np.array([[-1.0, 0.5, 2.0]]), (1, 1)).ravel(), [0.0, 0.5, 1.0])


@pytest.mark.parametrize("shape", [(7, 4, 5), (7, 4, 5, 3), (1, 2, 2)])
def test_a_clip_is_pixels_by_frames_and_goes_back(shape: tuple[int, ...]) -> None:
    frames = (levels(*shape) / 255).astype(np.float32)
    matrix = clip_matrix(frames)
    assert matrix.shape == (np.prod(shape[1:]), shape[0])
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix[:, -1], frames[-1].ravel())
    np.testing.assert_array_equal(matrix_clip(matrix, shape[1:]), frames)


def test_a_matrix_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="no picture"):
        matrix_picture(np.zeros((4, 5)), (4, 6))
    with pytest.raises(ConfigError, match="no clip of frames"):
        matrix_clip(np.zeros((19, 2)), (4, 5))


def test_the_footprint_of_a_picture_at_rank_50_and_10() -> None:
    assert footprint((512, 512), 50) == (262_144, 51_250, 262_144, 205_000)
    assert footprint((512, 512), 10).kept_numbers == 10_250
    assert footprint((512, 3 * 512), 50, cell_bytes=1, factor_bytes=8).kept_bytes == 8 * 50 * (512 + 1536 + 1)
    assert footprint((5, 4), 0) == (20, 0, 20, 0)
