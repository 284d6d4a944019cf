"""Cameras refined so that tracked points project to where they were seen; needs pycolmap."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.formats import VIEW_ARRAYS, PointTracks, Scene
from jaxrecon.formats.tracks import MAX_REPROJECTION_ERROR, TrackedPoints, tracked_points
from jaxrecon.geometry import Similarity, umeyama
from jaxrecon.progress import Stages, quiet_stages
from jaxrecon.reconstruction import Reconstruction

MIN_SHARED_TRACKS = 16
"""Fewest good tracks by which two views hold each other in place."""

_FATAL = 3
_NAMES_SHOWN = 5


def bundle_adjust(
    recon: Reconstruction,
    *,
    shared_camera: bool = False,
    max_reprojection_error: float = MAX_REPROJECTION_ERROR,
    stages: Stages | None = None,
) -> Reconstruction:
    """Refines poses and focal lengths on the tracks of a reconstruction, by bundle adjustment.

    Poses, focal lengths and tracked points are fitted to the good observations (see
    `export.tracks`) by COLMAP's solver, with a soft L1 loss; principal points are held. The result
    is brought back to the unit and frame of `recon`: its scale is the one at which the depth of
    the tracked points agrees with `depth_z` (the median of their ratios), and it is turned and
    moved to where cameras and points were. Each pixel keeps its `depth_z`, and its point follows
    the refined camera. `tracks.points_world` of the result are the refined points.

    The refined views are the largest group that hangs together by pairs which share at least
    `MIN_SHARED_TRACKS` good tracks. Other views keep their camera and points, bit by bit.

    Args:
      recon: cameras and depth, with tracks.
      shared_camera: whether the refined views have one camera; its first guess is their mean.
      max_reprojection_error: most pixels by which an observation may be off before the fit.
      stages: told which views keep their camera; silent if not given.

    Returns:
      The refined reconstruction, with its arrays in host memory.

    Raises:
      InputError: pycolmap is not installed, there is one view, there are no tracks or too few good
        ones, the greatest error is not a positive number, a shared camera is asked for photos that
        were brought to size differently, or the solver fails.

    Source: `demo_colmap.py` of VGGT, which takes a plain squared loss and does not go back to the
    depth maps.
    """
    stages = quiet_stages(stages)
    pycolmap = check_adjustable(len(recon))
    if recon.tracks is None:
        raise InputError(
            "bundle adjustment needs point tracks and the reconstruction has none; follow points "
            "with query_points, by a model that tracks"
        )
    if not 0 < max_reprojection_error < np.inf:
        raise InputError(f"{max_reprojection_error=} must be a positive number of pixels")
    scene = recon.scene()
    found = tracked_points(scene, recon.tracks, max_reprojection_error=max_reprojection_error)
    points, views = _held_together(found, max_reprojection_error)
    _note_others(recon, views, stages)
    if shared_camera:
        _check_alike(recon, views)
    problem = _problem(scene, points, views, shared_camera)
    solution = _solve(pycolmap, problem)
    home = _similarity_home(problem, solution)
    tracks = _refined_tracks(recon.tracks.numpy(), points, home.points(solution.points_world))
    return replace(recon, **_refined(scene, views, solution, home), tracks=tracks)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The views to refine, in double precision, and what is seen in them.

    `given_*` tell of each point the view in which it was given, the pixel nearest to it there, and
    that pixel's depth and point.
    """

    world_from_camera: Float[np.ndarray, "V 4 4"]
    intrinsics: Float[np.ndarray, "V 3 3"]
    shared_camera: bool
    size: tuple[int, int]
    points_world: Float[np.ndarray, "P 3"]
    xy: Float[np.ndarray, "V P 2"]
    seen: Bool[np.ndarray, "V P"]
    given_view: Int[np.ndarray, " P"]
    given_xy: Float[np.ndarray, "P 2"]
    given_depth_z: Float[np.ndarray, " P"]
    given_points_world: Float[np.ndarray, "P 3"]


@dataclass(frozen=True, eq=False)
class _Solution:
    """Cameras and points that fit, in a frame and unit of their own."""

    world_from_camera: Float[np.ndarray, "V 4 4"]
    intrinsics: Float[np.ndarray, "V 3 3"]
    points_world: Float[np.ndarray, "P 3"]


def check_adjustable(views: int | None) -> ModuleType:
    """The module `pycolmap`, if it can refine so many views; None for a number not known yet.

    Raises:
      InputError: pycolmap is not installed, or there are fewer than two views.
    """
    with Extra("colmap", "bundle adjustment needs pycolmap"):
        import pycolmap
    if views is not None and views < 2:
        raise InputError(f"bundle adjustment needs at least two views, found {views}; leave it out")
    return pycolmap


