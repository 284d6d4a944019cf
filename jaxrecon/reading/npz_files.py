"""NumPy's archives (`.npz`): headers are checked against the file before memory is taken.

NumPy's own reader parses headers as Python literals and allocates what they say; see
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html for the format.
"""

import math
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from jaxrecon.errors import InputError, JaxreconError, reason_of
from jaxrecon.reading.plain_files import MEBIBYTE, AnyPath, open_plain, unpacked_limit

_MAX_MEMBERS = 10_000
_MAX_DIMENSIONS = 32
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KINDS = "biufcmMUS"
_ENCRYPTED = 0x1
_SUFFIX = ".npy"


@dataclass(frozen=True)
class ArrayHeader:
    """What an archive says of an array; its numbers need not be there.

    Attributes:
      shape: of the array.
      dtype: of the array; no objects and no records.
      fortran_order: whether the first axis varies fastest.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.count * self.dtype.itemsize


class NpzArchive:
    """An open archive: `names` of its arrays, the `header` of each, and each to `read`.

    Every method raises the error that `open_npz` was given, whatever is wrong with the file.
    """

    def __init__(self, stored: zipfile.ZipFile, size: int, guard: "_Guard") -> None:
        self._stored, self._guard = stored, guard
        with guard:
            self._members = _members(stored, size)
        self.names = tuple(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def header(self, name: str) -> ArrayHeader:
        """Shape and dtype of an array, without its numbers."""
        with self._guard, self._stored.open(self._member(name)) as file:
            return _read_header(file, name)

    def read(self, name: str) -> np.ndarray:
        """An array, in memory of its own."""
        with self._guard:
            member = self._member(name)
            with self._stored.open(member) as file:
                header = _read_header(file, name)
                held = member.file_size - file.tell()
                if header.bytes != held:
                    _refuse(f"the header of {name!r} promises {header.bytes} bytes, it has {held}")
                data = np.empty(held, np.uint8)
                _fill(file, memoryview(data), name)
            if header.dtype.kind == "U":
                _check_text(data, header.dtype, name)
        flat = data.view(header.dtype) if held else np.zeros(header.count, header.dtype)
        return flat.reshape(header.shape, order="F" if header.fortran_order else "C")

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            _refuse(f"it has no array {name!r}, but {', '.join(self.names[:8]) or 'none'}")
        return self._members[name]


class _Guard(AbstractContextManager[None]):
    """Turns whatever goes wrong while an archive is read into one error on one line."""

    def __init__(self, path: AnyPath, what: str, advice: str, kind: type[JaxreconError]) -> None:
        self._path, self._what, self._advice, self._kind = path, what, advice, kind

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):  # zipfile, zlib and numpy raise a dozen kinds
            raise self._kind(
                f"cannot read {self._path}: it is not {self._what} "
                f"({reason_of(error)[:160]}); {self._advice}"
            ) from error


@contextmanager
def open_npz(
    path: AnyPath,
    *,
    what: str = "a sound .npz file",
    advice: str = "save it again",
    kind: type[JaxreconError] = InputError,
) -> Iterator[NpzArchive]:
    """Opens a `.npz` archive; nothing in it is unpickled.

    Args:
      path: the file.
      what: what the file should be; stands in the message.
      advice: what the user can do; ends the message.
      kind: of the error.

    Raises:
      InputError (or `kind`): it is absent, no archive of arrays, or damaged; its arrays are of
        Python objects or records; a name stands twice; or it unpacks to more than
        `unpacked_limit`. The same while its arrays are read inside the block.
    """
    guard = _Guard(path, what, advice, kind)
    with open_plain(path, advice=advice, kind=kind) as file:
        with guard:
            stored = zipfile.ZipFile(file)
        with stored:
            yield NpzArchive(stored, os.fstat(file.fileno()).st_size, guard)


def _members(stored: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The arrays of an archive by name, none of which is larger than can be."""
    infos = stored.infolist()
    if len(infos) > _MAX_MEMBERS:
        _refuse(f"it has {len(infos)} members")
    members = {info.filename.removesuffix(_SUFFIX): info for info in infos}
    if len(members) < len(infos):
        _refuse("a name stands twice in it")
    for info in infos:
        if not info.filename.endswith(_SUFFIX):
            _refuse(f"{info.filename[:60]!r} is no array")
        if info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED:
            _refuse(f"{info.filename[:60]!r} is encrypted, or packed in another way than NumPy's")
    unpacked = sum(info.file_size for info in infos)
    if unpacked > unpacked_limit(size):
        _refuse(
            f"it unpacks to {unpacked // MEBIBYTE} MiB, far more than its size; if it is yours, "
            "write it with numpy.savez, which does not compress"
        )
    return members


def _read_header(file: Any, name: str) -> ArrayHeader:
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    version = np.lib.format.read_magic(file)
    if version not in reader:
        _refuse(f"{name[:60]!r} has the format version {version}")
    with warnings.catch_warnings(action="ignore"):  # of odd texts, parsed as Python's literals
        shape, fortran_order, dtype = reader[version](file)
    sides = all(type(side) is int and side >= 0 for side in shape)
    if not sides or len(shape) > _MAX_DIMENSIONS or math.prod(shape) * dtype.itemsize > 2**62:
        _refuse(f"{name[:60]!r} has the shape {str(shape)[:60]}")
    header = ArrayHeader(shape, dtype, fortran_order)
    if not dtype.itemsize and header.count > _MAX_MEMBERS:
        _refuse(f"{name[:60]!r} has {header.count} empty texts")
    if dtype.kind not in _KINDS:
        _refuse(f"{name[:60]!r} has the dtype {str(dtype)[:60]}, which is no number or text")
    return header


def _check_text(data: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Refuses numbers that stand for no character, of which Python can make no text."""
    characters = data.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
    if characters.size and characters.max() > sys.maxunicode:
        _refuse(f"{name[:60]!r} holds what is no text")


def _fill(file: Any, memory: memoryview, name: str) -> None:
    done = 0
    while done < len(memory):
        chunk = file.read(min(MEBIBYTE, len(memory) - done))
        if not chunk:
            _refuse(f"{name[:60]!r} ends too early")
        memory[done : done + len(chunk)] = chunk
        done += len(chunk)
    if file.read(1):  # the end of a member is where its checksum is compared
        _refuse(f"{name[:60]!r} is longer than it says")


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)
