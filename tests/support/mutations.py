"""Strategies of Hypothesis that damage the bytes of a sound file, as disks and strangers do."""

import json
import re
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

_HEAD = 512
"""Where headers are; half of the places lie there."""

_WORDS = (0, 1, 0x7F, 0xFF, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
_TOKENS = (
    *("0", "-1", "1e400", "-1e400", "nan", "inf", "NaN", "Infinity", "1e-320", "0.3", "1" * 5000),
    *(str(2**31), str(2**63), str(2**64), str(10**400), "", "x" * 5000, "\x00", "\x1b[31m", "\n"),
    *("../../etc/passwd", "/dev/zero", "/etc/passwd", "é", "\ud800", "null", "true", "[]", "{}"),
)
_ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 0.3, 2**31, 2**63, -(2**63) - 1, 2**64, 10**400, 1e308, -0.0),
    *(float("nan"), float("inf"), -float("inf"), "", "x" * 5000, "\x00", "a\nb\x1b[31m", "../x"),
    *([], {}, [[]], [1, "a"], {"0": 6}, "1", "nan", [float("nan")] * 16, [10**400] * 9),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_DEEP = 100_000

type Damage = Callable[[st.DrawFn, bytes], bytes]


def damaged(data: bytes, *, is_json: bool = False) -> st.SearchStrategy[bytes]:
    """The bytes with one to four damages; those of JSON may be its values."""
    operations = [*_BYTES, *(_VALUES * 3 if is_json else _TEXT if _is_text(data) else [])]

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        found = data
        for _ in range(draw(st.integers(1, 4))):
            found = draw(st.sampled_from(operations))(draw, found)
        return found

    return strategy()


def _is_text(data: bytes) -> bool:
    return b"\0" not in data[:_HEAD]


def _place(draw: st.DrawFn, data: bytes) -> int:
    end = len(data) if draw(st.booleans()) else min(len(data), _HEAD)
    return draw(st.integers(0, end))


def _slice(draw: st.DrawFn, data: bytes) -> tuple[int, int]:
    start = _place(draw, data)
    return start, min(len(data), start + draw(st.sampled_from((1, 2, 4, 8, 64, 1024))))


def _flip(draw: st.DrawFn, data: bytes) -> bytes:
    if not data:
        return data
    place = min(_place(draw, data), len(data) - 1)
    return data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]


def _cut(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: _place(draw, data)]


def _leave_out(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = _slice(draw, data)
    return data[:start] + data[end:]


def _repeat(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = _slice(draw, data)
    return data[:end] + data[start:end] * draw(st.sampled_from((1, 2, 100))) + data[end:]


def _swap(draw: st.DrawFn, data: bytes) -> bytes:
    """Two neighbouring pieces in the other order."""
    first, middle, last = sorted(_place(draw, data) for _ in range(3))
    return data[:first] + data[middle:last] + data[first:middle] + data[last:]


def _insert(draw: st.DrawFn, data: bytes) -> bytes:
    place = _place(draw, data)
    return data[:place] + draw(st.binary(min_size=1, max_size=8)) + data[place:]


def _overwrite(draw: st.DrawFn, data: bytes) -> bytes:
    """A number of four or eight bytes, of either order, where another may have been."""
    place, word = _place(draw, data), draw(st.sampled_from(_WORDS))
    layout = draw(st.sampled_from(("<I", ">I", "<Q", ">Q", "<H", ">H")))
    packed = struct.pack(layout, word % 2 ** (8 * struct.calcsize(layout)))
    return data[:place] + packed + data[place + len(packed) :]


def _blank(draw: st.DrawFn, data: bytes) -> bytes:
    start, end = _slice(draw, data)
    return data[:start] + draw(st.sampled_from((b"\0", b"\xff"))) * (end - start) + data[end:]


def _change_number(draw: st.DrawFn, data: bytes) -> bytes:
    spans = [found.span() for found in _NUMBER.finditer(data[: 64 * _HEAD])]
    if not spans:
        return data
    start, end = draw(st.sampled_from(spans))
    token = draw(st.sampled_from(_TOKENS)).encode("utf-8", "surrogatepass")
    return data[:start] + token + data[end:]


def _repeat_line(draw: st.DrawFn, data: bytes) -> bytes:
    lines = data.split(b"\n")
    line = draw(st.integers(0, len(lines) - 1))
    return b"\n".join((*lines[:line], lines[line], lines[line], *lines[line + 1 :]))


def _change_value(draw: st.DrawFn, data: bytes) -> bytes:
    """Another value somewhere in JSON, or one value fewer, or one nested very deep."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return _flip(draw, data)
    holder, key = root, 0
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.integers(0, 4)):
        holder = holder[key]
        keys = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw(st.sampled_from(keys))
    how = draw(st.sampled_from(("odd", "odd", "odd", "deep", "gone", "list")))
    if how == "gone" and holder is not root:
        del holder[key]
    elif how == "list":
        holder[key] = [holder[key]]
    else:
        holder[key] = "DEEP" if how == "deep" else draw(st.sampled_from(_ODD_VALUES))
    text = json.dumps(root[0]).replace('"DEEP"', "[" * _DEEP + "]" * _DEEP if how == "deep" else "")
    return text.encode()


_BYTES: list[Damage] = [_flip, _flip, _cut, _leave_out, _repeat, _swap, _insert, _overwrite, _blank]
_TEXT: list[Damage] = [_change_number] * 6 + [_repeat_line]
_VALUES: list[Damage] = [_change_value] * 3 + [_change_number]
