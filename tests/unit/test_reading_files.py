"""Reading under guard: plain files, lines, values, and paths that files name."""

import gzip
import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrecon.checks import finite, path_given, real_number, shown, truth_value, whole_number
from jaxrecon.errors import InputError, JaxreconError, WeightsError
from jaxrecon.reading import (
    inside,
    is_folder,
    is_plain_file,
    number,
    numbers,
    open_plain,
    parse_number,
    parse_whole,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    text,
    whole,
)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def read_all_lines(path: Path) -> list[str]:
    return list(read_lines(path))


def opened(path: Path) -> bytes:
    with open_plain(path) as file:
        return file.read()


READERS = (opened, read_bytes, read_text, read_json, read_all_lines)


@pytest.mark.parametrize("read", READERS)
def test_only_plain_files_are_read(read: Any, pipe: Path, tmp_path: Path) -> None:
    names = {
        pipe: "a pipe or a device, not a file",
        Path("/dev/zero"): "a pipe or a device, not a file",
        tmp_path: "it is a folder, not a file",
        tmp_path / "none": "No such file",
        tmp_path / ("a" * 300): "File name too long",
        tmp_path / "a\0b": "null",
        pipe / "x": "Not a directory",
    }
    for path, told in names.items():
        start = time.monotonic()
        with pytest.raises(InputError, match=told):
            read(path)
        assert time.monotonic() - start < 1
    (tmp_path / "link").symlink_to(pipe)
    with pytest.raises(InputError, match="a pipe or a device"):
        read(tmp_path / "link")


