"""Pixel formats and videos: what is decoded, and that it stands upright."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import jaxrecon.images
from image_files import TWO_BY_TWO, load_one, noise, save, write_tiff, write_video
from jaxrecon.errors import InputError
from jaxrecon.formats.photo_files import write_upright
from jaxrecon.images import ImageBatch, PixelTransform, load_images
from jaxrecon.images.decode import from_file
from jaxrecon.models import PI3_RESIZE, ResizeRule
from jaxrecon.progress import Stages


def stored_as(orientation: int, upright: np.ndarray) -> np.ndarray:
    """How each orientation stores the upright picture (EXIF 2.3, tag 274)."""
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    return np.ascontiguousarray(stored[orientation])


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_orientation(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = noise(3, 2)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    save(stored_as(orientation, upright), path, exif=exif_of(orientation), **options)
    rule = ResizeRule(patch=1, pixel_limit=6)
    for source in (path, Image.open(path)):
        batch = load_images(source, rule=rule)
        np.testing.assert_array_equal(batch.pixels[0], upright)
        assert batch.transforms[0].original_size == (2, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "avif", "heic"])
def test_orientation_in_lossy_formats(orientation: int, suffix: str, tmp_path: Path) -> None:
    """AVIF and HEIC store a turn of their own, which must be applied once and not twice."""
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    quadrants = np.array([[[200, 0, 0], [0, 180, 0]], [[0, 0, 200], [0, 0, 0]]], np.uint8)
    upright = quadrants.repeat(32, axis=0).repeat(16, axis=1)
    path, exif = tmp_path / f"a.{suffix}", exif_of(orientation)
    save(stored_as(orientation, upright), path, exif=exif, quality=100, subsampling="4:4:4")
    pixels = load_one(path, ResizeRule(patch=1, pixel_limit=64 * 32))
    assert pixels.shape == (64, 32, 3)
    assert np.abs(pixels.astype(int) - upright).max() <= 3  # lossy codecs


def test_sixteen_bit_grey_is_turned_too(tmp_path: Path) -> None:
    grey = np.array([[1, 2, 3], [40, 50, 60]], np.uint16)
    path = save(stored_as(6, grey * 257), tmp_path / "a.png", exif=exif_of(6))
    pixels = load_one(path, ResizeRule(patch=1, pixel_limit=6))
    np.testing.assert_array_equal(pixels[..., 0], grey)


def test_damaged_exif_does_not_cost_the_picture() -> None:
    image = Image.fromarray(noise(2, 2))
    image.info["exif"] = b"Exif\x00\x00no TIFF header"
    np.testing.assert_array_equal(load_one(image, TWO_BY_TWO), noise(2, 2))


SIXTEEN = np.array([[0, 257 * 3 + 129], [257 * 199 + 128, 65535]], np.uint16)
EIGHT = np.array([[0, 4], [199, 255]], np.uint8)


def sixteen_bit_images(folder: Path) -> dict[str, Any]:
    """16-bit greyscale in each way that Pillow holds it."""
    raw = {"I;16": SIXTEEN.astype("<u2"), "I;16B": SIXTEEN.astype(">u2")}
    images: dict[str, Any] = {
        mode: Image.frombytes(mode, (2, 2), data.tobytes()) for mode, data in raw.items()
    }
    images["I"] = Image.fromarray(SIXTEEN.astype(np.int32))
    images["PNG"] = save(SIXTEEN, folder / "a.png")
    images["TIFF"] = save(SIXTEEN, folder / "a.tif")
    return images


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I", "PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind: str, tmp_path: Path) -> None:
    pixels = load_one(sixteen_bit_images(tmp_path)[kind], TWO_BY_TWO)
    np.testing.assert_array_equal(pixels, np.repeat(EIGHT[..., None], 3, axis=-1))


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("values", "tags"),
    [
        (255 - EIGHT, {"bits": 8}),
        (65535 - SIXTEEN, {"bits": 16}),
        (1 - EIGHT.astype("<f4") / 255, {"bits": 32, "sample_format": 3}),
    ],
    ids=["8 bits", "16 bits", "float"],
)
def test_a_tiff_in_which_zero_is_white(
    values: np.ndarray, tags: dict[str, int], orientation: int, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", values.tobytes(), (2, 2), photometric=0, **tags)
    np.testing.assert_array_equal(load_one(path, TWO_BY_TWO)[..., 0], EIGHT)
    with Image.open(path) as image:
        image.getexif()[0x0112] = orientation
        upright = EIGHT if orientation == 1 else np.rot90(EIGHT, -1)
        np.testing.assert_array_equal(load_one(image, TWO_BY_TWO)[..., 0], upright)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize(("kind", "most"), [("u1", 255), ("<u2", 65535), ("<f4", 1.0)])
def test_upright_copies_look_as_the_photo_does(
    kind: str, most: float, photometric: int, tmp_path: Path
) -> None:
    values = (np.random.default_rng(0).random((6, 9)) * most).astype(kind)
    tags = {"bits": 8 * values.itemsize, "sample_format": 3 if kind == "<f4" else 1}
    photo, copy = tmp_path / "a.tif", tmp_path / "b.tif"
    write_tiff(photo, values.tobytes(), (9, 6), photometric=photometric, orientation=6, **tags)
    write_upright(photo, copy)
    with Image.open(copy) as image:
        assert image.size == (6, 9) and image.getexif().get(0x0112, 1) == 1
    np.testing.assert_array_equal(np.asarray(from_file(copy)), np.asarray(from_file(photo)))


def test_wide_colours_one_behind_the_other(tmp_path: Path) -> None:
    """Pillow mixes up planes of 16 bits; those of 8 it reads."""
    colours = noise(2, 2)
    tags: dict[str, Any] = {"photometric": 2, "samples": 3, "planar": 2}
    planes = colours.transpose(2, 0, 1)
    path = write_tiff(tmp_path / "a.tif", planes.tobytes(), (2, 2), bits=(8, 8, 8), **tags)
    np.testing.assert_array_equal(load_one(path, TWO_BY_TWO), colours)
    wide = (planes.astype("<u2") * 257).tobytes()
    path = write_tiff(tmp_path / "b.tif", wide, (2, 2), bits=(16, 16, 16), **tags)
    with pytest.raises(InputError, match=r"b.tif: its colours are stored one behind the other"):
        load_one(path, TWO_BY_TWO)
    mixed = (colours.astype("<u2") * 257).tobytes()
    path = write_tiff(tmp_path / "c.tif", mixed, (2, 2), bits=(16, 16, 16), **tags | {"planar": 1})
    np.testing.assert_array_equal(load_one(path, TWO_BY_TWO), colours)


def test_alpha_is_dropped_not_composited(tmp_path: Path) -> None:
    colours = noise(2, 2)
    alpha = np.array([[0, 10], [100, 255]], np.uint8)[..., None]
    path = save(np.concatenate([colours, alpha], axis=-1), tmp_path / "a.png")
    np.testing.assert_array_equal(load_one(path, TWO_BY_TWO), colours)
    grey_alpha = Image.merge("LA", [Image.fromarray(EIGHT), Image.fromarray(alpha[..., 0])])
    np.testing.assert_array_equal(load_one(grey_alpha, TWO_BY_TWO)[..., 0], EIGHT)


def test_grey_palette_one_bit_and_float() -> None:
    grey = np.repeat(EIGHT[..., None], 3, axis=-1)
    np.testing.assert_array_equal(load_one(Image.fromarray(EIGHT), TWO_BY_TWO), grey)
    floats = Image.fromarray(EIGHT.astype(np.float32) / 255)
    np.testing.assert_array_equal(load_one(floats, TWO_BY_TWO), grey)
    bits = Image.fromarray(np.array([[True, False], [False, True]]))
    assert bits.mode == "1"
    expected = [[255, 0], [0, 255]]
    np.testing.assert_array_equal(load_one(bits, TWO_BY_TWO)[..., 2], expected)
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    palette.putpalette([9, 8, 7, 6, 5, 4])
    expected = [[[9, 8, 7], [6, 5, 4]], [[6, 5, 4], [9, 8, 7]]]
    np.testing.assert_array_equal(load_one(palette, TWO_BY_TWO), expected)


def test_palette_with_transparency_keeps_its_colours_without_warning(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    palette.putpalette([9, 8, 7, 6, 5, 4])
    palette.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert load_one(tmp_path / "a.png", TWO_BY_TWO)[0].tolist() == [[9, 8, 7], [6, 5, 4]]


def test_cmyk_and_premultiplied_alpha(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (2, 2), (255, 0, 0, 0))
    cmyk.save(tmp_path / "a.tif")
    assert load_one(tmp_path / "a.tif", TWO_BY_TWO)[0, 0].tolist() == [0, 255, 255]
    premultiplied = Image.new("RGBA", (2, 2), (200, 100, 50, 128)).convert("RGBa")
    assert load_one(premultiplied, TWO_BY_TWO)[0, 0].tolist() == [199, 99, 49]  # 100 / 128 * 255


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    flat = np.full((28, 42, 3), (200, 100, 50), np.uint8)
    heif.from_pillow(Image.fromarray(flat)).save(tmp_path / "a.HEIC", quality=100)
    batch = load_images(tmp_path, rule=PI3_RESIZE, resolution=42)
    assert batch.pixels.shape == (1, 28, 42, 3)
    assert np.abs(batch.pixels.astype(int) - (200, 100, 50)).max() <= 3  # lossy codec


# Videos.


def grey_levels(batch: ImageBatch) -> list[int]:
    """The grey of each frame's bottom-right corner, rounded to the 30 levels of the test video."""
    corner = batch.pixels[:, -8:-2, -8:-2].astype(np.float64).mean(axis=(1, 2, 3))
    assert np.abs(corner - 30 * np.rint(corner / 30)).max() < 4  # lossy codec
    return np.rint(corner / 30).astype(int).tolist()


