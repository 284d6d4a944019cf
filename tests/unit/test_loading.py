"""Images that are read while other work goes on."""

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxrecon.images
from image_files import ONE_PATCH, noise, save, write_video
from jaxrecon import InputError
from jaxrecon.images import ImageRule, loading_images, resizing
from jaxrecon.images.pictures import pillow_warnings_handled, upright_size
from jaxrecon.models import MAPANYTHING_RESIZE, PI3_RESIZE, VGGT_RESIZE, ResizeRule, SideRule

RULES: dict[str, ImageRule] = {
    "pi3": ResizeRule(pixel_limit=6000),
    "vggt": SideRule(side=56),
    "vggt, padded": SideRule(side=56, pad=True),
    "mapanything": MAPANYTHING_RESIZE,
}
SIZES = ((60, 84), (84, 60), (70, 140))


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_files_tell_beforehand_what_they_become(rule: ImageRule, tmp_path: Path) -> None:
    for number, (height, width) in enumerate(SIZES):
        save(noise(height, width), tmp_path / f"{number}.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save(noise(60, 84), tmp_path / "3.jpg", exif=exif)
    with loading_images(tmp_path, rule=rule, resolution=56) as loading:
        foreseen = loading._foreseen
        assert foreseen is not None
        assert foreseen[3].original_size == (60, 84)
        assert loading.batch().transforms == foreseen == loading.transforms()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tif", "png", "jpg"])
def test_sizes_are_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(noise(14, 28), tmp_path / f"a.{kind}", exif=exif)
    upright = (14, 28) if orientation >= 5 else (28, 14)
    with Image.open(path) as image:
        assert upright_size(image) == upright
        image.load()
        assert upright_size(image) == upright


def test_a_video_is_awaited(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=3)
    with loading_images(path, rule=PI3_RESIZE, resolution=56) as loading:
        assert loading._foreseen is None
        assert loading.transforms() == loading.batch().transforms
        assert len(loading.transforms()) == 3


@pytest.mark.parametrize("broken", ["no image", "cut short"])
def test_what_is_wrong_with_a_file_is_told_by_its_name(broken: str, tmp_path: Path) -> None:
    save(noise(28, 28), tmp_path / "0.png")
    whole = save(noise(28, 28), tmp_path / "1.png").read_bytes()
    text = b"not an image" if broken == "no image" else whole[: len(whole) // 2]
    (tmp_path / "1.png").write_bytes(text)
    told = pytest.raises(InputError, match=r"cannot read .*1\.png")
    with loading_images(tmp_path, rule=ONE_PATCH) as loading, told:
        loading.batch()


def test_an_image_without_pixels_is_told_by_its_name() -> None:
    images = [Image.new("RGB", (14, 14)), Image.new("RGB", (0, 14))]
    told = pytest.raises(InputError, match="view_0001 is 0x14 pixels")
    with loading_images(images, rule=ONE_PATCH) as loading, told:
        loading.transforms()


def test_a_file_that_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(noise(28, 28), tmp_path / "0.png")
    foresee = jaxrecon.images.foreseen

    def then_change(*args: Any) -> Any:
        found = foresee(*args)
        save(noise(28, 56), path)
        return found

    monkeypatch.setattr(jaxrecon.images, "foreseen", then_change)
    told = pytest.raises(InputError, match="changed its size")
    with loading_images(path, rule=VGGT_RESIZE, resolution=28) as loading, told:
        loading.batch()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """No image is resized before it opens."""
    opened, resize = threading.Event(), resizing._resize

    def wait(*args: Any) -> Any:
        assert opened.wait(30)
        return resize(*args)

    monkeypatch.setattr(resizing, "_resize", wait)
    yield opened
    opened.set()


def test_the_caller_works_meanwhile(gate: threading.Event) -> None:
    pixels = np.stack([noise(14, 14, seed) for seed in range(40)])
    with loading_images(pixels, rule=ONE_PATCH) as loading:
        assert len(loading.transforms()) == 40
        assert not loading._read.done()
        gate.set()
        np.testing.assert_array_equal(loading.batch().pixels, pixels)


def test_reading_ends_when_nobody_wants_it(gate: threading.Event) -> None:
    count = 1000
    pixels = np.broadcast_to(noise(14, 14), (count, 14, 14, 3))
    with pytest.raises(KeyboardInterrupt), loading_images(pixels, rule=ONE_PATCH) as loading:
        threading.Timer(0.2, gate.set).start()
        raise KeyboardInterrupt
    assert len(loading._read.result().names) < count


def test_warnings_are_as_before_whoever_ends_last() -> None:
    before = list(warnings.filters)
    first, second = pillow_warnings_handled(), pillow_warnings_handled()
    first.__enter__()
    inside = list(warnings.filters)
    assert inside != before
    with second:
        first.__exit__(None, None, None)
        assert warnings.filters == inside
    assert warnings.filters == before
