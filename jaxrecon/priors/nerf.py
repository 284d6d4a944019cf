"""NeRF scenes: the `transforms.json` of instant-ngp, nerfstudio and Blender.

Poses are camera-to-world with OpenGL's axes (x right, y up, z backwards). Pixels are counted from
the corner, so the centre of the top-left pixel is (0.5, 0.5). What stands at the top of the file
holds for every frame that does not say otherwise. Sources: nerfstudio's data conventions
(https://docs.nerf.studio/quickstart/data_conventions.html) and instant-ngp's
docs/nerf_dataset_tips.md.
"""

import math
import os
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrecon import reading
from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.images.pictures import picture_values
from jaxrecon.priors.camera import (
    check_copy,
    check_lens,
    check_not_turned,
    check_orientation,
    is_copy,
    lens_shift,
    photo_size,
    pinhole_from_corner,
    scaled,
)
from jaxrecon.priors.names import views_by_name
from jaxrecon.priors.view_priors import ViewPriors

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_PERSPECTIVE = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
_MILLIMETRE = 0.001
_AGAIN = "make the file anew from those"
_UNDISTORT = (
    "undistort them with OpenCV or nerfstudio and give a file with the new cameras, or leave out "
    "the intrinsics and keep the poses"
)
_NARROWEST = 1e-6
_UNITS = (1e-12, 1e12)


@dataclass(frozen=True)
class _Frame:
    """One frame; `where` names it in messages, `keys` are its own and those of the whole file."""

    where: str
    keys: Mapping[str, Any]

    def number(self, key: str) -> float | None:
        """A number, or None if the file does not tell it."""
        value = self.keys.get(key)
        return None if value is None else reading.number(value, f"{self.where}: {key}")

    def positive(self, key: str) -> float | None:
        """A number above 0, or None if the file does not tell it."""
        value = self.number(key)
        if value is not None and value <= 0:
            raise InputError(f"{self.where}: {key} is {value:g}; expected a positive number")
        return value

    def side(self, key: str, otherwise: int) -> int:
        """A whole number of pixels, or `otherwise` if the file does not tell it."""
        value = self.keys.get(key)
        return otherwise if value is None else reading.whole(value, f"{self.where}: {key}", least=1)


def read_nerf(
    path: Path,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    wanted: frozenset[str],
    files: Sequence[Path | None],
    *,
    allow_outside: bool = False,
) -> ViewPriors:
    """What a NeRF scene tells of images of these names; see `read_view_priors`.

    Depth comes from 16-bit PNGs (`depth_file_path`), whose values times `depth_unit_scale_factor`,
    by default 0.001, are in the unit of the poses. instant-ngp calls them `depth_path` and
    `integer_depth_scale`, and reads no depth without the latter. A map of another size is stretched
    to its image without mixing its pixels.

    Raises:
      InputError: the file or a depth map is damaged, a value has another type or shape, a depth map
        lies outside of the file's folder and `allow_outside` is false, it knows none of the images,
        was made of photos that EXIF turns, or has a camera that is no pinhole camera of its image.
    """
    frames = _frames(path)
    stored = [frame.keys["file_path"] for frame in frames]
    found = views_by_name(path, stored, names, files)
    known = {view: frames[number] for view, number in found.items()}
    intrinsics, poses, depths = {}, {}, {}
    for view, frame in known.items():
        _check_upright(path, frame, names[view], sizes[view], files[view])
        if "intrinsics" in wanted and (matrix := _intrinsics(frame, sizes[view])) is not None:
            intrinsics[view] = matrix
        if "poses" in wanted and "transform_matrix" in frame.keys:
            poses[view] = _pose(frame)
        if "depths" in wanted and (file := _depth_file(path, frame, allow_outside)) is not None:
            depths[view] = _depth(file, frame, sizes[view])
    return ViewPriors(
        intrinsics=intrinsics, poses=poses, depths=depths, metric_poses=False, metric_depths=False
    )


