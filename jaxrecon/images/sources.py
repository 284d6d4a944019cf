"""Finds out what the caller passed as images, and lists its views."""

import io
import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from jaxrecon.checks import path_of
from jaxrecon.errors import InputError
from jaxrecon.images.arrays import AnyArray, image_of, images_of, is_array
from jaxrecon.images.decode import from_array, from_file, from_pillow
from jaxrecon.images.findings import Finding
from jaxrecon.images.kinds import kind_of
from jaxrecon.images.listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES, listed_files, shell_order
from jaxrecon.images.motion import kept_by_motion
from jaxrecon.images.pictures import PhotoSize, file_size, upright_size
from jaxrecon.images.sampling import Sampling
from jaxrecon.images.sequence import holds_several, open_sequence
from jaxrecon.images.signatures import may_be_heif, register_heif
from jaxrecon.images.video import open_video
from jaxrecon.images.views import Source, View
from jaxrecon.reading import absence, is_folder, is_plain_file

_HEIF_SUFFIXES = (".heic", ".heif", ".hif")

type ImageItem = str | os.PathLike[str] | Image.Image | AnyArray
type ImageSource = ImageItem | Sequence[ImageItem]


def open_source(source: object, sampling: Sampling) -> Source:
    """Lists the views of a source that `sampling` takes, reading none yet.

    Which ones are taken by motion is told as they are asked for.

    Raises:
      InputError: the source is of no known kind, is not there, or holds no images.
    """
    if sampling.motion is None:
        return _opened(source, sampling)
    every = _opened(source, replace(sampling, motion=None, skip=0))
    return kept_by_motion(every, sampling.motion, sampling.skip)


def _opened(source: object, sampling: Sampling) -> Source:
    if isinstance(source, str | os.PathLike):
        path = _as_path(source)
        if _is_video(path):
            return open_video(path, sampling)
        if is_plain_file(path) and holds_several(path):
            return open_sequence(path, sampling)
        listing = listed_files(path)
        return _listed(listing.images, sampling, listing.notes, what=str(path))
    elif isinstance(source, Image.Image):
        items: Sequence[object] = [source]
    elif is_array(source):
        items = images_of(source)
    elif isinstance(source, list | tuple):
        items = source
    else:
        raise InputError(_unknown("images", source))
    if not items:
        raise InputError("images: the list is empty; give at least one image")
    return _listed(items, sampling)


def _as_path(source: str | os.PathLike[str]) -> Path:
    path = path_of("images", source)
    try:
        path.exists()
    except OSError as error:  # the name is too long, or its folder may not be entered
        raise InputError(f"cannot read {path}: {error.strerror}; check the path") from error
    return path


def is_video(source: object) -> bool:
    """Whether a source is a video, whose frames have times."""
    return isinstance(source, str | os.PathLike) and _is_video(_as_path(source))


def _is_video(path: Path) -> bool:
    """Whether a file is read as a video: its suffix says so, or its content where none is known."""
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES and kind_of(path) != "picture":
        return is_plain_file(path)
    return suffix not in IMAGE_SUFFIXES and kind_of(path) == "video"


def _listed(
    items: Sequence[object],
    sampling: Sampling,
    notes: Sequence[str] = (),
    *,
    what: str = "the list of images",
) -> Source:
    numbers = sampling.numbers(len(items), what)
    chosen = [_checked(items[number], f"view_{number:04d}") for number in numbers]
    file_names = _file_names(chosen if len(numbers) == len(items) else items)
    names = [file_names.get(number, f"view_{number:04d}") for number in numbers]
    views = [_view(item, name) for item, name in zip(chosen, names, strict=True)]
    files = [item for item in chosen if isinstance(item, Path)]
    order = shell_order(files) if len(files) == len(chosen) else []
    return Source(len(views), views, [*notes, *order])


def _checked(item: object, name: str) -> Path | Image.Image | np.ndarray:
    """Refuses an unusable item of a list before any of them is read."""
    if isinstance(item, str | os.PathLike):
        return _checked_file(_as_path(cast(str | os.PathLike[str], item)))
    if is_array(item):
        return image_of(item, name)
    if isinstance(item, Image.Image):
        return item
    raise InputError(_unknown(name, item))


def _checked_file(path: Path) -> Path:
    if is_folder(path):
        raise InputError(f"{path} is a folder; in a list give files, or pass the folder alone")
    if _is_video(path) or (path.suffix.lower() in VIDEO_SUFFIXES and not path.exists()):
        raise InputError(f"{path} is a video; in a list give images, or pass the video alone")
    if not path.exists():
        raise InputError(absence(path))
    if not is_plain_file(path):
        raise InputError(f"{path} is a pipe or a device, not a file; save the images in files")
    if path.suffix.lower() in _HEIF_SUFFIXES and may_be_heif(path):
        register_heif(path)
    return path


def _file_names(items: Sequence[object]) -> dict[int, str]:
    """A distinct name for each item that is a path, by its index, whichever of them are taken.

    File names where they differ; else paths below the common folder; else, for a file that is
    listed twice, file names behind their number.
    """
    paths = {
        index: item if isinstance(item, Path) else Path(os.path.expanduser(item))
        for index, item in enumerate(items)
        if isinstance(item, str | os.PathLike)
    }
    names = {index: path.name for index, path in paths.items()}
    if len(set(names.values())) < len(names):
        root = os.path.commonpath([path.absolute().parent for path in paths.values()])
        names = {
            index: path.absolute().relative_to(root).as_posix() for index, path in paths.items()
        }
    if len(set(names.values())) < len(names):
        names = {index: f"view_{index:04d}_{path.name}" for index, path in paths.items()}
    return names


def _view(item: Path | Image.Image | np.ndarray, name: str) -> View:
    found: list[Finding] = []
    if isinstance(item, Path):
        read, size = partial(from_file, item, found), partial(file_size, item)
        return View(name, read, size, found, os.path.abspath(item))
    if isinstance(item, Image.Image):
        read = partial(from_pillow, item, name, found)
        return View(name, read, partial(upright_size, item), found)
    read = partial(from_array, item, name, found)
    return View(name, read, lambda: PhotoSize(item.shape[1], item.shape[0]), found)


def _unknown(name: str, found: object) -> str:
    return (
        f"{name}: cannot read images from {type(found).__name__}; give a folder, a glob pattern, "
        f"image files, a video, Pillow images or arrays{_as_a_list(found)}"
    )


def _as_a_list(found: object) -> str:
    """The end of a message about what can be gone through, but has no order or no length."""
    ordered = isinstance(found, Iterator) and not isinstance(found, io.IOBase)
    return "; of several, a list of them" if ordered or isinstance(found, Set) else ""
