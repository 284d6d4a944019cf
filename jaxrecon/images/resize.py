"""The size that a model family wants its images in, and where each pixel went."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError


@dataclass(frozen=True)
class PixelTransform:
    """How the pixels of one original image map to those of the processed image.

    On each axis `processed = scale * (original + 0.5) + offset - 0.5`, in pixels, where the centre
    of the top-left pixel is (0, 0) in both images.

    Attributes:
      original_size: width and height of the original, once its EXIF orientation is applied.
      size: width and height of the processed image.
      scale: processed pixels per original pixel, along x and y.
      offset: shift after scaling, along x and y, in processed pixels; a crop makes it negative.
    """

    original_size: tuple[int, int]
    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def stretch(cls, original_size: tuple[int, int], size: tuple[int, int]) -> "PixelTransform":
        """The transform of an image resized from one (width, height) to another, uncropped."""
        return cls(original_size, size, (size[0] / original_size[0], size[1] / original_size[1]))

    def to_original(self, pixels: Float[np.ndarray, "*points 2"]) -> Float[np.ndarray, "*points 2"]:
        """Maps (x, y) positions in the processed image to positions in the original."""
        shifted = (pixels + 0.5 - np.asarray(self.offset)) / np.asarray(self.scale) - 0.5
        return shifted.astype(pixels.dtype)

    def from_original(
        self, pixels: Float[np.ndarray, "*points 2"]
    ) -> Float[np.ndarray, "*points 2"]:
        """Maps (x, y) positions in the original image to positions in the processed one."""
        scaled = np.asarray(self.scale) * (pixels + 0.5) + np.asarray(self.offset) - 0.5
        return scaled.astype(pixels.dtype)

    def intrinsics_to_original(
        self, intrinsics: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 3"]:
        """Maps a camera matrix of the processed image to that of the original.

        Both matrices are in pixels of their image and project a point of the camera frame as
        `[x, y, 1] ~ intrinsics @ point`.
        """
        (scale_x, scale_y), origin = self.scale, self.to_original(np.zeros(2))
        original_from_processed = np.array(
            [[1 / scale_x, 0.0, origin[0]], [0.0, 1 / scale_y, origin[1]], [0.0, 0.0, 1.0]]
        )
        return (original_from_processed @ intrinsics).astype(intrinsics.dtype)


@dataclass(frozen=True)
class ResizeRule:
    """Chooses one size for all images of a scene: a bounded area, both sides whole patches.

    The first image of the scene decides. Its area is scaled to `pixel_limit`, each side is rounded
    to a whole number of patches, and patches are taken off until the limit holds. Every image is
    then stretched to that size. Source: `load_images_as_tensor` in pi3/utils/basic.py of π³.

    Attributes:
      patch: side of one patch, in pixels.
      pixel_limit: most pixels that a processed image may have. Only an image so narrow that less
        than one patch is left across exceeds it.
    """

    patch: int = 14
    pixel_limit: int = 255_000

    def size_for(
        self, width: int, height: int, *, resolution: int | None = None
    ) -> tuple[int, int]:
        """The processed (width, height) for a first image of this width and height, in pixels.

        `resolution` is the wanted longest side in pixels. It replaces the pixel limit by the area
        that the first image has once its longest side is scaled to `resolution`.

        Raises:
          InputError: the image has no pixels, or `resolution` is less than one patch.
        """
        if min(width, height) < 1:
            raise InputError(f"the image is {width}x{height} pixels; give one that has pixels")
        if resolution is None:
            limit = float(self.pixel_limit)
            scale = math.sqrt(limit / (width * height))
            wanted = width * scale, height * scale
        else:
            self.check_resolution(resolution)
            longest = max(width, height)
            wanted = width * resolution / longest, height * resolution / longest
            limit = wanted[0] * wanted[1]
        return self._whole_patches(wanted, limit)

    def check_resolution(self, resolution: int | None) -> None:
        """Refuses a longest side that does not hold one patch.

        Raises:
          InputError: `resolution` is less than one patch.
        """
        if resolution is not None and resolution < self.patch:
            raise InputError(
                f"resolution={resolution} is less than one patch; give at least {self.patch}"
            )

    def _whole_patches(self, wanted: tuple[float, float], limit: float) -> tuple[int, int]:
        columns, rows = (round(side / self.patch) for side in wanted)
        while columns * rows * self.patch**2 > limit:
            if columns / rows > wanted[0] / wanted[1]:
                columns -= 1
            else:
                rows -= 1
        return max(columns, 1) * self.patch, max(rows, 1) * self.patch


PI3_RESIZE = ResizeRule()
"""The rule of π³: patches of 14 pixels, at most 255,000 pixels an image."""