def frame_names(path: Path) -> list[str]:
    """The names of the images that a NeRF scene is about.

    Raises:
      InputError: the file is damaged, or a frame has no name.
    """
    return [frame.keys["file_path"] for frame in _frames(path)]


def _frames(path: Path) -> list[_Frame]:
    scene = reading.read_json(path)
    frames = scene.get("frames") if isinstance(scene, dict) else None
    if not isinstance(frames, list) or not frames:
        raise InputError(f"{path} has no list of frames; give the transforms.json of a NeRF scene")
    shared = {key: value for key, value in scene.items() if key != "frames"}
    return [_frame(path, number, frame, shared) for number, frame in enumerate(frames)]


def _frame(path: Path, number: int, frame: Any, shared: Mapping[str, Any]) -> _Frame:
    name = frame.get("file_path") if isinstance(frame, dict) else None
    if not isinstance(name, str) or not name:
        raise InputError(f"{path}: frame {number} has no file_path; name its image there")
    reading.text(name, f"{path}: file_path of frame {number}")
    return _Frame(f"{path}: {name}", ChainMap(frame, shared))  # pyright: ignore[reportArgumentType]


def _check_upright(
    path: Path, frame: _Frame, name: str, size: tuple[int, int], file: Path | None
) -> None:
    """Refuses a photo that lies otherwise than the pixels that the frame tells of.

    That is the photo given, and the one that the frame names if that is another file. A file of our
    own says that it is for upright photos.
    """
    made_for = None
    if frame.keys.get("w") is not None and frame.keys.get("h") is not None:
        made_for = frame.side("w", size[0]), frame.side("h", size[1])
        check_not_turned(made_for, size, frame.where)
    if frame.keys.get("exif_orientation_applied") is True:
        return
    check_orientation(size, made_for, name, f"{path}", _AGAIN)
    own = _photo_of(path, frame)
    if own is None or (file is not None and os.path.abspath(own) == os.path.abspath(file)):
        return
    stored = photo_size(own)
    if stored is not None:
        check_orientation(stored, made_for, f"{own}", f"{path}", _AGAIN)


def _photo_of(path: Path, frame: _Frame) -> Path | None:
    """Where the frame's photo lies; None if that is out of the file's folder."""
    try:
        return reading.inside(path.parent, frame.keys["file_path"], where=frame.where)
    except InputError:
        return None


def _pose(frame: _Frame) -> Float[np.ndarray, "4 4"]:
    axes = frame.keys.get("camera_convention", "opengl")
    if axes != "opengl":
        raise InputError(f"{frame.where}: camera_convention is {shown(axes)}; only opengl is read")
    rows = frame.keys["transform_matrix"]
    matrix = reading.numbers(rows, f"{frame.where}: transform_matrix", (4, 4), (3, 4))
    pose = np.eye(4)
    pose[: len(matrix)] = matrix
    return pose @ _OPENGL_FROM_OPENCV


def _intrinsics(frame: _Frame, size: tuple[int, int]) -> Float[np.ndarray, "3 3"] | None:
    _check_model(frame)
    made_for = frame.side("w", size[0]), frame.side("h", size[1])
    focal = _focal(frame, made_for)
    if focal is None:
        return None
    cx, cy = frame.number("cx"), frame.number("cy")
    center = made_for[0] / 2 if cx is None else cx, made_for[1] / 2 if cy is None else cy
    _check_distortion(frame, focal, center, made_for)
    check_copy(made_for, size, frame.where)
    return scaled(pinhole_from_corner(focal, center), made_for, size, frame.where)


def _focal(frame: _Frame, size: tuple[int, int]) -> tuple[float, float] | None:
    """Focal lengths along x and y; pixels are square where only one is known."""
    fx, fy = (_focal_along(axis, frame, side) for axis, side in zip("xy", size, strict=True))
    if fx is not None:
        return fx, fx if fy is None else fy
    return None if fy is None else (fy, fy)


