"""A reconstruction in pixels of the original photos."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.images.resize import PixelTransform, valid_regions

Views = int | np.integer | slice | Sequence[int] | Array | np.ndarray


@dataclass(frozen=True, eq=False)
class OriginalPixels:
    """Cameras, depth and tracks of V views in pixels of the original photos.

    Attributes:
      sizes: width and height of each photo, after its EXIF orientation is applied.
      intrinsics: pinhole cameras, in pixels of the photos.
      transforms: how each processed picture came from its photo.
      processed_depth_z: depth of each pixel of the processed pictures.
      tracks_xy: position of each tracked point in each photo, if any were followed.
    """

    sizes: Int[np.ndarray, "V 2"]
    intrinsics: Float[np.ndarray, "V 3 3"]
    transforms: tuple[PixelTransform, ...]
    processed_depth_z: Float[np.ndarray, "V H W"]
    tracks_xy: Float[np.ndarray, "V Q 2"] | None = None

    def pixels(self, view: int) -> Float[np.ndarray, "H W 2"]:
        """Where in the photo (x, y) the centre of each pixel of the processed picture lies.

        Raises:
          InputError: the view is no int.
          IndexError: there is no such view.
        """
        view = _one_view(view, len(self.transforms))
        grid = _pixel_grid(*self.transforms[view].size)
        return np.asarray(self.transforms[view].to_original(grid))

    def depth_z(self, view: int) -> Float[np.ndarray, "H0 W0"]:
        """Depth at the photo's own size, from the nearest processed pixel.

        NaN where the photo was cropped away.

        Raises:
          InputError: the view is no int.
          IndexError: there is no such view.
        """
        view = _one_view(view, len(self.transforms))
        return at_original_size(self.transforms[view], self.processed_depth_z[view])


def at_original_size(
    transform: PixelTransform, values: Shaped[np.ndarray, "H W"], *, outside: float = np.nan
) -> Shaped[np.ndarray, "H0 W0"]:
    """A map of the processed picture's pixels at the photo's size, from the nearest of them.

    `outside` where the photo was cropped away.
    """
    places = []
    for axis, (original, processed) in enumerate(
        zip(transform.original_size, transform.size, strict=True)
    ):
        pixels = np.repeat(np.arange(float(original))[:, None], 2, axis=1)
        place = np.floor(transform.from_original(pixels)[:, axis] + 0.5).astype(np.int64)
        inside = (place >= 0) & (place < processed)
        places.append((place.clip(0, processed - 1), inside))
    (columns, in_width), (rows, in_height) = places
    found = values[:, columns][rows]  # whole rows are copied, of what has its width already
    found[~in_height] = outside
    found[:, ~in_width] = outside
    return found


def shown_pixels(transforms: Sequence[PixelTransform]) -> Int[np.ndarray, " V"]:
    """How many pixels of each processed picture show its photo: all but those of margins."""
    left, top, right, bottom = valid_regions(transforms).astype(np.int64).T
    return np.maximum((right - left) * (bottom - top), 1)


def photo_pixels(transforms: Sequence[PixelTransform]) -> Bool[np.ndarray, "V H W"]:
    """Which pixels of each processed picture show its photo: all but those of margins.

    The pictures are of one size.
    """
    width, height = transforms[0].size
    shown = np.zeros((len(transforms), height, width), bool)
    for view, transform in enumerate(transforms):
        shown[view][transform.window] = True
    return shown


def view_numbers(views: Views, count: int) -> list[int]:
    """The chosen views as numbers in [0, count).

    Raises:
      InputError: they are not chosen by integers.
      IndexError: there is no such view.
    """
    if isinstance(views, slice):
        return list(range(count))[views]
    numbers = np.atleast_1d(np.asarray(views))
    if numbers.ndim > 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise InputError(f"views are chosen by an int, a slice or a list of ints, not by {views!r}")
    for number in numbers.tolist():
        if not -count <= number < count:
            raise IndexError(f"view {number} is out of range: there are {count} (0 to {count - 1})")
    return [int(number) % count for number in numbers]


def _one_view(view: Views, count: int) -> int:
    """A view's number in [0, count); photos differ in size, so that several have no common map.

    Raises:
      InputError: it is no int.
      IndexError: there is no such view.
    """
    numbers = view_numbers(view, count)
    if len(numbers) != 1:
        raise InputError(f"view={shown(view)} is no int; give the number of one view")
    return numbers[0]


def _pixel_grid(width: int, height: int) -> Float[np.ndarray, "H W 2"]:
    return np.stack(np.meshgrid(np.arange(float(width)), np.arange(float(height))), axis=-1)
