"""Renaming in one step, as far as the system can."""

import ctypes
import errno
import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}


def exchange(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step; False, with nothing done, where the system cannot.

    Raises:
      OSError: a path is not there, or may not be renamed.
    """
    return _renamed(one, other, _EXCHANGE)


def move_new(source: Path, target: Path) -> None:
    """Renames to a name that must be free.

    Raises:
      FileExistsError: it is not.
      OSError: `source` cannot be renamed.
    """
    if _renamed(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def move_beside(source: Path, target: Path) -> Path:
    """Renames to `target` or, where that is taken, to the first free of `target.1`, `target.2`, ...

    Returns:
      The new path.
    """
    for number in itertools.count():
        free = target.with_name(f"{target.name}.{number}") if number else target
        try:
            move_new(source, free)
            return free
        except FileExistsError:
            continue
    raise AssertionError("some number is free")


def _renamed(source: Path, target: Path, flags: int) -> bool:
    """Calls `renameat2` of Linux; False where the kernel or the file system lacks it."""
    code = _system_call()(os.fsencode(source), os.fsencode(target), flags)
    if code in _UNSUPPORTED:
        return False
    if code:
        raise OSError(code, os.strerror(code), str(source), None, str(target))
    return True


@functools.cache
def _system_call() -> Callable[[bytes, bytes, int], int]:
    """A function of two paths and flags that returns an error number, or 0."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
        call = library.renameat2
    except (OSError, TypeError, AttributeError):  # no Linux, or a C library older than its kernel
        return lambda source, target, flags: errno.ENOSYS

    def renameat2(source: bytes, target: bytes, flags: int) -> int:
        failed = call(_AT_FDCWD, source, _AT_FDCWD, target, ctypes.c_uint(flags))
        return ctypes.get_errno() if failed else 0

    return renameat2
