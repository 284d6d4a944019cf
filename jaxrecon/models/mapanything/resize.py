"""The size of MapAnything's images: one of a few for all of a scene, chosen by their shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.images.resize import (
    MOST_PATCH,
    MOST_SIDE,
    Fit,
    ImageRule,
    PixelTransform,
    check_pixels,
)
from jaxrecon.sizes import check_whole

_COVERING = 1e-8
"""Added to a scale so that rounding leaves no image smaller than what it is to cover."""


@dataclass(frozen=True)
class AspectRule(ImageRule):
    """Chooses one of a few sizes for all images of a scene: the one nearest to their mean shape.

    Every image is scaled so that it covers that size and cropped around its middle; Lanczos filter
    for images that shrink, bicubic for those that grow. Alpha is dropped.

    Source: `load_images` and `preprocess_inputs` in mapanything/utils/image.py.

    Attributes:
      patch: side of one patch, in pixels.
      sizes: (width over height, width, height) of each size; an image has the nearest ratio's.
      even_crop: halves of a pixel of the crop's place go to the even one, as upstream's do where
        intrinsics are given; else they are cut off.

    Raises:
      InputError: a number is out of range, or there are no sizes.
    """

    patch: int = 14
    sizes: tuple[tuple[float, int, int], ...] = (
        (1.000, 518, 518),
        (1.321, 518, 392),
        (1.542, 518, 336),
        (1.762, 518, 294),
        (2.056, 518, 252),
        (3.083, 518, 168),
        (0.757, 392, 518),
        (0.649, 336, 518),
        (0.567, 294, 518),
        (0.486, 252, 518),
    )
    even_crop: bool = False
    uses_all_sizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_whole(self, "patch", most=MOST_PATCH)
        for ratio, width, height in self.sizes:
            sides = all(0 < s <= MOST_SIDE and not s % self.patch for s in (width, height))
            if not (sides and 0 < ratio < inf):
                raise InputError(
                    f"AspectRule: sizes holds {(ratio, width, height)}; the ratio must be above 0, "
                    f"the sides multiples of {self.patch} up to {MOST_SIDE}"
                )
        if not self.sizes:
            raise InputError("AspectRule: sizes is empty; it must hold one or more")

    def for_known_cameras(self) -> "AspectRule":
        return replace(self, even_crop=True)

    def resized_intrinsics(
        self, transform: PixelTransform, intrinsics: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 3"]:
        """The camera matrix as upstream's preprocessing gives it to the network.

        An image that covers its processed size is scaled to whole pixels. Upstream scales
        intrinsics by the factor before that rounding, about the middle of the image: up to a
        pixel's share of the image's side away from where the pixels are.

        Source: upstream `rescale_image_and_other_optional_info`
        (`mapanything/utils/cropping.py`).
        """
        resized = transform.intrinsics_from_original(intrinsics)
        size = np.array(transform.original_size)
        wanted = (np.array(transform.size) / size).max()
        middle = transform.from_original((size - 1) / 2)
        for axis, scale in enumerate(transform.scale):
            if abs(wanted - scale) * size[axis] < 1:  # else the image was stretched
                resized[axis, :2] *= wanted / scale
                resized[axis, 2] = (resized[axis, 2] - middle[axis]) * wanted / scale + middle[axis]
        return resized

    def fit(self, width: int, height: int, *, resolution: int | None = None) -> Fit:
        """As `fit_all` with this image alone."""
        return self.fit_all([(width, height)], resolution=resolution)

    def fit_all(self, sizes: Sequence[tuple[int, int]], *, resolution: int | None = None) -> Fit:
        """The size that suits the mean of width over height.

        With a resolution the longer side is as many whole patches as fit into it, and the other
        follows from the mean.
        """
        for size in sizes:
            check_pixels(*size)
        self.check_resolution(resolution)
        aspect = sum(width / height for width, height in sizes) / len(sizes)
        target = self._nearest(aspect) if resolution is None else self._longest(aspect, resolution)
        return Fit(
            lambda original: self._covering(original, target),
            enlarging=Image.Resampling.BICUBIC,
        )

    def _nearest(self, aspect: float) -> tuple[int, int]:
        _, width, height = min(sorted(self.sizes), key=lambda size: abs(size[0] - aspect))
        return width, height

    def _longest(self, aspect: float, resolution: int) -> tuple[int, int]:
        patches = resolution // self.patch
        other = max(round(patches * min(aspect, 1 / aspect)), 1)
        columns, rows = (patches, other) if aspect >= 1 else (other, patches)
        return columns * self.patch, rows * self.patch

    def _covering(self, original: tuple[int, int], size: tuple[int, int]) -> PixelTransform:
        ratios = [new / old for old, new in zip(original, size, strict=True)]
        scale = max(ratios) + _COVERING
        scaled = int(original[0] * scale), int(original[1] * scale)
        margins = (old - new for old, new in zip(scaled, size, strict=True))
        left, top = (round(m / 2) if self.even_crop else m // 2 for m in margins)
        stretched = PixelTransform.stretch(original, scaled)
        return replace(stretched, size=size, offset=(0.0 - left, 0.0 - top))


MAPANYTHING_RESIZE = AspectRule()
"""The sizes that MapAnything was made for."""
