"""What a training run carries from step to step."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrecon import checkpoint
from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.models import Model, Pi3Config
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.registry import FAMILIES, Family
from jaxrecon.training.config import TrainConfig

type Weights = dict[str, Float[Array, "..."]]
"""Float32 weights by path, as `jaxrecon.checkpoint.flatten` names them."""


@pytree_dataclass
class TrainState:
    """Weights in float32, their running average, the optimizer's moments and the step's number."""

    step: Int[Array, ""]
    weights: Weights
    average: Weights
    optimizer: Any


def abstract_model(config: TrainConfig, dtype: Any = jnp.float32) -> Model:
    """The module with shapes and dtypes in place of weights.

    With matrices in bfloat16, the float32 products and convolutions of the heads may be in TF32.
    """
    model: Model = family_of(config).abstract(config.model, dtype)
    if dtype == jnp.bfloat16:
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.Linear | nnx.Conv) and module.dtype == jnp.float32:
                module.precision = jax.lax.Precision.HIGH
    return model


def family_of(config: TrainConfig) -> Family:
    """The family of the model that a run trains."""
    return next(x for x in FAMILIES.values() if isinstance(config.model, x.config_class))


def with_weights(model: Model, weights: Weights) -> Model:
    """The module with these weights, each cast to the dtype that the module has for it."""
    cast = {
        path: weights[path].astype(leaf.dtype) for path, leaf in checkpoint.flatten(model).items()
    }
    return checkpoint.unflatten(model, cast)


def initial_state(config: TrainConfig, weights: Weights) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        weights=weights,
        average=jax.tree.map(jnp.copy, weights),
        optimizer=make_optimizer(config).init(learning(config, weights)),
    )


def initial_weights(config: TrainConfig) -> Weights:
    """Random weights from which training sets out, the same on every platform.

    Matrices are normal with a variance of one over the width that enters, those of the outputs a
    tenth of that and those of what refines them zero; tokens and positions are normal with a
    deviation of 0.02; norms are the identity, biases zero, and every LayerScale is
    `config.layer_scale`. Rotations start near the identity, and rays near the optical axis.
    """
    random = np.random.default_rng(config.seed)
    shapes = checkpoint.shapes(abstract_model(config))
    drawn = {path: _initial(path, shapes[path], config, random) for path in sorted(shapes)}
    drawn |= {path: np.array(bias) for path, bias in _BIASES.items() if path in drawn}
    # Unlike `jnp.asarray`, this compiles nothing.
    return {path: jax.device_put(value.astype(np.float32)) for path, value in drawn.items()}


def starting_weights(config: TrainConfig, init: str | Path) -> Weights:
    """The weights of a checkpoint; of a refiner or filter that it lacks, `initial_weights`.

    Raises:
      WeightsError: it cannot be read, or has other sizes.
    """
    stored = checkpoint.read_config(init)["config"] if isinstance(config.model, Pi3Config) else {}
    lacking = [name for name in ADDED if getattr(config.model, name, 0) and not stored.get(name)]
    if not lacking:
        return checkpoint.flatten(checkpoint.load(init, abstract_model(config)))
    without = replace(config, model=replace(config.model, **dict.fromkeys(lacking, 0)))
    found = checkpoint.flatten(checkpoint.load(init, abstract_model(without)))
    return initial_weights(config) | found


def _initial(
    path: str, shape: tuple[int, ...], config: TrainConfig, random: np.random.Generator
) -> np.ndarray:
    leaf = path.rpartition(".")[2]
    if leaf == "kernel":
        gain = 0.0 if path in _UPDATES else 0.1 if path in _OUTPUTS else 1.0
        window = prod(shape[:-2]) if len(shape) == 4 else 1  # of a convolution; else layers
        return gain * random.standard_normal(shape) * (window * shape[-2]) ** -0.5
    constant = {"bias": 0.0, "scale": 1.0, "gamma": config.layer_scale}
    return np.full(shape, constant[leaf]) if leaf in constant else 0.02 * random.normal(size=shape)


_OUTPUTS = (
    "point_head.kernel",
    "confidence_head.kernel",
    "camera_head.rotation.kernel",
    "camera_head.translation.kernel",
    "dense_head.out.kernel",
    "pose_head.rotation.kernel",
    "pose_head.translation.kernel",
    "scale_head.out.kernel",
)
_BIASES = {
    "camera_head.rotation.bias": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "dense_head.out.bias": [0, 0, 1, 0, 0, 0],
    "pose_head.rotation.bias": [0, 0, 0, 1],
}
"""Where outputs set out from: no rotation, as a matrix and as a quaternion, and rays ahead."""

ADDED = ("refine_width", "filter_width")
"""Fields of `Pi3Config` for what may be added to weights that lack it."""

_UPDATES = ("refiner.leave.kernel", "depth_filter.leave.kernel")


def make_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """The gradient's norm clipped, then AdamW; the matrices of the blocks by Muon if so chosen."""
    rate = learning_rate(config)
    decayed: Any = partial(_by_path, _is_matrix)
    muon_axes: Any = partial(_by_path, _muon_axes)
    if config.optimizer == "muon":
        update = optax.contrib.muon(
            rate,
            weight_decay=config.weight_decay,
            weight_decay_mask=decayed,
            adam_weight_decay=config.weight_decay,
            adam_b2=0.99,
            muon_weight_dimension_numbers=muon_axes,
            consistent_rms=0.2,
        )
    else:
        update = optax.adamw(rate, b2=0.99, weight_decay=config.weight_decay, mask=decayed)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), update)


