"""What every kind of source is turned into: named views that are read when asked for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image

from jaxrecon.images.pictures import PhotoSize


@dataclass(frozen=True)
class View:
    """One image still to be read.

    Attributes:
      read: gives it upright, of mode RGB or RGBA.
      size: gives its (width, height) without that; None for frames of a video, which are all alike.
    """

    name: str
    read: Callable[[], Image.Image]
    size: Callable[[], PhotoSize] | None = None


@dataclass(frozen=True)
class Source:
    """Views in order, at least one, and how many there are, if that is known beforehand."""

    count: int | None
    views: Iterable[View]
