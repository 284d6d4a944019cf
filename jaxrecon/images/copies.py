"""Photos that a set has more than once."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxrecon.errors import InputError
from jaxrecon.images.findings import Finding, Kind
from jaxrecon.reading import open_plain

_SAMPLE = 2**14
_PIECE = 2**20


def copies_found(names: Sequence[str], files: Sequence[str | None]) -> Mapping[int, Finding]:
    """By their numbers, the views whose file has the same bytes as that of an earlier view.

    Of files that alone have their length nothing is read; of others the middle, and all of those
    in which that is the same too. A file that cannot be read any more is no copy.

    Args:
      names: of the views.
      files: where their photos lie; None for what lies in no file.
    """
    found = {}
    for alike in _groups(files):
        first, *others = alike
        for view in others:
            found[view] = Finding(Kind.COPY, f"as {names[first]}")
    return found


def _groups(files: Sequence[str | None]) -> list[list[int]]:
    """The numbers of files that are the same, of each that is there more than once."""
    groups = [[view for view, file in enumerate(files) if file is not None]]
    for look in (_length, _middle, _digest):
        groups = [part for group in groups for part in _parted(group, files, look)]
    return groups


def _parted(
    views: Iterable[int], files: Sequence[str | None], look: Callable[[str], object]
) -> list[list[int]]:
    """The views in groups of those whose files look alike; who is alone is left out."""
    parts: dict[object, list[int]] = {}
    for view in views:
        try:
            parts.setdefault(look(files[view] or ""), []).append(view)
        except (InputError, OSError):  # it was there a moment ago, and was read
            continue
    return [part for part in parts.values() if len(part) > 1]


def _length(file: str) -> int:
    return os.stat(file).st_size


def _middle(file: str) -> bytes:
    with open_plain(file) as opened:
        opened.seek(max(os.fstat(opened.fileno()).st_size - _SAMPLE, 0) // 2)
        return opened.read(_SAMPLE)


def _digest(file: str) -> bytes:
    whole = hashlib.blake2b(digest_size=16)
    with open_plain(file) as opened:
        while piece := opened.read(_PIECE):
            whole.update(piece)
    return whole.digest()
