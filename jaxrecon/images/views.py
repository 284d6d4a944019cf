"""What every kind of source is turned into: named views that are read when asked for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class View:
    """One image still to be read; `read` gives it upright, with three 8-bit channels."""

    name: str
    read: Callable[[], Image.Image]


@dataclass(frozen=True)
class Source:
    """Views in order, at least one, and how many there are, if that is known beforehand."""

    count: int | None
    views: Iterable[View]
