"""How much files of points declare to hold: libraries take memory for it before they read on."""

import struct
from math import prod
from typing import Any

from jaxrecon.reading import parse_json

LONGEST_HEADER = 2**16
"""Bytes of a PLY file among which its header must end."""

_WIDEST = 8
_COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_COMPONENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_GLB = struct.Struct("<4sIIII")
_JSON_CHUNK = 0x4E4F534A


def bytes_declared_by_ply(start: bytes) -> int:
    """At most how many bytes the elements of a PLY file take in memory.

    Args:
      start: `LONGEST_HEADER` bytes of the file, or all.

    Raises:
      ValueError: it is no header of such a file, or does not end.
    """
    declared, count = 0, 0
    for line in start.splitlines():
        match line.split():
            case [b"element", _, number]:
                count = int(number)
                if count < 0:
                    raise ValueError(f"an element has {count} rows")
            case [b"property", *_]:
                declared += count * _WIDEST
            case [b"end_header"]:
                return declared
            case _:
                pass
    raise ValueError(f"its header does not end within {LONGEST_HEADER} bytes")


def bytes_declared_by_glb(content: bytes) -> int:
    """How many bytes the accessors of a binary glTF file take in memory.

    Raises:
      ValueError: it is no such file.
    """
    if len(content) < _GLB.size:
        raise ValueError("it ends within its header")
    magic, _, _, length, kind = _GLB.unpack_from(content)
    if magic != b"glTF" or kind != _JSON_CHUNK:
        raise ValueError("it does not begin as a glTF file")
    header = parse_json(content[_GLB.size : _GLB.size + length])
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    accessors = header.get("accessors", [])
    if not isinstance(accessors, list):
        raise ValueError("its accessors are no list")
    return sum(map(_accessor_bytes, accessors))


def _accessor_bytes(accessor: Any) -> int:
    try:
        sizes = (
            accessor["count"],
            _COMPONENTS[accessor["type"]],
            _COMPONENT_BYTES[accessor["componentType"]],
        )
    except (KeyError, TypeError) as error:
        raise ValueError("an accessor lacks its count, its type or its component type") from error
    if type(sizes[0]) is not int or sizes[0] < 0:
        raise ValueError(f"an accessor has {sizes[0]!r:.40} elements")
    return prod(sizes)
