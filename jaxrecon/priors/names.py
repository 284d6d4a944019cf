"""Which of a file's views are which of ours, by the names of the images."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path, PureWindowsPath

from jaxrecon.errors import InputError
from jaxrecon.images import IMAGE_SUFFIXES

type _Parts = tuple[str, ...]

_SHOWN = 3


def views_by_name(path: Path, stored: Sequence[str], names: Sequence[str]) -> dict[int, int]:
    """For each view that a file knows, by its number in `names`, its number in `stored`.

    Two names agree if they are equal, else if one is the end of the other, folder by folder. A
    stored name without an image's suffix agrees with that of an image of any kind.

    Raises:
      InputError: a name is stored twice or could be two others, or no view is known.
    """
    numbers = {parts: number for number, parts in enumerate(map(_parts, stored))}
    if len(numbers) < len(stored):
        twice = next(name for n, name in enumerate(stored) if numbers[_parts(name)] != n)
        raise InputError(f"{path} has {twice!r} twice; remove one of them")
    tails = _by_tail(numbers, {len(form) for name in names for form in _forms(name)})
    found: dict[int, int] = {}
    claims: defaultdict[int, list[int]] = defaultdict(list)
    for view, name in enumerate(names):
        exact = next((numbers[form] for form in _forms(name) if form in numbers), None)
        number = _alike(path, name, stored, numbers, tails) if exact is None else exact
        if number is not None:
            claims[number].append(view)
        if exact is not None:
            found[view] = exact
    _check_claims(path, claims, found, stored, names)
    found |= {views[0]: number for number, views in claims.items() if len(views) == 1}
    if not found:
        raise InputError(
            f"{path} knows none of the images: it has {_some(stored)}, the images are "
            f"{_some(names)}; give the images that it was made of, under the same names"
        )
    return dict(sorted(found.items()))


def _parts(name: str) -> _Parts:
    """The folders and the file of a path, which may have been written under Windows."""
    return PureWindowsPath(name).parts


def _forms(name: str) -> tuple[_Parts, ...]:
    """What a stored name may look like: with the suffix, and without it if it is an image's."""
    parts = _parts(name)
    plain = PureWindowsPath(name)
    if plain.suffix.lower() not in IMAGE_SUFFIXES:
        return (parts,)
    return parts, (*parts[:-1], plain.stem)


def _by_tail(numbers: dict[_Parts, int], lengths: Collection[int]) -> dict[_Parts, list[int]]:
    """The stored names that end in each tail of one of these lengths."""
    tails: defaultdict[_Parts, list[int]] = defaultdict(list)
    for parts, number in numbers.items():
        for length in lengths:
            if 0 < length <= len(parts):
                tails[parts[-length:]].append(number)
    return dict(tails)


def _alike(
    path: Path,
    name: str,
    stored: Sequence[str],
    numbers: dict[_Parts, int],
    tails: dict[_Parts, list[int]],
) -> int | None:
    """The stored name that ends in this one, or in which this one ends."""
    for form in _forms(name):
        longer = tails.get(form, [])
        if len(longer) > 1:
            raise InputError(
                f"{path}: the image {name} could be {stored[longer[0]]} or {stored[longer[1]]}; "
                "give images of both folders at once, or images of distinct names"
            )
        if longer:
            return longer[0]
        for start in range(1, len(form)):
            if form[start:] in numbers:
                return numbers[form[start:]]
    return None


def _check_claims(
    path: Path,
    claims: dict[int, list[int]],
    exact: dict[int, int],
    stored: Sequence[str],
    names: Sequence[str],
) -> None:
    """Refuses a stored name that fits several images, none of which has just that name."""
    for number, views in claims.items():
        if len(views) > 1 and sum(view in exact for view in views) != 1:
            raise InputError(
                f"{path}: {stored[number]} could be the image {names[views[0]]} or "
                f"{names[views[1]]}; give images of distinct names"
            )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown or "no view"
