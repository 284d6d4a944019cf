"""Every writer, in processes that are killed, run out of disk, or run two at once.

    python3 tests/support/kill_writers.py --kills 100 --pairs 100 --writers folder file --seed 0

prints one JSON object with counts of what was found, and raises at the first fault. Children are
forked before JAX has been used, so that starting one costs nothing.
"""

import argparse
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.cli import process
from jaxrecon.errors import OutputError
from jaxrecon.files import replacing_file, replacing_folder, sweep

DONE, REFUSED, BROKEN = 0, 3, 4
"""Exit codes of a child: it wrote, it was refused with one line, or something else was raised."""

_NEEDED = (
    "jaxrecon.aot",
    "jaxrecon.pipeline.streaming",
    "jaxrecon.registry",
    "jaxrecon.training.saving",
)
"""Modules that the children use, imported before they are forked."""

SECONDS = 60.0
"""In which a child must end."""

_STARTED_BY = os.getppid()
"""Trials of hours must not outlive the test that waits for them."""


class Folder:
    """A folder of forty files, replaced as a whole."""

    overwrites, name = True, "out"

    def write(self, out: Path, tag: str) -> None:
        """Writes `out`, so that `tag` can be read from it."""
        with replacing_folder(out, overwrite=True) as place:
            for number in range(40):
                (place / f"sub{number % 3}").mkdir(exist_ok=True)
                (place / f"sub{number % 3}" / str(number)).write_text(tag * 2000)

    def read(self, out: Path) -> str | None:
        """The tag of what is complete at `out`; None if nothing is there."""
        if not out.exists():
            return None
        files = [path for path in out.rglob("*") if path.is_file()]
        tags = {path.read_text() for path in files}
        assert len(files) == 40 and len(tags) == 1, f"{len(files)} files of {len(tags)} runs"
        return tags.pop()[0]

    def settle(self, out: Path) -> None:
        """What the next run does first."""
        sweep(out)

    def leftovers(self, out: Path) -> list[str]:
        """Hidden names beside the output and in it."""
        inside = list(out.rglob(".*")) if out.is_dir() else []
        return [path.name for path in [*out.parent.glob(".*"), *inside]]


class Filled(Folder):
    """The same where the folder has to stay, since it is the current one."""

    def write(self, out: Path, tag: str) -> None:
        out.mkdir(exist_ok=True)
        os.chdir(out)
        super().write(out, tag)

    def settle(self, out: Path) -> None:
        if out.exists():
            before = Path.cwd()
            os.chdir(out)
            sweep(out)
            os.chdir(before)

    def read(self, out: Path) -> str | None:
        return super().read(out) if out.exists() and any(out.iterdir()) else None


class File(Folder):
    """A file of a megabyte."""

    def write(self, out: Path, tag: str) -> None:
        with replacing_file(out) as place, open(place, "w") as file:
            for _ in range(50):
                file.write(tag * 20_000)

    def read(self, out: Path) -> str | None:
        if not out.exists():
            return None
        text = out.read_text()
        assert len(text) == 1_000_000 and set(text) == {text[0]}, "not whole"
        return text[0]

    def settle(self, out: Path) -> None:
        pass


class Formats(Folder):
    """A folder of all formats of a reconstruction."""

    def write(self, out: Path, tag: str) -> None:
        from random_recon import random_recon

        recon = random_recon()
        with replacing_folder(out, overwrite=True) as place:
            for name in ("scene.ply", "scene.glb", "scene.npz", "colmap/"):
                recon.save(f"{place}/{name}")
            (place / "tag").write_text(tag)

    def read(self, out: Path) -> str | None:
        from jaxrecon.reconstruction import Reconstruction

        if not out.exists():
            return None
        assert len(Reconstruction.load(out / "scene.npz")) == 3
        assert {path.name for path in out.iterdir()} >= {"scene.ply", "scene.glb", "colmap"}
        return (out / "tag").read_text()


