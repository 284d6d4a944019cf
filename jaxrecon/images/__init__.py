"""Photos in, one uint8 array of processed images out, and where each pixel came from."""

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Unpack

import numpy as np
from jaxtyping import UInt8

from jaxrecon.checks import shown
from jaxrecon.deprecation import moved_names
from jaxrecon.errors import InputError
from jaxrecon.images.copies import copies_found
from jaxrecon.images.findings import add_findings, notes, shapes_found
from jaxrecon.images.fits import Fits, checked_resolution, foreseen, plain_size
from jaxrecon.images.frames import Frame, Frames, identities_of, reading_frames
from jaxrecon.images.limits import check_processed
from jaxrecon.images.listing import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from jaxrecon.images.masks import Masks, MaskSource, listed_masks, read_masks
from jaxrecon.images.pictures import PhotoSize, pillow_warnings_handled
from jaxrecon.images.resize import ImageRule, PixelTransform
from jaxrecon.images.resizing import resized_views
from jaxrecon.images.sampling import USUAL_FPS, Sampling, SamplingKeywords
from jaxrecon.images.sources import ImageSource, is_video, open_source
from jaxrecon.images.stack import Stack
from jaxrecon.images.views import Source, View
from jaxrecon.progress import Stages, quiet_stages

__all__ = [
    "ALL_VIEWS",
    "IMAGE_SUFFIXES",
    "USUAL_FPS",
    "VIDEO_SUFFIXES",
    "Frame",
    "Frames",
    "ImageBatch",
    "ImageRule",
    "ImageSource",
    "Loading",
    "MaskSource",
    "Masks",
    "PixelTransform",
    "Sampling",
    "SamplingKeywords",
    "check_masks",
    "check_source",
    "identities_of",
    "is_video",
    "load_images",
    "loading_images",
    "reading_frames",
    "view_count",
    "view_names",
    "view_sizes",
]

__getattr__ = moved_names(
    __name__,
    {
        name: "jaxrecon.models"
        for name in (
            "MAPANYTHING_RESIZE",
            "PI3_RESIZE",
            "VGGT_RESIZE",
            "AspectRule",
            "ResizeRule",
            "SideRule",
        )
    },
)

ALL_VIEWS = Sampling()
"""Takes every view of a source."""

_CAPACITY_WHEN_UNKNOWN = 64


@dataclass(frozen=True)
class ImageBatch:
    """The processed images of one scene.

    Attributes:
      pixels: RGB, 8 bits a channel, all of one size.
      transforms: for each view, how its original pixels map to `pixels`.
      names: for each view a distinct name: a file name, `frame_000012` (its number in the video)
        or `view_0003` (its number in the list or array).
      files: for each view the absolute path of its photo; None for arrays and frames of videos.
      masks: which pixels may become points, if the user says.
    """

    pixels: UInt8[np.ndarray, "V H W 3"]
    transforms: tuple[PixelTransform, ...]
    names: tuple[str, ...]
    files: tuple[str | None, ...]
    masks: Masks | None = None

    def masked(self, masks: object) -> "ImageBatch":
        """The same images with masks (`MaskSource`); None leaves them as they are.

        Raises:
          InputError: see `read_masks`.
        """
        if masks is None:
            return self
        return replace(self, masks=read_masks(masks, self.names, self.files, self.transforms))


def load_images(
    source: ImageSource,
    *,
    rule: ImageRule,
    resolution: int | None = None,
    stages: Stages | None = None,
    **sampling: Unpack[SamplingKeywords],
) -> ImageBatch:
    """Reads images of any kind and resizes them to one size that suits a model.

    Each family has a rule of its own (`jaxrecon.models.ResizeRule`, `SideRule`, `AspectRule`). EXIF
    and video rotation are applied. Greyscale of 16 bits (Pillow's modes I and
    I;16) is divided by 257; float pixels in [0, 1] are rounded to 8 bits.

    Args:
      source: a folder (its files ending in `IMAGE_SUFFIXES`, in natural order, hidden ones left
        out), a glob pattern, an image file, a video file (`VIDEO_SUFFIXES`), a Pillow image, an
        array (V, H, W, 3) or (H, W, 3) of uint8 or of floats in [0, 1], or a list of files, Pillow
        images and arrays (H, W, 3), which may differ in size.
      rule: how the model family chooses the size.
      resolution: wanted longest side in pixels, in place of the rule's own size.
      stages: shows and times the stage "read", and notes what is left out and what a model does not
        expect of these photos.
      sampling: which views are taken, all if nothing is said: `stride` (each `stride`-th, starting
        with the first), `fps` (so many frames a second of a video), `max_views` (at most so many),
        `motion` (of those, each that has moved so far from the last, as a share of its width).

    Raises:
      InputError: a view is absent, damaged, empty or of the wrong kind, an argument is out of
        range, or `resolution` is less than one patch. No view is left out in silence.
    """
    with loading_images(
        source, rule=rule, resolution=resolution, sampling=Sampling(**sampling), stages=stages
    ) as loading:
        return loading.batch()


@dataclass(frozen=True)
class Loading:
    """Images that another thread is reading.

    Attributes:
      count: about how many there are, if that is known beforehand.
    """

    count: int | None
    _foreseen: tuple[PixelTransform, ...] | None
    _read: "Future[ImageBatch]"

    def transforms(self) -> tuple[PixelTransform, ...]:
        """Those of the batch. Of files the headers tell them; a video is awaited.

        Raises:
          InputError: see `load_images`.
        """
        return self.batch().transforms if self._foreseen is None else self._foreseen

    def batch(self) -> ImageBatch:
        """The images, once all are read.

        Raises:
          InputError: see `load_images`; or a file changed while it was read.
        """
        batch = self._read.result()
        if self._foreseen not in (None, batch.transforms):
            raise InputError("images: a file changed its size while it was read; try again")
        return batch


