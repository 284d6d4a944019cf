"""Which files of a folder or a glob pattern are images, and which other ones a user may miss."""

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from jaxrecon.errors import InputError
from jaxrecon.images.findings import some
from jaxrecon.images.kinds import kind_of
from jaxrecon.reading import absence, is_folder, is_plain_file

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"),
    *(".heic", ".heif", ".hif", ".jpe", ".jfif", ".mpo", ".pnm", ".pbm"),
)
"""What counts as an image in a folder or glob pattern, in upper or lower case."""

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".3gp", ".3g2", ".mts"),
    *(".m2ts", ".ts", ".wmv", ".asf", ".flv", ".ogv", ".m2v", ".360", ".insv", ".lrv"),
)
"""What counts as a video beside images, in upper or lower case. A file that is given alone and has
neither suffix is what its content says."""

PHOTOS_FOLDER = "images"
"""Where data sets keep their photos, beside files and folders of what is known of them."""

_NO_PHOTOS = re.compile(
    r"mask|depth|normal|label|semantic|segment|instance|confidence|thumb|preview|cache|^[._@]",
    re.IGNORECASE,
)
"""Names of folders in which pictures are none to reconstruct from."""

_MOST_ENTRIES = 2000
"""So many files and folders are looked through for images in sub-folders."""


@dataclass(frozen=True)
class Listing:
    """The image files in natural order, and what to tell of those beside them."""

    images: list[Path]
    notes: list[str]


def listed_files(path: Path) -> Listing:
    """The images that one path means: a file, a folder, or a glob pattern.

    A folder without images of its own means its sub-folder `images`, as data sets have it.

    Raises:
      InputError: there are none.
    """
    if is_folder(path):
        children = _visible(path)
        within = next((child for child in children if child.name == PHOTOS_FOLDER), None)
        if within and is_folder(within) and not any(map(_is_image, children)):
            inner = _listing(f"the folder {within}", _visible(within), folder=within)
            notes = [f"the folder {path}: its photos are those in {PHOTOS_FOLDER}/"]
            return Listing(inner.images, notes + inner.notes)
        return _listing(f"the folder {path}", children, folder=path)
    if path.exists():
        return Listing([path], [])
    if not glob.has_magic(str(path)) or path.is_symlink():
        raise InputError(absence(path))
    return _listing(str(path), map(Path, glob.glob(str(path), recursive=True)))


def folder_images(folder: Path) -> list[Path]:
    """The images in a folder that are not hidden, in the natural order of their names.

    Raises:
      InputError: the folder cannot be read.
    """
    return _in_order(path for path in _visible(folder) if _is_image(path))


def natural_key(text: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sorts img_2 before img_10, whatever the case of the letters."""
    parts = re.split(r"(\d+)", text.casefold())
    return [digits_key(part) if part.isdecimal() else part for part in parts], text


def shell_order(paths: Sequence[Path]) -> list[str]:
    """What to tell of files that stand as shells sort a pattern, with img_10 before img_2."""
    texts = [str(path) for path in paths]
    by_letters = sorted(texts) == texts or sorted(texts, key=_collated) == texts
    if not by_letters:
        return []
    for one, other in pairwise(texts):
        if _collated(one) < _collated(other) and natural_key(one) > natural_key(other):
            return [
                f"images are taken in the order given, {Path(one).name} before "
                f"{Path(other).name}: for the order of their numbers give the folder, or the "
                "pattern in quotes"
            ]
    return []


def _collated(text: str) -> str:
    """Letters and digits alone, by which many shells sort."""
    return "".join(filter(str.isalnum, text.casefold()))


def digits_key(digits: str) -> tuple[int, str]:
    """Sorts digits of any length by the number that they write, and is alike if that is."""
    plain = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return len(plain), plain


def _visible(folder: Path) -> list[Path]:
    try:
        return [child for child in folder.iterdir() if not child.name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_folder(path)


def _in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: natural_key(str(path)))


def _listing(where: str, found: Iterable[Path], *, folder: Path | None = None) -> Listing:
    """The images among the files found, if there are any."""
    images: list[Path] = []
    beside: list[Path] = []
    for path in found:
        (images if _is_image(path) else beside).append(path)
    notes = list(_left_out(_in_order(beside)))
    if folder is not None:
        notes += _nested(folder, beside)
    if not images:
        looked = f"looked for files ending in {' '.join(IMAGE_SUFFIXES)}"
        raise InputError("; ".join([f"no images in {where}", looked, *notes]))
    return Listing(_in_order(images), [f"{where}: {note}" for note in notes])


def _left_out(paths: Iterable[Path]) -> Iterator[str]:
    """What to tell of pictures and videos that are not taken for images."""
    kinds: dict[str | None, list[str]] = {}
    for path in paths:
        video = path.suffix.lower() in VIDEO_SUFFIXES and is_plain_file(path)
        kinds.setdefault("video" if video else kind_of(path), []).append(path.name)
    if names := kinds.get("picture"):
        one = len(names) == 1
        what = (
            "1 picture of another suffix is"
            if one
            else f"{len(names)} pictures of other suffixes are"
        )
        yield (
            f"{what} left out ({_by_suffix(names)}): save as PNG or JPEG, or rename what is one "
            "already"
        )
    if names := kinds.get("video"):
        what = "1 video is" if len(names) == 1 else f"{len(names)} videos are"
        yield f"{what} left out ({_by_suffix(names)}): give a video alone"


def _by_suffix(names: list[str]) -> str:
    counts = Counter(Path(name).suffix.lower() or "none" for name in names)
    told = ", ".join(f"{suffix}: {count}" for suffix, count in counts.items())
    return f"{told}; {some(names)}"


def _nested(folder: Path, found: Iterable[Path]) -> Iterator[str]:
    """What to tell of images in sub-folders."""
    images = list(_images_below(_in_order(found)))
    if not images:
        return
    counts = Counter(path.relative_to(folder).parts[0] for path in images)
    suffixes = {path.suffix for path in images}
    folders = {path.parent for path in images}
    pattern = f"{glob.escape(str(folder))}/**/*{min(suffixes) if len(suffixes) == 1 else ''}"
    give = f'"{pattern}"' if len(folders) > 1 else f'"{min(folders)}"'
    told = [f"{name}: {count}" for name, count in counts.items()]
    yield f"images in its sub-folders are left out ({some(told)}): to take them give {give}"


def _images_below(found: Iterable[Path]) -> Iterator[Path]:
    """Images in sub-folders that may hold photos, of the first `_MOST_ENTRIES` entries."""
    left = _MOST_ENTRIES
    for top in (path for path in found if is_folder(path) and not _NO_PHOTOS.search(path.name)):
        for place, folders, files in os.walk(top):
            folders[:] = sorted(name for name in folders if not _NO_PHOTOS.search(name))
            for name in files[: max(left, 0)]:
                if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                    yield Path(place, name)
            left -= len(files) + len(folders)
            if left <= 0:
                return
