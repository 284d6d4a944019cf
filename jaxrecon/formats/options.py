"""What users may ask of the files that are written."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, get_args

from jaxrecon.checks import real_number, shown, truth_value, whole_number
from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.progress import Stages, quiet_stages

type Size = Literal["original", "processed"]
type Images = Literal["link", "copy"]


class ExportKeywords(TypedDict, total=False):
    """The fields of `ExportOptions`, as keywords of `save`."""

    overwrite: bool
    max_points: int | None
    voxel: float | None
    text: bool
    images: Images | None
    size: Size | None
    stages: Stages


@dataclass(frozen=True)
class ExportOptions:
    """How a format is written. Which of the options a format takes is told by its `Format`.

    Attributes:
      overwrite: whether a folder with something in it may be replaced; files always are.
      max_points: the most points to write; None means the format's default.
      voxel: keep the most confident point of each cube of this side, in the scene's unit of length.
      text: whether files are written as text, where a format has both.
      images: whether the photos are put beside the cameras, as links or as copies.
      size: whether cameras are those of the photos or of the processed pictures; None means the
        format's default.
      stages: shows progress and notes; silent if not given.

    Raises:
      InputError: one of them is of another type or out of range.
    """

    overwrite: bool = False
    max_points: int | None = None
    voxel: float | None = None
    text: bool = False
    images: str | None = None
    size: str | None = None
    stages: Stages = field(default_factory=lambda: Stages(quiet=True), compare=False, repr=False)

    def __post_init__(self) -> None:
        truth_value("overwrite", self.overwrite)
        truth_value("text", self.text)
        object.__setattr__(self, "stages", quiet_stages(self.stages))
        check_max_points(self.max_points)
        if self.voxel is not None and not 0 < real_number("voxel", self.voxel) < float("inf"):
            raise InputError(f"voxel={shown(self.voxel)} must be above 0 and finite")
        _check_word("images", self.images, get_args(Images.__value__))
        _check_word("size", self.size, get_args(Size.__value__))

    def most_points[D](self, default: D) -> int | D:
        """The most points to write, of a format with this default."""
        return default if self.max_points is None else self.max_points

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the options that are not left at their defaults, but for `stages`."""
        plain = ExportOptions()
        names = (each.name for each in fields(self) if each.compare)
        return tuple(name for name in names if getattr(self, name) != getattr(plain, name))


def check_max_points(max_points: int | None) -> None:
    """Refuses a `max_points` that is no whole number of at least 1.

    Raises:
      InputError: see above.
    """
    if max_points is None:
        return
    if whole_number("max_points", max_points, least=-(2**62)) < 1:
        raise InputError(
            f"max_points is {max_points}; give a number of at least 1, or None for the default "
            "of the format"
        )


def _check_word(name: str, value: Any, words: tuple[str, ...]) -> None:
    if value is not None and value not in words:
        told = ", ".join(repr(word) for word in words)
        near = meant(value, words)
        raise InputError(f"{name}={shown(value)}: choose from {told}, or None{near}")
