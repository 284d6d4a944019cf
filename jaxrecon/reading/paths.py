"""Paths that a file names: kept inside the folder that the file describes."""

import os
import unicodedata
from pathlib import Path, PureWindowsPath

from jaxrecon.errors import InputError, reason_of


def inside(
    folder: str | os.PathLike[str], name: str, *, where: str, allow_outside: bool = False
) -> Path:
    """The path of `name`, which a file gives relative to `folder`.

    Links are followed: what counts is where the path leads in the end.

    Args:
      folder: the folder that the path must not leave.
      name: a path as it stands in the file, of any system.
      where: the file, and the entry in it; begins the message.
      allow_outside: whether the path may lead elsewhere, for files that the user trusts.

    Raises:
      InputError: the path leads out of the folder, or no file can be called so.
    """
    path = _as_written(Path(folder), name)
    try:
        leaves = not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
        if os.path.lexists(path):
            os.stat(path)
    except FileNotFoundError:  # a link to nothing
        leaves = False
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where} names the file {name[:80]}: {reason_of(error)}; check it"
        ) from error
    if leaves and not allow_outside:
        raise InputError(
            f"{where} names the file {name[:200]}, which leads out of {folder}; allow that if you "
            "trust the file (allow_outside=True, --allow-outside), or move the files into the "
            "folder"
        )
    return path


def _as_written(folder: Path, name: str) -> Path:
    """The path of a name on this system, where Windows or a Mac may have written it otherwise."""
    plain = PureWindowsPath(name).as_posix()
    forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    tried = [folder / each for each in (name, plain, *forms)]
    return next((path for path in tried if os.path.lexists(path)), tried[1])


def is_file_name(name: str) -> bool:
    """Whether a name in a file is that of a file beside it, on every system: no path, no drive."""
    return PureWindowsPath(name).name == name and name not in ("", ".", "..")
