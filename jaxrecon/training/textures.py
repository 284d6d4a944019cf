"""Folders of pictures as materials of the rendered scenes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxrecon.errors import InputError
from jaxrecon.images.listing import IMAGE_SUFFIXES, natural_key
from jaxrecon.images.pictures import open_picture
from jaxrecon.scenes.photographs import Pictures, pyramid
from jaxrecon.training.inputs import digest_of_files

SIDE = 256
_SMALLEST = 8
_MOST_TEXELS = 2**31 - 1


def read_pictures(folder: str | Path, *, side: int = SIDE) -> Pictures:
    """Reads every picture of a folder and of the folders in it, squeezed to squares.

    Args:
      folder: the pictures, by the endings of their names.
      side: of each in the atlas; a power of two.

    Raises:
      InputError: the folder is absent or holds no picture, a file is none or has fewer than 8
        pixels on a side, or there are more pictures than the atlas can hold.
    """
    files = picture_files(folder)
    texels = sum(4**level for level in range(side.bit_length()))
    if len(files) * texels > _MOST_TEXELS:
        raise InputError(
            f"textures: {folder} holds {len(files)} pictures; give at most {_MOST_TEXELS // texels}"
        )
    with ThreadPoolExecutor() as pool:
        return Pictures(np.stack(list(pool.map(lambda file: pyramid(_read(file, side)), files))))


def picture_files(folder: str | Path) -> list[Path]:
    """The pictures in a folder and in the folders below, in natural order; hidden ones not.

    Raises:
      InputError: the folder is absent, or there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"textures: {folder} {what}; give a folder of pictures")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        raise InputError(
            f"textures: no pictures in {folder}; give a folder of JPEG, PNG or other image files"
        )
    return sorted(found, key=lambda path: natural_key(str(path)))


def digest_of_pictures(folder: str | Path) -> str:
    """Tells the pictures of a folder apart from others, see `digest_of_files`."""
    return digest_of_files(Path(folder), picture_files(folder))


def _read(file: Path, side: int) -> UInt8[np.ndarray, "S S 3"]:
    from PIL import Image

    with open_picture(file) as image:
        if min(image.size) < _SMALLEST:
            width, height = image.size
            raise InputError(
                f"textures: {file} is {width}x{height} pixels; give pictures of at least "
                f"{_SMALLEST} pixels a side"
            )
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BOX))
