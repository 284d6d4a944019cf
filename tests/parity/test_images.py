"""Sources of images, the resize rule of π³ against upstream's numbers, and the pixel transform."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxrecon.images
from golden_data import Golden
from golden_images import assert_pi3_pixels, assert_pi3_sizes
from image_files import ONE_PATCH, load_one, noise, save
from jaxrecon import InputError
from jaxrecon.images import PixelTransform, load_images, resizing
from jaxrecon.images.listing import natural_key
from jaxrecon.models import PI3_RESIZE, ResizeRule
from jaxrecon.progress import Stages

# The rule, against upstream.


@pytest.mark.golden_of("preprocess", "pi3")
def test_sizes_are_upstreams(golden: Golden) -> None:
    assert_pi3_sizes(golden)


@pytest.mark.golden_of("preprocess", "pi3")
def test_pixels_are_upstreams(golden: Golden, tmp_path: Path) -> None:
    assert_pi3_pixels(golden, tmp_path)


def test_an_image_of_the_right_size_is_unchanged() -> None:
    pixels = noise(378, 672)
    batch = load_images(pixels, rule=PI3_RESIZE)
    np.testing.assert_array_equal(batch.pixels, pixels[None])
    assert batch.transforms == (PixelTransform((672, 378), (672, 378), (1.0, 1.0), (0.0, 0.0)),)


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((672, 378), 224, (224, 126)),
        ((378, 672), 224, (126, 224)),
        ((4032, 3024), 518, (518, 378)),  # 518 x 388.5: rows round to 28 patches, then one goes
        ((672, 378), 672, (672, 378)),
        ((100, 50), 28, (28, 14)),
        ((14, 14), 42, (42, 42)),
    ],
)
def test_resolution_is_the_longest_side(
    size: tuple[int, int], resolution: int, expected: tuple[int, int]
) -> None:
    assert PI3_RESIZE.size_for(*size, resolution=resolution) == expected


def test_a_sliver_keeps_one_patch_across() -> None:
    # 20000 x 5 scaled to 255,000 pixels is 31937.4 x 7.98, or 2281.2 x 0.57 patches.
    assert PI3_RESIZE.size_for(20_000, 5) == (2281 * 14, 14)
    assert PI3_RESIZE.size_for(5, 20_000) == (14, 2281 * 14)


def test_size_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="0x5 pixels"):
        PI3_RESIZE.size_for(0, 5)


# The pixel transform.


def test_pixel_transform_maps_corners_to_corners() -> None:
    transform = PixelTransform.stretch((400, 100), (200, 25))
    assert transform.scale == (0.5, 0.25)
    corners = np.array([[-0.5, -0.5], [399.5, 99.5]])
    processed = np.array([[-0.5, -0.5], [199.5, 24.5]])
    np.testing.assert_array_equal(transform.from_original(corners), processed)
    np.testing.assert_array_equal(transform.to_original(processed), corners)


def test_pixel_transform_there_and_back_with_offset() -> None:
    transform = PixelTransform((50, 40), (30, 30), (0.7, 0.9), (-2.5, 1.25))
    pixels = np.random.default_rng(1).uniform(0, 50, (3, 4, 2))
    back = transform.to_original(transform.from_original(pixels))
    np.testing.assert_allclose(back, pixels, rtol=0, atol=1e-12)
    # 0.7 * (10 + 0.5) - 2.5 - 0.5 = 4.35 and 0.9 * (20 + 0.5) + 1.25 - 0.5 = 19.2
    np.testing.assert_allclose(
        transform.from_original(np.array([10.0, 20.0])), [4.35, 19.2], rtol=0, atol=1e-12
    )
    assert transform.from_original(pixels.astype(np.float32)).dtype == np.float32


def test_intrinsics_to_original_by_hand() -> None:
    # Processed at half width and quarter height, shifted by (1, -2).
    transform = PixelTransform((400, 100), (200, 25), (0.5, 0.25), (1.0, -2.0))
    intrinsics = np.array([[100.0, 4.0, 99.5], [0.0, 50.0, 12.0], [0.0, 0.0, 1.0]])
    # The first row is divided by 0.5, the second by 0.25; the centre across is
    # (99.5 + 0.5 - 1) / 0.5 - 0.5, that down (12 + 0.5 + 2) / 0.25 - 0.5.
    expected = np.array([[200.0, 8.0, 197.5], [0.0, 200.0, 57.5], [0.0, 0.0, 1.0]])
    actual = transform.intrinsics_to_original(intrinsics)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)

    point = np.array([0.3, -0.2, 2.0])  # x/z = 0.15, y/z = -0.1
    pixel = np.array([[100 * 0.15 + 4 * -0.1 + 99.5, 50 * -0.1 + 12]])
    projected = (actual @ point)[:2] / point[2]
    np.testing.assert_allclose(projected, transform.to_original(pixel)[0], rtol=0, atol=1e-12)


# Kinds of source. `ONE_PATCH` leaves images of 14x14 pixels as they are.


def test_folder_in_natural_order_without_hidden_and_other_files(tmp_path: Path) -> None:
    names = ["img_10.png", "IMG_2.PNG", "img_1.png"]
    for number, name in enumerate([*names, ".hidden.png"]):
        save(noise(14, 14, number), tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.png").mkdir()
    for source in (tmp_path, str(tmp_path)):
        batch = load_images(source, rule=ONE_PATCH)
        assert batch.names == ("img_1.png", "IMG_2.PNG", "img_10.png")
        expected = np.stack([noise(14, 14, number) for number in (2, 1, 0)])
        np.testing.assert_array_equal(batch.pixels, expected)
    assert load_images(tmp_path, rule=ONE_PATCH, stride=2).names == ("img_1.png", "img_10.png")


def test_natural_key_orders_numbers_and_letters() -> None:
    names = ["b1", "a10b2", "A2", "a10b10", "10", "9", "a"]
    expected = ["9", "10", "a", "A2", "a10b2", "a10b10", "b1"]
    assert sorted(names, key=natural_key) == expected


def test_glob_file_and_list_of_files(tmp_path: Path) -> None:
    paths = [save(noise(14, 14, n), tmp_path / f"{n}.png") for n in (9, 10)]
    (tmp_path / "11.txt").write_text("no image")
    both = load_images(str(tmp_path / "*"), rule=ONE_PATCH)
    assert both.names == ("9.png", "10.png")
    assert load_images(tmp_path / "?.p[a-z]g", rule=ONE_PATCH).names == ("9.png",)
    turned = load_images((str(paths[1]), paths[0]), rule=ONE_PATCH)
    assert turned.names == ("10.png", "9.png")
    np.testing.assert_array_equal(turned.pixels, both.pixels[::-1])
    np.testing.assert_array_equal(load_one(paths[0]), noise(14, 14, 9))
    assert load_images(paths, rule=ONE_PATCH, stride=2).names == ("9.png",)


def test_folder_whose_name_is_a_glob_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "take [1]"
    folder.mkdir()
    save(noise(14, 14), folder / "a.png")
    assert load_images(str(folder), rule=ONE_PATCH).names == ("a.png",)


def test_names_are_distinct(tmp_path: Path) -> None:
    for camera in ("left", "right"):
        (tmp_path / camera).mkdir()
        save(noise(14, 14), tmp_path / camera / "0.png")
    batch = load_images(str(tmp_path / "**" / "*.png"), rule=ONE_PATCH)
    assert batch.names == ("left/0.png", "right/0.png")
    twice = load_images([tmp_path / "left" / "0.png"] * 2, rule=ONE_PATCH)
    assert twice.names == ("view_0000_0.png", "view_0001_0.png")


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save(noise(14, 14), tmp_path / "a.png")
    assert load_images("~/a.png", rule=ONE_PATCH).names == ("a.png",)


def test_arrays() -> None:
    pixels = np.stack([noise(14, 14, n) for n in range(5)])
    batch = load_images(pixels, rule=ONE_PATCH, stride=2)
    assert batch.names == ("view_0000", "view_0002", "view_0004")
    np.testing.assert_array_equal(batch.pixels, pixels[::2])
    np.testing.assert_array_equal(load_images(jnp.asarray(pixels), rule=ONE_PATCH).pixels, pixels)
    np.testing.assert_array_equal(load_one(pixels[0]), pixels[0])
    np.testing.assert_array_equal(load_one(pixels[0, ::-1, ::-1]), pixels[0, ::-1, ::-1])
    assert batch.pixels.dtype == np.uint8
    assert batch.pixels.flags.writeable


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_float_arrays_are_rounded(dtype: str) -> None:
    pixels = noise(14, 14)
    np.testing.assert_array_equal(load_one((pixels / 255).astype(dtype)), pixels)
    flat = np.full((14, 14, 3), 100.6 / 255).astype(dtype)
    assert (load_one(flat) == 101).all()


def test_pillow_images_and_mixed_list(tmp_path: Path) -> None:
    pixels = [noise(14, 14, n) for n in range(4)]
    path = save(pixels[0], tmp_path / "a.png")
    lazy = Image.open(save(pixels[1], tmp_path / "b.png"))
    images = [path, lazy, pixels[2], jnp.asarray(pixels[3] / 255, jnp.float32), lazy]
    batch = load_images(images, rule=ONE_PATCH)
    assert batch.names == ("a.png", "view_0001", "view_0002", "view_0003", "view_0004")
    np.testing.assert_array_equal(batch.pixels, np.stack([*pixels, pixels[1]]))
    np.testing.assert_array_equal(load_one(Image.fromarray(pixels[2])), pixels[2])
    several = load_images([Image.fromarray(array) for array in pixels], rule=ONE_PATCH)
    np.testing.assert_array_equal(several.pixels, np.stack(pixels))


def test_the_callers_pillow_image_is_left_as_it_is() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("P", (20, 14))
    image.info["exif"] = exif.tobytes()
    load_images(image, rule=ONE_PATCH)
    assert (image.mode, image.size, image.getexif()[0x0112]) == ("P", (20, 14), 6)


def test_first_image_sets_the_size_of_all() -> None:
    sizes = [(28, 56), (60, 40), (28, 56), (7, 200)]  # heights and widths
    pixels = [noise(*size, seed) for seed, size in enumerate(sizes)]
    batch = load_images(pixels, rule=ResizeRule(pixel_limit=28 * 56))
    assert batch.pixels.shape == (4, 28, 56, 3)
    np.testing.assert_array_equal(batch.pixels[0], pixels[0])
    assert [t.original_size for t in batch.transforms] == [(w, h) for h, w in sizes]
    assert [t.size for t in batch.transforms] == [(56, 28)] * 4
    assert [t.scale for t in batch.transforms] == [(1, 1), (1.4, 28 / 60), (1, 1), (0.28, 4)]
    expected = Image.fromarray(pixels[1]).resize((56, 28), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(batch.pixels[1], np.asarray(expected))


def test_order_is_kept_however_long_each_image_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of each three is slow, so that later ones are finished before it."""
    finished = []
    lock = threading.Lock()
    resize = resizing._resize

    def slow_resize(view: Any, fit: Any) -> Any:
        number = int(view.name.removeprefix("view_"))
        time.sleep(0.05 if number % 3 == 0 else 0)
        result = resize(view, fit)
        with lock:
            finished.append(number)
        return result

    monkeypatch.setattr(resizing, "_resize", slow_resize)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    pixels = np.stack([np.full((14, 14, 3), n, np.uint8) for n in range(30)])
    batch = load_images(pixels, rule=ONE_PATCH)
    assert finished != sorted(finished)
    np.testing.assert_array_equal(batch.pixels, pixels)


