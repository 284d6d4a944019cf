"""What a run needs of memory and of the disk, told from shapes before anything is read."""

import os
import shutil
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from jaxrecon import checkpoint
from jaxrecon.errors import OutputError
from jaxrecon.runtime.memory import bytes_limit, check_fits, readable
from jaxrecon.training.config import TrainConfig
from jaxrecon.training.sharding import spec_of
from jaxrecon.training.state import TrainState, abstract_model, initial_state, learning

_CHECKPOINTS = 3
"""Two are kept while another one is written."""

ADVICE = (
    "learn from its scenes in parts (accumulate), use more devices, shard weights and optimizer "
    "state over them (sharding=sharded), or give it fewer scenes"
)
"""What helps where a step needs too much memory."""


@dataclass(frozen=True)
class StatePlan:
    """Bytes of what a run carries from step to step.

    Attributes:
      weights: in float32, on each device; those of their average are as many.
      moments: of the optimizer, on each device.
      gradients: in float32, on each device, while a step lasts.
      checkpoint: of one checkpoint on the disk.
      export: of the averaged weights in bfloat16 on the disk.
    """

    weights: int
    moments: int
    gradients: int
    checkpoint: int
    export: int

    @property
    def state(self) -> int:
        """Weights, average and moments on each device."""
        return 2 * self.weights + self.moments

    @property
    def disk(self) -> int:
        """Of a run from its start: its checkpoints, and weights that are replaced by newer ones."""
        return _CHECKPOINTS * self.checkpoint + 2 * self.export


def abstract_state(config: TrainConfig) -> TrainState:
    """The shapes of the state."""
    weights = checkpoint.flatten(abstract_model(config))
    return jax.eval_shape(partial(initial_state, config), weights)


def plan_state(config: TrainConfig, devices: int, *, sharded: bool) -> StatePlan:
    """What the state takes, whole on each of the devices or a part on each."""
    state = abstract_state(config)

    def held(tree: Any) -> int:
        return sum(_held(leaf, devices, sharded) for leaf in jax.tree.leaves(tree))

    whole = sum(_held(leaf, 1, False) for leaf in jax.tree.leaves(state.weights))
    return StatePlan(
        weights=held(state.weights),
        moments=held(state.optimizer),
        gradients=sum(_held(x, 1, False) for x in learning(config, state.weights).values()),
        checkpoint=sum(_held(leaf, 1, False) for leaf in jax.tree.leaves(state)),
        export=whole // 2,
    )


def _held(leaf: Any, devices: int, sharded: bool) -> int:
    parts = devices if len(spec_of(leaf.shape, devices, sharded=sharded)) else 1
    return prod(leaf.shape) * leaf.dtype.itemsize // parts


def is_sharded(config: TrainConfig, mesh: Mesh) -> bool:
    """Whether each device holds a part of the state; see `TrainConfig.sharding`."""
    if mesh.size == 1 or config.sharding == "whole":
        return False
    if config.sharding == "sharded":
        return True
    plan, limit = plan_state(config, mesh.size, sharded=False), bytes_limit(mesh.devices.flat[0])
    return limit is not None and plan.state + plan.gradients > limit / 2


def check_state(config: TrainConfig, mesh: Mesh, folder: Path, *, begun: bool) -> None:
    """Refuses a run whose state alone does not fit, before its weights are read.

    Args:
      folder: of the run.
      begun: whether the run has checkpoints already, and so its room on the disk.

    Raises:
      InputError: weights, average, moments and gradients need more memory than each device has.
      OutputError: the checkpoints need more room than the disk has.
    """
    plan = plan_state(config, mesh.size, sharded=is_sharded(config, mesh))
    what = "model: the state of the run (weights, average, moments) with the gradients"
    check_fits(
        plan.state + plan.gradients,
        bytes_limit(mesh.devices.flat[0]),
        what=what,
        advice="use more devices (sharding=sharded), larger ones, or a smaller model",
    )
    free = None if begun else _free(folder)
    if free is not None and free < plan.disk:
        raise OutputError(
            f"cannot write {folder}: the run's checkpoints need {readable(plan.disk)}, and "
            f"{readable(free)} are free there; free space or choose another disk"
        )


def _free(folder: Path) -> int | None:
    """Bytes free where a folder is or will be; None if the system does not tell."""
    place = Path(os.path.abspath(folder))
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None
