"""The formula, as plainly as it can be written."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def attention_reference(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    scale: float,
    num_valid_keys: Int[Array, ""] | None = None,
) -> Float[Array, "B T N K"]:
    """`softmax(scale * q k^T) v` in float32 (float64 for float64 inputs), all scores at once."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    q32, k32, v32 = (x.astype(dtype) for x in (q, k, v))
    highest = jax.lax.Precision.HIGHEST
    scores = scale * jnp.einsum("btnk,bsnk->bnts", q32, k32, precision=highest)
    if num_valid_keys is not None:
        scores = jnp.where(jnp.arange(k.shape[1]) < num_valid_keys, scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bnts,bsnk->btnk", weights, v32, precision=highest).astype(q.dtype)
