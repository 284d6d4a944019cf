"""Quantiles of very many numbers that may lie on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

BITS = 32
SIGN = np.uint32(1 << (BITS - 1))


def quantile(
    values: Float[Array, "*shape"],
    share: Float[Array | np.ndarray, ""] | float,
    where: Bool[Array, "*shape"] | bool = True,
) -> Float[Array, ""]:
    """The number below which `share` of the chosen values lie, as `jnp.quantile` interpolates it.

    The two order statistics beside it are found bit by bit, by counting how many values are
    smaller. Nothing is sorted, and devices exchange counts alone.

    Args:
      values: float32, any shape.
      share: in [0, 1].
      where: the values that count; the result is NaN if there are none.
    """
    keys, chosen = _ordered(values), jnp.broadcast_to(where, values.shape)
    count = jnp.sum(chosen, dtype=jnp.int32)
    place = jnp.asarray(share, jnp.float32) * jnp.maximum(count - 1, 0).astype(jnp.float32)
    rank = jnp.floor(place).astype(jnp.int32)
    low = _of_rank(keys, chosen, rank)
    upto = jnp.sum(chosen & (keys <= low), dtype=jnp.int32)
    above = jnp.min(jnp.where(chosen & (keys > low), keys, ~jnp.uint32(0)))
    high = jnp.where((upto >= rank + 2) | (upto >= count), low, above)
    low, high = _number(low), _number(high)
    whole = rank.astype(jnp.float32)
    exact = (place == whole) | (low == high)  # where the other may be infinite
    between = low + (place - whole) * (high - low)
    return jnp.where(count > 0, jnp.where(exact, low, between), jnp.nan)


def _of_rank(
    keys: UInt32[Array, "*shape"], chosen: Bool[Array, "*shape"], rank: Int[Array, ""]
) -> UInt32[Array, ""]:
    """The largest key that at most `rank` chosen keys lie below."""

    def refine(step: Int[Array, ""], found: UInt32[Array, ""]) -> UInt32[Array, ""]:
        higher = found | (SIGN >> step.astype(jnp.uint32))
        below = jnp.sum(chosen & (keys < higher), dtype=jnp.int32)
        return jnp.where(below <= rank, higher, found)

    return jax.lax.fori_loop(0, BITS, refine, jnp.uint32(0))


def _ordered(values: Float[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Integers in the order of the numbers."""
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
    return jnp.where(bits & SIGN, ~bits, bits | SIGN)


def _number(key: UInt32[Array, ""]) -> Float[Array, ""]:
    bits = jnp.where(key & SIGN, key ^ SIGN, ~key)
    return jax.lax.bitcast_convert_type(bits, jnp.float32)
