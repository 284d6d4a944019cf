"""The training run: resumes where its folder says, leaves weights ready to load."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxrecon import checkpoint
from jaxrecon.checks import finite, path_of, shown, truth_value
from jaxrecon.environment import warn_of_doubts
from jaxrecon.errors import InputError, OutputError
from jaxrecon.extras import check_installed
from jaxrecon.files import holding_folder, uninterrupted
from jaxrecon.forking import check_not_forked
from jaxrecon.models import AspectRule, Pi3Config
from jaxrecon.progress import Stages, quiet_stages
from jaxrecon.registry import model_entry
from jaxrecon.registry.loading import keep_programs
from jaxrecon.scenes import RenderedScenes
from jaxrecon.scenes.photographs import Pictures
from jaxrecon.training.board import Board
from jaxrecon.training.config import (
    CHECKPOINTS_NAME,
    TrainConfig,
    claim_folder,
    has_begun,
    newest_step,
)
from jaxrecon.training.inputs import claim_inputs
from jaxrecon.training.log import Log
from jaxrecon.training.origin import check_origin, keep_origin, read_origin
from jaxrecon.training.own import OwnData, read_own_data
from jaxrecon.training.own.batches import Feeder
from jaxrecon.training.plan import abstract_state, check_state, is_sharded
from jaxrecon.training.plot import draw_log
from jaxrecon.training.programs import Programs
from jaxrecon.training.saving import Checkpoints
from jaxrecon.training.sharding import abstract_placed, placed
from jaxrecon.training.state import (
    TrainState,
    Weights,
    abstract_model,
    check_trained,
    family_of,
    initial_state,
    initial_weights,
    starting_weights,
)
from jaxrecon.training.step import check_devices, choose_bucket, make_data_mesh
from jaxrecon.training.textures import digest_of_pictures, read_pictures
from jaxrecon.training.window import SHOWN, Window, told

CONFIG_NAME = "train.json"
LOG_NAME = "log.jsonl"
WEIGHTS_NAME = "weights"
CURVES_NAME = "curves.png"
BOARD_NAME = "tensorboard"
HELD_OUT = "held_out_"
"""How the names of metrics on held-out views of own scenes begin in the log."""


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    init: str | Path | None = None,
    textures: str | Path | None = None,
    data: Sequence[str | os.PathLike[str]] | None = None,
    mesh: Mesh | None = None,
    stop_after: float | None = None,
    tensorboard: bool = False,
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
      init: a native checkpoint of the same sizes to start from; random weights if not given. A run
        that goes on need not be given it again, and is given no other.
      textures: a folder of pictures to lie on the surfaces of the scenes, see
        `SceneConfig.picture_share`; give it again when the run goes on.
      data: folders of one's own scenes, from which the share `config.data_share` of the steps
        learns; give them again when the run goes on. Each has `images/` and beside it
        `condition.npz`, `transforms.json` or a COLMAP model. What is unknown carries no loss.
      mesh: devices to shard the scenes over; all local devices if not given.
      stop_after: seconds after which the run, at its next line of the log, is saved and stops.
      tensorboard: whether the log is written as TensorBoard's event files, too, into
        `tensorboard/` of the folder.
      stages: shows progress; silent if not given.

    Ctrl-C while steps are taken saves the newest one first. (`jaxrecon train` does so on SIGTERM,
    too.)

    Returns:
      The folder of the weights; None if the run stopped before its last step.

    Raises:
      InputError: an argument is of another type or out of range, matplotlib (or tensorboardX, if
        it is asked for) is not installed, the folder holds a run of another config, from other
        weights or on other files, the devices cannot share the batches, the textures are absent or
        no pictures, an own scene cannot be used, the run needs more memory than the devices have,
        or it diverges: its loss or gradient is no finite number. What was saved before that stays
        as it is.
      WeightsError: `init` or a checkpoint cannot be read.
      OutputError: the folder cannot be written, a full disk among the reasons, or another run is
        writing there.
    """
    check_not_forked()
    warn_of_doubts()
    stages = quiet_stages(stages)
    _check_kinds(config, mesh, stop_after)
    init, textures = (
        None if path is None else path_of(name, path)
        for name, path in (("init", init), ("textures", textures))
    )
    data = None if data is None else _paths_of("data", data)
    mesh = make_data_mesh() if mesh is None else mesh
    folder = path_of("folder", folder)
    check_installed("matplotlib", "train", "curves of a run need matplotlib")
    if truth_value("tensorboard", tensorboard):
        check_installed("tensorboardX", "tensorboard", "logs for TensorBoard need tensorboardX")
    check_devices(config, mesh)
    check_trained(config)
    keep_programs()
    check_state(config, mesh, folder, begun=has_begun(folder))
    config, pictures = _with_pictures(config, textures)
    config, own = _with_data(config, data, stages)
    inputs = {
        "textures": None if textures is None else digest_of_pictures(textures),
        "data": None if own is None else list(own.files),
    }
    with holding_folder(folder):
        step = _trained(
            *(config, folder, init, mesh, stop_after, stages, pictures, own, inputs),
            tensorboard=tensorboard,
        )
    if step < config.steps:
        stages.note(
            f"stopped at step {step} of {config.steps}, with the weights so far in "
            f"{folder / WEIGHTS_NAME}; run again (--resume) to go on"
        )
        return None
    return folder / WEIGHTS_NAME


