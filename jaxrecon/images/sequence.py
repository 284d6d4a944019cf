"""Files of several pictures, such as animations and TIFFs of many pages, as views."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.images.decode import upright_rgb
from jaxrecon.images.findings import Finding
from jaxrecon.images.pictures import check_pixels, open_pictures
from jaxrecon.images.views import Source, View


def holds_several(path: Path) -> bool:
    """Whether a file holds several pictures; what is wrong with one, reading it tells."""
    try:
        with open_pictures(path) as (_, numbers):
            return len(numbers) > 1
    except InputError:
        return False


def open_sequence(path: Path, stride: int) -> Source:
    """Each `stride`-th picture of a file, decoded as the pictures are asked for.

    Raises:
      InputError: see `open_pictures`; or, as pictures are asked for, one is damaged.
    """
    with open_pictures(path) as (_, numbers):
        count = len(numbers)
    return Source(-(-count // stride), _pictures(path, stride))


def _pictures(path: Path, stride: int) -> Iterator[View]:
    stored = path.stat().st_size
    with open_pictures(path, pixels=True) as (picture, numbers):
        for index, number in enumerate(numbers):
            if index % stride == 0:
                picture.seek(number)
                check_pixels(path, picture, stored)
                picture.load()
                name = f"frame_{index:06d}"
                found: list[Finding] = []
                read = partial(_same, upright_rgb(picture, name, found))
                yield View(name, read, found=found)


def _same(image: Image.Image) -> Image.Image:
    return image
