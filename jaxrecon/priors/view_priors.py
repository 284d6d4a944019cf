"""What a caller knows of the views before they are reconstructed."""

import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Array

from jaxrecon.checks import is_whole, shown, truth_value
from jaxrecon.deprecation import warn_renamed
from jaxrecon.errors import InputError
from jaxrecon.priors.validation import (
    check_origin,
    check_together,
    checked_depth,
    checked_intrinsics,
    checked_pose,
)

type PerView = (
    np.ndarray
    | Array
    | Sequence[np.ndarray | Array | None]
    | Mapping[int, np.ndarray | Array | None]
)
"""One array for each view, the first axis counting them; or a list with None for a view of which
nothing is known; or arrays, or None, by the number of their view, from 0."""

KINDS = ("intrinsics", "poses", "depths")
"""What may be known of a view: the fields of `ViewPriors` that hold arrays."""

_SHAPES = {"intrinsics": (3, 3), "poses": (4, 4), "depths": ("H", "W")}


@dataclass(frozen=True, eq=False)
class ViewPriors:
    """What is known of the views before they are reconstructed, as their original images have it.

    One camera matrix (3, 3) counts for all views. Whatever form a kind is given in, it is kept as
    NumPy arrays in a mapping by the number of the view, in a tuple with an entry for each view, or
    as the one camera matrix; as an empty mapping where nothing is known of any view.

    Attributes:
      intrinsics: camera matrices in pixels of the original upright images, where the centre of the
        top-left pixel is (0, 0).
      poses: world-from-camera, rigid, in any world frame; x right, y down, z forward.
      depths: depth along the optical axis of each pixel of the original image; 0, NaN, infinite
        or masked (`numpy.ma`) where it is unknown.
      metric_poses, metric_depths: whether translations, and depths, are in metres. If not, their
        unit is taken to be unknown.

    Raises:
      InputError: one is in none of these forms. What its numbers must be is checked once the sizes
        of the images are there; see `checked`.
    """

    intrinsics: PerView | None = None
    poses: PerView | None = None
    depths: PerView | None = None
    metric_poses: bool = True
    metric_depths: bool = True

    def __post_init__(self) -> None:
        for kind in KINDS:
            object.__setattr__(self, kind, _kept_form(getattr(self, kind), kind))
        for name in ("metric_poses", "metric_depths"):
            object.__setattr__(self, name, truth_value(name, getattr(self, name)))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of which kinds something is known."""
        return tuple(kind for kind in KINDS if len(getattr(self, kind)))

    @property
    def metric(self) -> bool:
        """The former name of `metric_poses` and `metric_depths`, which files have in common."""
        warn_renamed("KnownViews.metric", "ViewPriors.metric_poses", stacklevel=3)
        return self.metric_poses

    @property
    def views_with_intrinsics(self) -> Container[int]:
        """The numbers of the views whose intrinsics are known."""
        if isinstance(self.intrinsics, np.ndarray):
            return range(sys.maxsize)
        return frozenset(_numbered(self.intrinsics))

    @property
    def first_posed(self) -> int | None:
        """The number of the first view whose pose is known, None if there is none."""
        if isinstance(self.poses, np.ndarray):
            return 0
        return min(_numbered(self.poses), default=None)

    def by_view(self, kind: str, views: int) -> dict[int, np.ndarray]:
        """What is known of one kind, by the numbers of `views` views.

        Raises:
          InputError: it is given for another number of views, or for one that does not exist.
        """
        value: Any = getattr(self, kind)
        if isinstance(value, np.ndarray):
            return dict.fromkeys(range(views), value)
        if isinstance(value, tuple) and len(value) != views:
            raise InputError(
                f"{kind}: found {len(value)} for {views} views; give one for each view, None "
                "where it is unknown"
            )
        found = _numbered(value)
        strangers = [view for view in found if view not in range(views)]
        if strangers:
            raise InputError(
                f"{kind}: there is no view {shown(strangers[0])}; the {views} views count "
                f"from 0 to {views - 1}"
            )
        return found

    def by_view_in(self, kind: str, start: int, stop: int) -> dict[int, np.ndarray]:
        """What is known of one kind of the views from `start` to `stop`, numbered from `start`.

        Raises:
          InputError: it is given for each view, and these are more.
        """
        value: Any = getattr(self, kind)
        if isinstance(value, np.ndarray):
            return dict.fromkeys(range(stop - start), value)
        if isinstance(value, tuple) and len(value) < stop:
            raise InputError(
                f"{kind}: found {len(value)}, and there are at least {stop} views; give one for "
                "each view, None where it is unknown"
            )
        found = _numbered(value)
        return {view - start: found[view] for view in range(start, stop) if view in found}

    def checked(
        self, sizes: Sequence[tuple[int, int]], *, independent: bool = False
    ) -> "ViewPriors":
        """The same by the numbers of the views: cameras in float64, depths in float32, 0 unknown.

        Args:
          sizes: width and height of each view's original image.
          independent: whether the model takes depth without intrinsics, and poses without that of
            the first view; see `ModelDefaults.independent_priors`.

        Raises:
          InputError: one of them is given for a view that does not exist or has another shape;
            poses are not rigid, given for later views but not the first, or so far from the origin
            of their world that float32 loses a millimetre; intrinsics are no camera matrix in
            pixels of the original image; a depth map has another size than its image or comes
            without intrinsics.
        """
        cameras, posed, maps = (self.by_view(kind, len(sizes)) for kind in KINDS)
        matrices = {
            view: checked_intrinsics(matrix, sizes[view], f"intrinsics: view {view}")
            for view, matrix in cameras.items()
        }
        poses = {view: checked_pose(pose, f"poses: view {view}") for view, pose in posed.items()}
        if not independent:
            check_together(matrices, poses, maps)
        depths = {
            view: checked_depth(depth, sizes[view], f"depths: view {view}")
            for view, depth in maps.items()
        }
        check_origin(poses, metric=self.metric_poses)
        return replace(self, intrinsics=matrices, poses=poses, depths=depths)


def _numbered(kept: Any) -> dict[int, np.ndarray]:
    """What is known, by the number of its view, of a mapping or of a tuple with all views."""
    if isinstance(kept, Mapping):
        return dict(kept)
    return {view: array for view, array in enumerate(kept) if array is not None}


def _kept_form(value: PerView | None, kind: str) -> PerView:
    """A value in the form in which `ViewPriors` keeps it.

    Raises:
      InputError: it is none of what `PerView` allows.
    """
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return _by_number(value, kind)
    arrays = tuple(
        None if entry is None else _array(entry, kind, view)
        for view, entry in enumerate(_entries(value, kind))
    )
    known = [array for array in arrays if array is not None]
    if kind == "intrinsics" and [array.shape for array in known] == [(3,)] * 3:
        return np.stack(known)
    return arrays if known else {}


def _by_number(given: Mapping[Any, Any], kind: str) -> dict[int, np.ndarray]:
    for view in given:
        if not is_whole(view):
            raise InputError(
                f"{kind}: found the key {shown(view)}; name views by whole numbers, from 0"
            )
    return {
        int(view): _array(value, kind, int(view))
        for view, value in given.items()
        if value is not None
    }


def _entries(given: Any, kind: str) -> list[Any]:
    """One entry for each view, None where nothing is known; or the rows of one camera matrix."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return list(given)
    array = _array(given, kind)
    if array.ndim == 1 and array.dtype == object:
        return list(array)
    if array.ndim == 3 or (kind == "intrinsics" and array.shape == (3, 3)):
        return list(array)
    rows, columns = _SHAPES[kind]
    found = f"an array of shape {array.shape}" if array.ndim else f"{_name_of(given)}"
    raise InputError(
        f"{kind}: found {found}; give an array (views, {rows}, {columns}), a list with None where "
        "nothing is known, or a mapping by the number of the view"
    )


def _name_of(given: Any) -> str:
    plain = isinstance(given, int | float | str | bytes)
    return shown(given) if plain else f"a {type(given).__name__}"


def _array(value: Any, kind: str, view: int | None = None) -> np.ndarray:
    where = kind if view is None else f"{kind}: view {shown(view)}"
    if np.ma.is_masked(value):
        if kind != "depths":
            raise InputError(f"{where}: found masked numbers; give None for what is unknown")
        value = np.ma.filled(value, 0)
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}: found rows of different lengths, or what is no array; give an array of "
            "numbers"
        ) from error