@contextmanager
def loading_images(
    source: ImageSource,
    *,
    rule: ImageRule,
    resolution: int | None = None,
    sampling: Sampling = ALL_VIEWS,
    known_cameras: Container[int] = (),
    stages: Stages | None = None,
) -> Iterator[Loading]:
    """Reads images as `load_images` does, while the caller does other work.

    `known_cameras` are the numbers of the views, from 0, whose intrinsics are known; a rule may cut
    them another way.

    Raises:
      InputError: the source or an argument cannot be used; what is wrong with a single image, its
        `Loading` tells.
    """
    resolution = checked_resolution(resolution, rule)
    stages = quiet_stages(stages)
    opened = open_source(source, sampling)
    unwanted, fits = threading.Event(), Fits(rule, resolution, known_cameras)

    def read() -> ImageBatch:
        with stages.stage("read", total=opened.count) as advance:
            batch, told = _read(opened, fits, advance, unwanted)
        for note in told:
            stages.note(f"NOTE: {note}")
        return batch

    with pillow_warnings_handled(), ThreadPoolExecutor(1) as pool:
        known = foreseen(opened, fits)
        if known is not None:
            check_processed(len(known), known[0].size, fits.argument)
        try:
            yield Loading(opened.count, known, pool.submit(read))
        finally:
            unwanted.set()


def check_source(source: ImageSource, **sampling: Unpack[SamplingKeywords]) -> None:
    """Refuses what `load_images` could not list, before any long work is done; reads no image.

    Raises:
      InputError: the source is absent, empty or of no known kind, or an argument is out of range.
    """
    _open(source, sampling)


def check_masks(
    source: ImageSource, masks: MaskSource, **sampling: Unpack[SamplingKeywords]
) -> None:
    """Refuses masks that are not there for each view, before any long work is done; reads none.

    Those of a video, or of views chosen by motion, are looked for once these are read.

    Raises:
      InputError: as `read_masks`.
    """
    views = _open(source, sampling).views
    if isinstance(views, Sequence):
        listed_masks(masks, [view.name for view in views], [view.file for view in views])


def view_count(source: ImageSource, **sampling: Unpack[SamplingKeywords]) -> int | None:
    """How many views there are; None for a video, or by motion, where reading it tells.

    Raises:
      InputError: as `check_source`.
    """
    views = _open(source, sampling).views
    return len(views) if isinstance(views, Sequence) else None


def view_names(source: ImageSource, **sampling: Unpack[SamplingKeywords]) -> tuple[str, ...]:
    """The names that `load_images` gives the views, before any of them is read.

    Raises:
      InputError: as `check_source`; or the source is a video, or they are chosen by motion, so
        that they are not known before.
    """
    return tuple(view.name for view in _listed(source, sampling))


def view_sizes(source: ImageSource, **sampling: Unpack[SamplingKeywords]) -> tuple[PhotoSize, ...]:
    """Widths and heights of the views, once upright; of files the headers alone are read.

    Each also knows the EXIF orientation that was applied (`orientation`) and where the photo lies
    (`file`), by which `read_view_priors` tells what was made of pixels that lie another way, and
    photos of one name in several folders apart.

    Raises:
      InputError: as `view_names`; or a file is no image.
    """
    with pillow_warnings_handled():
        return tuple(view.size() for view in _listed(source, sampling) if view.size)


def _listed(source: ImageSource, sampling: SamplingKeywords) -> Sequence[View]:
    views = _open(source, sampling).views
    motion = sampling.get("motion")
    if motion is not None:
        raise InputError(
            f"motion={shown(motion)} (--motion): which views it takes is not known before they are "
            "read, as is needed here; leave it out"
        )
    if not isinstance(views, Sequence):
        raise InputError(
            f"{source} is a video or an animation, whose frames are not known before it is read; "
            "give a folder of its frames"
        )
    return views


def _open(source: ImageSource, sampling: SamplingKeywords) -> Source:
    return open_source(source, Sampling(**sampling))


def _read(
    source: Source,
    fits: Fits,
    advance: Callable[[], None],
    unwanted: threading.Event,
) -> tuple[ImageBatch, list[str]]:
    """The images, and what to tell of them."""
    views = iter(source.views)
    first = next(views)
    image = first.read()
    sizes = [image.size]
    if fits.rule.uses_all_sizes and isinstance(source.views, Sequence):
        sizes += [plain_size(view) for view in source.views[1:]]
    fit = fits.with_sizes(sizes).of()
    size = fit(0).transform(image.size).size
    capacity = len(source.views) if isinstance(source.views, Sequence) else _CAPACITY_WHEN_UNKNOWN
    stack = Stack(capacity, size, fits.argument)
    transforms, names, files, found = [], [], [], []
    for resized in resized_views(chain([replace(first, read=lambda: image)], views), fit):
        stack.add(resized.pixels)
        transforms.append(resized.transform)
        names.append(resized.name)
        files.append(resized.file)
        found.append(resized.found)
        advance()
        if unwanted.is_set():
            break
    pixels = stack.whole()
    size = pixels.shape[2], pixels.shape[1]
    centred = tuple(transform.centred(size) for transform in transforms)
    batch = ImageBatch(pixels, centred, tuple(names), tuple(files))
    add_findings(found, shapes_found(batch.transforms), copies_found(names, files))
    return batch, [*source.notes, *notes(found, names)]
