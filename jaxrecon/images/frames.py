"""Views of a source of any length, read in order as they are asked for, all brought to one size."""

import hashlib
import os
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxrecon.errors import InputError
from jaxrecon.images.copies import copies_found
from jaxrecon.images.findings import Finding, add_findings, notes, shapes_found
from jaxrecon.images.fits import Fits, checked_resolution, foreseen
from jaxrecon.images.limits import check_processed
from jaxrecon.images.pictures import pillow_warnings_handled
from jaxrecon.images.resize import ImageRule, PixelTransform
from jaxrecon.images.resizing import resized_views
from jaxrecon.images.sampling import Sampling
from jaxrecon.images.sources import ImageSource, open_source
from jaxrecon.images.stack import centred
from jaxrecon.images.views import Source
from jaxrecon.reading import open_plain

_TOLD = 2**20


@dataclass(frozen=True)
class Frame:
    """One view of a sequence, brought to size.

    Attributes:
      name, file: see `ImageBatch`.
      pixels: as the model takes them, RGB.
      transform: from the original's pixels.
    """

    name: str
    file: str | None
    pixels: UInt8[np.ndarray, "H W 3"]
    transform: PixelTransform


class Frames:
    """The views of a source that are still to be read.

    Attributes:
      count: about how many there are, if that is known.
      total: exactly how many the source has, with those that are left out at its beginning; None
        where reading them tells it, as of videos.
    """

    def __init__(
        self,
        source: Source,
        fits: Fits,
        size: tuple[int, int] | None,
        first: int,
        total: int | None = None,
    ) -> None:
        self.count, self.total = source.count, total
        self._source, self._first = source, first
        self._frames = self._read(fits, size)
        self._found: list[list[Finding]] = []
        self._names: list[str] = []
        self._files: list[str | None] = []
        self._transforms: list[PixelTransform] = []

    def take(self, count: int) -> list[Frame]:
        """The next views; fewer than `count` where the source ends.

        Raises:
          InputError: a view is absent, damaged, empty or of the wrong kind, or has a shape that
            does not go into the size of those before it.
        """
        return [frame for _, frame in zip(range(count), self._frames, strict=False)]

    def notes(self) -> list[str]:
        """What to tell of the views that were read; complete once all were."""
        shapes = shapes_found(self._transforms) if self._transforms else {}
        add_findings(self._found, shapes, copies_found(self._names, self._files))
        return [*self._source.notes, *notes(self._found, self._names)]

    def _read(self, fits: Fits, size: tuple[int, int] | None) -> Generator[Frame]:
        views = iter(self._source.views)
        first = next(views, None)
        if first is None:
            return
        image = first.read()
        if fits.sizes is None:
            fits = fits.with_sizes([image.size])
        fit = fits.of()
        if size is None:
            size = fit(0).transform(fits.first_size).size
        check_processed(1, size, fits.argument)
        start = self._first
        again = chain([replace(first, read=lambda: image)], views)
        for resized in resized_views(again, lambda number: fit(start + number)):
            own = resized.transform.size
            if own[0] > size[0] or own[1] > size[1]:
                told = "x".join(map(str, resized.transform.original_size))
                raise InputError(
                    f"{resized.name} is {told} pixels, a shape that does not go into the "
                    f"{size[0]}x{size[1]} of the views before it; give views of one shape, or "
                    "reconstruct those before and behind it one by one"
                )
            transform = resized.transform.centred(size)
            self._found.append(resized.found)
            self._names.append(resized.name)
            self._files.append(resized.file)
            self._transforms.append(transform)
            yield Frame(resized.name, resized.file, centred(resized.pixels, size), transform)

    def close(self) -> None:
        """Ends the threads that read ahead."""
        self._frames.close()


@contextmanager
def reading_frames(
    source: ImageSource,
    *,
    rule: ImageRule,
    resolution: int | None,
    sampling: Sampling,
    known_cameras: Container[int] = (),
    first_size: tuple[int, int] | None = None,
) -> Iterator[Frames]:
    """Reads the views of a source as they are asked for, in order.

    Args:
      source, rule, resolution, sampling, known_cameras: see `load_images` and `loading_images`.
      first_size: width and height of the source's first view, if that is not read again
        (`sampling.skip`) and no header tells it.

    Raises:
      InputError: the source or an argument cannot be used.
    """
    resolution = checked_resolution(resolution, rule)
    opened = open_source(source, sampling)
    fits = Fits(rule, resolution, known_cameras, None if first_size is None else [first_size])
    with pillow_warnings_handled():
        known = foreseen(open_source(source, replace(sampling, skip=0)), fits)
        size = total = None
        if known is not None:
            size, total = known[0].size, len(known)
            fits = fits.with_sizes([transform.original_size for transform in known])
        frames = Frames(opened, fits, size, sampling.skip, total)
        try:
            yield frames
        finally:
            frames.close()


def identities_of(source: ImageSource, sampling: Sampling) -> list[bytes]:
    """Tells sources apart without reading all of them: by the first view, by the first two, ...

    Of files names and lengths count, and of a video, for which there is one alone, its beginning
    and end; of arrays and pictures their pixels. What moves in them is not looked at: `sampling`
    itself tells that.

    Raises:
      InputError: as `reading_frames`.
    """
    whole = hashlib.blake2b(digest_size=16)
    views = open_source(source, replace(sampling, motion=None)).views
    if isinstance(views, Sequence):
        found: list[bytes] = []
        for view in views:
            whole.update(view.name.encode("utf8", "surrogateescape") + b"\0")
            if view.file is None:
                whole.update(np.ascontiguousarray(view.read()).tobytes())
            else:
                whole.update(str(os.stat(view.file).st_size).encode() + b"\0")
            found.append(whole.digest())
        return found
    assert isinstance(source, str | os.PathLike)
    with open_plain(Path(os.path.expanduser(source))) as file:
        length = os.fstat(file.fileno()).st_size
        whole.update(str(length).encode() + b"\0" + file.read(_TOLD))
        file.seek(max(length - _TOLD, 0))
        whole.update(file.read())
    return [whole.digest()]
