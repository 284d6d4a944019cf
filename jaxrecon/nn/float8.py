"""Matrix products of 8-bit floating-point numbers (e4m3), for inference.

Scales are powers of two, so that to multiply by one and to divide by it again changes nothing: all
that is lost is lost by rounding to e4m3's four significant bits. A layer's weights share one scale.
What enters a layer has one too, or one a channel, for which the weights make up. It is no outcome
of the data: it follows from how large that can become (`jaxrecon.nn.float8_blocks`).
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pallas_kernels.float8 import E4M3, LARGEST, filled_up, is_float8, saturated
from pallas_kernels.platform import target_platform

FARTHEST = 60
"""The largest exponent of a scale: float32 and bfloat16 have products of two, and one over them."""


class Float8Linear(nnx.Module):
    """A linear layer whose product is one of float8, on GPUs that have units for it.

    Elsewhere the same numbers are multiplied by plain operations: an e4m3 number is one of every
    wider type.

    Attributes:
      kernel: (E, D), e4m3; with a row for each number of the output, as matrix units take it.
      bias: (E,), of `dtype`.
      entering: () or (D,), float32, what is multiplied with what enters, before it is rounded to
        e4m3.
      scale: (), float32, what the product is multiplied with.
      dtype: of the output; sums are float32.
    """

    def __init__(self, layer: nnx.Linear, largest: Float[Array, "..."]) -> None:
        """Rounds a layer's weights.

        Args:
          layer: the layer in whose place this one is.
          largest: () or (D,); no number that enters is larger, or none of a channel.
        """
        assert layer.bias is not None
        self.dtype = layer.kernel.dtype
        entering = power_of_two(largest)
        kernel = layer.kernel[...].T.astype(jnp.float32) / jax.lax.broadcast_to_rank(entering, 2)
        own = power_of_two(jnp.max(jnp.abs(kernel)))
        self.kernel = nnx.Param(saturated(own * kernel, E4M3))
        self.bias = nnx.Param(layer.bias[...])
        self.entering = nnx.Param(entering)
        self.scale = nnx.Param(1 / own)

    def __call__(self, x: Float[Array, "*dims D"]) -> Float[Array, "R E"]:
        """See `product`; with the bias."""
        return self.product(x) + self.bias[...][None]

    def product(self, x: Float[Array, "*dims D"]) -> Float[Array, "R E"]:
        """What the layer makes of `x`, but for its bias, as one matrix with whole rows.

        Args:
          x: numbers as they are, or what `taken` makes of them.
        """
        x = x if is_float8(x.dtype) else self.taken(x)
        return self.scale[...].astype(self.dtype) * float8_product(x, self.kernel[...], self.dtype)

    def taken(self, x: Float[Array, "*dims D"]) -> Float[Array, "R D"]:
        """`x` as the layer takes it: e4m3, one matrix whose rows are filled up (`filled_up`)."""
        entering = jax.lax.broadcast_to_rank(self.entering[...], x.ndim)
        return filled_up(saturated(entering * x.astype(jnp.float32), E4M3))


def float8_product(
    x: Float[Array, "R D"], kernel: Float[Array, "E D"], dtype: DTypeLike
) -> Float[Array, "R E"]:
    """The product of two matrices of e4m3, summed in float32."""
    exact = jnp.dtype(dtype) == jnp.float32
    if target_platform() != "gpu":
        # Every number of e4m3 is one of bfloat16's too.
        x, kernel = x.astype(dtype), kernel.astype(dtype)
    return jax.lax.dot_general(
        x,
        kernel,
        (((1,), (1,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST if exact else None,
        preferred_element_type=dtype,
    )


def power_of_two(largest: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The largest power of two with which `largest` stays within e4m3's numbers, float32."""
    tiny = jnp.finfo(jnp.float32).tiny
    # Of a fraction from 1/2 up to 1, unlike the logarithm of any device, the exponent is exact.
    _, exponent = jnp.frexp(LARGEST / jnp.maximum(largest.astype(jnp.float32), tiny))
    return jnp.ldexp(jnp.float32(1), jnp.clip(exponent - 1, -FARTHEST, FARTHEST))
