"""cuDNN's fused attention through `jax.nn.dot_product_attention`."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.platform import check_gpu


def attention_cudnn(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    scale: float,
    num_valid_keys: Int[Array, ""] | None = None,
) -> Float[Array, "B T N K"]:
    """Float16 and bfloat16 on NVIDIA GPUs, head widths that are multiples of 8 up to 128.

    Raises:
      NotImplementedError: cuDNN cannot do this job here.
    """
    check_gpu("cudnn")
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"cudnn: needs bfloat16 or float16, found {q.dtype}")
    if q.shape[-1] % 8 or q.shape[-1] > 128:
        raise NotImplementedError(
            f"cudnn: the head width must be a multiple of 8 up to 128, found {q.shape[-1]}"
        )
    if num_valid_keys is None:
        return _attend(q, k, v, scale)
    return _call(q, k, v, scale, num_valid_keys)


def _call(
    q: Array, k: Array, v: Array, scale: float, keys: Int[Array, ""] | int | None = None
) -> Array:
    """Attention to the first `keys`, or to all."""
    lengths = None if keys is None else jnp.full(q.shape[0], keys, jnp.int32)
    try:
        return jax.nn.dot_product_attention(
            q, k, v, scale=scale, key_value_seq_lengths=lengths, implementation="cudnn"
        )
    except RuntimeError as error:
        if "not detected" not in str(error):
            raise
        raise NotImplementedError("cudnn: its library is not on this machine") from error


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q: Array, k: Array, v: Array, scale: float) -> Array:
    return _call(q, k, v, scale)


def _forward(
    q: Array, k: Array, v: Array, scale: float
) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    """JAX has no gradient for odd lengths: these are padded by one token, which nobody sees."""

    def even(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))

    def attend(q: Array, k: Array, v: Array) -> Array:
        keys = k.shape[1] if k.shape[1] % 2 else None
        return _call(even(q), even(k), even(v), scale, keys)[:, : q.shape[1]]

    return jax.vjp(attend, q, k, v)


def _backward(
    scale: float, pull: Callable[[Array], tuple[Array, ...]], cotangent: Array
) -> tuple[Array, ...]:
    del scale
    return pull(cotangent)


_attend.defvjp(_forward, _backward)
