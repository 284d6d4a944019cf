"""Work that treats each view on its own: where it runs, and how much of it at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float, Shaped

from jaxrecon.nn.execution import INFERENCE, Chunk, ExecutionConfig, chunk_size
from jaxrecon.nn.offload import to_device

VIEW_AXIS = "views"
"""Name of the mesh axis over which views are spread."""


def each_view[W, X, Y](
    work: Callable[[W, X], Y], weights: W, views: X, *, axis: Any = 1, out: int = 1
) -> Y:
    """`work(weights, views)`, each device on the views that it has.

    Takes effect where the mesh in force (`jax.set_mesh`) has an axis "views"; elsewhere it is a
    plain call.

    Args:
      work: maps arrays of some views to arrays of the same views.
      weights: what all views share; every device has the whole of it.
      views: arrays of all views.
      axis: the axis of `views` that counts them; or a tree of axes, -1 for arrays that have none.
      out: the axis of what `work` returns that counts them.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not views_are_spread():
        return work(weights, views)
    spread = jax.shard_map(
        work,
        mesh=mesh,
        in_specs=(PartitionSpec(), jax.tree.map(_by_view, axis)),
        out_specs=_by_view(out),
        check_vma=False,
    )
    return spread(weights, views)


def whole_weights[W](weights: W, execution: ExecutionConfig) -> W:
    """The weights as they are; gathered, if every device holds a part of them."""
    if not execution.sharded_weights or not views_are_spread():
        return weights
    gather = jax.lax.with_sharding_constraint
    return jax.tree.map(lambda x: gather(x, PartitionSpec()), weights)


def _by_view(axis: int) -> PartitionSpec:
    return PartitionSpec() if axis < 0 else PartitionSpec(*(None,) * axis, VIEW_AXIS)


def views_are_spread() -> bool:
    """Whether the code being traced sees the views of several devices as one array."""
    mesh = jax.sharding.get_abstract_mesh()
    if VIEW_AXIS not in mesh.axis_names:
        return False
    return mesh.axis_types[mesh.axis_names.index(VIEW_AXIS)] != AxisType.Manual


def kernels_here() -> str | None:
    """Which backend fused functions are asked for: XLA's, where it sees several devices' views.

    The compiler can part its own operations over devices, but no kernel. Code that `each_view` runs
    has one device.
    """
    return "xla" if view_shards() > 1 else None


def view_shards() -> int:
    """Over how many devices the views lie that the code being traced sees as one array."""
    return jax.sharding.get_abstract_mesh().shape[VIEW_AXIS] if views_are_spread() else 1


def from_all_devices(x: Array, *, axis: int, team: int = 1) -> Array:
    """The parts that all devices hold, one after the other along an axis.

    For code that `jax.shard_map` runs on each device; elsewhere there is one part.

    Args:
      team: so many neighbours hold the same; one of them is asked.
    """
    if VIEW_AXIS not in jax.sharding.get_abstract_mesh().manual_axes:
        return x
    groups = None if team == 1 else _teams(team).T.tolist()
    return jax.lax.all_gather(x, VIEW_AXIS, axis=axis, tiled=True, axis_index_groups=groups)


def from_team(x: Array, *, axis: int, team: int) -> Array:
    """The parts that a team holds, so many neighbours, one after the other along an axis.

    For code that `jax.shard_map` runs on each device.
    """
    groups = _teams(team).tolist()
    return jax.lax.all_gather(x, VIEW_AXIS, axis=axis, tiled=True, axis_index_groups=groups)


def _teams(team: int) -> np.ndarray:
    """The devices' numbers, a row a team."""
    return np.arange(jax.lax.axis_size(VIEW_AXIS)).reshape(-1, team)


def with_copies(
    views: Float[Array, "B T *rest"], scene: Float[Array, "B S *rest"], shards: int
) -> Float[Array, "B U *rest"]:
    """Tokens of all views in so many equal parts, behind each of them a copy of the scene's."""
    parts = views.reshape(views.shape[0], shards, -1, *views.shape[2:])
    copies = jnp.broadcast_to(scene[:, None], (scene.shape[0], shards, *scene.shape[1:]))
    return jnp.concatenate([parts, copies], axis=2).reshape(views.shape[0], -1, *views.shape[2:])


