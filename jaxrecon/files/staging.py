"""The hidden folder beside an output folder in which a run makes it, and how it takes its place.

It is `.NAME.part`, beside the folder NAME or, where that has to stay, in it. Its entries:

    lock     locked by the process that writes
    new      what is being made
    old      what was in NAME, while it is replaced in more than one step
    trash    what may be deleted
    journal  JSON, written before anything is moved: what NAME held and what is to come in

From these `settle` tells, whenever a run broke off, what belongs where.
"""

import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxrecon.errors import OutputError
from jaxrecon.files.hidden import hidden_beside
from jaxrecon.files.locks import PATIENCE, HeldError, Lock, check_unheld, lock_file
from jaxrecon.files.parents import make_folders, remove_empty
from jaxrecon.files.refusals import in_use_error, may_write, umask
from jaxrecon.files.renames import exchange, move_beside, move_new


class Staging:
    """The hidden folder of one run.

    Attributes:
      target: the output folder, without links in its path.
      fills: whether the output folder has to stay and so is filled.
      seen: what tells the content apart that the output folder had when the run began.
    """

    def __init__(self, path: Path) -> None:
        self.target = Path(os.path.realpath(path))
        self.fills = stays(self.target)
        self.place = staging_place(self.target)
        self.seen = NOTHING
        self._lock: Lock | None = None
        self._unlocked = self._closed = False
        self._process = os.getpid()
        self._made: list[Path] = []

    @property
    def new(self) -> Path:
        """What is being made."""
        return self.place / "new"

    def open(self) -> None:
        """Makes the folder; what a run that was killed left in it is put where it belongs.

        Raises:
          OutputError: another run is writing there.
          OSError: it cannot be made.
        """
        self._made = make_folders(self.place.parent)
        try:
            self._lock = _enter(self.place)
        except HeldError:
            raise in_use_error(self.target) from None
        if self._lock is None:  # nobody can tell whether a run lives: each has a folder of its own
            self._unlocked = True
            _leave(self.place)
            prefix = self.place.name.removesuffix("part")
            name = tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=self.place.parent)
            self.place = Path(name)
        else:
            settle(self.place, self.target)
        self.seen = content_of(self.target, leave_out=self.place)
        self.new.mkdir(mode=0o700)

    def publish(self, *, overwrite: bool) -> Path:
        """Puts what was made in the place of what the output folder held at the start.

        Returns:
          Where it is: the output folder; or a name beside it, where `overwrite` is true and a
          folder of which the run knew nothing appeared.

        Raises:
          OutputError: the output folder holds what this run did not see at its start; it stays.
          OSError: something cannot be renamed; the output folder is as it was.
        """
        self._check_owner()
        check_unheld(self.target)
        os.chmod(self.new, 0o777 & ~umask())
        if self.fills:
            self._fill()
            return self.target
        try:
            os.replace(self.new, self.target)  # where it is absent or empty
            return self.target
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                raise
            if not os.path.isdir(self.target):
                raise
        if not overwrite:
            raise self._changed()
        if self.seen == NOTHING != content_of(self.target):
            return self._publish_beside()
        self._exchange()
        return self.target

    def close(self) -> None:
        """Puts everything where it belongs, and removes the folder."""
        if os.getpid() != self._process or self._closed:
            return
        if self._lock is None and not self._unlocked:  # interrupted while it was opened
            with suppress(HeldError, OSError):
                self._lock = _enter(self.place, make=False)
        if self._lock is not None or self._unlocked:
            with suppress(OSError):
                settle(self.place, self.target)
            _leave(self.place)
        if self._lock is not None:
            self._lock.release()
        remove_empty(self._made)
        self._closed = True

    def _publish_beside(self) -> Path:
        found = move_beside(self.new, self.target)
        warnings.warn(
            f"{self.target} appeared while it was to be written; it was left as it is, and the "
            f"result is in {found}",
            stacklevel=4,
        )
        return found

    def _exchange(self) -> None:
        self._check_unchanged(self.target)
        inode = os.stat(self.new).st_ino
        _note(self.place, {"seen": self.seen, "inode": inode})
        if exchange(self.new, self.target):
            if content_of(self.new) != self.seen:
                exchange(self.new, self.target)
                raise self._changed()
            _discard(self.new, self.place)
            return
        old = self.place / "old"
        os.rename(self.target, old)
        self._check_unchanged(old)
        os.replace(self.new, self.target)
        _discard(old, self.place)

    def _fill(self) -> None:
        """Moves what was made into the output folder, in place of all that is there."""
        self._check_unchanged(self.target)
        there = {entry.name for entry in os.scandir(self.target)} - {self.place.name}
        coming = {entry.name: _stamp(self.new / entry.name) for entry in _in(self.new)}
        _note(self.place, {"seen": self.seen, "fill": coming})
        old = self.place / "old"
        old.mkdir()
        for name in coming:
            new, here = self.new / name, self.target / name
            if name not in there:
                move_new(new, here)
            elif not exchange(new, here):
                os.rename(here, old / name)
                move_new(new, here)
        for entry in list(_in(self.new)):
            os.rename(entry.path, old / entry.name)
        for name in there - coming.keys():
            os.rename(self.target / name, old / name)
        self._check_unchanged(old)
        _discard(old, self.place)

    def _check_unchanged(self, folder: Path) -> None:
        if content_of(folder, leave_out=self.place) != self.seen:
            raise self._changed()

    def _changed(self) -> OutputError:
        return OutputError(
            f"cannot write {self.target}: what it holds has changed since this run began, and was "
            "left as it is; choose another folder, or run again"
        )

    def _check_owner(self) -> None:
        if os.getpid() != self._process:
            raise OutputError(
                f"cannot write {self.target}: the process that began to write it has forked, and "
                "it alone can finish; write in one process"
            )


