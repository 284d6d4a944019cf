"""One vector for each block of tokens."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

type Pooling = Literal["mean", "max"]


def pool_blocks(
    x: Float[Array, "B T N K"],
    block: int,
    pooling: Pooling = "mean",
    *,
    start: int = 0,
    stop: Int[Array, ""] | None = None,
) -> Float[Array, "B N blocks K"]:
    """Mean or maximum over each `block` tokens from `start` on, in float32.

    A block that is cut short, by the end of the tokens or by `stop`, is pooled over its own tokens;
    one from `stop` on is zero.
    """
    tokens = x.shape[1] - start if stop is None else stop - start
    window = (1, block, 1, 1)
    # Negative padding leaves tokens out without a copy of the others.
    padding = ((0, 0), (-start, -(x.shape[1] - start) % block), (0, 0), (0, 0))
    nothing, merge = (0.0, jax.lax.add) if pooling == "mean" else (-jnp.inf, jax.lax.max)
    if stop is not None:
        x = jnp.where((jnp.arange(x.shape[1]) < stop)[:, None, None], x, nothing)
    if block == 1:  # XLA on the CPU aborts on such a window (jax 0.12.0).
        pooled = x[:, start:].astype(jnp.float32)
    else:
        x = x.astype(jnp.float32)
        pooled = jax.lax.reduce_window(x, nothing, merge, window, window, padding)
    left = (tokens - block * jnp.arange(pooled.shape[1]))[:, None, None]
    if pooling == "mean":
        pooled = pooled / jnp.clip(left, 1, block)
    elif stop is not None:
        pooled = jnp.where(left > 0, pooled, 0.0)
    return pooled.swapaxes(1, 2)
