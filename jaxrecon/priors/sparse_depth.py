"""Depth that is known at few places of an image, and how it is brought to another size."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxrecon.images import PixelTransform

SPARSE_SHARE = 0.2
"""Share of known pixels below which a depth map counts as sparse."""


@dataclass(frozen=True, eq=False)
class SparseDepth:
    """Depth at P places of an image; it is unknown elsewhere.

    Attributes:
      size: width and height of the image.
      xy: places in the image, in pixels, the centre of the top-left one at (0, 0).
      depth_z: along the optical axis, above 0.
    """

    size: tuple[int, int]
    xy: Float[np.ndarray, "P 2"]
    depth_z: Float[np.ndarray, " P"]

    @classmethod
    def unknown(cls, size: tuple[int, int]) -> "SparseDepth":
        """Depth that is nowhere known."""
        return cls(size, np.empty((0, 2)), np.empty(0, np.float32))

    @classmethod
    def of_map(cls, depth_z: Float[np.ndarray, "H W"]) -> "SparseDepth":
        """The known pixels of a map; what is 0, negative or not finite is unknown."""
        rows, columns = np.nonzero(np.isfinite(depth_z) & (depth_z > 0))
        height, width = depth_z.shape
        places = np.stack([columns, rows], axis=-1).astype(np.float64)
        return cls((width, height), places, depth_z[rows, columns])

    def __len__(self) -> int:
        return len(self.depth_z)

    def processed(self, transform: PixelTransform) -> Float[np.ndarray, "H W"]:
        """A map for the processed image, 0 where depth is unknown.

        Each place counts for the pixel in which it lies, whatever is unknown around it; of several
        the nearest to the camera, which hides the others.
        """
        width, height = transform.size
        places = transform.from_original(self.xy)
        column, row = np.floor(places + 0.5).astype(int).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        found = np.full((height, width), np.inf, np.float32)
        np.minimum.at(found, (row[inside], column[inside]), self.depth_z[inside])
        return np.where(np.isfinite(found), found, 0)


def points_if_sparse(depth_z: Float[np.ndarray, "H W"]) -> Float[np.ndarray, "H W"] | SparseDepth:
    """A depth map, or its known pixels where they are few."""
    return SparseDepth.of_map(depth_z) if is_sparse([depth_z]) else depth_z


def is_sparse(maps: Iterable[Float[np.ndarray, "_ _"]]) -> bool:
    """Whether of the pixels of maps in which some are known few are: see `SPARSE_SHARE`."""
    counts = [(int((map_ > 0).sum()), map_.size) for map_ in maps]
    known, pixels = np.sum([count for count in counts if count[0]] or [(0, 1)], axis=0)
    return bool(0 < known < SPARSE_SHARE * pixels)
