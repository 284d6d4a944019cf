"""Features that wait in the host's memory: where programs put them, and that results stay."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxrecon
from drawn_weights import drawn
from jaxrecon.cli import main
from jaxrecon.pipeline import Pipeline, ProgramKey
from jaxrecon.progress import Stages
from jaxrecon.runtime.program import scene_program
from tiny_families import FAMILIES, FIELDS, whole_and_streamed
from tiny_models import write_native
from triton_marks import lowers_triton

SIDE, VIEWS = 28, 11
PUT_ASIDE, FETCHED = '"pinned_host"', '"device"'


def moves(pipeline: Pipeline) -> tuple[int, int]:
    """How often its program for a GPU brings arrays to the host's memory, and to the device's."""
    key = ProgramKey()
    executor = pipeline.executor
    program = jax.jit(partial(scene_program, pipeline.attention, key, placement=executor.placement))
    traced = program.trace(*executor.abstract_arguments((VIEWS, SIDE, SIDE, 3), key))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    lines = [line for line in text.splitlines() if "annotate_device_placement" in line]
    return sum(PUT_ASIDE in line for line in lines), sum(FETCHED in line for line in lines)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_the_trunk_finds_waits_on_the_host(name: str) -> None:
    make, resize = FAMILIES[name]
    plain = Pipeline(nnx.eval_shape(make), name, resize)
    aside, back = moves(replace(plain, offload=True))
    if name.startswith("pi3"):
        assert aside == 1, "what the last layer adds"
    else:
        assert aside >= 2, "the buffer of all layers, and what each adds"
    assert back >= 1


@pytest.mark.parametrize(
    "name", ["pi3", *(pytest.param(x, marks=pytest.mark.thorough) for x in FAMILIES if x != "pi3")]
)
def test_nothing_waits_there_unless_asked(name: str) -> None:
    make, resize = FAMILIES[name]
    assert moves(Pipeline(nnx.eval_shape(make), name, resize)) == (0, 0)


@pytest.mark.thorough
def test_results_stay(tmp_path: Path) -> None:
    make, resize = FAMILIES["pi3"]
    plain = Pipeline(drawn(make), "pi3", resize)
    found = [
        whole_and_streamed(pipeline, tmp_path / str(pipeline.offload))
        for pipeline in (plain, replace(plain, offload=True))
    ]
    for plainly, offloaded in zip(*found, strict=True):
        for field in FIELDS:
            np.testing.assert_array_equal(getattr(offloaded, field), getattr(plainly, field))


@lowers_triton
def test_a_program_in_a_file_offloads_too(tmp_path: Path) -> None:
    native = write_native(tmp_path / "tiny")
    pipeline = jaxrecon.load(native, offload=True, stages=Stages(quiet=True))
    given: dict[str, Any] = {"views": 2, "size": (SIDE, SIDE), "platforms": ("cuda",)}
    folder = jaxrecon.export_program(pipeline, tmp_path / "out", **given)
    assert "annotate_device_placement" in (folder / "export.json").read_text()


@pytest.mark.thorough
def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A CPU has one memory, so the plan is that of the same program without."""
    native = str(write_native(tmp_path / "tiny"))
    command = ["plan", "-m", native, "--views", "2", "--size", f"{SIDE}x{SIDE}"]
    told = []
    for rest in ([], ["--offload"]):
        assert main([*command, *rest]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
