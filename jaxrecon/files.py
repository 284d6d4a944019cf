"""Writing files so that a reader sees the old content or the new, never a part of it."""

import errno
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from jaxrecon.errors import OutputError

DAMAGED_ARCHIVE = (OSError, ValueError, EOFError, RuntimeError, BadZipFile, zlib.error)
"""What numpy raises of a `.npz` file that is not sound."""

_WAYS_OUT = {
    errno.ENOSPC: "the disk is full; free some space or choose another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
    errno.EFBIG: "the file would pass the allowed file size; raise the limit (ulimit -f)",
    errno.EACCES: "no permission to write there; choose another place or change its permissions",
    errno.EPERM: "no permission to write there; choose another place or change its permissions",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EEXIST: "a part of the path is a file, not a folder; choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
}


def output_error(path: Path, error: OSError) -> OutputError:
    """Turns an operating-system error met while writing `path` into one line with a way out."""
    reason = _WAYS_OUT.get(error.errno or 0, error.strerror or str(error))
    return OutputError(f"cannot write {path}: {reason}")


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block ends without error.

    Missing parent folders are made. On any error the temporary file is removed and `path` is left
    as it was.

    Raises:
      OutputError: the file cannot be written (disk full, no permission, ...).
    """
    path = Path(path)
    if os.path.isdir(path):
        raise OutputError(f"cannot write {path}: a folder of that name exists; choose another name")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, renamed to `path` if the block ends without error.

    A folder that has to stay, since something is mounted there or it is the current one, is filled
    instead.

    Raises:
      OutputError: `path` is a file, or a folder that is not empty and `overwrite` is false, or the
        folder cannot be written.
    """
    path = Path(path)
    check_output_folder(path, overwrite=overwrite)
    temporary = None
    try:
        place = path if _stays(path) else path.parent
        place.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=place))
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())
        _swap_in(temporary, path)
    except OutputError as error:
        # A writer inside the block names the temporary folder, of which the user knows nothing.
        raise OutputError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_output_folder(
    path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """Refuses a folder that could not be put at `path`, before any work is done for it.

    Args:
      inputs: files and folders that are read, and so must not be overwritten.

    Raises:
      OutputError: `path` is a file, or a folder that is not empty and `overwrite` is false, or that
        holds an input, or nothing may be written there.
    """
    path = Path(path)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise OutputError(f"cannot write {path}: a file of that name exists; choose another name")
    for one in inputs:
        if os.path.exists(path) and Path(one).resolve().is_relative_to(path.resolve()):
            raise OutputError(
                f"cannot write {path}: {one} is read from there and would be deleted; choose "
                "another folder"
            )
    try:
        in_use = not overwrite and os.path.isdir(path) and any(path.iterdir())
    except OSError as error:
        raise output_error(path, error) from error
    if in_use:
        raise OutputError(
            f"cannot write {path}: the folder exists and is not empty; "
            "choose another, or ask to overwrite it (--overwrite, overwrite=True)"
        )
    if _stays(path):
        check_writable(path, path)
        return
    above = next(parent for parent in path.absolute().parents if os.path.exists(parent))
    if not above.is_dir():
        raise output_error(path, NotADirectoryError(errno.ENOTDIR, ""))
    check_writable(above, path)


def check_writable(folder: Path, path: Path) -> None:
    """Refuses a folder in which nothing may be written.

    Raises:
      OutputError: it says that `path` cannot be written.
    """
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        raise output_error(path, PermissionError(errno.EACCES, ""))


def _stays(path: Path) -> bool:
    """Whether a folder can only be filled, not replaced by another."""
    return path.is_dir() and (
        os.path.ismount(path) or Path.cwd().resolve().is_relative_to(path.resolve())
    )


def _swap_in(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    if _stays(path):
        _fill(temporary, path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    os.rename(path, aside / "old")
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(aside / "old", path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _fill(temporary: Path, path: Path) -> None:
    """Moves what is in a temporary folder in `path` one up, in place of all that is there."""
    path, temporary = path.absolute(), temporary.absolute()
    old = [child for child in path.iterdir() if child != temporary]
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path))
    moved: list[tuple[Path, Path]] = []
    try:
        for child in (*old, *temporary.iterdir()):
            target = (aside if child.parent == path else path) / child.name
            os.rename(child, target)
            moved.append((child, target))
    except OSError:
        for child, target in reversed(moved):
            os.rename(target, child)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