def test_few_images_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    asked = []

    def views() -> Any:
        for number in range(50):
            asked.append(number)
            image = Image.fromarray(noise(14, 14, number))
            yield jaxrecon.images.View(f"{number}", partial(lambda image: image, image))

    fit = ONE_PATCH.fit(14, 14)
    for done, _ in enumerate(resizing.resized_views(views(), lambda view: fit)):
        assert len(asked) <= done + 5  # twice the workers, and one
    assert len(asked) == 50


@pytest.mark.parametrize("claimed", [None, 1, 3, 9])
def test_as_many_images_as_there_are(claimed: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers of videos may be wrong about their number of frames."""
    images = [Image.fromarray(noise(14, 14, number)) for number in range(3)]
    views = [jaxrecon.images.View(f"{n}", partial(image.copy)) for n, image in enumerate(images)]
    source = jaxrecon.images.Source(claimed, iter(views))
    monkeypatch.setattr(jaxrecon.images, "open_source", lambda *_: source)
    batch = load_images("any", rule=ONE_PATCH)
    assert batch.names == ("0", "1", "2")
    np.testing.assert_array_equal(batch.pixels, np.stack([np.asarray(i) for i in images]))


def test_stage_counts_the_views(capsys: pytest.CaptureFixture[str]) -> None:
    stages = Stages()
    load_images(np.zeros((3, 14, 14, 3), np.uint8), rule=ONE_PATCH, stages=stages)
    assert list(stages.seconds) == ["read"]
    assert stages.seconds["read"] > 0
    assert "read (3)" in capsys.readouterr().err


def test_each_view_advances_the_stage() -> None:
    done: list[str] = []

    class Counting(Stages):
        @contextmanager
        def stage(
            self, name: str, *, total: int | None = None, bar: bool = True
        ) -> Iterator[Callable[[], None]]:
            del bar
            yield lambda: done.append(f"{name} of {total}")

    load_images(np.zeros((3, 14, 14, 3), np.uint8), rule=ONE_PATCH, stages=Counting())
    assert done == ["read of 3"] * 3
