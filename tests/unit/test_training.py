"""Runs of training: what they write, that they resume exactly, and what goes wrong clearly."""

import json
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from PIL import Image

import jaxrecon
from jaxrecon import checkpoint
from jaxrecon.errors import InputError, OutputError, WeightsError
from jaxrecon.scenes import SCENES
from jaxrecon.scenes.photographs import Pictures
from jaxrecon.training import (
    MINI,
    MINI_EDGES,
    Bucket,
    TrainConfig,
    loop,
    programs,
    step,
    train,
    window,
)
from jaxrecon.training.flops import step_flops
from jaxrecon.training.inputs import INPUTS_NAME, claim_inputs, digest_of_files
from jaxrecon.training.log import Log, read_log
from jaxrecon.training.plan import abstract_state
from jaxrecon.training.plot import draw_log
from jaxrecon.training.saving import Checkpoints
from jaxrecon.training.sharding import abstract_placed
from jaxrecon.training.state import (
    abstract_model,
    initial_state,
    initial_weights,
    learning,
    learning_rate,
    make_optimizer,
    updated,
)
from jaxrecon.training.step import (
    choose_bucket,
    make_data_mesh,
    make_render,
    make_step,
    validation_bucket,
)
from jaxrecon.training.textures import digest_of_pictures
from kept_notes import KeptNotes
from places import fresh_process
from plane_scenes import SMALL, render_planes, small_config
from tensorboard_events import read_scalars

TIMES = {"seconds", "images_per_second", "tflops_per_device"}
ONE_STEP = small_config(log_every=1)
"""The run of a few steps, which may stop after the first."""


