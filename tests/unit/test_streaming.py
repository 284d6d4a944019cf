"""Reconstructions that are written view by view."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from compiled_programs import programs_of, without_programs
from drawn_weights import drawn
from jaxrecon import InputError, OutputError, Reconstruction, SparseAttention
from jaxrecon.formats import VIEW_ARRAYS, read_streamed
from jaxrecon.models import PI3_RESIZE, Pi3, Pi3Config
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.pipeline import Pipeline, streaming
from jaxrecon.progress import Stages
from jaxrecon.runtime import memory
from jaxrecon.runtime.memory import needs_of
from places import fresh_process

SMALL = Pi3Config(DinoV2Config(32, 2, 2, 4, 14, 5), 4, 2, 5, 32, 2, 1, 32, 16)
ROWS = ("points_world", "points_camera", "confidence", "world_from_camera", "intrinsics")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    model = drawn(lambda: Pi3(SMALL, rngs=nnx.Rngs(0)))
    return Pipeline(model, "small", PI3_RESIZE)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 28, 42, 3), np.uint8)


def same(one: Reconstruction, other: Reconstruction) -> None:
    for name in ROWS:
        a, b = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())
    assert (np.asarray(one.mask) == np.asarray(other.mask)).mean() > 0.999
    np.testing.assert_array_equal(one.colors, other.colors)
    assert one.names == other.names
    assert one.transforms == other.transforms


@pytest.mark.parametrize(
    "views_at_once",
    [*(pytest.param(count, marks=pytest.mark.thorough) for count in (1, 7, 100)), 3],
)
def test_the_same_as_all_at_once(
    pipeline: Pipeline, pixels: np.ndarray, views_at_once: int, tmp_path: Path
) -> None:
    folder = pipeline.stream(pixels, tmp_path / "out", resolution=42, views_at_once=views_at_once)
    assert len(list(folder.glob("*.npz"))) == 7
    whole = pipeline.reconstruct(pixels, resolution=42)
    same(Reconstruction.load(folder), whole)
    third = Reconstruction.load(folder / "000002_view_0002.npz")
    same(third, whole[2])


@pytest.mark.thorough
def test_each_view_loses_its_own_share(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"resolution": 42, "view_confidence_quantile": 0.3}
    folder = pipeline.stream(pixels, tmp_path / "out", views_at_once=3, **given)
    same(Reconstruction.load(folder), pipeline.reconstruct(pixels, **given))


@pytest.mark.thorough
def test_padding_views_are_not_written(pipeline: Pipeline, tmp_path: Path) -> None:
    """17 views run as 18."""
    pixels = np.random.default_rng(1).integers(0, 256, (17, 28, 28, 3), np.uint8)
    folder = pipeline.stream(pixels, tmp_path / "out", resolution=28, views_at_once=4)
    assert len(list(folder.glob("*.npz"))) == 17
    same(Reconstruction.load(folder), pipeline.reconstruct(pixels, resolution=28))


def test_a_run_that_broke_off_is_finished_by_the_next(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pipeline.stream(pixels, tmp_path / "whole", resolution=42)
    written: list[Path] = []

    def failing(scene: Any, path: Path, **options: Any) -> None:
        if len(written) >= 3:
            raise OutputError(f"cannot write {path}: No space left on device")
        written.append(path)
        streaming_write(scene, path, **options)

    streaming_write = streaming.write_npz
    monkeypatch.setattr(streaming, "WRITERS", 1)
    monkeypatch.setattr(streaming, "write_npz", failing)
    broken = tmp_path / "broken"
    with pytest.raises(OutputError, match="No space left"):
        pipeline.stream(pixels, broken, resolution=42)
    assert sorted(broken.glob("*.npz")) == sorted(written)
    with pytest.raises(InputError, match="is not finished: 4 of 7 views are missing"):
        Reconstruction.load(broken)
    before = {path: path.stat().st_mtime_ns for path in written}
    again: list[Path] = []

    def counted(scene: Any, path: Path, **options: Any) -> None:
        again.append(path)
        streaming_write(scene, path, **options)

    monkeypatch.setattr(streaming, "write_npz", counted)
    pipeline.stream(pixels, broken, resolution=42)
    assert len(again) == 4
    assert {path: path.stat().st_mtime_ns for path in written} == before
    same(Reconstruction.load(broken), Reconstruction.load(whole))
    again.clear()
    pipeline.stream(pixels, broken, resolution=42)
    assert not again


@pytest.mark.thorough
def test_a_killed_process_leaves_whole_files_and_another_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert streamed_by_a_process(folder, killed_after=2) == -9
    left = sorted(folder.glob("*.npz"))
    assert len(left) >= 2
    for file in left:
        assert len(Reconstruction.load(file)) == 1
    before = {path: path.stat().st_mtime_ns for path in left}
    assert streamed_by_a_process(folder, killed_after=100) == 0
    assert {path: path.stat().st_mtime_ns for path in left} == before
    assert len(Reconstruction.load(folder)) == 7


def streamed_by_a_process(folder: Path, killed_after: int) -> int:
    """The exit code of a process of its own that streams, with dense attention, into the folder."""
    code = _KILLED.format(folder=str(folder), killed_after=killed_after)
    env = fresh_process()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=env)
    return done.returncode


_KILLED = """
import os, signal
import jax, numpy as np
from flax import nnx
from drawn_weights import drawn
from jaxrecon.models import PI3_RESIZE
from jaxrecon.models import Pi3, Pi3Config
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.pipeline import Pipeline, streaming