@pytest.mark.parametrize(
    ("stride", "frames"), [(1, [0, 1, 2, 3, 4, 5, 6]), (3, [0, 3, 6]), (9, [0])]
)
def test_video_by_stride(
    stride: int, frames: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_video(tmp_path / "a.MP4")
    batch = load_images(path, rule=PI3_RESIZE, resolution=56, stride=stride, stages=Stages())
    assert f"read ({len(frames)})" in capsys.readouterr().err
    assert batch.names == tuple(f"frame_{number:06d}" for number in frames)
    assert grey_levels(batch) == frames
    assert batch.pixels.shape[1:] == (42, 56, 3)
    assert batch.transforms == (PixelTransform((64, 48), (56, 42), (0.875, 0.875)),) * len(frames)


def test_video_whose_frame_count_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxrecon.images, "_CAPACITY_WHEN_UNKNOWN", 2)
    av = pytest.importorskip("av")
    path = write_video(tmp_path / "a.mkv")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    batch = load_images(path, rule=PI3_RESIZE, resolution=56)
    assert grey_levels(batch) == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("shown", "upright", "red_corner"),
    [
        ((0, 1, -1, 0), False, "top right"),  # a quarter turn clockwise
        ((-1, 0, 0, -1), True, "bottom right"),
        ((0, -1, 1, 0), False, "bottom left"),
        ((-1, 0, 0, 1), True, "top right"),  # mirrored, as some phones' front cameras
        ((1, 0, 0, -1), True, "bottom left"),
        ((0, 1, 1, 0), False, "top left"),
        ((0, -1, -1, 0), False, "bottom right"),
    ],
)
def test_videos_are_turned_and_mirrored_as_players_show_them(
    shown: tuple[int, ...], upright: bool, red_corner: str, tmp_path: Path
) -> None:
    """By the matrix (a b, c d) of ISO 14496-12: a pixel (p, q) is shown at (ap + cq, bp + dq)."""
    path = write_video(tmp_path / "a.mp4", frames=4)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # of a track header of version 0
    one, last = 1 << 16, 1 << 30
    whole = struct.unpack_from(">9i", content, matrix)
    assert whole == (one, 0, 0, 0, one, 0, 0, 0, last)
    a, b, c, d = (one * entry for entry in shown)
    struct.pack_into(">9i", content, matrix, a, b, 0, c, d, 0, 0, 0, last)
    path.write_bytes(content)
    batch = load_images(path, rule=PI3_RESIZE, resolution=56)
    assert batch.pixels.shape == (4, *((42, 56) if upright else (56, 42)), 3)
    assert batch.transforms[0].original_size == ((64, 48) if upright else (48, 64))
    corners = {
        name: batch.pixels[3, row, column].astype(int) @ (1, -1, 0)
        for name, row, column in (
            *(("top left", 5, 5), ("top right", 5, -5)),
            *(("bottom left", -5, 5), ("bottom right", -5, -5)),
        )
    }
    assert [name for name, red in corners.items() if red > 150] == [red_corner]
