"""One surface from the depth maps of many views: a truncated signed distance field, as triangles.

Curless and Levoy 1996 (doi 10.1145/237170.237269): a grid of voxels holds the mean distance to the
surface along the views' rays, positive in front of it. Only voxels near a point are worked on.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxrecon.extras import Extra
from jaxrecon.formats.scene import Scene

MOST_VOXELS = 256**3
"""Voxels of the grid, those far from all points among them: 130 MB."""

_TRUNCATION = 4
"""Voxels in front of and behind the surface in which distances are averaged."""

_BLOCK = 4
_CHUNK = 2**16
_MARGIN = 0.05
_TAIL = 0.2
_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh in world coordinates; triangles run counter-clockwise as the views see them.

    Attributes:
      voxel: side of a voxel of the grid that it was found in.
    """

    vertices: Float[np.ndarray, "N 3"]
    faces: Int[np.ndarray, "F 3"]
    colors: UInt8[np.ndarray, "N 3"]
    voxel: float


@dataclass(frozen=True, eq=False)
class _Grid:
    """Voxels with their centres at `origin + voxel * (i, j, k)`."""

    origin: Float[np.ndarray, "3"]
    voxel: float
    shape: tuple[int, int, int]

    @property
    def truncation(self) -> float:
        return _TRUNCATION * self.voxel

    def centres(self, index: Int[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
        """Of voxels by flat index, in world coordinates."""
        place = np.stack(np.unravel_index(index, self.shape), axis=-1)
        return (self.origin + self.voxel * place).astype(np.float32)


def fused_surface(
    scene: Scene,
    *,
    voxel: float | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Surface | None:
    """The surface that the depth maps of a scene agree on, by their confidence.

    Args:
      voxel: side of a voxel; None means the smallest that the grid has room for (`MOST_VOXELS`),
        but not below a pixel's width on the surface. One for which the grid has no room is raised
        to the smallest that it has.
      advance: is called twice a view.

    Returns:
      The surface; None if no triangle was found.

    Raises:
      InputError: scikit-image is not installed.
    """
    with Extra("mesh", "a mesh needs scikit-image"):
        from skimage.measure import marching_cubes

    grid = _grid(scene, voxel)
    index = _near_points(scene, grid)
    distance, known = _fused(scene, grid, index, advance)
    cubes = _whole_cubes(known)
    if not cubes.any() or not distance.min() < 0 < distance.max():
        return None
    vertices, faces, _, _ = marching_cubes(distance, 0.0, mask=cubes, allow_degenerate=False)
    vertices = (grid.origin + grid.voxel * vertices).astype(np.float32)
    colors, seen = _colors(scene, grid, vertices, advance)
    faces = faces[seen[faces].all(axis=1)]
    return _compact(vertices, faces, colors, grid.voxel)


def _grid(scene: Scene, voxel: float | None) -> _Grid:
    """A grid around the points, but for a few far out on each axis."""
    points = np.concatenate([_points(scene, view)[:: _stride(scene)] for view in _views(scene)])
    low, high = np.percentile(points, [_TAIL, 100 - _TAIL], axis=0).astype(np.float64)
    margin = _MARGIN * float((high - low).max())
    smallest = _smallest_voxel(high - low + 2 * margin)
    side = max(smallest, _pixel_width(scene) if voxel is None else voxel) or 1.0
    margin = max(margin, (_TRUNCATION + 1) * side)
    sides = np.ceil((high - low + 2 * margin) / side).astype(int) + 1
    while np.prod(sides) > MOST_VOXELS:  # the margin in voxels may have made it larger
        side *= 1.05
        margin = max(margin, (_TRUNCATION + 1) * side)
        sides = np.ceil((high - low + 2 * margin) / side).astype(int) + 1
    return _Grid(low - margin, side, tuple(sides.tolist()))


def _smallest_voxel(extent: Float[np.ndarray, "3"]) -> float:
    return float(np.cbrt(np.prod(extent) / MOST_VOXELS))


def _views(scene: Scene) -> range:
    return range(len(scene.names))


def _points(scene: Scene, view: int) -> Float[np.ndarray, "P 3"]:
    """The finite points of a view under its mask."""
    points = scene.points_world[view][scene.mask[view]]
    return points[np.isfinite(points).all(axis=1)]


def _stride(scene: Scene) -> int:
    return max(1, scene.mask.size // 2**22)


def _pixel_width(scene: Scene) -> float:
    """The median width of a pixel on the surface."""
    widths = []
    for view in _views(scene):
        depth = scene.points_camera[view, ..., 2][scene.mask[view]][:: _stride(scene)]
        focal = abs(float(scene.intrinsics[view, 0, 0]))
        widths.append(depth[np.isfinite(depth) & (depth > 0)] / focal)
    found = np.concatenate(widths)
    return float(np.median(found)) if len(found) else 0.0


def _near_points(scene: Scene, grid: _Grid) -> Int[np.ndarray, " N"]:
    """Flat indices, rising, of the voxels in blocks that hold a point or touch one that does."""
    from scipy.ndimage import binary_dilation

    blocks = np.zeros([-(-side // _BLOCK) for side in grid.shape], bool)
    for view in _views(scene):
        place = np.floor((_points(scene, view) - grid.origin) / grid.voxel + 0.5)
        inside = ((place >= 0) & (place < grid.shape)).all(axis=1)
        blocks[tuple((place[inside].astype(np.int64) // _BLOCK).T)] = True
    near = binary_dilation(blocks, np.ones((3, 3, 3), bool))
    for axis, side in enumerate(grid.shape):
        near = near.repeat(_BLOCK, axis=axis).take(range(side), axis=axis)
    return np.flatnonzero(near)


def _fused(
    scene: Scene, grid: _Grid, index: Int[np.ndarray, " N"], advance: Callable[[], object]
) -> tuple[Float[np.ndarray, "X Y Z"], Bool[np.ndarray, "X Y Z"]]:
    """The mean distance in truncation lengths, and which voxels have one."""
    centres = grid.centres(index)
    total, weight = np.zeros((2, len(index)), np.float32)

    def add(view: int, chunk: slice) -> None:
        seen = _seen(scene, view, centres[chunk])
        distance = seen.ahead / grid.truncation
        near = distance > -1
        where, confidence = chunk.start + seen.number[near], seen.confidence[near]
        total[where] += confidence * np.minimum(distance[near], 1)
        weight[where] += confidence

    _in_chunks(add, len(scene.names), len(index), advance)
    known = np.zeros(grid.shape, bool)
    distance = np.ones(grid.shape, np.float32)
    found = weight > 0
    known.reshape(-1)[index[found]] = True
    distance.reshape(-1)[index[found]] = total[found] / weight[found]
    return distance, known


def _in_chunks(
    work: Callable[[int, slice], None], views: int, count: int, advance: Callable[[], object]
) -> None:
    """Calls `work` for each view and each chunk of `count` things, those of a view in threads."""
    chunks = [slice(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for view in range(views):
            for _ in pool.map(partial(work, view), chunks):
                pass
            advance()


@dataclass(frozen=True, eq=False)
class _Seen:
    """Points that lie on a pixel under the mask: how far before its surface, its confidence."""

    number: Int[np.ndarray, " S"]
    pixel: Int[np.ndarray, " S"]
    ahead: Float[np.ndarray, " S"]
    confidence: Float[np.ndarray, " S"]


def _seen(scene: Scene, view: int, points: Float[np.ndarray, "N 3"]) -> _Seen:
    number, pixel, depth = _projected(scene, view, points)
    surface = scene.points_camera[view].reshape(-1, 3)[pixel, 2]
    kept = scene.mask[view].reshape(-1)[pixel] & (surface > 0) & np.isfinite(surface)
    confidence = scene.confidence[view].reshape(-1)[pixel[kept]].astype(np.float32)
    confidence = np.nan_to_num(confidence, nan=0.0, posinf=1.0).clip(_LEAST_WEIGHT)
    ahead = (surface[kept] - depth[kept]).astype(np.float32)
    return _Seen(number[kept], pixel[kept], ahead, confidence)


def _projected(
    scene: Scene, view: int, points: Float[np.ndarray, "N 3"]
) -> tuple[Int[np.ndarray, " S"], Int[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Numbers of the points that the view's picture shows, their nearest pixels and depths."""
    height, width = scene.mask.shape[1:]
    pose = scene.world_from_camera[view].astype(np.float64)
    matrix = scene.intrinsics[view].astype(np.float64) @ pose[:3, :3].T
    x, y, depth = matrix.astype(np.float32) @ points.T - (matrix @ pose[:3, 3])[:, None].astype(
        np.float32
    )
    ahead = np.flatnonzero(depth > 0)
    x, y, depth = x[ahead], y[ahead], depth[ahead]
    column, row = np.floor(x / depth + np.float32(0.5)), np.floor(y / depth + np.float32(0.5))
    shown = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = row[shown].astype(np.int64) * width + column[shown].astype(np.int64)
    return ahead[shown], pixel, depth[shown]


def _whole_cubes(known: Bool[np.ndarray, "X Y Z"]) -> Bool[np.ndarray, "X Y Z"]:
    """The cubes whose eight corners are all known, by their corner of the highest index."""
    whole = known.copy()
    for axis in range(3):
        before = np.zeros_like(whole)
        lower, upper = [slice(None)] * 3, [slice(None)] * 3
        lower[axis], upper[axis] = slice(None, -1), slice(1, None)
        before[tuple(upper)] = whole[tuple(lower)]
        whole &= before
    return whole


def _colors(
    scene: Scene,
    grid: _Grid,
    vertices: Float[np.ndarray, "N 3"],
    advance: Callable[[], object],
) -> tuple[UInt8[np.ndarray, "N 3"], Bool[np.ndarray, " N"]]:
    """The mean colour of each vertex in the views that see it, by confidence, and if any does."""
    total, weight = np.zeros((len(vertices), 3), np.float32), np.zeros(len(vertices), np.float32)

    def add(view: int, chunk: slice) -> None:
        seen = _seen(scene, view, vertices[chunk])
        near = np.abs(seen.ahead) < grid.truncation
        where, confidence = chunk.start + seen.number[near], seen.confidence[near]
        total[where] += confidence[:, None] * scene.colors[view].reshape(-1, 3)[seen.pixel[near]]
        weight[where] += confidence

    _in_chunks(add, len(scene.names), len(vertices), advance)
    seen = weight > 0
    mean = total / np.where(seen, weight, 1)[:, None]
    return np.rint(mean).clip(0, 255).astype(np.uint8), seen


def _compact(
    vertices: Float[np.ndarray, "N 3"],
    faces: Int[np.ndarray, "F 3"],
    colors: UInt8[np.ndarray, "N 3"],
    voxel: float,
) -> Surface | None:
    """The surface without vertices that no triangle has; None without triangles."""
    if not len(faces):
        return None
    used, faces = np.unique(faces, return_inverse=True)
    return Surface(vertices[used], faces.reshape(-1, 3), colors[used], voxel)
