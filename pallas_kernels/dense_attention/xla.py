"""Attention in plain XLA with bounded memory: it runs anywhere, in any floating type."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

SCORE_BYTES_LIMIT = 128 * 2**20
"""The score matrix held at any one time is kept under about this many bytes."""


def attention_xla(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    *,
    scale: float,
    num_valid_keys: Int[Array, ""] | None = None,
) -> Float[Array, "B T N K"]:
    """Works through the queries in chunks, so that the scores never exist as a whole."""
    batch, tokens, heads, width = q.shape
    chunk = _chunk_size(tokens, row_bytes=4 * batch * heads * k.shape[1])
    lengths = None if num_valid_keys is None else jnp.full(batch, num_valid_keys, jnp.int32)
    if chunk >= tokens:
        return _attend(q, k, v, scale, lengths)
    chunks = -(-tokens // chunk)
    padded = jnp.pad(q, ((0, 0), (0, chunks * chunk - tokens), (0, 0), (0, 0)))
    stacked = jnp.moveaxis(padded.reshape(batch, chunks, chunk, heads, width), 1, 0)
    out = jax.lax.map(lambda rows: _attend(rows, k, v, scale, lengths), stacked)
    return jnp.moveaxis(out, 0, 1).reshape(batch, chunks * chunk, heads, width)[:, :tokens]


def _attend(q: Array, k: Array, v: Array, scale: float, lengths: Array | None) -> Array:
    # In float32 the products are full float32 products on every device (no TF32).
    precision = "highest" if q.dtype == jnp.float32 else None
    # Where promotion is strict, jax.nn.dot_product_attention itself fails in bfloat16 (jax 0.12).
    with jax.default_matmul_precision(precision), jax.numpy_dtype_promotion("standard"):
        return jax.nn.dot_product_attention(
            q, k, v, scale=scale, key_value_seq_lengths=lengths, implementation="xla"
        )


def _chunk_size(tokens: int, row_bytes: int) -> int:
    most = max(1, SCORE_BYTES_LIMIT // row_bytes)
    if most >= tokens:
        return tokens
    chunks = -(-tokens // most)
    return -(-tokens // chunks)
