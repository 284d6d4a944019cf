"""The second half of a streamed reconstruction: geometry of a few views at a time."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.models import VIEW_AXES, Encoded, Model, Prediction
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.nn.offload import to_device
from jaxrecon.priors import PriorArrays
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.memory import check_compiled
from jaxrecon.runtime.options import ProgramKey, RuntimeInputs
from jaxrecon.runtime.placement import ONE_DEVICE, Placement
from jaxrecon.runtime.program import Geometry, geometry_of
from jaxrecon.runtime.sharding import view_devices


def has_known_pose(priors: PriorArrays | None) -> bool:
    """Whether the result is in the world of known poses."""
    return priors is not None and bool(priors.has_pose[0].any())


def part_size(executor: Executor, views: int, views_at_once: int) -> int:
    """How many views each device works on at a time, of the program's number of `views`."""
    devices = view_devices(executor.mesh)
    return min(views // devices, max(1, -(-views_at_once // devices)))


def compile_both(
    executor: Executor,
    shape: tuple[int, ...],
    key: ProgramKey,
    attention: AttentionFn,
    views_at_once: int,
    *,
    posed: bool,
) -> Any:
    """The executable of the part in which views exchange, that of the heads being compiled too.

    So what needs more memory than there is is refused before anything runs.

    Args:
      shape: of the program's images, (V, H, W, 3).
      posed: see `has_known_pose`.

    Raises:
      InputError: one of them needs more memory than the device has.
    """
    encoder = executor.compile_encoder(shape, key, attention)
    count = part_size(executor, shape[0], views_at_once)
    heads = compile_heads(executor, encoded_by(executor, encoder), count, shape, key, posed=posed)
    check_compiled(heads, executor.device, runs=runs_together(executor, count, shape[0]))
    return encoder


def runs_together(executor: Executor, count: int, views: int) -> int:
    """The results of how many parts lie on the device together: one is fetched, one is made."""
    return 1 if count * view_devices(executor.mesh) == views else 2


def compile_heads(
    executor: Executor,
    encoded: Encoded,
    count: int,
    shape: tuple[int, ...],
    key: ProgramKey,
    *,
    posed: bool,
) -> Any:
    """The executable of the heads for `count` views of each device, compiled on first use."""
    return executor.once(
        ("decode", count, shape, key, posed),
        lambda: lower_heads(executor, encoded, count, shape, key, posed=posed),
    )


def lower_heads(
    executor: Executor,
    encoded: Encoded,
    count: int,
    shape: tuple[int, ...],
    key: ProgramKey,
    *,
    posed: bool,
) -> Any:
    """The program of the heads, lowered and not yet compiled; `encoded` may be without numbers."""
    inputs = key.abstract_inputs(count * view_devices(executor.mesh))
    world = np.zeros((4, 4), np.float32) if posed else None
    program = partial(decode_program, count, (1, *shape), key, placement=executor.placement)
    start = np.zeros((), np.int32)
    return executor.lowered(program, executor.model, encoded, start, inputs, world)


def encoded_by(executor: Executor, encoder: Any) -> Encoded:
    """Shapes of what an executable of `Executor.compile_encoder` returns, but for `skipped`."""
    if executor.mesh is None:
        return replace(encoder.out_info, skipped=None)
    placed = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        encoder.out_info,
        encoder.output_shardings,
    )
    return replace(placed, skipped=None)


def decode_program(
    count: int,
    shape: tuple[int, ...],
    key: ProgramKey,
    model: Model,
    encoded: Encoded,
    start: Int[Array, ""],
    inputs: RuntimeInputs,
    world: Float[Array, "4 4"] | None,
    *,
    placement: Placement = ONE_DEVICE,
) -> Geometry:
    """The geometry of `count` views of each device, from its view `start` on.

    `encoded` is without `skipped`.
    """
    layout = model.layout(shape)
    chosen = {} if key.points is None else {"points": key.points}

    def work(weights: tuple[Model, Array], views: Encoded) -> Prediction:
        model, start = weights
        some = jax.tree.map(
            lambda x, axis: x if axis < 0 else jax.lax.dynamic_slice_in_dim(x, start, count, axis),
            views,
            jax.tree.broadcast(VIEW_AXES, views),
        )
        return model.predict(to_device(some), layout, execution=placement.local, **chosen)

    waits = placement.waiting(encoded)
    prediction = placement.each_view(work, (model, start), waits, axis=VIEW_AXES)
    if world is not None:
        prediction = prediction.moved(jnp.asarray(world)[None])
    return geometry_of(prediction, inputs, key, placement=placement)
