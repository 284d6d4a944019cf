"""No run loses what it did not make, and a killed one leaves nothing that the next does not mend.

The runs are processes of `kill_writers.py`, and short ones that kill themselves at a chosen moment.
"""

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxrecon.errors import OutputError
from jaxrecon.files import (
    check_output_folder,
    holding_folder,
    locks,
    replacing_file,
    replacing_folder,
    waiting_for,
)
from jaxrecon.registry import fetching
from places import SUPPORT, fresh_process
from tiny_models import tiny_entry, write_upstream

ENVIRONMENT = fresh_process()


@contextmanager
def python(code: str, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A process of its own, which has said its first line and is killed at the end."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as run:
        try:
            assert run.stdout is not None
            run.stdout.readline()
            yield run
        finally:
            run.kill()


def code_of(code: str, *arguments: str | Path) -> int:
    """The exit code of a process."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, check=False, timeout=60).returncode


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


REPLACES = """
import os, signal, sys
from pathlib import Path
from jaxrecon.files import renames, replacing_folder, staging
out, inside, one_step, last = Path(sys.argv[1]), *map(int, sys.argv[2:])
if inside:
    os.chdir(out)
if not one_step:
    renames._system_call = lambda: lambda *paths: 95
moves = iter(range(100))
def killing(function):
    def call(*paths):
        found = function(*paths)
        if "lock" not in str(paths) and next(moves) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return call
os.rename, os.replace = killing(os.rename), killing(os.replace)
staging.exchange, staging.move_new = killing(staging.exchange), killing(staging.move_new)
with replacing_folder(out, overwrite=True) as place:
    for name in "bcd":
        (place / name).write_text("new")
"""


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
@pytest.mark.parametrize("one_step", [True, False], ids=["exchanged", "renamed"])
def test_killed_after_each_move(tmp_path: Path, inside: bool, one_step: bool) -> None:
    old, new = dict.fromkeys("abc", "old"), dict.fromkeys("bcd", "new")
    last = 0
    for last in range(100):
        out = tmp_path / str(last) / "out"
        out.mkdir(parents=True)
        for name, text in old.items():
            (out / name).write_text(text)
        flags = (str(int(inside)), str(int(one_step)), str(last))
        code = code_of(REPLACES, out, *flags)
        assert code in (0, -9)
        before = os.getcwd()
        os.chdir(out if inside else tmp_path)
        check_output_folder(out, overwrite=True)
        os.chdir(before)
        found = {path.name: path.read_text() for path in out.iterdir()}
        assert found in (old, new), (last, found)
        assert names(out.parent) == ["out"]
        if code == 0:
            break
    assert last >= (2 if inside or not one_step else 1)


def test_what_a_user_did_after_a_kill_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder half filled, in which the user edits a file before the next run."""
    out = tmp_path / "out"
    out.mkdir()
    for name in "abc":
        (out / name).write_text("old")
    assert code_of(REPLACES, out, "1", "1", "2") == -9
    for name in "bc":
        assert (out / name).read_text() == "new"
        (out / name).write_text("mine")
    monkeypatch.chdir(out)
    with pytest.warns(UserWarning, match="what it held before is in"):
        check_output_folder(out, overwrite=True)
    found = {path.name: path.read_text() for path in out.iterdir()}
    assert found == dict.fromkeys("bc", "mine") | dict.fromkeys(["a", "b.1", "c.1"], "old")


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
def test_the_folder_of_a_run_that_lives_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if inside:
        monkeypatch.chdir(out)
    with replacing_folder(out, overwrite=True) as temporary:
        (temporary / "a").touch()
        for again in (check_output_folder, replacing_folder):
            with pytest.raises(OutputError, match="another run is writing there") as caught:
                entered = again(out, overwrite=True)
                if entered is not None:
                    entered.__enter__()
            assert "\n" not in str(caught.value)
        assert names(temporary) == ["a"]
    assert names(out) == ["a"]


WRITES_A_FILE = """
import os, signal, sys, time
from jaxrecon.files import replacing_file
with replacing_file(sys.argv[1]) as place:
    place.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_files_of_killed_runs_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with python(WRITES_A_FILE, path):
        with python(WRITES_A_FILE, path), python(WRITES_A_FILE, path):
            assert len(names(tmp_path)) == 3
        with replacing_file(path) as temporary:
            temporary.write_text("whole")
            assert len(names(tmp_path)) == 2
        assert len(names(tmp_path)) == 2 and path.read_text() == "whole"
    with replacing_file(path) as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["a", "a.b", "a.0"])
def test_names_that_contain_another_are_not_mixed_up(tmp_path: Path, name: str) -> None:
    with python(WRITES_A_FILE, tmp_path / name):
        with replacing_file(tmp_path / "a") as temporary:
            temporary.write_text("whole")
        assert len(names(tmp_path)) == 2
    with replacing_file(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == sorted({"a", name})


class TestWithoutLocks:
    """On Windows, and on file systems that refuse them."""

    @pytest.fixture(autouse=True, params=["windows", errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
    def no_locks(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        def flock(*arguments: Any) -> None:
            raise OSError(request.param, "")

        fake = None
        if request.param != "windows":
            fake = SimpleNamespace(flock=flock, LOCK_EX=2, LOCK_NB=4, LOCK_SH=1, LOCK_UN=8)
        monkeypatch.setattr(locks, "fcntl", fake)

    def test_folders_and_files_are_written(self, tmp_path: Path) -> None:
        for _ in range(2):
            with replacing_folder(tmp_path / "out", overwrite=True) as temporary:
                (temporary / "a").touch()
            with replacing_file(tmp_path / "file") as temporary:
                temporary.write_text("whole")
        assert names(tmp_path) == ["file", "out"] and names(tmp_path / "out") == ["a"]

    def test_nothing_of_others_is_removed(self, tmp_path: Path) -> None:
        with replacing_folder(tmp_path / "out", overwrite=True) as one:
            (one / "one").touch()
            with replacing_folder(tmp_path / "out", overwrite=True) as other:
                (other / "other").touch()
            assert names(one) == ["one"]
            (tmp_path / "out").rename(tmp_path / "first")
        assert names(tmp_path) == ["first", "out"] and names(tmp_path / "out") == ["one"]

    def test_a_folder_is_held_and_waited_for(self, tmp_path: Path) -> None:
        with holding_folder(tmp_path / "out"), waiting_for(tmp_path / "lock", lambda: None):
            assert (tmp_path / "out").is_dir()
        assert names(tmp_path) == []


class TestHeldFolders:
    def test_a_second_run_is_refused_at_once_and_in_one_line(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        with holding_folder(out):
            for refused in (holding_folder, replacing_folder):
                with pytest.raises(OutputError, match=f"cannot write {out}: another run"):
                    refused(out).__enter__()
            assert names(tmp_path) == ["out"]
        assert names(tmp_path) == []

    def test_the_lock_of_a_killed_run_is_gone(self, tmp_path: Path) -> None:
        code = (
            "import sys, time\nfrom jaxrecon.files import holding_folder\n"
            "with holding_folder(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)\n"
        )
        with (
            python(code, tmp_path / "out"),
            pytest.raises(OutputError, match="another run"),
        ):
            check_output_folder(tmp_path / "out", overwrite=True)
        with holding_folder(tmp_path / "out"):
            pass

    def test_a_child_of_fork_does_not_keep_it(self, tmp_path: Path) -> None:
        code = (
            "import os, sys, time\nfrom jaxrecon.files import holding_folder\n"
            "with holding_folder(sys.argv[1]):\n"
            "    if os.fork() == 0:\n        time.sleep(10)\n        os._exit(0)\n"
            "    os.kill(os.getpid(), 9)\n"
        )
        assert code_of(code, tmp_path / "out") == -9
        with holding_folder(tmp_path / "out"):
            pass

    def test_a_child_of_fork_leaves_what_its_parent_writes(self, tmp_path: Path) -> None:
        code = (
            "import os, sys\nfrom jaxrecon.files import replacing_folder, replacing_file\n"
            "with replacing_folder(sys.argv[1]) as place, replacing_file(sys.argv[2]) as file:\n"
            "    file.write_text('whole')\n    (place / 'a').touch()\n"
            "    if os.fork() == 0:\n        raise SystemExit(0)\n    os.wait()\n"
        )
        assert code_of(code, tmp_path / "out", tmp_path / "file") == 0
        assert names(tmp_path) == ["file", "out"] and names(tmp_path / "out") == ["a"]


class TestFirstLoad:
    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        upstream = write_upstream(tmp_path / "upstream.safetensors")
        monkeypatch.setattr(fetching, "fetch", lambda *names, **options: upstream)
        monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
        return tmp_path / "home"

    def test_one_converts_and_the_others_wait(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        convert, calls, notes = fetching.convert_weights, [], []

        def slowly(*arguments: Any, **options: Any) -> None:
            calls.append(1)
            time.sleep(0.2)
            convert(*arguments, **options)

        monkeypatch.setattr(fetching, "convert_weights", slowly)
        from jaxrecon.progress import Stages

        stages = Stages(quiet=True)
        monkeypatch.setattr(stages, "note", notes.append)
        entry = tiny_entry()
        loads = [
            threading.Thread(
                target=fetching.native_folder, args=(entry,), kwargs={"stages": stages}
            )
            for _ in range(3)
        ]
        for thread in loads:
            thread.start()
        for thread in loads:
            thread.join()
        assert len(calls) == 1
        assert notes == ["another process is fetching the weights of pi3: waiting for it"] * 2
        assert names(home) == ["pi3"]

    def test_what_killed_loads_left_is_swept(self, home: Path) -> None:
        entry = tiny_entry()
        for _ in range(2):  # for the load that converts, and for one that finds all there
            home.mkdir(exist_ok=True)
            (home / ".pi3.lock").touch()
            (home / ".pi3.part" / "new").mkdir(parents=True)
            (home / ".pi3.part" / "lock").touch()
            (home / ".pi3.part" / "new" / "large").write_bytes(b"\0" * 1000)
            fetching.native_folder(entry)
            assert names(home) == ["pi3"]

    def test_a_cache_that_cannot_be_written_is_one_line(self, home: Path) -> None:
        home.write_text("a file")
        with pytest.raises(OutputError, match=r"cannot write .*: a part of the path is a file"):
            fetching.native_folder(tiny_entry())


def trials(tmp_path: Path, *arguments: str) -> str:
    """Runs `kill_writers.py`."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(SUPPORT / "kill_writers.py"),
        "--root",
        str(tmp_path),
    ]
    ended = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_writers_are_killed_run_out_of_disk_and_run_two_at_once(tmp_path: Path) -> None:
    few = ("--kills", "4", "--signals", "4", "--sizes", "8", "--pairs", "3", "--seed", "1")
    assert "disk full" in trials(tmp_path, "--writers", "folder", "filled", "file", *few)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_writer_a_hundred_times(tmp_path: Path) -> None:
    many = ("--kills", "100", "--signals", "20", "--sizes", "8", "--pairs", "100")
    sys.stdout.write(trials(tmp_path, *many))
