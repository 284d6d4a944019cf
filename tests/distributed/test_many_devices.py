"""Every family on eight devices of the CPU, or in two processes, gives what it gives on one."""

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from jaxrecon import registry
from places import SUPPORT, fresh_process

PARTS = {"eight": 8, "three": 3, "two axes": 4}
"""Into how many parts each mesh cuts the views."""


def run_on_eight(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, SUPPORT / "many_devices.py", *arguments],
        capture_output=True,
        text=True,
        env=fresh_process(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.thorough
def test_blocks_take_turns_and_sparse_heads_are_shared() -> None:
    """One head on eight devices, two on teams of four, three on teams of two and one idle team."""
    told = run_on_eight("parts")
    found, block = told["teams"], told["block"]
    assert block["loops"] == 2 and block["summed"] == 0 and block["difference"] < 1e-6, block
    assert len(found) == 6
    for way, values in found.items():
        assert values["out"] <= 1e-5 and values["skipped"] <= 1e-6, (way, values)


@pytest.mark.parametrize(
    ("family", "brief"),
    [
        ("pi3", True),
        *(
            pytest.param(name, False, marks=pytest.mark.thorough)
            for name in ("pi3", "pi3x", "vggt", "mapanything")
        ),
    ],
)
def test_sharded_is_unsharded(family: str, brief: bool) -> None:
    """11 views and 4 heads: no mesh divides the views, one has more devices than heads."""
    found = run_on_eight(family, *["brief"] * brief)
    assert len(found) == (2 if brief else 4 + registry.FAMILIES[family].defaults.priors)
    for way, values in found.items():
        attention, _, mesh = way.partition(", ")
        assert values.pop("share") == 1 / PARTS[mesh], way
        assert values.pop("masks differ") == 0, way
        exchanges, gathers = values.pop("all-to-all"), values.pop("all-gather")
        # Four heads on eight devices: dense attention gathers the keys, two share a sparse head.
        assert (gathers if way == "dense, eight" else exchanges) > 0, way
        # Nothing else of all views is handed around: a scene's token at most (64 wide).
        rest = [values.pop(name) for name in ("all-reduce", "reduce-scatter", "collective-permute")]
        assert max(rest) <= 64, (way, rest)
        share = values.pop("weights")
        assert 0.25 < share < 0.4 if mesh == "two axes" else share == 1, (way, share)
        assert ("sparsity" in values) == (attention in ("sparse", "similar"))
        assert max(values.values()) <= 1e-5, (way, values)


@pytest.mark.thorough
def test_two_processes_work_together() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, SUPPORT / "many_processes.py", port, "2", str(number)],
            stderr=subprocess.PIPE,
            text=True,
            env=fresh_process(),
        )
        for number in range(2)
    ]
    told = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(told)[-4000:]


_IMPORTED = """
import importlib, pkgutil, sys
import jax, jaxrecon
for found in pkgutil.walk_packages(jaxrecon.__path__, "jaxrecon."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
jax.distributed.initialize(f"localhost:{sys.argv[1]}", 1, 0)
"""


@pytest.mark.thorough
def test_importing_starts_no_devices() -> None:
    """`jax.distributed.initialize` refuses to run where anything has asked for a device before."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, port], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
