"""The size that a model family wants its images in, and where each pixel went."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8
from PIL import Image

from jaxrecon.errors import InputError

type Sides = tuple[int, int] | tuple[float, float]


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

    @classmethod
    def inside(cls, original_size: tuple[int, int], size: tuple[int, int]) -> "PixelTransform":
        """The transform of an image that lies in the middle of one of `size`, whole, unstretched.

        Its sides are rounded to whole pixels.
        """
        sides = list(zip(original_size, size, strict=True))
        scale = min(new / old for old, new in sides)
        width, height = (max(round(old * scale), 1) for old in original_size)
        return cls.stretch(original_size, (width, height)).centred(size)

    @property
    def shown(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the original, in whole pixels of the processed image.

        The last two are exclusive.
        """
        edges = zip(self.offset, self.scale, self.original_size, self.size, strict=True)
        (left, right), (top, bottom) = [
            [min(max(round(edge), 0), new) for edge in (start, start + scale * old)]
            for start, scale, old, new in edges
        ]
        return left, top, right, bottom

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the processed image that show the original; see `shown`."""
        left, top, right, bottom = self.shown
        return slice(top, bottom), slice(left, right)

    def centred(self, size: tuple[int, int]) -> "PixelTransform":
        """The transform once the processed image lies in the middle of one of `size`."""
        left, top = (new - old for new, old in zip(size, self.size, strict=True))
        offset = self.offset[0] + left // 2, self.offset[1] + top // 2
        return replace(self, size=size, offset=offset)

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

    def intrinsics_from_original(
        self, intrinsics: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 3"]:
        """Maps a camera matrix of the original image to that of the processed one."""
        (scale_x, scale_y), origin = self.scale, self.from_original(np.zeros(2))
        first, second, third = intrinsics.astype(np.float64)
        rows = (scale_x * first + origin[0] * third, scale_y * second + origin[1] * third, third)
        return np.stack(rows).astype(intrinsics.dtype)

    def nearest(self, values: Shaped[np.ndarray, "H W"]) -> Shaped[np.ndarray, "H2 W2"]:
        """Brings a map of the original image's pixels to those of the processed one.

        Each processed pixel gets the value at the place of its top-left corner, as OpenCV's
        INTER_NEAREST has it; where the original does not reach it is 0.
        """
        places = []
        for length, new, scale, offset in zip(
            self.original_size, self.size, self.scale, self.offset, strict=True
        ):
            place = np.floor((np.arange(new) - offset) / scale + 1e-9).astype(int)
            places.append((place.clip(0, length - 1), (place >= 0) & (place < length)))
        (columns, in_width), (rows, in_height) = places
        inside = in_height[:, None] & in_width
        return np.where(inside, values[rows[:, None], columns], 0).astype(values.dtype)

    def intrinsics_to_original(
        self, intrinsics: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 3"]:
        """Maps a camera matrix of the processed image to that of the original.

        Both matrices are in pixels of their image and project a point of the camera frame as
        `[x, y, 1] ~ intrinsics @ point`.
        """
        (scale_x, scale_y), origin = self.scale, self.to_original(np.zeros(2))
        first, second, third = intrinsics.astype(np.float64)
        rows = (first / scale_x + origin[0] * third, second / scale_y + origin[1] * third, third)
        return np.stack(rows).astype(intrinsics.dtype)


def valid_regions(transforms: Sequence[PixelTransform]) -> Int[np.ndarray, "V 4"]:
    """Left, top, right and bottom of each photo, in whole pixels, the last two exclusive."""
    return np.array([transform.shown for transform in transforms], np.int32)


@dataclass(frozen=True)
class Fit:
    """How the images of one scene are brought to size.

    Attributes:
      transform: where the pixels of an image of some (width, height) go.
      resampling: Pillow's filter.
      enlarging: Pillow's filter for images that grow, if it is another one.
      over_white: lays transparent pixels over white; else alpha is dropped.
      around: colour where the image does not reach.
    """

    transform: Callable[[tuple[int, int]], PixelTransform]
    resampling: Image.Resampling = Image.Resampling.LANCZOS
    enlarging: Image.Resampling | None = None
    over_white: bool = False
    around: tuple[int, int, int] = (255, 255, 255)

    def apply(self, image: Image.Image) -> tuple[UInt8[np.ndarray, "H W 3"], PixelTransform]:
        """The processed pixels of an image of mode RGB or RGBA."""
        transform = self.transform(image.size)
        (width, height), (scale_x, scale_y) = image.size, transform.scale
        scaled = round(width * scale_x), round(height * scale_y)
        grows = self.enlarging is not None and max(scale_x, scale_y) >= 1
        resized = self._opaque(image).resize(scaled, self.enlarging if grows else self.resampling)
        if transform.offset == (0, 0) and scaled == transform.size:
            return np.asarray(resized), transform
        canvas = Image.new("RGB", transform.size, self.around)
        canvas.paste(resized, (int(transform.offset[0]), int(transform.offset[1])))
        return np.asarray(canvas), transform

    def _opaque(self, image: Image.Image) -> Image.Image:
        if image.mode == "RGBA" and self.over_white:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image if image.mode == "RGB" else image.convert("RGB")


MOST_PATCH = 256
MOST_SIDE = 2**14
"""The longest side of a processed image that a rule may ask for, in pixels."""


@dataclass(frozen=True)
class ImageRule(ABC):
    """How a model family wants its images; `patch` is the side of one patch, in pixels."""

    patch: int
    uses_all_sizes: ClassVar[bool] = False
    """Whether `fit_all` looks at more than the first image."""

    def fit_all(self, sizes: Sequence[tuple[int, int]], *, resolution: int | None = None) -> Fit:
        """How the images of a scene are brought to size, given (width, height) of all of them."""
        return self.fit(*sizes[0], resolution=resolution)

    @abstractmethod
    def fit(self, width: int, height: int, *, resolution: int | None = None) -> Fit:
        """How the images of a scene are brought to size, given those of the first one.

        `resolution` is the wanted longest side in pixels, in place of the rule's own.

        Raises:
          InputError: the image has no pixels, or `resolution` is less than one patch.
        """

    def with_padding(self) -> "ImageRule | None":
        """The rule that pads photos to squares where this one would crop them; None without one."""
        return None

    def unstretched(self) -> "ImageRule":
        """The rule that gives images of other shapes margins where this one would stretch them."""
        return self

    def for_known_cameras(self) -> "ImageRule":
        """The rule for images whose intrinsics are known."""
        return self

    def resized_intrinsics(
        self, transform: PixelTransform, intrinsics: Float[np.ndarray, "3 3"]
    ) -> Float[np.ndarray, "3 3"]:
        """The camera matrix that the model is given with a resized image, from the original's."""
        return transform.intrinsics_from_original(intrinsics)

    def check_resolution(self, resolution: int | None) -> None:
        """Refuses a longest side that does not hold one patch.

        Raises:
          InputError: `resolution` is less than one patch.
        """
        if resolution is not None and resolution < self.patch:
            raise InputError(
                f"resolution={resolution} is less than one patch; give at least {self.patch}"
            )


_ALIKE = 1.02
"""Rounding to whole patches changes shapes by as much."""


def same_shape(one: Sides, other: Sides) -> bool:
    """Whether two pairs of sides, or of scales, have the same ratio but for rounding."""
    ratio = one[0] * other[1] / (one[1] * other[0])
    return max(ratio, 1 / ratio) <= _ALIKE


def check_pixels(width: int, height: int) -> None:
    """Refuses an image without pixels.

    Raises:
      InputError: naming its size.
    """
    if min(width, height) < 1:
        raise InputError(f"the image is {width}x{height} pixels; give one that has pixels")
