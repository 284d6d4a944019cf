"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxrecon.checks import path_given
from jaxrecon.errors import OutputError
from jaxrecon.files.hidden import hidden_beside
from jaxrecon.files.interrupts import put_off, uninterrupted
from jaxrecon.files.locks import HeldError, Lock, lock_file
from jaxrecon.files.parents import make_folders, remove_empty
from jaxrecon.files.refusals import output_error, umask

_AT_ONCE = 4
"""So many runs may write one file at once, each under a name that the next run knows."""


class _WritableError(Exception):
    """Leaves the block before the file is put into its place."""


def check_output_file(path: str | Path) -> None:
    """Refuses a file that could not be written, before any work is done for it.

    Raises:
      InputError: it is no path of this machine.
      OutputError: see `replacing_file`.
    """
    with suppress(_WritableError), replacing_file(path_given("output", path)):
        raise _WritableError


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to `path` if the block ends without error.

    Missing parent folders are made. On any error the temporary file is removed and `path` is left
    as it was; those of runs that were killed are removed, too. A link stays: the file that it leads
    to is replaced, there.

    Raises:
      OutputError: the file cannot be written (disk full, no permission, ...), or what has that name
        is no file.
    """
    path = Path(path)
    if os.path.isdir(path):
        raise OutputError(f"cannot write {path}: a folder of that name exists; choose another name")
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if os.path.exists(path) and not os.path.isfile(path):  # as root one could rename over /dev/null
        raise OutputError(
            f"cannot write {path}: it is a pipe or a device, not a file; choose another name"
        )
    temporary = _Temporary(target)
    try:
        with uninterrupted():
            temporary.open()
        yield temporary.place
        with open(temporary.place, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary.place, 0o666 & ~umask())
        os.replace(temporary.place, target)
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        try:
            put_off(temporary.close)
        except KeyboardInterrupt:  # which may have come before it was put off
            put_off(temporary.close)
            raise


class _Temporary:
    """The hidden file of one run: `.NAME.0.part`, or the next number that is free."""

    def __init__(self, path: Path) -> None:
        self.place = path
        self._path = path
        self._lock: Lock | None = None
        self._made = self._closed = False
        self._process = os.getpid()
        self._parents: list[Path] = []

    def open(self) -> None:
        """Makes the file; removes those of runs that were killed."""
        self._parents = make_folders(self._path.parent)
        places = [hidden_beside(self._path, f".{n}.part") for n in range(_AT_ONCE)]
        for place in places:
            if self._lock is None or os.path.lexists(place):
                self._take(place)
        if self._lock is None:
            prefix = hidden_beside(self._path, ".12345678.part").name.removesuffix("12345678.part")
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=self._path.parent)
            os.close(handle)
            self.place, self._made = Path(name), True

    def _take(self, place: Path) -> None:
        """Takes a name, or removes what is there under it, unless a run that lives has it."""
        try:
            lock = lock_file(place)
        except (HeldError, IsADirectoryError):
            return
        except PermissionError:
            if os.path.lexists(place):  # another user's
                return
            raise
        if lock is None or self._lock is not None:
            place.unlink(missing_ok=True)
            if lock is not None:
                lock.release()
            return
        self.place, self._lock, self._made = place, lock, True
        os.truncate(place, 0)

    def close(self) -> None:
        """Removes the file if it is still there."""
        if os.getpid() != self._process or self._closed:
            return
        if self._made and (self._lock is None or self._lock.handle is not None):
            with suppress(OSError):
                self._remove()
        if self._lock is not None:
            self._lock.release()
        remove_empty(self._parents)
        self._closed = True

    def _remove(self) -> None:
        """A file of the same name may be another run's, once this one's has been renamed."""
        if self._lock is None or self._lock.is_at(self.place):
            self.place.unlink(missing_ok=True)
