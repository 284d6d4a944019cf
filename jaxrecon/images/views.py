"""What every kind of source is turned into: named views that are read when asked for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from PIL import Image

from jaxrecon.images.findings import Finding
from jaxrecon.images.pictures import PhotoSize


@dataclass(frozen=True)
class View:
    """One image still to be read.

    Attributes:
      read: gives it upright, of mode RGB or RGBA.
      size: gives its (width, height) without that; None for frames of a video, which are all alike.
      found: what a model does not expect of it, complete once it was read.
      file: the photo's absolute path; None for what lies in no file of its own, such as an array or
        a frame of a video.
    """

    name: str
    read: Callable[[], Image.Image]
    size: Callable[[], PhotoSize] | None = None
    found: list[Finding] = field(default_factory=list)
    file: str | None = None


@dataclass(frozen=True)
class Source:
    """Views in order, at least one.

    Attributes:
      count: how many there are, if that is known beforehand.
      views: may be gone through once.
      notes: what the user should know of the source as a whole, such as what is left out; complete
        once all views were read.
    """

    count: int | None
    views: Iterable[View]
    notes: list[str] = field(default_factory=list)
