"""Damaged files end in a right result or in one short line of ours, soon and in little memory.

`make fuzz` runs 20,000 inputs (`FUZZ_INPUTS`); the ordinary suite runs a few of each parser.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz_targets import TARGETS, Target
from jaxrecon.errors import MAX_MESSAGE, JaxreconError
from mutations import damaged

INPUTS = int(os.environ.get("FUZZ_INPUTS", 20 * len(TARGETS)))
SECONDS = 10
MEBIBYTE = 2**20
PLENTY = 256 * MEBIBYTE
FENCE = 1024 * MEBIBYTE
"""Address space beyond what may be taken; more is refused, and shows as a MemoryError."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured from /proc")


def examples(target: Target) -> int:
    """Its share of all inputs."""
    whole = sum(each.share for each in TARGETS.values())
    return max(1, round(INPUTS * target.share / whole))


def status(field: str) -> int:
    """Bytes that a field of /proc/self/status tells."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


@contextmanager
def within_bounds(stored: int) -> Iterator[None]:
    """Fails where the block takes too long, or more memory than ten times its files and 256 MiB."""
    allowed = 10 * stored + PLENTY
    Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.monotonic()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + allowed + FENCE, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    taken, took = status("VmHWM") - before, time.monotonic() - start
    assert taken <= allowed, f"{taken // MEBIBYTE} MiB were taken for {stored} bytes"
    assert took <= SECONDS, f"it took {took:.1f} s"


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_sound_files_are_read(target: Target, tmp_path: Path) -> None:
    target.write(tmp_path)
    target.read(tmp_path)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_damaged_files(target: Target, tmp_path: Path) -> None:
    sound = tmp_path / "sound"
    sound.mkdir()
    target.write(sound)
    files = sorted(path for path in sound.glob(target.files) if path.is_file())
    contents = {path.relative_to(sound): path.read_bytes() for path in files}

    @settings(
        max_examples=examples(target),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        print_blob=False,
    )
    @given(data=st.data())
    def run(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(contents)))
        content = data.draw(damaged(contents[name], is_json=name.suffix == ".json"))
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound, folder)
        (folder / name).write_bytes(content)
        stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with within_bounds(stored):
            read(target, folder)

    run()


def read(target: Target, folder: Path) -> None:
    """Reads; an error of ours is one short line."""
    try:
        target.read(folder)
    except JaxreconError as error:
        message = str(error)
        assert message.isprintable(), message
        assert 0 < len(message) <= MAX_MESSAGE, message
