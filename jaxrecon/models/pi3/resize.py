"""The size of π³'s images."""

import math
from dataclasses import dataclass

from jaxrecon.images.resize import (
    MOST_PATCH,
    MOST_SIDE,
    Fit,
    ImageRule,
    PixelTransform,
    check_pixels,
    same_shape,
)
from jaxrecon.sizes import check_whole

_MEAN_COLOUR = (124, 116, 104)
"""The mean of ImageNet, which is 0 to the network."""


@dataclass(frozen=True)
class ResizeRule(ImageRule):
    """Chooses one size for all images of a scene: a bounded area, both sides whole patches.

    The first image of the scene decides. Its area is scaled to `pixel_limit`, each side is rounded
    to a whole number of patches, and patches are taken off until the limit holds. Every image is
    then stretched to that size. Source: `load_images_as_tensor` in pi3/utils/basic.py of π³.

    Attributes:
      patch: side of one patch, in pixels.
      pixel_limit: most pixels that a processed image may have. Only an image so narrow that less
        than one patch is left across exceeds it.

    Raises:
      InputError: a number is out of range.
    """

    patch: int = 14
    pixel_limit: int = 255_000

    def __post_init__(self) -> None:
        check_whole(self, "patch", most=MOST_PATCH)
        check_whole(self, "pixel_limit", least=self.patch**2, most=MOST_SIDE**2)

    def fit(self, width: int, height: int, *, resolution: int | None = None) -> Fit:
        """Every image is stretched to `size_for` the first one, by the Lanczos filter."""
        size = self.size_for(width, height, resolution=resolution)
        return Fit(lambda original: PixelTransform.stretch(original, size))

    def unstretched(self) -> "ResizeRule":
        return _UnstretchedRule(self.patch, self.pixel_limit)

    def size_for(
        self, width: int, height: int, *, resolution: int | None = None
    ) -> tuple[int, int]:
        """The processed (width, height) for a first image of this width and height, in pixels.

        `resolution` is the wanted longest side in pixels. It replaces the pixel limit by the area
        that the first image has once its longest side is scaled to `resolution`.

        Raises:
          InputError: the image has no pixels, or `resolution` is less than one patch.
        """
        check_pixels(width, height)
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

    def _whole_patches(self, wanted: tuple[float, float], limit: float) -> tuple[int, int]:
        columns, rows = (round(side / self.patch) for side in wanted)
        while columns * rows * self.patch**2 > limit:
            if columns / rows > wanted[0] / wanted[1]:
                columns -= 1
            else:
                rows -= 1
        return max(columns, 1) * self.patch, max(rows, 1) * self.patch


@dataclass(frozen=True)
class _UnstretchedRule(ResizeRule):
    """The same, but that an image of another shape than the first lies whole inside margins."""

    def fit(self, width: int, height: int, *, resolution: int | None = None) -> Fit:
        """As `ResizeRule.fit` for images of the first one's shape."""
        size = self.size_for(width, height, resolution=resolution)

        def transform(original: tuple[int, int]) -> PixelTransform:
            if same_shape(original, (width, height)):
                return PixelTransform.stretch(original, size)
            return PixelTransform.inside(original, size)

        return Fit(transform, around=_MEAN_COLOUR)


PI3_RESIZE = ResizeRule()
"""Patches of 14 pixels, at most 255,000 pixels an image."""