def _check_kinds(config: object, mesh: object, stop_after: object) -> None:
    if not isinstance(config, TrainConfig):
        raise InputError(f"config: found {shown(config)}; give a TrainConfig, such as MINI")
    if mesh is not None and not isinstance(mesh, Mesh):
        raise InputError(f"mesh: found {shown(mesh)}; give what make_data_mesh() returns, or None")
    seconds = 0.0 if stop_after is None else finite(stop_after)
    if seconds is None or seconds < 0:
        raise InputError(f"stop_after is {shown(stop_after)}; give seconds, at least 0, or None")


def _paths_of(name: str, paths: object) -> list[Path]:
    """Paths that are given as a list."""
    if not isinstance(paths, Sequence) or isinstance(paths, str | bytes):
        raise InputError(f"{name}: found {shown(paths)}; give a list of folders")
    return [path_of(name, path) for path in paths]


def _trained(
    config: TrainConfig,
    folder: Path,
    init: str | Path | None,
    mesh: Mesh,
    stop_after: float | None,
    stages: Stages,
    pictures: Pictures | None,
    own: OwnData | None,
    inputs: Mapping[str, Any],
    *,
    tensorboard: bool,
) -> int:
    """Takes the steps and writes the weights; returns the number of the last step."""
    given, begun = None, has_begun(folder)
    if init is not None and not begun:
        given = starting_weights(config, init)
    claim_folder(folder / CONFIG_NAME, config)
    claim_inputs(folder, inputs, begun=begun)
    if init is not None and begun:
        check_origin(folder, init)
    if not begun:
        keep_origin(folder, init)
    with (
        _told_how_to_go_on(folder, stages),
        Checkpoints(folder / CHECKPOINTS_NAME) as checkpoints,
        ExitStack() as open_files,
    ):
        state = _start(config, checkpoints, mesh, given)
        del given  # which would take a device's memory for the whole run
        upto, board = int(state.step) or -1, None
        if tensorboard:
            board = open_files.enter_context(Board(folder / BOARD_NAME, upto=upto))
        log = Log(folder / LOG_NAME, upto=upto, board=board)
        if upto < config.steps:  # else it ended before its last files were written
            run = _Run(config, mesh, log, stages, pictures, own)
            state = run.until(state, checkpoints, stop_after, folder / WEIGHTS_NAME)
        checkpoints.wait()
    step = int(state.step)
    save_weights(config, state.average, folder / WEIGHTS_NAME, step)
    if step == config.steps:
        draw_log(folder / LOG_NAME, folder / CURVES_NAME)
    return step