def _held_together(
    found: TrackedPoints, max_reprojection_error: float
) -> tuple[TrackedPoints, Bool[np.ndarray, " V"]]:
    """The good tracks of the views to refine, and which views those are."""
    views, seen = _largest_group(found.seen, found.query_view)
    if views.sum() < 2:
        most = int(np.triu(_shared_tracks(found.seen), 1).max())
        raise InputError(
            f"bundle adjustment needs views that share at least {MIN_SHARED_TRACKS} good tracks, "
            f"and no two share more than {most}; follow more points, or allow a reprojection error "
            f"of more than {max_reprojection_error:g} pixels (--max-reprojection-error, "
            "max_reprojection_error)"
        )
    return replace(found, seen=seen).chosen(seen.any(axis=0)), views


def _largest_group(
    seen: Bool[np.ndarray, "V P"], query_view: Int[np.ndarray, " P"]
) -> tuple[Bool[np.ndarray, " V"], Bool[np.ndarray, "V P"]]:
    """The most views that shared tracks hold together, and what was given and is seen in them."""
    from scipy.sparse.csgraph import connected_components

    while True:
        _, group = connected_components(_shared_tracks(seen) >= MIN_SHARED_TRACKS, directed=False)
        views = group == np.bincount(group).argmax()
        inside = seen & views[:, None] & views[query_view]
        inside &= inside.sum(axis=0) >= 2
        if (inside == seen).all():
            return views, seen
        seen = inside


def _shared_tracks(seen: Bool[np.ndarray, "V P"]) -> Float[np.ndarray, "V V"]:
    counts = seen.astype(np.float32)
    return counts @ counts.T


def _note_others(recon: Reconstruction, views: Bool[np.ndarray, " V"], stages: Stages) -> None:
    names = [recon.names[view] for view in np.flatnonzero(~views)]
    if not names:
        return
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    stages.note(
        f"bundle adjustment keeps the cameras of {len(names)} of {len(views)} views, which share "
        f"fewer than {MIN_SHARED_TRACKS} good tracks with the others: "
        f"{', '.join(names[:_NAMES_SHOWN])}{more}"
    )


def _check_alike(recon: Reconstruction, views: Bool[np.ndarray, " V"]) -> None:
    """Refuses views whose pixels cannot have one camera."""
    first, *others = np.flatnonzero(views).tolist()
    for other in others:
        a, b = recon.transforms[first], recon.transforms[other]
        if not np.allclose((a.scale, a.offset), (b.scale, b.offset), rtol=1e-6, atol=1e-6):
            raise InputError(
                "one camera for all views needs photos that were brought to size alike, and those "
                f"of view {first} ({recon.names[first]}) and view {other} ({recon.names[other]}) "
                "were not; leave it out"
            )


def _problem(
    scene: Scene, points: TrackedPoints, views: Bool[np.ndarray, " V"], shared_camera: bool
) -> _Problem:
    _, height, width = scene.mask.shape
    view, row, column = np.unravel_index(points.pixel, scene.mask.shape)
    intrinsics = scene.intrinsics[views].astype(np.float64)
    if shared_camera:
        intrinsics[:] = intrinsics.mean(axis=0)
    return _Problem(
        world_from_camera=scene.world_from_camera[views].astype(np.float64),
        intrinsics=intrinsics,
        shared_camera=shared_camera,
        size=(width, height),
        points_world=points.xyz,
        xy=points.xy[views],
        seen=points.seen[views],
        given_view=(np.cumsum(views) - 1)[view],
        given_xy=np.stack([column, row], axis=-1).astype(np.float64),
        given_depth_z=scene.points_camera[..., 2].reshape(-1)[points.pixel].astype(np.float64),
        given_points_world=scene.points_world.reshape(-1, 3)[points.pixel].astype(np.float64),
    )


