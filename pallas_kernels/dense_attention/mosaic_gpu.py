"""Our Hopper kernel (`pallas_kernels.block_sparse_attention.mosaic_gpu`) with every key seen."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels.block_sparse_attention.mosaic_gpu import (
    attention_mosaic_gpu as attend_to_blocks,
)
from pallas_kernels.dense_attention.cudnn import attention_cudnn


def attention_mosaic_gpu(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    scale: float,
    num_valid_keys: Int[Array, ""] | None = None,
) -> Float[Array, "B T N K"]:
    """Float16 and bfloat16 on Hopper GPUs, head widths up to 128. A gradient is cuDNN's.

    Raises:
      NotImplementedError: the kernel cannot do this job here.
    """
    return _attend(q, k, v, num_valid_keys, scale)


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, num_valid_keys: Array | None, scale: float) -> Array:
    return attend_to_blocks(q, k, v, None, scale=scale, num_valid_keys=num_valid_keys)[0]


def _forward(
    q: Array, k: Array, v: Array, num_valid_keys: Array | None, scale: float
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    return jax.vjp(partial(attention_cudnn, scale=scale, num_valid_keys=num_valid_keys), q, k, v)


def _backward(
    scale: float, pull: Callable[[Array], tuple[Array, ...]], cotangent: Array
) -> tuple[Any, ...]:
    del scale
    return *pull(cotangent), None


_attend.defvjp(_forward, _backward)
