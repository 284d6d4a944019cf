"""What the files of a reconstruction say of its views, without their points and pictures."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from jaxrecon.images import PixelTransform


def recorded_transforms(
    original_sizes: Int[np.ndarray, "V 2"],
    scales: Float[np.ndarray, "V 2"],
    offsets: Float[np.ndarray, "V 2"],
    size: tuple[int, int],
) -> tuple[PixelTransform, ...]:
    """The transforms of views whose processed pictures have one `size`; see `Scene`."""
    rows = zip(original_sizes.tolist(), scales.tolist(), offsets.tolist(), strict=True)
    return tuple(
        PixelTransform(tuple(original), size, tuple(scale), tuple(offset))
        for original, scale, offset in rows
    )


@dataclass(frozen=True, eq=False)
class RecordedViews:
    """Cameras of V views, and how their processed pictures came from their photos.

    Attributes:
      names: of the photos.
      transforms: from each photo to its processed picture.
      intrinsics: in pixels of the processed pictures.
      world_from_camera: poses.
      depth_z: depth along the optical axis of the processed pictures' pixels, if it was read.
      metric: whether lengths are in metres; else their unit is unknown.
    """

    names: tuple[str, ...]
    transforms: tuple[PixelTransform, ...]
    intrinsics: Float[np.ndarray, "V 3 3"]
    world_from_camera: Float[np.ndarray, "V 4 4"]
    depth_z: Float[np.ndarray, "V H W"] | None
    metric: bool
