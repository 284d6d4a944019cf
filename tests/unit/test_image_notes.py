"""What is left out of a source, and what a model does not expect of photos, is told."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_files import ONE_PATCH, noise, save
from jaxrecon.errors import InputError
from jaxrecon.images import ImageBatch, PixelTransform, check_source, load_images
from jaxrecon.images.copies import copies_found
from jaxrecon.images.frames import reading_frames
from jaxrecon.images.kinds import kind_of
from jaxrecon.images.sampling import Sampling
from jaxrecon.models import MAPANYTHING_RESIZE, PI3_RESIZE, VGGT_RESIZE
from kept_notes import KeptNotes


def told(source: Any, rule: Any = ONE_PATCH, **options: Any) -> tuple[ImageBatch, str]:
    """The images, and all notes."""
    stages = KeptNotes()
    batch = load_images(source, rule=rule, stages=stages, **options)
    return batch, "\n".join(stages.notes)


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (28, 14), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(noise(size[1], size[0], seed), path, **options)


# The order of files.


@pytest.mark.parametrize(
    "names",
    [
        ("1.jpg", "10.jpg", "2.jpg"),  # as they are sorted by bytes
        ("f_10.jpg", "f_1.jpg", "f_2.jpg"),  # and by the letters and digits alone
    ],
)
def test_files_in_the_order_of_a_shell_s_pattern(names: tuple[str, ...], tmp_path: Path) -> None:
    files = [photo(tmp_path / name, seed) for seed, name in enumerate(names)]
    batch, notes = told(files)
    assert batch.names == names
    assert "images are taken in the order given, " in notes
    assert told([str(file) for file in files])[1] == notes
    assert not told(tmp_path)[1]
    assert not told(f"{tmp_path}/*")[1]


@pytest.mark.parametrize(
    "names",
    [
        ("1.jpg", "2.jpg", "10.jpg"),
        ("c.jpg", "a.jpg", "b.jpg"),
        ("2.jpg", "10.jpg", "1.jpg"),  # as the user wants it
        ("B.jpg", "a.jpg", "c.jpg"),
        ("001.jpg", "002.jpg", "010.jpg"),
    ],
)
def test_files_in_another_order(names: tuple[str, ...], tmp_path: Path) -> None:
    files = [photo(tmp_path / name, seed) for seed, name in enumerate(names)]
    assert not told(files)[1]


# Files that are left out.


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [("JPE", "JPEG"), ("jfif", "JPEG"), ("mpo", "MPO"), ("Pnm", "PPM"), ("tiff", "TIFF")],
)
def test_other_suffixes_of_known_formats(suffix: str, kind: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / f"b.{suffix}", seed=1, format=kind)
    batch, notes = told(tmp_path)
    assert batch.names == ("a.jpg", f"b.{suffix}")
    assert not notes


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("b.gif", "GIF"),
        ("b.jp2", "JPEG2000"),
        ("b.jpg_original", "JPEG"),
        ("b", "PNG"),
        ("b.bak", "WEBP"),
        ("b.dib", "BMP"),
        ("b.nef", "TIFF"),
    ],
)
def test_pictures_with_unknown_suffixes_are_counted(name: str, kind: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / name, format=kind)
    for source in (tmp_path, f"{tmp_path}/*"):
        batch, notes = told(source)
        assert batch.names == ("a.jpg",)
        assert "NOTE: " in notes
        assert "1 picture of another suffix is left out" in notes
        assert name in notes


def test_what_is_no_picture_is_not_told(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    for name in ("Thumbs.db", "README.txt", "a.xmp", "desktop.ini"):
        (tmp_path / name).write_text("GOOD: no picture, and no sync byte of a video either\n" * 20)
    for hidden in (".DS_Store", "._a.jpg", ".cache.gif"):
        (tmp_path / hidden).write_bytes(b"GIF89a")
    os.mkfifo(tmp_path / "pipe.mov")
    (tmp_path / "gone.dat").symlink_to(tmp_path / "nothing")
    assert told(tmp_path)[1] == ""


def test_videos_beside_photos_are_counted(tmp_path: Path) -> None:
    photo(tmp_path / "IMG_1.jpg")
    (tmp_path / "IMG_1.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(8))
    (tmp_path / "second.dat").write_bytes(b"\x1aE\xdf\xa3" + bytes(60))
    notes = told(tmp_path)[1]
    assert "2 videos are left out (.mov: 1, .dat: 1; IMG_1.MOV, second.dat)" in notes


def test_a_folder_of_one_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x14ftypisom" + bytes(8))
    with pytest.raises(InputError, match=r"no images in .*1 video is left out \(.*clip\.mp4\)"):
        check_source(tmp_path)


def test_images_in_sub_folders_are_told(tmp_path: Path) -> None:
    photo(tmp_path / "top" / "a.jpg")
    for number in range(4):
        photo(tmp_path / "top" / "day1" / f"{number}.jpg")
    photo(tmp_path / "top" / "day2" / "deep" / "5.jpg")
    batch, notes = told(tmp_path / "top")
    assert batch.names == ("a.jpg",)
    assert "sub-folders are left out (day1: 4, day2: 1)" in notes
    pattern = notes.split('"')[1]
    assert pattern == f"{tmp_path}/top/**/*.jpg"
    assert len(told(pattern)[0].names) == 6


@pytest.mark.parametrize("other", ["masks", "depth_maps", ".hidden", "__MACOSX", "normals"])
def test_folders_of_what_is_no_photo_are_not_told(other: str, tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / other / "a.png")
    assert told(tmp_path)[1] == ""


def test_a_folder_with_images_in_sub_folders_alone(tmp_path: Path) -> None:
    photo(tmp_path / "scene [1]" / "photos" / "a.png")
    with pytest.raises(InputError) as caught:
        check_source(tmp_path / "scene [1]")
    assert str(caught.value).endswith(f'to take them give "{tmp_path}/scene [1]/photos"')
    photo(tmp_path / "scene [1]" / "more" / "b.jpg")
    with pytest.raises(InputError) as caught:
        check_source(tmp_path / "scene [1]")
    pattern = str(caught.value).rsplit('"', 2)[1]
    assert set(told(pattern)[0].names) == {"a.png", "b.jpg"}


def test_a_data_set_s_photos_are_those_in_its_images(tmp_path: Path) -> None:
    photo(tmp_path / "scene" / "images" / "a.png")
    photo(tmp_path / "scene" / "images_2" / "a.png")
    (tmp_path / "scene" / "transforms.json").write_text("{}")
    batch, notes = told(tmp_path / "scene")
    assert batch.names == ("a.png",)
    assert f"{tmp_path}/scene: its photos are those in images/" in notes
    photo(tmp_path / "scene" / "b.png")
    batch, notes = told(tmp_path / "scene")
    assert batch.names == ("b.png",)
    assert "sub-folders are left out" in notes


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(12), "picture"),
        (b"\0\0\0\x18ftypavif" + bytes(12), "picture"),
        (b"\0\0\0\x18ftypcrx " + bytes(12), "picture"),
        (b"\0\0\0\x18ftyp3gp5" + bytes(12), "video"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "video"),
        (b"RIFF\0\0\0\0AVI LIST", "video"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"\0\0\x01\xba" + bytes(20), "video"),
        ((b"G" + bytes(187)) * 4, "video"),
        ((bytes(4) + b"G" + bytes(187)) * 4, "video"),
        (b"FLV\x01" + bytes(9), "video"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), None),
        (b"", None),
    ],
)
def test_kinds_of_files(start: bytes, expected: str | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(start)
    assert kind_of(tmp_path / "file") == expected


# Photos that are not as a model expects them.


def exif(**tags: Any) -> Image.Exif:
    found = Image.Exif()
    found.get_ifd(0x8769)[0xA434] = tags["lens"]
    return found


def projection(name: str, element: bool = False) -> bytes:
    body = (
        f"<GPano:ProjectionType>{name}</GPano:ProjectionType>"
        if element
        else f"<rdf:Description GPano:ProjectionType = '{name}'/>"
    )
    return f"<x:xmpmeta>{body}</x:xmpmeta>".encode()


ODD: dict[str, tuple[str, dict[str, Any], str]] = {
    "equirectangular": ("jpg", {"xmp": projection("equirectangular")}, "projection"),
    "in_an_element": ("webp", {"xmp": projection("cylindrical", True)}, "cylindrical"),
    "fisheye": ("jpg", {"exif": exif(lens="AF DX Fish-Eye 10.5mm")}, "fisheye lens"),
    "jpeg_density": ("jpg", {"dpi": (300, 150)}, "300 by 150"),
    "png_density": ("png", {"dpi": (150, 300)}, "not square"),
    "tiff_density": ("tif", {"dpi": (204, 98)}, "not square"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_metadata_tell(case: str, tmp_path: Path) -> None:
    suffix, options, message = ODD[case]
    photo(tmp_path / "a.png", seed=1)
    photo(tmp_path / f"b.{suffix}", **options)
    notes = told(tmp_path)[1]
    assert f"in 1 of 2 views (b.{suffix}" in notes
    assert message in notes


def test_a_pixel_aspect_of_no_unit(tmp_path: Path) -> None:
    data = photo(tmp_path / "a.png").read_bytes()
    chunk = b"pHYs" + struct.pack(">IIB", 1, 2, 0)
    aspect = struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(data[:33] + aspect + data[33:])  # behind the header
    assert "not square in 1 of 1 views (a.png: 1 by 2" in told(tmp_path)[1]


def test_what_is_nothing_special_is_not_told(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", dpi=(72, 72), exif=exif(lens="24-70mm"))
    photo(tmp_path / "b.jpg", xmp=projection("perspective"))
    photo(tmp_path / "c.png", dpi=(96, 96))
    Image.fromarray(np.full((14, 28, 4), 255, np.uint8)).save(tmp_path / "d.png")
    assert told(tmp_path)[1] == ""


def test_the_shape_of_a_panorama() -> None:
    wide = Image.fromarray(noise(16, 32)).resize((2048, 1024))
    assert "shape of a panorama in 1 of 2 views (view_0001: 2048x1024)" in told([wide, wide])[
        1
    ] or ("shape of a panorama in 2 of 2 views" in told([wide, wide])[1])
    strip = Image.fromarray(noise(16, 64)).resize((4000, 900))
    assert "4000x900" in told(strip)[1]
    assert "panorama" not in told(wide.resize((2000, 1000)))[1]
    tall = Image.fromarray(noise(64, 16)).resize((900, 4000))
    assert "shape of a panorama in 1 of 1 views (view_0000: 900x4000)" in told(tall)[1]
    assert "panorama" not in told(wide.resize((1024, 2048)))[1]


@pytest.mark.parametrize("size", [(1, 1), (20, 15), (28, 21)])
def test_photos_that_are_enlarged_much_are_told(size: tuple[int, int]) -> None:
    images = [noise(84, 112), noise(size[1], size[0])]
    notes = told(images, PI3_RESIZE.unstretched(), resolution=112)[1]
    assert "far fewer pixels than the model looks at in 1 of 2 views (view_0001: " in notes
    assert f"{size[0]}x{size[1]}, enlarged {min(112 / size[0], 84 / size[1]):.0f} times" in notes


def test_photos_that_are_enlarged_a_little_are_not_told() -> None:
    assert told(noise(24, 32), PI3_RESIZE, resolution=112)[1] == ""


def test_copies_of_photos_are_told(tmp_path: Path) -> None:
    a, b, c, d = (photo(tmp_path / f"{name}.png", seed) for seed, name in enumerate("abcd"))
    c.write_bytes(a.read_bytes())
    (tmp_path / "e.jpg").symlink_to(a)
    notes = told(tmp_path)[1]
    copies = "the same file as another photo in 2 of 5 views (c.png: as a.png, e.jpg: as a.png)"
    assert copies in notes and notes.count("NOTE") == 1
    assert told([b, d])[1] == ""


def test_copies_in_a_sequence_of_any_length_are_told(tmp_path: Path) -> None:
    data = photo(tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data)
    options: dict[str, Any] = {"rule": ONE_PATCH, "resolution": None, "sampling": Sampling()}
    with reading_frames(tmp_path, **options) as frames:
        assert len(frames.take(3)) == 2
        (note,) = frames.notes()
    assert "in 1 of 2 views (b.png: as a.png)" in note


@pytest.mark.parametrize("place", [0, 50_000, 99_999])
def test_files_of_one_length_that_differ_in_a_byte_are_no_copies(
    place: int, tmp_path: Path
) -> None:
    names = ("a", "b", "c", "gone", "array")
    files = [str(tmp_path / name) for name in names[:4]]
    content = bytearray(100_000)
    for file in files[:2]:
        Path(file).write_bytes(content)
    content[place] = 1
    Path(files[2]).write_bytes(content)
    assert list(copies_found(names, [*files, None])) == [1]


def rgba(pixels: np.ndarray, alpha: int) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGBA")
    image.putalpha(alpha)
    return image


def test_transparent_pixels_are_told_where_alpha_is_dropped(tmp_path: Path) -> None:
    clear, opaque = rgba(noise(14, 28), 100), rgba(noise(14, 28), 255)
    assert "transparent pixels in 1 of 2 views (view_0000)" in told([clear, opaque])[1]
    assert told([clear, opaque], VGGT_RESIZE, resolution=28)[1] == ""
    palette = Image.fromarray(noise(14, 28)).quantize(8)
    palette.save(tmp_path / "p.png", transparency=0)
    assert "transparent pixels" in told(tmp_path / "p.png")[1]
    palette.save(tmp_path / "p.png")
    assert told(tmp_path / "p.png")[1] == ""


@pytest.mark.parametrize("mode", ["L", "I;16", "1", "LA"])
def test_grey_among_colour(mode: str) -> None:
    grey = (
        Image.fromarray(noise(14, 28)[..., 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(noise(14, 28)).convert(mode)
    )
    colour = Image.fromarray(noise(14, 28, 1))
    notes = told([colour, grey, colour])[1]
    assert "shades of grey, the others being in colour, in 1 of 3 views (view_0001" in notes
    assert told([grey, grey])[1] == ""


def deep(bits: int) -> np.ndarray:
    """Grey values of so many bits."""
    values = np.random.default_rng(0).integers(0, 2**bits, (14, 28)).astype(np.uint16)
    values[3, 5] = 2**bits - 1
    return values


DIM: dict[str, Callable[[Path], Path | np.ndarray]] = {
    "ten_bits_png": lambda folder: save(deep(10), folder / "a.png"),
    "twelve_bits_tiff": lambda folder: save(deep(12), folder / "a.tif"),
    "floats": lambda folder: noise(14, 28) / np.float32(255 * 16),
    "eight_bits": lambda folder: noise(14, 28) // 8,
    "float_tiff": lambda folder: save(deep(10).astype(np.float32) / 65535, folder / "a.tif"),
}


@pytest.mark.parametrize("case", DIM)
def test_pictures_with_nearly_no_light(case: str, tmp_path: Path) -> None:
    notes = told([DIM[case](tmp_path), noise(14, 28)])[1]
    assert "nearly no light in 1 of 2 views (" in notes
    assert "of 255" in notes


def test_sixteen_bits_that_are_used_are_not_told(tmp_path: Path) -> None:
    assert told(save(deep(16), tmp_path / "a.png"))[1] == ""


def test_white_margins_bring_no_light() -> None:
    dim = noise(28, 14) // 8
    notes = told([noise(14, 28), dim], VGGT_RESIZE.with_padding(), resolution=28)[1]
    assert "nearly no light in 1 of 2 views (view_0001" in notes


# Photos of several shapes.


def test_a_photo_that_is_stretched_is_told() -> None:
    notes = told([noise(84, 112), noise(112, 84)], PI3_RESIZE, resolution=112)[1]
    assert "in 1 of 2 views (view_0001: 84x112, stretched by 1.78 along x)" in notes


def test_no_photo_is_stretched_that_can_have_margins() -> None:
    rule = PI3_RESIZE.unstretched()
    images = [noise(84, 112), noise(112, 84), noise(28, 112), noise(42, 56)]
    batch, notes = told(images, rule, resolution=112)
    assert "in 2 of 4 views (view_0001: 84x112, with margins around it, view_0002" in notes
    for transform in batch.transforms:
        assert transform.scale[0] == pytest.approx(transform.scale[1], rel=0.01)
    upright, strip = batch.transforms[1:3]
    assert upright.shown == (24, 0, 87, 84)
    assert strip.shown == (0, 28, 112, 56)
    grey = batch.pixels[2, :28]
    assert (grey == grey[0, 0]).all()
    np.testing.assert_array_equal(batch.pixels[2, 28:56], images[2])


def test_photos_of_one_shape_are_upstreams_whatever_the_rule() -> None:
    images = [noise(75, 100), noise(150, 200, 1), noise(76, 100, 2)]  # one row more
    batch, notes = told(images, PI3_RESIZE.unstretched(), resolution=112)
    plain = load_images(images, rule=PI3_RESIZE, resolution=112)
    np.testing.assert_array_equal(batch.pixels, plain.pixels)
    assert batch.transforms == plain.transforms
    assert notes == ""


def test_photos_that_are_cropped_to_the_others_are_told() -> None:
    images = [noise(112, 84), noise(84, 112), noise(84, 112)]
    notes = told(images, MAPANYTHING_RESIZE, resolution=112)[1]
    assert "(view_0000: 84x112, 34% cut off, view_0001: 112x84, 14% cut off" in notes
    assert told(images[1:], MAPANYTHING_RESIZE, resolution=112)[1] == ""
    assert "with margins around it" in told(images, VGGT_RESIZE, resolution=112)[1]


def test_what_is_shown_lies_within_the_picture() -> None:
    inside = PixelTransform.inside((30, 60), (40, 40))
    assert (inside.size, inside.shown) == ((40, 40), (10, 0, 30, 40))
    cut = PixelTransform((100, 50), (40, 40), (0.8, 0.8), (-20.0, 0.0))
    assert cut.shown == (0, 0, 40, 40)
