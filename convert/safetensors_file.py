"""Safetensors files, read tensor by tensor and written as the tensors arrive.

The library maps a whole file into memory to read it and needs all tensors in memory to write it. A
model is converted one tensor at a time, so here a tensor is read from its offset, and a file is
written from shapes that are known beforehand. The library still checks each file that is read.
"""

import hashlib
import io
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxrecon.errors import WeightsError, reason_of
from jaxrecon.reading import open_plain, parse_json, shown

_PIECE = 2**22
"""Bytes that are read at once: few enough to stay in the processor's cache for what follows."""

_MAX_DIMENSIONS = 32
_MAX_BYTES = 2**62
_WIDEST = 8
_ADVICE = "download it again"
_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class TensorSpec(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


type Specs = Mapping[str, tuple[tuple[int, ...], np.dtype | str]]
"""Shape and dtype of tensors by name; a `TensorSpec` is such a pair."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: `offset` bytes from the start of a file."""

    file: Path
    offset: int
    spec: TensorSpec

    def read(
        self, dtype: np.dtype | None = None, *, seen: Callable[[np.ndarray], object] | None = None
    ) -> np.ndarray:
        """The tensor, in memory of its own, which no more than a piece is held beside.

        Args:
          dtype: what the numbers are cast to while they are read; left as they are if not given.
          seen: is given the bytes as they are stored, piece by piece, such as a digest's `update`.

        Raises:
          WeightsError: the file can't be read, or has become shorter.
        """
        try:
            with open(self.file, "rb", buffering=0) as file:
                end = os.fstat(file.fileno()).st_size
                if self.offset + self.spec.bytes <= end:  # before memory is taken
                    tensor = aligned_empty(self.spec._replace(dtype=dtype or self.spec.dtype))
                    file.seek(self.offset)
                    if _read_pieces(file, tensor.reshape(-1), self.spec.dtype, seen):
                        return tensor
        except OSError as error:
            raise WeightsError(f"cannot read {self.file}: {error.strerror or error}") from error
        raise WeightsError(f"{self.file} became shorter while it was read; start again")


def aligned_empty(spec: TensorSpec) -> np.ndarray:
    """An uninitialised array that starts at a multiple of 64 bytes.

    On the CPU, JAX can take such an array over without a copy.
    """
    memory = np.empty(spec.bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + spec.bytes].view(spec.dtype).reshape(spec.shape)


def _read_pieces(
    file: io.FileIO,
    tensor: np.ndarray,
    stored: np.dtype,
    seen: Callable[[np.ndarray], object] | None,
) -> bool:
    """Fills a flat tensor from the file; whether the file was long enough."""
    length = _PIECE // stored.itemsize
    aside = np.empty(0 if stored == tensor.dtype else min(length, tensor.size), stored)
    for start in range(0, tensor.size, length):
        part = tensor[start : start + length]
        numbers = part if stored == tensor.dtype else aside[: part.size]
        if not _read_into(file, numbers.view(np.uint8)):
            return False
        if seen is not None:
            seen(numbers.view(np.uint8))
        if numbers is not part:
            np.copyto(part, numbers, casting="unsafe")
    return True


def _read_into(file: io.FileIO, memory: np.ndarray) -> bool:
    """Fills `memory` from the file; whether the file was long enough."""
    view, done = memoryview(memory), 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            return False
        done += count
    return True


def is_dtype_name(name: str) -> bool:
    """Whether it is NumPy's name of a number format that the files can hold, such as bfloat16."""
    return any(dtype.name == name for dtype in _NAMES)


def is_possible(shape: object) -> TypeGuard[list[int]]:
    """Whether a list from a file is a shape that NumPy can give an array.

    NumPy has at most 32 dimensions here, and wants the bytes to fit into 63 bits even where one
    side is zero and the others are not.
    """
    return (
        isinstance(shape, list)
        and len(shape) <= _MAX_DIMENSIONS
        and all(type(side) is int and side >= 0 for side in shape)
        and math.prod(max(side, 1) for side in shape) * _WIDEST <= _MAX_BYTES
    )


def read_header(path: Path) -> dict[str, StoredTensor]:
    """All tensors of a file, in the order in which they are stored.

    Raises:
      WeightsError: the file is absent, truncated, damaged, or no safetensors file; it names a
        tensor twice; or a tensor has a shape or number format that NumPy cannot have.
    """
    try:
        with open_plain(path, advice=_ADVICE, kind=WeightsError) as file:
            with safe_open(path, framework="np"):  # compares all offsets and sizes with the file
                pass
            (length,) = struct.unpack("<Q", file.read(8))
            header = parse_json(file.read(length))
    except (SafetensorError, ValueError, struct.error) as error:
        raise WeightsError(
            f"{path} is damaged, incomplete, or no safetensors file ({reason_of(error)[:160]}); "
            f"{_ADVICE}"
        ) from error
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}; {_ADVICE}") from error
    header.pop("__metadata__", None)
    stored = [(name, _stored(path, 8 + length, name, entry)) for name, entry in header.items()]
    return dict(sorted(stored, key=lambda item: item[1].offset))


