"""Which tracked points are good enough to be points of a sparse model, and where they are seen."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrecon.formats.scene import PointTracks, Scene

MIN_VISIBILITY = 0.2
"""Least probability with which a point is taken as seen; `vis_thresh` of VGGT's demo_colmap.py."""

MAX_REPROJECTION_ERROR = 8.0
"""Most pixels between an observation and its point's projection; `max_reproj_error` of the same."""


@dataclass(frozen=True, eq=False)
class TrackedPoints:
    """P tracked points, each of them seen in at least two of V views.

    Attributes:
      track: the number of each point's track, rising.
      query_view: the view in which it was given.
      pixel: flat index into (V, H, W) of the pixel nearest to where it was given.
      xyz: world coordinates.
      xy: position in each view, in pixels of the processed pictures.
      seen: which of these observations are good.
    """

    track: Int[np.ndarray, " P"]
    query_view: Int[np.ndarray, " P"]
    pixel: Int[np.ndarray, " P"]
    xyz: Float[np.ndarray, "P 3"]
    xy: Float[np.ndarray, "V P 2"]
    seen: Bool[np.ndarray, "V P"]

    def chosen(self, points: Int[np.ndarray, " P2"] | Bool[np.ndarray, " P"]) -> "TrackedPoints":
        """Some of the points, by number or by mask."""
        return TrackedPoints(
            track=self.track[points],
            query_view=self.query_view[points],
            pixel=self.pixel[points],
            xyz=self.xyz[points],
            xy=self.xy[:, points],
            seen=self.seen[:, points],
        )


def tracked_points(
    scene: Scene, tracks: PointTracks, *, max_reprojection_error: float = MAX_REPROJECTION_ERROR
) -> TrackedPoints:
    """The tracks that have a point and at least two good observations.

    A point is what bundle adjustment found, else that of the pixel nearest to where it was given;
    this pixel must be under the mask. An observation is good if it is inside the picture, the point
    is ahead of the camera and projected within `max_reprojection_error` pixels of it, and its
    visibility is at least `MIN_VISIBILITY`; where a point was given it is visible in any case.
    """
    found = _usable(scene, tracks)
    seen = found.seen.copy()
    for view, (pose, k) in enumerate(zip(scene.world_from_camera, scene.intrinsics, strict=True)):
        distance = _reprojection_error(found.xyz, pose, k, found.xy[view])
        seen[view] &= (distance >= 0) & (distance <= max_reprojection_error)
    good = TrackedPoints(found.track, found.query_view, found.pixel, found.xyz, found.xy, seen)
    return good.chosen(seen.sum(axis=0) >= 2)


def _usable(scene: Scene, tracks: PointTracks) -> TrackedPoints:
    """The tracks with a finite point, whether or not it agrees with where it is visible."""
    _, height, width = scene.mask.shape
    query_view, all_xy = np.asarray(tracks.query_view), np.asarray(tracks.xy, np.float64)
    given = all_xy[query_view, np.arange(len(tracks))]
    track = np.flatnonzero(_inside(given, width, height))
    query_view, xy = query_view[track], all_xy[:, track]
    column, row = np.floor(given[track] + 0.5).astype(np.int64).T
    column, row = column.clip(0, width - 1), row.clip(0, height - 1)
    pixel = np.ravel_multi_index((query_view, row, column), scene.mask.shape)
    xyz = scene.points_world.reshape(-1, 3)[pixel].astype(np.float64)
    if tracks.points_world is not None:
        refined = np.asarray(tracks.points_world)[track]
        xyz = np.where(np.isfinite(refined).all(axis=1, keepdims=True), refined, xyz)
    visible = np.asarray(tracks.visibility)[:, track] >= MIN_VISIBILITY
    visible |= np.arange(len(xy))[:, None] == query_view
    seen = visible & _inside(xy, width, height)
    usable = scene.mask.reshape(-1)[pixel] & np.isfinite(xyz).all(axis=1)
    return TrackedPoints(track, query_view, pixel, xyz, xy, seen).chosen(usable)


def _inside(
    xy: Float[np.ndarray, "*points 2"], width: int, height: int
) -> Bool[np.ndarray, "*points"]:
    return ((xy >= -0.5) & (xy <= (width - 0.5, height - 0.5))).all(axis=-1)


def _reprojection_error(
    xyz: Float[np.ndarray, "P 3"],
    world_from_camera: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "3 3"],
    xy: Float[np.ndarray, "P 2"],
) -> Float[np.ndarray, " P"]:
    """Pixels between `xy` and the projection of each world point; -1 behind the camera."""
    pose, k = world_from_camera.astype(np.float64), intrinsics.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):  # a camera that is not finite sees nothing
        in_camera = (xyz - pose[:3, 3]) @ pose[:3, :3]
        return pixel_distance(in_camera, k[[0, 1, 0, 1], [0, 1, 2, 2]], xy)


def pixel_distance(
    in_camera: Float[np.ndarray, "P 3"],
    pinhole: Float[np.ndarray, "4"],
    xy: Float[np.ndarray, "P 2"],
) -> Float[np.ndarray, " P"]:
    """Pixels between `xy` and the projection by (fx, fy, cx, cy); -1 behind the camera."""
    ahead = in_camera[:, 2] > 0
    depth = np.where(ahead, in_camera[:, 2], 1)[:, None]
    projected = pinhole[:2] * in_camera[:, :2] / depth + pinhole[2:]
    return np.where(ahead, np.linalg.norm(projected - xy, axis=-1), -1)
