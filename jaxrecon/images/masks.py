"""Masks of photos that a user gives: which pixels may become points."""

import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image

from jaxrecon.checks import path_of, shown
from jaxrecon.errors import InputError
from jaxrecon.images.decode import deep_grey
from jaxrecon.images.findings import some
from jaxrecon.images.pictures import open_picture, orientation_of
from jaxrecon.images.resize import PixelTransform
from jaxrecon.images.resizing import worker_count
from jaxrecon.reading import is_folder

type MaskItem = str | os.PathLike[str] | np.ndarray
type MaskSource = str | os.PathLike[str] | np.ndarray | Sequence[MaskItem]
type PhotoMask = str | np.ndarray
"""The absolute path of a mask, or its pixels, (H, W), of the upright photo."""


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of V views.

    Attributes:
      photos: as they were given.
      keep: the pixels of the processed images that they keep.
    """

    photos: tuple[PhotoMask, ...]
    keep: Bool[np.ndarray, "V H W"]

    def photos_of(self, views: Sequence[int]) -> tuple[PhotoMask, ...]:
        """As they were given for some views."""
        return tuple(self.photos[view] for view in views)


def read_masks(
    source: object,
    names: Sequence[str],
    files: Sequence[str | None],
    transforms: Sequence[PixelTransform],
) -> Masks:
    """Reads the mask of each view: what is not 0 is kept, black or masked (`numpy.ma`) dropped.

    Args:
      source: a folder with `photo.jpg.png` (as COLMAP names them) or `photo.png` for each photo,
        below it as the photos lie below their common folder, or all in it; or a path or an array
        (H, W) for each view.
      names: of the views.
      files: where their photos lie.
      transforms: from each upright photo, which is of the mask's size, to the processed image.

    Raises:
      InputError: a photo has no mask, or one that cannot be read, has an alpha channel or another
        size; or there are not as many as views.
    """
    photos = listed_masks(source, names, files)
    work = zip(photos, names, transforms, strict=True)
    with ThreadPoolExecutor(worker_count()) as pool:
        keep = list(pool.map(lambda each: _processed(*each), work))
    return Masks(photos, np.stack(keep))


def mask_pixels(mask: PhotoMask, name: str, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """Which pixels of a photo a mask keeps.

    Args:
      mask: a path, or pixels.
      name: of the view, for messages.
      size: width and height of the upright photo.

    Raises:
      InputError: it cannot be read, has an alpha channel, is turned by EXIF, has another size, or
        values that are NaN.
    """
    where = mask if isinstance(mask, str) else f"masks: that of {name}"
    values = _values(mask) if isinstance(mask, str) else mask
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise InputError(
            f"{where} has shape {values.shape} and dtype {values.dtype}; give (H, W) of truth "
            "values or numbers, 0 for what is dropped"
        )
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError(
            f"{where} has values that are NaN, which do not say whether a pixel is kept; replace "
            "them, by 0 for what is dropped"
        )
    height, width = values.shape
    if (width, height) != size:
        raise InputError(
            f"{where} is {width}x{height}, the photo {name} is {size[0]}x{size[1]} once upright; "
            "give a mask of its size"
        )
    return values != 0


def write_mask(keep: Bool[np.ndarray, "H W"], path: Path) -> None:
    """Writes a mask as a grey PNG, 255 for what is kept."""
    Image.fromarray(keep.astype(np.uint8) * 255).save(path, format="PNG")


def _processed(mask: PhotoMask, name: str, transform: PixelTransform) -> Bool[np.ndarray, "H W"]:
    return transform.nearest(mask_pixels(mask, name, transform.original_size))


def _values(path: str) -> Shaped[np.ndarray, "H W"]:
    """The pixels of a mask file, the largest of its channels."""
    with open_picture(path, pixels=True) as picture:
        if orientation_of(picture) != 1:
            raise InputError(f"{path} is turned by its EXIF orientation; save it upright")
        if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
            raise InputError(
                f"{path} has an alpha channel, so that black and transparent may mean either; save "
                "it in shades of grey, black for what is dropped"
            )
        deep = deep_grey(picture)
        values = np.array(picture.convert("RGB") if picture.mode == "P" else picture)
        values = values if deep is None else deep
    return values if values.ndim == 2 else values.max(axis=-1)


def listed_masks(
    source: object, names: Sequence[str], files: Sequence[str | None]
) -> tuple[PhotoMask, ...]:
    """The mask of each view, not read yet.

    Raises:
      InputError: there are not as many as views; see `read_masks`.
    """
    if isinstance(source, str | os.PathLike):
        return _in_folder(path_of("masks", source), names, files)
    if not isinstance(source, list | tuple | np.ndarray):
        raise InputError(
            f"masks: found {shown(source)}; give a folder, or a path or an array for each view"
        )
    if len(source) != len(names):
        raise InputError(f"masks: found {len(source)} for {len(names)} views; give one for each")
    return tuple(_item(each, name) for each, name in zip(source, names, strict=True))


def _item(mask: Any, name: str) -> PhotoMask:
    if isinstance(mask, str | os.PathLike):
        return os.path.abspath(path_of("masks", mask))
    if hasattr(mask, "shape"):
        return np.asarray(np.ma.filled(mask, 0) if np.ma.isMaskedArray(mask) else mask)
    raise InputError(f"masks: found {shown(mask)} for {name}; give a path or an array")


def _in_folder(
    folder: Path, names: Sequence[str], files: Sequence[str | None]
) -> tuple[PhotoMask, ...]:
    if not is_folder(folder):
        raise InputError(f"masks: {folder} is no folder; give one with a mask for each photo")
    masks = {
        _plain(path.relative_to(folder).with_suffix(".png").as_posix()): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == ".png"
    }
    found = [_mask_of(forms, masks) for forms in _forms(names, files)]
    missing = [name for name, mask in zip(names, found, strict=True) if mask is None]
    if missing:
        raise InputError(
            f"masks: {folder} has none for {len(missing)} of {len(names)} photos ({some(missing)});"
            f" call them as {missing[0]}.png, white where all is kept, or leave the photos out"
        )
    return tuple(os.path.abspath(mask) for mask in found if mask is not None)


def _forms(names: Sequence[str], files: Sequence[str | None]) -> list[list[str]]:
    """What the photo of each view may be called: below the common folder, or by its file alone."""
    folders = [os.path.dirname(file) for file in files if file]
    root = os.path.commonpath(folders) if folders else ""
    bases = [_plain(PurePath(name).name) for name in names]
    return [
        [
            *([_plain(PurePath(os.path.relpath(file, root)).as_posix())] if file else []),
            _plain(name),
            *([base] if bases.count(base) == 1 else []),
        ]
        for name, file, base in zip(names, files, bases, strict=True)
    ]


def _mask_of(forms: Sequence[str], masks: dict[str, Path]) -> Path | None:
    endings = [f"{form}.png" for form in forms]
    endings += [PurePosixPath(form).with_suffix(".png").as_posix() for form in forms]
    return next((masks[name] for name in endings if name in masks), None)


def _plain(name: str) -> str:
    """A name with its letters composed, as Macs do not write them."""
    return unicodedata.normalize("NFC", name)
