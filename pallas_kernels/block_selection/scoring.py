"""Scores of key blocks for query blocks, from pooled queries and keys."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.block_selection.pooling import Pooling, pool_blocks


class Queries(NamedTuple):
    """Each block of queries as one or more pooled vectors."""

    pooled: Float[Array, "G rows parts K"]
    weight: Float[Array, "G rows parts"]
    """Log of the share of the block's queries that a vector stands for."""


def pooled_queries(
    q: Float[Array, "B T N K"],
    *,
    block: int,
    part: int,
    pooling: Pooling,
    dense: int,
    stop: Int[Array, ""] | None,
) -> Queries:
    """Queries from `dense` on, up to `stop` if given, `part` of them pooled to a vector.

    A block of queries before `dense` is zero: it has equal scores.
    """
    parts, before = block // part, dense // block
    rows = -(-(q.shape[1] - dense) // block)
    pooled = pool_blocks(q, part, pooling, start=dense, stop=stop)
    pooled = jnp.pad(pooled, ((0, 0), (0, 0), (0, rows * parts - pooled.shape[2]), (0, 0)))
    pooled = pooled.reshape(-1, rows, parts, q.shape[-1])
    end = q.shape[1] if stop is None else stop
    counts = jnp.clip(end - dense - part * jnp.arange(rows * parts), 0, part)
    counts = counts.astype(jnp.float32).reshape(rows, parts)
    # A block of padding alone has a weight as well: its score is a number.
    counts = counts.at[:, 0].max(1)
    weight = jnp.log(counts / counts.sum(1, keepdims=True))
    around = ((0, 0), (before, 0), (0, 0))
    weight = jnp.broadcast_to(weight, pooled.shape[:-1])
    return Queries(jnp.pad(pooled, (*around, (0, 0))), jnp.pad(weight, around))


def block_scores(
    q: Queries,
    k: Float[Array, "G candidates K"],
    marks: Float[Array, " candidates"] | None,
) -> Float[Array, "G rows candidates"]:
    """The products of pooled queries and keys; where a block has several pooled queries, the log
    of their mean softmax over the competing blocks. Blocks with an infinite mark do not compete and
    have the mark as their score.
    """
    scores = jnp.einsum("grpk,gck->grpc", q.pooled, k, precision=jax.lax.Precision.HIGHEST)
    if q.pooled.shape[2] == 1:
        scores = scores[:, :, 0]
        return scores if marks is None else scores + marks[None, None]
    if marks is not None:
        scores = jnp.where(jnp.isinf(marks), -jnp.inf, scores)
    shares = jnp.exp(jax.nn.log_softmax(scores, axis=-1) + q.weight[..., None])
    # Shares too small for float32 are told from padding, which has none at all.
    mean = jnp.log(jnp.maximum(jnp.sum(shares, axis=2), jnp.finfo(jnp.float32).tiny))
    return mean if marks is None else jnp.where(jnp.isinf(marks), marks, mean)
