"""What a user says is known of the views, and which of it makes no sense."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from jaxrecon.checks import is_whole, shown
from jaxrecon.errors import InputError

type PerView = (
    np.ndarray
    | Array
    | Sequence[np.ndarray | Array | None]
    | Mapping[int, np.ndarray | Array | None]
)
"""One array for each view, the first axis counting them; or a list with None for a view of which
nothing is known; or arrays, or None, by the number of their view, from 0."""

RIGID_TOLERANCE = 1e-3
SMALLEST_FOCAL, LARGEST_FOCAL = 0.05, 1000.0
"""Focal lengths outside these shares of the image's longer side are taken for a wrong unit."""
LARGEST_LENGTH = 1e12
"""Lengths from here on are refused: their squares, summed, would leave float32."""
FINEST_METRES = 1e-3
"""How far apart, in metres, float32 may lie where the world's cameras are."""
FINEST_SHARE = 1e-4
"""The same where the unit is unknown, as a share of the farthest camera's distance."""

_SHAPES = {"intrinsics": (3, 3), "poses": (4, 4), "depths": ("H", "W")}


@dataclass(frozen=True, eq=False)
class Given:
    """What was given of one kind: for each view by its number, or `shared` by all.

    `count` is the number of views for which it was given, if it was not given by their numbers.
    """

    name: str
    values: Mapping[int, np.ndarray]
    count: int | None = None
    shared: np.ndarray | None = None

    def __contains__(self, view: object) -> bool:
        return self.shared is not None or view in self.values

    def of(self, views: int) -> dict[int, np.ndarray]:
        """What is known of so many views, by their numbers.

        Raises:
          InputError: it is given for another number of views, or for one that does not exist.
        """
        if self.shared is not None:
            return dict.fromkeys(range(views), self.shared)
        if self.count is not None and self.count != views:
            raise InputError(
                f"{self.name}: found {self.count} for {views} views; give one for each view, None "
                "where it is unknown"
            )
        strangers = [view for view in self.values if view not in range(views)]
        if strangers:
            raise InputError(
                f"{self.name}: there is no view {shown(strangers[0])}; the {views} views count "
                f"from 0 to {views - 1}"
            )
        return dict(self.values)


@dataclass(frozen=True, eq=False)
class KnownOfViews:
    """Checked numbers by the views of which they are known, as they were given.

    Attributes:
      intrinsics: in pixels of the original images.
      poses: world-from-camera, relative to `origin`, where the first view is.
      depths: of the original images' size, 0 where unknown.
      origin: the first view's position in the given world.
      metric_depths, metric_poses: whether depths, and positions, are in metres.
    """

    intrinsics: Mapping[int, Float[np.ndarray, "3 3"]]
    poses: Mapping[int, Float[np.ndarray, "4 4"]]
    depths: Mapping[int, Float[np.ndarray, "_ _"]]
    origin: Float[np.ndarray, "3"]
    metric_depths: bool
    metric_poses: bool


