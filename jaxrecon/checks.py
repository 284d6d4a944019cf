"""Checks of arguments that several rooms share."""

import math
import numbers
import os
import re
import reprlib
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from jaxrecon.errors import InputError

_SHOWN = 60
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_REPR = reprlib.Repr(maxstring=_SHOWN, maxother=_SHOWN, maxlong=_SHOWN)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, Python's or NumPy's; truth values are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def finite(value: object) -> float | None:
    """A real number as a float; None for what is none, is not finite, or is beyond all floats.

    Truth values and texts are no numbers; arrays without axes, NumPy's or JAX's, are.
    """
    number = _real(value)
    return number if number is not None and math.isfinite(number) else None


def shown(value: object) -> str:
    """A value for a message: short, whatever it is."""
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:  # its digits may be too many to write
        return f"a number of {abs(value).bit_length() * 30103 // 100000 + 1} digits or so"
    try:
        return _REPR.repr(value)
    except Exception:  # what a caller passes may have a faulty __repr__
        return f"a {type(value).__name__}"


def whole_number(name: str, value: object, *, least: int = 0, most: int | None = None) -> int:
    """An argument that must be a whole number, as Python's.

    Raises:
      InputError: naming it: it is of another type, below `least` or above `most`.
    """
    if not is_whole(value):
        raise InputError(f"{name}={shown(value)} is no whole number; give one of at least {least}")
    if value < least:
        raise InputError(f"{name}={shown(value)} must be at least {least}")
    if most is not None and value > most:
        raise InputError(f"{name}={shown(value)} must be at most {most}")
    return int(value)


def real_number(name: str, value: object) -> float:
    """An argument that must be a number, which may be infinite.

    Raises:
      InputError: naming it: it is of another type, NaN, or beyond all floats.
    """
    number = _real(value)
    if number is None or math.isnan(number):
        raise InputError(f"{name}={shown(value)} must be a number")
    return number


def truth_value(name: str, value: object) -> bool:
    """An argument that must be True or False.

    Raises:
      InputError: naming it: it is of another type.
    """
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}={shown(value)} must be True or False")
    return bool(value)


def path_given(name: str, value: object) -> str:
    """An argument that must be a path, as text; "~" is left as it is.

    Raises:
      InputError: naming it: it is of another type, empty, the address of something elsewhere,
        nothing can be called so, or it is relative to a current folder that is not there any more.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str):
        raise InputError(f"{name}: found {shown(value)}; give a path")
    if not text:
        raise InputError(f"{name}: the path is empty; give one")
    try:
        encoded = os.fsencode(text)
    except ValueError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise InputError(f"{name}: no file can be called {text[:200]!r}; check the path")
    if _ADDRESS.match(text):
        raise InputError(
            f"{name}: {text} is an address, not a path; give one of this machine, and copy what is "
            "elsewhere yourself"
        )
    if not (os.path.isabs(text) or text.startswith("~")) and _current_folder_is_gone():
        raise InputError(
            f"{name}: {text[:200]} is relative to the current folder, which is not there any more; "
            "change into one that is"
        )
    return text


def _current_folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    except OSError:  # it may be there, in a folder that cannot be read
        return False
    return False


def path_of(name: str, value: object) -> Path:
    """An argument that must be a path; "~" is the home of the user.

    Raises:
      InputError: naming it; see `path_given`.
    """
    return Path(os.path.expanduser(path_given(name, value)))


def _real(value: object) -> float | None:
    """Any real number as a float, of which NaN and infinities are some; else None."""
    if isinstance(value, bool | np.bool_):
        return None
    plain: Any = value
    if not isinstance(value, numbers.Real):
        if getattr(value, "shape", None) != ():
            return None
        plain = np.asarray(value)
        if plain.dtype.kind not in "fiuV":  # V is bfloat16's
            return None
    try:
        return float(plain)
    except (OverflowError, TypeError, ValueError):
        return None