class Stream(Folder):
    """Views written one by one; what is there may be a part, of whole files."""

    overwrites = False

    def write(self, out: Path, tag: str) -> None:
        from jaxrecon.files import holding_folder
        from jaxrecon.formats.streamed import Streamed
        from jaxrecon.pipeline.streaming import write_all
        from random_recon import random_recon

        recon = random_recon()
        streamed = Streamed(out, "digest", tuple(f"{view}.png" for view in range(30)))
        with holding_folder(out):
            streamed.start({"model": "small"}, overwrite=True)
            made = ((view, recon[view % 3 : view % 3 + 1]) for view in range(30))
            write_all(made, streamed, streamed.missing(), 8, lambda: None)

    def read(self, out: Path) -> str | None:
        from jaxrecon.formats.npz import read_npz

        files = sorted(out.glob("*.npz"))
        for file in files:
            read_npz(file)
        return "n" if len(files) == 30 else None


class Orbax(Folder):
    """A checkpoint written by Orbax."""

    def write(self, out: Path, tag: str) -> None:
        from jaxrecon import checkpoint

        checkpoint.save_orbax(_module(), out, _header(tag), overwrite=True)

    def read(self, out: Path) -> str | None:
        from jaxrecon import checkpoint

        if not out.exists():
            return None
        config = checkpoint.read_config(out)
        assert (out / "arrays").is_dir() and len(list((out / "arrays").rglob("*"))) > 3
        return config["source"]["tag"]


class Converted(Folder):
    """A checkpoint converted from upstream's file."""

    upstream: Path

    def write(self, out: Path, tag: str) -> None:
        from jaxrecon import registry
        from tiny_models import tiny_entry

        registry.convert_weights(tiny_entry(), self.upstream, out, overwrite=True)

    def read(self, out: Path) -> str | None:
        from jaxrecon import checkpoint

        if not out.exists():
            return None
        assert len(list(checkpoint.read_tensors(out))) > 10  # compares every tensor's hash
        return "n"


class FirstLoad(Converted):
    """The first load of a model, into the cache folder; the second process uses the first's."""

    name = "pi3"

    def write(self, out: Path, tag: str) -> None:
        from jaxrecon import registry
        from jaxrecon.registry import fetching
        from tiny_models import tiny_entry

        os.environ["JAXRECON_HOME"] = str(out.parent)
        fetching.fetch = lambda *args, **options: self.upstream  # ty: ignore
        assert registry.native_folder(tiny_entry()) == out


class Program(Folder):
    """A program in a file, with its weights."""

    def write(self, out: Path, tag: str) -> None:
        import jaxrecon

        pipeline = jaxrecon.load(self.native, stages=_quiet())  # type: ignore[attr-defined]
        jaxrecon.export_program(pipeline, out, views=2, size=(28, 28), overwrite=True)

    def read(self, out: Path) -> str | None:
        import jaxrecon

        if not out.exists():
            return None
        # In a child, because what has used JAX cannot be forked any more.
        assert ended(start(lambda: jaxrecon.load_exported(out) and None)) == DONE, "not whole"
        return "n"


class Training(Folder):
    """Checkpoints of a run that goes on from the last: complete ones stay."""

    overwrites = False

    def write(self, out: Path, tag: str) -> None:
        import jax.numpy as jnp

        from jaxrecon.files import holding_folder
        from jaxrecon.training.saving import Checkpoints

        state: Any = {"weights": jnp.ones((300, 300)), "step": jnp.zeros((), jnp.int32)}
        with holding_folder(out), Checkpoints(out / "checkpoints") as checkpoints:
            first = checkpoints.latest()
            if first is not None:
                checkpoints.restore(state, first)
            for step in range((first or 0) + 1, 7):
                checkpoints.save(state, step)
            checkpoints.wait()

    def read(self, out: Path) -> str | None:
        steps = [int(path.name) for path in out.glob("checkpoints/*") if path.name.isdigit()]
        return "n" if 6 in steps else None

    def leftovers(self, out: Path) -> list[str]:
        unfinished = [path.name for path in out.rglob("*") if "tmp" in path.name]
        return super().leftovers(out) + unfinished


