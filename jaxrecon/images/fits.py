"""How each image of a scene is brought to size, once the sizes of those that matter are known."""

from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from jaxrecon.checks import is_whole, whole_number
from jaxrecon.errors import InputError
from jaxrecon.images.resize import Fit, ImageRule, PixelTransform, check_pixels
from jaxrecon.images.resizing import worker_count
from jaxrecon.images.views import Source, View

_MOST_RESOLUTION = 2**31


@dataclass(frozen=True)
class Fits:
    """What settles how each image of a scene is brought to size.

    Attributes:
      rule: of the model family.
      resolution: the wanted longest side, in place of the rule's own size.
      known_cameras: numbers of the views whose intrinsics are known.
      sizes: width and height of all images, or of the first if no more matter; None if they are
        not known yet.
    """

    rule: ImageRule
    resolution: int | None
    known_cameras: Container[int]
    sizes: Sequence[tuple[int, int]] | None = None

    @property
    def argument(self) -> str:
        """What is to blame where the processed images take too much memory."""
        return "images" if self.resolution is None else f"resolution={self.resolution}"

    @property
    def first_size(self) -> tuple[int, int]:
        """Width and height of the first image."""
        assert self.sizes
        return self.sizes[0]

    def with_sizes(self, sizes: Sequence[tuple[int, int]]) -> "Fits":
        """The same once the sizes are known."""
        return replace(self, sizes=sizes)

    def of(self) -> Callable[[int], Fit]:
        """How the image of each view is, by its number."""
        assert self.sizes
        sizes = self.sizes if self.rule.uses_all_sizes else self.sizes[:1]
        known, usual = (
            rule.fit_all(sizes, resolution=self.resolution)
            for rule in (self.rule.for_known_cameras(), self.rule)
        )
        return lambda view: known if view in self.known_cameras else usual


def foreseen(source: Source, fits: Fits) -> tuple[PixelTransform, ...] | None:
    """The transforms of a batch before it is read; None if there is none, or a video's."""
    if not isinstance(source.views, Sequence):
        return None
    try:
        with ThreadPoolExecutor(worker_count()) as pool:
            sizes = list(pool.map(plain_size, source.views))
        for size in sizes:
            check_pixels(*size)
        fit = (fits if fits.sizes is not None else fits.with_sizes(sizes)).of()
    except InputError:  # reading tells it better
        return None
    transforms = [fit(view).transform(size) for view, size in enumerate(sizes)]
    if not transforms:
        return None
    width, height = (max(side) for side in zip(*(t.size for t in transforms), strict=True))
    return tuple(transform.centred((width, height)) for transform in transforms)


def plain_size(view: View) -> tuple[int, int]:
    """Width and height of a view that is listed."""
    assert view.size is not None
    width, height = view.size()
    return width, height


def checked_resolution(resolution: int | None, rule: ImageRule) -> int | None:
    """The longest side that a caller wants.

    Raises:
      InputError: it is no whole number, or less than one patch.
    """
    if resolution is None:
        return None
    if is_whole(resolution) and abs(resolution) <= _MOST_RESOLUTION:
        rule.check_resolution(resolution)
    return whole_number("resolution", resolution, least=rule.patch, most=_MOST_RESOLUTION)
