"""What stands in the way of writing, each in one line with a way out."""

import errno
import os
import re
from pathlib import Path

from jaxrecon.errors import OutputError, one_line

_SHOWN = 80
"""Characters of a name that is too long."""

_WAYS_OUT = {
    errno.ENOSPC: "the disk is full; free some space or choose another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
    errno.EFBIG: "the file would pass the allowed file size; raise the limit (ulimit -f)",
    errno.EACCES: "no permission to write there; choose another place or change its permissions",
    errno.EPERM: "no permission to write there; choose another place or change its permissions",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.ENAMETOOLONG: "a name is longer than the file system holds; choose a shorter one",
}

_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")
"""How NumPy tells of a full disk, without a number."""


def output_error(path: str | Path, error: OSError) -> OutputError:
    """Turns an operating-system error met while writing `path` into one line with a way out."""
    number = error.errno or 0
    if not number and _CUT_SHORT.fullmatch(str(error)):
        number = errno.ENOSPC
    reason = _WAYS_OUT.get(number, error.strerror or str(error))
    if number == errno.ENAMETOOLONG and error.filename is not None:
        name = os.path.basename(os.fsdecode(error.filename))
        reason += f" (found {one_line(name, _SHOWN)}, {len(os.fsencode(name))} bytes)"
    return OutputError(f"cannot write {path}: {reason}")


def output_error_of_text(path: str | Path, error: Exception) -> OutputError:
    """The same of an error in which another library only quotes what the system said."""
    text = str(error)
    for number in _WAYS_OUT:
        if os.strerror(number) in text:
            return output_error(path, OSError(number, ""))
    return OutputError(f"cannot write {path}: {text.strip().split(chr(10))[0][:160]}")


def in_use_error(path: str | Path) -> OutputError:
    """The refusal of a path that another run is writing."""
    return OutputError(
        f"cannot write {path}: another run is writing there; wait for its end, or choose another "
        "place"
    )


def check_writable(folder: Path, path: Path) -> None:
    """Refuses a folder in which nothing may be written.

    Raises:
      OutputError: it says that `path` cannot be written.
    """
    if not may_write(folder):
        raise output_error(path, PermissionError(errno.EACCES, ""))


def may_write(folder: Path) -> bool:
    """Whether entries of a folder may be made and removed."""
    effective = os.access in os.supports_effective_ids
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=effective)


def umask() -> int:
    """The permissions that new files of this process lack."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
