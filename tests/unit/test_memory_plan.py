"""What a reconstruction needs of a device's memory: foreseen, told, and refused."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

import jaxrecon
from compiled_programs import programs_of, without_programs
from jaxrecon import SparseAttention, registry
from jaxrecon.cli import main
from jaxrecon.errors import InputError
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.pipeline import Pipeline, ProgramKey
from jaxrecon.plan import StreamedNeeds
from jaxrecon.progress import Stages
from jaxrecon.runtime import memory
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.memory import (
    MemoryNeeds,
    bytes_limit,
    check_fits,
    check_host,
    default_device,
    host_limit,
    needs_of,
    readable,
)
from tiny_models import TINY_PARAMETERS, write_native

pytestmark = pytest.mark.usefixtures("full_optimization")

SIZE = (42, 28)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("native") / "tiny")


@pytest.fixture(scope="module")
def plan(native: Path) -> jaxrecon.MemoryPlan:
    return jaxrecon.memory_plan(native, views=4, size=SIZE, dtype="float32")


@pytest.fixture(scope="module")
def pipeline(native: Path) -> Pipeline:
    return jaxrecon.load(native, dtype="float32", stages=Stages(quiet=True))


def output_bytes(views: int, width: int, height: int) -> int:
    """Two point maps, confidence, mask; pose and camera matrix."""
    return views * (width * height * (2 * 12 + 4 + 1) + 4 * (16 + 9))


def test_arguments_and_outputs_are_what_the_arrays_weigh(plan: jaxrecon.MemoryPlan) -> None:
    pixels, numbers = 4 * 42 * 28 * 3, 4 * len(ProgramKey().inputs)
    assert plan.needs.arguments == 4 * TINY_PARAMETERS + pixels + numbers
    assert plan.needs.outputs == pytest.approx(output_bytes(4, *SIZE), abs=100)
    assert (plan.model, plan.views, plan.compiled_views) == ("pi3", 4, 4)
    assert (plan.size, plan.devices) == (SIZE, 1)


@pytest.mark.thorough
def test_temporaries_grow_with_views_and_pixels(native: Path, plan: jaxrecon.MemoryPlan) -> None:
    """Global attention, which grows with the square of either, is worked on in bounded chunks."""
    views = jaxrecon.memory_plan(native, views=8, size=SIZE, dtype="float32")
    pixels = jaxrecon.memory_plan(native, views=4, size=(84, 28), dtype="float32")
    for larger in (views, pixels):
        assert 1.8 < larger.needs.temporaries / plan.needs.temporaries < 2.2
        assert larger.needs.outputs == pytest.approx(2 * plan.needs.outputs, rel=0.02)


def test_the_plan_is_that_of_the_program_that_runs(
    pipeline: Pipeline, plan: jaxrecon.MemoryPlan
) -> None:
    pipeline.reconstruct(np.zeros((4, SIZE[1], SIZE[0], 3), np.uint8), resolution=SIZE[0])
    (ran,) = programs_of(pipeline).values()
    assert plan.needs == needs_of(ran)


def test_views_share_a_program_in_the_plan_as_they_run(
    pipeline: Pipeline, native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """17 that of 18."""
    asked: list[Any] = []

    def lower(_: Executor, *wanted: Any) -> Any:
        asked.append(wanted)
        raise InputError("not compiled")

    monkeypatch.setattr(Executor, "lower", lower)
    with pytest.raises(InputError, match="not compiled"):
        jaxrecon.memory_plan(native, views=17, size=(28, 28), dtype="float32")
    with pytest.raises(InputError, match="not compiled"):
        pipeline.reconstruct(np.zeros((17, 28, 28, 3), np.uint8), resolution=28)
    planned, ran = asked
    assert planned == ran and planned[0] == (18, 28, 28, 3)


@pytest.mark.thorough
def test_the_plan_of_views_that_share_a_program(pipeline: Pipeline, native: Path) -> None:
    """17 views share the program of 18."""
    fresh = without_programs(pipeline)
    plan = jaxrecon.memory_plan(native, views=17, size=(28, 28), dtype="float32")
    assert plan.compiled_views == 18
    fresh.reconstruct(np.zeros((17, 28, 28, 3), np.uint8), resolution=28)
    (ran,) = programs_of(fresh).values()
    assert plan.needs == needs_of(ran)


def test_released_models_need_no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path))
    pipeline = registry.load_abstract("vggt", dtype="bfloat16")
    leaves = jax.tree.leaves(pipeline.model)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert {str(leaf.dtype) for leaf in leaves} == {"float32", "bfloat16"}
    assert pipeline.name == "vggt"
    assert pipeline.defaults.points == ("depth", "pointmap")
    assert not list(tmp_path.iterdir())


SHARDED = """
import json, sys
from dataclasses import asdict
import jaxrecon
print(json.dumps(asdict(jaxrecon.memory_plan(sys.argv[1], views=4, size=(42, 28), devices=2))))
"""


@pytest.mark.thorough
def test_views_sharded_over_devices(native: Path, plan: jaxrecon.MemoryPlan) -> None:
    """Each of two devices has all weights and half the views."""
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", SHARDED, str(native)],
        env={"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    two = json.loads(done.stdout)
    assert two["devices"] == 2
    told = 4 * (1 + 2 * 4)  # how many views count, and where in two of them the photos lie
    assert plan.needs.arguments - two["needs"]["arguments"] == 2 * 42 * 28 * 3 - told
    assert two["needs"]["outputs"] == pytest.approx(plan.needs.outputs / 2, rel=0.02)
    assert two["needs"]["temporaries"] < plan.needs.temporaries


@pytest.mark.thorough
def test_streaming_is_planned_as_it_runs(pipeline: Pipeline, native: Path, tmp_path: Path) -> None:
    """17 views share the program of 18; the last part of 4 does not lie there with another."""
    size, fresh = (28, 28), without_programs(pipeline)
    images = np.zeros((17, 28, 28, 3), np.uint8)
    for views_at_once, runs in ((4, 2), (40, 1)):
        fresh.stream(images, tmp_path / str(runs), resolution=28, views_at_once=views_at_once)
        plan = jaxrecon.memory_plan(
            native, views=17, size=size, dtype="float32", views_at_once=views_at_once
        )
        encoder, *_, heads = (needs_of(program) for program in programs_of(fresh).values())
        assert plan.streamed is not None and encoder is not None and heads is not None
        assert plan.streamed.encoder == encoder
        assert plan.streamed.heads == heads.keeping(runs)
        assert plan.streamed.between == encoder.outputs
        assert plan.streamed.views_at_once == min(views_at_once, 18)
        assert plan.needs.total == max(encoder.total, heads.keeping(runs).total)
        weights = 4 * TINY_PARAMETERS  # also those that a program does not use
        assert heads.arguments == pytest.approx(weights + encoder.outputs, abs=1000)
        assert encoder.arguments == pytest.approx(weights + 18 * 28 * 28 * 3, abs=1000)


@pytest.mark.thorough
def test_what_is_worked_on_at_a_time(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views of 28x42 pixels have 6 patches and 5 special tokens."""
    few = ExecutionConfig(encoder_patches=12, chunk_tokens=22)
    monkeypatch.setattr(Executor, "execution", property(lambda _: few))
    sparse = SparseAttention(block_q=16, block_kv=16)
    for attention, heads in ((None, {}), (sparse, {"heads of sparse attention": (4, 4)})):
        plan = jaxrecon.memory_plan(
            native, views=4, size=SIZE, dtype="float32", attention=attention
        )
        turns = {"encoder views": (2, 4), "MLP tokens": (22, 44), "attention tokens": (22, 44)}
        whole = {"head views": (2, 4), "edge views": (4, 4)}
        assert plan.chunks == turns | whole | heads


