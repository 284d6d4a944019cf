"""What kernels that norm take."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Norm(NamedTuple):
    """A LayerNorm's parameters, float32."""

    scale: Float[Array, " D"]
    bias: Float[Array, " D"]


def layer_norm(x: Float[Array, "*dims D"], norm: Norm, eps: float) -> Float[Array, "*dims D"]:
    """The plain form, of float32 numbers."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    scale, bias = (jax.lax.broadcast_to_rank(parameter, x.ndim) for parameter in norm)
    return centred * (jax.lax.rsqrt(variance + eps) * scale) + bias
