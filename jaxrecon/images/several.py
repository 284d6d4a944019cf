"""Files that hold several pictures: which of them are pictures, and not previews or masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image, TiffImagePlugin

from jaxrecon.errors import InputError
from jaxrecon.images.signatures import raw_refused
from jaxrecon.reading.plain_files import AnyPath

_NEW_SUBFILE, _SUBFILE, _WIDTH, _LENGTH, _PHOTOMETRIC = 254, 255, 256, 257, 262
_SUB_DIRECTORIES, _DNG_VERSION = 330, 50706
_BITS, _COMPRESSION, _SAMPLES, _PLANAR = 258, 259, 277, 284
_UNCOMPRESSED, _ONE_BEHIND_THE_OTHER = (0, 1), 2
_RAW_PHOTOMETRIC = (32803, 34892)  # a colour filter array, and linear raw
_REDUCED, _MASK = 1, 4
_OLD_REDUCED = 2
_PREVIEW_SHARE = 4
_ONE = range(1)
_BIG_TIFF = 43
_MOST_DIRECTORIES = 100_000
_MOST_SUB_DIRECTORIES = 32

_MP_ENTRIES, _UNDEFINED = 0xB002, "Undefined"
_MP_VIEWS = ("(Disparity)", "(Multi-Angle)", "(Panorama)")

_NETPBM_CHANNELS = {b"P5": 1, b"P6": 3}
_NETPBM_GAP = 16

type _Tags = TiffImagePlugin.ImageFileDirectory_v2


@dataclass(frozen=True)
class _Directory:
    """What one directory of a TIFF says of its picture.

    `wide_planes` says that each colour is stored by itself, in more than 8 bits, uncompressed:
    Pillow mixes up such planes without a word.
    """

    width: int
    height: int
    preview: bool
    raw: bool
    wide_planes: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height


def picture_numbers(picture: Image.Image, file: BinaryIO, path: AnyPath) -> Sequence[int]:
    """The numbers, for `Image.seek`, of the pictures that an open file holds.

    Reduced copies, transparency masks and an animation's stand-in are left out, and so are the
    auxiliary pictures of phones (gain maps).

    Args:
      picture: as Pillow has opened it.
      file: what it was opened from; it is left where it was.
      path: its name, for messages.

    Raises:
      InputError: it holds the raw data of a camera, reduced copies alone, or planes that Pillow
        mixes up.
    """
    if picture.format == "JPEG":
        return _ONE
    if isinstance(picture, TiffImagePlugin.TiffImageFile):
        return _tiff_numbers(picture, file, path)
    if picture.format == "MPO":
        return _mpo_numbers(picture)
    if picture.format == "PPM":
        _check_netpbm(picture, file, path)
    count = getattr(picture, "n_frames", 1)
    numbers = range(1 if picture.info.get("default_image") else 0, count)
    return numbers if len(numbers) > 1 else range(picture.tell(), picture.tell() + 1)


def _mpo_numbers(picture: Any) -> Sequence[int]:
    """The first, and those of 3D and panorama cameras; no gain maps, depth maps and thumbnails."""
    entries = picture.mpinfo[_MP_ENTRIES]
    kinds = [entry["Attribute"]["MPType"] for entry in entries]
    size = picture.size
    others = range(1, len(kinds))
    unnamed = [number for number in others if kinds[number] == _UNDEFINED]
    alike = {number for number in unnamed if _is_like(picture, number, size)}
    picture.seek(0)
    return [0, *(n for n in others if n in alike or kinds[n].endswith(_MP_VIEWS))]


def _is_like(picture: Image.Image, number: int, size: tuple[int, int]) -> bool:
    """Whether a picture of a file is in colour and of this size; if it is not there it is not."""
    try:
        picture.seek(number)
    except Exception:  # copies sent on often lose all pictures but the first
        return False
    return picture.size == size and picture.mode == "RGB"


def _check_netpbm(picture: Any, file: BinaryIO, path: AnyPath) -> None:
    """Refuses PPM and PGM files with more pictures behind the first, which Pillow overlooks."""
    place = file.tell()
    file.seek(0)
    kind = file.read(2)
    if kind in _NETPBM_CHANNELS:
        width, height = picture.size
        told = picture.tile[0].args
        wide = told == "I;16B" or (isinstance(told, tuple) and told[-1] > 255)
        values = width * height * _NETPBM_CHANNELS[kind]
        file.seek(picture.tile[0].offset + values * (2 if wide else 1))
        if file.read(_NETPBM_GAP).lstrip()[:2] in _NETPBM_CHANNELS:
            raise InputError(
                f"cannot read {path}: more pictures follow the first in it; save each in a file of "
                "its own"
            )
    file.seek(place)


def _tiff_numbers(
    picture: TiffImagePlugin.TiffImageFile, file: BinaryIO, path: AnyPath
) -> Sequence[int]:
    place = file.tell()
    found = list(_directories(picture.tag_v2, file))
    hidden = list(_sub_directories(picture.tag_v2, file))
    file.seek(place)
    if any(directory.raw for directory in found + hidden):
        raise raw_refused(path)
    most = max(directory.pixels for directory in found)
    numbers = [
        number
        for number, directory in enumerate(found)
        if not directory.preview and directory.pixels * _PREVIEW_SHARE > most
    ]
    largest = max((directory.pixels for directory in hidden), default=0)
    if not numbers or max(found[number].pixels for number in numbers) < largest:
        raise InputError(
            f"cannot read {path}: it shows only reduced copies of its picture; save it again, as a "
            "plain TIFF, PNG or JPEG"
        )
    if any(found[number].wide_planes for number in numbers):
        raise InputError(
            f"cannot read {path}: its colours are stored one behind the other (planar), in more "
            "than 8 bits; save it again with interleaved colours, or as PNG"
        )
    return numbers


def _directories(first: _Tags, file: BinaryIO) -> Iterator[_Directory]:
    """The directories of a TIFF in their order."""
    seen: set[int] = set()
    tags = first
    while True:
        yield _told(tags)
        if not tags.next:
            return
        if tags.next in seen or len(seen) > _MOST_DIRECTORIES:
            raise ValueError("its directories have no end")
        seen.add(tags.next)
        tags = _tags_at(tags.next, file)


def _sub_directories(first: _Tags, file: BinaryIO) -> Iterator[_Directory]:
    """Those that a first directory hides behind it, up to a damaged one: no picture needs them."""
    places = first.get(_SUB_DIRECTORIES, ())
    places = places if isinstance(places, tuple) else (places,)
    for place in places[:_MOST_SUB_DIRECTORIES]:
        try:
            yield _told(_tags_at(place, file))
        except Exception:
            return


def _tags_at(place: int, file: BinaryIO) -> _Tags:
    file.seek(0)
    head = file.read(16)
    tags = TiffImagePlugin.ImageFileDirectory_v2(head if head[2] == _BIG_TIFF else head[:8])
    tags.next = 0  # what is cut short leaves it as it is
    file.seek(place)
    tags.load(file)
    return tags


def _told(tags: _Tags) -> _Directory:
    kind, old = _whole(tags, _NEW_SUBFILE), _whole(tags, _SUBFILE)
    photometric = _whole(tags, _PHOTOMETRIC)
    width, height = _whole(tags, _WIDTH), _whole(tags, _LENGTH)
    if not width or not height:
        raise ValueError("a directory is cut off")
    return _Directory(
        width,
        height,
        preview=bool(kind & (_REDUCED | _MASK)) or old == _OLD_REDUCED,
        raw=photometric in _RAW_PHOTOMETRIC or _DNG_VERSION in tags,
        wide_planes=_whole(tags, _PLANAR) == _ONE_BEHIND_THE_OTHER
        and _whole(tags, _SAMPLES) > 1
        and _whole(tags, _BITS) > 8
        and _whole(tags, _COMPRESSION) in _UNCOMPRESSED,
    )


def _whole(tags: _Tags, tag: int) -> int:
    value = tags.get(tag, 0)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 0
