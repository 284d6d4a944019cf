"""The plain form, on every platform."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pallas_kernels.float8 import saturated


def bias_gelu_xla(
    x: Float[Array, "*dims D"],
    bias: Float[Array, " D"],
    scale: Float[Array, ""] | None = None,
    *,
    dtype: DTypeLike | None = None,
    in_place: bool = False,
) -> Float[Array, "*dims D"]:
    """`scale * gelu(x + bias)`, computed in float32; where it lies is XLA's choice."""
    del in_place
    added = jax.lax.broadcast_to_rank(bias.astype(jnp.float32), x.ndim)
    dtype, x = x.dtype if dtype is None else dtype, x.astype(jnp.float32) + added
    gelu = 0.5 * x * (1 + jax.lax.erf(x * np.sqrt(0.5, dtype=np.float32)))
    return saturated(gelu if scale is None else scale * gelu, dtype)


def gradients_xla(
    x: Float[Array, "*dims D"], bias: Float[Array, " D"], gradient: Float[Array, "*dims D"]
) -> tuple[Float[Array, "*dims D"], Float[Array, " D"]]:
    """Gradients of `x` and of the bias, given that of the outcome."""
    return jax.vjp(bias_gelu_xla, x, bias)[1](gradient)
