"""What a picture file is, by its first bytes and not by its name."""

import os
from typing import BinaryIO

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.reading.plain_files import AnyPath

_HEVC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
_PICTURE_BRANDS = {b"mif1", b"msf1"}
_AV1_BRANDS = {b"avif", b"avis"}
_RAW_BRAND = b"crx "

_RAW_STARTS = (
    *(b"IIRO", b"IIRS", b"MMOR", b"IIU\0"),  # Olympus, Panasonic
    *(b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM"),  # Fujifilm, Sigma, Minolta
)
_RAW_MARKS = {6: (b"HEAPCCDR",), 8: (b"CR\2", b"IIII", b"MMMM")}
"""Behind so many bytes: of Canon's older and newer files, and of Phase One's."""

_PLAIN_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM")
_GIF_START = b"GIF8"
_TIFF_STARTS = (b"II*\0", b"MM\0*")

_HEAD_BYTES = 64


def prepare_reading(file: BinaryIO, path: AnyPath) -> None:
    """Looks at how a file begins, before Pillow does, so that it can read HEIF.

    Raises:
      InputError: it is HEIF and pillow-heif is not installed, the raw data of a camera, a GIF, or a
        video.
    """
    head = file.read(_HEAD_BYTES)
    file.seek(0)
    if head.startswith(_PLAIN_STARTS):
        return
    if is_raw(head):
        raise raw_refused(path)
    if head.startswith(_GIF_START):
        raise InputError(
            f"cannot read {os.fspath(path)}: it is not an image of a known kind, but a GIF; save "
            "its pictures as PNG, or as a video"
        )
    brands = _brands(head)
    if _is_heif(brands):
        register_heif(path)
    elif brands and not set(brands) & (_PICTURE_BRANDS | _AV1_BRANDS):
        raise InputError(
            f"cannot read {path}: it is a video, not an image; give it alone, under a name that "
            "ends in .mp4 or .mov"
        )


def may_be_heif(path: AnyPath) -> bool:
    """Whether a file named as HEIF begins as no other kind of picture does."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return True
    return _is_heif(_brands(head)) or not head.startswith(_PLAIN_STARTS + _TIFF_STARTS)


def register_heif(path: AnyPath) -> None:
    """Makes Pillow read HEIF.

    Raises:
      InputError: pillow-heif is not installed; names the file and the extra.
    """
    with Extra("heic", f"cannot read {os.fspath(path)}: HEIC images need pillow-heif"):
        import pillow_heif
    pillow_heif.register_heif_opener()


def is_raw(head: bytes) -> bool:
    """Whether a file that begins so holds the raw data of a camera, in a format of its maker's."""
    if head.startswith(_RAW_STARTS) or _brands(head)[:1] == (_RAW_BRAND,):
        return True
    return any(head[place:].startswith(marks) for place, marks in _RAW_MARKS.items())


def raw_refused(path: AnyPath) -> InputError:
    """The error for raw data of a camera, of which Pillow would read the preview at most."""
    return InputError(
        f"cannot read {os.fspath(path)}: it is a camera's raw file, in which only a preview is a "
        "picture; develop it to JPEG, PNG or TIFF first"
    )


def _brands(head: bytes) -> tuple[bytes, ...]:
    """The brands of a file of boxes (ISO 14496-12), the major one first; none of another file."""
    if head[4:8] != b"ftyp":
        return ()
    length = min(int.from_bytes(head[:4], "big"), len(head))
    compatible = (head[place : place + 4] for place in range(16, length - 3, 4))
    return head[8:12], *compatible


def _is_heif(brands: tuple[bytes, ...]) -> bool:
    if not brands:
        return False
    if brands[0] in _PICTURE_BRANDS:
        return not set(brands) & _AV1_BRANDS
    return brands[0] in _HEVC_BRANDS