def _solve(pycolmap: ModuleType, problem: _Problem) -> _Solution:
    model = _colmap_model(pycolmap, problem)
    options, config = _options(pycolmap), pycolmap.BundleAdjustmentConfig()
    for number in model.images:
        config.add_image(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    with _silenced(pycolmap):
        summary = pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    solution = _read(model, problem)
    numbers = (solution.world_from_camera, solution.intrinsics, solution.points_world)
    if not (summary.is_solution_usable() and all(np.isfinite(x).all() for x in numbers)):
        raise InputError(
            f"bundle adjustment failed ({summary.termination_type.name.lower()}); leave it out, or "
            "follow more points"
        )
    return solution


def _colmap_model(pycolmap: ModuleType, problem: _Problem) -> Any:
    """Views and points as COLMAP has them, but in OpenCV's pixels: only differences count."""
    model = pycolmap.Reconstruction()
    width, height = problem.size
    for view, pose in enumerate(problem.world_from_camera):
        camera = 1 if problem.shared_camera else view + 1
        if camera == view + 1:
            k = problem.intrinsics[view]
            pinhole = [k[0, 0], k[1, 1], k[0, 2], k[1, 2]]
            model.add_camera_with_trivial_rig(
                pycolmap.Camera(
                    model="PINHOLE", width=width, height=height, params=pinhole, camera_id=camera
                )
            )
        xy = problem.xy[view, problem.seen[view]]
        image = pycolmap.Image(name=str(view), keypoints=xy, camera_id=camera, image_id=view + 1)
        rotation = pycolmap.Rotation3d(pose[:3, :3].T)
        moved = pycolmap.Rigid3d(rotation, -rotation.matrix() @ pose[:3, 3])
        model.add_image_with_trivial_frame(image, moved)
    place = np.cumsum(problem.seen, axis=1) - 1
    for point, xyz in enumerate(problem.points_world):
        seen = np.flatnonzero(problem.seen[:, point]).tolist()
        track = [pycolmap.TrackElement(view + 1, place[view, point]) for view in seen]
        model.add_point3D(xyz, pycolmap.Track(track))
    return model


def _options(pycolmap: ModuleType) -> Any:
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.refine_principal_point = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    options.ceres.loss_function_scale = 1.0
    options.ceres.solver_options.function_tolerance = 1e-6
    return options


@contextmanager
def _silenced(pycolmap: ModuleType) -> Iterator[None]:
    """COLMAP's log is off, and what its own checks find becomes one line."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = _FATAL
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"bundle adjustment failed ({reason}); leave it out") from error
    finally:
        pycolmap.logging.minloglevel = level


def _read(model: Any, problem: _Problem) -> _Solution:
    images = [model.image(number + 1) for number in range(len(problem.intrinsics))]
    poses = np.tile(np.eye(4), (len(images), 1, 1))
    poses[:, :3] = [image.cam_from_world().inverse().matrix() for image in images]
    intrinsics = problem.intrinsics.copy()
    intrinsics[:, [0, 1], [0, 1]] = [image.camera.params[:2] for image in images]
    points = [model.point3D(number + 1).xyz for number in range(len(problem.points_world))]
    return _Solution(poses, intrinsics, np.array(points))


def _similarity_home(problem: _Problem, solution: _Solution) -> Similarity:
    """From the solution's frame to that of the problem, in the unit of the depth maps."""
    pose = solution.world_from_camera[problem.given_view]
    depth = np.einsum("pi,pi->p", solution.points_world - pose[:, :3, 3], pose[:, :3, 2])
    ahead = depth > 0
    if not ahead.any():
        raise InputError("bundle adjustment failed: no point is ahead of its camera; leave it out")
    scale = float(np.median(problem.given_depth_z[ahead] / depth[ahead]))
    rays = np.linalg.inv(solution.intrinsics)[problem.given_view]
    xy1 = np.append(problem.given_xy, np.ones((len(pose), 1)), axis=1)
    in_camera = np.einsum("pij,pj->pi", rays, xy1) * problem.given_depth_z[:, None]
    points = np.einsum("pij,pj->pi", pose[:, :3, :3], in_camera) + scale * pose[:, :3, 3]
    centres = solution.world_from_camera[:, :3, 3]
    rigid = umeyama(
        np.concatenate([scale * centres, points]),
        np.concatenate([problem.world_from_camera[:, :3, 3], problem.given_points_world]),
        np.repeat((1 / len(centres), 1 / len(points)), (len(centres), len(points))),
        with_scale=False,
    )
    return Similarity(scale, rigid.rotation, rigid.translation)


def _refined(
    scene: Scene, views: Bool[np.ndarray, " V"], solution: _Solution, home: Similarity
) -> dict[str, np.ndarray]:
    """All arrays of the reconstruction, with new cameras and points for the refined views."""
    arrays = {name: np.array(getattr(scene, name)) for name in VIEW_ARRAYS}
    arrays["world_from_camera"][views] = poses = home.poses(solution.world_from_camera)
    arrays["intrinsics"][views] = solution.intrinsics
    for view, pose, k in zip(np.flatnonzero(views), poses, solution.intrinsics, strict=True):
        with np.errstate(invalid="ignore"):  # depth need not be finite
            in_camera = _unprojected(scene.points_camera[view, ..., 2], k)
            in_world = in_camera @ pose[:3, :3].T + pose[:3, 3]
        arrays["points_camera"][view], arrays["points_world"][view] = in_camera, in_world
    return arrays


def _refined_tracks(
    tracks: PointTracks, points: TrackedPoints, xyz: Float[np.ndarray, "P 3"]
) -> PointTracks:
    points_world = np.full((len(tracks), 3), np.nan, np.float32)
    points_world[points.track] = xyz
    return replace(tracks, points_world=points_world)


def _unprojected(
    depth_z: Float[np.ndarray, "H W"], intrinsics: Float[np.ndarray, "3 3"]
) -> Float[np.ndarray, "H W 3"]:
    """As `geometry.unproject_depth`, in double precision and without a device."""
    row, column = np.indices(depth_z.shape)
    x = (column - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (row - intrinsics[1, 2]) / intrinsics[1, 1]
    return np.stack([x * depth_z, y * depth_z, depth_z], axis=-1).astype(np.float64)
