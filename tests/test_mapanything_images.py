"""How MapAnything brings images, intrinsics and depth to size, against upstream's numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden_data
from image_files import save
from jaxrecon import InputError
from jaxrecon.images import MAPANYTHING_RESIZE, AspectRule, PixelTransform, load_images
from jaxrecon.nn.dinov2 import IMAGE_MEAN, IMAGE_STD

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
    """Two views with intrinsics: the crop's place is rounded to even pixels."""
    (rule, resolution), inputs, outputs = PREPARED[name], GOLDEN.inputs(), GOLDEN.outputs()
    batch = load_images([inputs["png_a"], inputs["png_b"]], rule=rule, resolution=resolution)
    for index, (letter, transform) in enumerate(zip("ab", batch.transforms, strict=True)):
        image = normalised(batch.pixels[index : index + 1])[..., ::2, ::2]
        np.testing.assert_allclose(image, outputs[f"{name}_v{index}_img"], rtol=0, atol=2e-6)
        depth = transform.nearest(inputs[f"pp_depth_{letter}"])[::2, ::2]
        np.testing.assert_array_equal(depth, outputs[f"{name}_v{index}_depth_z"][0])
        given, expected = inputs[f"pp_K_{letter}"], outputs[f"{name}_v{index}_intrinsics"]
        # Upstream was given the rays of b, and found its intrinsics by a fit in float32.
        check_intrinsics(transform, given, expected, rtol={"a": 2e-6, "b": 5e-5}[letter])


def check_intrinsics(
    transform: PixelTransform, original: np.ndarray, expected: np.ndarray, rtol: float
) -> None:
    """Upstream multiplies by the scale before it is rounded to whole pixels, about the middle."""
    actual = transform.intrinsics_from_original(original.astype(np.float64))
    width, height = transform.original_size
    unrounded = max(new / old for old, new in zip((width, height), transform.size, strict=True))
    middle = transform.from_original(np.array([(width - 1) / 2, (height - 1) / 2]))
    for axis in (0, 1):
        ratio = unrounded / transform.scale[axis]
        actual[axis, axis] *= ratio
        actual[axis, 2] = (actual[axis, 2] - middle[axis]) * ratio + middle[axis]
    np.testing.assert_allclose(actual, expected[0], rtol=rtol, atol=1e-5)
    back = transform.intrinsics_to_original(transform.intrinsics_from_original(original))
    np.testing.assert_allclose(back, original, rtol=1e-5)


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