def staging_place(target: Path) -> Path:
    """Where the hidden folder for an output folder is."""
    hidden = hidden_beside(target, ".part")
    return target / hidden.name if stays(target) else hidden


def stays(folder: Path) -> bool:
    """Whether a folder can only be filled, not replaced by another.

    It is mounted there, it is a process's current one, or nothing may be renamed beside it.
    """
    if not folder.is_dir():
        return False
    current = Path(os.path.realpath(os.curdir)).is_relative_to(folder)
    return current or os.path.ismount(folder) or not may_write(folder.parent)


def sweep(path: str | Path) -> None:
    """Puts where it belongs what a run that was killed left of an output folder.

    Raises:
      OutputError: a run is writing there.
    """
    target = Path(os.path.realpath(path))
    place = staging_place(target)
    if not os.path.isdir(place):
        return
    try:
        lock = _enter(place, make=False)
    except HeldError:
        raise in_use_error(path) from None
    except OSError:
        return
    if lock is not None:
        with suppress(OSError):
            settle(place, target)
        _leave(place)
        lock.release()


def settle(place: Path, target: Path) -> None:
    """Makes `target` whole, old or new, from what is in a hidden folder; empties that.

    Nothing is deleted but what a run made, and what it was to replace.

    Raises:
      OSError: something cannot be renamed; calling it again goes on.
    """
    shutil.rmtree(place / "trash", ignore_errors=True)
    journal, new, old = _noted(place), place / "new", place / "old"
    if "fill" in journal and old.is_dir():
        _undo_fill(place, target, journal["fill"])
    elif old.is_dir():
        replaced = not new.exists() and content_of(old) == journal.get("seen")
        if not replaced:
            _put_back(old, target)
    exchanged = "inode" in journal and _inode(new) not in (None, journal["inode"])
    if exchanged and content_of(new) != journal["seen"]:
        _put_back(new, target)
    for rest in (new, old):
        if rest.exists():
            _discard(rest, place)
    shutil.rmtree(place / "trash", ignore_errors=True)
    (place / "journal").unlink(missing_ok=True)


def _undo_fill(place: Path, target: Path, coming: Mapping[str, str]) -> None:
    """Takes what had come into a folder out again, and puts back what it held."""
    new, old = place / "new", place / "old"
    for name, stamp in coming.items():
        if _stamp(target / name) == stamp:
            _discard(target / name, place)
        if _stamp(new / name) not in ("", stamp):  # the old one, exchanged
            _put_back(new / name, target / name)
    for entry in list(_in(old)):
        _put_back(Path(entry.path), target / entry.name)
    old.rmdir()


def _put_back(source: Path, target: Path) -> None:
    if source.is_dir() and target.is_dir():
        with suppress(OSError):
            target.rmdir()  # an empty one is in the way of nothing
    found = move_beside(source, target)
    if found != target:
        warnings.warn(
            f"{target} was made anew since a run that was to replace it broke off; what it held "
            f"before is in {found}",
            stacklevel=2,
        )


def _discard(path: Path, place: Path) -> None:
    """Marks something as to be deleted, in one step: deletion itself may break off."""
    trash = place / "trash"
    trash.mkdir(exist_ok=True)
    os.rename(path, tempfile.mkdtemp(dir=trash) + "/rest")


def _enter(place: Path, *, make: bool = True) -> Lock | None:
    """Locks a hidden folder, made if it is not there; None where there are no locks."""
    while True:
        if make:
            place.mkdir(mode=0o700, exist_ok=True)
        try:
            return lock_file(place / "lock", patience=PATIENCE)
        except FileNotFoundError:  # the run before has just removed it
            if not make:
                raise


def _leave(place: Path) -> None:
    """Removes a hidden folder that is empty but for its lock."""
    with suppress(OSError):
        if {entry.name for entry in _in(place)} <= {"lock"}:
            (place / "lock").unlink(missing_ok=True)
            place.rmdir()


def _note(place: Path, journal: Mapping[str, Any]) -> None:
    (place / "journal").write_text(json.dumps(journal))


def _noted(place: Path) -> dict[str, Any]:
    """The journal; empty if there is none, or if its writing broke off and so nothing was moved."""
    try:
        return json.loads((place / "journal").read_text())
    except (OSError, ValueError):
        return {}


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _stamp(path: Path) -> str:
    """What tells an entry of a folder apart from others and from itself once it has changed."""
    try:
        state = path.lstat()
    except OSError:
        return ""
    if stat.S_ISDIR(state.st_mode):
        return f"{state.st_ino} {content_of(path)}"
    return f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"


def _in(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from entries


def content_of(folder: Path, *, leave_out: Path | None = None) -> str:
    """What tells the content of a folder apart: names, and of files inode, size and time of change.

    Of a folder that is not there it is that of an empty one.
    """
    told = hashlib.sha256()
    for line in sorted(_told(folder, "", leave_out)):
        told.update(line.encode("utf-8", "surrogateescape"))
    return told.hexdigest()


def _told(folder: str | Path, above: str, leave_out: Path | None) -> Iterator[str]:
    if not os.path.isdir(folder):
        return
    for entry in _in(folder):
        if leave_out is not None and Path(entry.path) == leave_out:
            continue
        inside = f"{above}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield f"{inside}\0{entry.inode()}\0"
            yield from _told(entry.path, inside, leave_out)
        else:
            yield f"{inside}\0{_stamp(Path(entry.path))}\0"


NOTHING = content_of(Path(os.devnull))
"""What tells an empty folder apart."""
