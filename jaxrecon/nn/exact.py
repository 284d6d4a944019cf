"""Float32 layers behind bfloat16 features, on matrix units that take bfloat16.

A float32 number is the sum of three of bfloat16's, whose 8 bits of precision each make up its 24.
So the product of a bfloat16 array and a float32 matrix is the sum of three products of bfloat16, as
precise as one of float32. On NVIDIA GPUs, which have no matrix unit for float32, it takes a third
of the time.

Layers behind the first take float32. Two parts of each side are enough there, and three of their
four products: an error of 2^-16, where the features were rounded to 2^-9.
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
NARROW = 128
"""Matrices whose parts have no more columns together are multiplied in one."""


def apply_for(dtype: DTypeLike, execution: ExecutionConfig) -> Apply:
    """How float32 layers behind features of a dtype are applied.

    Behind bfloat16 ones in parts, on an NVIDIA GPU and without gradients. A float32 model has
    float32 products throughout.
    """
    narrow = jnp.dtype(dtype) == jnp.bfloat16 and not execution.training
    return in_parts if narrow and target_platform() == "gpu" else plainly


def plainly(layer: nnx.Linear, x: Float[Array, "*dims D"]) -> Float[Array, "*dims E"]:
    """What the layer makes of `x`, in float32."""
    return layer(x.astype(jnp.float32))


def in_parts(layer: nnx.Linear, x: Float[Array, "*dims D"]) -> Float[Array, "*dims E"]:
    """The same by products of bfloat16: within float32's rounding behind bfloat16, within 2^-16 of
    the products behind float32.
    """
    multiply = product_in_parts if x.dtype == jnp.bfloat16 else product_of_parts
    bias = jax.lax.broadcast_to_rank(bias_of(layer), x.ndim)
    return multiply(x, layer.kernel[...]) + bias


def product_in_parts(
    x: BFloat16[Array, "*dims D"], kernel: Float[Array, "D E"]
) -> Float[Array, "*dims E"]:
    """The float32 product of a bfloat16 array and a float32 matrix.

    Below the sixteenth power of two above float32's smallest normal number, parts are lost.
    """
    columns = kernel.shape[1]
    parts = parts_of(jnp.pad(kernel, ((0, 0), (0, -columns % WHOLE))))
    if len(parts) * columns <= NARROW:
        # Reading `x` takes longer than multiplying it: it is read once.
        largest, *others = jnp.split(_product(x, jnp.concatenate(parts, axis=1)), PARTS, axis=-1)
        return (largest + sum(reversed(others)))[..., :columns]
    first, *others = reversed(parts)
    # The smallest comes first, so that it is not lost in the largest.
    total = _product(x, first)
    for part in others:
        total = total + _product(x, part)
    return total[..., :columns]


def product_of_parts(
    x: Float[Array, "*dims D"], kernel: Float[Array, "D E"]
) -> Float[Array, "*dims E"]:
    """The product of a float32 array and a float32 matrix, within 2^-16 of its terms.

    It is one product of bfloat16 of three times the depth.
    """
    high, low = parts_of(x, 2)
    first, second = parts_of(kernel, 2)
    # The smallest come first, so that they are not lost in the largest.
    left = jnp.concatenate([low, high, high], axis=-1)
    return _product(left, jnp.concatenate([first, second, first], axis=0))


def parts_of(x: Float[Array, "*shape"], count: int = PARTS) -> list[BFloat16[Array, "*shape"]]:
    """So many arrays, of which three sum up to `x`, the largest first."""
    found = []
    for _ in range(count):
        # XLA would take conversion to bfloat16 and back for no change at all.
        part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        found.append(part.astype(jnp.bfloat16))
        x = x - part
    return found


def _product(x: Array, part: Array) -> Array:
    return jnp.matmul(x, part, preferred_element_type=jnp.float32)
