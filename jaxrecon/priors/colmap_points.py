"""The points of a COLMAP sparse model, and the depth that each image sees them at."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int

from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.priors.colmap_files import Image
from jaxrecon.priors.colmap_tables import (
    ADVICE,
    model_suffix,
    read_table,
    take,
    take_rows,
    tells,
)
from jaxrecon.priors.sparse_depth import SparseDepth
from jaxrecon.priors.validation import LARGEST_LENGTH
from jaxrecon.reading import is_plain_file, parse_number, parse_whole

_POINT = np.dtype([("number", "<i8"), ("xyz", "<f8", 3)])
_NONE = -1
"""The number of no point."""
_HEAD, _TRACK_BYTES = "<q3d3BdQ", 8
"""A point's number, place, colour, error and length of track; and the bytes of each step of it."""
_WORDS = 8
"""As many come before the track in text."""


@dataclass(frozen=True, eq=False)
class Points:
    """P points of a model in the order of their numbers."""

    number: Int[np.ndarray, " P"]
    xyz: Float[np.ndarray, "P 3"]

    def rows(self, numbers: Int[np.ndarray, " O"]) -> Int[np.ndarray, " O"]:
        """Where points of these numbers stand; -1 for those that are not there."""
        if not len(self.number):
            return np.full(len(numbers), -1)
        row = np.searchsorted(self.number, numbers).clip(0, len(self.number) - 1)
        return np.where((self.number[row] == numbers) & (numbers != _NONE), row, -1)


def read_points(model: Path) -> Points | None:
    """The points of a model; None where it comes without their file.

    Raises:
      InputError: their file is damaged, a number stands twice in it, or a place is not finite.
    """
    if not is_plain_file(model / f"points3D{model_suffix(model)}"):
        return None
    rows = read_table(model, "points3D", _binary_points, _text_points)
    found = np.frombuffer(b"".join(rows), _POINT)
    found = found[np.argsort(found["number"], kind="stable")]
    twice = found["number"][1:][np.diff(found["number"]) == 0]
    if len(twice):
        raise InputError(f"{model} has point {twice[0]} twice; remove one of them")
    lost = ~np.isfinite(found["xyz"]).all(axis=1)
    if lost.any():
        point = found[lost][0]
        raise InputError(
            f"{model}: point {point['number']} is at {tuple(point['xyz'].tolist())}; {ADVICE}"
        )
    return Points(found["number"], found["xyz"])


def sparse_depth(
    model: Path, image: Image, points: Points, made_for: tuple[int, int], size: tuple[int, int]
) -> SparseDepth:
    """The depth of the points that an image sees, where it sees them.

    Left out is what COLMAP too passes over: points that are not in the model, lie behind the
    camera, or are seen beyond the image's edges, as after undistortion.

    Args:
      model: the folder, for messages.
      image: with its observations.
      points: of the model.
      made_for: width and height of the image's camera.
      size: those of the image at hand, a copy of the one that the camera was made for.

    Raises:
      InputError: a point is seen where no number says, or is beyond all lengths.
    """
    assert image.observations is not None
    row = points.rows(image.observations["point"])
    row, positions = row[row >= 0], image.observations["xy"][row >= 0]
    if not np.isfinite(positions).all():
        number = points.number[row[~np.isfinite(positions).all(axis=1)][0]]
        raise InputError(f"{model}: {image.name} sees point {number} at no position; {ADVICE}")
    pose = image.world_from_camera()
    with np.errstate(over="ignore", invalid="ignore"):
        depth_z = (points.xyz[row] - pose[:3, 3]) @ pose[:3, 2]
    far = ~(np.abs(depth_z) <= LARGEST_LENGTH)
    if far.any():
        raise InputError(
            f"{model}: {image.name} sees point {points.number[row[far][0]]} at the depth "
            f"{depth_z[far][0]:g}; {ADVICE}"
        )
    depth_z = depth_z.astype(np.float32)
    seen = (depth_z > 0) & ((positions >= 0) & (positions < made_for)).all(axis=1)
    places = PixelTransform.stretch(made_for, size).from_original(positions[seen] - 0.5)
    return SparseDepth(size, places, depth_z[seen])


def _binary_points(file: BinaryIO) -> Iterator[bytes]:
    """Rows of `_POINT`."""
    (count,) = take(file, "<Q")
    for _ in range(count):
        number, *xyz, _, _, _, _, seen = take(file, _HEAD)
        take_rows(file, seen, _TRACK_BYTES, keep=False)
        yield struct.pack("<q3d", number, *xyz)


def _text_points(lines: Iterator[str]) -> Iterator[bytes]:
    """Rows of `_POINT`."""
    for line in filter(tells, lines):
        words = line.split(maxsplit=_WORDS)[:_WORDS]
        if len(words) < _WORDS:
            raise ValueError(f"a point has {len(words)} words before its track")
        number = parse_whole(words[0]).to_bytes(8, "little", signed=True)
        yield number + struct.pack("<3d", *map(parse_number, words[1:4]))
