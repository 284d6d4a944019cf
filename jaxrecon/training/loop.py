"""The training run: resumes where its folder says, leaves weights ready to load."""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrecon import checkpoint
from jaxrecon.compiling import compiled
from jaxrecon.errors import InputError, OutputError
from jaxrecon.extras import check_installed
from jaxrecon.files import holding_folder
from jaxrecon.forking import check_not_forked
from jaxrecon.progress import Stages
from jaxrecon.registry import model_entry
from jaxrecon.runtime.memory import bytes_limit, check_fits, needs_of
from jaxrecon.scenes import RenderedScenes
from jaxrecon.scenes.photographs import Pictures
from jaxrecon.training.config import (
    CHECKPOINTS_NAME,
    Bucket,
    TrainConfig,
    claim_folder,
    has_begun,
)
from jaxrecon.training.flops import step_flops
from jaxrecon.training.log import Log
from jaxrecon.training.plot import draw_log
from jaxrecon.training.saving import Checkpoints, abstract_like
from jaxrecon.training.state import (
    TrainState,
    Weights,
    abstract_model,
    initial_state,
    initial_weights,
    learning_rate,
    starting_weights,
)
from jaxrecon.training.step import (
    Metrics,
    check_devices,
    choose_bucket,
    each_scene,
    everywhere,
    make_data_mesh,
    make_render,
    make_step,
    make_validate,
    training_key,
    validation_bucket,
    validation_key,
)
from jaxrecon.training.textures import read_pictures

CONFIG_NAME = "train.json"
LOG_NAME = "log.jsonl"
WEIGHTS_NAME = "weights"
CURVES_NAME = "curves.png"
SHOWN = ("abs_rel", "delta125", "rotation_degrees", "direction_degrees", "auc30")
"""Metrics that a line of progress shows."""


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    init: str | Path | None = None,
    textures: str | Path | None = None,
    mesh: Mesh | None = None,
    stop_after: float | None = None,
    stages: Stages | None = None,
) -> Path | None:
    """Trains a model, or goes on with a run that was stopped.

    The folder holds `train.json` (the config), `log.jsonl` (one line of metrics every
    `log_every` steps), `checkpoints/`, with each of them and where the run stops `weights/`, the
    averaged weights as a native checkpoint in bfloat16 which `jaxrecon.load` reads, and at the end
    `curves.png`, the log as a picture.

    Args:
      config: the run.
      folder: where the run lives. If it holds checkpoints of the same config, training goes on
        from the newest, and takes the steps that it would have taken without the stop.
      init: a native checkpoint of the same sizes to start from; random weights if not given.
      textures: a folder of pictures to lie on the surfaces of the scenes, see
        `SceneConfig.picture_share`; give it again when the run goes on.
      mesh: devices to shard the scenes over; all local devices if not given.
      stop_after: seconds after which the run, at its next line of the log, is saved and stops.
      stages: shows progress; silent if not given.

    Returns:
      The folder of the weights; None if the run stopped before its last step.

    Raises:
      InputError: matplotlib is not installed, the folder holds a run of another config, the
        devices cannot share the batches, or the textures are absent or no pictures.
      WeightsError: `init` or a checkpoint cannot be read.
      OutputError: the folder cannot be written, a full disk among the reasons, or another run is
        writing there.
    """
    check_not_forked()
    stages = Stages(quiet=True) if stages is None else stages
    mesh = make_data_mesh() if mesh is None else mesh
    folder = Path(folder)
    check_installed("matplotlib", "train", "curves of a run need matplotlib")
    check_devices(config, mesh)
    config, pictures = _with_pictures(config, textures)
    with holding_folder(folder):
        step = _trained(config, folder, init, mesh, stop_after, stages, pictures)
    if step < config.steps:
        stages.note(
            f"stopped at step {step} of {config.steps}, with the weights so far in "
            f"{folder / WEIGHTS_NAME}; run again (--resume) to go on"
        )
        return None
    return folder / WEIGHTS_NAME


def _trained(
    config: TrainConfig,
    folder: Path,
    init: str | Path | None,
    mesh: Mesh,
    stop_after: float | None,
    stages: Stages,
    pictures: Pictures | None,
) -> int:
    """Takes the steps and writes the weights; returns the number of the last step."""
    given = None
    if init is not None and not has_begun(folder):
        given = starting_weights(config, init)
    claim_folder(folder / CONFIG_NAME, config)
    with Checkpoints(folder / CHECKPOINTS_NAME) as checkpoints:
        state = _start(config, checkpoints, mesh, given)
        run = _Run(config, mesh, Log(folder / LOG_NAME, upto=int(state.step)), stages, pictures)
        state = run.until(state, checkpoints, stop_after, folder / WEIGHTS_NAME)
        checkpoints.wait()
    step = int(state.step)
    save_weights(config, state.average, folder / WEIGHTS_NAME, step)
    if step == config.steps:
        draw_log(folder / LOG_NAME, folder / CURVES_NAME)
    return step


