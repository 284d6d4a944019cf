"""Small layers, and how layers are stacked so that a scan runs them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

HIGHEST = jax.lax.Precision.HIGHEST


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis: float32 parameters and statistics, output in `dtype`.

    The backward pass is the closed form: what autodiff makes of the forward pass reads and writes
    the tokens several times more.
    """

    def __init__(self, width: int, *, eps: float, dtype: DTypeLike) -> None:
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((width,), jnp.float32))
        self.epsilon, self.dtype = eps, jnp.dtype(dtype)

    def __call__(self, x: Float[Array, "*dims D"]) -> Float[Array, "*dims D"]:
        return _layer_norm(x, self.scale[...], self.bias[...], self.epsilon, self.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _layer_norm(x: Array, scale: Array, bias: Array, eps: float, dtype: Any) -> Array:
    centred, spread = _standardised(x, eps)
    return (centred * (spread * scale) + bias).astype(dtype)


def _standardised(x: Array, eps: float) -> tuple[Array, Array]:
    """The tokens less their means, and one over their standard deviations."""
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    return centred, jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + eps)


def _layer_norm_forward(
    x: Array, scale: Array, bias: Array, eps: float, dtype: Any
) -> tuple[Array, tuple[Array, Array]]:
    return _layer_norm(x, scale, bias, eps, dtype), (x, scale)


def _layer_norm_backward(
    eps: float, dtype: Any, kept: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, scale = kept
    centred, spread = _standardised(x, eps)
    normal, gradient = centred * spread, gradient.astype(jnp.float32)
    inner = gradient * scale
    mean, along = (jnp.mean(u, axis=-1, keepdims=True) for u in (inner, inner * normal))
    tokens = tuple(range(x.ndim - 1))
    return (
        (spread * (inner - mean - normal * along)).astype(x.dtype),
        jnp.sum(gradient * normal, axis=tokens),
        jnp.sum(gradient, axis=tokens),
    )


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def gelu(x: Float[Array, "*dims"]) -> Float[Array, "*dims"]:
    """The exact GELU, `x * (1 + erf(x / sqrt 2)) / 2`, in float32 (arXiv 1606.08415)."""
    x = x.astype(jnp.float32)
    return 0.5 * x * (1 + jax.lax.erf(x * np.sqrt(0.5, dtype=np.float32)))


def linear(width_in: int, width_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer whose parameters, input and output are all of `dtype`.

    In float32 the product is a full float32 product on every device (no TF32).
    """
    precision = HIGHEST if jnp.dtype(dtype) == jnp.float32 else None
    return nnx.Linear(
        width_in, width_out, dtype=dtype, param_dtype=dtype, precision=precision, rngs=rngs
    )


class LayerScale(nnx.Module):
    """`gamma * x` with a learnt factor for each channel, in float32 (CaiT, arXiv 2103.17239)."""

    def __init__(self, width: int, initial: float) -> None:
        self.gamma = nnx.Param(jnp.full((width,), initial, jnp.float32))

    def __call__(self, x: Float[Array, "*dims D"]) -> Float[Array, "*dims D"]:
        return self.gamma[...] * x.astype(jnp.float32)


class Mlp(nnx.Module):
    """`fc2(gelu(fc1(x)))` with the exact (erf) GELU, which is computed in float32."""

    def __init__(
        self,
        width: int,
        hidden: int,
        width_out: int | None = None,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.fc1 = linear(width, hidden, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, width_out or width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*dims D"]) -> Float[Array, "*dims E"]:
        return self.fc2(gelu(self.fc1(x)))


class SwiGlu(nnx.Module):
    """`fc2(silu(a) * b)` with `[a | b] = fc1(x)`, the product in float32 (arXiv 2002.05202)."""

    def __init__(self, width: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.fc1 = linear(width, 2 * hidden, dtype=dtype, rngs=rngs)
        self.fc2 = linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "*dims D"]) -> Float[Array, "*dims D"]:
        gate, value = jnp.split(self.fc1(x).astype(jnp.float32), 2, axis=-1)
        return self.fc2(jax.nn.silu(gate) * value)


def stack[M: nnx.Module](make: Callable[[nnx.Rngs], M], count: int, rngs: nnx.Rngs) -> M:
    """Makes `count` alike layers as one module whose parameters have a leading axis of `count`.

    `jax.lax.scan` over the result hands the body one layer after another.
    """
    keys = jax.random.split(rngs.params(), count)
    return jax.vmap(lambda key: make(nnx.Rngs(params=key)))(keys)


def scan_layers[C, Y](step: Callable[[C, Any], tuple[C, Y]], carry: C, layers: Any) -> tuple[C, Y]:
    """Runs `carry, out = step(carry, layer)` over stacked layers; the step is traced once.

    Returns the last carry and the outputs of all layers, stacked.

    Where a gradient is taken, matrix products and attention are kept for the backward pass and
    what lies between them is computed again: it costs less than to store and read it.
    """

    kept = jax.checkpoint(step, policy=_costly, prevent_cse=False)
    return jax.lax.scan(kept, carry, layers)


def _costly(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "dot_product_attention_fwd_wrapper")
