"""What of the photos a model does not expect, and how the user is told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from jaxrecon.images.resize import PixelTransform, same_shape

_NAMES_SHOWN = 3
_SHOWN_WHOLE = 0.98
_STRETCHED = 1.1
_DARK = 64
_ENLARGED = 4


class Kind(Enum):
    """What may be found: the thing itself, and what it means or what to do about it."""

    PIXEL_ASPECT = (
        "pixels that their file says are not square",
        "they are taken as square; stretch the photos if they look squeezed",
    )
    PANORAMA = (
        "a panorama's projection",
        "no pinhole camera is right for it; cut perspective views out of it",
    )
    PANORAMA_SHAPE = (
        "the shape of a panorama",
        "if it is one, no pinhole camera is right for it; cut perspective views out of it",
    )
    FISHEYE = (
        "a fisheye lens",
        "it bends straight lines, which no pinhole camera does; undistort the photos first",
    )
    TRANSPARENT = (
        "transparent pixels",
        "the model sees the colours stored beneath them; lay the photos over one background first",
    )
    GREY = (
        "shades of grey, the others being in colour,",
        "if these are depth maps or masks, keep them in another folder: they are taken for photos",
    )
    SHAPE = (
        "changes because the photos differ in shape",
        "reconstruct photos of one shape at a time if these suffer",
    )
    DARK = (
        "nearly no light",
        "if the files hold fewer bits than there is room for, scale their values first (12 bits "
        "in 16: by 16)",
    )
    SMALL = (
        "far fewer pixels than the model looks at",
        "enlarging adds no detail; give larger photos if there are any",
    )
    COPY = (
        "the same file as another photo",
        "it adds nothing; leave it out",
    )


@dataclass(frozen=True)
class Finding:
    """One such thing, in one view; `detail` is what was found there."""

    kind: Kind
    detail: str = ""


def add_findings(found: Sequence[list[Finding]], *by_view: Mapping[int, Finding]) -> None:
    """Adds to the findings of each view what was found by looking at all of them."""
    for findings in by_view:
        for view, finding in findings.items():
            found[view].append(finding)


def notes(found: Sequence[Iterable[Finding]], names: Sequence[str]) -> list[str]:
    """A line for each kind of thing that was found, with the names of the views.

    Args:
      found: what was found in each view.
      names: of the views.
    """
    by_kind: dict[Kind, list[str]] = {}
    for name, findings in zip(names, found, strict=True):
        for finding in findings:
            told = f"{name}: {finding.detail}" if finding.detail else name
            by_kind.setdefault(finding.kind, []).append(told)
    if len(by_kind.get(Kind.GREY, ())) == len(names):
        del by_kind[Kind.GREY]
    return [_told(kind, views, len(names)) for kind, views in by_kind.items()]


def some(names: Sequence[str]) -> str:
    """The first of the names, for a message."""
    return ", ".join([*names[:_NAMES_SHOWN], *(["..."] if len(names) > _NAMES_SHOWN else [])])


def _told(kind: Kind, views: Sequence[str], total: int) -> str:
    what, advice = kind.value
    return f"{what} in {len(views)} of {total} views ({some(views)}): {advice}"


def light_found(brightest: int) -> list[Finding]:
    """What is found in a view of which no pixel of any channel is above this one of 255."""
    return [Finding(Kind.DARK, f"at most {brightest} of 255")] if brightest < _DARK else []


def small_found(size: tuple[int, int], scale: tuple[float, float]) -> list[Finding]:
    """What is found in a photo of this width and height that is enlarged so much along x and y."""
    most = max(scale)
    if most < _ENLARGED:
        return []
    return [Finding(Kind.SMALL, f"{size[0]}x{size[1]}, enlarged {most:.0f} times")]


def shapes_found(transforms: Sequence[PixelTransform]) -> Mapping[int, Finding]:
    """By their numbers, the views that were changed because others have another shape."""
    first = transforms[0].original_size
    if all(same_shape(transform.original_size, first) for transform in transforms):
        return {}
    found = {}
    for view, transform in enumerate(transforms):
        if how := _change(transform):
            width, height = transform.original_size
            found[view] = Finding(Kind.SHAPE, f"{width}x{height}, {how}")
    return found


def _change(transform: PixelTransform) -> str:
    """How a photo was brought to a size that is not its own shape."""
    scale_x, scale_y = transform.scale
    stretch = max(scale_x / scale_y, scale_y / scale_x)
    if stretch > _STRETCHED:
        return f"stretched by {stretch:.2f} along {'x' if scale_x > scale_y else 'y'}"
    left, top, right, bottom = transform.shown
    width, height = (s * n for s, n in zip(transform.scale, transform.original_size, strict=True))
    kept = (right - left) * (bottom - top) / (width * height)
    if kept < _SHOWN_WHOLE:
        return f"{1 - kept:.0%} cut off"
    covered = (right - left) * (bottom - top) / (transform.size[0] * transform.size[1])
    return "with margins around it" if covered < _SHOWN_WHOLE else ""
