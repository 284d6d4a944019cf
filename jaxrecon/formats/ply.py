"""Point clouds as PLY."""

from pathlib import Path

import numpy as np

from jaxrecon.files import replacing_file
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene, ScenePoints, points_at
from jaxrecon.formats.thinning import chosen_pixels

_VERTEX = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("red", "u1"),
        ("green", "u1"),
        ("blue", "u1"),
        ("confidence", "<f4"),
    ]
)
_AT_ONCE = 1_000_000


def write_ply(scene: Scene, path: Path, options: ExportOptions) -> int:
    """Writes the points as binary little-endian PLY: x y z red green blue confidence.

    Coordinates are the world's (OpenCV axes). All points are written unless `max_points` or
    `voxel` is given.

    Returns:
      The number of points that were written.

    Raises:
      InputError: there is no point to write.
      OutputError: the file cannot be written.
    """
    pixel = chosen_pixels(scene, options, None)
    vertex = np.empty(len(pixel), _VERTEX)
    for start in range(0, len(pixel), _AT_ONCE):  # a copy of all points would double the memory
        piece = slice(start, start + _AT_ONCE)
        _fill(vertex[piece], points_at(scene, pixel[piece]))
    with replacing_file(path) as temporary:
        write_vertices(vertex, temporary)
    return len(vertex)


def write_points(points: ScenePoints, path: Path) -> None:
    """Writes a file as `write_ply` does, in place."""
    vertex = np.empty(len(points.pixel), _VERTEX)
    _fill(vertex, points)
    write_vertices(vertex, path)


def _fill(vertex: np.ndarray, points: ScenePoints) -> None:
    for axis, (coordinate, channel) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        vertex[coordinate] = points.xyz[:, axis]
        vertex[channel] = points.rgb[:, axis]
    vertex["confidence"] = points.confidence


def write_vertices(vertex: np.ndarray, path: Path) -> None:
    """Writes records as the vertices of a binary little-endian PLY, in place."""
    from plyfile import PlyData, PlyElement

    with open(path, "wb") as file:
        PlyData([PlyElement.describe(vertex, "vertex")], byte_order="<").write(file)
