"""What is known about a scene: its images and, as far as measured, cameras and depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxrecon.errors import InputError
from jaxrecon.priors.sparse_depth import SparseDepth, is_sparse
from jaxrecon.priors.validation import checked_pose
from jaxrecon.reading import ArrayHeader

_RIGID_TOLERANCE = 1e-2
"""Poses that were measured are less exact than those that are computed."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """V images of one scene and what is known about them; `None` where nothing is.

    Attributes:
      name: of the scene, as it stands in reports.
      images: files, or pixels of 8 bits.
      world_from_camera: true poses. A pose with a value that is not finite is unknown.
      intrinsics: pinhole cameras, in pixels of the images as they are stored. A matrix with a value
        that is not finite is unknown.
      depth_z: along the optical axis, at each pixel of the images as they are stored, in the unit
        of the poses. 0, negative or not finite: unknown.
      sparse_depth: in place of it, the depth of each view at a few places, such as the points of a
        structure-from-motion model.

    Raises:
      InputError: there is no image, numbers of views differ, a known pose is not rigid, a known
        camera is no pinhole camera, or depth is given in both ways.
    """

    name: str
    images: tuple[Path, ...] | UInt8[np.ndarray, "V H W 3"]
    world_from_camera: Float[np.ndarray, "V 4 4"] | None = None
    intrinsics: Float[np.ndarray, "V 3 3"] | None = None
    depth_z: Float[np.ndarray, "V H0 W0"] | None = None
    sparse_depth: tuple[SparseDepth, ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.images):
            raise InputError(f"{self.name} has no images; give at least one")
        expected = {
            "world_from_camera": (len(self), 4, 4),
            "intrinsics": (len(self), 3, 3),
            "depth_z": (len(self), None, None),
        }
        for field, shape in expected.items():
            check_shape(self.name, field, getattr(self, field), shape)
        if self.sparse_depth is not None:
            self._check_sparse(self.sparse_depth)
        if self.world_from_camera is not None:
            check_rigid(self.name, self.world_from_camera)
        if self.intrinsics is not None:
            check_pinholes(self.name, self.intrinsics)

    def __len__(self) -> int:
        return len(self.images)

    def _check_sparse(self, depths: tuple[SparseDepth, ...]) -> None:
        if self.depth_z is not None:
            raise InputError(f"{self.name}: found depth_z and sparse_depth; give one of them")
        if len(depths) != len(self):
            raise InputError(
                f"{self.name}: sparse_depth is of {len(depths)} views; expected {len(self)}, one "
                "for each image"
            )

    @cached_property
    def depth_is_sparse(self) -> bool:
        """Whether depth is known at few places of the views: too few to tell what they share."""
        if self.depth_z is None:
            return self.sparse_depth is not None
        return is_sparse(self.depth_z)

    def depths(self) -> Sequence[Float[np.ndarray, "H0 W0"] | SparseDepth]:
        """The depth of each view, at few places if it is sparse; nothing if it is not known."""
        if self.depth_z is None:
            return self.sparse_depth or ()
        return [*map(SparseDepth.of_map if self.depth_is_sparse else np.asarray, self.depth_z)]


def check_shape(
    where: str, field: str, array: np.ndarray | ArrayHeader | None, expected: tuple[int | None, ...]
) -> None:
    """Refuses an array of another shape; None stands for any length, and for no array.

    Raises:
      InputError: naming `where`, the field, and both shapes.
    """
    if array is None:
        return
    same_rank = len(array.shape) == len(expected)
    if not same_rank or any(
        side not in (None, found) for side, found in zip(expected, array.shape, strict=True)
    ):
        wanted = ", ".join("any" if side is None else str(side) for side in expected)
        raise InputError(
            f"{where}: {field} has shape {array.shape}; expected ({wanted}), "
            f"to go with {expected[0]} images"
        )


def check_rigid(where: str, poses: Float[np.ndarray, "V 4 4"]) -> None:
    """Refuses known poses that are not a rotation and a translation, or farther than any camera.

    Raises:
      InputError: naming `where` and the view.
    """
    for view in np.flatnonzero(known_matrices(poses)).tolist():
        checked_pose(poses[view], f"{where}: the pose of view {view}", tolerance=_RIGID_TOLERANCE)


def check_pinholes(where: str, intrinsics: Float[np.ndarray, "V 3 3"]) -> None:
    """Refuses known intrinsics that are not those of a pinhole camera.

    Raises:
      InputError: naming `where` and the view.
    """
    known = known_matrices(intrinsics)
    safe = np.where(known[:, None, None], intrinsics, np.eye(3))
    bad = (safe[:, [0, 1], [0, 1]] <= 0).any(axis=1)
    bad |= (np.abs(safe[:, [1, 2, 2, 2], [0, 0, 1, 2]] - (0, 0, 0, 1)) > 1e-6).any(axis=1)
    if bad.any():
        raise InputError(
            f"{where}: the intrinsics of view {int(bad.argmax())} are no pinhole camera; give "
            "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels, fx and fy above 0"
        )


def known_matrices(matrices: Float[np.ndarray, "V N N"]) -> Bool[np.ndarray, " V"]:
    """Which poses or intrinsics are finite."""
    return np.isfinite(matrices).all(axis=(1, 2))
