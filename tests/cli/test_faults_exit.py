"""How a command ends: by signals, with streams that are full or closed, and in a child of fork."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxrecon
import kept_programs
from jaxrecon import forking, program_cache
from jaxrecon.cli import main, process, weights
from jaxrecon.compiling import compiled
from jaxrecon.errors import JaxreconError, OutputError
from jaxrecon.files import replacing_folder
from jaxrecon.forgiving import Forgiving
from jaxrecon.progress import Stages
from places import fresh_process


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """Runs `jaxrecon` as `$J` in a shell."""
    env = fresh_process(J=f"{sys.executable} -m jaxrecon")
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=env)


class TestStreams:
    @pytest.mark.parametrize(
        ("command", "where"),
        [
            ("--help", "> /dev/full"),
            ("--help", ">&-"),
            ("--version", "> /dev/full"),
            *(
                pytest.param(command, where, marks=pytest.mark.thorough)
                for command in ("models --json", "models")
                for where in ("> /dev/full", ">&-")
            ),
        ],
    )
    def test_output_that_cannot_be_written(self, command: str, where: str) -> None:
        run = shell(f"$J {command} {where}")
        assert run.returncode == 2
        assert run.stderr.startswith("jaxrecon: cannot write to standard output: ")
        assert run.stderr.count("\n") == 1

    @pytest.mark.parametrize(
        "where", ["2> /dev/full", pytest.param("2>&-", marks=pytest.mark.thorough)]
    )
    def test_errors_that_cannot_be_told(self, where: str) -> None:
        assert shell(f"$J view absent.npz {where}").returncode == 2

    @pytest.mark.thorough
    @pytest.mark.parametrize("where", ["2> /dev/full", "2>&-"])
    def test_a_result_where_errors_cannot_be_told(self, where: str) -> None:
        run = shell(f"$J models {where}")
        assert run.returncode == 0 and "pi3-mini" in run.stdout

    def test_all_closed(self) -> None:
        assert shell("$J --version <&- >&- 2>&-").returncode == 2

    def test_progress_never_ends_a_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with open("/dev/full", "w") as full:
            for stream in (full, None):
                monkeypatch.setattr(sys, "stderr", stream)
                stages = Stages()
                with stages.stage("read"):
                    stages.note("a note")
                assert "read" in stages.seconds
                monkeypatch.undo()
            os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())

    def test_a_closed_file_is_no_terminal(self, tmp_path: Path) -> None:
        with open(tmp_path / "log", "w") as file:
            forgiving = Forgiving(file)
            assert forgiving.write("one") == 3 and not forgiving.isatty()
        assert forgiving.write("two") == 3 and forgiving.failed and not forgiving.isatty()


_EARLY = """
import signal, sys

class Early:
    def find_spec(self, name, path=None, target=None):
        if name == "jaxrecon.cli.reconstruct":
            signal.raise_signal({number})

