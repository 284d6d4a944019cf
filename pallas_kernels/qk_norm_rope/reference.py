"""The plain form, on every platform."""

from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.norm import Norm, layer_norm


class Rotary(NamedTuple):
    """Cosines and sines for the `P` tokens of a view, float32; (row, column) in the middle."""

    cos: Float[Array, "P 2 F"]
    sin: Float[Array, "P 2 F"]


class Inputs(NamedTuple):
    """What queries, keys and values are made of, or the gradients; see `qk_norm_rope`."""

    qkv: Float[Array, "*rows parts N K"]
    bias: Float[Array, "parts N K"] | None
    q_norm: Norm | None
    k_norm: Norm | None
    rotary: Rotary | None


type Outputs = tuple[Float[Array, "G T N K"], ...]
"""Queries, keys and, if they are among the inputs, values; or their gradients."""


def qk_norm_rope_xla(
    inputs: Inputs,
    *,
    eps: float,
    factor: float = 1.0,
    sequences: tuple[int, int] | None = None,
) -> Outputs:
    """Queries, keys and values, ready to attend."""
    qkv, dtype = inputs.qkv, inputs.qkv.dtype
    if sequences is not None:
        qkv = qkv[: prod(sequences)].reshape(*sequences, *qkv.shape[1:])
    qkv = qkv.astype(jnp.float32)
    qkv = qkv if inputs.bias is None else qkv + inputs.bias.astype(jnp.float32)[None, None]
    q, k, *values = (qkv[:, :, part] for part in range(qkv.shape[2]))
    q = _ready(q, inputs.q_norm, inputs.rotary, eps)
    q = q if factor == 1 else factor * q
    k = _ready(k, inputs.k_norm, inputs.rotary, eps)
    return tuple(x.astype(dtype) for x in (q, k, *values))


def gradients_xla(inputs: Inputs, gradients: Outputs, *, eps: float) -> Inputs:
    """Gradients of the inputs, given those of the outputs."""
    return jax.vjp(lambda inputs: qk_norm_rope_xla(inputs, eps=eps), inputs)[1](gradients)[0]


def _ready(x: Array, norm: Norm | None, rotary: Rotary | None, eps: float) -> Array:
    x = x if norm is None else layer_norm(x, norm, eps)
    return x if rotary is None else _turned(x, rotary)


def _turned(x: Float[Array, "G T N K"], rotary: Rotary) -> Float[Array, "G T N K"]:
    """Each half of a head is a pair of quarters (a, b): (a cos - b sin, b cos + a sin)."""
    groups, _, heads, width = x.shape
    pairs = x.reshape(groups, -1, rotary.cos.shape[0], heads, 2, 2, width // 4)
    cos, sin = (angles[None, None, :, None, :, None] for angles in rotary)
    sin = jnp.concatenate([-sin, sin], axis=-2)
    return (pairs * cos + jnp.flip(pairs, axis=-2) * sin).reshape(x.shape)
