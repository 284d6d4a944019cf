"""Umeyama's similarity and the overlap of views, against hand-computed cases."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxrecon.errors import InputError
from jaxrecon.geometry import Similarity, overlap, umeyama

SIDE, FOCAL, WALL = 8, 4.0, 2.0
PIXEL = WALL / FOCAL
"""Width of a pixel on a wall at distance 2, in metres."""


def some_points(count: int = 20) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, 3))


def quarter_turn() -> np.ndarray:
    return np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


class TestUmeyama:
    def test_finds_the_similarity_that_made_the_target(self) -> None:
        source, turn = some_points(), Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
        found = umeyama(source, 2.5 * source @ turn.T + np.array([1.0, -2.0, 3.0]))
        np.testing.assert_allclose(found.scale, 2.5, atol=1e-12)
        np.testing.assert_allclose(found.rotation, turn, atol=1e-12)
        np.testing.assert_allclose(found.translation, [1, -2, 3], atol=1e-12)

    def test_scale_of_a_tent_that_is_pressed_flat(self) -> None:
        """Cross-covariance diag(2/3, 0, 0), source variance 4/3: scale 1/2."""
        flat = np.array([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]])
        tent = np.array([[-1.0, 0, 0], [0, np.sqrt(3), 0], [1, 0, 0]])
        assert umeyama(tent, flat).scale == pytest.approx(0.5, abs=1e-12)
        assert umeyama(tent, flat, with_scale=False).scale == 1.0

    def test_a_mirror_image_is_not_matched_by_a_reflection(self) -> None:
        source = some_points()
        found = umeyama(source, source * np.array([1.0, 1.0, -1.0]))
        assert np.linalg.det(found.rotation) == pytest.approx(1.0, abs=1e-12)

    def test_weight_zero_leaves_a_point_out(self) -> None:
        source = some_points()
        target = source @ quarter_turn().T
        target[0] += 100
        weights = np.ones(len(source))
        weights[0] = 0
        np.testing.assert_allclose(
            umeyama(source, target, weights).rotation, quarter_turn(), atol=1e-12
        )
        assert abs(umeyama(source, target).rotation - quarter_turn()).max() > 0.01

    def test_a_weight_of_two_is_the_point_twice(self) -> None:
        source = some_points(6)
        target = some_points(12)[6:]
        weights = np.array([2.0, 1, 1, 1, 1, 1])
        twice = umeyama(np.vstack([source[:1], source]), np.vstack([target[:1], target]))
        once = umeyama(source, target, weights)
        assert once.scale == pytest.approx(twice.scale, abs=1e-12)
        np.testing.assert_allclose(once.translation, twice.translation, atol=1e-12)

    def test_coinciding_points_keep_their_scale(self) -> None:
        found = umeyama(np.ones((3, 3)), np.full((3, 3), 4.0))
        assert found.scale == 1.0
        np.testing.assert_allclose(found.points(np.ones(3)), [4, 4, 4], atol=1e-12)

    def test_poses_and_directions(self) -> None:
        similarity = Similarity(2.0, quarter_turn(), np.array([0.0, 0.0, 5.0]))
        pose = np.eye(4)
        pose[:3, 3] = 1, 0, 0
        moved = similarity.poses(pose[None])[0]
        np.testing.assert_array_equal(moved[:3, :3], quarter_turn())
        np.testing.assert_array_equal(moved[:, 3], [0, 2, 5, 1])
        np.testing.assert_array_equal(similarity.directions(np.array([[1.0, 0, 0]])), [[0, 1, 0]])

    @pytest.mark.parametrize(
        ("source", "weights", "told"),
        [
            (np.full((3, 3), np.nan), None, "not finite"),
            (np.ones((3, 3)), np.zeros(3), "weights"),
            (np.ones((3, 3)), np.array([1.0, -1.0, 1.0]), "weights"),
            (np.ones((0, 3)), None, "one positive"),
        ],
    )
    def test_refusals(self, source: np.ndarray, weights: np.ndarray | None, told: str) -> None:
        with pytest.raises(InputError, match=told):
            umeyama(source, np.ones_like(source), weights)


def cameras(*positions: tuple[float, float, float]) -> tuple[jax.Array, jax.Array]:
    """Poses that look along z, and their intrinsics."""
    poses = np.tile(np.eye(4, dtype=np.float32), (len(positions), 1, 1))
    poses[:, :3, 3] = positions
    centre = (SIDE - 1) / 2
    matrix = np.array([[FOCAL, 0, centre], [0, FOCAL, centre], [0, 0, 1]], np.float32)
    return jnp.asarray(poses), jnp.asarray(np.tile(matrix, (len(positions), 1, 1)))


def wall(views: int) -> tuple[jax.Array, jax.Array]:
    """Depth and mask of a wall that fills every image."""
    return jnp.full((views, SIDE, SIDE), WALL), jnp.ones((views, SIDE, SIDE), bool)


@partial(jax.jit, static_argnums=4)
def shared_views(
    depth: jax.Array, mask: jax.Array, poses: jax.Array, intrinsics: jax.Array, stride: int
) -> jax.Array:
    return overlap(depth, mask, poses, intrinsics, stride=stride)


class TestOverlap:
    def test_a_view_that_is_shifted_by_half_an_image(self) -> None:
        poses, intrinsics = cameras((0, 0, 0), (4 * PIXEL, 0, 0), (4 * PIXEL, 4 * PIXEL, 0))
        shared = shared_views(*wall(3), poses, intrinsics, 1)
        np.testing.assert_array_equal(shared, [[1, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]])

    def test_a_nearer_view_sees_less_but_is_seen_whole(self) -> None:
        """From half the distance the image covers half the width and height."""
        poses, intrinsics = cameras((0, 0, 0), (0, 0, WALL / 2))
        depth, mask = wall(2)
        shared = shared_views(depth.at[1].set(WALL / 2), mask, poses, intrinsics, 1)
        np.testing.assert_array_equal(shared, [[1, 0.25], [1, 1]])

    def test_points_behind_a_camera_are_not_seen(self) -> None:
        poses, intrinsics = cameras((0, 0, 0), (0, 0, 0))
        about_face = jnp.diag(jnp.array([-1.0, 1.0, -1.0, 1.0]))
        shared = shared_views(*wall(2), poses.at[1].set(about_face), intrinsics, 1)
        np.testing.assert_array_equal(shared, np.eye(2))

    @pytest.mark.parametrize(("near", "seen"), [(1.0, 0.5), (1.92, 1.0)])
    def test_an_occluder_hides_what_is_behind_it(self, near: float, seen: float) -> None:
        """The left half of view 1 is at `near`: 1.92 is within 5 % of the wall at 2."""
        poses, intrinsics = cameras((0, 0, 0), (0, 0, 0))
        depth, mask = wall(2)
        depth = depth.at[1, :, : SIDE // 2].set(near)
        assert shared_views(depth, mask, poses, intrinsics, 1)[0, 1] == seen

    def test_unknown_depth_neither_counts_nor_sees(self) -> None:
        poses, intrinsics = cameras((0, 0, 0), (0, 0, 0), (0, 0, 0))
        depth, mask = wall(3)
        mask = mask.at[1, :2].set(False).at[2].set(False)
        shared = shared_views(jnp.where(mask, depth, 0), mask, poses, intrinsics, 1)
        np.testing.assert_array_equal(shared, [[1, 0.75, 0], [1, 1, 0], [0, 0, 0]])

    def test_stride_jit_and_vmap(self) -> None:
        poses, intrinsics = cameras((0, 0, 0), (4 * PIXEL, 0, 0))
        depth, mask = wall(2)
        batch = [jnp.stack([array, array]) for array in (depth, mask, poses, intrinsics)]
        strided = jax.jit(jax.vmap(lambda *scene: overlap(*scene, stride=2)))(*batch)
        np.testing.assert_array_equal(strided, np.tile([[1, 0.5], [0.5, 1]], (2, 1, 1)))

    def test_a_stride_larger_than_the_image_takes_one_pixel(self) -> None:
        poses, intrinsics = cameras((0, 0, 0), (0, 0, 0))
        np.testing.assert_array_equal(
            shared_views(*wall(2), poses, intrinsics, 100), np.ones((2, 2))
        )
