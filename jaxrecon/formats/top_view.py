"""A scene seen from above or from the side: coloured points, and where the cameras stood."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from jaxrecon.formats.scene import (
    FRUSTUM_SIZE,
    Scene,
    cameras_up,
    check_cameras,
    select_points,
)
from jaxrecon.geometry import umeyama

PREDICTED, TRUE = (225, 50, 40), (20, 150, 60)
"""Colours of the cameras."""

_PATH = (240, 140, 130)
_BACKGROUND = (245, 245, 245)
_MOST_POINTS = 300_000
_MARGIN = 0.05


def draw_top_view(
    scene: Scene,
    size: tuple[int, int],
    *,
    true_world_from_camera: Float[np.ndarray, "V 4 4"] | None = None,
) -> Image.Image:
    """Draws the points under the mask from straight above, and the cameras' frusta.

    Up is against the mean of the cameras' y axes, and the mean camera looks to the top of the
    picture. Points higher than the highest camera are left out, so that a ceiling hides nothing.
    True cameras are drawn after the similarity that lays them on the predicted ones.

    Args:
      scene: what to draw.
      size: width and height of the picture, in pixels.
      true_world_from_camera: true poses, in any world frame and unit of length.

    Raises:
      InputError: a camera is not usable, or the mask keeps no point.
    """
    axes = axes_from_above(scene.world_from_camera.astype(np.float64))
    return _drawn(scene, size, axes, true_world_from_camera)


def draw_side_view(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """Draws the points under the mask from the side: up is up, and the mean camera looks right.

    Points nearer than the nearest camera are left out, so that a wall hides nothing.

    Args:
      scene: what to draw.
      size: width and height of the picture, in pixels.

    Raises:
      InputError: a camera is not usable, or the mask keeps no point.
    """
    right, ahead, up = axes_from_above(scene.world_from_camera.astype(np.float64))
    return _drawn(scene, size, np.stack([ahead, up, right]), None)


def _drawn(
    scene: Scene,
    size: tuple[int, int],
    axes: Float[np.ndarray, "3 3"],
    true_world_from_camera: Float[np.ndarray, "V 4 4"] | None,
) -> Image.Image:
    """Points and cameras; the axes are the picture's right, its top, and towards who looks."""
    check_cameras(scene)
    points = select_points(scene, _MOST_POINTS)
    pose = scene.world_from_camera.astype(np.float64)
    xyz, centres = points.xyz @ axes.T, pose[:, :3, 3] @ axes.T
    shown = _not_above(xyz, centres)
    plane = _fitted(np.concatenate([_middle(xyz[shown, :2]), centres[:, :2]]), size)
    image = _scattered(xyz[shown], points.rgb[shown], plane)
    draw = ImageDraw.Draw(image)
    reach = FRUSTUM_SIZE * min(size) / plane.scale * 1.5
    if true_world_from_camera is not None:
        _draw_frusta(draw, scene, laid_on(true_world_from_camera, pose), axes, plane, reach, TRUE)
    _draw_path(draw, centres[:, :2], plane)
    _draw_frusta(draw, scene, pose, axes, plane, reach, PREDICTED)
    return image


def _draw_path(
    draw: ImageDraw.ImageDraw, ground: Float[np.ndarray, "V 2"], plane: "_Plane"
) -> None:
    """Draws the way from each camera to the next."""
    if len(ground) > 1:
        draw.line([tuple(point) for point in plane.pixels(ground)], fill=_PATH, width=1)


def laid_on(
    world_from_camera: Float[np.ndarray, "V 4 4"], target: Float[np.ndarray, "V 4 4"]
) -> Float[np.ndarray, "V 4 4"]:
    """Poses after the similarity of the world that lays them best on the target's.

    Besides the cameras' centres, a point on each of their axes is laid on its like, so that cameras
    on one line, or a single one, leave no turn open. Those points are as far from the centre as
    the centres are spread.
    """
    return umeyama(_with_axes(world_from_camera), _with_axes(target)).poses(world_from_camera)