def _focal_along(axis: str, frame: _Frame, side: int) -> float | None:
    length, angle = frame.positive(f"fl_{axis}"), frame.positive(f"camera_angle_{axis}")
    if length is not None or angle is None:
        return length
    if not _NARROWEST < angle < math.pi:
        raise InputError(
            f"{frame.where}: camera_angle_{axis} is {angle:g}; expected radians below pi"
        )
    return side / 2 / math.tan(angle / 2)


def _check_model(frame: _Frame) -> None:
    model = frame.keys.get("camera_model", "PINHOLE")
    if frame.keys.get("is_fisheye"):
        model = "is_fisheye"
    if model not in _PERSPECTIVE:
        told = model if isinstance(model, str) else shown(model)
        check_lens(math.inf, told, frame.where, _UNDISTORT)


def _check_distortion(
    frame: _Frame,
    focal: tuple[float, float],
    center: tuple[float, float],
    size: tuple[int, int],
) -> None:
    """Refuses OpenCV's radial and tangential distortion if it can be seen.

    k1 to k4 are the radial polynomial's coefficients, as nerfstudio has them.
    """
    k1, k2, k3, k4, p1, p2 = (
        frame.number(key) or 0 for key in ("k1", "k2", "k3", "k4", "p1", "p2")
    )

    def through_lens(pixels: Float[np.ndarray, "G 2"]) -> Float[np.ndarray, "G 2"]:
        x, y = ((pixels - center) / focal).T
        r2 = x * x + y * y
        radial = 1 + r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
        bent_x = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        bent_y = y * radial + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
        return np.stack([bent_x, bent_y], axis=-1) * focal + center

    shift = lens_shift(through_lens, size)
    check_lens(shift, "distortion k1 to p2", frame.where, _UNDISTORT)


def _depth_file(path: Path, frame: _Frame, allow_outside: bool) -> Path | None:
    """Where the frame's depth map lies, if the file tells of one."""
    key = _depth_keys(frame)[0]
    if frame.keys.get(key) is None:
        return None
    where = f"{frame.where}: {key}"
    name = reading.text(frame.keys[key], where)
    return reading.inside(path.parent, name, where=where, allow_outside=allow_outside)


def _depth_keys(frame: _Frame) -> tuple[str, str]:
    """What the frame calls its depth map and its unit: nerfstudio's names, or instant-ngp's."""
    of_ngp = "depth_path", "integer_depth_scale"
    has_ngp = all(frame.keys.get(key) is not None for key in of_ngp)
    if has_ngp and frame.keys.get("depth_file_path") is None:
        return of_ngp
    return "depth_file_path", "depth_unit_scale_factor"


def _depth(file: Path, frame: _Frame, size: tuple[int, int]) -> Float[np.ndarray, "_ _"]:
    key = _depth_keys(frame)[1]
    unit = frame.positive(key) or _MILLIMETRE
    if not _UNITS[0] < unit < _UNITS[1]:
        raise InputError(f"{frame.where}: {key} is {unit:g}, which is no unit")
    depth = _read_png(file) * np.float32(unit)
    stored = depth.shape[1], depth.shape[0]
    if not is_copy(size, stored):
        raise InputError(
            f"{file} is {stored[0]}x{stored[1]} pixels, its image is {size[0]}x{size[1]}; give "
            "depth of the image's size, or of a resized but uncropped one"
        )
    return PixelTransform.stretch(stored, size).nearest(depth)


def _read_png(file: Path) -> Float[np.ndarray, "_ _"]:
    values = picture_values(file)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.itemsize < 2:
        raise InputError(
            f"{file} has shape {values.shape} and dtype {values.dtype}; expected a greyscale PNG "
            "of 16 bits"
        )
    return values.astype(np.float32)