config = Pi3Config(DinoV2Config(32, 2, 2, 4, 14, 5), 4, 2, 5, 32, 2, 1, 32, 16)
model = drawn(lambda: Pi3(config, rngs=nnx.Rngs(0)))
pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 42, 3), np.uint8)
write, done = streaming.write_npz, []

def killing(scene, path, **options):
    write(scene, path, **options)
    done.append(path)
    if len(done) == {killed_after}:
        os.kill(os.getpid(), signal.SIGKILL)

streaming.write_npz = killing
streaming.WRITERS = 1
Pipeline(model, "small", PI3_RESIZE).stream(pixels, {folder!r}, resolution=42)
"""


def test_another_reconstruction_in_the_folder(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    pipeline.stream(pixels, folder, resolution=42)
    others = pixels[::-1]
    with pytest.raises(OutputError, match="holds another reconstruction"):
        pipeline.stream(others, folder, resolution=42)
    with pytest.raises(OutputError, match="holds another reconstruction"):
        pipeline.stream(pixels, folder, resolution=42, min_confidence=0.9)
    pipeline.stream(others, folder, resolution=42, overwrite=True)
    np.testing.assert_array_equal(Reconstruction.load(folder).colors, others)
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        pipeline.stream(pixels, other, resolution=42)


def test_files_that_a_killed_run_was_in_the_middle_of(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / ".scene.json.ab_cd12.part").write_text("{")
    pipeline.stream(pixels, folder, resolution=42)
    finished = sorted(file.name for file in folder.iterdir())
    assert finished == [*(f"{view:06}_view_{view:04}.npz" for view in range(7)), "scene.json"]
    (folder / ".000001_view_0001.npz.ab_cd12.part").write_text("PK")
    (folder / ".000001_view_0001.npz.notes").write_text("mine")
    pipeline.stream(pixels, folder, resolution=42)
    left = {file.name for file in folder.iterdir()} - set(finished)
    assert left == {".000001_view_0001.npz.notes"}


def test_a_folder_that_cannot_be_used_is_refused_before_photos_are_read(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        pipeline.stream("no such photos", tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "scene.json").write_text("[" * 100_000)
    with pytest.raises(OutputError, match=r"holds a scene\.json that is damaged"):
        pipeline.stream("no such photos", tmp_path / "damaged")
    with pytest.raises(OutputError, match="a file of that name exists"):
        pipeline.stream("no such photos", tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-20], "is not sound"),
        (lambda text: text.replace("jaxrecon-views", "x"), "another format or version"),
        (lambda text: text.replace("000001_", "../000001_"), "list of files is not sound"),
        (lambda text: json.dumps({"format": "jaxrecon-views", "version": 1}), "'files'"),
    ],
)
def test_damaged_folder(
    pipeline: Pipeline,
    pixels: np.ndarray,
    tmp_path: Path,
    change: Callable[[str], str],
    message: str,
) -> None:
    folder = pipeline.stream(pixels, tmp_path / "out", resolution=42)
    file = folder / "scene.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        Reconstruction.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.thorough
def test_a_folder_is_read_into_the_memory_of_its_arrays(pipeline: Pipeline, tmp_path: Path) -> None:
    pixels = np.zeros((12, 112, 112, 3), np.uint8)
    folder = pipeline.stream(pixels, tmp_path / "out", resolution=112)
    tracemalloc.start()
    scene = read_streamed(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = sum(np.asarray(getattr(scene, name)).nbytes for name in VIEW_ARRAYS)
    assert peak < 1.5 * size


@pytest.mark.thorough
def test_views_of_several_sizes_in_a_folder(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path
) -> None:
    folder = pipeline.stream(pixels, tmp_path / "out", resolution=42)
    other = pipeline.stream(pixels[:2, :, :28], tmp_path / "other", resolution=28)
    (other / "000001_view_0001.npz").replace(folder / "000001_view_0001.npz")
    with pytest.raises(InputError, match=r"000001_view_0001.npz: its .* \(1, 28, 42, 3\); write"):
        Reconstruction.load(folder)


@pytest.mark.usefixtures("without_shape_checks")
def test_arguments_that_need_all_views(pipeline: Pipeline, pixels: np.ndarray) -> None:
    shared: Any = "shared"
    with pytest.raises(InputError, match="is fitted by reconstruct, not by stream"):
        pipeline.stream(pixels, "out", intrinsics=shared)
    with pytest.raises(InputError, match="views_at_once=0 must be at least 1"):
        pipeline.stream(pixels, "out", views_at_once=0)
    assert not Path("out").exists()


@pytest.mark.thorough
def test_eight_devices(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SPREAD.format(folder=str(tmp_path))],
        capture_output=True,
        text=True,
        env=fresh_process(4, JAX_DISABLE_MOST_OPTIMIZATIONS="1"),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


_SPREAD = """
import jax, numpy as np
from flax import nnx
import jaxrecon
from drawn_weights import drawn
from jaxrecon.models import PI3_RESIZE
from jaxrecon.models import Pi3, Pi3Config
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.pipeline import Pipeline
from jaxrecon.runtime.sharding import replicated

