"""What kernels that norm take."""

from typing import NamedTuple

from jaxtyping import Array, Float


class Norm(NamedTuple):
    """A LayerNorm's parameters, float32."""

    scale: Float[Array, " D"]
    bias: Float[Array, " D"]
