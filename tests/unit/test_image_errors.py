"""Images that cannot be used: one line each that says what is wrong and what to do."""

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from image_files import ONE_PATCH, noise, save, write_video
from jaxrecon import InputError
from jaxrecon.images import load_images


def fails(source: Any, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_images(source, rule=options.pop("rule", ONE_PATCH), **options)
    assert "\n" not in str(caught.value)


def test_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    fails(tmp_path, rf"no images in the folder {tmp_path}; looked for files ending in \.jpg \.jpeg")


def test_missing_paths(tmp_path: Path) -> None:
    fails(tmp_path / "none", r"none does not exist; check the path")
    fails(tmp_path / "none.mp4", r"none\.mp4 does not exist; check the path")
    fails([save(noise(14, 14), tmp_path / "a.png"), tmp_path / "b.png"], r"b\.png does not exist")
    fails(tmp_path / "a.png" / "b.png", r"b\.png does not exist")
    fails("", "the path is empty")
    fails(["a.png", ""], r"a\.png does not exist")
    fails(str(tmp_path / "*.jpg"), r"no images in .*\*\.jpg; looked for")


def test_broken_link_in_a_folder_is_not_left_out(tmp_path: Path) -> None:
    save(noise(14, 14), tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    told = r"b\.png is a link to .*gone\.png, where there is nothing; mend the link, or remove it"
    for source in (tmp_path, tmp_path / "b.png", [tmp_path / "b.png"], f"{tmp_path}/*.png"):
        fails(source, told)


def test_links_that_lead_back_to_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    fails(tmp_path, r"a\.png is a link to b\.png, which leads back to itself; mend the link")
    (tmp_path / "photos [1]").symlink_to("photos [1]")
    fails(tmp_path / "photos [1]", r"photos \[1\] is a link to .*, which leads back to itself")


def test_name_too_long(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 300 + ".png")
    fails(long, r"aaa\.png.* check the path")
    fails([long], r"aaa\.png.* check the path")


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    fails(tmp_path, r"cannot read the folder .*: Permission denied")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*path: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = save(noise(14, 14), tmp_path / "a.png")
    monkeypatch.setattr(os, "open", refuse)
    fails(path, r"cannot read .*a\.png: Permission denied; check the path and its permissions")


def test_damaged_image_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    fails(tmp_path / "text.png", r"text\.png: it is not an image of a known kind")
    (tmp_path / "empty.png").touch()
    fails(tmp_path / "empty.png", r"empty\.png: the file is empty")
    for suffix in ("jpg", "png", "tif", "webp"):
        path = save(noise(64, 64), tmp_path / f"cut.{suffix}")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        fails(path, rf"cannot read .*cut\.{suffix}: ")


def test_a_damaged_image_among_many_is_named(tmp_path: Path) -> None:
    for number in range(20):
        save(noise(14, 14), tmp_path / f"{number}.png")
    (tmp_path / "13.png").write_text("no image")
    fails(tmp_path, r"13\.png: it is not an image")


def test_oversized_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow warns above its limit (89 megapixels; phones take 108), raises above twice of it."""
    path = save(noise(14, 14), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings(record=True) as told:
        assert load_images(path, rule=ONE_PATCH).pixels.shape[:3] == (1, 14, 14)
    assert not told
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 97)
    fails(path, r"a\.png: it has more than 194 pixels, twice PIL\.Image\.MAX_IMAGE_PIXELS; shrink")


def test_warning_filters_are_put_back(tmp_path: Path) -> None:
    before = list(warnings.filters)
    (tmp_path / "a.png").write_text("no image")
    fails(tmp_path, "not an image")
    assert warnings.filters == before


def test_images_without_pixels() -> None:
    fails(Image.new("RGB", (0, 5)), "view_0000 is 0x5 pixels")
    fails(
        np.zeros((0, 14, 14, 3), np.uint8), r"images: the array of shape \(0, 14, 14, 3\) is empty"
    )
    fails(np.zeros((2, 0, 14, 3), np.uint8), r"\(2, 0, 14, 3\) is empty")
    fails([noise(14, 14), np.zeros((14, 0, 3), np.uint8)], r"view_0001: .*\(14, 0, 3\) is empty")
    fails([], "the list is empty")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "view_0001 has pixels that are NaN or infinite"),
        (np.inf, "view_0001 has pixels that are NaN or infinite"),
        (-np.inf, "view_0001 has pixels that are NaN or infinite"),
        (1.0000001, r"view_0001 has float pixels from 0\.0 to 1\.0000001, not in .* clip"),
        (200.0, r"view_0001 has float pixels from 0\.0 to 200\.0, not in \[0, 1\]; divide by 255"),
        (-0.5, r"view_0001 has float pixels from -0\.5 to 0\.0, not in \[0, 1\]"),
    ],
)
def test_float_values(value: float, message: str) -> None:
    array = np.zeros((2, 14, 14, 3), np.float32)
    array[1, 3, 4, 0] = value
    fails(array, message)


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((14, 14), r"np\.stack\(\[images\] \* 3, axis=-1\)"),
        ((5, 14, 14), r"np\.stack\(\[images\] \* 3, axis=-1\)"),
        ((2, 14, 14, 1), r"np\.repeat\(images, 3, axis=-1\)"),
        ((14, 14, 1), r"np\.repeat\(images, 3, axis=-1\)"),
        ((2, 1, 14, 14), r"np\.repeat\(images, 3, axis=1\)"),
        ((2, 5, 14, 14), "channels last"),
        ((2, 14, 14, 5), "channels last"),
        ((), "channels last"),
        ((1,) * 5, "channels last"),
        ((1, 2, 14, 14, 3), r"one scene at a time, such as images\[0\]$"),
        ((1, 2, 3, 14, 14), r"one scene at a time, such as images\[0\]$"),
        ((1, 1, 2, 14, 14, 3), r"one scene at a time, such as images\[0\]\[0\]$"),
    ],
)
def test_array_shapes(shape: tuple[int, ...], advice: str) -> None:
    array = np.zeros(shape, np.uint8)
    fails(array, rf"images: expected an array of shape \(V, H, W, 3\), got .*{advice}")


@pytest.mark.parametrize("dtype", [str, object])
def test_arrays_of_paths(dtype: Any) -> None:
    fails(np.array(["a.jpg", "b.jpg"], dtype), r"got \(2,\); if these are paths.* images.tolist")


def test_masked_arrays() -> None:
    """What is masked would be taken for pixels."""
    masked = np.ma.masked_array(np.zeros((2, 14, 14, 3), np.uint8), True)
    fails(
        masked,
        r"images: found a masked array.* give images\.data.* and what is not masked as masks",
    )
    fails([noise(14, 14), masked[0]], "view_0001: found a masked array")


def test_three_pictures_in_grey_are_not_taken_for_channels() -> None:
    array = np.zeros((3, 14, 14), np.uint8)
    fails(array, r"got \(3, 14, 14\); for one image with channels first give images\[None\]")


def test_array_shape_in_a_list() -> None:
    stack = np.zeros((2, 14, 14, 3), np.uint8)
    fails(
        [stack[0], stack],
        r"view_0001: expected an array of shape \(H, W, 3\), got \(2, 14,.*one by one",
    )


@pytest.mark.parametrize("dtype", ["int32", "uint16", "bool", "complex64", "bfloat16"])
def test_array_dtypes(dtype: str) -> None:
    array = jnp.zeros((2, 14, 14, 3), dtype)
    whole = jnp.issubdtype(dtype, jnp.integer)
    way = r"or divide by the highest.*\(65535 for 16 bits\)" if whole else "convert the array"
    message = f"expected uint8, or float16.* got {dtype}; .*{way}"
    fails(array, f"images: {message}")
    fails([noise(14, 14), np.asarray(array[0])], f"view_0001: {message}")


def test_integer_and_float_images_out_of_range() -> None:
    large = Image.fromarray(np.full((14, 14), 70000, np.int32))
    fails(large, "view_0000 has integer pixels from 70000 to 70000; scale them to 16 bits")
    bright = Image.fromarray(np.full((14, 14), 255, np.float32))
    fails(bright, "view_0000 has float pixels from 255.0 to 255.0.*divide by 255")


def test_pillow_image_of_a_damaged_file(tmp_path: Path) -> None:
    path = save(noise(64, 64), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:5000])
    with Image.open(path) as image:
        fails([noise(14, 14), image], "cannot read view_0001: the image is damaged or cut short")


def test_videos_and_folders_in_a_list(tmp_path: Path) -> None:
    fails([tmp_path], "is a folder; in a list give files")
    fails([tmp_path / "a.mp4"], r"a\.mp4 is a video; in a list give images")


def test_files_that_are_no_video(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_text("no video")
    fails(tmp_path / "a.mp4", r"cannot read .*a\.mp4: the video is damaged or no video \(")
    (tmp_path / "b.mp4").touch()
    fails(tmp_path / "b.mp4", r"cannot read .*b\.mp4: the video is damaged or no video \(")


@pytest.mark.parametrize(
    ("flags", "message"),
    [("0", r"the video is damaged or no video \("), ("faststart", "the video is cut short")],
    ids=["index last", "index first"],
)
def test_video_cut_short(flags: str, message: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", size=(320, 240), movflags=flags)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 5000])
    fails(path, rf"cannot read .*a\.mp4: {message}")


def test_video_damaged_half_way(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(content)
    fails(path, r"cannot read .*a\.mp4: the video is damaged or no video \(")


def test_video_without_frames(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", frames=0)
    fails(tmp_path / "a.avi", r"cannot read .*a\.avi: it has no frames; give a longer video")


def test_sound_is_no_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    fails(tmp_path / "a.mp4", r"a\.mp4: no video stream found")


def test_stride_and_resolution_are_checked_first(tmp_path: Path) -> None:
    fails(tmp_path / "none", "stride=0 takes no image; give at least 1", stride=0)
    fails(
        tmp_path / "none", "resolution=13 is less than one patch; give at least 14", resolution=13
    )


def test_no_memory() -> None:
    message = "resolution=28000000: an image of 28000000x28000000 pixels is more than .* lower one"
    fails(noise(14, 14), message, resolution=28_000_000)
    many = np.broadcast_to(noise(14, 14), (2**12, 14, 14, 3))
    message = "resolution=7000: not enough memory for 4096 images of 7000x7000 pixels; give a low"
    fails(many, message, resolution=7000)


def test_unknown_kinds(without_shape_checks: None) -> None:
    fails(5, "images: cannot read images from int; give a folder")
    fails([noise(14, 14), 5], "view_0001: cannot read images from int; give a folder")
    fails({"a": 1}, "images: cannot read images from dict")
    several = "; of several, a list of them$"
    fails(iter([noise(14, 14)]), f"images: cannot read images from list_iterator.*{several}")
    fails((path for path in ["a"]), f"images: cannot read images from generator.*{several}")
    fails({"a.jpg"}, f"images: cannot read images from set.*{several}")
    fails(io.BytesIO(), "images: cannot read images from BytesIO.* or arrays$")
    fails(None, "images: cannot read images from NoneType")


def test_heic_without_the_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"never read")
    fails(
        tmp_path,
        r"cannot read .*a\.heic: HEIC images need pillow-heif; pip install jaxrecon\[heic\]",
    )
