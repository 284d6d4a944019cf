"""Numbers of 8 bits (e4m3: 4 of exponent, 3 of mantissa), and rows for matrix units that take them.

Source of the format: FP8 Formats for Deep Learning (arXiv 2209.05433).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

E4M3 = jnp.float8_e4m3fn

LARGEST = 448.0
"""The largest number of e4m3, which has no infinity."""

ROWS = 128
"""Filled up to a multiple of so many rows, matrices are whole tiles of cuBLAS's kernels. (Float8 is
multiplied in multiples of 16; XLA copies others to fill them up.)
"""


def is_float8(dtype: DTypeLike) -> bool:
    """Whether it is the one float8 type that kernels write."""
    return jnp.dtype(dtype) == E4M3


def saturated(x: Float[Array, "..."], dtype: DTypeLike) -> Float[Array, "..."]:
    """`x` in a dtype; what lies beyond the numbers of e4m3 becomes the nearest of them.

    (Converted as it is, it would be no number.)
    """
    return (jnp.clip(x, -LARGEST, LARGEST) if is_float8(dtype) else x).astype(dtype)


def widened[R](attend: Callable[..., R]) -> Callable[..., R]:
    """Attention whose queries and keys may be e4m3: they become numbers of the values' dtype."""

    @wraps(attend)
    def run(q: Array, k: Array, v: Array, *rest: Any, **options: Any) -> R:
        if is_float8(q.dtype):
            q, k = q.astype(v.dtype), k.astype(v.dtype)
        return attend(q, k, v, *rest, **options)

    return run


def whole_rows(count: int) -> int:
    """So many rows, filled up to a multiple of `ROWS`."""
    return -(-count // ROWS) * ROWS


def filled_up(x: Shaped[Array, "*dims D"]) -> Shaped[Array, "R D"]:
    """One matrix, with rows of zeros behind the others up to a multiple of `ROWS`."""
    flat = x.reshape(-1, x.shape[-1])
    return jnp.pad(flat, ((0, whole_rows(len(flat)) - len(flat)), (0, 0)))
