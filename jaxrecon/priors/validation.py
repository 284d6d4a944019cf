"""Which numbers said to be known of the views make no sense."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError

RIGID_TOLERANCE = 1e-3
SMALLEST_FOCAL, LARGEST_FOCAL = 0.05, 1000.0
"""Focal lengths outside these shares of the image's longer side are taken for a wrong unit."""
LARGEST_LENGTH = 1e12
"""Lengths from here on are refused: their squares, summed, would leave float32."""
FINEST_METRES = 1e-3
"""How far apart, in metres, float32 may lie where the world's cameras are."""
FINEST_SHARE = 1e-4
"""The same where the unit is unknown, as a share of the farthest camera's distance."""


def check_together(
    intrinsics: Mapping[int, np.ndarray],
    poses: Mapping[int, np.ndarray],
    depths: Mapping[int, np.ndarray],
) -> None:
    """Refuses combinations that only models with independent priors can make sense of.

    Raises:
      InputError: later views have a pose but not the first, or depth comes without intrinsics.
    """
    if poses and 0 not in poses:
        raise InputError(
            f"poses: view {min(poses)} has one, but the first view, to which all are related, has "
            "none; give it one, or put another view first"
        )
    without = [view for view in depths if view not in intrinsics]
    if without:
        raise InputError(
            f"depths: view {without[0]} has a depth map but no intrinsics, without which depth is "
            "no geometry; give them too"
        )


def checked_intrinsics(
    matrix: np.ndarray, size: tuple[int, int], name: str
) -> Float[np.ndarray, "3 3"]:
    """The camera matrix in float64.

    Args:
      matrix: what was given.
      size: width and height of the original image.
      name: of it, for messages.

    Raises:
      InputError: it is no camera matrix in pixels of that image.
    """
    _check_numbers(matrix, (3, 3), name)
    matrix = matrix.astype(np.float64)
    if not np.array_equal(matrix[2], [0, 0, 1]) or matrix[1, 0] != 0:
        raise InputError(
            f"{name}: found the rows {_short(matrix)}; expected [fx 0 cx], [0 fy cy], [0 0 1]"
        )
    _check_focal(matrix.diagonal()[:2], size, name)
    if abs(matrix[0, 1]) > RIGID_TOLERANCE * matrix[0, 0]:
        raise InputError(f"{name}: found the skew {matrix[0, 1]:g}; rectify the image")
    check_principal_point(matrix, size, name)
    return matrix


def check_principal_point(
    matrix: Float[np.ndarray, "3 3"], size: tuple[int, int], name: str
) -> None:
    """Refuses a principal point outside the image, as that of a larger copy is.

    Args:
      matrix, size, name: see `checked_intrinsics`.

    Raises:
      InputError: see above.
    """
    center, (width, height) = matrix[:2, 2], size
    if (center < -0.5).any() or (center > np.array(size) - 0.5).any():
        raise InputError(
            f"{name}: found the principal point {_short(center)}, outside its image of "
            f"{width}x{height}; give it in pixels of the photo as given"
        )


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


def checked_pose(
    pose: np.ndarray, name: str, *, tolerance: float = RIGID_TOLERANCE
) -> Float[np.ndarray, "4 4"]:
    """The pose in float64.

    Args:
      pose: what was given.
      name: of it, for messages.
      tolerance: by how much it may be off.

    Raises:
      InputError: it is not rigid, or its numbers are beyond lengths that can be used.
    """
    _check_numbers(pose, (4, 4), name)
    pose = pose.astype(np.float64)
    if not np.allclose(pose[3], [0, 0, 0, 1], rtol=0, atol=tolerance):
        raise InputError(f"{name}: found the last row {_short(pose[3])}; expected [0 0 0 1]")
    rotation, most = pose[:3, :3], np.abs(pose[:3]).max()
    if most > LARGEST_LENGTH:
        raise InputError(f"{name}: found the number {most:g}; give a rotation and metres")
    off = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if off > tolerance or np.linalg.det(rotation) < 0:
        kind = "a reflection" if off <= tolerance else f"off by {off:.2g}"
        raise InputError(
            f"{name} is not rigid: its 3x3 part is no rotation ({kind}); give world-from-camera "
            "poses without scale"
        )
    return pose


def check_origin(poses: Mapping[int, Float[np.ndarray, "4 4"]], *, metric: bool) -> None:
    """Refuses poses so far from their origin that float32 cannot tell them apart.

    Raises:
      InputError: naming the first view's place, and how far apart numbers are there.
    """
    if not poses:
        return
    first = min(poses)
    origin = poses[first][:3, 3]
    farthest = max(float(np.linalg.norm(pose[:3, 3] - origin)) for pose in poses.values())
    finest = FINEST_METRES if metric else FINEST_SHARE * farthest
    spacing = float(np.spacing(np.abs(origin).max().astype(np.float32)))
    if spacing > finest and (metric or farthest):  # one pose of unknown unit has no place
        raise InputError(
            f"poses: view {first} is at {_short(origin)}, where the result's float32 numbers are "
            f"{spacing:.2g} apart; subtract an origin near the cameras from all positions first"
        )


def checked_depth(depth: np.ndarray, size: tuple[int, int], name: str) -> Float[np.ndarray, "H W"]:
    """The depth map in float32, 0 where it is unknown.

    Args:
      depth: what was given.
      size: width and height of the original image.
      name: of it, for messages.

    Raises:
      InputError: it has another size or type, a negative depth, or none at all.
    """
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
