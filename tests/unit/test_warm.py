"""Programs compiled before there are images, while weights are read."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import jaxrecon
from jaxrecon import InputError, Stages, WeightsError
from jaxrecon.benchmark import _own_cache
from jaxrecon.checkpoint import modules
from jaxrecon.pipeline.warming import transforms_of_photos, view_counts
from jaxrecon.registry import load_abstract
from jaxrecon.runtime.executor import Executor
from tiny_models import write_native

QUIET = Stages(quiet=True)
PHOTO = (42, 56)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_native(tmp_path_factory.mktemp("warm") / "tiny")


@pytest.fixture
def small_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` compiles for photos that become small."""
    monkeypatch.setattr(
        "jaxrecon.pipeline.pipeline.transforms_of_photos",
        lambda rule, photo, resolution, views: transforms_of_photos(rule, PHOTO, 42, views),
    )


def photos(views: int) -> np.ndarray:
    shape = views, PHOTO[1], PHOTO[0], 3
    return np.random.default_rng(views).integers(0, 256, shape, np.uint8)


class Lowered(Exception):
    """A program would be compiled."""


@pytest.mark.usefixtures("small_photos")
def test_loaded_warm_it_compiles_nothing_and_finds_the_same(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = Stages(quiet=True)
    warm = jaxrecon.load(native, warm=2, stages=stages)
    assert {"warm", "load"} <= stages.seconds.keys()
    assert warm.compilations == 1
    plain = jaxrecon.load(native, stages=QUIET)
    assert plain.compilations == 0
    ours, theirs = (
        model.reconstruct(photos(2), resolution=42, stages=QUIET) for model in (warm, plain)
    )
    np.testing.assert_array_equal(ours.points_world, theirs.points_world)
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    assert warm.compilations == 1
    assert warm.header == plain.header and warm == warm.with_weights(warm.model)

    def lower(*_: Any) -> Any:
        raise Lowered

    monkeypatch.setattr(Executor, "lower", lower)
    with pytest.raises(Lowered):
        warm.reconstruct(photos(1), resolution=42, stages=QUIET)
    warm.reconstruct(photos(2), resolution=42, stages=QUIET)


@pytest.mark.usefixtures("small_photos")
def test_numbers_that_share_a_program_compile_it_once(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = SimpleNamespace(memory_analysis=lambda: None)
    monkeypatch.setattr(Executor, "lower", lambda *_: SimpleNamespace(compile=lambda **_: program))
    shapes = load_abstract(native)
    shapes.warm([19, 20, 20, 1])
    assert shapes.compilations == 2
    shapes.warm((20,))
    assert shapes.compilations == 2


def test_photos_of_another_shape(native: Path) -> None:
    """Upright ones, where those that one warms up for by default lie."""
    shapes = load_abstract(native)
    shapes.warm((2,), photo=PHOTO, resolution=42, stages=QUIET)
    model = shapes.with_weights(jaxrecon.load(native, stages=QUIET).model)
    model.reconstruct(photos(2), resolution=42, stages=QUIET)
    assert model.compilations == 1


@pytest.mark.usefixtures("small_photos")
def test_where_other_weights_are_from_is_not_known(native: Path) -> None:
    pipeline = jaxrecon.load(native, stages=QUIET)
    assert pipeline.weights_digest is not None and pipeline.weights_path == native
    warm = jaxrecon.load(native, warm=2, stages=QUIET)
    told = warm.weights_digest, warm.weights_path
    assert told == (pipeline.weights_digest, native)
    others = pipeline.with_weights(warm.model)
    assert others.weights_digest is None and others.weights_path is None


def test_weights_of_another_kind_are_refused(native: Path) -> None:
    half = load_abstract(native, dtype="bfloat16")
    with pytest.raises(InputError, match="model: its weights have other shapes or dtypes"):
        half.with_weights(jaxrecon.load(native, stages=QUIET).model)


@pytest.mark.usefixtures("small_photos")
def test_weights_are_read_meanwhile(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lowering, restore, lower = threading.Event(), modules.restore, Executor.lower

    def restore_then(*arguments: Any, **named: Any) -> Any:
        assert lowering.wait(60)
        return restore(*arguments, **named)

    def lower_and_tell(*arguments: Any) -> Any:
        lowering.set()
        return lower(*arguments)

    monkeypatch.setattr(modules, "restore", restore_then)
    monkeypatch.setattr(Executor, "lower", lower_and_tell)
    assert jaxrecon.load(native, warm=(2,), stages=QUIET).compilations == 1


@pytest.mark.usefixtures("small_photos")
def test_an_interruption_does_not_wait_for_the_weights(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on, restore = threading.Event(), threading.Event(), modules.restore
    read = []

    def restore_at_length(*arguments: Any, **named: Any) -> Any:
        reading.set()
        assert go_on.wait(60)
        read.append(restore(*arguments, **named))
        return read[0]

    def interrupted(*_: Any) -> Any:
        assert reading.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(modules, "restore", restore_at_length)
    monkeypatch.setattr(Executor, "lower", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jaxrecon.load(native, warm=(2,), stages=QUIET)
    assert not read
    go_on.set()


@pytest.mark.usefixtures("small_photos")
def test_damaged_weights_are_told_all_the_same(native: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.json").write_bytes((native / "config.json").read_bytes())
    content = bytearray((native / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="have changed since it was written"):
        jaxrecon.load(folder, warm=(2,), stages=QUIET)


def test_numbers_of_views() -> None:
    assert view_counts("warm", 2) == (2,)
    assert view_counts("warm", np.int64(4)) == (2, 3, 4)
    assert view_counts("warm", (10, 1)) == (10, 1)
    assert view_counts("warm", [3]) == (3,)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("warm", "told"),
    [
        (True, "warm=True: give a number of views, such as 8 for 2 to 8 of them, or several in a"),
        (False, "warm=False: give a number"),
        (8.0, r"warm=8.0: give a number"),
        ("8", "warm='8': give a number"),
        ((), r"warm=\(\): give a number"),
        (1, "warm=1 must be at least 2"),
        (-3, "warm=-3 must be at least 2"),
        (10**30, "warm=.* must be at most 1000"),
        ((2, True), "warm=True is no whole number"),
        ((2, 0), "warm=0 must be at least 1"),
    ],
)
def test_other_values_are_refused_before_weights_are_looked_for(warm: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        jaxrecon.load("nowhere", warm=warm)


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"views": True}, "views=True: give a number"),
        ({"photo": (0, 3)}, r"photo=\(0, 3\) must be width and height in pixels"),
        ({"photo": 3}, "photo=3 must be"),
        ({"photo": (3.0, 4)}, r"photo=\(3.0, 4\) must be"),
        ({"resolution": 3}, "resolution=3"),
    ],
)
def test_arguments_of_warm(given: dict[str, Any], told: str, native: Path) -> None:
    arguments: dict[str, Any] = {"views": 2} | given
    with pytest.raises(InputError, match=told):
        load_abstract(native).warm(**arguments)


@pytest.mark.usefixtures("small_photos")
def test_without_weights_programs_are_kept_for_other_processes(native: Path) -> None:
    model = jaxrecon.load(native, stages=QUIET)
    with _own_cache() as folder:
        load_abstract(native).warm((2,), stages=QUIET)
        (entry,) = folder.glob("jit_scene_program*-cache")
        model.reconstruct(photos(2), resolution=42, stages=QUIET)
        assert list(folder.glob("jit_scene_program*-cache")) == [entry]
