"""One vector for each block of tokens."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

type Pooling = Literal["mean", "max"]


def pool_blocks(
    x: Float[Array, "B T N K"], block: int, pooling: Pooling = "mean", *, start: int = 0
) -> Float[Array, "B N blocks K"]:
    """Mean or maximum over each `block` tokens from `start` on, in float32.

    A shorter last block is pooled over its own tokens.
    """
    tokens = x.shape[1] - start
    window = (1, block, 1, 1)
    # Negative padding leaves tokens out without a copy of the others.
    padding = ((0, 0), (-start, -tokens % block), (0, 0), (0, 0))
    nothing, merge = (0.0, jax.lax.add) if pooling == "mean" else (-jnp.inf, jax.lax.max)
    pooled = jax.lax.reduce_window(x.astype(jnp.float32), nothing, merge, window, window, padding)
    if pooling == "mean":
        sizes = jnp.minimum(block, tokens - block * jnp.arange(pooled.shape[1]))
        pooled = pooled / sizes[:, None, None]
    return pooled.swapaxes(1, 2)