config = Pi3Config(DinoV2Config(32, 2, 2, 4, 14, 5), 4, 2, 5, 32, 2, 1, 32, 16)
model = drawn(lambda: Pi3(config, rngs=nnx.Rngs(0)))
pixels = np.random.default_rng(0).integers(0, 256, (11, 28, 42, 3), np.uint8)
one = Pipeline(model, "small", PI3_RESIZE).reconstruct(pixels, resolution=42)
mesh = jaxrecon.make_mesh()
four = Pipeline(jax.device_put(model, replicated(mesh)), "small", PI3_RESIZE, mesh=mesh)
folder = four.stream(pixels, {folder!r} + "/out", resolution=42, views_at_once=8)
found = jaxrecon.Reconstruction.load(folder)
scale = np.abs(one.points_world).max()
assert np.abs(np.asarray(one.points_world) - found.points_world).max() < 1e-5 * scale
assert found.names == one.names
"""


def test_models_dtype_belongs_to_the_digest(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path
) -> None:
    folder = pipeline.stream(pixels, tmp_path / "out", resolution=42)
    half = jax.tree.map(lambda x: x.astype("bfloat16"), pipeline.model)
    with pytest.raises(OutputError, match="holds another reconstruction"):
        replace(pipeline, model=half).stream(pixels, folder, resolution=42)


def test_weights_belong_to_the_digest(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path
) -> None:
    """The first leaf is alike; the name and all dtypes are."""
    folder = pipeline.stream(pixels, tmp_path / "out", resolution=42)
    last = jax.tree.leaves(pipeline.model)[-1]
    other = jax.tree.map(lambda x: x * 2 if x is last else x, pipeline.model)
    with pytest.raises(OutputError, match="holds another reconstruction"):
        replace(pipeline, model=other).stream(pixels, folder, resolution=42)


@pytest.mark.thorough
def test_dense_then_sparse_with_one_pipeline(
    pipeline: Pipeline, pixels: np.ndarray, tmp_path: Path
) -> None:
    sparse = SparseAttention(block_q=16, block_kv=16)
    before = pipeline.compilations
    pipeline.stream(pixels, tmp_path / "dense", resolution=42, views_at_once=2)
    dense = pipeline.compilations
    folder = pipeline.stream(
        pixels, tmp_path / "sparse", resolution=42, views_at_once=2, attention=sparse
    )
    assert before <= dense == pipeline.compilations - 1  # the heads' program serves both
    same(Reconstruction.load(folder), pipeline.reconstruct(pixels, resolution=42, attention=sparse))


@pytest.mark.parametrize(("views_at_once", "runs"), [(100, 1), (4, 2)])
@pytest.mark.thorough
def test_heads_that_do_not_fit_are_refused_before_the_encoder_runs(
    pipeline: Pipeline,
    pixels: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    views_at_once: int,
    runs: int,
) -> None:
    def streamed(folder: str) -> Stages:
        pixels = np.zeros((7, 56, 84, 3), np.uint8)
        options: dict[str, Any] = {"resolution": 84, "views_at_once": views_at_once}
        fresh.stream(pixels, tmp_path / folder, stages=stages, **options)
        return stages

    fresh, stages = without_programs(pipeline), Stages(quiet=True)
    assert "run" in streamed("out").seconds
    encoder, heads = (needs_of(program) for program in programs_of(fresh).values())
    assert encoder is not None and heads is not None
    enough = heads.keeping(runs).total
    assert enough > encoder.total
    fresh, stages = without_programs(pipeline), Stages(quiet=True)
    monkeypatch.setattr(memory, "bytes_limit", lambda device: enough - 1)
    with pytest.raises(InputError, match=r"fewer of them at once \(views_at_once\)"):
        streamed("other")
    assert "run" not in stages.seconds
    assert not (tmp_path / "other").exists()
    assert next(iter(programs_of(fresh)))[0] == "encode"
