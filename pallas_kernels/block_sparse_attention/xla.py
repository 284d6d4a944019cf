"""Block-sparse attention in plain XLA with bounded memory: it runs anywhere, in any floating type.

Query blocks are taken a few at a time; their listed key blocks are gathered a few at a time and
folded into a running softmax, so the work follows the lists' lengths.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.block_sparse_attention.mask import BlockMask, Count, full_mask

ROWS = 16
"""Query blocks that are worked on at once."""

KEYS = 512
"""Keys that are gathered at once for each of them, about."""

HIGHEST = jax.lax.Precision.HIGHEST


class Blocks(NamedTuple):
    """Keys and values cut into blocks; `length` of the keys are valid."""

    k: Float[Array, "G blocks block_kv K"]
    v: Float[Array, "G blocks block_kv K"]
    length: Count


class Running(NamedTuple):
    """A softmax over the keys seen so far: largest score, sum and weighted values."""

    top: Float[Array, "R block_q 1"]
    total: Float[Array, "R block_q 1"]
    weighted: Float[Array, "R block_q K"]


@partial(jax.jit, static_argnames="scale")
def attention_xla(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask | None,
    *,
    scale: float,
) -> tuple[Float[Array, "B T N K"], Float[Array, "B N T"]]:
    """The output and the log of the softmax's sum; the running softmax is float32 or wider.

    It stays a function of this name in programs, which so tell that no kernel attends.
    """
    batch, queries, heads, width = q.shape
    if mask is None:
        sizes: Any = {"q_length": queries, "kv_length": k.shape[1]}
        mask = full_mask(batch, heads, block_q=128, block_kv=KEYS, **sizes)
    keys = Blocks(_in_blocks(k, mask.block_kv), _in_blocks(v, mask.block_kv), mask.keys)
    rows = _in_blocks(q, mask.block_q).reshape(-1, mask.block_q, width)
    group = jnp.repeat(jnp.arange(batch * heads), mask.query_blocks)
    work = (rows, group, mask.counts.reshape(-1), mask.indices.reshape(-1, mask.capacity))
    out, sums = _by_chunks(work, keys, scale)
    out = out.reshape(batch, heads, -1, width)[:, :, :queries]
    return out.swapaxes(1, 2).astype(q.dtype), sums.reshape(batch, heads, -1)[:, :, :queries]


def _in_blocks(x: Float[Array, "B T N K"], size: int) -> Float[Array, "G blocks size K"]:
    padded = jnp.pad(x, ((0, 0), (0, -x.shape[1] % size), (0, 0), (0, 0)))
    return padded.swapaxes(1, 2).reshape(x.shape[0] * x.shape[2], -1, size, x.shape[3])


def _by_chunks(
    work: tuple[Array, ...], keys: Blocks, scale: float
) -> tuple[Float[Array, "R block_q K"], Float[Array, "R block_q"]]:
    count = work[0].shape[0]
    padding = -count % min(ROWS, count)

    def chunked(x: Array) -> Array:
        padded = jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)), mode="edge")
        return padded.reshape(-1, min(ROWS, count), *x.shape[1:])

    chunks = jax.tree.map(chunked, work)
    out = jax.lax.map(lambda chunk: _attend(*chunk, keys=keys, scale=scale), chunks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)


def _attend(
    q: Float[Array, "R block_q K"],
    group: Int[Array, " R"],
    counts: Int[Array, " R"],
    indices: Int[Array, "R capacity"],
    *,
    keys: Blocks,
    scale: float,
) -> tuple[Float[Array, "R block_q K"], Float[Array, "R block_q"]]:
    """Full lists of a few query blocks."""
    dtype = jnp.float64 if q.dtype == jnp.float64 else jnp.float32
    step = max(1, min(KEYS // keys.k.shape[2], indices.shape[1]))
    indices = jnp.pad(indices, ((0, 0), (0, -indices.shape[1] % step)))
    start = Running(
        jnp.full((*q.shape[:2], 1), -jnp.inf, dtype),
        jnp.zeros((*q.shape[:2], 1), dtype),
        jnp.zeros(q.shape, dtype),
    )

    def fold(index: Array, running: Running) -> Running:
        listed = jax.lax.dynamic_slice_in_dim(indices, index * step, step, axis=1).astype(jnp.int32)
        live = (index * step + jnp.arange(step))[None] < counts[:, None]
        listed = jnp.where(live, listed, 0)
        k, v = (
            x[group[:, None], listed].reshape(q.shape[0], -1, q.shape[2]).astype(dtype)
            for x in (keys.k, keys.v)
        )
        places = listed[..., None] * keys.k.shape[2] + jnp.arange(keys.k.shape[2])[None, None]
        seen = (live[..., None] & (places < keys.length)).reshape(q.shape[0], -1)
        scores = scale * jnp.einsum("rqk,rsk->rqs", q.astype(dtype), k, precision=HIGHEST)
        scores = jnp.where(seen[:, None], scores, -jnp.inf)
        return _fold(running, scores, jnp.where(seen[..., None], v, 0))

    end = jax.lax.fori_loop(0, (counts.max() + step - 1) // step, fold, start)
    return end.weighted / end.total, (end.top + jnp.log(end.total))[..., 0]


def _fold(
    running: Running, scores: Float[Array, "R block_q keys"], v: Float[Array, "R keys K"]
) -> Running:
    top = jnp.maximum(running.top, scores.max(-1, keepdims=True))
    weights, shrink = jnp.exp(scores - top), jnp.exp(running.top - top)
    return Running(
        top,
        shrink * running.total + weights.sum(-1, keepdims=True),
        shrink * running.weighted + jnp.einsum("rqs,rsk->rqk", weights, v, precision=HIGHEST),
    )
