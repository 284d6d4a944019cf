"""cuDNN's fused attention through `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.platform import target_platform


def attention_cudnn(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    scale: float,
) -> Float[Array, "B T N K"]:
    """Float16 and bfloat16 on NVIDIA GPUs, head widths that are multiples of 8 up to 128.

    Raises:
      NotImplementedError: cuDNN cannot do this job here.
    """
    if target_platform() != "gpu":
        raise NotImplementedError(f"cudnn: needs an NVIDIA GPU, found {target_platform()}")
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"cudnn: needs bfloat16 or float16, found {q.dtype}")
    if q.shape[-1] % 8 or q.shape[-1] > 128:
        raise NotImplementedError(
            f"cudnn: the head width must be a multiple of 8 up to 128, found {q.shape[-1]}"
        )
    return jax.nn.dot_product_attention(q, k, v, scale=scale, implementation="cudnn")
