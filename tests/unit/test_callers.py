"""What a caller has set around a call: threads, functions that JAX transforms, a device, a mesh."""

import copy
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import jaxrecon
from jaxrecon import InputError, Stages
from jaxrecon.aot import ExportedPipeline
from jaxrecon.pipeline import Pipeline
from jaxrecon.registry import load_abstract, loading
from jaxrecon.runtime import executor
from tiny_models import write_native

QUIET = Stages(quiet=True)
SHAPE = (2, 28, 42, 3)
PHOTOS = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("callers") / "tiny")


@pytest.fixture(scope="module")
def pipeline(native: Path) -> Pipeline:
    return jaxrecon.load(native, stages=QUIET)


def slowly_compiled(made: list[Any], *_: Any) -> Any:
    time.sleep(0.05)
    made.append(SimpleNamespace(memory_analysis=lambda: None))
    return made[-1]


# Threads.


def test_a_program_is_compiled_once_for_all_threads(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(executor, "compiled", partial(slowly_compiled, made))
    shapes = load_abstract(native).executor
    with ThreadPoolExecutor(8) as pool:
        keys = "one", "one", "one", "other", "one", "other"
        found = list(pool.map(lambda key: shapes.once(key, lambda: None), keys))
    assert len(made) == 2
    assert {id(found[0])} == {id(found[number]) for number in (1, 2, 4)}
    assert {id(found[3])} == {id(found[5])} != {id(found[0])}


def test_one_that_cannot_be_compiled_holds_nobody_up(native: Path) -> None:
    shapes = load_abstract(native).executor

    def refuse() -> None:
        raise InputError("no")

    for _ in range(2):
        with pytest.raises(InputError, match="no"):
            shapes.once("key", refuse)


@pytest.mark.usefixtures("without_shape_checks")
def test_a_program_of_a_file_is_compiled_once_for_all_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(ExportedPipeline, "_made", partial(slowly_compiled, made))
    nothing: Any = None
    program = ExportedPipeline(nothing, nothing, {})
    with ThreadPoolExecutor(4) as pool:
        found = {id(each) for each in pool.map(lambda _: program._program(), range(4))}
    assert len(made) == len(found) == 1


def test_copies_compile_for_themselves(pipeline: Pipeline) -> None:
    pipeline.reconstruct(PHOTOS, resolution=42, stages=QUIET)
    assert pipeline.compilations
    one = pipeline.executor
    for other in (copy.copy(one), pickle.loads(pickle.dumps(one))):
        assert other.compilations == 0


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("device", [None, "cpu", jax.devices()[0]])
def test_weights_read_beside_warming_go_where_the_caller_wants(device: Any) -> None:
    """Each thread has a default device of its own."""
    shapes: Any = SimpleNamespace(model=None, warm=lambda *_, **__: None, with_weights=lambda x: x)
    threads: list[int] = []

    def restore(_: Any) -> Any:
        threads.append(threading.get_ident())
        return jax.config.jax_default_device

    with jax.default_device(device):
        assert loading._with_weights(shapes, restore, (2,), QUIET) == device
    assert threads != [threading.get_ident()]


# Functions that JAX transforms.


def entries(pipeline: Pipeline) -> dict[str, Callable[[], Any]]:
    return {
        "reconstruct": partial(pipeline.reconstruct, PHOTOS, resolution=42, stages=QUIET),
        "stream": partial(pipeline.stream, PHOTOS, "nowhere", resolution=42),
        "reconstruct_sequence": partial(pipeline.reconstruct_sequence, PHOTOS),
        "warm": partial(pipeline.warm, 2),
        "load": partial(jaxrecon.load, "pi3-mini"),
        "load_abstract": partial(load_abstract, "pi3-mini"),
        "load_exported": partial(jaxrecon.load_exported, "nowhere"),
        "memory_plan": partial(jaxrecon.memory_plan, "pi3-mini", views=2, size=(28, 42)),
        "export_program": partial(
            jaxrecon.export_program, pipeline, "nowhere", views=2, size=(28, 42)
        ),
    }


@pytest.mark.parametrize("transform", [jax.jit, lambda f: partial(jax.eval_shape, f)])
def test_nothing_is_called_where_jax_traces(
    transform: Callable[[Any], Any], pipeline: Pipeline
) -> None:
    for name, call in entries(pipeline).items():
        with pytest.raises(InputError, match=f"^{name}: it is called inside .* JAX traces"):
            transform(call)()


@pytest.mark.parametrize("transform", [jax.vmap, jax.grad])
def test_traced_images_are_refused(transform: Callable[[Any], Any], pipeline: Pipeline) -> None:
    def points(images: Any) -> Any:
        return pipeline.reconstruct(images, resolution=42, stages=QUIET).points_world.sum()

    images = jnp.zeros((1, *SHAPE) if transform is jax.vmap else SHAPE)
    with pytest.raises(InputError, match=r"images: found an array that JAX traces.*outside"):
        transform(points)(images)


def test_it_may_be_called_where_others_are_transformed(pipeline: Pipeline) -> None:
    expected = pipeline.reconstruct(PHOTOS, resolution=42, stages=QUIET).points_world.sum()

    def loss(x: jax.Array) -> jax.Array:
        return x * pipeline.reconstruct(PHOTOS, resolution=42, stages=QUIET).points_world.sum()

    np.testing.assert_allclose(jax.grad(loss)(1.0), expected, rtol=1e-6)


# A mesh.


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_the_callers_own_is_left_out(
    kind: AxisType, native: Path, tmp_path: Path
) -> None:
    mesh = jax.make_mesh((1,), ("x",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        loaded = jaxrecon.load(native, stages=QUIET)
        leaf = jax.tree.leaves(loaded.model)[0]
        assert isinstance(leaf.sharding, jax.sharding.SingleDeviceSharding)
        jaxrecon.export_program(loaded, tmp_path / "program", views=1, size=(14, 14))
        assert jax.sharding.get_mesh() == mesh
