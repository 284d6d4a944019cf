"""Float32 layers on matrix units that take bfloat16.

A float32 number is the sum of three of bfloat16's, whose 8 bits of precision each make up its 24. A
product of two such sums is nine products, of which those of two small parts are below what float32
tells apart: six are left, and three where one factor is bfloat16 already. On NVIDIA GPUs since
Ampere six of these take less time than one product of float32, which has no matrix unit there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, BFloat16, Float

from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.nn.layers import WHOLE, bias_of
from pallas_kernels.platform import target_platform

type Apply = Callable[[nnx.Linear, Array], Array]
"""A float32 layer and what it takes, to what it makes of it."""

PARTS = 3


def apply_for(dtype: DTypeLike, execution: ExecutionConfig) -> Apply:
    """How float32 layers behind features of a dtype are applied.

    Behind bfloat16 ones, on an NVIDIA GPU and without gradients, in parts, which is as precise and
    faster. A float32 model has float32 products throughout.
    """
    narrow = jnp.dtype(dtype) == jnp.bfloat16 and not execution.training
    return in_parts if narrow and target_platform() == "gpu" else plainly


def plainly(layer: nnx.Linear, x: Float[Array, "*dims D"]) -> Float[Array, "*dims E"]:
    """What the layer makes of `x`."""
    return layer(x)


def in_parts(layer: nnx.Linear, x: Float[Array, "*dims D"]) -> Float[Array, "*dims E"]:
    """The same within float32's rounding, by products of bfloat16."""
    bias = jax.lax.broadcast_to_rank(bias_of(layer), x.ndim)
    return product_in_parts(x, layer.kernel[...]) + bias


def product_in_parts(
    x: Float[Array, "*dims D"], kernel: Float[Array, "D E"]
) -> Float[Array, "*dims E"]:
    """The float32 product of a float32 or bfloat16 array and a float32 matrix.

    Below the sixteenth power of two above float32's smallest normal number, parts are lost.
    """
    columns = kernel.shape[1]
    kernels = parts_of(jnp.pad(kernel, ((0, 0), (0, -columns % WHOLE))))
    factors = [x] if x.dtype == jnp.bfloat16 else parts_of(x)
    pairs = [(i, j) for i in range(len(factors)) for j in range(PARTS) if i + j < PARTS]
    # The smallest come first, so that their sum is not lost in the largest.
    total = None
    for i, j in sorted(pairs, key=sum, reverse=True):
        part = jnp.matmul(factors[i], kernels[j], preferred_element_type=jnp.float32)
        total = part if total is None else total + part
    assert total is not None
    return total[..., :columns]


def parts_of(x: Float[Array, "*shape"]) -> list[BFloat16[Array, "*shape"]]:
    """Three arrays whose sum is `x`, the largest first."""
    found = []
    for _ in range(PARTS):
        # XLA would take conversion to bfloat16 and back for no change at all.
        part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        found.append(part.astype(jnp.bfloat16))
        x = x - part
    return found