def _stored(path: Path, start: int, name: str, entry: Mapping[str, Any]) -> StoredTensor:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise WeightsError(
            f"{path}: tensor {name[:100]} has the number format {entry['dtype']}, which is not "
            f"supported; store it in one of {', '.join(_DTYPES)}"
        )
    if not is_possible(entry["shape"]):
        raise WeightsError(
            f"{path}: tensor {name[:100]} has the shape {shown(entry['shape'])}, which no array "
            f"can have; {_ADVICE}"
        )
    offset = start + entry["data_offsets"][0]
    return StoredTensor(path, offset, TensorSpec(tuple(entry["shape"]), dtype))


def deal_out(specs: Mapping[str, TensorSpec], limit: int) -> dict[str, dict[str, TensorSpec]]:
    """Names files of at most `limit` bytes (or one tensor), and deals the tensors out in order."""
    groups: list[dict[str, TensorSpec]] = [{}]
    size = 0
    for path, spec in specs.items():
        if groups[-1] and size + spec.bytes > limit:
            groups.append({})
            size = 0
        groups[-1][path] = spec
        size += spec.bytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    count = len(groups)
    return {
        f"model-{number:05}-of-{count:05}.safetensors": group
        for number, group in enumerate(groups, 1)
    }


def write_file(
    path: Path, specs: Mapping[str, TensorSpec], tensors: Iterator[tuple[str, np.ndarray]]
) -> dict[str, str]:
    """Writes one file and returns the SHA-256 of each tensor's bytes.

    Args:
      path: the file to write.
      specs: name, shape and dtype of what the file will hold.
      tensors: gives these tensors in the same order; only as many as `specs` holds are taken.

    Raises:
      ValueError: another tensor comes than the one whose turn it is.
    """
    with open(path, "wb") as file:
        file.write(_header(specs))
        hashes = {name: _append(file, name, spec, tensors) for name, spec in specs.items()}
        file.flush()
        os.fsync(file.fileno())
    return hashes


def _append(
    file: BinaryIO, name: str, spec: TensorSpec, tensors: Iterator[tuple[str, np.ndarray]]
) -> str:
    found, tensor = next(tensors, (None, np.empty(0)))
    if (found, tensor.shape, tensor.dtype) != (name, *spec):
        raise ValueError(f"expected {name} {spec}, got {found} {tensor.shape} {tensor.dtype}")
    raw = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    file.write(raw)
    return hashlib.sha256(raw).hexdigest()


def _header(specs: Mapping[str, TensorSpec]) -> bytes:
    entries, offset = {}, 0
    for name, spec in specs.items():
        entries[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": [offset, offset + spec.bytes],
        }
        offset += spec.bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
