"""What COLMAP's and NeRF's cameras share: pixels counted from the corner, copies, and lenses."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.images.pictures import PhotoSize, file_size
from jaxrecon.reading import is_plain_file

MAX_LENS_SHIFT = 0.5
"""How far, in pixels, a lens may move a pixel and still count as a pinhole camera."""

_GRID = 9


def pinhole_from_corner(
    focal: tuple[float, float], center: tuple[float, float]
) -> Float[np.ndarray, "3 3"]:
    """The camera matrix, where the principal point was counted from the image's corner.

    The centre of the top-left pixel is then at (0.5, 0.5), half a pixel from OpenCV's.
    """
    (fx, fy), (cx, cy) = focal, center
    return np.array([[fx, 0, cx - 0.5], [0, fy, cy - 0.5], [0, 0, 1]], np.float64)


def check_copy(made_for: tuple[int, int], size: tuple[int, int], where: str) -> None:
    """Refuses an image of `size` that is no resized copy of one of `made_for`.

    Raises:
      InputError: naming `where` and both sizes.
    """
    if is_copy(made_for, size):
        return
    (width, height), (wide, high) = made_for, size
    turned = is_copy((height, width), size)
    advice = (
        "the photo was turned by its EXIF orientation, so save it upright and make the file anew"
        if turned
        else "give the images that it was made of, or resized but uncropped ones"
    )
    raise InputError(
        f"{where} is for an image of {width}x{height}, this one is {wide}x{high}; {advice}"
    )


def check_not_turned(made_for: tuple[int, int], size: tuple[int, int], where: str) -> None:
    """Refuses an image of `size` if it is a copy of one of `made_for` that lies on its side.

    For poses, which hold for whatever was cut out of a photo.

    Raises:
      InputError: see `check_copy`.
    """
    width, height = made_for
    if is_copy((height, width), size):
        check_copy(made_for, size, where)


def check_orientation(
    size: tuple[int, int], made_for: tuple[int, int] | None, photo: str, maker: str, advice: str
) -> None:
    """Refuses what a file tells of a photo that EXIF turns, if it is of the pixels as stored.

    Tools leave EXIF out of account or do not, and few say which; where the file tells the size of
    the image that it is for, that shows it for photos that lay on their side.

    Args:
      size: of the upright photo, an `PhotoSize` if its orientation is known.
      made_for: the size that the file tells.
      photo: its name, for the message.
      maker: the tool or file that does not speak of EXIF, for the message.
      advice: what the user can do with upright photos; ends the message.

    Raises:
      InputError: naming the photo.
    """
    if not isinstance(size, PhotoSize) or size.orientation == 1:
        return
    if size.sideways and made_for is not None and _is_upright(made_for, size):
        return
    raise InputError(
        f"{photo} is turned by its EXIF orientation, which {maker} leaves out of account; save the "
        f"photos upright and {advice}"
    )


def _is_upright(made_for: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether an image of `made_for` is a copy of the upright photo, and not of the stored one."""
    width, height = size
    return is_copy(made_for, size) and not is_copy(made_for, (height, width))


def photo_size(file: Path) -> PhotoSize | None:
    """The size of a photo that a file names; None if it is not there, or no sound image.

    What is no sound image is refused when it is read.
    """
    if not is_plain_file(file):
        return None
    try:
        return file_size(file)
    except InputError:
        return None


def is_copy(made_for: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether both sides were scaled alike, each then rounded up or down to a whole pixel."""
    sides = list(zip(size, made_for, strict=True))
    smallest = max((new - 1) / old for new, old in sides)
    largest = min((new + 1) / old for new, old in sides)
    return smallest < largest


def scaled(
    matrix: Float[np.ndarray, "3 3"], made_for: tuple[int, int], size: tuple[int, int], where: str
) -> Float[np.ndarray, "3 3"]:
    """The camera matrix of a copy of the image, resized to (width, height) `size`.

    Raises:
      InputError: naming `where`: its numbers are beyond those of floats.
    """
    with np.errstate(all="ignore"):
        found = PixelTransform.stretch(made_for, size).intrinsics_from_original(matrix)
    if not np.isfinite(found).all():
        raise InputError(f"{where}: its focal lengths or its centre are beyond all pixels")
    return found


def lens_shift(
    move: Callable[[Float[np.ndarray, "G 2"]], Float[np.ndarray, "G 2"]], size: tuple[int, int]
) -> float:
    """How far, in pixels, a lens moves the image's pixels at most; infinite if it loses any.

    Args:
      move: where it moves pixels, counted from the corner.
      size: width and height of the image, over which a grid is laid that holds its corners.
    """
    axes = [np.linspace(0, side, _GRID) for side in size]
    pixels = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    with np.errstate(all="ignore"):
        shift = np.linalg.norm(move(pixels) - pixels, axis=-1).max()
    return float(shift) if np.isfinite(shift) else float("inf")


def check_lens(shift: float, model: str, where: str, advice: str) -> None:
    """Refuses a camera that is too far from a pinhole camera; `advice` ends the message.

    Raises:
      InputError: naming `where` and the camera model.
    """
    if shift <= MAX_LENS_SHIFT:
        return
    how = f"moves pixels by up to {shift:.2f}" if np.isfinite(shift) else "is no pinhole's"
    raise InputError(
        f"{where}: its lens ({model}) {how}, but images must be free of distortion; {advice}"
    )