def test_what_is_there(pipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert is_plain_file(tmp_path / "file") and not is_folder(tmp_path / "file")
    assert is_folder(tmp_path) and not is_plain_file(tmp_path)
    for path in (pipe, tmp_path / "none", tmp_path / ("a" * 300), tmp_path / "\0", pipe / "x"):
        assert not is_plain_file(path) and not is_folder(path)


def test_packed_files_are_unpacked_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"[1, 2]"))
    assert read_json(path) == [1, 2]
    path.write_bytes(
        gzip.compress(gzip.compress(b"[1, 2]", mtime=0))
    )  # only one layer is taken off
    assert read_bytes(path) == gzip.compress(b"[1, 2]", mtime=0)
    path.write_bytes(gzip.compress(b" " * 2**20, 1) * 140)
    tracemalloc.start()
    with pytest.raises(InputError, match="too large for what it is"):
        read_bytes(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200 * 2**20


def test_packed_files_that_are_damaged(tmp_path: Path) -> None:
    whole_ = gzip.compress(b"text " * 1000)
    for data in (whole_[:-5], whole_[:40], whole_[:30] + b"\xff" * 20 + whole_[50:]):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(InputError, match="cannot read"):
            read_text(tmp_path / "a")


def test_errors_are_of_the_kind_asked_for(tmp_path: Path) -> None:
    for read in (
        read_bytes,
        read_text,
        read_json,
        lambda path, kind: list(read_lines(path, kind=kind)),
    ):
        with pytest.raises(WeightsError):
            read(tmp_path / "none", kind=WeightsError)


def test_lines_of_every_system(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffä\r\nb\rc\n\nd".encode())
    assert read_all_lines(tmp_path / "a") == ["ä", "b", "c", "", "d"]
    (tmp_path / "a").write_bytes(b"ok\n\xff\n")
    with pytest.raises(InputError, match="it is not UTF-8 text"):
        read_all_lines(tmp_path / "a")


def test_endless_lines_take_no_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"first\n" + b"a" * 2**25 + b"\nlast\n")
    tracemalloc.start()
    with pytest.raises(InputError, match="line 2 has more than 10000 bytes"):
        read_all_lines(tmp_path / "a")
    lines = list(read_lines(tmp_path / "a", cut=True))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert lines == ["first", "a" * 10_000 + "\0", "last"]
    assert most < 8 * 2**20


@pytest.mark.parametrize(
    "source", ['{"a": 1, "a": 2}', "[" * 10**5, '{"b": [{"a": 1, "c": 2, "a": 1}]}', "9" * 5000, ""]
)
def test_json_refused(source: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(source)
    with pytest.raises(InputError, match="it is no sound JSON") as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).isprintable()


# Paths


def test_paths_inside(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    (own / "deep").mkdir(parents=True)
    other.mkdir()
    for folder in (own, own / "deep", other):
        (folder / "a.png").touch()
    (own / "in").symlink_to(own / "deep")
    (own / "out").symlink_to(other)
    (own / "file").symlink_to(other / "a.png")
    (own / "loop").symlink_to(own / "loop")
    for name in ("a.png", "./deep/../a.png", "deep\\a.png", "in/a.png", str(own / "a.png"), "none"):
        inside(own, name, where="f")
    assert inside(own, "deep\\a.png", where="f").is_file()
    outside = (
        "../other/a.png",
        "out/a.png",
        "file",
        str(other / "a.png"),
        "..\\other\\a.png",
        "..",
    )
    for name in outside:
        with pytest.raises(InputError, match=r"^f names the file .* leads out of .*allow_outside"):
            inside(own, name, where="f")
        assert inside(own, name, where="f", allow_outside=True).exists()
    for name in ("loop", "a\0b", "\ud800"):
        with pytest.raises(InputError, match="f names the file"):
            inside(own, name, where="f")


def test_a_folder_that_is_a_link_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.png").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "a.png", where="f").is_file()


# Values


NO_NUMBERS = (True, None, "1", [1], {}, float("nan"), float("inf"), 10**400)


def test_numbers_of_files() -> None:
    assert number(3, "f: a") == 3.0 and whole(640.0, "f: w") == 640
    for value in NO_NUMBERS:
        for check in (number, whole):
            with pytest.raises(InputError, match=r"^f: a is .*; expected a"):
                check(value, "f: a")
    for value in (0.5, -1, 10**9, 1e30):
        with pytest.raises(InputError, match="a whole number of at least 0 and below 1000000000"):
            whole(value, "f: a")


def test_nested_numbers_of_files() -> None:
    found = numbers([[1, 2.5]], "f: m", (1, 2), (2, 1))
    np.testing.assert_array_equal(found, [[1, 2.5]])
    wrong = ([1, 2], [[1, 2, 3]], [[1, [2]]], [[1, "2"]], [[1, True]], [[1, None]], "12", {"0": 1})
    for value in (*wrong, [[1, 10**400]], [[[1, 2]]]):
        with pytest.raises(InputError, match=r"^f: m is .*; expected 1x2 or 2x1 finite numbers"):
            numbers(value, "f: m", (1, 2), (2, 1))


def test_texts_of_files() -> None:
    assert text("a" * 4096, "f") == "a" * 4096
    for value in ("", "a" * 4097, "a\0", 3, ["a"], None):
        with pytest.raises(InputError, match=r"^f is .*; expected"):
            text(value, "f")


@pytest.mark.parametrize("word", ["1_0", "0" * 101, "", "x", "0x10"])
def test_words_that_are_no_numbers(word: str) -> None:
    for parse in (parse_number, parse_whole):
        with pytest.raises(ValueError):
            parse(word)
    assert parse_number("1e-3") == 0.001 and parse_whole("-7") == -7


# Arguments


def test_numbers_as_arguments() -> None:
    for value in (0.5, np.float32(0.5), np.array(0.5), np.float16(0.5)):
        assert finite(value) == real_number("a", value) == 0.5
    for value in (*NO_NUMBERS, np.array([1.0]), np.bool_(True), np.array(True), np.array("1"), 1j):
        assert finite(value) is None
    assert real_number("a", float("inf")) == float("inf")
    for value in (float("nan"), None, "1", True, [0.5], 10**400):
        with pytest.raises(InputError, match=r"^a=.* must be a number"):
            real_number("a", value)


def test_whole_numbers_as_arguments() -> None:
    found = whole_number("a", np.int8(3), least=1)
    assert found == 3 and type(found) is int
    for value in (1.0, True, "1", None, [1], np.float32(1)):
        with pytest.raises(InputError, match=r"^a=.* is no whole number; give one of at least 1"):
            whole_number("a", value, least=1)
    for value, told in ((0, "at least 1"), (10**5000, "at most 9"), (-(10**5000), "at least 1")):
        with pytest.raises(InputError, match=told):
            whole_number("a", value, least=1, most=9)


def test_truth_values_as_arguments() -> None:
    assert truth_value("a", np.bool_(True)) is True
    for value in (1, "no", None, [], np.array([True])):
        with pytest.raises(InputError, match=r"^a=.* must be True or False"):
            truth_value("a", value)


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800", b"a", 3, None, ["a"]])
def test_paths_as_arguments(path: Any) -> None:
    with pytest.raises(InputError, match=r"^a: "):
        path_given("a", path)


def test_values_are_shown_short() -> None:
    class Faulty:
        def __repr__(self) -> str:
            raise RuntimeError

    values = (
        10**5000,
        "a" * 10**6,
        [[1] * 10**6] * 10,
        {"a" * 100: "b" * 100},
        Faulty(),
        b"\0" * 99,
    )
    for value in (*values, [10**5000], np.zeros((100, 100)), json.loads("[" * 500 + "]" * 500)):
        assert len(str(JaxreconError(shown(value)))) < 450