@pytest.fixture(scope="module", autouse=True)
def planes() -> Iterator[None]:
    """Cheap scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "render_groups", render_planes)
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_are_kept(planes: None) -> Iterator[None]:
    """Runs of one config share their programs, which take longer to trace than the runs."""
    kept: dict[str, loop.Programs] = {}
    make = loop.Programs

    def kept_programs(config: TrainConfig, mesh: Mesh, *rest: Any) -> loop.Programs:
        if step.render_groups is not render_planes:  # another test's own renderer
            return make(config, mesh, *rest)
        name = replace(config, save_every=config.steps, log_every=1).to_json()
        if name not in kept:
            kept[name] = make(config, mesh, *rest)
        return kept[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Programs", kept_programs)
        yield


@pytest.fixture(scope="module")
def whole(planes: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train(small_config(), folder)
    return folder


def losses_of(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = read_log(folder / "log.jsonl")
    return [{name: v for name, v in line.items() if name not in TIMES} for line in lines]


def weights_of(folder: Path) -> dict[str, np.ndarray]:
    return dict(checkpoint.read_tensors(folder / "weights"))


def same_weights(folder: Path, other: Path) -> bool:
    ours, theirs = weights_of(folder), weights_of(other)
    equal = all((ours[path] == theirs[path]).all() for path in ours)
    return ours.keys() == theirs.keys() and equal


def same_run(folder: Path, other: Path) -> bool:
    return losses_of(folder) == losses_of(other) and same_weights(folder, other)


def test_a_run_writes_its_config_log_and_weights(whole: Path) -> None:
    assert TrainConfig.from_json(whole / "train.json") == small_config()
    log = read_log(whole / "log.jsonl")
    assert [line["step"] for line in log if "loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in log if "validation_auc30" in line] == [6, 12]
    assert all(np.isfinite(value) for line in log for value in line.values())
    assert log[-2]["learning_rate"] == 0
    header = checkpoint.read_config(whole / "weights")
    assert (header["model"], header["license"]) == ("pi3-mini", "Apache-2.0")
    assert {entry["dtype"] for entry in header["tensors"].values()} == {"bfloat16"}
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_weights_can_be_loaded_and_used(whole: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 42, 3), np.uint8)
    recon = jaxrecon.load(whole / "weights").reconstruct(images, resolution=42)
    assert recon.model == "pi3-mini"
    assert bool(jnp.isfinite(recon.points_world).all())


def test_stopped_and_resumed_is_the_same_run(whole: Path, tmp_path: Path) -> None:
    assert train(small_config(), tmp_path, stop_after=0.0, tensorboard=True) is None
    so_far = weights_of(tmp_path)
    assert checkpoint.read_config(tmp_path / "weights")["source"]["steps"] == 2
    assert train(small_config(), tmp_path, tensorboard=True) == tmp_path / "weights"
    assert any((so_far[path] != new).any() for path, new in weights_of(tmp_path).items())
    assert same_run(tmp_path, whole)
    steps = [step for step, _ in read_scalars(tmp_path / "tensorboard")]
    assert steps == [line["step"] for line in read_log(whole / "log.jsonl")]


@pytest.mark.thorough
def test_a_run_that_goes_on_in_another_process_compiles_nothing_again(tmp_path: Path) -> None:
    script = (
        "import sys; from plane_scenes import *; use_planes()\n"
        "train(small_config(), sys.argv[1], stop_after=0.0)"
    )
    home = tmp_path / "home"
    env = fresh_process(JAXRECON_HOME=str(home), JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    del env["JAX_COMPILATION_CACHE_DIR"]  # that of the tests
    kept = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", script, tmp_path / "run"], env=env, check=True)
        kept.append({path.name for path in (home / "xla").glob("jit_*-cache")})
    steps = {name for name in kept[1] if name.startswith(("jit_step", "jit_render"))}
    assert steps and steps <= kept[0]


@pytest.mark.thorough
def test_killed_and_resumed_is_the_same_run(whole: Path, tmp_path: Path) -> None:
    """SIGKILL in the steps after a checkpoint."""
    script = (
        "import os, signal, sys; from plane_scenes import *; use_planes()\n"
        "from jaxrecon.training import log, saving\n"
        "add, save = log.Log.add, saving.Checkpoints.save\n"
        "def saved(self, state, step):\n"
        "    save(self, state, step)\n"
        "    self.wait()\n"
        "def killed(self, step, **values):\n"
        "    add(self, step, **values)\n"
        "    if step == 6:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "log.Log.add, saving.Checkpoints.save = killed, saved\n"
        "train(small_config(), sys.argv[1])"
    )
    ended = subprocess.run([sys.executable, "-c", script, tmp_path], env=fresh_process())
    assert ended.returncode == -signal.SIGKILL
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 6
    assert [path.name for path in (tmp_path / "checkpoints").glob("[0-9]")] == ["4"]
    assert train(small_config(), tmp_path) is not None
    assert same_run(tmp_path, whole)


@pytest.mark.thorough
def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: writing fails in the same place."""
    config = small_config(steps=12, save_every=4)
    assert train(config, tmp_path, stop_after=0.0) is None
    script = (
        "import resource, sys; from plane_scenes import *; use_planes()\n"
        "from jaxrecon.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try:\n    train(small_config(), sys.argv[1])\n"
        "except OutputError as error:\n    sys.exit(print('OutputError:', error) or 1)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=fresh_process(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1, ended
    # Threads of the failed write may write to stderr meanwhile.
    assert ended.stdout.startswith("OutputError: cannot write a checkpoint to"), ended
    assert "the one of step 2 is whole" in ended.stdout
    assert not list(tmp_path.glob("checkpoints/*tmp*"))
    assert train(config, tmp_path) is not None


def test_nothing_is_left_of_a_checkpoint_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config()
    state = initial_state(config, initial_weights(config))
    with pytest.raises(OutputError, match="the disk is full"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, 2)
        checkpoints.wait()

        def full(step: int, **_: object) -> None:
            place = tmp_path / f"{step}.orbax-checkpoint-tmp" / "default"
            place.mkdir(parents=True)
            (place / "half").write_bytes(b"0" * 100)
            raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

        monkeypatch.setattr(checkpoints._manager, "save", full)
        checkpoints.save(state, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "digests.json"]


@pytest.mark.parametrize("begun", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_an_interruption_tells_from_where_the_run_goes_on(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while programs are compiled, for which it does not wait."""
    if begun:
        train(small_config(), tmp_path, stop_after=0.0)
    go_on, ended, stages = threading.Event(), list[object](), KeptNotes()

    def compile_for_long(lowered: object, device: object) -> object:
        assert go_on.wait(60)
        ended.append(lowered)
        return lowered

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Programs", programs.Programs)
    monkeypatch.setattr(programs, "compiled", compile_for_long)
    monkeypatch.setattr(programs, "make_step", lambda *_, **__: SimpleNamespace(trace=interrupted))
    with pytest.raises(KeyboardInterrupt):
        train(small_config(), tmp_path, stages=stages)
    assert not ended
    go_on.set()
    told = "step 2 is kept; run again (--resume) to go on from there"
    if not begun:
        told = "no checkpoint has been written yet; run again (--resume) to go on from the start"
    assert stages.notes == [told]


@pytest.mark.parametrize(("at", "logged"), [(5, [2, 4, 5, 6]), (6, [2, 4, 6])])
def test_an_interrupted_run_keeps_its_newest_step(
    at: int, logged: list[int], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the signal comes twice, and before the step has a line in the log."""
    take, stages = window.Window.add, KeptNotes()

    def interrupted(self: window.Window, *arguments: Any, **options: Any) -> None:
        take(self, *arguments, **options)
        taken.append(1)
        if len(taken) == at:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    taken: list[int] = []
    monkeypatch.setattr(window.Window, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(save_every=100), tmp_path, stages=stages)
    assert stages.notes[-2:] == [
        f"saving step {at}",
        f"step {at} is kept; run again (--resume) to go on from there",
    ]
    assert checkpoint.read_config(tmp_path / "weights")["source"]["steps"] == at
    assert train(small_config(save_every=100), tmp_path) is not None
    assert same_weights(tmp_path, whole)
    steps = [line["step"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert steps == sorted({*logged, 8, 10, 12})


def test_an_interruption_as_a_run_is_saved_saves_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved, stages = Checkpoints.save, list[int](), KeptNotes()

    def interrupted(self: Checkpoints, state: Any, step: int) -> None:
        saved.append(step)
        signal.raise_signal(signal.SIGINT)
        save(self, state, step)

    monkeypatch.setattr(Checkpoints, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(small_config(), tmp_path, stages=stages)
    assert saved == [4]
    assert stages.notes[-1].startswith("step 4 is kept")
    assert checkpoint.read_config(tmp_path / "weights")["source"]["steps"] == 4


def test_a_run_that_has_taken_all_steps_compiles_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped between its last checkpoint and its last file."""
    folder = shutil.copytree(whole, tmp_path / "run")
    (folder / "curves.png").unlink()
    shutil.rmtree(folder / "weights")
    monkeypatch.setattr(loop, "Programs", None)
    assert train(small_config(), folder) == folder / "weights"
    assert same_run(folder, whole)
    assert (folder / "curves.png").exists()


def test_a_folder_of_another_run_is_refused(whole: Path) -> None:
    with pytest.raises(InputError, match=r"another config \(differs in steps, learning_rate\)"):
        train(small_config(steps=14, learning_rate=1e-4), whole)


def test_starting_from_weights(whole: Path, tmp_path: Path) -> None:
    """The first step's rate is zero: it returns the weights that it started from."""
    assert train(ONE_STEP, tmp_path, init=whole / "weights", stop_after=0.0) is None
    assert checkpoint.read_config(tmp_path / "weights")["source"]["steps"] == 1
    assert same_weights(tmp_path, whole)
    with pytest.raises(InputError, match=f"init: {tmp_path} holds a run that set out from other w"):
        train(ONE_STEP, tmp_path, init=tmp_path / "weights")
    with pytest.raises(InputError, match=f"init: {whole} holds a run that set out from random wei"):
        train(small_config(), whole, init=whole / "weights")


def test_a_network_without_encoder_blocks_and_registers_is_saved(tmp_path: Path) -> None:
    """Orbax saves no empty arrays."""
    encoder = replace(SMALL.encoder, depth=0, registers=0)
    config = small_config(model=replace(SMALL, encoder=encoder, registers=0))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(initial_state(config, initial_weights(config)), 3)
        checkpoints.wait()
        assert checkpoints.latest() == 3


def test_the_network_that_is_trained_has_the_size_that_ships() -> None:
    shapes = checkpoint.shapes(abstract_model(MINI_EDGES))
    assert sum(math.prod(shape) for shape in shapes.values()) == 25_800_176


@pytest.mark.parametrize(("name", "value"), [("loss", math.inf), ("gradient_norm", math.nan)])
def test_a_run_that_diverges_keeps_what_it_saved(
    name: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, config, taken = window.Window.add, small_config(), []

    def spoilt(self: window.Window, bucket: Bucket, metrics: Any, *, own: bool = False) -> None:
        taken.append(1)
        if len(taken) == 7:
            metrics = metrics | {name: jnp.float32(value)}
        add(self, bucket, metrics, own=own)

    monkeypatch.setattr(window.Window, "add", spoilt)
    with pytest.raises(InputError, match=f"diverged, the {name} of step 7 is {value}; what was"):
        train(config, tmp_path)
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 8
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} >= {"4"}
    assert not (tmp_path / "checkpoints" / "8").exists()
    assert checkpoint.read_config(tmp_path / "weights")["source"]["steps"] == 4


def test_a_step_that_diverges_is_not_saved_where_the_run_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, taken = window.Window.add, []

    def spoilt(self: window.Window, bucket: Bucket, metrics: Any, *, own: bool = False) -> None:
        taken.append(1)
        if len(taken) == 5:
            metrics = metrics | {"loss": jnp.float32(math.nan)}
            signal.raise_signal(signal.SIGINT)
        add(self, bucket, metrics, own=own)

    monkeypatch.setattr(window.Window, "add", spoilt)
    with pytest.raises(InputError, match="diverged, the loss of step 5 is nan"):
        train(small_config(), tmp_path)
    assert not (tmp_path / "checkpoints" / "5").exists()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"config": "mini"}, "config: found 'mini'; give a TrainConfig"),
        ({"mesh": "all"}, "mesh: found 'all'; give what make_data_mesh"),
        ({"stop_after": math.nan}, "stop_after is nan; give seconds"),
        ({"stop_after": -1}, "stop_after is -1; give seconds"),
        ({"stop_after": "3"}, "stop_after is '3'; give seconds"),
        ({"init": 3}, "init: found 3; give a path"),
        ({"textures": 3}, "textures: found 3; give a path"),
        ({"data": "scenes/desk"}, "data: found 'scenes/desk'; give a list of folders"),
        ({"data": 3}, "data: found 3; give a list of folders"),
        ({"data": [3]}, "data: found 3; give a path"),
    ],
)
def test_arguments_of_another_kind(
    wrong: dict[str, Any], told: str, tmp_path: Path, without_shape_checks: None
) -> None:
    with pytest.raises(InputError, match=told):
        train(**({"config": small_config(), "folder": tmp_path / "run"} | wrong))
    assert not (tmp_path / "run").exists()


def test_starting_from_the_weights_of_another_size_is_refused(whole: Path, tmp_path: Path) -> None:
    bigger = small_config(model=replace(SMALL, pairs=2))
    with pytest.raises(WeightsError, match=r"trunk\.frame_blocks"):
        train(bigger, tmp_path, init=whole / "weights")


def emptied(files: Iterator[Path]) -> None:
    for file in files:
        if file.is_file() and file.stat().st_size > 10_000:
            file.write_bytes(b"")


@pytest.mark.thorough
def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    train(small_config(), tmp_path, stop_after=0.0)
    emptied((tmp_path / "checkpoints" / "2").rglob("*"))
    with pytest.raises(WeightsError, match=r"checkpoints/2 cannot be read"):
        train(small_config(), tmp_path)


def test_a_flipped_bit_in_a_checkpoint_is_named(tmp_path: Path) -> None:
    train(small_config(), tmp_path, stop_after=0.0)
    files = (tmp_path / "checkpoints" / "2").rglob("d/*")
    largest = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 64
    largest.write_bytes(data)
    with pytest.raises(WeightsError, match=r"checkpoints/2 cannot be read \(.* have changed"):
        train(small_config(), tmp_path)


@pytest.mark.thorough
def test_damaged_numbers_of_a_checkpoint_are_named(tmp_path: Path) -> None:
    """In a process of its own: Orbax leaves tasks behind."""
    train(small_config(), tmp_path, stop_after=0.0)
    emptied((tmp_path / "checkpoints" / "2" / "default" / "ocdbt.process_0" / "d").iterdir())
    script = "import sys; from plane_scenes import *; train(small_config(), sys.argv[1])"
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        env=fresh_process(),
        capture_output=True,
        text=True,
    )
    assert "WeightsError" in ended.stderr and "checkpoints/2 cannot be read" in ended.stderr


def test_weights_that_a_run_starts_from_are_kept_before_its_first_step(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "Programs", interrupted)
        train(ONE_STEP, tmp_path, init=whole / "weights")
    assert train(ONE_STEP, tmp_path, stop_after=0.0) is None
    assert checkpoint.read_config(tmp_path / "weights")["source"]["steps"] == 1
    assert same_weights(tmp_path, whole)


def test_a_run_that_did_not_start_leaves_its_folder_free(tmp_path: Path) -> None:
    with pytest.raises(WeightsError):
        train(small_config(), tmp_path, init=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def picture_folder(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        Image.new("RGB", (9, 8), (200, 40 * number, 0)).save(path / f"{number}.png")
    return path


@pytest.mark.thorough
def test_pictures_reach_the_renderer_and_are_counted_in_the_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def render(keys: jax.Array, *, pictures: Pictures | None = None, **shape: Any) -> Any:
        scenes = render_planes(keys, **shape)
        if pictures is None:
            return scenes
        seen.append(pictures.texels.shape[0])
        first = pictures.texels[0, 0].astype(jnp.float32)
        return replace(scenes, images=scenes.images * 0 + first / 2**24)

    monkeypatch.setattr(step, "render_groups", render)
    folder, config = picture_folder(tmp_path / "pictures", 3), small_config()
    train(config, tmp_path / "run", textures=folder, stop_after=0.0)
    assert set(seen) == {3}
    assert TrainConfig.from_json(tmp_path / "run" / "train.json").pictures == 3
    fewer = picture_folder(tmp_path / "fewer", 2)
    with pytest.raises(InputError, match=r"another config \(differs in pictures\)"):
        train(config, tmp_path / "run", textures=fewer)
    (folder / "0.png").rename(folder / "9.png")
    with pytest.raises(InputError, match=r"textures: .* holds a run that began with other"):
        train(config, tmp_path / "run", textures=folder)
    with pytest.raises(InputError, match=r"has 3 pictures on its surfaces; give the folder"):
        train(replace(config, pictures=3), tmp_path / "run")


def test_a_run_goes_on_with_the_files_of_its_start(tmp_path: Path) -> None:
    run, given = tmp_path / "run", {"textures": "1a", "data": ["2b", "3c"]}
    run.mkdir()
    claim_inputs(run, given, begun=True)  # of a release that kept nothing
    claim_inputs(run, {"textures": None, "data": None}, begun=False)
    claim_inputs(run, given, begun=False)
    claim_inputs(run, given, begun=True)
    for name, other in (("textures", None), ("textures", "2a"), ("data", ["3c", "2b"])):
        with pytest.raises(InputError, match=f"{name}: {run} holds a run that began with other fi"):
            claim_inputs(run, given | {name: other}, begun=True)
    (run / INPUTS_NAME).write_text("[]")
    with pytest.raises(InputError, match=r"inputs\.json is damaged; delete it to go on"):
        claim_inputs(run, given, begun=True)


def test_files_are_told_apart(tmp_path: Path) -> None:
    ones, others = (picture_folder(tmp_path / name, 2) for name in ("ones", "others"))
    assert digest_of_pictures(ones) == digest_of_pictures(others)
    Image.new("RGB", (9, 9)).save(others / "0.png")
    assert digest_of_pictures(ones) != digest_of_pictures(others)
    (ones / "0.png").rename(ones / "7.png")
    assert len({digest_of_pictures(each) for each in (ones, others)}) == 2
    files, known = [ones / "1.png"], np.arange(6.0)
    digests = {
        digest_of_files(ones, files, arrays)
        for arrays in ([], [known], [known[:5]], [known.reshape(2, 3)], [known[::-1]])
    }
    assert len(digests) == 5


def test_what_are_no_pictures_is_told_before_anything_is_written(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=f"textures: no pictures in {empty}"):
        train(small_config(), tmp_path / "run", textures=empty)
    assert not (tmp_path / "run").exists()


@pytest.mark.thorough
def test_weights_so_far_lie_beside_every_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    save = loop.save_weights

    def noted(config: TrainConfig, weights: Any, folder: Path, step: int) -> None:
        steps.append(step)
        save(config, weights, folder, step)

    monkeypatch.setattr(loop, "save_weights", noted)
    train(small_config(save_every=6), tmp_path)
    assert steps[:2] == [6, 12]
    assert checkpoint.read_config(tmp_path / "weights")["source"]["steps"] == 12


@pytest.mark.thorough
def test_learning_makes_the_model_better_on_what_it_sees() -> None:
    """One batch, again and again: depth and poses end up close to the truth."""
    bucket = Bucket(2, 3, 28, 28)
    config = small_config(buckets=(bucket,), learning_rate=3e-3, steps=200, decay_share=0.5)
    mesh = make_data_mesh(jax.local_devices()[:1])
    scenes = make_render(config, bucket, mesh, jax.random.key(3))(jnp.int32(0))
    take, state = (
        make_step(config, mesh),
        jax.jit(partial(initial_state, config))(initial_weights(config)),
    )
    state, first = take(state, scenes)
    last = first
    for _ in range(config.steps - 1):
        state, last = take(state, scenes)
    assert float(last["loss"]) < 0.2 * float(first["loss"])
    assert float(last["abs_rel"]) < 0.02
    assert float(last["auc30"]) > 0.8 > float(first["auc30"])


def test_the_average_follows_the_weights() -> None:
    config = small_config(warmup_steps=0, ema_decay=0.5)
    state = jax.jit(partial(initial_state, config))(initial_weights(config))
    ones = jax.tree.map(jnp.ones_like, state.weights)
    update = partial(updated, optimizer=make_optimizer(config), decay=config.ema_decay)
    new = jax.jit(update)(state, ones)
    path = "point_head.kernel"
    moved = new.weights[path] - state.weights[path]
    # The decay starts at (1 + 0) / (10 + 0), so the average goes 0.9 of the way.
    np.testing.assert_allclose(new.average[path] - state.average[path], 0.9 * moved, rtol=1e-4)
    assert int(new.step) == 1


def test_only_the_chosen_weights_learn() -> None:
    """All others stay as they are to the bit, decay of weights included, and have no moments."""
    bucket, mesh = Bucket(2, 2, 28, 28), make_data_mesh(jax.local_devices()[:1])
    config = small_config(buckets=(bucket,), warmup_steps=0, trained=("point_head.", "trunk."))
    scenes = make_render(config, bucket, mesh, jax.random.key(3))(jnp.int32(0))
    before = initial_weights(config)
    state = jax.jit(partial(initial_state, config))(before)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim)
    state, metrics = make_step(config, mesh)(state, scenes)
    learnt = {path for path in before if (state.weights[path] != before[path]).any()}
    chosen = {path for path in before if path.startswith(("point_head.", "trunk."))}
    assert {"point_head.kernel", "trunk.global_blocks.mlp.fc1.kernel"} <= learnt <= chosen
    assert moments == 2 * sum(before[path].size for path in chosen)
    assert float(metrics["gradient_norm"]) > 0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_state_of_a_run_that_trains_a_part_is_restored(optimizer: Any, tmp_path: Path) -> None:
    config = small_config(optimizer=optimizer, warmup_steps=0, trained=("trunk.",))
    weights = initial_weights(config)
    update = partial(updated, optimizer=make_optimizer(config), decay=config.ema_decay)
    state = jax.jit(partial(initial_state, config))(weights)
    state = jax.jit(update)(state, jax.tree.map(jnp.ones_like, learning(config, weights)))
    moved = {
        path.partition(".")[0] for path in weights if (state.weights[path] != weights[path]).any()
    }
    assert moved == {"trunk"}
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, 3)
        checkpoints.wait()
        mesh = make_data_mesh(jax.local_devices()[:1])
        found = checkpoints.restore(abstract_placed(abstract_state(config), mesh, sharded=False), 3)
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_weights_that_are_not_there_cannot_be_chosen(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"trained: no weight begins with 'depth_filter\.'; there"):
        train(small_config(trained=("trunk.", "depth_filter.")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_rate_rises_stays_and_falls() -> None:
    rate = learning_rate(
        small_config(steps=100, warmup_steps=10, learning_rate=1.0, decay_share=0.4)
    )
    found = [float(np.asarray(rate(step))) for step in (0, 5, 10, 60, 80, 100)]
    assert found == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


def test_buckets_are_drawn_by_their_share() -> None:
    config = small_config(buckets=(Bucket(4, 2, 28, 42, share=2), Bucket(2, 3, 28, 28)))
    drawn = [choose_bucket(config, step) for step in range(600)]
    assert drawn[:20] == [choose_bucket(config, step) for step in range(20)]
    assert 0.6 < sum(bucket is config.buckets[0] for bucket in drawn) / 600 < 0.73


def test_a_bucket_draws_scenes_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = Bucket(2, 2, 28, 28), Bucket(2, 2, 28, 28, kind=1)
    landscapes = replace(SCENES, outdoor_every=1)
    config = small_config(more_scenes=(landscapes,), buckets=(here, other), validation_scenes=4)
    drawn = []

    def record(groups: jax.Array, *, config: object, **shape: int) -> object:
        drawn.append(config)
        return render_planes(groups, config=config, **shape)

    monkeypatch.setattr("jaxrecon.training.step.render_groups", record)
    mesh = make_data_mesh(jax.local_devices()[:1])
    for bucket in config.buckets:
        make_render(config, bucket, mesh, jax.random.key(0))(jnp.int32(0))
    assert drawn == [config.scenes, landscapes]
    assert [config.group(bucket) for bucket in config.buckets] == [2, 1]
    assert validation_bucket(replace(config, buckets=(other,))) == replace(other, scenes=4)


def test_scenes_of_another_kind_that_make_no_whole_groups_are_refused() -> None:
    with pytest.raises(InputError, match=r"kind=1.* multiple of 4 .*\(more_scenes\[0\]\.outdoor"):
        small_config(
            more_scenes=(replace(SCENES, outdoor_every=4),),
            buckets=(Bucket(4, 2, 28, 28), Bucket(2, 2, 28, 28, kind=1)),
        )


def test_steps_see_new_scenes_and_groups_are_alike_on_any_number_of_devices() -> None:
    config, mesh = small_config(), make_data_mesh(jax.local_devices()[:1])
    render = make_render(config, config.buckets[0], mesh, jax.random.key(0))
    first, again, second = (render(jnp.int32(i)).images for i in (0, 0, 1))
    assert bool((first == again).all())
    assert float(jnp.abs(first - second).mean()) > 0.05


@pytest.mark.thorough
def test_two_devices_learn_what_one_learns(whole: Path, tmp_path: Path) -> None:
    """The losses of a run on two devices are those of one, but for rounding."""
    script = (
        "import sys; from plane_scenes import *; use_planes()\n"
        "assert jax.local_device_count() == 2\n"
        "train(small_config(), sys.argv[1])"
    )
    flags = fresh_process(2)
    subprocess.run([sys.executable, "-c", script, tmp_path], env=flags, check=True)
    one, two = losses_of(whole), losses_of(tmp_path)
    # Adam turns rounding in small gradients into steps, so only the first losses are equal.
    for name in ("loss", "points", "rotation", "translation"):
        assert two[0][name] == pytest.approx(one[0][name], rel=1e-5), name
        assert two[1][name] == pytest.approx(one[1][name], rel=3e-3), name
    assert two[0]["gradient_norm"] == pytest.approx(one[0]["gradient_norm"], rel=1e-3)


@pytest.mark.thorough
def test_a_step_in_parts_is_the_step() -> None:
    config, mesh = small_config(), make_data_mesh(jax.local_devices()[:1])
    render = make_render(config, config.buckets[0], mesh, step.training_key(config))
    found = []
    for accumulate in (1, 2):
        state = initial_state(config, initial_weights(config))
        parted = replace(config, accumulate=accumulate)
        found.append(jax.device_get(make_step(parted, mesh)(state, render(0))[1]))
    whole, parts = found
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_parts_of_different_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"accumulate: 4 scenes a device, of .*, are no 3 equal"):
        train(small_config(accumulate=3), tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_step_that_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "bytes_limit", lambda device: 1000)
    config = small_config(validate_every=3)  # no other run's, whose programs are kept
    message = r"buckets: a step of Bucket\(scenes=4.* needs .* MiB .* has 1000 bytes; .*accumulate"
    with pytest.raises(InputError, match=message):
        train(config, tmp_path)


@pytest.mark.thorough
def test_batches_that_the_devices_cannot_share_are_refused(tmp_path: Path) -> None:
    script = (
        "import sys; from plane_scenes import *; use_planes()\ntrain(small_config(), sys.argv[1])"
    )
    flags = fresh_process(3)
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "nowhere"], env=flags, capture_output=True
    )
    assert b"InputError: buckets: Bucket(scenes=4" in ended.stderr
    assert b"which 3 devices cannot share evenly" in ended.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("speed=1", "found 'speed=1'; give name=value"),
        ("learning-rate=1", "name out of model, .*; did you mean learning_rate\\?"),
        ("losses.point=1", "name out of losses.points, .*, losses.scale; did you mean losses.poin"),
        ("model.encoder.deep=1", "name out of model.encoder.width, .*model.encoder.depth"),
        ("seed.x=1", "name out of model, scenes"),
        ("optimizer=AdamW", "must be one of adamw, muon, found 'AdamW'; did you mean adamw\\? @"),
        ("dtype=16", "must be one of bfloat16, float32, found 16 @ config.dtype"),
        ("scenes.fov=[90,30]", "must be the smaller first, within 10 and 120"),
        ("losses.speed=1", "found 'losses.speed=1'"),
        ("steps", "found 'steps'"),
        ("steps=many", "steps"),
        ("learning_rate=true", "learning_rate"),
        ("dtype=float64", "dtype"),
        ("buckets=[1]", "buckets"),
        ("warmup_steps=100000", "do not fit"),
        ("save_every=70", "must be a multiple"),
        ("scenes.samples=0", "samples is 0"),
        ("scenes.outdoor_every=3", "Bucket.scenes=128, .* must be of a multiple of 3 scenes"),
        ("validation_scenes=6", "validation_scenes=6 must be of a multiple of 4 scenes"),
        ("validation_scenes=0", "validation_scenes is 0; it must be a whole number from 1"),
        ("seed=-1", "seed is -1; it must be a whole number from 0"),
        ("log_every=0", "log_every is 0; it must be"),
        ("validate_every=0", "validate_every is 0; it must be"),
        ("learning_rate=NaN", "must be finite, found nan @ config.learning_rate"),
        ("learning_rate=1e9", "learning_rate is 1000000000.0; it must be from 0 to 1e\\+06"),
        ("losses.points=-Infinity", "must be finite, found -inf @ config.losses.points"),
        ("losses.points=-1", "LossWeights: points is -1.0; it must be from 0"),
        ("steps=3000000000", "steps is 3000000000; it must be a whole number from 1"),
        ("seed=4294967296", "seed is 4294967296; it must be a whole number from 0"),
        ("model.encoder.patch=0", "patch is 0; it must be"),
        ("model.heads=5", "heads is 5; it must be such that the width 384"),
        ("scenes.exposure=1e300", "exposure is 1e\\+300"),
        ("clip_norm=-1.0", "clip_norm is -1.0; it must be"),
        ("ema_decay=2.0", "ema_decay is 2.0; it must be from 0 to 1"),
        ('buckets=[{"scenes":4,"views":0,"height":28,"width":28}]', "Bucket: views is 0"),
        ('buckets=[{"scenes":4096,"views":4096,"height":28,"width":28}]', "more than 2147483647"),
        ('buckets=[{"scenes":4,"views":2,"height":28,"width":30}]', "multiples of 14"),
        (
            'buckets=[{"scenes":4,"views":2,"height":28,"width":28,"kind":1}]',
            "kind=1.* names a kind that is not there: more_scenes has 0",
        ),
        ('buckets=[{"scenes":4,"views":2,"height":28,"width":28,"kind":-1}]', "kind is -1"),
        ('more_scenes=[{"samples":0}]', "samples is 0"),
        ('buckets=[{"scenes":4,"views":2,"height":28,"width":28,"share":0}]', "share above 0"),
    ],
)
def test_overrides_that_cannot_be(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MINI.with_overrides([override])


@pytest.mark.parametrize(
    ("first", "second"),
    [("steps=9000", "steps=9001"), ("losses.points=2", "losses.points=3"), ("seed=1", "seed=01")],
)
def test_a_field_that_is_set_twice(first: str, second: str) -> None:
    name = first.partition("=")[0]
    with pytest.raises(InputError, match=f"{name}=.* and {name}=.*: a field is set twice"):
        MINI.with_overrides([first, "weight_decay=0", second])
    MINI.with_overrides([first, "weight_decay=0", first])


@pytest.mark.parametrize(
    "override",
    [
        "steps=3",
        "save_every=7",
        "validation_scenes=3",
        'buckets=[{"scenes": 4, "views": 2, "height": 28, "width": 28, "share": 0}]',
    ],
)
def test_what_is_refused_is_named_as_it_is_set(override: str) -> None:
    with pytest.raises(InputError) as caught:
        MINI.with_overrides([override])
    assert override.split("=")[0] + "=" in str(caught.value)
    assert "self." not in str(caught.value)


def test_overrides_lead_into_nested_configs() -> None:
    config = MINI.with_overrides(["losses.points=2", "learning_rate=3e-4", "dtype=float32"])
    assert config.losses == replace(MINI.losses, points=2.0)
    assert (config.learning_rate, config.dtype) == (3e-4, "float32")
    assert config.model == MINI.model


def test_a_config_survives_json(tmp_path: Path) -> None:
    config = small_config(more_scenes=(SCENES,), buckets=(Bucket(4, 2, 28, 28, kind=1),))
    (tmp_path / "c.json").write_text(config.to_json())
    assert TrainConfig.from_json(tmp_path / "c.json") == config


@pytest.mark.parametrize("text", ["", "[]", '{"speed": 1}', '{"model": {"heads": "six"}}'])
def test_configs_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=r"c\.json"):
        TrainConfig.from_json(tmp_path / "c.json")


