"""Where one reconstruction lies in the world of another that shares some views with it.

Numpy, in double precision. Two ways: the points of the shared views laid over each other, and the
views' poses, with the scale of what each camera sees.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon.errors import InputError
from jaxrecon.geometry.alignment import Similarity, umeyama

_ROUNDS = 50
_SETTLED = 1e-10
_HUBER = 1.345
_DEVIATION = 1.4826
_LEAST_SPREAD = 1e-9
_INLIER = 0.1

type ManyViews = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Points (V, P, 3), depth (V, H, W), poses (V, 4, 4) and intrinsics (V, 3, 3).

Points and depth are NaN where pixels show no photo.
"""

IDENTITY = Similarity(1.0, np.eye(3), np.zeros(3))
"""Leaves everything where it is."""


@dataclass(frozen=True, eq=False)
class SharedViews:
    """What two reconstructions say of the same P pixels in each of F views that they share.

    Attributes:
      first_points, second_points: the points of the pixels in the camera's frame.
      weights: how far to trust a pixel's two points, at least 0; 0 leaves them out.
      first_poses, second_poses: world-from-camera, rigid; each in a world and unit of its own.
    """

    first_points: Float[np.ndarray, "F P 3"]
    second_points: Float[np.ndarray, "F P 3"]
    weights: Float[np.ndarray, "F P"]
    first_poses: Float[np.ndarray, "F 4 4"]
    second_poses: Float[np.ndarray, "F 4 4"]

    def sound(self) -> "SharedViews":
        """The same in double precision, with the weight 0 for what is not finite or lies in 0."""
        first, second, weights = (
            np.asarray(array, np.float64)
            for array in (self.first_points, self.second_points, self.weights)
        )
        poses = [np.asarray(pose, np.float64) for pose in (self.first_poses, self.second_poses)]
        good = np.isfinite(weights) & (weights > 0)
        for points in (first, second):
            good &= np.isfinite(points).all(axis=-1) & (points != 0).any(axis=-1)
        for pose in poses:
            good &= np.isfinite(pose).all(axis=(1, 2))[:, None]
        first, second = (np.where(good[..., None], points, 1.0) for points in (first, second))
        one, other = (np.where(np.isfinite(pose), pose, np.eye(4)) for pose in poses)
        return SharedViews(first, second, np.where(good, weights, 0.0), one, other)


@dataclass(frozen=True, eq=False)
class Fit:
    """How well a similarity lays the second reconstruction over the first.

    Attributes:
      points: how many pairs of points were compared.
      inliers: share of them, by weight, that lie within a tenth of their distance from the camera.
      residual: the median, by weight, of what lies between them, over their distance from the
        camera.
      turn: the median angle between the two rotations of a view, in degrees.
      shift: the median distance between the two places of a view, over that of all points from the
        first's cameras.
      by_view: the share of inliers of each view; NaN where none of its points was compared.
    """

    points: int
    inliers: float
    residual: float
    turn: float
    shift: float
    by_view: Float[np.ndarray, " F"]


def join_by_points(shared: SharedViews, *, with_scale: bool) -> Similarity:
    """The similarity that lays the second reconstruction's points over the first's.

    The scale is `scale_of`. Rotation and shift minimise the sum over all points of
    `w huber(r / (1.345 s))`, where `r` is the distance between the two over that from the first's
    camera, and `s` is 1.4826 times the median of `r`: weighted least squares (`umeyama`), weighted
    anew until it settles. A scale fitted to the points' spread as well is drawn towards 0 by their
    noise, a little at each join.

    Args:
      shared: what both say of the same pixels.
      with_scale: whether the scale is fitted, or held at 1.

    Raises:
      InputError: no pair of points has a weight.

    Source: Huber, Robust estimation of a location parameter, 1964; Umeyama 1991.
    """
    shared = shared.sound()
    source, target, away, weights = _world_points(shared)
    scale = scale_of(shared) if with_scale else 1.0
    source = scale * source
    base = weights / away**2
    found = umeyama(source, target, base, with_scale=False)
    for _ in range(_ROUNDS):
        distance = np.linalg.norm(found.points(source) - target, axis=-1) / away
        before = found
        found = umeyama(source, target, base * _huber(distance, weights), with_scale=False)
        if _moved(before, found) < _SETTLED:
            break
    return Similarity(scale, found.rotation, found.translation)


