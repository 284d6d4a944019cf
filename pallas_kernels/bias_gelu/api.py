"""The one function that callers import, its gradient, and the choice of a backend."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
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
    x: Float[Array, "*dims D"], bias: Float[Array, " E"], *, implementation: str | None = None
) -> Float[Array, "*dims D"]:
    """The exact GELU (arXiv 1606.08415) of `x + bias`, computed in float32.

    Args:
      x: a matrix product, of any floating type; the outcome has it too.
      bias: what is added to it.
      implementation: "triton", "xla", or None for the fastest that can do the job.

    Raises:
      ValueError: shapes disagree, or the implementation's name is unknown.
      NotImplementedError: the backend asked for by name cannot do this job here.
    """
    check_backend(IMPLEMENTATIONS, implementation)
    if bias.shape != x.shape[-1:]:
        raise ValueError(f"bias must have shape {x.shape[-1:]}, found {bias.shape}")
    return _run(implementation, x, bias)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(implementation: str | None, x: Array, bias: Array) -> Array:
    return _computed(implementation, x, bias, in_place=True)


def _computed(implementation: str | None, x: Array, bias: Array, *, in_place: bool) -> Array:
    job = "compute a GELU"
    return run_backend(_FORWARDS, implementation, job, x, bias, in_place=in_place)


def _forwards(
    implementation: str | None, x: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _computed(implementation, x, bias, in_place=False), (x, bias)


def _backwards(
    implementation: str | None, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    return run_backend(_BACKWARDS, implementation, "differentiate a GELU", *kept, gradient)


_run.defvjp(_forwards, _backwards)
