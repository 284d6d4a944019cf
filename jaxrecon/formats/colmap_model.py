"""The tables of a COLMAP model, and its binary and text files.

The format is described at https://colmap.github.io/format.html. pycolmap writes the same bytes.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxrecon.errors import InputError

_PINHOLE = 1
_POINT_2D = np.dtype([("xy", "<f8", 2), ("point_id", "<u8")])
_SEEN = np.dtype([("image_id", "<u4"), ("point_2d_index", "<u4")])
_POINT_3D = [
    ("point_id", "<u8"),
    ("xyz", "<f8", 3),
    ("rgb", "u1", 3),
    ("error", "<f8"),
    ("track_length", "<u8"),
]


@dataclass(frozen=True, eq=False)
class Points:
    """P points, the most often seen first, and their O observations, sorted by view.

    Attributes:
      xyz, rgb: of the points.
      view, point: of each observation.
      xy: where, counted from the picture's corner.
    """

    xyz: Float[np.ndarray, "P 3"]
    rgb: UInt8[np.ndarray, "P 3"]
    view: Int[np.ndarray, " O"]
    point: Int[np.ndarray, " O"]
    xy: Float[np.ndarray, "O 2"]


@dataclass(frozen=True, eq=False)
class Model:
    """The tables of a sparse model; ids are row numbers plus 1.

    Attributes:
      names: of the images.
      camera: the number of each image's camera, from 0.
      sizes: width and height of each camera.
      pinhole: fx, fy, cx and cy of each camera, counted from the picture's corner.
      quaternion: w x y z, camera from world.
      translation: the same.
      points: see `Points`.
      error: mean distance of each point's projections to where it is seen.
      bounds: observations bounds[v] to bounds[v + 1] belong to view v.
    """

    names: list[str]
    camera: Int[np.ndarray, " V"]
    sizes: Int[np.ndarray, "C 2"]
    pinhole: Float[np.ndarray, "C 4"]
    quaternion: Float[np.ndarray, "V 4"]
    translation: Float[np.ndarray, "V 3"]
    points: Points
    error: Float[np.ndarray, " P"]
    bounds: Int[np.ndarray, " V+1"]


def write_binary(model: Model, folder: Path) -> None:
    """Writes `cameras.bin`, `images.bin` and `points3D.bin`."""
    with open(folder / "cameras.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.pinhole)))
        for number, pinhole in enumerate(model.pinhole):
            size = model.sizes[number].tolist()
            file.write(struct.pack("<IiQQ", number + 1, _PINHOLE, *size))
            file.write(pinhole.astype("<f8").tobytes())
    observations = np.empty(len(model.points.xy), _POINT_2D)
    observations["xy"] = model.points.xy
    observations["point_id"] = model.points.point + 1
    with open(folder / "images.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.names)))
        for view, name in enumerate(model.names):
            first, last = model.bounds[view : view + 2]
            pose = np.append(model.quaternion[view], model.translation[view])
            file.write(struct.pack("<I7dI", view + 1, *pose, model.camera[view] + 1))
            file.write(os.fsencode(name) + b"\0")
            file.write(struct.pack("<Q", last - first))
            file.write(observations[first:last].tobytes())
    with open(folder / "points3D.bin", "wb") as file:
        file.write(struct.pack("<Q", len(model.points.xyz)))
        for records in _point_records(model):
            file.write(records.data)


def _point_records(model: Model) -> Iterator[np.ndarray]:
    """The points as they stand in the file, those with equally many observations at a time."""
    points = model.points
    seen = np.empty(len(points.xy), _SEEN)
    seen["image_id"] = points.view + 1
    seen["point_2d_index"] = np.arange(len(points.xy)) - model.bounds[points.view]
    seen = seen[np.argsort(points.point, kind="stable")]
    length = np.bincount(points.point)
    start = np.append(0, np.cumsum(length))
    changes = np.flatnonzero(np.diff(length)) + 1
    for first, last in pairwise((0, *changes.tolist(), len(length))):
        records = np.empty(last - first, [*_POINT_3D, ("track", _SEEN, (length[first],))])
        records["point_id"] = np.arange(first + 1, last + 1)
        records["xyz"] = points.xyz[first:last]
        records["rgb"] = points.rgb[first:last]
        records["error"] = model.error[first:last]
        records["track_length"] = length[first]
        records["track"] = seen[start[first] : start[last]].reshape(last - first, -1)
        yield records


def write_text(model: Model, folder: Path) -> None:
    """Writes `cameras.txt`, `images.txt` and `points3D.txt`; an image has two lines in any case.

    Raises:
      InputError: a name has white space in it, at which COLMAP would cut it off.
    """
    _check_names(model.names)
    cameras = ["# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy"]
    for number, pinhole in enumerate(model.pinhole):
        size = _joined(model.sizes[number])
        cameras.append(f"{number + 1} PINHOLE {size} {_joined(pinhole)}")
    images = ["# IMAGE_ID qw qx qy qz tx ty tz CAMERA_ID NAME, then X Y POINT3D_ID of its points"]
    for view, name in enumerate(model.names):
        number = view + 1
        pose = _joined(np.append(model.quaternion[view], model.translation[view]))
        images.append(f"{number} {pose} {model.camera[view] + 1} {name}")
        first, last = model.bounds[view : view + 2]
        ids = (model.points.point[first:last] + 1).tolist()
        seen = zip(ids, model.points.xy[first:last].tolist(), strict=True)
        images.append(" ".join(f"{x!r} {y!r} {point}" for point, (x, y) in seen))
    points = ["# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of each observation"]
    for record in (record for records in _point_records(model) for record in records.tolist()):
        number, xyz, rgb, error, _, track = record
        seen = " ".join(f"{image} {index}" for image, index in track)
        points.append(f"{number} {_joined(xyz)} {_joined(rgb)} {error!r} {seen}")
    for stem, lines in (("cameras", cameras), ("images", images), ("points3D", points)):
        content = os.fsencode("\n".join(lines) + "\n")
        (folder / f"{stem}.txt").write_bytes(content)


def _check_names(names: list[str]) -> None:
    spaced = next((name for name in names if len(name.split()) != 1 or name != name.strip()), None)
    if spaced is not None:
        raise InputError(
            f"COLMAP's text files cannot hold the name {spaced!r}, which has white space in it; "
            "write binary ones (leave out text=True, --text), or rename the photo"
        )


def _joined(values: np.ndarray) -> str:
    return " ".join(repr(value) for value in np.asarray(values).tolist())
