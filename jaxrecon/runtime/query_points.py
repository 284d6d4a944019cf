"""Points that a caller names in some photos, checked and brought into the processed images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxrecon.checks import is_whole, shown
from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.images.resize import valid_regions
from jaxrecon.models import check_query_points

MOST_POINTS = 2**20
"""Most points that are spread over one photo: more than it has pixels."""
_MOST_VIEWS = 10**9
QUERY_EVERY = 8
"""A number of points is asked for in every view of this stride."""

type Points = int | np.ndarray | Sequence[Sequence[float]]
type QueryPoints = Points | Mapping[int, Points]
"""(x, y) in pixels of the first photo, once upright, shape (Q, 2); or by the number of their
photo; or how many to spread over every eighth photo."""


@dataclass(frozen=True, eq=False)
class Query:
    """Points, in pixels of the processed image, that are given in one view."""

    view: int
    points: Float[np.ndarray, "Q 2"]


def check_query(query_points: QueryPoints) -> None:
    """Refuses what can't be points, before any long work is done.

    Raises:
      InputError: a number is below 1, a shape is not (Q, 2), what is given are no real numbers, a
        photo's number is no whole one, or there are no points.
    """
    if not isinstance(query_points, Mapping):
        _check_points(query_points, "query_points")
        return
    if not query_points:
        raise InputError("query_points is empty; give points by the number of their view")
    for view, points in query_points.items():
        if not is_whole(view) or abs(view) > _MOST_VIEWS:
            raise InputError(
                f"query_points has the key {shown(view)}; give points by the number of their view, "
                "a whole number from 0"
            )
        _check_points(points, _name(query_points, view))


def queries(
    query_points: QueryPoints, transforms: Sequence[PixelTransform], *, smallest: int
) -> list[Query]:
    """The points of each view in which some are given; see `check_query`.

    Raises:
      InputError: there is no such view; a point is not finite, outside its photo or cropped off;
        or the images are smaller than `smallest`.
    """
    if isinstance(query_points, Mapping):
        given: Mapping[int, Points] = query_points
    elif is_whole(query_points):
        given = dict.fromkeys(range(0, len(transforms), QUERY_EVERY), query_points)
    else:
        given = {0: query_points}
    for view in given:
        if view not in range(len(transforms)):
            raise InputError(
                f"query_points: there is no view {view}; the {len(transforms)} views count from 0 "
                f"to {len(transforms) - 1}"
            )
    return [
        Query(int(view), _processed(points, transforms[view], _name(query_points, view), smallest))
        for view, points in given.items()
    ]


def _name(query_points: QueryPoints, view: int) -> str:
    """What messages call the points of one view."""
    return f"query_points[{view}]" if isinstance(query_points, Mapping) else "query_points"


def _check_points(points: Points, name: str) -> None:
    if is_whole(points):
        if not 1 <= points <= MOST_POINTS:
            raise InputError(
                f"{name}={shown(points)} must be at least 1 and at most {MOST_POINTS}, or an array "
                "of points"
            )
        return
    array = _array(points, name)
    if array.ndim != 2 or array.shape[1] != 2 or not len(array):
        raise InputError(
            f"{name} has shape {array.shape}; expected (Q, 2), at least one (x, y) in pixels"
        )


def _processed(
    given: Points, transform: PixelTransform, name: str, smallest: int
) -> Float[np.ndarray, "Q 2"]:
    width, height = transform.size
    if is_whole(given):
        points = _spread_out(int(given), transform)
    else:
        photo = _array(given, name)
        columns, rows = transform.original_size
        check_query_points(photo, rows, columns, name=name)
        points = transform.from_original(photo)
        _check_not_cropped(photo, points, transform, name)
    points = points.clip(0, (width - 1, height - 1)).astype(np.float32)
    check_query_points(points, height, width, smallest=smallest)
    return points


def _array(points: Points, name: str) -> Float[np.ndarray, "..."]:
    """The points in double precision."""
    try:
        array = np.asarray(points)
    except (TypeError, ValueError):
        array = np.array(None)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (np.integer, np.floating)):
        raise InputError(
            f"{name} is not an array of numbers, found {_kind(points, array)}; give (x, y) in "
            "pixels, shape (Q, 2), or how many points to spread over the photo"
        )
    return array.astype(np.float64)


def _kind(points: object, array: np.ndarray) -> str:
    return type(points).__name__ if array.dtype == object else str(array.dtype)


def _spread_out(count: int, transform: PixelTransform) -> Float[np.ndarray, "Q 2"]:
    """About `count` points on a regular grid over the photo, in the middle of its cells."""
    left, top, right, bottom = valid_regions([transform])[0].tolist()
    width, height = right - left, bottom - top
    columns = max(1, round((count * width / height) ** 0.5))
    rows = max(1, round(count / columns))
    x = left + (np.arange(columns) + 0.5) * width / columns - 0.5
    y = top + (np.arange(rows) + 0.5) * height / rows - 0.5
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _check_not_cropped(
    given: Float[np.ndarray, "Q 2"],
    points: Float[np.ndarray, "Q 2"],
    transform: PixelTransform,
    name: str,
) -> None:
    """The photo's outermost pixels may lie half a pixel outside the processed ones."""
    size = np.array(transform.size)
    lost = ~((points >= -0.5) & (points <= size - 0.5)).all(axis=1)
    if not lost.any():
        return
    number = int(lost.argmax())
    x, y = given[number].tolist()
    (left, top), (right, bottom) = (
        transform.to_original(corner) for corner in (np.zeros(2), size - 1.0)
    )
    raise InputError(
        f"{name}[{number}] = ({x:g}, {y:g}) is cropped off its photo; give x from {left:.1f} to "
        f"{right:.1f} and y from {top:.1f} to {bottom:.1f}"
    )
