"""VGGT's two ways to bring images to size, against upstream's numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from golden_data import Golden
from golden_images import VGGT_RULES, assert_vggt_pixels
from image_files import noise, save
from jaxrecon import InputError
from jaxrecon.images import PixelTransform, load_images
from jaxrecon.models import VGGT_RESIZE, SideRule

SMALL = SideRule(side=28)


@pytest.mark.golden_of("preprocess", "vggt")
@pytest.mark.parametrize("mode", VGGT_RULES)
def test_sizes_are_upstreams(mode: str, golden: Golden) -> None:
    for row in golden.info["size_table"]:
        size = row["W"], row["H"]
        transform = VGGT_RULES[mode].fit(*size).transform(size)
        assert transform.size == tuple(reversed(row[f"{mode}_HW"])), row


@pytest.mark.golden_of("preprocess", "vggt")
def test_pixels_are_upstreams(golden: Golden, tmp_path: Path) -> None:
    assert_vggt_pixels(golden, tmp_path)


def test_transforms_of_crop_and_pad_by_hand() -> None:
    # 56 x 100 at width 28 is 28 x 50, in whole patches 28 x 56; 14 rows go above and below.
    crop = SMALL.fit(56, 100).transform((56, 100))
    assert crop == PixelTransform((56, 100), (28, 28), (0.5, 0.56), (0.0, -14.0))
    # At height 28 the width is 15.68, one patch; 7 columns of white on both sides.
    pad = SideRule(side=28, pad=True).fit(56, 100).transform((56, 100))
    assert pad == PixelTransform((56, 100), (28, 28), (0.25, 0.28), (7.0, 0.0))


def test_pixels_of_crop_and_pad_are_where_the_transforms_say() -> None:
    pixels = noise(42, 28)
    batch = load_images(pixels, rule=SMALL)
    np.testing.assert_array_equal(batch.pixels[0], pixels[7:35])
    assert batch.transforms[0].offset == (0.0, -7.0)
    batch = load_images(pixels, rule=SideRule(side=42, pad=True))
    np.testing.assert_array_equal(batch.pixels[0, :, 7:35], pixels)
    assert (batch.pixels[0, :, :7] == 255).all()
    assert (batch.pixels[0, :, 35:] == 255).all()
    assert batch.transforms[0].offset == (7.0, 0.0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_images_of_several_sizes_lie_in_the_middle_of_white(order: tuple[int, ...]) -> None:
    """Whether the largest comes first, last or between the others."""
    heights = (14, 28, 42)
    pictures = [noise(height, 42, height) for height in heights]
    batch = load_images([pictures[i] for i in order], rule=SideRule(side=42))
    assert batch.pixels.shape == (3, 42, 42, 3)
    for i, pixels, transform in zip(order, batch.pixels, batch.transforms, strict=True):
        top = (42 - heights[i]) // 2
        np.testing.assert_array_equal(pixels[top : top + heights[i]], pictures[i])
        assert (np.delete(pixels, np.s_[top : top + heights[i]], axis=0) == 255).all()
        assert (transform.size, transform.offset) == ((42, 42), (0.0, top))
        corner = transform.to_original(np.array([0.0, float(top)]))
        np.testing.assert_array_equal(corner, [0.0, 0.0])


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[:14, :, 3] = 255
    path = save(pixels, tmp_path / "a.png")
    loaded = load_images([path, Image.fromarray(pixels)], rule=SMALL).pixels
    assert (loaded[:, :14] == 0).all()
    assert (loaded[:, 14:] == 255).all()


def test_resolution_is_the_longest_side_in_whole_patches() -> None:
    assert VGGT_RESIZE.fit(640, 480, resolution=230).transform((640, 480)).size == (224, 168)
    assert VGGT_RESIZE.fit(480, 640, resolution=224).transform((480, 640)).size == (224, 224)


def test_a_sliver_keeps_one_patch() -> None:
    assert VGGT_RESIZE.fit(5000, 5).transform((5000, 5)).size == (518, 14)
    assert SideRule(pad=True).fit(5, 5000).transform((5, 5000)).scale == (14 / 5, 518 / 5000)


def test_refused() -> None:
    with pytest.raises(InputError, match="0x5 pixels"):
        VGGT_RESIZE.fit(0, 5)
    with pytest.raises(InputError, match="resolution=13 is less than one patch; give at least 14"):
        load_images(noise(14, 14), rule=VGGT_RESIZE, resolution=13)