def given_of(value: PerView | None, name: str) -> Given | None:
    """What a caller gave as intrinsics, poses or depths; None if it tells of no view.

    One camera matrix (3, 3) counts for all views.

    Raises:
      InputError: it is none of what `PerView` allows.
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        found = Given(name, _by_number(value, name))
    else:
        entries = _entries(value, name)
        arrays = {v: _array(entry, name, v) for v, entry in enumerate(entries) if entry is not None}
        if name == "intrinsics" and [a.shape for a in arrays.values()] == [(3,)] * 3:
            return Given(name, {}, shared=np.stack(list(arrays.values())))
        found = Given(name, arrays, len(entries))
    return found if found.values else None


def check_known(
    sizes: Sequence[tuple[int, int]],
    *,
    intrinsics: Given | None,
    poses: Given | None,
    depths: Given | None,
    metric_depths: bool = True,
    metric_poses: bool = True,
) -> KnownOfViews:
    """What is known of views whose images have these (width, height); see `conditions_from`.

    Raises:
      InputError: as `conditions_from`, but for what shows only once the images are resized.
    """
    _check_flags(metric_depths=metric_depths, metric_poses=metric_poses)
    cameras, posed, maps = (
        {} if given is None else given.of(len(sizes)) for given in (intrinsics, poses, depths)
    )
    matrices = {
        view: _checked_intrinsics(matrix, sizes[view], f"intrinsics: view {view}")
        for view, matrix in cameras.items()
    }
    rigid = {view: _checked_pose(pose, f"poses: view {view}") for view, pose in posed.items()}
    _check_together(matrices, rigid, maps)
    depth = {
        view: _checked_depth(values, sizes[view], f"depths: view {view}")
        for view, values in maps.items()
    }
    moved, origin = _about_the_first(rigid, metric=metric_poses)
    return KnownOfViews(matrices, moved, depth, origin, bool(metric_depths), bool(metric_poses))


def _by_number(given: Mapping[Any, Any], name: str) -> dict[int, np.ndarray]:
    for view in given:
        if not is_whole(view):
            raise InputError(
                f"{name}: found the key {shown(view)}; name views by whole numbers, from 0"
            )
    return {
        int(view): _array(value, name, int(view))
        for view, value in given.items()
        if value is not None
    }


def _entries(given: Any, name: str) -> list[Any]:
    """One entry for each view, None where nothing is known."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return list(given)
    array = _array(given, name)
    if array.ndim == 1 and array.dtype == object:
        return list(array)
    if array.ndim == 3 or (name == "intrinsics" and array.shape == (3, 3)):
        return list(array)
    rows, columns = _SHAPES[name]
    found = f"an array of shape {array.shape}" if array.ndim else f"{_name_of(given)}"
    raise InputError(
        f"{name}: found {found}; give an array (views, {rows}, {columns}), a list with None where "
        "nothing is known, or a mapping by the number of the view"
    )


def _name_of(given: Any) -> str:
    plain = isinstance(given, int | float | str | bytes)
    return shown(given) if plain else f"a {type(given).__name__}"


def _array(value: Any, name: str, view: int | None = None) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        where = name if view is None else f"{name}: view {view}"
        raise InputError(
            f"{where}: found rows of different lengths, or what is no array; give an array of "
            "numbers"
        ) from error


def _check_flags(**flags: Any) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            raise InputError(f"{name}={shown(value)} must be True or False")


def _check_together(
    known: Mapping[int, np.ndarray], posed: Mapping[int, np.ndarray], mapped: Mapping[int, Any]
) -> None:
    """Refuses combinations that the model cannot make sense of."""
    if posed and 0 not in posed:
        raise InputError(
            f"poses: view {min(posed)} has one, but the first view, to which all are related, has "
            "none; give it one, or put another view first"
        )
    without = [view for view in mapped if view not in known]
    if without:
        raise InputError(
            f"depths: view {without[0]} has a depth map but no intrinsics, without which depth is "
            "no geometry; give them too"
        )


def _checked_intrinsics(
    matrix: np.ndarray, size: tuple[int, int], name: str
) -> Float[np.ndarray, "3 3"]:
    _check_numbers(matrix, (3, 3), name)
    matrix = matrix.astype(np.float64)
    if not np.array_equal(matrix[2], [0, 0, 1]) or matrix[1, 0] != 0:
        raise InputError(
            f"{name}: found the rows {_short(matrix)}; expected [fx 0 cx], [0 fy cy], [0 0 1]"
        )
    _check_focal(matrix.diagonal()[:2], size, name)
    if abs(matrix[0, 1]) > RIGID_TOLERANCE * matrix[0, 0]:
        raise InputError(f"{name}: found the skew {matrix[0, 1]:g}; rectify the image")
    center, (width, height) = matrix[:2, 2], size
    if (center < -0.5).any() or (center > np.array(size) - 0.5).any():
        raise InputError(
            f"{name}: found the principal point {_short(center)}, outside its image of "
            f"{width}x{height}; give it in pixels of the photo as given"
        )
    return matrix