def join_by_poses(shared: SharedViews, *, with_scale: bool) -> Similarity:
    """The similarity that lays the second reconstruction's cameras over the first's.

    The scale is `scale_of`. Rotation and shift are the mean of what each view's two poses say, with
    Huber's weights, and each view weighs what its points do. One shared view is enough.

    Args:
      shared: what both say of the same pixels.
      with_scale: whether the scale is fitted, or held at 1.

    Raises:
      InputError: no pair of points has a weight.
    """
    shared = shared.sound()
    scale = scale_of(shared) if with_scale else 1.0
    views = shared.weights.sum(axis=1)
    _check_any(views)
    first, second = shared.first_poses, shared.second_poses
    turns = first[:, :3, :3] @ np.swapaxes(second[:, :3, :3], 1, 2)
    rotation = _robust_mean(turns, views, _nearest_rotation)
    shifts = first[:, :3, 3] - scale * second[:, :3, 3] @ rotation.T
    return Similarity(scale, rotation, _robust_mean(shifts, views, lambda shift: shift))


def scale_of(shared: SharedViews) -> float:
    """The median, by weight, of how much farther from its camera the first sees each point.

    Raises:
      InputError: no pair of points has a weight.
    """
    shared = shared.sound()
    _check_any(shared.weights)
    first, second = (
        np.linalg.norm(points, axis=-1) for points in (shared.first_points, shared.second_points)
    )
    return float(np.exp(_median(np.log(first / second), shared.weights)))


def fit_of(shared: SharedViews, similarity: Similarity) -> Fit:
    """How well a similarity lays the second reconstruction over the first.

    Raises:
      InputError: no pair of points has a weight.
    """
    shared = shared.sound()
    source, target, away, weights = _world_points(shared)
    distance = np.linalg.norm(similarity.points(source) - target, axis=-1) / away
    near = (distance < _INLIER) * weights
    view = np.nonzero(shared.weights > 0)[0]
    views = len(shared.weights)
    all_of, near_of = (np.bincount(view, w, minlength=views) for w in (weights, near))
    known = all_of > 0
    mapped = similarity.poses(shared.second_poses)[known]
    poses = shared.first_poses[known]
    turns = np.swapaxes(mapped[:, :3, :3], 1, 2) @ poses[:, :3, :3]
    gap = np.linalg.norm(turns - np.eye(3), axis=(1, 2)) / np.sqrt(8)
    shifts = np.linalg.norm(mapped[:, :3, 3] - poses[:, :3, 3], axis=1)
    return Fit(
        points=len(source),
        inliers=float(near.sum() / weights.sum()),
        residual=float(_median(distance, weights)),
        turn=float(np.median(np.degrees(2 * np.arcsin(np.minimum(gap, 1))))),
        shift=float(np.median(shifts) / _median(away, weights)),
        by_view=np.where(known, near_of / np.where(known, all_of, 1), np.nan),
    )


def composed(outer: Similarity, inner: Similarity) -> Similarity:
    """The similarity that maps by `inner`, then by `outer`."""
    return Similarity(
        outer.scale * inner.scale,
        outer.rotation @ inner.rotation,
        outer.points(inner.translation),
    )


def inverse(similarity: Similarity) -> Similarity:
    """The similarity that undoes another one."""
    rotation = similarity.rotation.T
    scale = 1 / similarity.scale
    return Similarity(scale, rotation, -scale * (rotation @ similarity.translation))


