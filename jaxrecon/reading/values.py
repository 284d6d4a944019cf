"""Values of parsed files: type, length and range are checked before a value is used."""

from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float

from jaxrecon.checks import finite, shown
from jaxrecon.errors import InputError, JaxreconError

LONGEST_TEXT = 4096
"""The most characters of a name or a path in a file, as of paths under Linux."""

_WIDEST = 100

LARGEST_SIZE = 10**9
"""Sides of images and other counts are below it."""


def number(value: Any, where: str, *, kind: type[JaxreconError] = InputError) -> float:
    """A finite number; truth values and texts are none.

    Args:
      value: of a parsed file.
      where: the file, the entry and the field; begins the message.
      kind: of the error.

    Raises:
      InputError (or `kind`): it is of another type, not finite, or beyond all floats.
    """
    found = finite(value) if isinstance(value, int | float) else None
    return _refused(where, value, "a number", kind) if found is None else found


def numbers(
    value: Any, where: str, *shapes: tuple[int, ...], kind: type[JaxreconError] = InputError
) -> Float[np.ndarray, "..."]:
    """Lists of finite numbers, nested in one of these shapes.

    Raises:
      InputError (or `kind`): they have another shape, or one of them is no finite number.
    """
    for shape in shapes:
        flat: list[float] = []
        if _fill(flat, value, shape):
            return np.array(flat, np.float64).reshape(shape)
    wanted = " or ".join("x".join(map(str, shape)) for shape in shapes)
    return _refused(where, value, f"{wanted} finite numbers", kind)


def whole(value: Any, where: str, *, least: int = 0, kind: type[JaxreconError] = InputError) -> int:
    """A whole number from `least` to below `LARGEST_SIZE`; 640.0 is one too.

    Raises:
      InputError (or `kind`): it is another number, or none.
    """
    found = finite(value) if isinstance(value, int | float) else None
    if found is None or found != int(found) or not least <= found < LARGEST_SIZE:
        expected = f"a whole number of at least {least} and below {LARGEST_SIZE}"
        return _refused(where, value, expected, kind)
    return int(found)


def text(value: Any, where: str, *, kind: type[JaxreconError] = InputError) -> str:
    """A name or a path: a text that is not empty and has no NUL.

    Raises:
      InputError (or `kind`): it is of another type, empty, has a NUL, or is longer than
        `LONGEST_TEXT`.
    """
    if not isinstance(value, str) or not value:
        return _refused(where, value, "a text", kind)
    if len(value) > LONGEST_TEXT or "\0" in value:
        expected = f"at most {LONGEST_TEXT} characters without NUL"
        return _refused(where, value, expected, kind)
    return value


def parse_number(word: str) -> float:
    """The number that a word of a text file writes; see `reading.number` for those of JSON.

    Raises:
      ValueError: it writes none, or is wider than any number need be.
    """
    _check_word(word)
    return float(word)


def parse_whole(word: str) -> int:
    """The whole number that a word of a text file writes.

    Raises:
      ValueError: it writes none, or is wider than any number need be.
    """
    _check_word(word)
    return int(word)


def _check_word(word: str) -> None:
    if len(word) > _WIDEST or "_" in word:  # Python would read 1_0 as 10
        raise ValueError(f"{shown(word)} is no number")


def _fill(flat: list[float], value: Any, shape: tuple[int, ...]) -> bool:
    """Whether the value has that shape; its numbers are appended."""
    if not shape:
        found = finite(value) if isinstance(value, int | float) else None
        if found is not None:
            flat.append(found)
        return found is not None
    if not isinstance(value, list) or len(value) != shape[0]:
        return False
    return all(_fill(flat, each, shape[1:]) for each in value)


def _refused(where: str, value: Any, expected: str, kind: type[JaxreconError]) -> NoReturn:
    raise kind(f"{where} is {shown(value)}; expected {expected}")
