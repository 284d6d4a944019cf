"""Picture files, opened by an explicit list of formats."""

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Shaped
from PIL import ExifTags, Image, UnidentifiedImageError

from jaxrecon.errors import InputError, reason_of
from jaxrecon.images.several import picture_numbers
from jaxrecon.images.signatures import prepare_reading
from jaxrecon.reading import open_plain
from jaxrecon.reading.plain_files import MEBIBYTE, AnyPath

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
"""Pillow's names of the formats that are opened, whatever a file is called; MPO counts as JPEG,
AVIF depends on how Pillow was built, HEIF on pillow-heif.

Pillow knows some forty more, of which EPS starts Ghostscript, a program that runs what the file
says, and others have had few eyes on them.
"""

_ADVICE = "remove it or save it again"
_PLENTY = 256 * MEBIBYTE
_LEAST_SHARE = 128
_BYTES_A_PIXEL = 4
_PILLOWS_LIMIT = 2**30 // 12
_SIDEWAYS = (5, 6, 7, 8)


class PhotoSize(tuple[int, int]):
    """Width and height of a photo, once upright: a tuple that also knows the photo.

    Attributes:
      orientation: the EXIF orientation, 1 to 8, that was applied; 1 if there was none.
      file: where the photo lies, if in a file.
    """

    orientation: int
    file: Path | None

    def __new__(
        cls, width: int, height: int, orientation: int = 1, file: Path | None = None
    ) -> "PhotoSize":
        size = super().__new__(cls, (width, height))
        size.orientation, size.file = orientation, file
        return size

    def __getnewargs__(self) -> tuple[Any, ...]:
        return *self, self.orientation, self.file

    @property
    def sideways(self) -> bool:
        """Whether the stored picture lies on its side, its width and height exchanged."""
        return self.orientation in _SIDEWAYS


class _Filters:
    """Filters of warnings, which are the process's: set while at least one thread wants them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *failure: object) -> None:
        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                self._before.__exit__(None, None, None)


_FILTERS = _Filters()


def pillow_warnings_handled() -> AbstractContextManager[None]:
    """Keeps Pillow's warnings from the user; it raises for images of twice its limit of pixels."""
    return _FILTERS


@contextmanager
def open_picture(path: AnyPath, *, pixels: bool = False) -> Iterator[Image.Image]:
    """Opens a picture, to read its size, its metadata and, if they are asked for, its pixels.

    Args:
      path: the file.
      pixels: whether the pixels will be read: a PNG is then refused for any part that is damaged,
        where Pillow overlooks those behind the pixels.

    Raises:
      InputError: the file is absent, no regular file, no picture of these formats, damaged or cut
        short; holds several pictures; is the raw file of a camera; has more than twice
        `PIL.Image.MAX_IMAGE_PIXELS`; or decodes to more than 256 MiB and to more than 128 times its
        size, as no photograph does. The same for whatever Pillow raises inside the block.
    """
    with open_pictures(path, pixels=pixels) as (picture, numbers):
        _check_one(path, numbers)
        yield picture


@contextmanager
def open_pictures(
    path: AnyPath, *, pixels: bool = False
) -> Iterator[tuple[Image.Image, Sequence[int]]]:
    """Opens a file of one picture or several, such as an animation, a TIFF or a burst.

    The first of them is there; others come by `seek`, by their numbers, in order.

    Raises:
      InputError: as `open_picture`, several pictures aside.
    """
    with open_plain(path, advice="check the path and its permissions") as file, _FILTERS:
        stored = os.fstat(file.fileno()).st_size
        try:
            prepare_reading(file, path)
            with Image.open(file, formats=_known_formats()) as picture:
                check_pixels(path, picture, stored)
                numbers = picture_numbers(picture, file, path)
                if numbers[0] != picture.tell():
                    picture.seek(numbers[0])
                    check_pixels(path, picture, stored)
                if pixels and picture.format == "PNG":
                    _check_parts(file)
                yield picture, numbers
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise a dozen kinds for damaged files
            raise InputError(f"cannot read {path}: {picture_fault(error, stored)}") from error


