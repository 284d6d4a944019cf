"""Which views of a program are valid, and how many and how large ones it may have."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Shaped

from jaxrecon.checks import is_whole, shown, whole_number
from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.images.limits import check_processed


def bucket_of(views: int, devices: int = 1) -> int:
    """The number of views for which a program is compiled: `views`, rounded up a little.

    A multiple of an eighth of the power of two below it (17 to 32 views: of 2; 33 to 64: of 4), so
    that few programs serve many numbers of views, and of the number of devices.
    """
    step = max(1, 2 ** ((views - 1).bit_length() - 4))
    rounded = -(-views // step) * step
    return -(-rounded // devices) * devices


def serves_fewer(bucket: int, devices: int = 1) -> bool:
    """Whether the program for so many views serves smaller numbers too."""
    return bucket > 1 and bucket_of(bucket - 1, devices) == bucket


def padded(array: Shaped[np.ndarray, "V *rest"], views: int) -> Shaped[np.ndarray, "W *rest"]:
    """The array with zeros behind it, up to so many views."""
    missing = views - len(array)
    return np.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1))) if missing else array


def has_margins(regions: Int[np.ndarray, "V 4"], transforms: Sequence[PixelTransform]) -> bool:
    """Whether some processed image shows more than its photo."""
    whole = np.array([(0, 0, *transform.size) for transform in transforms])
    return bool((regions != whole).any())


def check_program_size(views: int, size: tuple[int, int], patch: int) -> None:
    """Refuses what no program can be made for.

    Raises:
      InputError: there is no view, a side is not a number of whole patches, or the images would
        not fit into any memory.
    """
    whole_number("views", views, least=1)
    sides = tuple(size) if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or not all(map(is_whole, sides)):
        raise InputError(f"size={shown(size)} must be width and height in pixels")
    width, height = sides
    check_processed(views, (width, height), f"views={shown(views)}, size={shown(size)}")
    if min(size) < patch or width % patch or height % patch:
        raise InputError(
            f"size: {width}x{height} must be multiples of {patch} pixels; give for instance "
            f"{_whole(width, patch)}x{_whole(height, patch)}"
        )


def _whole(side: int, patch: int) -> int:
    return max(1, round(side / patch)) * patch