def test_streaming_no_views_at_once(native: Path) -> None:
    with pytest.raises(InputError, match="views_at_once=0 must be at least 1"):
        jaxrecon.memory_plan(native, views=4, size=SIZE, views_at_once=0)


# Refusing


def test_total_counts_shared_bytes_once() -> None:
    assert MemoryNeeds(arguments=100, outputs=20, temporaries=30, shared=5).total == 145


def test_a_program_that_fits_is_not_refused() -> None:
    check_fits(2**30, 2**30)
    check_fits(2**60, None)
    check_host(2**30, 2**30)
    check_host(2**60, None)


def test_a_program_that_does_not_fit() -> None:
    with pytest.raises(InputError) as caught:
        check_fits(3 * 2**30, 2 * 2**30 + 2**29)
    assert str(caught.value) == (
        "images: the program needs 3.00 GiB of memory on each device, which has 2.50 GiB; give "
        "fewer views or a lower resolution, reconstruct a sequence in chunks "
        "(reconstruct_sequence, --chunk 60), shard views over more devices (mesh), or write view "
        "by view (stream), fewer of them at once (views_at_once)"
    )


def test_features_that_do_not_fit_on_the_host() -> None:
    told = r"offload: 3\.00 GiB would wait in the host's memory, where 2\.50 GiB may; give fewer"
    with pytest.raises(InputError, match=told):
        check_host(3 * 2**30, 2 * 2**30 + 2**29)


