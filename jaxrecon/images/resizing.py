"""Views read and resized in threads, and what is found in them meanwhile."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxrecon.images.findings import Finding, Kind, light_found, small_found
from jaxrecon.images.inspection import panorama_shape
from jaxrecon.images.limits import check_before_crop
from jaxrecon.images.resize import Fit, PixelTransform
from jaxrecon.images.views import View


@dataclass(frozen=True)
class Resized:
    """One view, brought to size.

    Attributes:
      found: what a model does not expect of it.
      file: see `View`.
    """

    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    transform: PixelTransform
    found: list[Finding]
    file: str | None


def worker_count() -> int:
    """How many threads read images."""
    return min(8, os.cpu_count() or 1)


def resized_views(views: Iterable[View], fit: Callable[[int], Fit]) -> Iterator[Resized]:
    """Reads and resizes in threads, in order, with only a few full-size images held at once.

    Args:
      views: what to read.
      fit: how the image of each view is brought to size, by its number.

    Raises:
      InputError: a view cannot be read, or is too narrow.
    """
    workers = worker_count()
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Resized]] = deque()
        for number, view in enumerate(views):
            pending.append(pool.submit(_resize, view, fit(number)))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _resize(view: View, fit: Fit) -> Resized:
    image = view.read()
    scale = fit.transform(image.size).scale
    scaled = round(image.size[0] * scale[0]), round(image.size[1] * scale[1])
    check_before_crop(view.name, image.size, scaled)
    pixels, transform = fit.apply(image)
    brightest = int(pixels[transform.window].max(initial=0))
    found = [
        *_of_photo(view, image, fit),
        *small_found(image.size, scale),
        *light_found(brightest),
    ]
    return Resized(view.name, pixels, transform, found, view.file)


def _of_photo(view: View, image: Image.Image, fit: Fit) -> list[Finding]:
    """What is found in a photo, but for transparency that the rule lays over white."""
    opaque = fit.over_white and image.mode == "RGBA"
    found = [*view.found, *panorama_shape(image.size)]
    return [each for each in found if not (opaque and each.kind is Kind.TRANSPARENT)]
