"""How MapAnything brings images, intrinsics and depth to size, against upstream's numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_data import Golden, stored_stride
from golden_images import mapanything_scenes, prepared_rules
from jaxrecon import InputError
from jaxrecon.images import PixelTransform, load_images
from jaxrecon.models import MAPANYTHING_RESIZE, AspectRule
from jaxrecon.nn.dinov2 import IMAGE_MEAN, IMAGE_STD
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays

ONE = pytest.mark.golden_of("preprocess", "mapanything")


def arrays(transforms: Sequence[PixelTransform], **given: Any) -> PriorArrays:
    return prior_arrays(ViewPriors(**given), transforms, MAPANYTHING_RESIZE.resized_intrinsics)


def normalised(pixels: np.ndarray, *, identity: bool = False) -> np.ndarray:
    """As upstream normalises images, in its layout."""
    values = pixels / np.float32(255)
    if not identity:
        values = (values - np.array(IMAGE_MEAN, np.float32)) / np.array(IMAGE_STD, np.float32)
    return np.moveaxis(values, -1, 1)


@ONE
def test_sizes_are_upstreams(golden: Golden) -> None:
    for row in golden.info["aspect_table"]:
        size = round(10_000 * row["aspect"]), 10_000
        assert MAPANYTHING_RESIZE.fit(*size).transform(size).size == tuple(row["WH_518"]), row


@ONE
def test_pixels_are_upstreams(golden: Golden, tmp_path: Path) -> None:
    scenes, expected = mapanything_scenes(golden), golden.outputs()
    assert {scene.key for scene in scenes} == {key for key in expected if key[:3] != "pp_"}
    for scene in scenes:
        paths = scene.paths(golden, tmp_path)
        pixels = load_images(paths, rule=scene.rule, resolution=scene.resolution).pixels
        actual = normalised(pixels, identity=scene.unchanged)
        assert actual.shape == scene.shape
        stored = actual[..., :: scene.stride, :: scene.stride]
        np.testing.assert_allclose(stored, expected[scene.key], rtol=0, atol=2e-6)


@ONE
def test_depth_and_intrinsics_follow_the_pixels(golden: Golden) -> None:
    """Views with intrinsics: the crop's place is rounded to even pixels.

    Upstream was given the rays of the second, and found its intrinsics by a fit in float32.
    """
    inputs, outputs, shapes = golden.inputs(), golden.outputs(), golden.info["shapes"]
    prepared = prepared_rules(golden)
    letters = [key[-1] for key in sorted(inputs) if key.startswith("pp_K_")]
    seen = set()
    for name, (rule, resolution) in prepared.items():
        pictures = [inputs[f"png_{x}"] for x in letters]
        batch = load_images(pictures, rule=rule, resolution=resolution)
        known = arrays(
            batch.transforms,
            intrinsics=[inputs[f"pp_K_{x}"] for x in letters],
            depths=[inputs[f"pp_depth_{x}"] for x in letters],
        )
        for view in range(len(letters)):
            image, depth, matrix = (
                f"{name}_v{view}_{what}" for what in ("img", "depth_z", "intrinsics")
            )
            seen |= {image, depth, matrix}
            stride = stored_stride(shapes[depth][-2:], outputs[depth].shape[-2:])
            pixels = normalised(batch.pixels[view : view + 1])[..., ::stride, ::stride]
            np.testing.assert_allclose(pixels, outputs[image], rtol=0, atol=2e-6)
            kept = known.depth_z[0, view, ::stride, ::stride]
            np.testing.assert_array_equal(kept, outputs[depth][0])
            golden.check(matrix, np.asarray(known.intrinsics[:, view]), outputs[matrix])
    assert seen == {key for key in outputs if key.startswith("pp_")}


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
