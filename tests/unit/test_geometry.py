"""Geometry against cases worked out by hand."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon import geometry
from one_program import one_program

depth_edges = one_program(geometry.depth_edges, "rtol", "atol")
depth_normal_edges = one_program(geometry.depth_normal_edges, "rtol")
intrinsics_from_points = one_program(geometry.intrinsics_from_points, "principal_point", "sharing")
invert_rigid = one_program(geometry.invert_rigid)
nearest_rotation = one_program(geometry.nearest_rotation)
normals_from_points = one_program(geometry.normals_from_points)
rigid = one_program(geometry.rigid)
slope = one_program(lambda at, along: jax.jvp(geometry.nearest_rotation, (at,), (along,)))
transform_points = one_program(geometry.transform_points)
unproject_depth = one_program(geometry.unproject_depth)

QUARTER_TURN = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)


def rays_of(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """The ray (x, y, 1) of each pixel of a pinhole camera."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    x = (column - matrix[0, 2]) / matrix[0, 0]
    y = (row - matrix[1, 2]) / matrix[1, 1]
    return np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)


def test_a_point_is_turned_then_moved() -> None:
    pose = rigid(QUARTER_TURN, jnp.array([10.0, 20, 30]))
    np.testing.assert_allclose(transform_points(pose, jnp.array([1.0, 2, 3])), [8, 21, 33])


def test_the_inverse_undoes_the_transform() -> None:
    pose = rigid(QUARTER_TURN, jnp.array([10.0, 20, 30]))
    np.testing.assert_allclose(invert_rigid(pose) @ pose, np.eye(4), atol=1e-6)


def test_poses_broadcast_over_pixels() -> None:
    poses = rigid(
        np.stack([np.eye(3, dtype=np.float32), QUARTER_TURN]), jnp.array([[0.0, 0, 1], [0, 0, 2]])
    )
    points = np.ones((2, 4, 5, 3), np.float32)
    moved = transform_points(poses[:, None, None], points)
    np.testing.assert_allclose(moved[0], np.broadcast_to([1, 1, 2], (4, 5, 3)))
    np.testing.assert_allclose(moved[1], np.broadcast_to([-1, 1, 3], (4, 5, 3)))


def test_a_rotation_is_its_own_nearest_rotation() -> None:
    np.testing.assert_allclose(nearest_rotation(QUARTER_TURN[None])[0], QUARTER_TURN, atol=1e-6)


def test_rows_are_scaled_before_the_nearest_rotation_is_taken() -> None:
    stretched = np.diag(np.array([5, 0.1, 3], np.float32)) @ QUARTER_TURN
    np.testing.assert_allclose(nearest_rotation(stretched), QUARTER_TURN, atol=1e-6)


def test_nearest_rotation_is_never_a_reflection() -> None:
    matrix = np.random.default_rng(0).normal(size=(200, 3, 3)).astype(np.float32)
    turn = nearest_rotation(matrix)
    assert (np.linalg.det(matrix) < 0).any()
    np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
    np.testing.assert_allclose(
        turn @ turn.swapaxes(-1, -2), np.eye(3)[None].repeat(200, 0), atol=1e-5
    )


@pytest.mark.parametrize("principal_point", ["free", "centre"])
def test_intrinsics_of_a_pinhole_camera_are_recovered(
    principal_point: Literal["free", "centre"],
) -> None:
    centre = (20.0, 11.0) if principal_point == "free" else (24.5, 14.5)
    matrix = np.array([[40.0, 0, centre[0]], [0, 50, centre[1]], [0, 0, 1]])
    depth = np.random.default_rng(1).uniform(1, 2, (30, 50, 1)).astype(np.float32)
    points = (depth * rays_of(matrix, 30, 50))[None]
    found = intrinsics_from_points(points, principal_point=principal_point)
    np.testing.assert_allclose(found[0], matrix, rtol=1e-5, atol=1e-4)


def test_shared_intrinsics_are_one_camera_for_all_views() -> None:
    first = np.array([[40.0, 0, 20], [0, 40, 14], [0, 0, 1]])
    second = np.array([[44.0, 0, 20], [0, 44, 14], [0, 0, 1]])
    rays = np.stack([rays_of(first, 30, 50), rays_of(second, 30, 50)])
    shared = intrinsics_from_points(rays, sharing="shared")
    np.testing.assert_array_equal(shared[0], shared[1])
    assert 40 < shared[0, 0, 0] < 44
    per_view = intrinsics_from_points(rays)
    np.testing.assert_allclose(per_view[:, 0, 0], [40, 44], rtol=1e-5)


