"""What a model says of margins around photos changes nothing of what is told of the photos."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon import Reconstruction
from jaxrecon.formats.viewer_cloud import Choice, chosen_mask, cloud_of
from jaxrecon.geometry import depth_consistency, seen_by_the_next
from jaxrecon.images import PixelTransform
from jaxrecon.images.original import photo_pixels
from jaxrecon.models import Prediction
from jaxrecon.pipeline.joins import sampled, shown_alone
from jaxrecon.runtime.masks import MaskInputs, mask_of
from random_recon import random_recon

SIDE = 24
INNER = SIDE // 2
FILLS = pytest.mark.parametrize("fill", [1e-3, 1.999, 500.0, np.nan, -1.0])
"""Depth that a model may say margins have; photos are of about 2."""


def framed(fill: float) -> Reconstruction:
    """A landscape, a portrait and a square photo of a wall with a step in it."""
    landscape, portrait = (SIDE, INNER), (INNER, SIDE)
    size = (SIDE, SIDE)
    transforms = tuple(
        PixelTransform.stretch(photo, photo).centred(size) for photo in (landscape, portrait, size)
    )
    photo = photo_pixels(transforms)
    row, column = np.mgrid[:SIDE, :SIDE]
    depth = np.where(column < INNER, 2.0, 2.4)[None].repeat(3, 0)
    depth = np.where(photo, depth, fill)
    rays = np.stack([(column - 11.5) / 20, (row - 11.5) / 20, np.ones_like(row)], axis=-1)
    points = (rays * depth[..., None]).astype(np.float32)
    poses = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    poses[:, 0, 3] = (0, 0.01, 0.02)
    base = random_recon()
    image = (3, SIDE, SIDE)
    return replace(
        base,
        points_world=points + poses[:, None, None, :3, 3],
        points_camera=points,
        confidence=np.ones(image, np.float32),
        mask=photo,
        colors=np.random.default_rng(0).integers(0, 256, (*image, 3), np.uint8),
        world_from_camera=poses,
        intrinsics=np.tile(
            np.array([[20, 0, 11.5], [0, 20, 11.5], [0, 0, 1]], np.float32), (3, 1, 1)
        ),
        transforms=transforms,
    )


@FILLS
@pytest.mark.parametrize("name", [field.name for field in fields(MaskInputs)])
def test_masks(fill: float, name: str) -> None:
    """Each option by itself, beside the lowest confidence that all need."""

    def found(fill: float) -> np.ndarray:
        recon = framed(fill)
        scenes = Prediction(
            points_world=jnp.asarray(recon.points_world)[None],
            points_camera=jnp.asarray(recon.points_camera)[None],
            confidence=jnp.asarray(recon.confidence)[None],
            world_from_camera=jnp.asarray(recon.world_from_camera)[None],
        )
        scene = jax.tree.map(lambda x: x[0], scenes)
        inputs = replace(
            MaskInputs(min_confidence=np.zeros((), np.float32)),
            **{name: np.full((), 0.1, np.float32)},
        )
        inside = jnp.asarray(photo_pixels(recon.transforms))
        mask = mask_of(scene, scene.confidence, inputs, inside=inside, strict_edges=True)
        return np.asarray(mask)

    expected = found(2.0)
    np.testing.assert_array_equal(found(fill), expected)
    assert not expected[~photo_pixels(framed(fill).transforms)].any()
    assert expected.any() or name == "view_confidence_quantile"


@FILLS
def test_agreement_of_views(fill: float) -> None:
    def found(fill: float) -> np.ndarray:
        recon = framed(fill)
        photo = jnp.asarray(photo_pixels(recon.transforms))
        depth, poses = jnp.asarray(recon.depth_z), jnp.asarray(recon.world_from_camera)
        share = depth_consistency(depth, photo, poses, jnp.asarray(recon.intrinsics), shown=photo)
        return np.asarray(share)

    expected = found(2.0)
    photo = photo_pixels(framed(fill).transforms)
    np.testing.assert_allclose(found(fill)[photo], expected[photo], atol=1e-6)
    assert np.mean(expected[photo]) > 0.8


@FILLS
def test_a_result_that_is_narrowed(fill: float) -> None:
    mask = np.asarray(framed(fill).narrowed(edge_rtol=0.1).mask)
    expected = photo_pixels(framed(fill).transforms)
    expected[:, :, INNER - 1 : INNER + 1] = False
    np.testing.assert_array_equal(mask, expected)


@FILLS
def test_edges_that_the_viewer_hides(fill: float) -> None:
    scene = framed(fill).scene()
    expected = photo_pixels(scene.transforms)
    expected[:, :, INNER - 1 : INNER + 1] = False
    np.testing.assert_array_equal(chosen_mask(scene, Choice(edges=False)), expected)
    cloud = cloud_of(scene)
    assert np.count_nonzero(cloud.kept & ~cloud.edge) == expected.sum()


@FILLS
def test_what_neighbours_of_a_sequence_have_in_common(fill: float) -> None:
    def seen(fill: float) -> np.ndarray:
        recon = framed(fill)
        points = np.asarray(recon.points_camera)
        grid, _ = sampled(
            points, np.asarray(recon.confidence), np.asarray(recon.colors), recon.transforms
        )
        shown = shown_alone(grid, points, recon.transforms)
        poses = np.asarray(recon.world_from_camera, np.float64)
        return seen_by_the_next(*shown, poses, np.asarray(recon.intrinsics))

    np.testing.assert_array_equal(seen(fill), seen(2.0))
    # A portrait and a landscape share a quarter of the picture, the half of each.
    np.testing.assert_allclose(seen(fill), [0.5, 0.75], atol=0.07)