def _with_pictures(
    config: TrainConfig, textures: str | Path | None
) -> tuple[TrainConfig, Pictures | None]:
    """The pictures of a folder, and the config with their number."""
    if textures is not None:
        pictures = read_pictures(textures)
        return replace(config, pictures=len(pictures.texels)), pictures
    if config.pictures:
        raise InputError(
            f"textures: the config has {config.pictures} pictures on its surfaces; give the folder "
            "where they lie (--textures)"
        )
    return config, None


def save_weights(config: TrainConfig, weights: Weights, folder: Path, step: int) -> None:
    """Writes the weights of a step in bfloat16 as a native checkpoint, replacing an older one.

    Raises:
      OutputError: the folder cannot be written.
    """
    half = {path: value.astype(jnp.bfloat16) for path, value in weights.items()}
    header = model_entry("pi3-mini").header | {
        "config": asdict(config.model),
        "source": {"trained_by": "jaxrecon train", "steps": step, "seed": config.seed},
    }
    module = checkpoint.unflatten(abstract_model(config), half)
    checkpoint.save(module, folder, header, overwrite=True)


def _start(
    config: TrainConfig, checkpoints: Checkpoints, mesh: Mesh, given: Weights | None
) -> TrainState:
    """The newest checkpoint, else the state before the first step, with the weights given.

    These are in a checkpoint from then on: a run that is resumed need not be given them again.
    """
    latest = checkpoints.latest()
    if latest is not None:
        weights = checkpoint.flatten(abstract_model(config))
        blank = jax.eval_shape(partial(initial_state, config), weights)
        return checkpoints.restore(abstract_like(blank, everywhere(mesh)), latest)
    weights = initial_weights(config) if given is None else given
    state = jax.jit(partial(initial_state, config), out_shardings=everywhere(mesh))(weights)
    if given is not None:
        checkpoints.save(state, 0)
        checkpoints.wait()
    return state


class _Run:
    """The compiled programs of a run and the loop that calls them."""

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh,
        log: Log,
        stages: Stages,
        pictures: Pictures | None,
    ) -> None:
        self.config, self.mesh, self.log, self.stages = config, mesh, log, stages
        self.pictures = pictures
        self.place = everywhere(mesh)

    def until(
        self,
        state: TrainState,
        checkpoints: Checkpoints,
        stop_after: float | None,
        weights: Path,
    ) -> TrainState:
        """Takes the steps that are left, or those that fit into `stop_after` seconds."""
        config, begin = self.config, time.perf_counter()
        programs = Programs(config, self.mesh, state, self.stages, self.pictures)
        held_out = programs.held_out()
        window = _Window(config, self.mesh, self.log)
        for step in range(int(state.step), config.steps):
            bucket = choose_bucket(config, step)
            state, metrics = programs.step(bucket, state, step)
            window.add(bucket, metrics)
            done, last = step + 1, step + 1 == config.steps
            logged = done % config.log_every == 0 or last
            late = stop_after is not None and time.perf_counter() - begin > stop_after
            if logged:
                self.stages.note(window.close(done))
            if done % config.validate_every == 0 or last:
                self._validate(programs, state, held_out, done)
            if done % config.save_every == 0 or last or (late and logged):
                checkpoints.save(state, done)
                self._save_weights(state, checkpoints, weights, done)
            if late and logged:
                break
        return state

    def _save_weights(
        self, state: TrainState, checkpoints: Checkpoints, folder: Path, step: int
    ) -> None:
        try:
            save_weights(self.config, state.average, folder, step)
        except OutputError:
            checkpoints.wait()  # a full disk stops the checkpoint, too, whose error says more
            raise

    def _validate(
        self, programs: "Programs", state: TrainState, scenes: RenderedScenes, step: int
    ) -> None:
        metrics = jax.device_get(programs.validate(state.average, scenes))
        values = {f"validation_{name}": float(metrics[name]) for name in SHOWN}
        self.log.add(step, **values)
        shown = ", ".join(f"{name} {metrics[name]:.4f}" for name in SHOWN)
        self.stages.note(f"step {step} held out: {shown}")


