"""Folders that appear whole or not at all."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxrecon.checks import path_given, truth_value
from jaxrecon.errors import OutputError
from jaxrecon.files.interrupts import put_off, uninterrupted
from jaxrecon.files.locks import check_unheld
from jaxrecon.files.refusals import check_writable, output_error
from jaxrecon.files.staging import Staging, stays, sweep


@contextmanager
def replacing_folder(
    path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path] = ()
) -> Iterator[Path]:
    """Yields a temporary folder, put in the place of `path` if the block ends without error.

    Until then `path` is as it was, and it changes in one step where the system can. A folder that
    has to stay, since something is mounted there or it is the current one, is filled instead; if
    that breaks off, the next run undoes it. What runs that were killed left there is removed.

    If `overwrite` is true and a folder appears where there was none, it is left as it is, the
    result gets another name, and a warning says so.

    Args:
      inputs: files and folders that are read, and so must not be overwritten.

    Raises:
      InputError: `path` is no path of this machine.
      OutputError: it is a file, or a folder that is not empty and `overwrite` is false, or that
        holds an input, or another run is writing there, or it holds what was not there when the
        block began, or the folder cannot be written.
    """
    path = Path(path)
    check_output_folder(path, overwrite=overwrite, inputs=inputs)
    staging: Staging | None = None
    try:
        with uninterrupted():
            staging = Staging(path)
            staging.open()
            if not overwrite:  # another run may have ended since this was checked
                _check_free(path, leave_out=staging.place)
        yield staging.new
        with uninterrupted():
            staging.publish(overwrite=overwrite)
    except OutputError as error:
        # A writer inside the block names the temporary folder, of which the user knows nothing.
        hidden = str(path) if staging is None else str(staging.new)
        raise OutputError(str(error).replace(hidden, str(path))) from error
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        if staging is not None:
            try:
                put_off(staging.close)
            except KeyboardInterrupt:  # which may have come before it was put off
                put_off(staging.close)
                raise


def check_output_folder(
    path: str | Path, *, overwrite: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """Refuses a folder that could not be put at `path`, before any work is done for it.

    If a run that was to write it was killed, what that left is put in order first.

    Args:
      inputs: files and folders that are read, and so must not be overwritten.

    Raises:
      InputError: `path` is no path of this machine, or `overwrite` neither true nor false.
      OutputError: it is a file, or a folder that is not empty and `overwrite` is false, or that
        holds an input, or that another run is writing, or nothing may be written there.
    """
    path = Path(path_given("output", path))
    overwrite = truth_value("overwrite", overwrite)
    if os.path.lexists(path) and not os.path.isdir(path):
        raise OutputError(f"cannot write {path}: {_what_is_no_folder(path)}")
    place = path.resolve() if os.path.exists(path) else None
    for one in inputs:
        if place is not None and Path(one).resolve().is_relative_to(place):
            raise OutputError(
                f"cannot write {path}: {one} is read from there and would be deleted; choose "
                "another folder"
            )
    sweep(path)
    check_unheld(path)
    if not overwrite:
        _check_free(path)
    _check_place(path)


def _what_is_no_folder(path: Path) -> str:
    if os.path.exists(path):
        return "a file of that name exists; choose another name"
    target = os.path.realpath(path)
    return (
        f"it is a link to {target}, which does not exist; make that folder, or choose another name"
    )


def _check_free(path: Path, *, leave_out: Path | None = None) -> None:
    """Refuses a folder that holds something."""
    try:
        names = os.listdir(path) if os.path.isdir(path) else []
    except OSError as error:
        raise output_error(path, error) from error
    if any(leave_out is None or name != leave_out.name for name in names):
        raise OutputError(
            f"cannot write {path}: the folder exists and is not empty; "
            "choose another, or ask to overwrite it (--overwrite, overwrite=True)"
        )


def _check_place(path: Path) -> None:
    """Refuses a place in which nothing may be written."""
    target = Path(os.path.realpath(path))
    if stays(target):
        check_writable(target, path)
        return
    above = next(parent for parent in target.parents if os.path.exists(parent))
    if not above.is_dir():
        raise output_error(path, NotADirectoryError(errno.ENOTDIR, ""))
    check_writable(above, path)
