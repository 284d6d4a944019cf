"""The truth at the pixels that a model saw, after resizing and cropping."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth, known_matrices
from jaxrecon.images import PixelTransform
from jaxrecon.priors.sparse_depth import SparseDepth
from jaxrecon.priors.validation import LARGEST_LENGTH, checked_intrinsics


@dataclass(frozen=True, eq=False)
class ProcessedTruth:
    """What is known about V views, at the processed pixels.

    Attributes:
      intrinsics: in pixels of the processed images; None if unknown.
      depth_z: 0 where unknown; None if it is nowhere known.
    """

    intrinsics: Float[np.ndarray, "V 3 3"] | None
    depth_z: Float[np.ndarray, "V H W"] | None

    @property
    def mask(self) -> Bool[np.ndarray, "V H W"] | None:
        """Pixels of known depth."""
        return None if self.depth_z is None else self.depth_z > 0


def process(truth: GroundTruth, transforms: Sequence[PixelTransform]) -> ProcessedTruth:
    """Maps the truth to the processed images.

    Depth is taken from the nearest pixel of the original; where the original has none, it is
    unknown. Where depth is sparse, each known pixel or point counts at the processed pixel in which
    it lies.

    Raises:
      InputError: the images are of another number or size than the truth, intrinsics are not those
        of a camera of such an image, or a depth is beyond all lengths.
    """
    if len(transforms) != len(truth):
        raise InputError(
            f"{truth.name}: the model gave {len(transforms)} views for {len(truth)} images"
        )
    intrinsics = depth = None
    known = truth.depths()
    if len(known):
        for view, transform in enumerate(transforms):
            _check_size(truth.name, view, known[view], transform)
        depth = np.stack(
            [processed_depth(map_, to) for map_, to in zip(known, transforms, strict=True)]
        )
        _check_lengths(truth.name, depth)
        depth = depth if (depth > 0).any() else None
    if truth.intrinsics is not None:
        for view in np.flatnonzero(known_matrices(truth.intrinsics)).tolist():
            size, where = transforms[view].original_size, f"{truth.name}: intrinsics: view {view}"
            checked_intrinsics(truth.intrinsics[view], size, where)
        pairs = zip(truth.intrinsics, transforms, strict=True)
        intrinsics = np.stack([processed_intrinsics(matrix, to) for matrix, to in pairs])
    return ProcessedTruth(intrinsics, depth)


def processed_intrinsics(
    intrinsics: Float[np.ndarray, "3 3"], transform: PixelTransform
) -> Float[np.ndarray, "3 3"]:
    """Maps a camera matrix of the original image to that of the processed one."""
    origin = transform.from_original(np.zeros(2))
    scale_x, scale_y = transform.scale
    processed_from_original = np.array(
        [[scale_x, 0.0, origin[0]], [0.0, scale_y, origin[1]], [0.0, 0.0, 1.0]]
    )
    return processed_from_original @ intrinsics.astype(np.float64)


def processed_depth(
    depth_z: Float[np.ndarray, "H0 W0"] | SparseDepth, transform: PixelTransform
) -> Float[np.ndarray, "H W"]:
    """Depth at the processed pixels, from the nearest original pixel; 0 where unknown.

    See `SparseDepth.processed` for what is known at few places.
    """
    if isinstance(depth_z, SparseDepth):
        return depth_z.processed(transform)
    width, height = transform.size
    xs = np.stack([np.arange(float(width)), np.zeros(width)], axis=-1)
    ys = np.stack([np.zeros(height), np.arange(float(height))], axis=-1)
    column, has_column = _nearest(transform.to_original(xs)[:, 0], depth_z.shape[1])
    row, has_row = _nearest(transform.to_original(ys)[:, 1], depth_z.shape[0])
    found = depth_z[row[:, None], column]
    known = has_row[:, None] & has_column & np.isfinite(found) & (found > 0)
    return np.where(known, found, 0).astype(np.float32)


def _nearest(position: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest pixel, held inside the image, and whether it was inside."""
    pixel = np.floor(position + 0.5).astype(np.int64)
    return pixel.clip(0, side - 1), (pixel >= 0) & (pixel < side)


def _check_size(
    name: str,
    view: int,
    known: Float[np.ndarray, "H0 W0"] | SparseDepth,
    transform: PixelTransform,
) -> None:
    width, height = known.size if isinstance(known, SparseDepth) else known.shape[::-1]
    if transform.original_size != (width, height):
        found = "x".join(map(str, transform.original_size))
        raise InputError(
            f"{name}: image {view} is {found} pixels, its depth {width}x{height}; "
            "give depth of the size of the images"
        )


def _check_lengths(name: str, depth_z: Float[np.ndarray, "V H W"]) -> None:
    """Refuses depth that stands for something else, such as for what is infinitely far away."""
    farthest = depth_z.max(axis=(1, 2))
    if farthest.max() > LARGEST_LENGTH:
        view = int(farthest.argmax())
        raise InputError(
            f"{name}: image {view} has the depth {farthest[view]:g}, above {LARGEST_LENGTH:g}; "
            "give 0 where it is unknown"
        )
