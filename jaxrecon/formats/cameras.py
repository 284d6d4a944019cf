"""The cameras of a scene in pixels of the photos, or of the processed pictures."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from jaxrecon.formats.options import Size
from jaxrecon.formats.scene import Scene


@dataclass(frozen=True, eq=False)
class Cameras:
    """Pinhole cameras of V views, in double precision and OpenCV's axes and pixels.

    Attributes:
      sizes: width and height of the pictures.
      intrinsics: in pixels of these pictures.
      world_from_camera: poses.
    """

    sizes: Int[np.ndarray, "V 2"]
    intrinsics: Float[np.ndarray, "V 3 3"]
    world_from_camera: Float[np.ndarray, "V 4 4"]
    _scales: Float[np.ndarray, "V 2"]
    _offsets: Float[np.ndarray, "V 2"]

    def from_processed(
        self, xy: Num[np.ndarray, "*points 2"], view: Int[np.ndarray, "*points"] | int
    ) -> Float[np.ndarray, "*points 2"]:
        """Positions in the processed pictures as positions in these cameras' pictures."""
        return (xy + 0.5 - self._offsets[view]) / self._scales[view] - 0.5


def cameras_of(scene: Scene, size: Size) -> Cameras:
    """The cameras for pictures of the photos' own size, once upright, or of the processed size."""
    intrinsics, sizes = scene.intrinsics.astype(np.float64), scene.original_sizes
    scales, offsets = scene.scales.astype(np.float64), scene.offsets.astype(np.float64)
    if size == "processed":
        views, height, width = scene.mask.shape
        scales, offsets = np.ones((views, 2)), np.zeros((views, 2))
        sizes = np.tile(np.array([width, height]), (views, 1))
    else:
        pairs = zip(scene.transforms, intrinsics, strict=True)
        intrinsics = np.stack([each.intrinsics_to_original(matrix) for each, matrix in pairs])
    return Cameras(
        sizes=sizes,
        intrinsics=intrinsics,
        world_from_camera=scene.world_from_camera.astype(np.float64),
        _scales=scales,
        _offsets=offsets,
    )
