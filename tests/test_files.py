"""A path holds the old content or the new, never a part of it."""

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxrecon.errors import OutputError
from jaxrecon.files import check_output_folder, replacing_file, replacing_folder


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


def test_a_failure_while_the_current_folder_is_filled_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_text("old")
    rename, moves = os.rename, itertools.count()

    def failing(source: Path, target: Path) -> None:
        if next(moves) == 2:
            raise OSError(errno.ENOSPC, "")
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    disk_is_full = pytest.raises(OutputError, match="disk is full")
    with disk_is_full, replacing_folder(".", overwrite=True) as temporary:
        for name in "ab":
            (temporary / name).write_text("new")
    assert written(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_what_is_read_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "a.png"
    photo.write_text("a photo")
    for inputs in ([photo], [tmp_path / "photos"]):
        with pytest.raises(OutputError, match="is read from there and would be deleted"):
            check_output_folder(tmp_path / "photos", overwrite=True, inputs=inputs)
    check_output_folder(tmp_path / "photos" / "out", overwrite=True, inputs=[photo])


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_is_no_folder_is_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "out"
    os.mkfifo(place) if kind == "fifo" else place.symlink_to("nowhere")
    with pytest.raises(OutputError, match="a file of that name exists"):
        check_output_folder(place, overwrite=True)
