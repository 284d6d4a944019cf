"""The plain form, on every platform."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.float8 import filled_up, saturated
from pallas_kernels.norm import Norm, layer_norm


class Inputs(NamedTuple):
    """What a residual sum and its norm are made of, or their gradients; see `residual_norm`."""

    x: Float[Array, "*dims D"]
    update: Float[Array, "..."] | None
    update_bias: Float[Array, " D"] | None
    gamma: Float[Array, " D"] | None
    norm: Norm | None


type Outputs = tuple[Float[Array, "*dims D"], Float[Array, "..."] | None]
"""The sum and its norm, or their gradients."""


def residual_norm_xla(inputs: Inputs, *, eps: float, dtype: Any, fill_up: bool = False) -> Outputs:
    """The sum in float32, and its norm in `dtype`."""
    x, _, _, gamma, norm = inputs
    if inputs.update is not None:
        update = _whole_update(inputs)
        x = x + (update if gamma is None else _along(gamma, x) * update)
    if norm is None:
        return x, None
    normed = saturated(layer_norm(x, norm, eps), dtype)
    return x, filled_up(normed) if fill_up else normed


def gradients_xla(kept: Inputs, gradients: Outputs, *, eps: float) -> Inputs:
    """Gradients of the inputs.

    Args:
      kept: the inputs, but the sum in place of `x`.
      gradients: those of the outputs.
    """
    total, update, bias, gamma, norm = kept
    x, normed = gradients
    if norm is not None and normed is not None:
        through = jax.vjp(lambda total, norm: layer_norm(total, norm, eps), total, norm)[1]
        from_norm, norm = through(normed.astype(jnp.float32))
        x = x + from_norm
    if update is None:
        return Inputs(x, None, None, None, norm)
    rows = tuple(range(x.ndim - 1))
    of_update = x if gamma is None else _along(gamma, x) * x
    of_gamma = None if gamma is None else jnp.sum(x * _whole_update(kept), axis=rows)
    of_bias = None if bias is None else jnp.sum(of_update, axis=rows).astype(bias.dtype)
    return Inputs(x, of_update.astype(update.dtype), of_bias, of_gamma, norm)


def _whole_update(inputs: Inputs) -> Array:
    """The update and its bias, in float32."""
    assert inputs.update is not None
    update, bias = inputs.update, inputs.update_bias
    if update.shape != inputs.x.shape:
        update = update[: inputs.x.size // inputs.x.shape[-1]].reshape(inputs.x.shape)
    update = update.astype(jnp.float32)
    return update if bias is None else update + _along(bias, update)


def _along(vector: Float[Array, " D"], x: Array) -> Array:
    """Numbers for the channels of `x`, in float32."""
    return jax.lax.broadcast_to_rank(vector.astype(jnp.float32), x.ndim)
