"""Point clouds as PLY."""

from pathlib import Path

import numpy as np

from jaxrecon.files import replacing_file
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene, ScenePoints
from jaxrecon.formats.thinning import chosen_points

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


def write_ply(scene: Scene, path: Path, options: ExportOptions) -> None:
    """Writes the points as binary little-endian PLY: x y z red green blue confidence.

    Coordinates are the world's (OpenCV axes). All points are written unless `max_points` or
    `voxel` is given.

    Raises:
      InputError: there is no point to write.
      OutputError: the file cannot be written.
    """
    points = chosen_points(scene, options, None)
    with replacing_file(path) as temporary:
        write_points(points, temporary)


def write_points(points: ScenePoints, path: Path) -> None:
    """Writes a file as `write_ply` does, in place."""
    vertex = np.empty(len(points.pixel), _VERTEX)
    for axis, (coordinate, channel) in enumerate(zip("xyz", ("red", "green", "blue"), strict=True)):
        vertex[coordinate] = points.xyz[:, axis]
        vertex[channel] = points.rgb[:, axis]
    vertex["confidence"] = points.confidence
    write_vertices(vertex, path)


def write_vertices(vertex: np.ndarray, path: Path) -> None:
    """Writes records as the vertices of a binary little-endian PLY, in place."""
    from plyfile import PlyData, PlyElement

    with open(path, "wb") as file:
        PlyData([PlyElement.describe(vertex, "vertex")], byte_order="<").write(file)
