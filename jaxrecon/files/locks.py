"""Locks that die with their process.

They are `flock`'s: the system drops them however the process ends. Where a file system has none, or
the system is Windows, nothing is locked, and so nothing that another run left is ever removed.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxrecon.files.interrupts import uninterrupted
from jaxrecon.files.parents import make_folders, remove_empty
from jaxrecon.files.refusals import in_use_error, output_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PATIENCE = 0.5
"""Seconds in which who only looks whether a lock is held has let it go again."""

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


class HeldError(Exception):
    """Another holds the lock."""


class Lock:
    """A lock on an open file, held until it is released or the process ends.

    A child of fork does not hold it.
    """

    def __init__(self, handle: int) -> None:
        self.handle: int | None = handle
        _held.add(self)

    def release(self) -> None:
        """Lets go, for children that may still have the file open too; twice does no harm."""
        if self.handle is not None and fcntl is not None:
            fcntl.flock(self.handle, fcntl.LOCK_UN)
        self.close()

    def is_at(self, path: Path) -> bool:
        """Whether the file that is locked is still under this name."""
        try:
            stat = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return self.handle is not None and os.path.samestat(os.fstat(self.handle), stat)

    def close(self) -> None:
        """Closes the file, which a parent of this process may go on to hold."""
        handle, self.handle = self.handle, None
        if handle is not None:
            os.close(handle)


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


def lock_file(path: Path, *, patience: float = 0.0) -> Lock | None:
    """Locks a file, made if it is not there; None where there are no locks.

    Args:
      path: the file; whoever removes or renames it holds its lock.
      patience: seconds to try again in, where another holds it.

    Raises:
      HeldError: another holds it.
      OSError: the file cannot be made.
    """
    until = time.monotonic() + patience
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o600)
        lock = _locked(handle, until)
        if lock is None or lock.is_at(path):
            return lock
        lock.release()  # it was removed or renamed before it was ours


def lock_folder(path: Path, *, patience: float = PATIENCE) -> Lock | None:
    """Locks a folder itself, which leaves nothing in it; None where there are no such locks.

    Raises:
      HeldError: another holds it.
      OSError: the folder cannot be opened.
    """
    if fcntl is None:
        return None
    return _locked(os.open(path, os.O_RDONLY | os.O_DIRECTORY), time.monotonic() + patience)


def check_unheld(path: str | Path) -> None:
    """Refuses a folder that another run holds by `holding_folder`.

    Raises:
      OutputError: see above.
    """
    if fcntl is None or not os.path.isdir(path):
        return
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        lock = _locked(handle, time.monotonic(), fcntl.LOCK_SH)
    except HeldError:
        raise in_use_error(path) from None
    except OSError:
        return
    if lock is not None:
        lock.release()


@contextmanager
def holding_folder(path: str | Path) -> Iterator[None]:
    """Makes a folder and keeps other runs out of it until the block ends.

    If the folder was not there and is empty at the end, it is removed.

    Raises:
      OutputError: another run is writing there, or the folder cannot be made.
    """
    path, lock, made = Path(path), None, []
    try:
        with uninterrupted():
            try:
                made = make_folders(path)
                lock = lock_folder(path)
            except HeldError:
                made = []
                raise in_use_error(path) from None
            except OSError as error:
                raise output_error(path, error) from error
        yield
    finally:
        with uninterrupted():
            remove_empty(made)
            if lock is not None:
                lock.release()


@contextmanager
def waiting_for(path: Path, note: Callable[[], None]) -> Iterator[None]:
    """Runs the block in one process at a time; the others wait.

    Args:
      path: a file that stands for the lock; it is gone afterwards.
      note: called once, if there is another to wait for.

    Raises:
      OSError: the file cannot be made.
    """
    lock, made, ours = None, [], False
    try:
        with uninterrupted():
            made = make_folders(path.parent)
        lock = _waited_for(path, note)
        ours = True
        yield
    finally:
        with uninterrupted():
            if ours:
                path.unlink(missing_ok=True)
            if lock is not None:
                lock.release()
            remove_empty(made)


def _waited_for(path: Path, note: Callable[[], None]) -> Lock | None:
    with suppress(HeldError):
        return lock_file(path)
    note()
    while True:
        with suppress(HeldError):
            return lock_file(path, patience=PATIENCE)


def _locked(handle: int, until: float, kind: int | None = None) -> Lock | None:
    """A lock on the open file, exclusive if not told else; without one, the file is closed."""
    if fcntl is None:
        os.close(handle)
        return None
    while True:
        try:
            fcntl.flock(handle, (fcntl.LOCK_EX if kind is None else kind) | fcntl.LOCK_NB)
            return Lock(handle)
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(handle)
                raise HeldError from None
            time.sleep(0.02)
        except OSError:  # the file system has no locks
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
