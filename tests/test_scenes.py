"""Rendered scenes: images, depth and cameras agree."""

import jax.numpy as jnp
import numpy as np

from jaxrecon.geometry import invert_rigid, transform_points
from jaxrecon.scenes import render_room


def test_a_pixel_seen_from_two_views_has_one_world_point_and_one_colour() -> None:
    scene = render_room(seed=1, views=2, height=60, width=80)
    column, row = np.meshgrid(np.arange(80.0), np.arange(60.0))
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    rays = pixels @ np.linalg.inv(np.asarray(scene.intrinsics[0])).T
    points_camera = scene.depth_z[0][..., None] * jnp.asarray(rays, jnp.float32)
    points = transform_points(scene.world_from_camera[0], points_camera)
    seen = np.asarray(transform_points(invert_rigid(scene.world_from_camera[1]), points))
    projected = seen @ np.asarray(scene.intrinsics[1]).T
    at = np.rint(projected[..., :2] / projected[..., 2:]).astype(int)
    inside = (at >= 0).all(-1) & (at < [80, 60]).all(-1)
    x, y = at[inside].T
    depth = np.asarray(scene.depth_z[1])[y, x]
    visible = np.abs(depth / seen[inside][:, 2] - 1) < 0.02
    assert visible.mean() > 0.5
    there = np.asarray(scene.images[1], float)[y, x][visible]
    here = np.asarray(scene.images[0], float)[inside][visible]
    chance = np.abs(here - here[::-1]).mean()
    assert np.abs(here - there).mean() < 0.25 * chance


def test_the_same_seed_renders_the_same_scene() -> None:
    first, again, other = (render_room(seed, views=1, height=28, width=28) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    assert (np.asarray(first.images) != np.asarray(other.images)).mean() > 0.2


def test_poses_are_rotations_inside_the_room() -> None:
    scene = render_room(seed=0, views=5, height=28, width=28)
    turn = np.asarray(scene.world_from_camera[:, :3, :3])
    np.testing.assert_allclose(
        turn @ turn.swapaxes(-1, -2), np.eye(3)[None].repeat(5, 0), atol=1e-5
    )
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
    assert (np.asarray(scene.depth_z) > 0).all()
    assert (np.asarray(scene.depth_z) < 10).all()
