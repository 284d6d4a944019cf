"""Work that treats each view, or each token, on its own: how much of it at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxrecon.nn.execution import INFERENCE, Chunk, ExecutionConfig, chunk_size
from jaxrecon.nn.offload import to_device


def chunked_map[X, Y](
    work: Callable[[X], Y], tokens: X, *, unit: int = 1, execution: ExecutionConfig = INFERENCE
) -> Y:
    """`work(tokens)` with at most `execution.chunk_tokens` tokens at a time.

    Args:
      work: maps arrays of some tokens to one or more arrays (g, t, ...) of the same tokens; of `t`,
        it gets whole multiples of `unit`.
      tokens: arrays (G, T, D).
      unit: neighbouring tokens that stay together; those that make no whole units all do.
    """
    groups, length = jax.tree.leaves(tokens)[0].shape[:2]
    chunk = token_chunk(groups, length, unit, execution)
    if chunk.size == chunk.of:
        return work(tokens)
    units = jax.tree.map(lambda x: x.reshape(-1, unit, *x.shape[2:]), tokens)
    done = map_views(work, units, at_once=chunk.size // unit, execution=execution)
    return jax.tree.map(lambda y: y.reshape(groups, length, *y.shape[2:]), done)


def chunked_update[X](
    work: Callable[[Float[Array, "g t D"], X], Float[Array, "g t D"]],
    x: Float[Array, "G T D"],
    other: X,
    *,
    execution: ExecutionConfig = INFERENCE,
) -> Float[Array, "G T D"]:
    """`work(x, other)` with at most `execution.chunk_tokens` tokens at a time, written over `x`.

    So there is room for `x` once, where `chunked_map` would take it twice.

    Args:
      work: maps arrays of some tokens to the tokens that take the place of those of `x`.
      other: arrays (G, T, E) of the same tokens.
    """
    groups, length, _ = x.shape
    chunk = token_chunk(groups, length, 1, execution)
    if chunk.size == chunk.of:
        return work(x, other)
    flat, beside = jax.tree.map(lambda y: y.reshape(-1, 1, *y.shape[2:]), (x, other))

    def write(done: Array, start: Array | int, size: int) -> Array:
        own, some = jax.tree.map(
            lambda y: jax.lax.dynamic_slice_in_dim(y, start, size), (done, beside)
        )
        return jax.lax.dynamic_update_slice_in_dim(done, work(own, some), start, 0)

    whole, rest = divmod(chunk.of, chunk.size)
    done = jax.lax.fori_loop(0, whole, lambda i, x: write(x, i * chunk.size, chunk.size), flat)
    if rest:
        done = write(done, whole * chunk.size, rest)
    return done.reshape(x.shape)


def token_chunk(groups: int, length: int, unit: int, execution: ExecutionConfig) -> Chunk:
    """How many tokens, of sequences of such a length, `chunked_map` works on at a time."""
    tokens = groups * length
    if tokens <= execution.chunk_tokens or length % unit or execution.training:
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