WRITERS: dict[str, Folder] = {
    "folder": Folder(),
    "filled": Filled(),
    "file": File(),
    "formats": Formats(),
    "stream": Stream(),
    "orbax": Orbax(),
    "converted": Converted(),
    "first-load": FirstLoad(),
    "program": Program(),
    "training": Training(),
}


def _module() -> Any:
    import jax
    from flax import nnx

    return nnx.Linear(200, 200, rngs=nnx.Rngs(jax.random.key(0)))


def _header(tag: str) -> dict[str, Any]:
    from jaxrecon.registry import model_entry

    return {**model_entry("pi3").header, "source": {"tag": tag}}


def _quiet() -> Any:
    from jaxrecon.progress import Stages

    return Stages(quiet=True)


def start(work: Callable[[], None], *, file_size: int | None = None, signals: bool = False) -> int:
    """Forks a child that does the work; returns its number."""
    child = os.fork()
    if child:
        return child
    code, came = BROKEN, None
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if file_size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        with ExitStack() as stack:
            if signals:
                came = stack.enter_context(process.ended_by_signals())
            try:
                work()
                code = DONE
            except OutputError as error:
                assert "\n" not in str(error)
                code = REFUSED
            except KeyboardInterrupt:
                code = came.code if came else BROKEN
    except KeyboardInterrupt:  # before the command's own handler was there
        code = 128 + signal.SIGINT
    except BaseException:
        if came is not None and came.number:  # a library has made another error of it
            code = came.code
        else:
            traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> int:
    """The exit code of a child; negative for a signal."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if os.getppid() != _STARTED_BY:
            raise SystemExit("the process that started the trials has ended")
        time.sleep(0.005)
    os.kill(child, signal.SIGABRT)
    os.waitpid(child, 0)
    raise AssertionError(f"a child has not ended after {SECONDS:.0f} s")


class Trials:
    """Trials of one writer, each in a folder of its own."""

    def __init__(self, name: str, root: Path, dice: random.Random) -> None:
        self.writer, self.dice, self.root = WRITERS[name], dice, root
        self.counts: Counter[str] = Counter()
        began = time.monotonic()
        out = self.fresh(old=False)
        assert ended(start(lambda: self.writer.write(out, "n"))) == DONE
        self.takes = time.monotonic() - began
        self.largest = max(p.stat().st_size for p in [out, *out.rglob("*")] if p.is_file())
        self.after(out)

    def fresh(self, *, old: bool | None = None) -> Path:
        """Where to write; the old output is there, or not, and another's file is beside it."""
        place = Path(tempfile.mkdtemp(dir=self.root))
        (place / "precious").write_text("data")
        out = place / self.writer.name
        old = self.dice.random() < 0.5 if old is None else old
        if old and self.writer.overwrites:
            assert ended(start(lambda: self.writer.write(out, "o"))) == DONE
        return out

    def whole(self, out: Path, had: str | None) -> None:
        """Asserts that the output is the old one or a new one, whole."""
        self.writer.settle(out)
        found = self.writer.read(out)
        assert found in {had, "n", "m"} or (had is None and found is None), f"{had} became {found}"
        self.counts["new" if found in ("n", "m") else "old"] += 1

    def after(self, out: Path) -> None:
        """Asserts that all is in order after a run that ended well."""
        assert self.writer.read(out) is not None, "nothing was written"
        assert (out.parent / "precious").read_text() == "data"
        visible = {p.name for p in out.parent.iterdir() if not p.name.startswith(".")}
        assert visible == {"precious", out.name}, visible
        assert not self.writer.leftovers(out), self.writer.leftovers(out)
        shutil.rmtree(out.parent)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A run ends by a signal at a random moment; the next one succeeds."""
        out = self.fresh()
        had = self.writer.read(out)
        asked = number != signal.SIGKILL
        child = start(lambda: self.writer.write(out, "n"), signals=asked)
        time.sleep(self.dice.uniform(0, self.takes))
        os.kill(child, number)
        began = time.monotonic()
        code = ended(child)
        assert code in ({DONE, 128 + number, -number} if asked else {DONE, -number}), code
        self.counts["ended by a signal"] += code != DONE
        assert time.monotonic() - began < 10
        if asked and self.writer.overwrites and code != -number:
            assert not self.writer.leftovers(out), self.writer.leftovers(out)
        self.whole(out, had)
        assert ended(start(lambda: self.writer.write(out, "n"))) == DONE
        self.after(out)

    def fill_disk(self, file_size: int) -> None:
        """A run may not write files larger than this; the next one succeeds."""
        out = self.fresh()
        had, before = self.writer.read(out), out.exists()
        code = ended(start(lambda: self.writer.write(out, "n"), file_size=file_size))
        assert code in {DONE, REFUSED}, f"{code} at {file_size} bytes"
        self.counts["disk full"] += code == REFUSED
        if code == REFUSED and self.writer.overwrites:
            assert self.writer.read(out) == had
            assert out.exists() == before or isinstance(self.writer, Filled)
            assert not self.writer.leftovers(out), (file_size, self.writer.leftovers(out))
        assert ended(start(lambda: self.writer.write(out, "n"))) == DONE
        self.after(out)

    def pair(self) -> None:
        """Two runs at once: each succeeds or is refused, and what is there is whole."""
        out = self.fresh()
        had = self.writer.read(out)
        first = start(lambda: self.writer.write(out, "n"))
        time.sleep(self.dice.choice([0.0, self.dice.uniform(0, self.takes)]))
        second = start(lambda: self.writer.write(out, "m"))
        codes = sorted([ended(first), ended(second)])
        assert codes[0] == DONE and codes[1] in {DONE, REFUSED}, codes
        self.counts["refused of a pair"] += codes[1] == REFUSED
        self.whole(out, had)
        self.after(out)


def run(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Makes the trials; the counts of each writer."""
    root, dice = Path(tempfile.mkdtemp(dir=options.root)), random.Random(options.seed)
    found = {}
    for name in options.writers:
        _prepare(name, root)
        trials = Trials(name, root, dice)
        for _ in range(options.kills):
            trials.kill()
        for _ in range(options.signals):
            trials.kill(dice.choice([signal.SIGINT, signal.SIGTERM]))
        for size in np.geomspace(1, 1.1 * trials.largest, options.sizes):
            trials.fill_disk(int(size))
        for _ in range(options.pairs):
            trials.pair()
        found[name] = dict(trials.counts)
        sys.stderr.write(f"{name}: {found[name]}, a run takes {trials.takes:.2f} s\n")
    return found


def _prepare(name: str, root: Path) -> None:
    """Imports what the children need, and writes what they read."""
    if name in ("converted", "first-load", "program"):
        from tiny_models import write_upstream

        Converted.upstream = write_upstream(root / "upstream.safetensors")
    if name == "program":
        native = root / "native"
        assert ended(start(lambda: WRITERS["converted"].write(native, "n"))) == DONE
        Program.native = native  # type: ignore[attr-defined]
    if name not in ("folder", "filled", "file"):
        for module in (*_NEEDED, "random_recon", "tiny_models"):
            importlib.import_module(module)


def main() -> None:
    """Reads the arguments, prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", nargs="+", default=list(WRITERS), choices=list(WRITERS))
    for name in ("kills", "signals", "sizes", "pairs", "seed"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--root", help="where to write; the temporary folder if not given")
    sys.stdout.write(json.dumps(run(parser.parse_args())) + "\n")


if __name__ == "__main__":
    main()