def without_copies(
    tokens: Float[Array, "B U *rest"], scene: int, shards: int
) -> tuple[Float[Array, "B T *rest"], Float[Array, "B S *rest"]]:
    """The way back from `with_copies`: the tokens of all views, and the first copy of the scene's.

    Args:
      scene: how many tokens a copy has.
    """
    parts = tokens.reshape(tokens.shape[0], shards, -1, *tokens.shape[2:])
    end = parts.shape[2] - scene
    views = parts[:, :, :end].reshape(tokens.shape[0], -1, *tokens.shape[2:])
    return views, parts[:, 0, end:]


def in_turns[W, Y](
    work: Callable[[W, Float[Array, "g t D"]], Y],
    weights: W,
    x: Float[Array, "G T D"],
    *,
    axis: int,
    execution: ExecutionConfig,
    unit: int = 1,
) -> Y:
    """`work(weights, x)` with at most `execution.chunk_tokens` tokens at a time on each device.

    Args:
      work: maps tokens to one or more arrays (g, t, ...) of the same tokens; of `t`, it gets whole
        multiples of `unit`.
      weights: what all tokens share.
      x: tokens.
      axis: the axis of `x` over which views may be spread: that of its sequences or of its tokens.
      unit: neighbouring tokens that stay together.
    """
    if done_at_once(x, axis=axis, execution=execution, unit=unit):
        return work(weights, x)

    def own(weights: W, x: Float[Array, "g t D"]) -> Y:
        units = x.reshape(-1, unit, x.shape[2])
        at_once = execution.at_once(unit)
        done = map_views(partial(work, weights), units, at_once=at_once, execution=execution)
        return jax.tree.map(lambda y: y.reshape(*x.shape[:2], *y.shape[2:]), done)

    return each_view(own, weights, x, axis=axis, out=axis)


def done_at_once(
    x: Float[Array, "G T D"], *, axis: int, execution: ExecutionConfig, unit: int = 1
) -> bool:
    """Whether `in_turns` works on all these tokens at once."""
    devices = view_shards()
    tokens = x.shape[0] * x.shape[1] // devices
    uneven = x.shape[1] % unit or x.shape[axis] % (devices * (unit if axis else 1))
    return execution.training or bool(uneven) or tokens <= execution.chunk_tokens


def token_chunk(tokens: int, unit: int, execution: ExecutionConfig) -> Chunk:
    """How many tokens of one sequence `in_turns` works on at a time, on one device."""
    if tokens <= execution.chunk_tokens or tokens % unit or execution.training:
        return Chunk(tokens, tokens)
    return Chunk(unit * chunk_size(tokens // unit, execution.at_once(unit)), tokens)


def map_views[X, Y](
    function: Callable[[X], Y],
    views: X,
    *,
    at_once: int,
    axis: int = 0,
    execution: ExecutionConfig = INFERENCE,
) -> Y:
    """`function` of all views, a few at a time, so that memory does not grow with their number.

    Groups are as `chunk_size` says. Where a gradient is taken (`ExecutionConfig.training`), all
    views are done together: what they need for it is kept in any case.

    Args:
      function: maps arrays of some views to one or more arrays of them, view after view.
      views: arrays of all views.
      at_once: the most views in a group.
      axis: the axis of `views` that counts them.
    """
    count = jax.tree.leaves(views)[0].shape[axis]
    if count <= at_once or execution.training:
        return function(to_device(views))
    size = chunk_size(count, at_once)

    def group(start: Array) -> Y:
        some = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=axis), views
        )
        return function(to_device(some))

    starts = np.minimum(np.arange(0, count, size), count - size)

    def joined(parts: Shaped[Array, "groups g *rest"]) -> Shaped[Array, "G *rest"]:
        flat = parts.reshape(-1, *parts.shape[2:])
        twice, last = flat.shape[0] - count, flat.shape[0] - size
        return jnp.concatenate([flat[:last], flat[last + twice :]]) if twice else flat

    return jax.tree.map(joined, jax.lax.map(group, jnp.asarray(starts, jnp.int32)))
