"""What a user knows of the views, checked and brought to the size of the processed images."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float

from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.models.mapanything_conditions import Conditions

type PerView = np.ndarray | Sequence[np.ndarray | None] | Mapping[int, np.ndarray]
"""One array for each view, the first axis counting them; or a list with None for a view of which
nothing is known; or arrays by the number of their view, from 0."""

RIGID_TOLERANCE = 1e-3
SMALLEST_FOCAL = 0.05
"""Focal lengths below this share of the image's longer side are taken for a wrong unit."""


def conditions_from(
    transforms: Sequence[PixelTransform],
    *,
    intrinsics: PerView | None = None,
    poses: PerView | None = None,
    depths: PerView | None = None,
    metric_depths: bool = True,
    metric_poses: bool = True,
) -> Conditions:
    """Conditions of one scene.

    Args:
      transforms: of each view, from its original image to the processed one; all processed images
        have one size.
      intrinsics: camera matrices in pixels of the original images, where the centre of the top-left
        pixel is (0, 0).
      poses: world-from-camera, rigid, in any world frame; x right, y down, z forward.
      depths: depth along the optical axis of each pixel of the original image; 0, NaN or infinite
        where it is unknown.
      metric_depths, metric_poses: whether depths, and translations, are in metres. If not, their
        unit is taken to be unknown.

    Raises:
      InputError: one of them is given for a view that does not exist or has another shape; poses
        are not rigid, or given for later views but not the first; intrinsics are no camera matrix
        in pixels; a depth map has another size than its image, or comes without intrinsics.
    """
    views, (width, height) = len(transforms), transforms[0].size
    known = _by_view(intrinsics, views, "intrinsics")
    posed = _by_view(poses, views, "poses")
    mapped = _by_view(depths, views, "depths")
    matrices = np.broadcast_to(np.eye(3, dtype=np.float32), (views, 3, 3)).copy()
    for view, matrix in known.items():
        checked = _checked_intrinsics(matrix, transforms[view], f"intrinsics: view {view}")
        matrices[view] = transforms[view].intrinsics_from_original(checked)
    rigid = np.broadcast_to(np.eye(4, dtype=np.float32), (views, 4, 4)).copy()
    for view, pose in posed.items():
        rigid[view] = _checked_pose(pose, f"poses: view {view}")
    _check_together(known, posed, mapped)
    depth_z = np.zeros((views, height, width), np.float32)
    for view, depth in mapped.items():
        checked = _checked_depth(depth, transforms[view], f"depths: view {view}")
        depth_z[view] = transforms[view].nearest(checked)
    return Conditions(
        intrinsics=jnp.asarray(matrices[None]),
        has_intrinsics=_flags(known, views),
        depth_z=jnp.asarray(depth_z[None]),
        has_depth=_flags(mapped, views),
        world_from_camera=jnp.asarray(rigid[None]),
        has_pose=_flags(posed, views),
        metric_depth=jnp.full((1, views), metric_depths),
        metric_poses=jnp.full((1, views), metric_poses),
    )


def padded_conditions(conditions: Conditions, views: int) -> Conditions:
    """The conditions of one scene with unknown views behind it, up to so many views."""

    def pad(x: Array) -> Array:
        missing = views - x.shape[1]
        return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2))) if missing else x

    return jax.tree.map(pad, conditions)


def abstract_conditions(shape: tuple[int, ...], sharding: Sharding | None = None) -> Any:
    """Placeholders for the conditions of images of `shape` (V, H, W, 3)."""
    views, height, width = shape[:3]

    def known(dtype: Any, *rest: int) -> Any:
        return jax.ShapeDtypeStruct((1, views, *rest), dtype, sharding=sharding)

    empty = conditions_from([PixelTransform.stretch((1, 1), (width, height))] * views)
    return jax.tree.map(lambda x: known(x.dtype, *x.shape[2:]), empty)


def _flags(known: Mapping[int, Any], views: int) -> Bool[Any, "1 V"]:
    return jnp.asarray([[view in known for view in range(views)]])


def _by_view(given: PerView | None, views: int, name: str) -> dict[int, np.ndarray]:
    """What is known, by the number of its view."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        strangers = [view for view in given if view not in range(views)]
        if strangers:
            raise InputError(
                f"{name}: there is no view {strangers[0]}; the {views} views count from 0 to "
                f"{views - 1}"
            )
        return {view: np.asarray(value) for view, value in given.items()}
    if len(given) != views:
        raise InputError(
            f"{name}: found {len(given)} for {views} views; give one for each view, None where it "
            "is unknown"
        )
    return {view: np.asarray(value) for view, value in enumerate(given) if value is not None}


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
    matrix: np.ndarray, transform: PixelTransform, name: str
) -> Float[np.ndarray, "3 3"]:
    _check_numbers(matrix, (3, 3), name)
    matrix = matrix.astype(np.float64)
    if not np.array_equal(matrix[2], [0, 0, 1]) or matrix[1, 0] != 0:
        raise InputError(
            f"{name}: found the rows {_short(matrix)}; expected [fx 0 cx], [0 fy cy], [0 0 1]"
        )
    focal, (width, height) = matrix.diagonal()[:2], transform.original_size
    if (focal <= 0).any():
        raise InputError(
            f"{name}: found focal lengths {_short(focal)}; they must be positive, in pixels"
        )
    if abs(matrix[0, 1]) > RIGID_TOLERANCE * focal[0]:
        raise InputError(f"{name}: found the skew {matrix[0, 1]:g}; rectify the image")
    if (focal < SMALLEST_FOCAL * max(width, height)).any():
        raise InputError(
            f"{name}: found focal lengths {_short(focal)} for an image of {width}x{height}; give "
            "them in pixels of that image"
        )
    return matrix


def _checked_pose(pose: np.ndarray, name: str) -> Float[np.ndarray, "4 4"]:
    _check_numbers(pose, (4, 4), name)
    rotation = pose[:3, :3].astype(np.float64)
    off = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if not np.allclose(pose[3], [0, 0, 0, 1], rtol=0, atol=RIGID_TOLERANCE):
        raise InputError(f"{name}: found the last row {_short(pose[3])}; expected [0 0 0 1]")
    if off > RIGID_TOLERANCE or np.linalg.det(rotation) < 0:
        kind = "a reflection" if off <= RIGID_TOLERANCE else f"off by {off:.2g}"
        raise InputError(
            f"{name} is not rigid: its 3x3 part is no rotation ({kind}); give world-from-camera "
            "poses without scale"
        )
    return pose.astype(np.float32)


def _checked_depth(
    depth: np.ndarray, transform: PixelTransform, name: str
) -> Float[np.ndarray, "H W"]:
    width, height = transform.original_size
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
    known = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    if known.min() < 0:
        raise InputError(
            f"{name}: found the depth {known.min():g}; give the distance along the optical axis, "
            "0 where it is unknown"
        )
    if known.max() == 0:
        raise InputError(f"{name}: no pixel has a depth; leave out the view's depth map")
    return known


def _check_numbers(values: np.ndarray, shape: tuple[int, int], name: str) -> None:
    if values.shape != shape:
        raise InputError(f"{name}: found an array of shape {values.shape}; expected {shape}")
    if not np.issubdtype(values.dtype, np.number) or not np.isfinite(values).all():
        raise InputError(f"{name}: found values that are no finite numbers; give numbers")


def _short(values: np.ndarray) -> str:
    return np.array2string(values, precision=4, separator=" ").replace("\n", "")
