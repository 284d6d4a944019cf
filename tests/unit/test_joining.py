"""Where one reconstruction lies in the world of another that shares views with it."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxrecon import InputError
from jaxrecon.geometry import (
    SharedViews,
    Similarity,
    composed,
    fit_of,
    inverse,
    join_by_points,
    join_by_poses,
)

WAYS = pytest.mark.parametrize("join", [join_by_points, join_by_poses])
TRUE = Similarity(1.7, Rotation.from_rotvec([0.3, -0.8, 0.4]).as_matrix(), np.array([3.0, -1, 2]))


def shared(
    views: int = 5, pixels: int = 200, *, true: Similarity = TRUE, noise: float = 0.0
) -> SharedViews:
    """The second reconstruction, in its own world and unit, and the first, as `true` has it."""
    rng = np.random.default_rng(3)
    depth = rng.uniform(1, 6, (views, pixels, 1))
    points = np.concatenate([rng.uniform(-0.5, 0.5, (views, pixels, 2)), np.ones_like(depth)], 2)
    points = points * depth
    poses = np.broadcast_to(np.eye(4), (views, 4, 4)).copy()
    poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(0, 0.4, (views, 3))).as_matrix()
    poses[:, :3, 3] = rng.normal(0, 1, (views, 3))
    first = true.scale * points * (1 + noise * rng.normal(size=depth.shape))
    return SharedViews(first, points, np.ones((views, pixels)), true.poses(poses), poses)


def assert_close(found: Similarity, true: Similarity = TRUE, *, by: float = 1e-6) -> None:
    assert found.scale == pytest.approx(true.scale, rel=by)
    np.testing.assert_allclose(found.rotation, true.rotation, atol=by)
    np.testing.assert_allclose(found.translation, true.translation, atol=10 * by)


@WAYS
@pytest.mark.parametrize("views", [1, 2, 9])
def test_the_similarity_is_found(join: Callable[..., Similarity], views: int) -> None:
    both = shared(views)
    found = join(both, with_scale=True)
    assert_close(found)
    fit = fit_of(both, found)
    assert fit.points == 200 * views
    assert fit.inliers == pytest.approx(1)
    assert max(fit.residual, fit.shift) < 1e-9 and fit.turn < 1e-5
    np.testing.assert_allclose(fit.by_view, 1)


@WAYS
def test_without_a_scale(join: Callable[..., Similarity]) -> None:
    rigid = replace(TRUE, scale=1.0)
    assert_close(join(shared(true=rigid), with_scale=False), rigid)
    assert join(shared(), with_scale=False).scale == 1


@WAYS
def test_a_view_that_is_wrong_counts_little(join: Callable[..., Similarity]) -> None:
    """One view of nine is misplaced, and a tenth of the points of the others too."""
    both = shared(9, noise=0.01)
    points, poses = both.first_points.copy(), both.first_poses.copy()
    points[:, ::10] *= 3
    poses[4, :3, 3] += 2
    poses[4, :3, :3] = Rotation.from_rotvec([0, 0.7, 0]).as_matrix() @ poses[4, :3, :3]
    wrong = replace(both, first_points=points, first_poses=poses)
    found = join(wrong, with_scale=True)
    assert_close(found, by=0.03)
    fit = fit_of(wrong, found)
    assert fit.turn < 1 and fit.shift < 0.01
    assert fit.by_view[4] < 0.2 < 0.8 < np.delete(fit.by_view, 4).min()


@WAYS
def test_what_has_no_weight_counts_for_nothing(join: Callable[..., Similarity]) -> None:
    both = shared()
    points, weights = both.first_points.copy(), both.weights.copy()
    points[1], weights[1] = 100, 0
    points[2, :50] = np.nan
    points[3, :50] = 0
    found = join(replace(both, first_points=points, weights=weights), with_scale=True)
    assert_close(found)
    with pytest.raises(InputError, match="share no pixel of positive weight"):
        join(replace(both, weights=0 * weights), with_scale=True)


@WAYS
def test_a_camera_that_stands_still(join: Callable[..., Similarity]) -> None:
    both = shared()
    still = [np.broadcast_to(p[:1], p.shape) for p in (both.first_poses, both.second_poses)]
    assert_close(join(replace(both, first_poses=still[0], second_poses=still[1]), with_scale=True))


def test_inverse_and_composition() -> None:
    points = np.random.default_rng(0).normal(size=(7, 3))
    other = Similarity(0.4, Rotation.from_rotvec([1, 0.2, 0]).as_matrix(), np.array([0.1, 2, -3]))
    np.testing.assert_allclose(inverse(TRUE).points(TRUE.points(points)), points, atol=1e-12)
    both = composed(TRUE, other)
    np.testing.assert_allclose(both.points(points), TRUE.points(other.points(points)), atol=1e-12)


def test_far_points_count_by_their_distance() -> None:
    """Errors of depth grow with depth: near points settle where far ones are off together."""
    both = shared(2, 400)
    points = both.first_points.copy()
    far = np.linalg.norm(points, axis=-1) > 8
    points[far] += [0.4, 0, 0]
    found = join_by_points(replace(both, first_points=points), with_scale=True)
    assert_close(found, by=0.01)
