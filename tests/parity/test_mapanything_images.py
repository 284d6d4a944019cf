"""How MapAnything brings images, intrinsics and depth to size, against upstream's numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden_data
from image_files import save
from jaxrecon import InputError
from jaxrecon.images import PixelTransform, load_images
from jaxrecon.models import MAPANYTHING_RESIZE, AspectRule
from jaxrecon.nn.dinov2 import IMAGE_MEAN, IMAGE_STD
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays

GOLDEN = golden_data.case("prep_mapanything")
INFO = GOLDEN.info
SET_504 = AspectRule(sizes=((1.565, 504, 322),))
SCENES: dict[str, tuple[AspectRule, int | None]] = {
    "fixed_a": (MAPANYTHING_RESIZE, None),
    "fixed_b": (MAPANYTHING_RESIZE, None),
    "fixed_ab": (MAPANYTHING_RESIZE, None),
    "fixed_d": (MAPANYTHING_RESIZE, None),
    "fixed_c_rgba": (MAPANYTHING_RESIZE, None),
    "longest140_ab": (MAPANYTHING_RESIZE, 140),
    "longest140_e": (MAPANYTHING_RESIZE, 140),
    "square126_ab": (AspectRule(sizes=((1.0, 126, 126),)), None),
    "fixedsize_ab": (AspectRule(sizes=((1.0, 112, 70),)), None),
    "fixed504_a": (SET_504, None),
    "fixed_identitynorm_a": (MAPANYTHING_RESIZE, 98),
}
PREPARED = {
    "pp_longest140": (replace(MAPANYTHING_RESIZE, even_crop=True), 140),
    "pp_fixedsize": (AspectRule(sizes=((1.0, 84, 70),), even_crop=True), None),
}


def arrays(transforms: Sequence[PixelTransform], **given: Any) -> PriorArrays:
    return prior_arrays(ViewPriors(**given), transforms, MAPANYTHING_RESIZE.resized_intrinsics)


def normalised(pixels: np.ndarray, *, identity: bool = False) -> np.ndarray:
    """As upstream normalises images, in its layout."""
    values = pixels / np.float32(255)
    if not identity:
        values = (values - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return np.moveaxis(values, -1, 1)


@pytest.mark.parametrize("row", INFO["aspect_table"], ids=lambda row: str(row["aspect"]))
def test_sizes_are_upstreams(row: dict[str, Any]) -> None:
    size = round(10_000 * row["aspect"]), 10_000
    assert MAPANYTHING_RESIZE.fit(*size).transform(size).size == tuple(row["WH_518"])


@pytest.mark.parametrize("name", SCENES)
def test_pixels_are_upstreams(name: str, tmp_path: Path) -> None:
    told, (rule, resolution) = INFO["shapes"][name], SCENES[name]
    inputs, stride = GOLDEN.inputs(), told["stored_stride"]
    paths = [save(inputs[f"png_{letter}"], tmp_path / f"{letter}.png") for letter in told["images"]]
    pixels = load_images(paths, rule=rule, resolution=resolution).pixels
    actual = normalised(pixels, identity="identity" in name)
    assert list(actual.shape) == told["shape"]
    expected = GOLDEN.outputs()[name]
    np.testing.assert_allclose(actual[..., ::stride, ::stride], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", PREPARED)
def test_depth_and_intrinsics_follow_the_pixels(name: str) -> None:
    """Two views with intrinsics: the crop's place is rounded to even pixels.

    Upstream was given the rays of the second, and found its intrinsics by a fit in float32.
    """
    (rule, resolution), inputs, outputs = PREPARED[name], GOLDEN.inputs(), GOLDEN.outputs()
    batch = load_images([inputs["png_a"], inputs["png_b"]], rule=rule, resolution=resolution)
    known = arrays(
        batch.transforms,
        intrinsics=[inputs["pp_K_a"], inputs["pp_K_b"]],
        depths=[inputs["pp_depth_a"], inputs["pp_depth_b"]],
    )
    for view in range(2):
        image = normalised(batch.pixels[view : view + 1])[..., ::2, ::2]
        np.testing.assert_allclose(image, outputs[f"{name}_v{view}_img"], rtol=0, atol=2e-6)
        depth = known.depth_z[0, view, ::2, ::2]
        np.testing.assert_array_equal(depth, outputs[f"{name}_v{view}_depth_z"][0])
        key = f"{name}_v{view}_intrinsics"
        GOLDEN.check(key, np.asarray(known.intrinsics[:, view]), outputs[key])


def test_intrinsics_of_the_photo_stay_exact() -> None:
    """What the network gets is not what the pixels map by: 61x20 covers 28x14 as 42x14, not 42.7.

    A stretched image has no such rounding.
    """
    original = np.array([[50.0, 0, 33], [0, 50, 9.5], [0, 0, 1]])
    transform = AspectRule(sizes=((2.0, 28, 14),)).fit(61, 20).transform((61, 20))
    exact = transform.intrinsics_from_original(original)
    np.testing.assert_allclose(exact[0], [50 * 42 / 61, 0, 42 / 61 * 33.5 - 7.5])
    np.testing.assert_allclose(transform.intrinsics_to_original(exact), original)
    told = np.asarray(arrays([transform], intrinsics=original).intrinsics[0, 0])
    np.testing.assert_allclose(told, [[35, 0, 13.5 + 0.7 * 3], [0, 35, 6.5], [0, 0, 1]], rtol=1e-6)
    stretched = PixelTransform.stretch((60, 40), (42, 42))
    told = np.asarray(arrays([stretched], intrinsics=original).intrinsics[0, 0])
    np.testing.assert_allclose(told, stretched.intrinsics_from_original(original), rtol=1e-6)


def test_transform_by_hand() -> None:
    # 61 x 20 covers 28 x 14 at 0.7: 42.7 x 14 pixels, of which 14 columns are cut off, 7 left.
    transform = AspectRule(sizes=((2.0, 28, 14),)).fit(61, 20).transform((61, 20))
    assert transform == PixelTransform((61, 20), (28, 14), (42 / 61, 14 / 20), (-7.0, 0.0))
    even = AspectRule(sizes=((2.0, 28, 14),), even_crop=True).fit(63, 20)
    assert even.transform((63, 20)).offset == (-8.0, 0.0)  # 44 columns, 16 of them cut off


def test_values_where_the_original_does_not_reach_are_zero() -> None:
    transform = PixelTransform((2, 1), (4, 3), (1.0, 1.0), (1.0, 1.0))
    values = np.array([[3.0, 5.0]])
    expected = [[0, 0, 0, 0], [0, 3, 5, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(transform.nearest(values), expected)


def test_resolution_below_one_patch() -> None:
    with pytest.raises(InputError, match="resolution=13 is less than one patch"):
        MAPANYTHING_RESIZE.fit(100, 100, resolution=13)
