"""The formula, as plainly as it can be written."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels.block_sparse_attention.mask import BlockMask


def attention_reference(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask | None,
    *,
    scale: float,
) -> tuple[Float[Array, "B T N K"], Float[Array, "B N T"]]:
    """`softmax(scale * q k^T) v` over the visible keys, and the log of the softmax's sum.

    In float32 (float64 for float64 inputs), all scores at once.
    """
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q32, k32, v32 = (x.astype(dtype) for x in (q, k, v))
    highest = jax.lax.Precision.HIGHEST
    scores = scale * jnp.einsum("btnk,bsnk->bnts", q32, k32, precision=highest)
    if mask is not None:
        scores = jnp.where(mask.token_mask(), scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1)
    out = jnp.einsum("bnts,bsnk->btnk", weights, v32, precision=highest)
    return out.astype(q.dtype), jax.nn.logsumexp(scores, axis=-1)