def test_rooms_alone_are_groups_of_one() -> None:
    config = small_config(scenes=replace(SCENES, outdoor_every=0))
    assert config.group(config.buckets[0]) == 1


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with pytest.raises(InputError, match="does not exist"):
        draw_log(log, tmp_path / "x.png")
    log.write_text('{"step": 2}\n\0\0\n{"step": 4}\n')
    with pytest.raises(InputError, match=r"log\.jsonl:2: the line is no record of a step"):
        Log(log, upto=4)


def test_a_log_cut_short_by_a_kill_is_read_up_to_there(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"step": 2}) + '\n{"step": 4, "lo')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 2}]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        train(small_config(), tmp_path / "file" / "run")


def test_mini_has_fewer_than_36_million_parameters() -> None:
    """So many take 36 MB in 8 bits."""
    leaves = checkpoint.shapes(abstract_model(MINI)).values()
    assert 15e6 < sum(int(np.prod(shape)) for shape in leaves) <= 36e6


def test_flops_of_a_step_by_hand() -> None:
    """The trunk of a tiny model counted product by product; what is left are the other parts."""
    bucket = Bucket(1, 2, 28, 28)
    deeper = replace(SMALL, pairs=2)
    tokens, width = 4 + 1, 32
    matrices = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width)
    frame = matrices + 2 * 2 * tokens * tokens * width
    everywhere = matrices + 2 * 2 * tokens * (2 * tokens) * width
    added = step_flops(deeper, bucket) - step_flops(SMALL, bucket)
    assert added == 3 * 2 * (frame + everywhere)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0, ""),
        (3.0, ", less than a minute left"),
        (60.0, ", about 1 min left"),
        (601.0, ", about 11 min left"),
        (7260.0, ", about 2 h 1 min left"),
    ],
)
def test_what_is_left_of_a_run_is_told(seconds: float, told: str) -> None:
    assert window._time_left(seconds) == told