def _check_one(path: AnyPath, numbers: Sequence[int]) -> None:
    if len(numbers) > 1:
        raise InputError(
            f"cannot read {path}: it holds {len(numbers)} pictures, where one is expected; give it "
            "alone, as a video is, or save each in a file of its own"
        )


def _known_formats() -> list[str]:
    Image.init()  # registers all, the first time that it is called
    return [name for name in PICTURE_FORMATS if name in Image.OPEN]


def _check_parts(file: BinaryIO) -> None:
    """Compares the checksums of all parts of a PNG; raises as Pillow does."""
    place = file.tell()
    file.seek(0)
    with Image.open(file, formats=["PNG"]) as picture:
        picture.verify()
    file.seek(place)


def check_pixels(path: AnyPath, picture: Image.Image, stored: int) -> None:
    """Refuses a picture of more pixels than a photograph in a file of `stored` bytes has.

    Raises:
      InputError: naming the file.
      PIL.Image.DecompressionBombError: it has more than twice Pillow's limit.
    """
    width, height = picture.size
    if width * height > 2 * (Image.MAX_IMAGE_PIXELS or width * height):
        raise Image.DecompressionBombError
    if holds_too_much(width, height, stored):
        raise InputError(
            f"cannot read {path}: it has {width}x{height} pixels in {stored} bytes, which is no "
            f"photograph; {_ADVICE}, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it "
            "(--max-pixels)"
        )


def holds_too_much(width: int, height: int, stored: int) -> bool:
    """Whether a picture or a frame has so many pixels as no file of `stored` bytes tells of.

    Who raises Pillow's limit above its own trusts pictures up to it.
    """
    limit, pixels = Image.MAX_IMAGE_PIXELS or 0, width * height
    if limit > _PILLOWS_LIMIT and pixels <= limit:
        return False
    return pixels * _BYTES_A_PIXEL > max(_PLENTY, _LEAST_SHARE * stored)


def picture_values(path: AnyPath) -> Shaped[np.ndarray, "H W *channels"]:
    """The pixels of a picture as they are stored, such as those of a depth map.

    Raises:
      InputError: see `open_picture`; or EXIF turns it, so that it may or may not lie as its photo.
    """
    with open_picture(path, pixels=True) as picture:
        if orientation_of(picture) != 1:
            raise InputError(
                f"cannot read {path}: it is turned by its EXIF orientation, which no map should "
                "be; save it as it is to be read"
            )
        return np.array(picture)


def file_size(path: AnyPath) -> PhotoSize:
    """Width and height of a picture file, once upright; reads no pixels.

    Raises:
      InputError: see `open_picture`.
    """
    with open_pictures(path) as (picture, numbers):
        _check_one(path, numbers)
        return upright_size(picture, path if isinstance(path, Path) else Path(path))


def upright_size(picture: Image.Image, file: Path | None = None) -> PhotoSize:
    """Width and height once the EXIF orientation is applied, of a picture that lies in a file."""
    width, height = picture.size
    orientation = orientation_of(picture)
    sideways = orientation in _SIDEWAYS
    if sideways and picture.format == "TIFF":  # Pillow may tell the upright size already
        tags = picture.getexif()
        stored = tags.get(ExifTags.Base.ImageWidth), tags.get(ExifTags.Base.ImageLength)
        sideways = stored == (width, height)
    if sideways:
        width, height = height, width
    return PhotoSize(width, height, orientation, file)


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where it is none of them or cannot be read."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata must not cost the user a sound picture
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def picture_fault(error: Exception, stored: int | None = None) -> str:
    """What is wrong with a picture that Pillow refuses, and what to do.

    Args:
      error: what Pillow raised.
      stored: the size of the file, if there is one.
    """
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, twice "
            "PIL.Image.MAX_IMAGE_PIXELS; shrink it, or raise that limit if you trust it "
            "(--max-pixels)"
        )
    if isinstance(error, UnidentifiedImageError):
        what = "the file is empty" if stored == 0 else "it is not an image of a known kind"
        return f"{what}; {_ADVICE}"
    return f"the image is damaged or cut short ({reason_of(error)}); {_ADVICE}"
