"""Files read under guard: JSON, NumPy's archives, and the values that they hold."""

import gzip
import json
import os
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrecon.errors import InputError, WeightsError
from jaxrecon.reading import (
    is_file_name,
    open_npz,
    parse_json,
    read_json,
    shown,
    unpacked_limit,
)

DEEP = "[" * 100_000 + "]" * 100_000


def refused(path: Path, read: Callable[[Path], object], kind: type[Exception] = InputError) -> str:
    """The one line with which a file is refused, which names it."""
    with pytest.raises(kind) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 500
    assert path.name[:50].replace("\0", "\\x00") in message
    return message


class TestJson:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (DEEP, "nested too deep"),
            ('{"a": ' * 50_000 + "1" + "}" * 50_000, "nested too deep"),
            ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' stands twice"),
            ('{"a": 1, "\\u0061": 2}', "the key 'a' stands twice"),
            ("1" * 5000, "Exceeds the limit"),
            ('{"a": 1', "Expecting"),
            ("", "Expecting value"),
        ],
    )
    def test_what_is_no_sound_json(self, tmp_path: Path, text: str, told: str) -> None:
        (tmp_path / "a.json").write_text(text)
        assert told in refused(tmp_path / "a.json", read_json)
        with pytest.raises(ValueError, match=told):
            parse_json(text)

    def test_the_kind_of_the_error(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(b"\xff")
        told = refused(tmp_path / "a.json", lambda p: read_json(p, kind=WeightsError), WeightsError)
        assert "it is not UTF-8 text" in told

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.json")
        (tmp_path / "folder.json").mkdir()
        (tmp_path / "link.json").symlink_to(tmp_path / "pipe.json")
        assert "a pipe or a device" in refused(tmp_path / "pipe.json", read_json)
        assert "a pipe or a device" in refused(tmp_path / "link.json", read_json)
        assert "it is a folder" in refused(tmp_path / "folder.json", read_json)
        assert "File name too long" in refused(tmp_path / ("x" * 5000), read_json)
        assert "null" in refused(tmp_path / "a\0b", read_json)

    def test_packed_files(self, tmp_path: Path) -> None:
        path = tmp_path / "a.json"
        path.write_bytes(gzip.compress(b'{"a": [1, 2]}'))
        assert read_json(path) == {"a": [1, 2]}
        path.write_bytes(gzip.compress(b" " * 2**20))
        assert "too large for what it is" in refused(path, lambda p: read_json(p, limit=2**19))

    def test_a_byte_order_mark(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
        assert read_json(tmp_path / "a.json") == [1]


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def test_any_value_is_shown_briefly() -> None:
    for value in (10**5000, -(10**5000), nested(5000), "x" * 5000, {"a": [10**5000]}, None):
        assert 0 < len(shown(value)) <= 80


@pytest.mark.parametrize(
    ("name", "is_one"),
    [(name, True) for name in ("a.npz", "ä b", "a\nb", "..a")]
    + [(name, False) for name in ("", ".", "..", "a/b", "/a", "a\\b", "\\a", "c:a", "a/", "./a")],
)
def test_names_of_files_beside_a_file(name: str, is_one: bool) -> None:
    assert is_file_name(name) == is_one


def header(text: str, version: tuple[int, int] = (1, 0), data: bytes = b"\0" * 64) -> bytes:
    text += " " * (-(len(text) + 11) % 64) + "\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text.encode()))
    return b"\x93NUMPY" + bytes(version) + length + text.encode() + data


def described(descr: str, shape: str, order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


def read_all(path: Path) -> dict[str, np.ndarray]:
    with open_npz(path) as archive:
        return {name: archive.read(name) for name in archive.names}


class TestNpz:
    def write(self, path: Path, members: dict[str, bytes], **options: Any) -> Path:
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
            np.zeros((0, 3), np.float16),
            np.array(["a", "ä"]),
            np.array(7),
            np.zeros(2, "M8[s]"),
        ],
    )
    def test_arrays_are_read_as_numpy_reads_them(self, tmp_path: Path, array: np.ndarray) -> None:
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "a.npz", a=array)
            found = read_all(tmp_path / "a.npz")["a"]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            assert np.array_equal(found, array)

    @pytest.mark.parametrize(
        "text",
        [
            described("'<f8'", "(2,4)", "1"),
            described("'<f8'", "(-2,4)"),
            described("'<f8'", "(True,8)"),
            described("'<f8'", "(2**3,)"),
            described("'<f8'", "[8]"),
            described("'<f8'", "(8,)").replace("descr", "desc"),
            described("'<f8'", f"({'1,' * 40})"),
            described("'<f8'", "(0,9223372036854775808)"),
            described("'<f8'", "(9,)"),
            described("'<f8'", "(7,)"),
            described("'O'", "(8,)"),
            described("[('a', '<f8')]", "(8,)"),
            described("'V8'", "(8,)"),
            described("'U0'", "(100000000,)"),
            described("'\\d'", "(8,)"),
            described("__import__('os')", "(8,)"),
            "{" * 90,
            "'" + "a" * 20_000 + "'",
        ],
    )
    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_hostile_headers(self, tmp_path: Path, text: str, version: tuple[int, int]) -> None:
        path = self.write(tmp_path / "a.npz", {"a.npy": header(text, version)})
        with warnings.catch_warnings(action="error"):
            assert "is not a sound .npz file" in refused(path, read_all)

    @pytest.mark.parametrize(
        "members",
        [
            {"a.npy": b""},
            {"a.npy": b"\x93NUMPY\1\0\xff\xff"},
            {"a.txt": b"hello"},
            {"a.npy": header(described("'<f8'", "(8,)")), "a": b""},
        ],
    )
    def test_hostile_members(self, tmp_path: Path, members: dict[str, bytes]) -> None:
        refused(self.write(tmp_path / "a.npz", members), read_all)

    def test_a_name_that_stands_twice(self, tmp_path: Path) -> None:
        data = header(described("'<f8'", "(8,)"))
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, pytest.warns(UserWarning):
            archive.writestr("a.npy", data)
            archive.writestr("a.npy", data)
        assert "stands twice" in refused(tmp_path / "a.npz", read_all)

    def test_other_ways_of_packing(self, tmp_path: Path) -> None:
        data = header(described("'<f8'", "(8,)"))
        for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
            path = self.write(tmp_path / "a.npz", {"a.npy": data}, compression=method)
            assert "packed in another way" in refused(path, read_all)

    def test_what_unpacks_to_far_more_than_its_size(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez_compressed(path, a=np.zeros(unpacked_limit(2**20) // 8))
        assert "far more than its size" in refused(path, read_all)

    @pytest.mark.parametrize("order", "<>")
    def test_numbers_that_are_no_text(self, tmp_path: Path, order: str) -> None:
        text = np.array([65, 0x110000], f"{order}u4").view(f"{order}U1")
        np.savez(tmp_path / "a.npz", a=text)
        assert "'a' holds what is no text" in refused(tmp_path / "a.npz", read_all)

    def test_an_absent_array(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", b=np.zeros(1))
        with open_npz(tmp_path / "a.npz") as archive:
            with pytest.raises(InputError, match="it has no array 'a', but b"):
                archive.read("a")
            with pytest.raises(InputError, match="it has no array 'a', but b"):
                archive.header("a")

    def test_damage_to_the_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, a=np.arange(100.0))
        data = bytearray(path.read_bytes())
        data[400] ^= 1
        path.write_bytes(data)
        assert "Bad CRC-32" in refused(path, read_all)

    @pytest.mark.parametrize("data", [b"", b"PK\3\4", b"hello", json.dumps([1]).encode()])
    def test_what_is_no_archive(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "a.npz").write_bytes(data)
        refused(tmp_path / "a.npz", read_all)