def _check_focal(focal: Float[np.ndarray, "2"], size: tuple[int, int], name: str) -> None:
    if (focal <= 0).any():
        raise InputError(
            f"{name}: found focal lengths {_short(focal)}; they must be positive, in pixels"
        )
    longer, (width, height) = max(size), size
    if (focal < SMALLEST_FOCAL * longer).any() or (focal > LARGEST_FOCAL * longer).any():
        raise InputError(
            f"{name}: found focal lengths {_short(focal)} for an image of {width}x{height}; give "
            "them in pixels of that image"
        )


def _checked_pose(pose: np.ndarray, name: str) -> Float[np.ndarray, "4 4"]:
    _check_numbers(pose, (4, 4), name)
    pose = pose.astype(np.float64)
    if not np.allclose(pose[3], [0, 0, 0, 1], rtol=0, atol=RIGID_TOLERANCE):
        raise InputError(f"{name}: found the last row {_short(pose[3])}; expected [0 0 0 1]")
    rotation, most = pose[:3, :3], np.abs(pose[:3]).max()
    if most > LARGEST_LENGTH:
        raise InputError(f"{name}: found the number {most:g}; give a rotation and metres")
    off = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if off > RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        kind = "a reflection" if off <= RIGID_TOLERANCE else f"off by {off:.2g}"
        raise InputError(
            f"{name} is not rigid: its 3x3 part is no rotation ({kind}); give world-from-camera "
            "poses without scale"
        )
    return pose


def _about_the_first(
    poses: Mapping[int, Float[np.ndarray, "4 4"]], *, metric: bool
) -> tuple[dict[int, Float[np.ndarray, "4 4"]], Float[np.ndarray, "3"]]:
    """The poses moved, in float64, such that the first view is at zero; and where it was."""
    if not poses:
        return {}, np.zeros(3)
    origin = poses[0][:3, 3].copy()
    moved = {view: pose.copy() for view, pose in poses.items()}
    for pose in moved.values():
        pose[:3, 3] -= origin
    farthest = max(float(np.linalg.norm(pose[:3, 3])) for pose in moved.values())
    finest = FINEST_METRES if metric else FINEST_SHARE * farthest
    spacing = float(np.spacing(np.abs(origin).max().astype(np.float32)))
    if spacing > finest and (metric or farthest):  # one pose of unknown unit has no place
        raise InputError(
            f"poses: view 0 is at {_short(origin)}, where the result's float32 numbers are "
            f"{spacing:.2g} apart; subtract an origin near the cameras from all positions first"
        )
    return moved, origin


def _checked_depth(depth: np.ndarray, size: tuple[int, int], name: str) -> Float[np.ndarray, "H W"]:
    width, height = size
    if depth.shape != (height, width):
        raise InputError(
            f"{name}: found an array of shape {depth.shape}, but its image is {width}x{height}; "
            f"give one of shape ({height}, {width})"
        )
    if not np.issubdtype(depth.dtype, np.floating):
        raise InputError(
            f"{name}: found numbers of type {depth.dtype}; give floats, in metres unless told "
            "otherwise"
        )
    known = np.where(np.isfinite(depth), depth, 0)
    if known.min() < 0:
        raise InputError(
            f"{name}: found the depth {known.min():g}; give the distance along the optical axis, "
            "0 where it is unknown"
        )
    if known.max() == 0:
        raise InputError(f"{name}: no pixel has a depth; leave out the view's depth map")
    if known.max() > LARGEST_LENGTH:
        raise InputError(
            f"{name}: found the depth {known.max():g}, above {LARGEST_LENGTH:g}; give 0 where it "
            "is unknown"
        )
    return known.astype(np.float32)


def _check_numbers(values: np.ndarray, shape: tuple[int, int], name: str) -> None:
    if values.shape != shape:
        raise InputError(f"{name}: found an array of shape {values.shape}; expected {shape}")
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise InputError(f"{name}: found values that are no finite numbers; give numbers")


def _short(values: np.ndarray) -> str:
    return np.array2string(values, precision=4, separator=" ").replace("\n", "")
