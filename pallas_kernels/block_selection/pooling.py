"""One vector for each block of tokens."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

type Pooling = Literal["mean", "max"]

FOLDS: dict[str, tuple[float, Any]] = {
    "mean": (0.0, jax.lax.add),
    "max": (-jnp.inf, jax.lax.max),
}
"""Of each pooling, what changes nothing and how two tokens are joined."""


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

    Raises:
      ValueError: the pooling is unknown.
    """
    check_pooling(pooling)
    pooled = _folded(x, block, pooling, start)
    if stop is not None:
        # Only the block that `stop` cuts is worked on again: a masked copy of all is large.
        last = jnp.maximum(stop - start - 1, 0) // block
        place = start + block * last + jnp.arange(block)
        place = jnp.where(place < stop, place, x.shape[1])
        own = jnp.take(x, place, axis=1, mode="fill", fill_value=FOLDS[pooling][0])
        own = _folded(own, block, pooling, 0)
        pooled = jax.lax.dynamic_update_slice_in_dim(pooled, own, last, axis=1)
    tokens = x.shape[1] - start if stop is None else stop - start
    left = (tokens - block * jnp.arange(pooled.shape[1]))[None, :, None, None]
    if pooling == "mean":
        pooled = pooled / jnp.clip(left, 1, block).astype(pooled.dtype)
    if stop is not None:
        pooled = jnp.where(left > 0, pooled, 0.0)
    return pooled.swapaxes(1, 2)


def check_pooling(pooling: str) -> None:
    """Refuses poolings that there are not."""
    if pooling not in FOLDS:
        raise ValueError(f"{pooling=} is unknown; choose one of {', '.join(FOLDS)}")


def _folded(
    x: Float[Array, "B T N K"], block: int, pooling: Pooling, start: int
) -> Float[Array, "B blocks N K"]:
    """Sum or maximum over each block."""
    if block == 1:  # XLA on the CPU aborts on such a window (jax 0.12.0).
        return x[:, start:].astype(jnp.float32)
    # Heads and their width as one axis: XLA would copy all tokens with heads first otherwise, as
    # callers want what is pooled.
    rows = x.reshape(*x.shape[:2], -1)
    window = (1, block, 1)
    # Negative padding leaves tokens out without a copy of the others.
    padding = ((0, 0), (-start, -(x.shape[1] - start) % block), (0, 0))
    nothing, merge = FOLDS[pooling]
    pooled = jax.lax.reduce_window(
        rows.astype(jnp.float32), nothing, merge, window, window, padding
    )
    return pooled.reshape(*pooled.shape[:2], *x.shape[2:])
