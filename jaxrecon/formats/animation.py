"""An animation that goes around the cloud, as browsers, chats and READMEs show it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import cos, pi, radians, sin, tan
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, features

from jaxrecon.errors import InputError
from jaxrecon.files import replacing_file
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.ramps import camera_color
from jaxrecon.formats.scene import (
    FRUSTUM_SIZE,
    Scene,
    check_cameras,
    scene_size,
    select_points,
)
from jaxrecon.formats.summary import evenly_chosen
from jaxrecon.formats.top_view import axes_from_above
from jaxrecon.images.resizing import worker_count

SIZE = (720, 450)
"""Width and height of the pictures, in pixels."""

FRAMES, MILLISECONDS = 48, 70
"""Pictures of a round, and how long each is shown."""

_MOST_POINTS, _MOST_CAMERAS = 200_000, 32
_VIEW_ANGLE = radians(40)
_SWING, _RISE, _SWAY = radians(38), radians(14), radians(4)
_LOWEST, _HIGHEST = radians(8), radians(60)
_ALL_ROUND = 0.5
_FROM_BEHIND = -0.17
_NEAREST, _INSIDE, _FARTHER = 0.05, 0.95, 1.35
_LARGEST_SPLAT = 12
_THICKNESS = 0.008
"""Dots behind the nearest one by less than this share of its distance are blended with it."""

_SHADE, _SHADE_FROM, _DARKEST = 2.0, 0.03, 0.3


@dataclass(frozen=True)
class _Dots:
    """Squares that face whoever looks.

    Attributes:
      xyz, rgb: where they are, and their colours.
      side: in the scene's unit of length.
      seen_from: the camera that saw each; NaN for what is seen from everywhere.
    """

    xyz: Float[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]
    side: Float[np.ndarray, " P"]
    seen_from: Float[np.ndarray, "P 3"]


@dataclass(frozen=True)
class _Eye:
    """Where a picture is seen from: a rotation, camera from world, and a centre."""

    rotation: Float[np.ndarray, "3 3"]
    centre: Float[np.ndarray, "3"]

    def sees(self, xyz: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P 3"]:
        """Points in its frame: x right, y down, z ahead."""
        return (xyz - self.centre) @ self.rotation.T


def write_animation(scene: Scene, path: Path, options: ExportOptions) -> None:
    """Writes a round about the points under the mask, with the cameras and their photos.

    It swings to both sides of where the cameras looked from, or goes once round where they stood
    all round. Points are seen from the side alone from which a camera saw them, so that a wall
    hides nothing. What is behind the cloud is transparent.

    Raises:
      InputError: a camera is not usable, the mask keeps no point, or Pillow has no WebP.
      OutputError: the file cannot be written.
    """
    if not features.check("webp"):
        raise InputError("animation: this Pillow cannot write WebP; install one that can")
    check_cameras(scene)
    cloud = _cloud(scene, options.most_points(_MOST_POINTS))
    dots = _joined([cloud, *_cameras(scene, scene_size(cloud.xyz))])
    eyes = _round(scene.world_from_camera.astype(np.float64), cloud.xyz)
    with (
        options.stages.stage("animation", total=len(eyes)) as advance,
        ThreadPoolExecutor(worker_count()) as pool,
    ):
        pictures = []
        for picture in pool.map(lambda eye: _drawn(dots, eye), eyes):
            pictures.append(Image.fromarray(picture))
            advance()
    with replacing_file(path) as temporary:
        pictures[0].save(
            temporary,
            format="WEBP",
            save_all=True,
            append_images=pictures[1:],
            duration=MILLISECONDS,
            loop=0,
            quality=65,
        )


def _cloud(scene: Scene, most: int | None) -> _Dots:
    """The points, each as large as what its pixel saw."""
    points = select_points(scene, most)
    view = points.pixel // scene.mask[0].size
    depth = np.abs(scene.points_camera.reshape(-1, 3)[points.pixel, 2].astype(np.float64))
    apart = np.sqrt(scene.mask.sum() / len(points.pixel))
    focal = np.abs(scene.intrinsics[view, 0, 0].astype(np.float64))
    return _Dots(
        xyz=points.xyz.astype(np.float64),
        rgb=points.rgb,
        side=1.2 * apart * depth / focal,
        seen_from=scene.world_from_camera[view, :3, 3].astype(np.float64),
    )


def _cameras(scene: Scene, size: float) -> list[_Dots]:
    """Frusta with the photos in them; of many cameras some, evenly chosen."""
    chosen = evenly_chosen(len(scene.names), _MOST_CAMERAS)
    return [_camera(scene, int(view), FRUSTUM_SIZE * size) for view in chosen]


def _camera(scene: Scene, view: int, reach: float) -> _Dots:
    """One frustum: its edges, and a small copy of the photo."""
    height, width = scene.mask.shape[1:]
    matrix, pose = (x[view].astype(np.float64) for x in (scene.intrinsics, scene.world_from_camera))

    def placed(x: np.ndarray, y: np.ndarray) -> Float[np.ndarray, "P 3"]:
        """Pixels on the frustum's far side."""
        ray = [
            (x - matrix[0, 2]) / matrix[0, 0],
            (y - matrix[1, 2]) / matrix[1, 1],
            np.ones_like(x),
        ]
        return reach * np.stack(ray, axis=-1)

    corners = placed(np.array([0.0, width, width, 0.0]) - 0.5, np.array([0.0, 0.0, height, height]))
    ends = [(corners[i], corners[(i + 1) % 4]) for i in range(4)]
    ends += [(np.zeros(3), corner) for corner in corners]
    shares = np.linspace(0, 1, 64)[:, None]
    lines = np.concatenate([start + shares * (end - start) for start, end in ends])
    down, along = max(1, height // 48), max(1, width // 48)
    rows, columns = np.mgrid[0:height:down, 0:width:along]
    photo = placed(columns.ravel().astype(np.float64), rows.ravel().astype(np.float64))
    xyz = np.concatenate([lines, photo]) @ pose[:3, :3].T + pose[:3, 3]
    cell = reach * along / abs(matrix[0, 0])
    color = np.array(camera_color(view, len(scene.names)), np.uint8)
    return _Dots(
        xyz=xyz,
        rgb=np.concatenate(
            [np.tile(color, (len(lines), 1)), scene.colors[view, rows.ravel(), columns.ravel()]]
        ),
        side=np.repeat([reach / 24, 1.3 * cell], [len(lines), len(photo)]),
        seen_from=np.full_like(xyz, np.nan),
    )


def _joined(parts: list[_Dots]) -> _Dots:
    return _Dots(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("xyz", "rgb", "side", "seen_from")
        )
    )


