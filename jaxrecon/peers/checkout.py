"""The original of a model, from a checkout of upstream's code."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxrecon.benchmark import Timing
from jaxrecon.errors import InputError, one_line, reason_of
from jaxrecon.images import ImageRule
from jaxrecon.peers.upstream import ORIGINALS, PARTS
from jaxrecon.registry import MODELS, ModelEntry, find_entry

_LONGEST_REASON = 200


@dataclass(frozen=True)
class OriginalTiming:
    """What the original took.

    Attributes:
      way: how it was run: "torch", or "torch-lean" in MapAnything's memory-efficient mode.
      timing: `run` and `peak` are known; the note says where memory ran out.
      ran_by: PyTorch's version and the GPU's name.
    """

    way: str
    timing: Timing
    ran_by: str


@dataclass(frozen=True)
class Original:
    """A model in PyTorch that is to be timed.

    Attributes:
      name: of our model with its sizes.
      checkout: the folder of upstream's code.
      resize: which size its images have.
    """

    name: str
    checkout: Path
    resize: ImageRule

    def times(
        self, views: Sequence[int], size: tuple[int, int], repeats: int
    ) -> list[OriginalTiming]:
        """Runs it with random weights, under bfloat16 autocast, in a process of its own.

        Args:
          views: how many images, of random pixels; several numbers, one after the other.
          size: width and height of the images, in pixels.
          repeats: runs that are timed, after a warm-up.

        Raises:
          InputError: PyTorch finds no GPU, or the code fails; what it printed is a note of the
            error.
        """
        width, height = size
        command: list[Any] = [sys.executable, "-P", "-m", "jaxrecon.peers.upstream"]
        command += [self.name, self.checkout, "--views", *views, "--size", height, width]
        command += ["--repeats", repeats]
        with tempfile.TemporaryFile() as said:
            with _child(list(map(str, command)), said) as child:
                assert child.stdout is not None
                found = [_timing(line) for line in child.stdout]
                code = child.wait()
            if code:
                raise _failure(code, said, self.checkout)
        return found


def find_original(model: str | Path, checkout: str | Path) -> Original:
    """What a checkout holds of a model; PyTorch is looked for and not imported.

    Args:
      model: a released model's name.
      checkout: a folder of upstream's code.

    Raises:
      InputError: the model has no original, the folder does not hold it, or PyTorch is missing.
    """
    entry = find_entry(str(model))
    name = None if entry is None else _same_sizes(entry)
    if entry is None or name is None:
        raise InputError(
            f"--against: {model} has no original to run; choose from {', '.join(_names())}, or "
            "leave --against out"
        )
    if not os.path.isdir(checkout):
        raise InputError(
            f"--against {checkout}: no such folder; give a checkout of upstream's code"
        )
    peer = ORIGINALS[name]
    if peer.module_in(checkout) is None:
        wanted = " or ".join(module.replace(".", "/") for module in peer.modules)
        raise InputError(
            f"--against {checkout}: it holds no {wanted}, nor do its folders "
            f"{', '.join(filter(None, PARTS))}; give a checkout of {peer.repository}"
        )
    if find_spec("torch") is None:
        raise InputError(
            "--against runs PyTorch, which is not installed here; install torch for this "
            "machine's GPU, or leave --against out"
        )
    return Original(name, Path(checkout), entry.resize)


def _names() -> list[str]:
    return [name for name, entry in MODELS.items() if _same_sizes(entry)]


def _same_sizes(entry: ModelEntry) -> str | None:
    """The name of the original with an entry's architecture and sizes; weights do not matter."""
    alike = ((name, MODELS[name]) for name in ORIGINALS)
    ours = entry.family.name, entry.config
    return next((name for name, x in alike if (x.family.name, x.config) == ours), None)


@contextmanager
def _child(command: list[str], said: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the block; what it complains of goes to a file."""
    try:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, env=_environment()
        )
    except OSError as error:
        raise InputError(
            f"--against: Python ({sys.executable!r}) does not start ({reason_of(error)}); run "
            "jaxrecon with an installed Python"
        ) from error
    with child:
        try:
            yield child
        finally:
            child.kill()


def _environment() -> dict[str, str]:
    """That of this process, with its places of modules."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def _failure(code: int, said: Any, checkout: Path) -> InputError:
    said.seek(0)
    told = said.read().decode("utf-8", "replace").strip()
    last = told.rpartition("\n")[2] or f"exit code {code}"
    reason = f"signal {-code}: perhaps out of memory" if code < 0 else last
    error = InputError(
        f"--against {checkout}: the original does not run ({one_line(reason, _LONGEST_REASON)}); "
        "mend that, or leave --against out"
    )
    if told:
        error.add_note(told)
    return error


def _timing(line: str) -> OriginalTiming:
    row = json.loads(line)
    timing = Timing(row["views"], row["views"], note="out of memory")
    if not math.isnan(row["seconds"]):
        peak = round(row["peak"] * 2**30)
        timing = replace(timing, run=row["seconds"], peak=peak, note=None)
    return OriginalTiming(row["side"], timing, f"PyTorch {row['torch']} on {row['device']}")