class Programs:
    """All compiled programs of a run."""

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh,
        state: TrainState,
        stages: Stages,
        pictures: Pictures | None = None,
    ) -> None:
        """Traces one program after another, and compiles those behind it meanwhile."""
        self.place = everywhere(mesh)
        self._pictures = () if pictures is None else (jax.device_put(pictures, self.place),)
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=self.place)
        like, shape = abstract_like(state, self.place), validation_bucket(config)
        train_step, validate = make_step(config, mesh), make_validate(config, mesh)
        device = mesh.devices.flat[0]
        with stages.stage("compile"), ThreadPoolExecutor() as pool:
            made: dict[Any, Future[Any]] = {}

            def add(name: Any, lowered: Any) -> Any:
                made[name] = pool.submit(compiled, lowered, device)
                return lowered

            # Renderers take longest to compile: they come first.
            drawn: dict[Any, Any] = {}
            for bucket in config.buckets:
                render = make_render(config, bucket, mesh, training_key(config))
                lowered = render.lower(number, *self._pictures)
                drawn[bucket] = add(("render", bucket), lowered)
            render = make_render(config, shape, mesh, validation_key())
            held_out = add("held out", render.lower(number, *self._pictures))
            for bucket in config.buckets:
                add(
                    ("step", bucket),
                    _lowered(train_step.trace(like, _outputs(drawn[bucket], mesh))),
                )
            add("validate", validate.lower(like.average, _outputs(held_out, mesh)))
            self._compiled = {name: program.result() for name, program in made.items()}
        for bucket in config.buckets:
            _check_memory(bucket, self._compiled["step", bucket], device)

    def step(self, bucket: Bucket, state: TrainState, step: int) -> tuple[TrainState, Metrics]:
        """Renders the scenes of a step and learns from them; returns before the device is done."""
        return self._compiled["step", bucket](state, self.render(bucket, step))

    def render(self, bucket: Bucket, step: int) -> RenderedScenes:
        """The scenes of a training step."""
        return self._compiled["render", bucket](self._number(step), *self._pictures)

    def held_out(self) -> RenderedScenes:
        """The scenes for `validate`."""
        return self._compiled["held out"](self._number(0), *self._pictures)

    def validate(self, weights: Weights, scenes: RenderedScenes) -> Metrics:
        """Metrics of weights on held-out scenes."""
        return self._compiled["validate"](weights, scenes)

    def _number(self, step: int) -> jax.Array:
        return jax.device_put(np.int32(step), self.place)


def _check_memory(bucket: Bucket, program: Any, device: Any) -> None:
    """Refuses a step that needs more memory than each device has.

    Raises:
      InputError: see `check_fits`.
    """
    needs = needs_of(program)
    if needs is not None:
        what = f"buckets: a step of {bucket}"
        advice = (
            "learn from its scenes in parts (accumulate), use more devices, or give it fewer scenes"
        )
        check_fits(needs.total, bytes_limit(device), what=what, advice=advice)


def _lowered(traced: Any) -> Any:
    """The program of a step, where promotion may be strict.

    JAX (0.12) then refuses to lower the products of bfloat16 and float32 in its own gradient of
    `jax.nn.dot_product_attention`; what is ours has been traced before.
    """
    with jax.numpy_dtype_promotion("standard"):
        return traced.lower()


def _outputs(lowered: Any, mesh: Mesh) -> RenderedScenes:
    """What a renderer will return, as shapes that are sharded over the devices."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=each_scene(mesh)),
        lowered.out_info,
    )


class _Window:
    """The metrics of the steps since the last line of the log."""

    def __init__(self, config: TrainConfig, mesh: Mesh, log: Log) -> None:
        self._config, self._log, self._mesh = config, log, mesh
        self._rate = learning_rate(config)
        self._before = log.seconds
        self._begin = self._opened = time.perf_counter()
        self._steps: list[tuple[Bucket, Metrics]] = []

    def add(self, bucket: Bucket, metrics: Metrics) -> None:
        """Takes a step's metrics; waits for the step before the last, so as not to run ahead."""
        self._steps.append((bucket, metrics))
        if len(self._steps) > 2:
            jax.block_until_ready(self._steps[-3][1]["loss"])

    def close(self, step: int) -> str:
        """Writes the mean of every metric to the log, and says the same in a line."""
        buckets = [bucket for bucket, _ in self._steps]
        rows = jax.device_get([metrics for _, metrics in self._steps])
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        now = time.perf_counter()
        took, self._opened, self._steps = now - self._opened, now, []
        flops = sum(step_flops(self._config.model, bucket) for bucket in buckets)
        speed = {
            "seconds": self._before + now - self._begin,
            "learning_rate": float(np.asarray(self._rate(step))),
            "images_per_second": sum(bucket.images for bucket in buckets) / took,
            "tflops_per_device": flops / took / self._mesh.size / 1e12,
        }
        self._log.add(step, **means, **speed)
        shown = ", ".join(f"{name} {means[name]:.4f}" for name in ("loss", *SHOWN))
        rates = (
            f"{speed['images_per_second']:.0f} images/s, {speed['tflops_per_device']:.0f} TFLOP/s"
        )
        return f"step {step}/{self._config.steps}, {speed['seconds']:.0f} s: {shown}, {rates}"