@pytest.mark.parametrize("sharing", ["per_view", "shared"])
def test_intrinsics_are_fitted_to_the_pixels_of_photos(
    sharing: Literal["per_view", "shared"],
) -> None:
    """What a model says of margins, which need not be alike on both sides, does not count."""
    matrix = np.array([[40.0, 0, 20], [0, 50, 11], [0, 0, 1]])
    rays = np.stack([rays_of(matrix, 30, 50)] * 4)
    inside = np.zeros((4, 30, 50), bool)
    inside[0, :, 11:38] = inside[1, 7:22] = inside[3] = True
    odd = np.where(inside[..., None], rays, rays * [3, 1.5, 1] + [0.4, 0, 0]).astype(np.float32)
    found = intrinsics_from_points(odd, sharing=sharing, inside=inside, views=2)
    np.testing.assert_allclose(found[:2], [matrix] * 2, rtol=1e-5, atol=1e-4)
    assert np.isfinite(found).all()
    held = intrinsics_from_points(odd, principal_point="centre", inside=inside)
    np.testing.assert_allclose(held[:, :2, 2], [[24.5, 14.5]] * 4)


def test_a_wall_that_faces_the_camera_has_normals_towards_it() -> None:
    matrix = np.array([[20.0, 0, 10], [0, 20, 10], [0, 0, 1]])
    normals, valid = normals_from_points(3 * rays_of(matrix, 20, 20))
    assert valid.all()
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, -1], (20, 20, 3)), atol=1e-5)


def test_a_step_in_depth_is_an_edge_on_both_sides() -> None:
    depth = np.tile(np.where(np.arange(10) < 5, 1, 2), (4, 1)).astype(np.float32)
    expected = np.zeros((4, 10), bool)
    expected[:, 4:6] = True
    np.testing.assert_array_equal(depth_edges(depth, rtol=0.03), expected)
    np.testing.assert_array_equal(depth_edges(depth, atol=0.9), expected)
    assert not depth_edges(depth, atol=1.1).any()
    assert not depth_edges(depth).any()


def test_a_slanted_plane_is_no_edge_though_its_depth_jumps() -> None:
    matrix = np.array([[20.0, 0, 19.5], [0, 20, 19.5], [0, 0, 1]])
    rays = rays_of(matrix, 40, 40)
    floor = rays * (1 / np.maximum(rays[..., 1:2], np.float32(0.03)))
    below = floor[24:]
    assert depth_edges(below[..., 2], rtol=0.03).any()
    assert not depth_normal_edges(below, rtol=0.03).any()


def test_a_box_before_a_wall_has_edges() -> None:
    matrix = np.array([[20.0, 0, 19.5], [0, 20, 19.5], [0, 0, 1]])
    depth = np.full((40, 40, 1), 4, np.float32)
    depth[10:30, 10:30] = 2
    edges = depth_normal_edges(depth * rays_of(matrix, 40, 40))
    assert edges[10:30, 9].all()
    assert edges[10:30, 10].all()
    assert not edges[:, :7].any()
    assert not edges[15:25, 15:25].any()


def test_points_that_are_not_finite_or_not_in_the_mask_do_not_count() -> None:
    matrix = np.array([[20.0, 0, 9.5], [0, 20, 9.5], [0, 0, 1]])
    points = 2 * rays_of(matrix, 20, 20)
    points[5, 5] = np.nan
    mask = np.ones((20, 20), bool)
    mask[12] = False
    normals, valid = normals_from_points(points, mask)
    assert np.isfinite(normals).all()
    assert not valid[5, 5]
    assert not valid[12].any()
    assert not depth_normal_edges(points, mask=mask).any()


def test_the_nearest_rotation_has_a_gradient_even_at_the_identity() -> None:
    """Equal singular values: turning M turns R by as much, stretching M does nothing."""
    spin = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 0]], np.float32)
    stretch = np.diag(np.array([1, 2, 3], np.float32))
    for change, expected in ((spin, spin), (stretch, np.zeros((3, 3)))):
        _, moved = slope(np.eye(3, dtype=np.float32), change)
        np.testing.assert_allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_the_nearest_rotation_is_its_slope(seed: int) -> None:
    """Central differences in float64; two of the matrices have a negative determinant."""
    matrix, change = np.random.default_rng(seed).normal(size=(2, 3, 3))
    matrix *= (-1) ** seed
    _, found = slope(np.float32(matrix), np.float32(change))
    ahead, behind = (procrustes(matrix + step * change) for step in (1e-6, -1e-6))
    np.testing.assert_allclose(found, (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-5)


def procrustes(matrix: np.ndarray) -> np.ndarray:
    """The nearest rotation in NumPy, of rows of length one."""
    u, _, vt = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))
    return u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt


def test_points_lie_on_their_pixels_rays() -> None:
    points = unproject_depth(
        np.full((1, 2, 3), 2, np.float32), jnp.array([[[4.0, 0, 1], [0, 5, 0.5], [0, 0, 1]]])
    )
    np.testing.assert_allclose(points[0, 1, 2], [2 * (2 - 1) / 4, 2 * (1 - 0.5) / 5, 2], rtol=1e-6)
