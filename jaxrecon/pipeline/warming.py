"""Programs compiled before there are images."""

from jaxrecon.checks import is_whole, shown, whole_number
from jaxrecon.errors import InputError
from jaxrecon.images import ImageRule, PixelTransform
from jaxrecon.images.fits import Fits, checked_resolution
from jaxrecon.images.limits import check_processed

PHOTO = (4032, 3024)
"""Width and height of the photos that programs are compiled for if none are given."""

_MOST_VIEWS = 1000


def view_counts(argument: str, views: object) -> tuple[int, ...]:
    """The numbers of views for which programs are to be compiled.

    Args:
      argument: what the caller calls it, for messages.
      views: a whole number of at least 2, for all from 2 to it; or a tuple or list of numbers.

    Raises:
      InputError: it is neither, or a number is out of range.
    """
    if isinstance(views, tuple | list) and views:
        return tuple(whole_number(argument, each, least=1, most=_MOST_VIEWS) for each in views)
    if not is_whole(views):
        raise InputError(
            f"{argument}={shown(views)}: give a number of views, such as 8 for 2 to 8 of them, or "
            "several in a tuple, such as (10,)"
        )
    return tuple(range(2, 1 + whole_number(argument, views, least=2, most=_MOST_VIEWS)))


def transforms_of_photos(
    rule: ImageRule, photo: object, resolution: int | None, views: int
) -> tuple[PixelTransform, ...]:
    """How so many photos of one size are processed.

    Args:
      photo: their width and height in pixels, once upright.
      resolution: see `Pipeline.reconstruct`.

    Raises:
      InputError: an argument cannot be used, or the images would not fit into any memory.
    """
    sides = tuple(photo) if isinstance(photo, tuple | list) else ()
    if len(sides) != 2 or not all(is_whole(side) and side > 0 for side in sides):
        raise InputError(f"photo={shown(photo)} must be width and height in pixels")
    size = int(sides[0]), int(sides[1])
    fits = Fits(rule, checked_resolution(resolution, rule), ()).with_sizes([size] * views)
    transform = fits.of()(0).transform(size)
    check_processed(views, transform.size, f"{views} views of {size[0]}x{size[1]} pixels")
    return (transform,) * views