def _world_points(
    shared: SharedViews,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points of the second and the first in their worlds, distances from the first's cameras, and
    weights, of all pairs that have one.
    """
    good = shared.weights > 0
    _check_any(shared.weights)

    def world(points: np.ndarray, poses: np.ndarray) -> np.ndarray:
        turned = np.einsum("fij,fpj->fpi", poses[:, :3, :3], points)
        return (turned + poses[:, None, :3, 3])[good]

    away = np.linalg.norm(shared.first_points, axis=-1)[good]
    return (
        world(shared.second_points, shared.second_poses),
        world(shared.first_points, shared.first_poses),
        away,
        shared.weights[good],
    )


def _check_any(weights: np.ndarray) -> None:
    if not (weights > 0).any():
        raise InputError("join: the two reconstructions share no pixel of positive weight")


def _huber(
    distance: Float[np.ndarray, " P"], weights: Float[np.ndarray, " P"]
) -> Float[np.ndarray, " P"]:
    """Huber's weight of each distance; what is typical is the median, by weight, of all."""
    most = _HUBER * max(_DEVIATION * _median(distance, weights), _LEAST_SPREAD)
    return np.minimum(1.0, most / np.maximum(distance, _LEAST_SPREAD))


def _moved(before: Similarity, after: Similarity) -> float:
    """How much one similarity differs from another, without a unit."""
    turned = np.abs(before.rotation - after.rotation).max()
    shift = np.linalg.norm(before.translation - after.translation)
    size = np.linalg.norm(after.translation) + after.scale
    return max(turned, shift / size, abs(before.scale / after.scale - 1))


def _robust_mean(
    values: np.ndarray, weights: np.ndarray, onto: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """The mean of arrays along the first axis, with Huber's weights, put `onto` what it must be."""
    own = weights / weights.sum()
    mean = onto(np.tensordot(own, values, 1))
    for _ in range(_ROUNDS):
        distance = np.sqrt(((values - mean) ** 2).reshape(len(values), -1).sum(axis=1))
        robust = own * _huber(distance, own)
        before, mean = mean, onto(np.tensordot(robust / robust.sum(), values, 1))
        if np.abs(mean - before).max() < _SETTLED:
            break
    return mean


def _nearest_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    u, _, vt = np.linalg.svd(matrix)
    return (u * [1, 1, np.linalg.det(u @ vt)]) @ vt


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    """The value with half of the weight on either side."""
    values, weights = values.reshape(-1), weights.reshape(-1)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, 0.5 * reached[-1])])


def seen_by_the_next(
    points: Float[np.ndarray, "V P 3"],
    depth_z: Float[np.ndarray, "V H W"],
    poses: Float[np.ndarray, "V 4 4"],
    intrinsics: Float[np.ndarray, "V 3 3"],
) -> Float[np.ndarray, "pairs"]:
    """How much of what a view sees the next one sees too, and the other way round; in [0, 1].

    The share of a view's points that fall into the other's picture where it has a depth within a
    tenth of theirs; the mean of both directions. Where two views show nothing in common it is next
    to 0 whatever place they were given.

    Args:
      points: of some pixels, in their cameras' frames; NaN for those that are not asked about.
      depth_z: of all pixels; NaN where there is none.
      poses: world-from-camera.
      intrinsics: in pixels.
    """
    views = points, depth_z, poses, intrinsics
    both = [
        (seen_by(views, one, views, one + 1), seen_by(views, one + 1, views, one))
        for one in range(len(points) - 1)
    ]
    return np.array(both).reshape(-1, 2).mean(axis=1)


def seen_by(views: ManyViews, one: int, others: ManyViews, other: int) -> float:
    """The share of a view's points that another view sees where they are; see `matched`.

    0 for a view without points.
    """
    asked = np.isfinite(views[0][one]).all(axis=1)
    agrees, _, _ = matched(views, one, others, other)
    return float(agrees.sum() / max(asked.sum(), 1))


def matched(
    views: ManyViews, one: int, others: ManyViews, other: int
) -> tuple[Bool[np.ndarray, " P"], Int[np.ndarray, " P"], Int[np.ndarray, " P"]]:
    """Where another view sees a view's points: whether it does, and in which row and column.

    Args:
      views, others: points of some pixels in their cameras' frames, depth of all pixels, poses and
        intrinsics of views in one world; see `seen_by_the_next`.
      one, other: a row of each.
    """
    points, _, poses, _ = views
    _, depth_z, other_poses, intrinsics = others
    height, width = depth_z.shape[1:]
    world = points[one].astype(np.float64) @ poses[one, :3, :3].T + poses[one, :3, 3]
    own = (world - other_poses[other, :3, 3]) @ other_poses[other, :3, :3]
    z = own[:, 2]
    ahead = z > _LEAST_SPREAD
    pixels = own @ intrinsics[other].astype(np.float64).T
    xy = pixels[:, :2] / np.where(ahead, z, 1.0)[:, None]
    inside = ahead & np.isfinite(xy).all(axis=1)
    column, row = np.round(np.where(inside[:, None], xy, -1)).clip(-1, 2**30).astype(int).T
    inside &= (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    agrees = inside & (np.abs(depth_z[other, row, column] - z) < _INLIER * z)
    return agrees, row, column
