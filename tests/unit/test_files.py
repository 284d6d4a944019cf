"""A path holds the old content or the new, never a part of it."""

import errno
import itertools
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxrecon.errors import OutputError
from jaxrecon.files import (
    check_output_file,
    check_output_folder,
    renames,
    replacing_file,
    replacing_folder,
    staging,
)
from random_recon import random_recon


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which the current user may not write (root becomes another user)."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    root = os.geteuid() == 0
    if root:
        for parent in (tmp_path, *tmp_path.parents):
            if parent.stat().st_uid == 0 and parent.is_relative_to("/tmp/pytest-of-root"):
                parent.chmod(0o755)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)


def test_a_file_is_replaced_at_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing_file(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with replacing_file(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("kind", [OSError(errno.ENOSPC, "No space"), ValueError("stop")])
def test_after_an_error_the_old_file_stands_and_nothing_else(
    tmp_path: Path, kind: Exception
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises((OutputError, ValueError)) as caught, replacing_file(path) as temporary:
        temporary.write_text("half")
        raise kind
    if isinstance(kind, OSError):
        assert "the disk is full" in str(caught.value)
        assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_folder_in_use_is_refused_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "precious").write_text("data")
    with pytest.raises(OutputError, match=r"not empty.*--overwrite"), replacing_folder(path):
        raise AssertionError("must not be reached")
    with replacing_folder(path, overwrite=True) as temporary:
        (temporary / "new").write_text("data")
        assert (path / "precious").exists()
    assert [p.name for p in path.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with replacing_folder(tmp_path / "out") as temporary:
        (temporary / "new").touch()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


def test_after_an_error_the_old_folder_stands(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(KeyboardInterrupt), replacing_folder(path, overwrite=True) as temporary:
        (temporary / "half").touch()
        raise KeyboardInterrupt
    assert [p.name for p in path.iterdir()] == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_wrong_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file of that name exists"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="a folder of that name exists"), replacing_file(tmp_path):
        pass
    with (
        pytest.raises(OutputError, match="a part of the path is a file"),
        replacing_file(tmp_path / "file" / "below"),
    ):
        pass


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_pipe_or_a_device_is_not_renamed_over(kind: str, linked: bool, tmp_path: Path) -> None:
    """Nor is /dev/null, which root could replace, for all who use the machine."""
    place = tmp_path / "it.ply"
    if kind == "pipe":
        os.mkfifo(place)
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(place))  # a long name is none for a socket
    before = place.lstat()
    given = place
    if linked:
        given = tmp_path / "link.ply"
        given.symlink_to(place)
    told = f"cannot write {given}: it is a pipe or a device, not a file; choose another name"
    with pytest.raises(OutputError, match=re.escape(told)), replacing_file(given):
        raise AssertionError
    with pytest.raises(OutputError, match=re.escape(told)):
        check_output_file(given)
    with pytest.raises(OutputError, match=re.escape(told)):
        random_recon().save(given)
    after = place.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({place.name, given.name})


def test_no_permission_is_one_clear_line(read_only: Path) -> None:
    for writer in (replacing_file, replacing_folder):
        with pytest.raises(OutputError, match="no permission") as caught, writer(read_only / "x"):
            pass
        assert "\n" not in str(caught.value)
    assert not list(read_only.iterdir())


def written(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_current_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not replaced: who is in it would be left in one that is deleted."""
    monkeypatch.chdir(tmp_path)
    with replacing_folder(".") as temporary:
        (temporary / "a").write_text("old")
    assert written(tmp_path) == ["a"]
    with replacing_folder(".", overwrite=True) as temporary:
        (temporary / "b").mkdir()
    assert written(tmp_path) == ["b"]
    assert Path.cwd().samefile(tmp_path)


@pytest.fixture(params=["in one step", "in several"])
def renaming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Folders are exchanged as here, or as where the system cannot do that in one step."""
    if request.param == "in several":
        lacking = itertools.cycle([errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
        monkeypatch.setattr(renames, "_system_call", lambda: lambda *paths: next(lacking))
    return request.param


@pytest.mark.parametrize("moves_before", range(4))
def test_a_failure_while_the_current_folder_is_filled_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves_before: int, renaming: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        (tmp_path / name).write_text("old")
    moves = itertools.count()

    def failing(function: Any) -> Any:
        def call(*paths: Path) -> Any:
            if next(moves) == moves_before:
                raise OSError(errno.ENOSPC, "")
            return function(*paths)

        return call

    for name in ("exchange", "move_new"):
        monkeypatch.setattr(staging, name, failing(getattr(staging, name)))
    disk_is_full = pytest.raises(OutputError, match="disk is full")
    with disk_is_full, replacing_folder(".", overwrite=True) as temporary:
        for name in "bcde":
            (temporary / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        "abc", "old"
    )


def test_what_is_read_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "a.png"
    photo.write_text("a photo")
    for inputs in ([photo], [tmp_path / "photos"]):
        with pytest.raises(OutputError, match="is read from there and would be deleted"):
            check_output_folder(tmp_path / "photos", overwrite=True, inputs=inputs)
    check_output_folder(tmp_path / "photos" / "out", overwrite=True, inputs=[photo])


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "out"
    os.mkfifo(place)
    with pytest.raises(OutputError, match="a file of that name exists"):
        check_output_folder(place, overwrite=True)


def test_a_folder_is_replaced_however_the_system_renames(tmp_path: Path, renaming: str) -> None:
    out = tmp_path / "out"
    for text in ("one", "two", "three"):
        with replacing_folder(out, overwrite=True) as temporary:
            (temporary / text).write_text(text)
            (temporary / "sub").mkdir()
        assert written(out) == sorted([text, "sub"])
    assert written(tmp_path) == ["out"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("there", ["nothing", "an empty folder"])
def test_what_appears_meanwhile_stays(
    tmp_path: Path, renaming: str, there: str, overwrite: bool
) -> None:
    out = tmp_path / "out"
    if there != "nothing":
        out.mkdir()

    def write() -> None:
        with replacing_folder(out, overwrite=overwrite) as temporary:
            (temporary / "result").write_text("new")
            out.mkdir(exist_ok=True)
            (out / "notes").write_text("precious")

    if overwrite:
        with pytest.warns(UserWarning, match=r"was left as it is, and the result is in .*out\.1"):
            write()
        assert written(tmp_path / "out.1") == ["result"]
    else:
        with pytest.raises(OutputError, match="has changed since this run began"):
            write()
    assert written(out) == ["notes"] and (out / "notes").read_text() == "precious"
    assert written(tmp_path) == (["out", "out.1"] if overwrite else ["out"])


def added(out: Path) -> None:
    (out / "notes").write_text("precious")


def added_below(out: Path) -> None:
    (out / "sub" / "notes").write_text("precious")


def edited(out: Path) -> None:
    (out / "sub" / "old").write_text("precious")


def exchanged(out: Path) -> None:
    shutil.copytree(out, out.with_name("copy"))
    shutil.rmtree(out)
    out.with_name("copy").rename(out)


@pytest.mark.parametrize("change", [added, added_below, edited, exchanged])
@pytest.mark.parametrize("stays", [False, True])
def test_what_changed_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renaming: str, change: Any, stays: bool
) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "old").write_text("old")
    if stays and change is not exchanged:
        monkeypatch.chdir(out)
    after: dict[Path, bytes] = {}
    changed = pytest.raises(OutputError, match="what it holds has changed since this run began")
    with changed, replacing_folder(out, overwrite=True) as temporary:
        (temporary / "result").write_text("new")
        change(out)
        after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        after = {path: data for path, data in after.items() if ".out.part" not in str(path)}
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == after
    assert written(tmp_path) == ["out"]


def test_what_appears_between_two_renames_stays_and_so_does_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system cannot exchange two folders in one step."""
    out, replace = tmp_path / "out", os.replace
    out.mkdir()
    (out / "old").touch()
    monkeypatch.setattr(renames, "_system_call", lambda: lambda *paths: errno.ENOSYS)
    calls = itertools.count()

    def late(source: Path, target: Path) -> None:
        if target == out and next(calls) == 1:
            out.mkdir()
            (out / "notes").touch()
        replace(source, target)

    monkeypatch.setattr(os, "replace", late)
    refused = pytest.raises(OutputError, match="cannot write")
    warned = pytest.warns(UserWarning, match=r"what it held before is in .*out\.1")
    with warned, refused, replacing_folder(out, overwrite=True) as temporary:
        (temporary / "result").touch()
    assert (written(out), written(tmp_path / "out.1")) == (["notes"], ["old"])
    assert written(tmp_path) == ["out", "out.1"]


@pytest.mark.parametrize("there", ["nothing in it", "a file in it"])
def test_a_link_to_a_folder_stays_a_link(tmp_path: Path, renaming: str, there: str) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "out"
    real.mkdir(parents=True)
    if there == "a file in it":
        (real / "old").touch()
    link.symlink_to(real)
    with replacing_folder(link, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert link.is_symlink() and written(link) == written(real) == ["new"]
    assert written(tmp_path) == ["disk", "out"] and written(real.parent) == ["real"]


def test_folders_above_are_made_and_go_again_after_an_error(tmp_path: Path) -> None:
    for writer in (replacing_file, replacing_folder):
        with pytest.raises(KeyboardInterrupt), writer(tmp_path / "a" / "b" / "out"):
            raise KeyboardInterrupt
        assert not written(tmp_path)
        with writer(tmp_path / "a" / writer.__name__) as temporary:
            assert temporary.parent.is_relative_to(tmp_path / "a")
        assert written(tmp_path / "a") == [writer.__name__]
        shutil.rmtree(tmp_path / "a")


def test_a_folder_in_a_place_that_cannot_be_written_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").touch()
    monkeypatch.setattr(staging, "may_write", lambda folder: folder != tmp_path)
    inode = out.stat().st_ino
    with replacing_folder(out, overwrite=True) as temporary:
        assert temporary.is_relative_to(out)
        (temporary / "new").touch()
    assert written(out) == ["new"] and out.stat().st_ino == inode
