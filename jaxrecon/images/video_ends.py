"""Whether a video's file ends where its container says, or in the midst of a packet."""

import os
from pathlib import Path
from typing import BinaryIO

from jaxrecon.reading import open_plain

_TAIL = 2**18
_PACK, _END = 0xBA, 0xB9
_TS_PACKETS = ((188, 0), (192, 4))
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEAD = 2**16


def is_cut_off(path: Path, container: str) -> bool:
    """Whether the end of a file is missing, as far as its container tells.

    Args:
      path: a video.
      container: FFmpeg's name of the format.

    Raises:
      InputError: the file cannot be read.
    """
    with open_plain(path) as file:
        length = os.fstat(file.fileno()).st_size
        if container == "mpeg":
            return _ends_in_a_packet(file, length)
        if container == "mpegts":
            head = file.read(1024)
            sizes = [size for size, at in _TS_PACKETS if head[at::size][:5].count(b"G") == 5]
            return bool(sizes) and length % sizes[0] != 0
        return container == "asf" and _asf_length(file.read(_ASF_HEAD)) > length


def _ends_in_a_packet(file: BinaryIO, length: int) -> bool:
    """Walks over the packets of an MPEG program stream (ISO 13818-1), from near its end."""
    file.seek(max(length - _TAIL, 0))
    tail = file.read()
    place = tail.find(bytes((0, 0, 1, _PACK)))
    while 0 <= place < len(tail):
        if len(tail) - place < 6:
            return tail[place : place + 4] != bytes((0, 0, 1, _END)) and any(tail[place:])
        if tail[place : place + 3] != b"\0\0\1":
            return False  # what is no packet is not for us to judge
        kind = tail[place + 3]
        if kind == _END:
            return False
        place += _pack_length(tail[place:]) if kind == _PACK else _packet_length(tail[place:])
    return place > len(tail)


def _pack_length(pack: bytes) -> int:
    second = pack[4] & 0xC0 == 0x40
    return 14 + (pack[13] & 7 if len(pack) > 13 else 0) if second else 12


def _packet_length(packet: bytes) -> int:
    return 6 + int.from_bytes(packet[4:6], "big")


def _asf_length(head: bytes) -> int:
    """How long an ASF file says that it is; 0 if it does not."""
    place = head.find(_ASF_PROPERTIES)
    return int.from_bytes(head[place + 40 : place + 48], "little") if place >= 0 else 0
