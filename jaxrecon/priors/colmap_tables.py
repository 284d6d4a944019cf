"""How the files of a COLMAP sparse model are read, binary or text, whatever they tell of."""

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from jaxrecon.errors import InputError, reason_of
from jaxrecon.reading import is_plain_file, open_plain, read_lines
from jaxrecon.reading.plain_files import LONGEST_LINE

ADVICE = "export the model again"

_ANY_LINE = 2**40


def model_suffix(folder: Path) -> str | None:
    """Which form a folder's model has; the binary one if both, as COLMAP does."""
    for suffix in (".bin", ".txt"):
        if all(is_plain_file(folder / f"{stem}{suffix}") for stem in ("cameras", "images")):
            return suffix
    return None


def check_distinct(model: Path, found: Iterable[str]) -> None:
    """Refuses a model that has one thing twice.

    Raises:
      InputError: naming the model and the thing.
    """
    twice = next((each for each, times in Counter(found).items() if times > 1), None)
    if twice is not None:
        raise InputError(f"{model} has {twice} twice; remove one of them")


def read_table[T](
    model: Path,
    stem: str,
    binary: Callable[[BinaryIO], Iterable[T]],
    text: Callable[[Iterator[str]], Iterable[T]],
    *,
    whole_lines: bool = False,
    file_names: bool = False,
) -> list[T]:
    """The rows of one of a model's files.

    Args:
      model: its folder.
      stem: the name of the file, without its suffix.
      binary, text: what reads either form, and raises EOFError or ValueError where it is damaged.
      whole_lines: whether lines are given to `text` however long; else they are cut off, as
        `reading.read_lines` does it.
      file_names: whether it has names of files; see there.

    Raises:
      InputError: the file is absent or damaged.
    """
    path = model / f"{stem}{model_suffix(model)}"
    try:
        if path.suffix == ".txt":
            longest = _ANY_LINE if whole_lines else LONGEST_LINE
            lines = read_lines(
                path, longest=longest, cut=True, file_names=file_names, advice=ADVICE
            )
            return list(text(lines))
        with open_plain(path, advice=ADVICE) as file:
            found = list(binary(file))
            if file.read(1):
                raise ValueError(f"it tells of {len(found)} {stem}, and has more behind them")
            return found
    except InputError:
        raise
    except (OSError, ValueError, OverflowError, EOFError) as error:
        raise InputError(
            f"cannot read {path}: it is damaged or cut short ({reason_of(error)}); {ADVICE}"
        ) from error


def take(file: BinaryIO, layout: str) -> tuple:
    """The next values of a binary file.

    Raises:
      EOFError: it ends before.
    """
    length = struct.calcsize(layout)
    data = file.read(length)
    if len(data) < length:
        raise EOFError("it ends too early")
    return struct.unpack(layout, data)


def take_rows(file: BinaryIO, count: int, length: int, *, keep: bool) -> bytes | None:
    """The next `count` rows of `length` bytes of a binary file; None, and none read, if not kept.

    Raises:
      EOFError: it ends before.
    """
    start, size = file.tell(), os.fstat(file.fileno()).st_size
    if count * length > size - start:
        raise EOFError("it ends too early")
    if keep:
        return file.read(count * length)
    file.seek(start + count * length)
    return None


def tells(line: str) -> bool:
    """Whether a line of a text file is neither empty nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")
