"""What the blocks that were not chosen would have added, from one mean key and value a block.

A block-sparse softmax leaves out the weight of the blocks that it skips. Where attention is spread
out that weight is large, but then a block's mean tells most of it: its keys count as so many copies
of their mean, seen by a few queries as by their mean.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.backends import run_backend
from pallas_kernels.block_selection.compensation_triton import skipped_triton
from pallas_kernels.block_selection.pooling import pool_blocks
from pallas_kernels.block_sparse_attention.mask import BlockMask, Count

SCORE_BYTES_LIMIT = 128 * 2**20
"""The scores held at any one time are kept under about this many bytes."""


class SkippedAttention(NamedTuple):
    """For groups of queries: what they would get from skipped blocks alone."""

    values: Float[Array, "B N groups K"]
    logsumexp: Float[Array, "B N groups"]
    """Log of the softmax's sum over those blocks; minus infinity if none is skipped."""


def attend_to_skipped(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask,
    *,
    group: int,
    scale: float | None = None,
    real_queries: Count | None = None,
    implementation: str | None = None,
) -> SkippedAttention:
    """Attention of each `group` queries' mean to the mean keys of the blocks not listed for them.

    Args:
      q: queries.
      k: keys.
      v: values.
      mask: the lists of the others.
      group: queries that go together, a divisor of the mask's `block_q`.
      scale: positive factor on the scores; `K ** -0.5` if not given.
      real_queries: so many first queries count, the others are padding; all if not given.
      implementation: "triton", "xla", or None for the first of these that can do the job.

    Raises:
      ValueError: `group` does not divide the mask's `block_q`, or the implementation is unknown.
      UnfitError (a ValueError and a NotImplementedError): the backend asked for by name does not
        take such inputs.
      NotImplementedError: the backend asked for by name does not run on this machine.
    """
    if group < 1 or mask.block_q % group:
        raise ValueError(f"{group=} must divide the mask's block_q={mask.block_q}")
    factor = float(q.shape[-1]) ** -0.5 if scale is None else scale
    batch, heads, rows = mask.counts.shape
    means = factor * _means(q, group, real_queries)
    parts = mask.block_q // group
    short = rows * parts - means.shape[1]
    means = jnp.pad(means, ((0, 0), (0, short), (0, 0))).reshape(-1, rows, parts, q.shape[-1])
    starts = mask.block_kv * jnp.arange(mask.key_blocks)
    sizes = jnp.clip(mask.keys - starts, 0, mask.block_kv).astype(jnp.float32)
    work = (
        means,
        _means(k, mask.block_kv, mask.num_valid_keys),
        _means(v, mask.block_kv, mask.num_valid_keys),
        sizes,
        mask.counts.reshape(batch * heads, rows),
        mask.indices.reshape(batch * heads, rows, -1),
    )
    backends = {"triton": skipped_triton, "xla": skipped_xla}
    job = "attend to skipped blocks"
    values, sums = run_backend(backends, implementation, job, *work, dtype=q.dtype)
    flat = (batch, heads, rows * parts)
    return SkippedAttention(values.reshape(*flat, -1), sums.reshape(flat))


def skipped_xla(
    q: Float[Array, "G rows parts K"],
    k: Float[Array, "G blocks K"],
    v: Float[Array, "G blocks K"],
    sizes: Float[Array, " blocks"],
    counts: Int[Array, "G rows"],
    lists: Int[Array, "G rows capacity"],
    *,
    dtype: Any,
) -> tuple[Float[Array, "G rows parts K"], Float[Array, "G rows parts"]]:
    """As `skipped_triton`, anywhere; products of full precision where `dtype` is float32."""
    exact = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    multiply = partial(jnp.einsum, precision=exact, preferred_element_type=jnp.float32)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    rows, parts, blocks = *q.shape[1:3], k.shape[1]
    size = min(rows, max(1, SCORE_BYTES_LIMIT // (4 * parts * blocks)))

    def head(own: tuple[Array, ...]) -> tuple[Array, Array]:
        q, k, v, counts, lists = own

        def some(chunk: tuple[Array, ...]) -> tuple[Array, Array]:
            q, counts, lists = chunk
            kept = _listed(counts, lists, blocks)
            scores = multiply("rpk,ck->rpc", q, k) + jnp.log(sizes)[None, None]
            scores = jnp.where(kept[:, None], -jnp.inf, scores)
            top = jnp.maximum(scores.max(-1, keepdims=True), jnp.finfo(jnp.float32).min)
            weights = jnp.exp(scores - top)
            total = weights.sum(-1, keepdims=True)
            values = multiply("rpc,ck->rpk", weights.astype(dtype), v)
            return values / jnp.maximum(total, 1e-30), (top + jnp.log(total))[..., 0]

        return _in_chunks(some, (q, counts, lists), size)

    return jax.lax.map(head, (q, k, v, counts, lists))


def merged_with_skipped(
    out: Float[Array, "B T N K"],
    logsumexp: Float[Array, "B N T"],
    skipped: SkippedAttention,
    group: int,
) -> Float[Array, "B T N K"]:
    """Attention to listed blocks, and to skipped ones, as one softmax over both.

    Args:
      out: attention to the listed blocks.
      logsumexp: the log of its softmax's sum.
      skipped: see `attend_to_skipped`.
      group: queries of a group.
    """
    tokens = out.shape[1]
    others = jnp.repeat(skipped.logsumexp, group, axis=2)[:, :, :tokens]
    share = jax.nn.sigmoid(others - logsumexp).swapaxes(1, 2)[..., None]
    values = jnp.repeat(skipped.values, group, axis=2)[:, :, :tokens].swapaxes(1, 2)
    whole = out.astype(share.dtype)
    return (whole + share * (values - whole)).astype(out.dtype)


def _means(
    x: Float[Array, "B T N K"], size: int, length: Count | None
) -> Float[Array, "G blocks K"]:
    """Means over each `size` tokens of the first `length`; zero where there is none."""
    stop = None if length is None else jnp.asarray(length)
    pooled = pool_blocks(x, size, stop=stop)
    return pooled.reshape(-1, *pooled.shape[2:])


def _listed(counts: Int[Array, " R"], lists: Int[Array, "R capacity"], blocks: int) -> Array:
    live = jnp.arange(lists.shape[1])[None] < counts[:, None]
    places = jnp.where(live, lists.astype(jnp.int32), blocks)
    empty = jnp.zeros((lists.shape[0], blocks), bool)
    return jnp.put_along_axis(empty, places, True, axis=-1, inplace=False, mode="drop")


def _in_chunks(function: Any, rows: tuple[Array, ...], size: int) -> tuple[Array, Array]:
    """`function` of so many rows at a time; the last chunk repeats some."""
    count = rows[0].shape[0]
    padding = -count % size
    chunks = [
        jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)), mode="edge").reshape(
            -1, size, *x.shape[1:]
        )
        for x in rows
    ]
    done = jax.lax.map(function, tuple(chunks))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], done)
