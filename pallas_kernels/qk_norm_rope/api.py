"""The one function that callers import, its gradient, and the choice of a backend."""

from collections.abc import Callable, Mapping
from functools import partial
from math import prod

import jax
from jaxtyping import Array, Float

from pallas_kernels.backends import by_direction, check_backend, run_backend
from pallas_kernels.float8 import whole_rows
from pallas_kernels.norm import Norm
from pallas_kernels.qk_norm_rope.reference import (
    Inputs,
    Outputs,
    Rotary,
    gradients_xla,
    qk_norm_rope_xla,
)
from pallas_kernels.qk_norm_rope.triton import gradients_triton, qk_norm_rope_triton

IMPLEMENTATIONS: Mapping[str, tuple[Callable[..., Outputs], Callable[..., Inputs]]] = {
    "triton": (qk_norm_rope_triton, gradients_triton),
    "xla": (qk_norm_rope_xla, gradients_xla),
}
"""Backends by name, the fastest first: what they compute, and its gradient."""

_FORWARDS, _BACKWARDS = by_direction(IMPLEMENTATIONS)


def qk_norm_rope(
    qkv: Float[Array, "..."],
    *,
    bias: Float[Array, "..."] | None = None,
    norms: tuple[Norm, Norm] | None = None,
    rotary: tuple[Array, Array] | None = None,
    eps: float = 1e-5,
    query_factor: float = 1.0,
    sequences: tuple[int, int] | None = None,
    implementation: str | None = None,
) -> Outputs:
    """Queries, keys and values of `qkv + bias`; the first two are normed and turned, in float32.

    Args:
      qkv: (G, T, 3, N, K), what one matrix makes of the tokens; `T` is a whole number of views of
        `P` tokens. Or (R, 3, N, K), if `sequences` tells G and T. With 2 in place of 3 it has no
        values, and none are returned.
      bias: (3, N, K), of that matrix; None for none.
      norms: LayerNorms over the head width, of queries and of keys; None for no norm.
      rotary: cosines and sines (P, 2, K / 4), float32, as in `jaxrecon.nn.rope`; None to leave
        queries and keys unturned.
      eps: added to the variance.
      query_factor: what queries are multiplied by in the end, before they are rounded.
      sequences: G and T of `qkv` whose rows, the tokens of all sequences, are filled up to a
        multiple of 128; those behind the tokens' are left alone.
      implementation: "triton", "xla", or None for the fastest that can do the job.

    Raises:
      ValueError: shapes disagree, or the implementation's name is unknown.
      NotImplementedError: the backend asked for by name cannot do this job here, or a gradient is
        taken through filled-up rows.
    """
    check_backend(IMPLEMENTATIONS, implementation)
    q_norm, k_norm = norms or (None, None)
    inputs = Inputs(qkv, bias, q_norm, k_norm, None if rotary is None else Rotary(*rotary))
    _check(inputs, sequences)
    return _run(eps, query_factor, sequences, implementation, inputs)


def _check(inputs: Inputs, sequences: tuple[int, int] | None) -> None:
    qkv, bias, *norms, rotary = inputs
    if sequences is not None and qkv.shape[:-3] != (whole_rows(prod(sequences)),):
        wanted = f"({whole_rows(prod(sequences))}, 3, N, K)"
        raise ValueError(f"qkv must have shape {wanted} for {sequences=}, found {qkv.shape}")
    if (sequences is None and qkv.ndim != 5) or qkv.shape[-3] not in (2, 3):
        raise ValueError(f"qkv must have shape (G, T, 3 or 2, N, K), found {qkv.shape}")
    if bias is not None and bias.shape != qkv.shape[-3:]:
        raise ValueError(f"bias must have shape {qkv.shape[-3:]}, found {bias.shape}")
    width, length = qkv.shape[-1], qkv.shape[1] if sequences is None else sequences[1]
    for name, norm in zip(("queries", "keys"), norms, strict=True):
        if norm is not None and not norm.scale.shape == norm.bias.shape == (width,):
            raise ValueError(
                f"the norm of the {name} must have {width} numbers, found {norm.scale.shape} "
                f"and {norm.bias.shape}"
            )
    if rotary is None:
        return
    tokens, shape = rotary.cos.shape[0], rotary.cos.shape[1:]
    if rotary.sin.shape != rotary.cos.shape or shape != (2, width // 4) or width % 4:
        raise ValueError(
            f"cosines and sines must have shape (P, 2, {width / 4:g}), found {rotary.cos.shape} "
            f"and {rotary.sin.shape}"
        )
    if length % tokens:
        raise ValueError(f"{length} tokens are no whole number of views of {tokens}")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _run(
    eps: float,
    factor: float,
    sequences: tuple[int, int] | None,
    implementation: str | None,
    inputs: Inputs,
) -> Outputs:
    options = {"eps": eps, "factor": factor, "sequences": sequences}
    return run_backend(_FORWARDS, implementation, "norm and turn", inputs, **options)


def _forwards(
    eps: float,
    factor: float,
    sequences: tuple[int, int] | None,
    implementation: str | None,
    inputs: Inputs,
) -> tuple[Outputs, Inputs]:
    if sequences is not None:
        raise NotImplementedError("qk_norm_rope: filled-up rows have no gradient")
    return _run(eps, factor, sequences, implementation, inputs), inputs


def _backwards(
    eps: float,
    factor: float,
    sequences: tuple[int, int] | None,
    implementation: str | None,
    inputs: Inputs,
    gradients: Outputs,
) -> tuple[Inputs]:
    job = "differentiate a norm and turn"
    if factor != 1:
        queries, *others = gradients
        gradients = factor * queries, *others
    return (run_backend(_BACKWARDS, implementation, job, inputs, gradients, eps=eps),)


_run.defvjp(_forwards, _backwards)
