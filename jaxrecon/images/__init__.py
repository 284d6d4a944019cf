"""Photos in, one uint8 array of processed images out, and where each pixel came from."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.images.decode import pillow_warnings_handled
from jaxrecon.images.resize import PI3_RESIZE, PixelTransform, ResizeRule
from jaxrecon.images.sources import IMAGE_SUFFIXES, VIDEO_SUFFIXES, ImageSource, open_source
from jaxrecon.images.views import Source, View
from jaxrecon.progress import Stages

__all__ = [
    "IMAGE_SUFFIXES",
    "PI3_RESIZE",
    "VIDEO_SUFFIXES",
    "ImageBatch",
    "ImageSource",
    "PixelTransform",
    "ResizeRule",
    "check_source",
    "load_images",
]

_CAPACITY_WHEN_UNKNOWN = 64


@dataclass(frozen=True)
class ImageBatch:
    """The processed images of one scene.

    Attributes:
      pixels: RGB, 8 bits a channel, all of one size.
      transforms: for each view, how its original pixels map to `pixels`.
      names: for each view a distinct name: a file name, `frame_000012` (its number in the video)
        or `view_0003` (its number in the list or array).
    """

    pixels: UInt8[np.ndarray, "V H W 3"]
    transforms: tuple[PixelTransform, ...]
    names: tuple[str, ...]


def load_images(
    source: ImageSource,
    *,
    rule: ResizeRule,
    resolution: int | None = None,
    stride: int = 1,
    stages: Stages | None = None,
) -> ImageBatch:
    """Reads images of any kind and resizes them to one size that suits a model.

    The size follows from the first image. All images are stretched to it by Pillow's Lanczos filter
    on 8-bit RGB, even those of another aspect ratio; an image of that size already is unchanged.
    EXIF and video rotation are applied and alpha is dropped. Greyscale of 16 bits (Pillow's modes
    I and I;16) is divided by 257; float pixels in [0, 1] are rounded to 8 bits.

    Args:
      source: a folder (its files ending in `IMAGE_SUFFIXES`, in natural order, hidden ones left
        out), a glob pattern, an image file, a video file (`VIDEO_SUFFIXES`), a Pillow image, an
        array (V, H, W, 3) or (H, W, 3) of uint8 or of floats in [0, 1], or a list of files, Pillow
        images and arrays (H, W, 3), which may differ in size.
      rule: how the model family chooses the size.
      resolution: wanted longest side in pixels, in place of the rule's pixel limit.
      stride: takes each `stride`-th view, starting with the first.
      stages: shows and times the stage "read".

    Raises:
      InputError: a view is absent, damaged, empty or of the wrong kind, `stride` is less than 1, or
        `resolution` is less than one patch. No view is left out in silence.
    """
    rule.check_resolution(resolution)
    opened = _open(source, stride)
    stages = stages or Stages(quiet=True)
    with stages.stage("read", total=opened.count) as advance, pillow_warnings_handled():
        return _read(opened, rule, resolution, advance)


def check_source(source: ImageSource, *, stride: int = 1) -> None:
    """Refuses what `load_images` could not list, before any long work is done; reads no image.

    Raises:
      InputError: the source is absent, empty or of no known kind, or `stride` is less than 1.
    """
    _open(source, stride)


def _open(source: ImageSource, stride: int) -> Source:
    if stride < 1:
        raise InputError(f"stride={stride} takes no image; give at least 1")
    return open_source(source, stride)


@dataclass(frozen=True)
class _Resized:
    name: str
    pixels: UInt8[np.ndarray, "H W 3"]
    transform: PixelTransform


def _read(
    source: Source, rule: ResizeRule, resolution: int | None, advance: Callable[[], None]
) -> ImageBatch:
    views = iter(source.views)
    first = next(views)
    image = first.read()
    size = rule.size_for(*image.size, resolution=resolution)
    pixels = _allocate(source.count or _CAPACITY_WHEN_UNKNOWN, size)
    transforms, names = [], []
    for resized in _resized(chain([View(first.name, lambda: image)], views), size):
        if len(names) == len(pixels):
            pixels.resize((2 * len(pixels), *pixels.shape[1:]), refcheck=False)
        pixels[len(names)] = resized.pixels
        transforms.append(resized.transform)
        names.append(resized.name)
        advance()
    pixels.resize((len(names), *pixels.shape[1:]), refcheck=False)
    return ImageBatch(pixels, tuple(transforms), tuple(names))


def _allocate(count: int, size: tuple[int, int]) -> UInt8[np.ndarray, "V H W 3"]:
    width, height = size
    try:
        return np.empty((count, height, width, 3), np.uint8)
    except MemoryError as error:
        raise InputError(
            f"not enough memory for {count} images of {width}x{height} pixels; "
            "give a lower resolution or a larger stride"
        ) from error


def _resized(views: Iterable[View], size: tuple[int, int]) -> Iterator[_Resized]:
    """Reads and resizes in threads, in order, with only a few full-size images held at once."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[_Resized]] = deque()
        for view in views:
            pending.append(pool.submit(_resize, view, size))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _resize(view: View, size: tuple[int, int]) -> _Resized:
    image = view.read()
    pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS))
    return _Resized(view.name, pixels, PixelTransform.stretch(image.size, size))
