"""The one function that callers import, its gradient, and the choice of a backend."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pallas_kernels.backends import by_direction, check_backend, run_backend
from pallas_kernels.float8 import is_float8, whole_rows
from pallas_kernels.norm import Norm
from pallas_kernels.residual_norm.reference import (
    Inputs,
    Outputs,
    gradients_xla,
    residual_norm_xla,
)
from pallas_kernels.residual_norm.triton import gradients_triton, residual_norm_triton

IMPLEMENTATIONS: Mapping[str, tuple[Callable[..., Outputs], Callable[..., Inputs]]] = {
    "triton": (residual_norm_triton, gradients_triton),
    "xla": (residual_norm_xla, gradients_xla),
}
"""Backends by name, the fastest first: what they compute, and its gradient."""

_FORWARDS, _BACKWARDS = by_direction(IMPLEMENTATIONS)


def residual_norm(
    x: Float[Array, "*dims D"],
    update: Float[Array, "..."] | None = None,
    *,
    norm: Norm,
    update_bias: Float[Array, "..."] | None = None,
    gamma: Float[Array, "..."] | None = None,
    eps: float = 1e-6,
    dtype: DTypeLike = jnp.float32,
    fill_up: bool = False,
    implementation: str | None = None,
) -> tuple[Float[Array, "*dims D"], Float[Array, "..."]]:
    """`sum = x + gamma * (update + update_bias)` and `norm(sum)`; so is the gradient one pass.

    Whoever goes on with both, as a pre-norm block does, should go on with the sum returned here,
    also where there is no update: its gradient and that through the norm are then added while both
    are at hand.

    Args:
      x: the residual stream, float32.
      update: what is added to it, of any floating type; None for nothing. It has the shape of `x`,
        or is one matrix filled up as with `fill_up`.
      norm: the LayerNorm's parameters.
      update_bias: the bias of the matrix that made the update; None for none.
      gamma: LayerScale (arXiv 2103.17239), float32; None for one.
      eps: added to the variance.
      dtype: of the normed tokens; in float8_e4m3fn, numbers beyond its largest become that.
      fill_up: whether the normed tokens come as one matrix (R, D), whose rows are filled up to a
        multiple of 128. What the rows behind the tokens' hold has no meaning.
      implementation: "triton", "xla", or None for the fastest that can do the job.

    Returns:
      The sum, float32, and the normed tokens.

    Raises:
      ValueError: shapes disagree, or the implementation's name is unknown.
      NotImplementedError: the backend asked for by name cannot do this job here, or a gradient is
        taken through float8 or filled-up rows.
    """
    check_backend(IMPLEMENTATIONS, implementation)
    inputs = Inputs(x, update, update_bias, gamma, norm)
    _check(inputs)
    total, normed = _run(eps, jnp.dtype(dtype), fill_up, implementation, inputs)
    assert normed is not None
    return total, normed


def residual_sum(
    x: Float[Array, "*dims D"],
    update: Float[Array, "..."],
    *,
    update_bias: Float[Array, "..."] | None = None,
    gamma: Float[Array, "..."] | None = None,
    implementation: str | None = None,
) -> Float[Array, "*dims D"]:
    """The sum of `residual_norm` where no norm follows."""
    check_backend(IMPLEMENTATIONS, implementation)
    inputs = Inputs(x, update, update_bias, gamma, None)
    _check(inputs)
    return _run(0.0, jnp.dtype(jnp.float32), False, implementation, inputs)[0]


def _check(inputs: Inputs) -> None:
    x, update, bias, gamma, norm = inputs
    if x.dtype != jnp.float32:
        raise ValueError(f"x must be float32, found {x.dtype}")
    if update is not None and update.shape not in (x.shape, _filled_up(x)):
        raise ValueError(f"x and update must have one shape, found {x.shape} and {update.shape}")
    if update is None and (bias is not None or gamma is not None):
        raise ValueError("update_bias and gamma need an update")
    parameters = {"update_bias": bias, "gamma": gamma, **(norm._asdict() if norm else {})}
    for name, parameter in parameters.items():
        if parameter is not None and parameter.shape != x.shape[-1:]:
            raise ValueError(f"{name} must have shape {x.shape[-1:]}, found {parameter.shape}")


def _filled_up(x: Array) -> tuple[int, int]:
    """The shape of one matrix of the tokens, with whole rows."""
    return whole_rows(x.size // x.shape[-1]), x.shape[-1]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _run(
    eps: float, dtype: Any, fill_up: bool, implementation: str | None, inputs: Inputs
) -> Outputs:
    options = {"eps": eps, "dtype": dtype, "fill_up": fill_up}
    return run_backend(_FORWARDS, implementation, "add and norm", inputs, **options)


def _forwards(
    eps: float, dtype: Any, fill_up: bool, implementation: str | None, inputs: Inputs
) -> tuple[Outputs, Inputs]:
    update = inputs.update
    if is_float8(dtype) or fill_up or (update is not None and update.shape != inputs.x.shape):
        raise NotImplementedError("residual_norm: float8 and filled-up rows have no gradient")
    total, normed = _run(eps, dtype, fill_up, implementation, inputs)
    # The sum is kept in place of what it was summed from.
    return (total, normed), inputs._replace(x=total)


def _backwards(
    eps: float,
    dtype: Any,
    fill_up: bool,
    implementation: str | None,
    kept: Inputs,
    gradients: Outputs,
) -> tuple[Inputs]:
    job = "differentiate a norm"
    return (run_backend(_BACKWARDS, implementation, job, kept, gradients, eps=eps),)


_run.defvjp(_forwards, _backwards)
