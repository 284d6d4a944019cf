"""Picture files, opened by an explicit list of formats."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

from jaxrecon.errors import InputError, reason_of
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


@contextmanager
def open_picture(path: AnyPath) -> Iterator[Image.Image]:
    """Opens a picture, to read its size, its metadata and, if they are asked for, its pixels.

    Raises:
      InputError: the file is absent, no regular file, no picture of these formats, damaged or cut
        short; has more than twice `PIL.Image.MAX_IMAGE_PIXELS`; or decodes to more than 256 MiB
        and to more than 128 times its size, as no photograph does. The same for whatever Pillow
        raises inside the block.
    """
    with open_plain(path, advice="check the path and its permissions") as file:
        stored = os.fstat(file.fileno()).st_size
        try:
            with Image.open(file, formats=_known_formats()) as picture:
                _check_pixels(picture, stored)
                yield picture
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise a dozen kinds for damaged files
            raise InputError(f"cannot read {path}: {picture_fault(error, stored)}") from error


def _known_formats() -> list[str]:
    Image.init()  # registers all, the first time that it is called
    return [name for name in PICTURE_FORMATS if name in Image.OPEN]


def _check_pixels(picture: Image.Image, stored: int) -> None:
    width, height = picture.size
    if width * height * _BYTES_A_PIXEL > max(_PLENTY, _LEAST_SHARE * stored):
        raise ValueError(f"{width}x{height} pixels in {stored} bytes")


def picture_fault(error: Exception, stored: int | None = None) -> str:
    """What is wrong with a picture that Pillow refuses, and what to do.

    Args:
      error: what Pillow raised.
      stored: the size of the file, if there is one.
    """
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, twice "
            "PIL.Image.MAX_IMAGE_PIXELS; shrink it, or raise that limit if you trust it"
        )
    if isinstance(error, UnidentifiedImageError):
        what = "the file is empty" if stored == 0 else "it is not an image of a known kind"
        return f"{what}; {_ADVICE}"
    return f"the image is damaged or cut short ({reason_of(error)}); {_ADVICE}"