def _round(pose: Float[np.ndarray, "V 4 4"], xyz: Float[np.ndarray, "P 3"]) -> list[_Eye]:
    """Where each picture is seen from: all as far away, so that the cloud and the cameras fit."""
    axes = axes_from_above(pose)
    right, ahead, up = axes
    look = pose[:, :3, 2]
    level = look - (look @ up)[:, None] * up
    level /= np.maximum(np.linalg.norm(level, axis=1, keepdims=True), 1e-9)
    all_round = float(np.linalg.norm(level.mean(axis=0))) < _ALL_ROUND
    down = np.arcsin(np.clip(-(look @ up).mean(), -1, 1))
    height = float(np.clip(down + _RISE, _LOWEST, _HIGHEST))
    middle = np.percentile(xyz @ axes.T, [2, 98], axis=0).mean(axis=0) @ axes
    turns = []
    for number in range(FRAMES):
        phase = 2 * pi * number / FRAMES
        side = phase if all_round else _SWING * sin(phase)
        lift = height + _SWAY * sin(2 * phase)
        level_ahead = cos(side) * ahead + sin(side) * right
        forward = cos(lift) * level_ahead - sin(lift) * up
        to_right = np.cross(forward, up) / np.linalg.norm(np.cross(forward, up))
        turns.append(np.stack([to_right, np.cross(forward, to_right), forward]))
    distance = _distance(turns, middle, xyz[:: max(1, len(xyz) // 4000)], _INSIDE)
    with_cameras = _distance(turns, middle, pose[:, :3, 3], 1.0)
    if with_cameras < _FARTHER * distance:
        distance = max(distance, with_cameras)
    return [_Eye(turn, middle - distance * turn[2]) for turn in turns]


def _distance(
    turns: list[Float[np.ndarray, "3 3"]],
    middle: Float[np.ndarray, "3"],
    xyz: Float[np.ndarray, "P 3"],
    share: float,
) -> float:
    """The least distance from the middle at which that share of points is in every picture."""
    slope = tan(_VIEW_ANGLE / 2) * np.array([SIZE[0] / SIZE[1], 1.0])
    needed = []
    for turn in turns:
        x, y, z = ((xyz - middle) @ turn.T).T
        # A point is inside where |x| <= slope (z + distance).
        wanted = np.maximum(np.abs(x) / slope[0], np.abs(y) / slope[1]) - z
        needed.append(np.quantile(wanted, share))
    return max(1.05 * float(max(needed)), 1e-6)


def _drawn(dots: _Dots, eye: _Eye) -> UInt8[np.ndarray, "h w 4"]:
    """A picture, with alpha."""
    width, height = SIZE
    focal = height / 2 / tan(_VIEW_ANGLE / 2)
    local = eye.sees(dots.xyz)
    shown = np.flatnonzero(_in_sight(dots, eye, local))
    z = local[shown, 2].astype(np.float32)
    place = local[shown, :2] * (focal / z)[:, None] + [width / 2, height / 2]
    side = np.clip(np.rint(dots.side[shown] * focal / z), 1, _LARGEST_SPLAT).astype(np.int64)
    number, pixel = _covered(place, side)
    depth = np.full(width * height, np.inf, np.float32)
    np.minimum.at(depth, pixel, z[number])
    front = z[number] <= (1 + _THICKNESS) * depth[pixel]
    number, pixel = shown[number[front]], pixel[front]
    count = np.bincount(pixel, minlength=width * height)
    total = [np.bincount(pixel, dots.rgb[number, channel], width * height) for channel in range(3)]
    color = np.stack(total, axis=-1) / np.maximum(count, 1)[:, None]
    color *= _shade(depth.reshape(height, width)).reshape(-1, 1)
    picture = np.concatenate([color, np.where(count, 255, 0)[:, None]], axis=-1)
    return np.rint(picture).astype(np.uint8).reshape(height, width, 4)


def _covered(
    place: Float[np.ndarray, "P 2"], side: Int[np.ndarray, " P"]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Which pixels of the picture squares cover: the number of the square, and the pixel's."""
    width, height = SIZE
    numbers, pixels = ([np.zeros(0, np.int64)] for _ in range(2))
    for length in np.unique(side):
        these = np.flatnonzero(side == length)
        first = np.floor(place[these] - (length - 1) / 2).astype(np.int64)
        x, y = (first[:, axis, None] + np.arange(length) for axis in (0, 1))
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        of_square, row, column = np.nonzero(inside)
        numbers.append(these[of_square])
        pixels.append(y[of_square, row] * width + x[of_square, column])
    return np.concatenate(numbers), np.concatenate(pixels)


def _in_sight(dots: _Dots, eye: _Eye, local: Float[np.ndarray, "P 3"]) -> Bool[np.ndarray, " P"]:
    """Dots ahead, not too near, and not seen from behind."""
    distance = np.linalg.norm(local, axis=1)
    ray = dots.xyz - dots.seen_from
    along = np.einsum("pi,pi->p", ray, dots.xyz - eye.centre)
    behind = along < _FROM_BEHIND * np.linalg.norm(ray, axis=1) * distance
    return (local[:, 2] > _NEAREST * np.median(distance)) & ~behind


def _shade(depth: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"]:
    """Darker where something nearer is beside (eye-dome lighting, Boucheny 2009)."""
    height, width = depth.shape
    covered = np.isfinite(depth)
    log = np.log2(np.where(covered, depth, 1.0))
    around = np.pad(np.where(covered, log, np.inf), 1, constant_values=np.inf)
    total = np.zeros_like(log)
    for row, column in ((0, 1), (1, 0), (1, 2), (2, 1)):
        beside = around[row : row + height, column : column + width]
        total += np.maximum(log - beside - _SHADE_FROM, 0)
    return np.exp(-_SHADE * np.minimum(total, _DARKEST))