sys.meta_path.insert(0, Early())
sys.argv = ["jaxrecon", "models"]
from jaxrecon.cli import main
sys.exit(main())
"""


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "code", "line"),
        [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
    )
    def test_one_line_and_nothing_left(
        self,
        number: signal.Signals,
        code: int,
        line: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def write(options: object) -> int:
            with replacing_folder(tmp_path / "out") as place:
                (place / "half").touch()
                signal.raise_signal(number)
            raise AssertionError("must not be reached")

        monkeypatch.setattr(weights, "models", write)
        before = signal.getsignal(number)
        assert main(["models"]) == code
        assert capsys.readouterr() == ("", f"jaxrecon: {line}\n")
        assert signal.getsignal(number) == before
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_one_while_a_module_is_imported(
        self, number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As libraries import what they can do without: whatever it raises, they go on."""
        (tmp_path / "optional_part.py").write_text(
            f"import signal, time\nsignal.raise_signal({int(number)})\ntime.sleep(0.1)\nWHOLE = 1\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        found: list[Any] = []

        def run(options: object) -> int:
            try:
                found.append(importlib.import_module("optional_part").WHOLE)
            except BaseException:
                found.append(None)
            time.sleep(5)
            raise AssertionError("must not be reached")

        monkeypatch.setattr(weights, "models", run)
        monkeypatch.delitem(sys.modules, "optional_part", raising=False)
        assert main(["models"]) == 128 + number
        assert found == [1]

    @pytest.mark.parametrize(
        ("number", "told"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")]
    )
    def test_one_while_the_commands_are_imported(self, number: signal.Signals, told: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", _EARLY.format(number=int(number))],
            env=fresh_process(),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (128 + number, "")
        assert done.stderr == f"jaxrecon: {told}\n"

    def test_next_to_nothing_is_imported_before_signals_are_handled(self) -> None:
        code = "import sys, jaxrecon.cli; print({'numpy', 'rich', 'argparse'} & {*sys.modules})"
        found = subprocess.check_output(
            [sys.executable, "-c", code], env=fresh_process(), text=True, timeout=60
        )
        assert found == "set()\n"

    def test_an_import_that_does_not_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "endless_part.py").write_text(
            "import signal, time\nsignal.raise_signal(2)\ntime.sleep(5)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(process, "_LONGEST_IMPORT", 0.1)

        def run(options: object) -> int:
            importlib.import_module("endless_part")
            raise AssertionError("must not be reached")

        monkeypatch.setattr(weights, "models", run)
        assert main(["models"]) == 130

    @pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_one_while_it_cleans_up(
        self, second: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import shutil

        remove = shutil.rmtree

        def slowly(*arguments: object, **options: object) -> None:
            signal.raise_signal(second)
            remove(*arguments, **options)  # type: ignore[arg-type]

        def write(options: object) -> int:
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "old").touch()
            with replacing_folder(tmp_path / "out", overwrite=True) as place:
                (place / "half").touch()
                monkeypatch.setattr(shutil, "rmtree", slowly)
                signal.raise_signal(signal.SIGINT)
            raise AssertionError("must not be reached")

        monkeypatch.setattr(weights, "models", write)
        assert main(["models"]) == 130
        assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]

    def test_what_a_library_makes_of_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def write(options: object) -> int:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt as error:
                raise ImportError("initialization failed") from error
            return 0

        monkeypatch.setattr(weights, "models", write)
        assert main(["models"]) == 143
        assert capsys.readouterr().err == "jaxrecon: terminated\n"

    def test_one_that_a_destructor_drops_comes_again(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Dropping:
            def __del__(self) -> None:
                signal.raise_signal(signal.SIGTERM)

        def write(options: object) -> int:
            Dropping()
            time.sleep(10)
            return 0

        monkeypatch.setattr(weights, "models", write)
        assert main(["models"]) == 143
        assert capsys.readouterr().err == "jaxrecon: terminated\n"

    def test_what_the_caller_ignores_stays_ignored(self) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with process.ended_by_signals():
                assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)


FORKS = """
import os, sys, warnings
warnings.simplefilter("ignore")
import jax.numpy as jnp
import jaxrecon
if sys.argv[1] == "used":
    jnp.zeros(3).block_until_ready()
if os.fork() == 0:
    try:
        jaxrecon.load("absent")
    except jaxrecon.JaxreconError as error:
        os.write(1, str(error).encode())
    os._exit(0)
os.wait()
"""


class TestFork:
    @pytest.mark.parametrize(
        ("parent", "told"),
        [
            ("used", "start method spawn"),
            ("new", "unknown model 'absent'"),
        ],
    )
    @pytest.mark.thorough
    def test_a_child_is_told_to_be_spawned(self, parent: str, told: str) -> None:
        env = fresh_process()
        command = [sys.executable, "-c", FORKS, parent]
        run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
        assert told in run.stdout and "\n" not in run.stdout

    @pytest.mark.parametrize(
        "call",
        [
            lambda: jaxrecon.load("pi3-mini"),
            lambda: jaxrecon.load_exported("absent"),
            lambda: compiled(jax.jit(jnp.sin).lower(1.0), jax.devices()[0]),
        ],
    )
    def test_what_would_run_is_refused(
        self, call: Callable[[], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(forking._state, "forked", True)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setitem(forking._state, "ends", False)
        with pytest.raises(JaxreconError, match="start method spawn"):
            call()

    @pytest.mark.thorough
    @pytest.mark.parametrize("ends", ["pass", "raise ValueError('mine')"])
    def test_a_child_that_catches_nothing_ends_at_once(self, ends: str) -> None:
        """Past its last line JAX would wait for threads of the parent, or crash."""
        lines = FORKS.split("    try:\n")[0] + (
            "    import signal\n"
            "    signal.alarm(20)\n"
            "    try:\n"
            "        print('printed')\n"
            "        jaxrecon.load('absent')\n"
            f"    finally:\n        {ends}\n"
            "print('status', os.wait()[1])\n"
        )
        env = fresh_process()
        command = [sys.executable, "-c", lines, "used"]
        run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
        assert run.stdout.split() == ["printed", "status", "256"]
        assert run.stderr.count("start method spawn") == 1


class TestProgramCache:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A cache with one entry, as JAX writes it, that is marked as sound."""
        import zlib

        folder = tmp_path / "xla"
        folder.mkdir()
        (folder / "jit_one-cache").write_bytes(zlib.compress(bytes(range(256))))
        monkeypatch.setattr(program_cache, "_in_use", [folder])
        program_cache.keep_sound()
        return folder

    def test_what_is_sound_stays(self, folder: Path) -> None:
        program_cache.remove_unsound(folder)
        assert (folder / "jit_one-cache").exists()
        os.utime(folder / "jit_one-cache", (0, 0))  # as a copy has it
        program_cache.remove_unsound(folder)
        assert (folder / "jit_one-cache").exists()

    @pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "never marked"])
    def test_what_is_damaged_goes(self, folder: Path, damage: str) -> None:
        entry = folder / "jit_one-cache"
        data = entry.read_bytes()
        if damage == "never marked":
            entry = folder / "jit_two-cache"
        flipped = data[:20] + bytes([data[20] ^ 1]) + data[21:]
        entry.write_bytes({"cut": data[:20], "emptied": b"", "flipped": flipped}.get(damage, data))
        program_cache.remove_unsound(folder)
        assert not entry.exists()
        program_cache.remove_unsound(folder)
        assert len(list(folder.iterdir())) == (2 if damage == "never marked" else 0)

    def test_what_a_full_disk_cut_short_is_not_marked(self, folder: Path) -> None:
        cut = folder / "jit_two-cache"
        cut.write_bytes((folder / "jit_one-cache").read_bytes()[:-3])
        program_cache.keep_sound()
        assert not cut.exists()

    @pytest.mark.parametrize("damage", ["cut", "emptied", "flipped"])
    def test_a_run_of_the_tests_sweeps_what_another_left(self, folder: Path, damage: str) -> None:
        """JAX writes there without marks, which the next run makes."""
        entries = [folder / f"jit_{name}-cache" for name in ("one", "two", "three")]
        data = entries[0].read_bytes()
        entries[1].write_bytes(data)
        kept_programs.sweep(folder, 1 << 30)
        assert entries[0].exists() and entries[1].exists()
        flipped = data[:20] + bytes([data[20] ^ 1]) + data[21:]
        entries[1].write_bytes({"cut": data[:20], "emptied": b""}.get(damage, flipped))
        entries[2].write_bytes({"cut": data[:20], "emptied": b""}.get(damage, flipped))
        kept_programs.sweep(folder, 1 << 30)
        assert [entry.exists() for entry in entries] == [True, False, False]

    def test_of_more_than_is_kept_a_run_of_the_tests_sweeps_the_least_used(
        self, folder: Path
    ) -> None:
        old, new = folder / "jit_one-cache", folder / "jit_two-cache"
        new.write_bytes(old.read_bytes())
        (folder / "jit_one-atime").write_bytes(bytes(8))
        (folder / "jit_two-atime").write_bytes(bytes(8))
        os.utime(folder / "jit_one-atime", (0, 0))
        kept_programs.sweep(folder, 2 * new.stat().st_size)
        assert old.exists() and new.exists()
        kept_programs.sweep(folder, new.stat().st_size)
        assert new.exists() and not old.exists()

    def test_a_folder_that_cannot_be_written_is_not_used(self, tmp_path: Path) -> None:
        before = jax.config.jax_compilation_cache_dir
        (tmp_path / "file").touch()
        assert not program_cache.use_program_cache(tmp_path / "file" / "xla")
        assert jax.config.jax_compilation_cache_dir == before


def test_output_errors_of_streams_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="it is closed"):
        process.say("a line")