@contextmanager
def _told_how_to_go_on(folder: Path, stages: Stages) -> Iterator[None]:
    """Tells what is left of a run that is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        step = newest_step(folder)
        left = "no checkpoint has been written yet" if step is None else f"step {step} is kept"
        whence = "from the start" if step is None else "from there"
        stages.note(f"{left}; run again (--resume) to go on {whence}")
        raise


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


def _with_data(
    config: TrainConfig, folders: Sequence[str | os.PathLike[str]] | None, stages: Stages
) -> tuple[TrainConfig, OwnData | None]:
    """The own scenes of some folders, and the config with the number of their views."""
    if folders is not None:
        own = read_own_data(config, folders, stages)
        return own.config, own
    if config.data_views:
        raise InputError(
            f"data: the config has {config.data_views} views of own scenes; give the folders where "
            "they lie (--data)"
        )
    return config, None


def save_weights(config: TrainConfig, weights: Weights, folder: Path, step: int) -> None:
    """Writes the weights of a step in bfloat16 as a native checkpoint, replacing an older one.

    Raises:
      OutputError: the folder cannot be written.
    """
    half = {path: value.astype(jnp.bfloat16) for path, value in weights.items()}
    origin = read_origin(folder.parent)
    trained = {"trained_by": "jaxrecon train", "steps": step, "seed": config.seed}
    header = _header(config) | origin | {"config": asdict(config.model)}
    header["source"] = trained | ({"from": origin["source"]} if origin else {})
    module = checkpoint.unflatten(abstract_model(config), half)
    checkpoint.save(module, folder, header, overwrite=True)


def _header(config: TrainConfig) -> dict[str, Any]:
    """What weights from random ones say of themselves."""
    header = model_entry("pi3-mini").header
    if isinstance(config.model, Pi3Config):
        return header
    shapes = sorted({(bucket.width, bucket.height) for bucket in config.buckets})
    rule = AspectRule(sizes=tuple((width / height, width, height) for width, height in shapes))
    family = family_of(config).name
    return header | {"family": family, "model": f"{family}-mini", "resize": asdict(rule)}


def _start(
    config: TrainConfig, checkpoints: Checkpoints, mesh: Mesh, given: Weights | None
) -> TrainState:
    """The newest checkpoint, else the state before the first step, with the weights given.

    These are in a checkpoint from then on: a run that is resumed need not be given them again.
    """
    latest, sharded = checkpoints.latest(), is_sharded(config, mesh)
    if latest is not None:
        like = abstract_placed(abstract_state(config), mesh, sharded=sharded)
        return checkpoints.restore(like, latest)
    weights = initial_weights(config) if given is None else given
    where = placed(abstract_state(config), mesh, sharded=sharded)
    state = jax.jit(partial(initial_state, config), out_shardings=where)(weights)
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
        own: OwnData | None,
    ) -> None:
        self.config, self.mesh, self.log, self.stages = config, mesh, log, stages
        self.pictures, self.own = pictures, own

    def until(
        self,
        state: TrainState,
        checkpoints: Checkpoints,
        stop_after: float | None,
        weights: Path,
    ) -> TrainState:
        """Takes the steps that are left, or those that fit into `stop_after` seconds.

        An interruption waits for the end of its step, which is then saved: the step before has
        given its memory away.
        """
        config, begin = self.config, time.perf_counter()
        programs = Programs(config, self.mesh, state, self.stages, self.pictures, self.own)
        held_out = programs.held_out() if programs.renders else None
        steps = _Steps(config, programs, self.own, Window(config, self.mesh, self.log))
        saved = int(state.step)
        if saved == 0:
            self._measure_own(programs, state, 0)
        try:
            for step in range(saved, config.steps):
                done, last = step + 1, step + 1 == config.steps
                logged = done % config.log_every == 0 or last
                with uninterrupted():
                    state = steps.take(state, step)
                    late = stop_after is not None and time.perf_counter() - begin > stop_after
                    if logged:
                        self.stages.note(steps.window.close(done))
                    if done % config.validate_every == 0 or last:
                        self._validate(programs, state, held_out, done)
                    if done % config.save_every == 0 or last or (late and logged):
                        self._save(state, checkpoints, weights, done)
                        saved = done
                if late and logged:
                    break
        except KeyboardInterrupt:
            if int(state.step) > saved:
                self._save_interrupted(state, steps.window, checkpoints, weights)
            raise
        finally:
            steps.close()
        return state

    def _save_interrupted(
        self, state: TrainState, window: Window, checkpoints: Checkpoints, folder: Path
    ) -> None:
        """Saves the newest step, and logs those since the last line."""
        step = int(state.step)
        self.stages.note(f"saving step {step}")
        with uninterrupted():
            if step % self.config.log_every:
                window.close(step)  # which refuses a step that has diverged
            self._save(state, checkpoints, folder, step)

    def _save(self, state: TrainState, checkpoints: Checkpoints, folder: Path, step: int) -> None:
        """Starts to write a checkpoint, and writes the weights."""
        checkpoints.save(state, step)
        try:
            save_weights(self.config, state.average, folder, step)
        except OutputError:
            checkpoints.wait()  # a full disk stops the checkpoint, too, whose error says more
            raise

    def _validate(
        self, programs: Programs, state: TrainState, scenes: RenderedScenes | None, step: int
    ) -> None:
        if scenes is not None:
            metrics = jax.device_get(programs.validate(state.average, scenes))
            values = {f"validation_{name}": float(metrics[name]) for name in SHOWN}
            self.log.add(step, **values)
            self.stages.note(f"step {step} held out: {told(metrics, SHOWN)}")
        self._measure_own(programs, state, step)

    def _measure_own(self, programs: Programs, state: TrainState, step: int) -> None:
        """Errors on held-out views, each a mean over the own scenes of which it is known."""
        if self.own is None or not self.config.data_held_out:
            return
        found = programs.own_held_out(state.average, self.own)
        known = {name: found[name][~np.isnan(found[name])] for name in SHOWN}
        means = {name: float(values.mean()) for name, values in known.items() if len(values)}
        self.log.add(step, **{HELD_OUT + name: value for name, value in means.items()})
        self.stages.note(f"step {step} held-out views of own scenes: {told(means, SHOWN)}")


class _Steps:
    """Takes steps of either kind."""

    def __init__(
        self, config: TrainConfig, programs: Programs, own: OwnData | None, window: Window
    ) -> None:
        self.window = window
        self._config, self._programs, self._own = config, programs, own
        self._feeder = None if own is None else Feeder(own)

    def take(self, state: TrainState, step: int) -> TrainState:
        """The state after a step on rendered or on own scenes."""
        if self._own is not None and self._feeder is not None and self._own.takes(step):
            bucket = self._own.bucket(step)
            state, metrics = self._programs.own_step(bucket, state, self._feeder.take(step))
            self.window.add(bucket, metrics, own=True)
            return state
        bucket = choose_bucket(self._config, step)
        state, metrics = self._programs.step(bucket, state, step)
        self.window.add(bucket, metrics)
        return state

    def close(self) -> None:
        """Ends what makes batches meanwhile."""
        if self._feeder is not None:
            self._feeder.close()