def _with_axes(pose: Float[np.ndarray, "V 4 4"]) -> Float[np.ndarray, "P 3"]:
    centres = pose[:, :3, 3].astype(np.float64)
    arm = float(np.sqrt(((centres - centres.mean(axis=0)) ** 2).sum(axis=1).mean())) or 1.0
    ends = centres[:, None] + arm * np.swapaxes(pose[:, :3, :3], 1, 2)
    return np.concatenate([centres, ends.reshape(-1, 3)])


@dataclass(frozen=True)
class _Plane:
    """How the ground plane becomes pixels: `scale` pixels a unit, `centre` in the middle."""

    scale: float
    centre: Float[np.ndarray, "2"]
    size: tuple[int, int]

    def pixels(self, ground: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points 2"]:
        return (ground - self.centre) * (self.scale, -self.scale) + np.array(self.size) / 2


def axes_from_above(pose: Float[np.ndarray, "V 4 4"]) -> Float[np.ndarray, "3 3"]:
    """Rows: the directions of the picture's right, of its top, and up.

    The mean camera looks to the top.
    """
    up = cameras_up(pose)
    right = np.cross(pose[:, :3, 2].mean(axis=0), up)
    if np.linalg.norm(right) < 1e-3:
        right = pose[0, :3, 0] - up * (pose[0, :3, 0] @ up)
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up])


def _not_above(
    xyz: Float[np.ndarray, "P 3"], centres: Float[np.ndarray, "V 3"]
) -> Bool[np.ndarray, " P"]:
    """Points no higher than the highest camera; all of them if that leaves none."""
    below = xyz[:, 2] <= centres[:, 2].max()
    return below if below.any() else np.ones_like(below)


def _middle(ground: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "2 2"]:
    """Two corners of the box that holds the middle 96 percent of the points on each axis."""
    return np.percentile(ground, [2, 98], axis=0)


def _fitted(ground: Float[np.ndarray, "P 2"], size: tuple[int, int]) -> _Plane:
    """The plane that shows all of these points as large as the picture allows."""
    low, high = ground.min(axis=0), ground.max(axis=0)
    extent = np.maximum(high - low, 1e-9)
    scale = float((np.array(size) * (1 - 2 * _MARGIN) / extent).min())
    return _Plane(scale, (low + high) / 2, size)


def _scattered(
    xyz: Float[np.ndarray, "P 3"],
    rgb: UInt8[np.ndarray, "P 3"],
    plane: _Plane,
) -> Image.Image:
    """Points as squares of two by two pixels, the higher over the lower."""
    width, height = plane.size
    canvas = np.full((height, width, 3), _BACKGROUND, np.uint8)
    order = np.argsort(xyz[:, 2], kind="stable")
    left_top = np.floor(plane.pixels(xyz[order, :2])).astype(np.int64)
    column, row = (left_top[:, None] + [[0, 0], [0, 1], [1, 0], [1, 1]]).reshape(-1, 2).T
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    canvas[row[inside], column[inside]] = np.repeat(rgb[order], 4, axis=0)[inside]
    return Image.fromarray(canvas)


def _draw_frusta(
    draw: ImageDraw.ImageDraw,
    scene: Scene,
    pose: Float[np.ndarray, "V 4 4"],
    axes: Float[np.ndarray, "3 3"],
    plane: _Plane,
    reach: float,
    color: tuple[int, int, int],
) -> None:
    """Draws the triangle from each camera's centre to the middle of its image's sides."""
    width = scene.mask.shape[2]
    for view, matrix in enumerate(scene.intrinsics.astype(np.float64)):
        sides = (np.array([-0.5, width - 0.5]) - matrix[0, 2]) / matrix[0, 0]
        corners = reach * np.array([[0, 0, 0], [sides[0], 0, 1], [sides[1], 0, 1]])
        world = corners @ pose[view, :3, :3].T + pose[view, :3, 3]
        outline = [tuple(point) for point in plane.pixels((world @ axes.T)[:, :2])]
        draw.polygon(outline, outline=color, width=2)
