"""What a picture's metadata and mode tell that a model does not expect."""

import re
from collections.abc import Iterator

from PIL import ExifTags, Image

from jaxrecon.images.findings import Finding, Kind

_PROJECTION = re.compile(rb"""ProjectionType(?:\s*=\s*["']|\s*>)\s*([\w-]+)""")
_PERSPECTIVE = ("perspective", "rectilinear")
_FISHEYE = re.compile(r"fish[\s-]?eye", re.IGNORECASE)
_MOST_XMP = 2**20
_MOST_SKEW = 1.01
_GREY = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_LONGEST_LENS = 60
_LONG_PANORAMA = 3
_LEAST_PANORAMA = 2048


def inspected(picture: Image.Image) -> list[Finding]:
    """What is found in a picture that Pillow has opened and loaded, before it is converted."""
    try:
        return list(_findings(picture))
    except Exception:  # damaged metadata must not cost the user a sound picture
        return []


def panorama_shape(size: tuple[int, int]) -> list[Finding]:
    """What is found if a large picture is as wide, or as tall, as only panoramas are."""
    width, height = size
    long, short = max(size), min(size)
    if long < _LEAST_PANORAMA or not (width == 2 * height or long >= _LONG_PANORAMA * short):
        return []
    return [Finding(Kind.PANORAMA_SHAPE, f"{width}x{height}")]


def _findings(picture: Image.Image) -> Iterator[Finding]:
    densities = _densities(picture)
    if densities and max(densities) > _MOST_SKEW * min(densities):
        yield Finding(Kind.PIXEL_ASPECT, "{:g} by {:g} on one length".format(*densities))
    projection = _projection(picture)
    if projection not in ("", *_PERSPECTIVE):
        yield Finding(Kind.PANORAMA, projection)
    lens = picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.LensModel)
    if isinstance(lens, str) and _FISHEYE.search(lens):
        yield Finding(Kind.FISHEYE, lens[:_LONGEST_LENS])
    if picture.mode in _GREY:
        yield Finding(Kind.GREY, "16 bits" if picture.mode.startswith("I") else "")
    if _transparent(picture):
        yield Finding(Kind.TRANSPARENT)


def _densities(picture: Image.Image) -> tuple[float, float] | None:
    """How many pixels there are on one length, along x and y, if the file tells it."""
    info = picture.info
    if "aspect" in info:  # a PNG's, of no unit
        found = info["aspect"]
    elif info.get("jfif_unit") == 0 and "jfif_density" in info:  # so may a JPEG's be
        found = info["jfif_density"]
    else:
        found = info.get("dpi")
    if not found or not all(0 < float(number) < float("inf") for number in found):
        return None
    return float(found[0]), float(found[1])


def _projection(picture: Image.Image) -> str:
    """The projection that the XMP of a panorama names."""
    xmp = picture.info.get("xmp", b"")
    text = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    found = _PROJECTION.search(text[:_MOST_XMP])
    return found[1].decode().lower() if found else ""


def _transparent(picture: Image.Image) -> bool:
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    bands = picture.getbands()
    if bands[-1] not in ("A", "a"):
        return False
    least, _ = picture.getchannel(bands[-1]).getextrema()
    return isinstance(least, int | float) and least < 255
