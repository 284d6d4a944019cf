"""Which of a file's views are which of ours, by the names of the images."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from jaxrecon.errors import InputError
from jaxrecon.images import IMAGE_SUFFIXES

type _Parts = tuple[str, ...]

_SHOWN = 3


def views_by_name(
    path: Path,
    stored: Sequence[str],
    names: Sequence[str],
    files: Sequence[Path | None],
) -> dict[int, int]:
    """For each view that a file knows, by its number in `names`, its number in `stored`.

    Two names agree if they are equal, else if one is the end of the other, folder by folder. A
    stored name without an image's suffix agrees with that of an image of any kind; of names that
    agree with no other, those do that differ in the suffix alone. Composed and decomposed letters
    (Unicode's NFC and NFD) are the same.

    Args:
      path: the file, for messages.
      stored: the names in it.
      names: of the images.
      files: where the images lie, None for one that lies in no file. Their folders decide where
        names alone do not.

    Raises:
      InputError: a name is stored twice or could be two others, or no view is known.
    """
    parts = [_parts(name) for name in stored]
    _check_distinct(path, stored, parts)
    views = [
        _View(name, None if file is None else _parts(os.path.abspath(file)))
        for name, file in zip(names, files, strict=True)
    ]
    lengths = {len(_parts(name)) for name in names}
    tables = _Table(parts, lengths), _Table([_without_suffix(each) for each in parts], lengths)
    exact: dict[int, int] = {}
    claims: defaultdict[int, list[int]] = defaultdict(list)
    for view, asked in enumerate(views):
        number = tables[0].exact(asked)
        if number is not None:
            exact[view] = number
        else:
            number = _alike(path, asked, stored, tables)
        if number is not None:
            claims[number].append(view)
    _check_claims(path, claims, exact, stored, names)
    found = exact | {views[0]: number for number, views in claims.items() if len(views) == 1}
    if not found:
        raise InputError(
            f"{path} knows none of the images: it has {_some(stored)}, the images are "
            f"{_some(names)}; give the images that it was made of, under the same names"
        )
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class _View:
    """The name of an image, and the parts of the path of its file, if it lies in one."""

    name: str
    path: _Parts | None

    @property
    def forms(self) -> tuple[_Parts, ...]:
        """What a stored name may look like: with the suffix, and without it if it is an image's."""
        return _forms(_parts(self.name))

    @property
    def places(self) -> tuple[_Parts, ...]:
        """The ends of its path, the longest first, that are at least as long as its name."""
        if self.path is None:
            return ()
        least = len(_parts(self.name))
        starts = range(1, len(self.path) - least + 1)
        return tuple(form for start in starts for form in _forms(self.path[start:]))

    def nearest(self, numbers: Sequence[int], stored: Sequence[_Parts]) -> Sequence[int]:
        """Of stored names, those that have the most folders in common with its path."""
        if self.path is None or len(numbers) < 2:
            return numbers
        common = [_common_end(self.path[:-1], stored[number][:-1]) for number in numbers]
        most = max(common)
        return [number for number, length in zip(numbers, common, strict=True) if length == most]


class _Table:
    """Stored names by their parts, and by the ends of these that are of some lengths."""

    def __init__(self, stored: Sequence[_Parts], lengths: Collection[int]) -> None:
        self.stored = stored
        self._numbers: defaultdict[_Parts, list[int]] = defaultdict(list)
        self._tails: defaultdict[_Parts, list[int]] = defaultdict(list)
        for number, parts in enumerate(stored):
            self._numbers[parts].append(number)
            for length in lengths:
                if 0 < length < len(parts):
                    self._tails[parts[-length:]].append(number)

    def exact(self, view: _View) -> int | None:
        """The stored name that is the end of the view's path, or its very name."""
        for form in (*view.places, *view.forms):
            if len(self._numbers.get(form, ())) == 1:
                return self._numbers[form][0]
        return None

    def alike(self, view: _View) -> Sequence[int]:
        """The stored names that end in the view's, else those in which this one ends."""
        for form in view.forms:
            ends = self._numbers.get(form, []) + self._tails.get(form, [])
            if ends:
                return view.nearest(ends, self.stored)
            for start in range(1, len(form)):
                if form[start:] in self._numbers:
                    return self._numbers[form[start:]]
        return ()


def _parts(name: str) -> _Parts:
    """The folders and the file of a path, which may have been written under Windows."""
    return PureWindowsPath(unicodedata.normalize("NFC", name)).parts


def _forms(parts: _Parts) -> tuple[_Parts, ...]:
    plain = _without_suffix(parts)
    return (parts,) if plain == parts else (parts, plain)


def _without_suffix(parts: _Parts) -> _Parts:
    name = PureWindowsPath(parts[-1] if parts else "")
    return (*parts[:-1], name.stem) if name.suffix.lower() in IMAGE_SUFFIXES else parts


def _common_end(path: _Parts, stored: _Parts) -> int:
    length = 0
    for one, other in zip(reversed(path), reversed(stored), strict=False):
        if one != other:
            break
        length += 1
    return length


def _alike(
    path: Path, view: _View, stored: Sequence[str], tables: tuple[_Table, _Table]
) -> int | None:
    """The stored name that agrees with a view's in a part, or but for the suffix."""
    numbers = tables[0].alike(view) or tables[1].alike(view)
    if len(numbers) > 1:
        raise InputError(
            f"{path}: the image {view.name} could be {stored[numbers[0]]} or {stored[numbers[1]]}; "
            "give images of both folders at once, or images of distinct names"
        )
    return numbers[0] if numbers else None


def _check_distinct(path: Path, stored: Sequence[str], parts: Sequence[_Parts]) -> None:
    numbers = {each: number for number, each in enumerate(parts)}
    if len(numbers) < len(stored):
        twice = next(name for n, name in enumerate(stored) if numbers[parts[n]] != n)
        raise InputError(f"{path} has {twice!r} twice; remove one of them")


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