def test_of_the_host_a_gpu_gets_what_jax_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = SimpleNamespace(platform="gpu"), SimpleNamespace(platform="cpu")
    monkeypatch.delenv("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB", raising=False)
    for machine, allowed, expected in (
        (2**37, None, 2**36),
        (2**35, None, 2**35),
        (2**37, "100", 100 * 2**30),
        (None, "1", 2**30),
    ):
        monkeypatch.setattr(memory, "machine_memory", lambda machine=machine: machine)
        if allowed is not None:
            monkeypatch.setenv("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB", allowed)
        assert host_limit(gpu) == expected
        assert host_limit(cpu) == machine


def test_features_of_all_devices_share_the_host() -> None:
    needs = MemoryNeeds(arguments=1, outputs=1, temporaries=1, host=2**30)
    plan = jaxrecon.MemoryPlan("pi3", 17, 18, (42, 28), 2, "some kind", needs, 2**30)
    assert plan.fits
    assert replace(plan, host_limit=2**31).fits
    assert not replace(plan, host_limit=2**31 - 1).fits
    assert not replace(plan, limit=2).fits


def test_a_program_is_held_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three devices here."""
    names = ("argument", "output", "temp", "alias")
    told = {f"{name}_size_in_bytes": 1 for name in names}
    told |= {f"host_{name}_size_in_bytes": 2**28 for name in names[:3]}
    program = SimpleNamespace(
        memory_analysis=lambda: SimpleNamespace(**told),
        runtime_executable=lambda: SimpleNamespace(local_devices=lambda: [0, 1, 2]),
    )
    device = SimpleNamespace(platform="cpu", memory_stats=lambda: {"bytes_limit": 7})
    monkeypatch.setattr(memory, "machine_memory", lambda: 9 * 2**28)
    memory.check_compiled(program, device)
    monkeypatch.setattr(memory, "machine_memory", lambda: 9 * 2**28 - 1)
    with pytest.raises(InputError, match=r"offload: 2\.25 GiB would wait"):
        memory.check_compiled(program, device)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.50 KiB"),
        (2**20, "1.00 MiB"),
        (5 * 2**28, "1.25 GiB"),
    ],
)
def test_bytes_as_people_read_them(count: int, text: str) -> None:
    assert readable(count) == text


def test_a_compiler_that_does_not_tell(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = SimpleNamespace(memory_analysis=lambda: None)
    assert needs_of(silent) is None
    memory.check_compiled(silent, jax.devices()[0])
    monkeypatch.setattr(Executor, "lower", lambda *_: SimpleNamespace(compile=lambda **_: silent))
    with pytest.raises(InputError, match=r"devices: the compiler for .* does not tell"):
        jaxrecon.memory_plan(native, views=4, size=SIZE)


def test_what_a_device_tells() -> None:
    assert bytes_limit(SimpleNamespace(memory_stats=lambda: None, platform="tpu")) is None
    assert bytes_limit(SimpleNamespace(memory_stats=lambda: {"bytes_in_use": 1})) is None
    assert bytes_limit(SimpleNamespace(memory_stats=lambda: {"bytes_limit": 7})) == 7
    assert default_device() == jax.devices()[0]
    with jax.default_device("cpu"):
        assert default_device() == jax.devices("cpu")[0]


def test_the_cpu_has_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu, *_) = jax.devices("cpu")
    monkeypatch.setattr(jax, "local_device_count", lambda backend: 4)
    memory_in_pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}
    monkeypatch.setattr(memory.os, "sysconf", memory_in_pages.__getitem__)
    assert bytes_limit(cpu) == 1_024_000
    monkeypatch.delattr(memory.os, "sysconf")  # as on Windows
    assert bytes_limit(cpu) is None


def test_reconstruct_refuses_before_it_runs(
    pipeline: Pipeline, plan: jaxrecon.MemoryPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = without_programs(pipeline)
    monkeypatch.setattr(memory, "bytes_limit", lambda device: plan.needs.total - 1)
    stages = Stages(quiet=True)
    with pytest.raises(InputError, match=r"images: the program needs .* MiB of memory"):
        images = np.zeros((4, SIZE[1], SIZE[0], 3), np.uint8)
        fresh.reconstruct(images, resolution=SIZE[0], stages=stages)
    assert fresh.compilations == 0
    assert list(stages.seconds) == ["read"]


# The command line


def test_the_command(
    native: Path, plan: jaxrecon.MemoryPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ("--views", "4", "--size", "42x28", "--dtype", "float32")
    assert main(["plan", "-m", str(native), *shape, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (
        told["needs"]["total"]
        == plan.needs.total
        == sum(told["needs"][name] for name in ("arguments", "outputs", "temporaries"))
    )
    assert told["size"] == [42, 28]
    assert told["fits"] is plan.fits


@pytest.mark.parametrize(
    ("limit", "fits", "last"),
    [
        (None, None, "       limit  this device does not tell"),
        (3 * 2**30, True, "       limit  3.00 GiB: it fits"),
        (2**31, False, "       limit  2.00 GiB: it does not fit"),
    ],
)
def test_what_the_command_prints(
    limit: int | None,
    fits: bool | None,
    last: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs = MemoryNeeds(arguments=2**30, outputs=2**20, temporaries=3 * 2**29)
    plan = jaxrecon.MemoryPlan("pi3", 17, 18, (42, 28), 2, "some kind", needs, limit)
    assert plan.fits is fits
    monkeypatch.setattr("jaxrecon.plan.memory_plan", lambda *given, **named: plan)
    assert main(["plan", "--views", "17", "--size", "42x28"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "pi3, 17 views and 1 of padding, 42x28 pixels; on each of 2 x some kind:",
        "   arguments  1.00 GiB",
        "     outputs  1.00 MiB",
        " temporaries  1.50 GiB",
        "       total  2.50 GiB",
        last,
    ]


def test_what_the_command_prints_of_the_host(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = MemoryNeeds(arguments=2**30, outputs=2**20, temporaries=2**30, host=2**29)
    plan = jaxrecon.MemoryPlan("pi3", 17, 18, (42, 28), 2, "some kind", needs, 2**32)
    monkeypatch.setattr("jaxrecon.plan.memory_plan", lambda *given, **named: plan)
    for limit, told in ((None, "1.00 GiB"), (2**31, "1.00 GiB of 2.00 GiB")):
        plan = replace(plan, host_limit=limit)
        assert main(["plan", "--views", "17", "--size", "42x28", "--offload"]) == 0
        assert f" on the host  {told}" in capsys.readouterr().out.splitlines()


def test_what_the_command_prints_of_streaming(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, heads = MemoryNeeds(2**30, 2**20, 2**30), MemoryNeeds(2**30, 2**29, 2**31)
    streamed = StreamedNeeds(8, encoder, heads, between=2**20)
    plan = jaxrecon.MemoryPlan("pi3", 17, 18, (42, 28), 1, "some kind", heads, None)
    chunks = {"head views": (8, 18), "MLP tokens": (2**18, 2**20)}
    plan = replace(plan, chunks=chunks, streamed=streamed)
    given: dict[str, Any] = {}

    def memory_plan(*_: Any, **named: Any) -> jaxrecon.MemoryPlan:
        given.update(named)
        return plan

    monkeypatch.setattr("jaxrecon.plan.memory_plan", memory_plan)
    command = ["plan", "--views", "17", "--size", "42x28", "--stream"]
    assert main([*command, "--views-at-once", "8"]) == 0
    assert given["views_at_once"] == 8
    assert capsys.readouterr().out.splitlines()[1:] == [
        "     encoder  2.00 GiB",
        "       heads  3.50 GiB for 8 views at once",
        "     between  1.00 MiB beside the weights",
        "  the larger  heads",
        "   arguments  1.00 GiB",
        "     outputs  512.00 MiB",
        " temporaries  2.00 GiB",
        "       total  3.50 GiB",
        "       limit  this device does not tell",
        "   at a time  262,144 of 1,048,576 MLP tokens, 8 of 18 head views",
    ]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert given["views_at_once"] == 16
    assert told["streamed"]["heads"]["total"] == heads.total
    assert told["chunks"]["head views"] == [8, 18]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--views", "0", "--size", "42x28"), "views=0 must be at least 1"),
        (("--views", "2", "--size", "42x30"), "size: 42x30 must be multiples of 14"),
        (("--views", "2", "--size", "42x28", "--views-at-once", "2"), "goes with --stream"),
        (("--views", "2", "--size", "big"), "--size big: give width and height in pixels"),
        (("--views", "2", "--size", "42x28", "--devices", "99"), "devices=99: there are"),
        (("--views", "2", "--size", "42x28", "--tracks", "9"), "tracks: models of the family pi3"),
    ],
)
def test_bad_arguments(
    native: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "-m", str(native), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
