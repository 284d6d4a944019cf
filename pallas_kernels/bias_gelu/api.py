"""The one function that callers import, its gradient, and the choice of a backend."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pallas_kernels.backends import by_direction, check_backend, run_backend
from pallas_kernels.bias_gelu.reference import bias_gelu_xla, gradients_xla
from pallas_kernels.bias_gelu.triton import bias_gelu_triton, gradients_triton

IMPLEMENTATIONS: Mapping[str, tuple[Callable[..., Array], Callable[..., tuple[Array, Array]]]] = {
    "triton": (bias_gelu_triton, gradients_triton),
    "xla": (bias_gelu_xla, gradients_xla),
}
"""Backends by name, the fastest first: what they compute, and its gradient."""

_FORWARDS, _BACKWARDS = by_direction(IMPLEMENTATIONS)


def bias_gelu(
    x: Float[Array, "*dims D"],
    bias: Float[Array, " E"],
    *,
    scale: Float[Array, ""] | None = None,
    dtype: DTypeLike | None = None,
    implementation: str | None = None,
) -> Float[Array, "*dims D"]:
    """The exact GELU (arXiv 1606.08415) of `x + bias`, computed in float32.

    Args:
      x: a matrix product, of any floating type.
      bias: what is added to it.
      scale: what the outcome is multiplied by, float32; None for one. It has no gradient.
      dtype: of the outcome, that of `x` if not given; in float8_e4m3fn, numbers beyond its largest
        become that.
      implementation: "triton", "xla", or None for the fastest that can do the job.

    Raises:
      ValueError: shapes disagree, or the implementation's name is unknown.
      NotImplementedError: the backend asked for by name cannot do this job here, or a gradient is
        taken with a scale or through another dtype.
    """
    check_backend(IMPLEMENTATIONS, implementation)
    if bias.shape != x.shape[-1:]:
        raise ValueError(f"bias must have shape {x.shape[-1:]}, found {bias.shape}")
    if scale is not None and scale.shape:
        raise ValueError(f"scale must be one number, found the shape {scale.shape}")
    return _run(jnp.dtype(x.dtype if dtype is None else dtype), implementation, x, bias, scale)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(
    dtype: Any, implementation: str | None, x: Array, bias: Array, scale: Array | None
) -> Array:
    options = {"dtype": dtype, "in_place": dtype == x.dtype}
    return run_backend(_FORWARDS, implementation, "compute a GELU", x, bias, scale, **options)


def _forwards(
    dtype: Any, implementation: str | None, x: Array, bias: Array, scale: Array | None
) -> tuple[Array, tuple[Array, Array]]:
    if scale is not None or dtype != x.dtype:
        raise NotImplementedError("bias_gelu: with a scale or another dtype it has no gradient")
    return run_backend(_FORWARDS, implementation, "compute a GELU", x, bias), (x, bias)


def _backwards(
    dtype: Any, implementation: str | None, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, None]:
    job = "differentiate a GELU"
    return *run_backend(_BACKWARDS, implementation, job, *kept, gradient), None


_run.defvjp(_forwards, _backwards)
