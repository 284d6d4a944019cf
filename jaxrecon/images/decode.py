"""One photo, Pillow image or array to an upright Pillow image of mode RGB or RGBA."""

import threading
from pathlib import Path

import numpy as np
from jaxtyping import Num, UInt8
from PIL import ExifTags, Image, TiffImagePlugin

from jaxrecon.errors import InputError
from jaxrecon.images.findings import Finding
from jaxrecon.images.inspection import inspected
from jaxrecon.images.pictures import open_picture, orientation_of, picture_fault

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE_IS_ZERO = 0
_DEEP_MODES = ("F", "I", "I;16", "I;16L", "I;16B", "I;16N")

_LAZY_LOAD = threading.Lock()  # the caller may pass one unread image twice


def from_file(path: Path, found: list[Finding] | None = None) -> Image.Image:
    """Reads an image file.

    Args:
      path: the file.
      found: gets what a model does not expect of it.

    Raises:
      InputError: the file is absent, no image, truncated, damaged or too large.
    """
    with open_picture(path, pixels=True) as image:
        image.load()
        return upright_rgb(image, str(path), found)


def from_pillow(image: Image.Image, name: str, found: list[Finding] | None = None) -> Image.Image:
    """Converts a Pillow image, which is left as it is.

    Args:
      image: see above.
      name: of it, for messages.
      found: gets what a model does not expect of it.

    Raises:
      InputError: the image has no pixels or cannot be loaded.
    """
    if 0 in image.size:
        width, height = image.size
        raise InputError(f"{name} is {width}x{height} pixels; give an image that has pixels")
    try:
        with _LAZY_LOAD:
            image.load()
            orientation_of(image)  # read now; Pillow keeps it
        return upright_rgb(image, name, found)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read {name}: {picture_fault(error)}") from error


def from_array(
    array: Num[np.ndarray, "H W C"], name: str, found: list[Finding] | None = None
) -> Image.Image:
    """Converts a uint8 array, or a float array in [0, 1], which is rounded to 8 bits.

    Args:
      array: RGB, or RGB with alpha, which is read as that of files is.
      name: of it, for messages.
      found: gets what a model does not expect of it.

    Raises:
      InputError: a float array has values that are not finite or outside [0, 1].
    """
    pixels = array if array.dtype == np.uint8 else _eight_bit(array, name)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image if image.mode == "RGB" else upright_rgb(image, name, found)


def upright_rgb(image: Image.Image, name: str, found: list[Finding] | None = None) -> Image.Image:
    """Upright, 8 bits a channel; a full alpha channel is kept, and left to the resize rule.

    Args:
      image: as Pillow has loaded it.
      name: of it, for messages.
      found: gets what a model does not expect of it.

    Raises:
      InputError: its pixels cannot be brought to 8 bits.
    """
    if found is not None:
        found += inspected(image)
    bits = _bits_of_negative(image)
    image = upright(image)
    if image.mode in _DEEP_MODES:
        grey = _positive(np.asarray(image), bits)
        brought = _eight_bit if image.mode == "F" else _high_byte
        return Image.fromarray(brought(grey, name)).convert("RGB")
    # A copy, because a file's pixels or the caller's own image may be behind it.
    return image.copy() if image.mode == "RGBA" else image.convert("RGB")


def deep_grey(image: Image.Image) -> Num[np.ndarray, "H W"] | None:
    """The values of a loaded grey image of more than 8 bits, 0 for black; None if it is another."""
    if image.mode not in _DEEP_MODES:
        return None
    return _positive(np.asarray(image), _bits_of_negative(image))


def _positive(grey: Num[np.ndarray, "H W"], bits: int | None) -> Num[np.ndarray, "H W"]:
    """Deep values with 0 for black, if `bits` a value say that they have it for white."""
    if bits is None:
        return grey
    return 1 - grey if grey.dtype.kind == "f" else (1 << bits) - 1 - grey.astype(np.int64)


def _bits_of_negative(image: Image.Image) -> int | None:
    """The bits of a value in a TIFF whose 0 is white, which Pillow turns up to 8 bits alone."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return None
    tags = image.tag_v2
    if tags.get(ExifTags.Base.PhotometricInterpretation) != _WHITE_IS_ZERO:
        return None
    return int(tags.get(ExifTags.Base.BitsPerSample, (1,))[0])


def upright(image: Image.Image) -> Image.Image:
    """A loaded image as its EXIF orientation wants it shown, of the mode that it has."""
    return _turned(image, orientation_of(image))


def shown_plainly(image: Image.Image) -> Image.Image:
    """A loaded image that needs no tag to be shown rightly: upright, and black where it has 0."""
    deep = deep_grey(image)
    if deep is None or _bits_of_negative(image) is None:
        return upright(image)
    plain = Image.fromarray(deep.astype(np.asarray(image).dtype))  # which has no tags
    return _turned(plain, orientation_of(image))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _high_byte(grey: Num[np.ndarray, "H W"], name: str) -> UInt8[np.ndarray, "H W"]:
    """Scales 16-bit values to 8 bits: 65535 / 257 = 255."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise InputError(
            f"{name} has integer pixels from {wide.min()} to {wide.max()}; "
            "scale them to 16 bits (0 to 65535)"
        )
    return ((wide + 128) // 257).astype(np.uint8)


def _eight_bit(values: Num[np.ndarray, "*shape"], name: str) -> UInt8[np.ndarray, "*shape"]:
    if not np.isfinite(values).all():
        raise InputError(f"{name} has pixels that are NaN or infinite; replace them")
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        raise InputError(
            f"{name} has float pixels from {low!s} to {high!s}, not in [0, 1]; "
            "divide by 255, clip, or pass uint8"
        )
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
