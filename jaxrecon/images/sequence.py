"""Files of several pictures, such as animations and TIFFs of many pages, as views."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.images.decode import upright_rgb
from jaxrecon.images.findings import Finding
from jaxrecon.images.pictures import check_pixels, open_pictures
from jaxrecon.images.sampling import Sampling
from jaxrecon.images.views import Source, View


def holds_several(path: Path) -> bool:
    """Whether a file holds several pictures; what is wrong with one, reading it tells."""
    try:
        with open_pictures(path) as (_, numbers):
            return len(numbers) > 1
    except InputError:
        return False


def open_sequence(path: Path, sampling: Sampling) -> Source:
    """The pictures of a file that `sampling` takes, decoded as they are asked for.

    Raises:
      InputError: see `open_pictures`; a rate is given; or, as pictures are asked for, one is
        damaged.
    """
    with open_pictures(path) as (_, numbers):
        taken = sampling.numbers(len(numbers), str(path))
    return Source(len(taken), _pictures(path, taken))


def _pictures(path: Path, taken: Sequence[int]) -> Iterator[View]:
    stored = path.stat().st_size
    with open_pictures(path, pixels=True) as (picture, numbers):
        for index in taken:
            picture.seek(numbers[index])
            check_pixels(path, picture, stored)
            picture.load()
            name = f"frame_{index:06d}"
            found: list[Finding] = []
            read = partial(_same, upright_rgb(picture, name, found))
            yield View(name, read, found=found)


def _same(image: Image.Image) -> Image.Image:
    return image