def check_trained(config: TrainConfig) -> None:
    """Refuses names of weights that the model does not have.

    Raises:
      InputError: naming them, and what weights there are.
    """
    paths = checkpoint.shapes(abstract_model(config)) if config.trained else ()
    unknown = [name for name in config.trained if not any(x.startswith(name) for x in paths)]
    if unknown:
        known = sorted({path.partition(".")[0] for path in paths})
        raise InputError(
            f"trained: no weight begins with {shown(', '.join(unknown))}; there are those of "
            f"{', '.join(known)}"
        )


def learning[X](config: TrainConfig, weights: dict[str, X]) -> dict[str, X]:
    """Those of the weights, or of what there is for each, that learn; see `TrainConfig.trained`."""
    if not config.trained:
        return weights
    return {path: x for path, x in weights.items() if path.startswith(config.trained)}


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Linear warm-up, constant, then linear to zero over the last `decay_share` of the steps."""
    decay = max(1, round(config.decay_share * config.steps))
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, decay),
        ],
        [config.warmup_steps, config.steps - decay],
    )


def _by_path(choose: Callable[[str], Any], weights: Any) -> Any:
    return {path: choose(path) for path in weights}


def _is_matrix(path: str) -> bool:
    return path.endswith(".kernel")


def _muon_axes(path: str) -> Any:
    """Which axes of a parameter are a matrix to orthogonalise: those of stacked blocks."""
    if "blocks." in path and _is_matrix(path):
        return optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return None


def updated(
    state: TrainState, gradients: Weights, optimizer: optax.GradientTransformation, decay: float
) -> TrainState:
    """The state after one step along `gradients`, of the weights that learn."""
    learnt, average = (
        {path: x[path] for path in gradients} for x in (state.weights, state.average)
    )
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules divide counts by numbers
        updates, moments = optimizer.update(gradients, state.optimizer, learnt)
    learnt: Any = optax.apply_updates(learnt, updates)
    seen = state.step.astype(jnp.float32)
    rate = 1 - jnp.minimum(decay, (1 + seen) / (10 + seen))
    average: Any = optax.incremental_update(learnt, average, rate)
    return replace(
        state,
        step=state.step + 1,
        weights=state.weights | learnt,
        average=state.average | average,
        optimizer=moments,
    )
