"""One step of training as two compiled programs: render the scenes, and learn from them.

Both run on every device of the mesh, each device on its own scenes; only gradients and metrics are
averaged over the devices. Which scenes a step sees does not depend on the number of devices. The
state lies whole on every device, or each holds a part, and weights are gathered for the step.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.stages import Wrapped
from jaxtyping import Array, Int

from jaxrecon import checkpoint
from jaxrecon.errors import InputError
from jaxrecon.nn.execution import INFERENCE, TRAINING, ExecutionConfig
from jaxrecon.scenes import RenderedScenes, render_groups, scene_key
from jaxrecon.scenes.photographs import Pictures
from jaxrecon.training import losses
from jaxrecon.training.config import Bucket, TrainConfig, draw_bucket
from jaxrecon.training.known_losses import known_errors, known_loss, shown
from jaxrecon.training.own.known import KnownScenes, developed
from jaxrecon.training.sharding import (
    SCENE_AXIS,
    Specs,
    averaged,
    gathered,
    placed,
    spec_of,
)
from jaxrecon.training.state import (
    TrainState,
    Weights,
    abstract_model,
    learning,
    make_optimizer,
    updated,
    with_weights,
)
from jaxrecon.training.told import Told, draw_told, priors_of, told_nothing

VALIDATION_SEED = 1_000_000
"""Of the test stream; evaluation on procedural scenes uses small seeds."""

_EACH, _SHARED = PartitionSpec(SCENE_AXIS), PartitionSpec()

type Metrics = dict[str, Array]
type Scenes = RenderedScenes | KnownScenes
type _Batch = tuple[Scenes, Told | None]


def make_data_mesh(devices: list[Any] | None = None) -> Mesh:
    """A mesh that shards scenes over `devices` (all local devices if not given)."""
    devices = jax.local_devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (SCENE_AXIS,), (AxisType.Auto,), devices=devices)


def everywhere(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, _SHARED)


def each_scene(mesh: Mesh) -> NamedSharding:
    """Arrays (B, ...) with their scenes sharded over the devices."""
    return NamedSharding(mesh, _EACH)


def choose_bucket(config: TrainConfig, step: int) -> Bucket:
    """The bucket of a step: random by share, the same each time it is asked for."""
    return draw_bucket(config.buckets, np.random.default_rng((config.seed, step)))


def check_devices(config: TrainConfig, mesh: Mesh) -> None:
    """Refuses buckets that the devices cannot share evenly, or in parts of one size.

    Raises:
      InputError: naming the bucket.
    """
    for bucket in (*config.buckets, validation_bucket(config)):
        groups = bucket.scenes // config.group(bucket)
        if groups % mesh.size:
            raise InputError(
                f"buckets: {bucket} has {groups} groups of {config.group(bucket)} scenes, "
                f"which {mesh.size} devices cannot share evenly; change its number of scenes"
            )
    for bucket in config.buckets:
        scenes = bucket.scenes // mesh.size
        if scenes % config.accumulate:
            raise InputError(
                f"accumulate: {scenes} scenes a device, of {bucket}, are no {config.accumulate} "
                "equal parts; choose a divisor"
            )


def validation_bucket(config: TrainConfig) -> Bucket:
    """The shape of the held-out scenes."""
    first = config.buckets[0]
    return replace(first, scenes=config.validation_scenes)


def make_render(config: TrainConfig, bucket: Bucket, mesh: Mesh, key: Array) -> Wrapped:
    """`render(step)`: the scenes of a step, sharded over the devices.

    Where the config has pictures, `render(step, pictures)`.
    """
    size = config.group(bucket)
    groups = bucket.scenes // size
    draw = partial(
        render_groups,
        scenes=size,
        views=bucket.views,
        height=bucket.height,
        width=bucket.width,
        config=config.scenes_of(bucket),
    )

    def draw_printed(keys: Array, pictures: Pictures) -> RenderedScenes:
        return draw(keys, pictures=pictures)

    work, specs = (draw_printed, (_EACH, _SHARED)) if config.pictures else (draw, _EACH)
    sharded = jax.shard_map(work, mesh=mesh, in_specs=specs, out_specs=_EACH, check_vma=False)

    def render(step: Int[Array, ""], *pictures: Pictures) -> RenderedScenes:
        keys = jax.random.split(jax.random.fold_in(key, step), groups)
        return sharded(keys, *pictures)

    return jax.jit(render)


def make_step(config: TrainConfig, mesh: Mesh, *, sharded: bool = False) -> Wrapped:
    """`step(state, scenes)`: the state after learning from the scenes, and the metrics.

    The scenes are `RenderedScenes`, or `KnownScenes`. With `sharded`, each device holds a part of
    the state.
    """
    optimizer, specs = make_optimizer(config), _specs(config, mesh, sharded)

    def local(weights: Weights, batch: _Batch) -> tuple[Weights, Metrics]:
        whole = gathered(weights, specs)

        def loss(learnt: Weights, batch: _Batch) -> tuple[Array, Metrics]:
            return _loss(config, whole | learnt, batch, execution=TRAINING)

        gradient = partial(jax.grad(loss, has_aux=True), learning(config, whole))
        gradients, metrics = in_parts(gradient, batch, config.accumulate)
        return averaged(gradients, specs), jax.lax.pmean(metrics, SCENE_AXIS)

    found = learning(config, specs), _SHARED
    gradient = jax.shard_map(
        local, mesh=mesh, in_specs=(specs, _EACH), out_specs=found, check_vma=False
    )

    def step(state: TrainState, scenes: Scenes) -> tuple[TrainState, Metrics]:
        scenes_and_views = scenes.images.shape[:2]
        told = draw_told(config, training_key(config), state.step, *scenes_and_views)
        gradients, metrics = gradient(state.weights, (scenes, told))
        norm = jnp.sqrt(sum((jnp.sum(g * g) for g in gradients.values()), jnp.zeros(())))
        new = updated(state, gradients, optimizer, config.ema_decay)
        if sharded:
            new = jax.lax.with_sharding_constraint(new, placed(new, mesh, sharded=True))
        metrics = shown(metrics) if isinstance(scenes, KnownScenes) else metrics
        return new, metrics | {"gradient_norm": norm}

    return jax.jit(step, donate_argnums=0)


def _specs(config: TrainConfig, mesh: Mesh, sharded: bool) -> Specs:
    shapes = checkpoint.shapes(abstract_model(config))
    return {path: spec_of(shape, mesh.size, sharded=sharded) for path, shape in shapes.items()}


def in_parts[S, X](work: Callable[[S], X], scenes: S, parts: int) -> X:
    """The mean of what `work` makes of equal parts of the scenes, taken one after another."""
    if parts == 1:
        return work(scenes)
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), scenes)
    first = jax.eval_shape(work, jax.tree.map(lambda x: x[0], split))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), first)

    def add(total: X, part: S) -> tuple[X, None]:
        return jax.tree.map(jnp.add, total, work(part)), None

    total, _ = jax.lax.scan(add, zeros, split)
    return jax.tree.map(lambda x: x / parts, total)


def make_validate(config: TrainConfig, mesh: Mesh, *, sharded: bool = False) -> Wrapped:
    """`validate(weights, scenes)`: the metrics of the weights on held-out scenes."""
    specs = _specs(config, mesh, sharded)

    def local(weights: Weights, scenes: RenderedScenes) -> Metrics:
        whole = gathered(weights, specs)
        batch = scenes, told_nothing(config, *scenes.images.shape[:2])
        return jax.lax.pmean(_loss(config, whole, batch, execution=INFERENCE)[1], SCENE_AXIS)

    return jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(specs, _EACH), out_specs=_SHARED, check_vma=False)
    )


def make_held_out(config: TrainConfig, mesh: Mesh, *, sharded: bool = False) -> Wrapped:
    """`held_out(weights, scenes, counts)`: metrics of each own scene by its first views.

    NaN where nothing is known that a metric needs.
    """
    specs = _specs(config, mesh, sharded)

    def local(weights: Weights, scenes: KnownScenes, counts: Int[Array, " B"]) -> Metrics:
        model = with_weights(
            abstract_model(config, jnp.dtype(config.dtype)), gathered(weights, specs)
        )

        def measured(one: tuple[KnownScenes, Int[Array, ""]]) -> Metrics:
            scene = jax.tree.map(lambda x: x[None], one[0])
            found = model(developed(scene), num_valid_views=one[1], execution=INFERENCE)
            terms, metrics = known_errors(found, scene)
            known = terms | metrics
            return {
                name: jnp.where(at[0], value[0], jnp.nan) for name, (value, at) in known.items()
            }

        return jax.lax.map(measured, (scenes, counts))

    return jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(specs, _EACH, _EACH), out_specs=_EACH, check_vma=False
        )
    )


def _loss(
    config: TrainConfig, weights: Weights, batch: _Batch, *, execution: ExecutionConfig
) -> tuple[Array, Metrics]:
    model = with_weights(abstract_model(config, jnp.dtype(config.dtype)), weights)
    scenes, told = batch
    priors: dict[str, Any] = {} if told is None else {"priors": priors_of(scenes, told)}
    if isinstance(scenes, KnownScenes):
        prediction = model(developed(scenes), execution=execution, **priors)
        return known_loss(prediction, scenes, config.losses)
    prediction = model(scenes.images, execution=execution, **priors)
    return losses.loss(prediction, losses.target(scenes), config.losses)


def training_key(config: TrainConfig) -> Array:
    """Key of the stream of training scenes."""
    return scene_key("train", config.seed)


def validation_key() -> Array:
    """Key of the held-out scenes, the same for all runs."""
    return scene_key("test", VALIDATION_SEED)
