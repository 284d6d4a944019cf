"""Plain files: opened without waiting, and read up to a limit."""

import errno
import gzip
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from jaxrecon.errors import InputError, JaxreconError, reason_of

type AnyPath = str | os.PathLike[str]

MEBIBYTE = 2**20
MAX_TEXT_BYTES = 256 * MEBIBYTE
"""The largest text file that is read, if the caller gives no other limit."""

LONGEST_LINE = 10_000
"""The most bytes of a line of text, if the caller gives no other limit."""

_GZIP_MAGIC = b"\x1f\x8b"
_MARK = "\ufeff"


def unpacked_limit(stored: int) -> int:
    """How many bytes a compressed file of `stored` bytes may unpack to: ten times that + 128 MiB.

    Photographs and floating-point numbers never come near it; files made to fill the memory do.
    """
    return 10 * stored + 128 * MEBIBYTE


def is_plain_file(path: AnyPath) -> bool:
    """Whether `path` is a regular file; false for what no file can be called."""
    return _mode(path, stat.S_ISREG)


def is_folder(path: AnyPath) -> bool:
    """Whether `path` is a folder; false for what no folder can be called."""
    return _mode(path, stat.S_ISDIR)


def _mode(path: AnyPath, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(os.stat(path).st_mode)
    except (OSError, ValueError):  # absent, not allowed, too long a name, or one with a NUL
        return False


def absence(path: AnyPath) -> str:
    """Why nothing is at a path, and what to do: the words of a message."""
    if not os.path.islink(path):
        return f"{os.fspath(path)} does not exist; check the path"
    leads = "where there is nothing"
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        around = error.errno == errno.ELOOP
        leads = "which leads back to itself" if around else f"which fails: {reason_of(error)}"
    return (
        f"{os.fspath(path)} is a link to {os.readlink(path)}, {leads}; mend the link, or remove it"
    )


def obstacle(path: AnyPath) -> str | None:
    """Why what is at a path is neither a file nor a folder, and what to do; None if it is one.

    None, too, if nothing is called so.
    """
    if not os.path.lexists(path):
        return None
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return absence(path)
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    leads = "leads to" if os.path.islink(path) else "is"
    return f"{os.fspath(path)} {leads} a pipe or a device, not a file or folder; check the path"


@contextmanager
def open_plain(
    path: AnyPath, *, advice: str = "check the path", kind: type[JaxreconError] = InputError
) -> Iterator[BinaryIO]:
    """Opens a regular file to read its bytes.

    A named pipe or a device is refused without waiting for what it may give.

    Args:
      path: the file.
      advice: what the user can do; ends the message.
      kind: of the error.

    Raises:
      InputError (or `kind`): it is absent, no regular file, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except (OSError, ValueError) as error:
        raise kind(f"cannot read {_shown(path)}: {reason_of(error)}; {advice}") from error
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "it is a folder" if stat.S_ISDIR(mode) else "it is a pipe or a device"
        raise kind(f"cannot read {_shown(path)}: {what}, not a file; {advice}")
    with os.fdopen(handle, "rb") as file:
        yield file


_BINARY = getattr(os, "O_BINARY", 0)  # on Windows


def _shown(path: AnyPath) -> str:
    return os.fspath(path)


def read_bytes(
    path: AnyPath,
    *,
    limit: int = MAX_TEXT_BYTES,
    advice: str = "check the file",
    kind: type[JaxreconError] = InputError,
) -> bytes:
    """The bytes of a regular file, unpacked if they are gzip's.

    Raises:
      InputError (or `kind`): it cannot be read, is larger than `limit`, unpacks to more than that
        or than `unpacked_limit`, or is damaged.
    """
    with open_plain(path, advice=advice, kind=kind) as file:
        stored = os.fstat(file.fileno()).st_size
        try:
            data = _unpacked(file, min(limit, unpacked_limit(stored)))
        except (OSError, EOFError, zlib.error) as error:
            raise kind(f"cannot read {_shown(path)}: {reason_of(error)}; {advice}") from error
    if data is None:
        raise kind(f"cannot read {_shown(path)}: it is too large for what it is; {advice}")
    return bytes(data)


def _unpacked(file: BinaryIO, limit: int) -> bytes | None:
    """All bytes, or None if they are more than `limit`."""
    packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    file.seek(0)
    source = gzip.GzipFile(fileobj=file) if packed else file
    data = bytearray()
    while chunk := source.read(MEBIBYTE):
        data += chunk
        if len(data) > limit:
            return None
    return bytes(data)


def read_text(
    path: AnyPath,
    *,
    limit: int = MAX_TEXT_BYTES,
    advice: str = "check the file",
    kind: type[JaxreconError] = InputError,
) -> str:
    """The text of a regular file in UTF-8, with or without a byte order mark.

    Raises:
      InputError (or `kind`): see `read_bytes`; or it is no text.
    """
    data = read_bytes(path, limit=limit, advice=advice, kind=kind)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise kind(f"cannot read {_shown(path)}: it is not UTF-8 text; {advice}") from error


def read_lines(
    path: AnyPath,
    *,
    longest: int = LONGEST_LINE,
    cut: bool = False,
    file_names: bool = False,
    advice: str = "check the file",
    kind: type[JaxreconError] = InputError,
) -> Iterator[str]:
    """The lines of a text file in UTF-8, without their ends, each read as it is asked for.

    Args:
      path: a regular file.
      longest: the most bytes of a line.
      cut: whether of a longer line the first `longest` bytes are given, and a NUL behind them, for
        files of which some lines are not looked at, however long; else it is refused.
      file_names: whether there are names of files in it, of which bytes that are no UTF-8 become
        lone surrogates, as those of `os.listdir` do; else they are refused.
      advice: what the user can do; ends the message.
      kind: of the error.

    Raises:
      InputError (or `kind`): the file cannot be read, a line is too long, or is no text.
    """
    errors = "surrogateescape" if file_names else "strict"
    with open_plain(path, advice=advice, kind=kind) as file:
        try:
            for number, line in enumerate(_cut_lines(file, longest), 1):
                if len(line) > longest and not cut:
                    raise ValueError(f"line {number} has more than {longest} bytes")
                if len(line) <= longest:
                    text = line.decode(errors=errors)
                else:
                    text = line[:longest].decode(errors="replace") + "\0"
                yield from (text.removeprefix(_MARK) if number == 1 else text).split("\r")
        except UnicodeDecodeError as error:
            raise kind(f"cannot read {_shown(path)}: it is not UTF-8 text; {advice}") from error
        except (OSError, ValueError) as error:
            raise kind(f"cannot read {_shown(path)}: {reason_of(error)}; {advice}") from error


def _cut_lines(file: BinaryIO, longest: int) -> Iterator[bytes]:
    """Lines without their ends, none longer than `longest` + 1 bytes."""
    while line := file.readline(longest + 2):
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(MEBIBYTE)
        yield line.rstrip(b"\r\n")[: longest + 1]
