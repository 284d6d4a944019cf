"""The one function that callers import, and how the work is cut into chunks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrecon.deprecation import renamed_arguments
from pallas_kernels.backends import check_backend, run_backend
from pallas_kernels.block_selection.checks import (
    check_blocks,
    check_budgets,
    check_candidates,
    check_inputs,
    check_options,
)
from pallas_kernels.block_selection.pooling import Pooling, pool_blocks
from pallas_kernels.block_selection.scoring import Queries, block_scores, pooled_queries
from pallas_kernels.block_selection.scoring_triton import block_scores_triton, check_scoring
from pallas_kernels.block_selection.triton import list_blocks_triton
from pallas_kernels.block_selection.xla import list_blocks_xla
from pallas_kernels.block_sparse_attention.mask import BlockMask, Count, full_mask, index_dtype

IMPLEMENTATIONS: Mapping[str, Callable[..., tuple[Array, Array]]] = {
    "triton": list_blocks_triton,
    "xla": list_blocks_xla,
}
"""Backends by name, the fastest first."""

SCORE_BYTES_LIMIT = 128 * 2**20
"""The pooled scores held at any one time are kept under about this many bytes."""


@dataclass(frozen=True)
class Candidates:
    """The keys whose blocks compete, tokens `start` to `stop`; all other blocks are always seen.

    `start` is the first token of a block. A block that `stop` cuts competes with its tokens before
    `stop`. Where some keys are padding, both may be traced numbers.
    """

    start: Count
    stop: Count


class NumValid(NamedTuple):
    """So many first queries and keys count, the others are padding."""

    queries: Int[Array, ""]
    keys: Int[Array, ""]


@renamed_arguments(real="num_valid")
def select_blocks(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    *,
    top_k: int | Int[Array, " N"],
    top_p: float | Float[Array, " N"] | None = None,
    block_q: int = 128,
    block_kv: int = 64,
    candidates: Candidates | None = None,
    dense_queries: int = 0,
    pooling: Pooling = "mean",
    pool_q: int | None = None,
    scale: float | None = None,
    num_valid: NumValid | None = None,
    implementation: str | None = None,
) -> BlockMask:
    """Chooses key blocks by the attention between pooled queries and pooled keys.

    Queries and keys are pooled block by block. Each query block takes the competing key blocks in
    the order of their pooled scores: as many as have, together, a share of at most `top_p` of the
    softmax over the competing blocks, but at least `top_k`, and at least one. Source: Wang et al.,
    Faster VGGT with block-sparse global attention (arXiv 2509.07120).

    With `pool_q`, fewer queries than a block's are pooled to one, and the mean of their softmax
    takes the place of the block's: queries that look at different places do not cancel out.

    Args:
      q: queries.
      k: keys.
      top_k: least number of competing blocks, one for all heads or one a head.
      top_p: share of the softmax in (0, 1], one for all heads or one a head; None for `top_k`
        alone.
      block_q, block_kv: tokens of a block.
      candidates: the keys that compete; all if not given.
      dense_queries: so many first queries see every key; a multiple of `block_q`.
      pooling: "mean" or "max".
      pool_q: queries pooled to one, a divisor of `block_q`; `block_q` if not given.
      scale: positive factor on the scores; `K ** -0.5` if not given.
      num_valid: how many queries and keys are not padding; all if not given. Padding changes no
        choice; no block of padding alone is listed.
      implementation: "triton", "xla", or None for the first of these that can do the job.

    Raises:
      ValueError: shapes or dtypes disagree, `dense_queries`, `candidates` or `pool_q` do not fit
        the blocks, a number that can be looked at is out of its range, or the pooling or the
        implementation is unknown.
      UnfitError (a ValueError and a NotImplementedError): the backend asked for by name takes no
        such head width or not so many pooled queries a block.
      NotImplementedError: the backend asked for by name does not run on this machine.
    """
    part = block_q if pool_q is None else pool_q
    check_inputs(q, k)
    check_blocks(block_q, block_kv, dense_queries, part)
    check_budgets(top_k, top_p, q.shape[2])
    factor = float(q.shape[-1]) ** -0.5 if scale is None else scale
    check_options(factor, pooling)
    check_backend(IMPLEMENTATIONS, implementation)
    if candidates is None:
        candidates = Candidates(0, k.shape[1] if num_valid is None else num_valid.keys)
    if num_valid is None:
        check_candidates(candidates.start, candidates.stop, k.shape[1], block_kv)
    sizes = {"block_q": block_q, "block_kv": block_kv}
    sizes |= {"q_length": q.shape[1], "kv_length": k.shape[1]}
    keys = None if num_valid is None else jnp.asarray(num_valid.keys, jnp.int32)
    batch, heads, dense = q.shape[0], q.shape[2], dense_queries // block_q
    none_compete = num_valid is None and candidates.start >= candidates.stop
    if none_compete or dense_queries >= q.shape[1]:
        return full_mask(batch, heads, **sizes, num_valid_keys=keys)
    rows, blocks = -(-q.shape[1] // block_q), -(-k.shape[1] // block_kv)
    stop = None if num_valid is None else jnp.asarray(num_valid.queries)
    queries = pooled_queries(
        q, block=block_q, part=part, pooling=pooling, dense=dense_queries, stop=stop
    )
    pooled_k, marks = _pooled_keys(k, block_kv, pooling, candidates, num_valid)
    least = jnp.broadcast_to(jnp.maximum(1, jnp.asarray(top_k, jnp.int32)), (heads,))[:, None]
    share = jnp.broadcast_to(jnp.asarray(-1.0 if top_p is None else top_p, jnp.float32), (heads,))
    # Rows of padding take as little as they may.
    row, last = jnp.arange(rows), rows if stop is None else -(-stop // block_q)
    least = jnp.where(row < dense, blocks, jnp.where(row < last, least, 1))
    share = jnp.where(row < last, share[:, None], -1.0)
    work = Rows(
        queries._replace(pooled=factor * queries.pooled),
        jnp.tile(least, (batch, 1)),
        jnp.tile(share, (batch, 1)),
        pooled_k.reshape(batch * heads, *pooled_k.shape[2:]),
        marks,
    )
    first = candidates.start // block_kv if num_valid is None else 0
    options = {"first": first, "blocks": blocks, "marked": num_valid is not None}
    scoring = _scoring(implementation, work.q)
    choose = partial(run_backend, IMPLEMENTATIONS, implementation, "choose these blocks", **options)
    counts, indices = _by_chunks(work, scoring, choose, blocks)
    shape = (batch, heads, rows)
    # Scores that are no numbers choose nothing; a list must hold a block all the same.
    counts = jnp.maximum(counts, 1).reshape(shape)
    return BlockMask(counts, indices.reshape(*shape, blocks), **sizes, num_valid_keys=keys)


def _pooled_keys(
    k: Float[Array, "B S N K"],
    block_kv: int,
    pooling: Pooling,
    candidates: Candidates,
    num_valid: NumValid | None,
) -> tuple[Float[Array, "B N candidates K"], Float[Array, " candidates"] | None]:
    """The pooled candidates; where some keys are padding, all blocks, and their marks.

    Marks are added to scores: infinity for blocks that all see, minus infinity for padding.
    """
    if num_valid is None:
        start, stop = int(candidates.start), int(candidates.stop)
        # All keys, if none comes behind: compensation pools the same, and XLA does so once.
        return pool_blocks(k[:, :stop], block_kv, pooling)[:, :, start // block_kv :], None
    pooled = pool_blocks(k, block_kv, pooling, stop=jnp.asarray(candidates.stop))
    start = block_kv * jnp.arange(pooled.shape[2])
    competing = (start >= candidates.start) & (start < candidates.stop)
    others = jnp.where(start < num_valid.keys, jnp.inf, -jnp.inf)
    return pooled, jnp.where(competing, 0.0, others)


class Rows(NamedTuple):
    """The work, for each (batch, head) and query block, and the keys of each (batch, head)."""

    q: Queries
    top_k: Int[Array, "G rows"]
    top_p: Float[Array, "G rows"]
    k: Float[Array, "G candidates K"]
    marks: Float[Array, " candidates"] | None


class Scoring(NamedTuple):
    """How blocks are scored, and how many numbers are held for each score meanwhile."""

    scores: Callable[[Queries, Array, Array | None], Array]
    held: int


def _by_chunks(
    work: Rows, scoring: Scoring, choose: Callable[..., tuple[Array, Array]], blocks: int
) -> tuple[Array, Array]:
    """Counts (G, rows) and lists (G, rows, blocks), a bounded number of scores at a time."""
    groups, rows = work.top_k.shape
    most = max(1, SCORE_BYTES_LIMIT // (4 * work.k.shape[1] * scoring.held))
    size = (_even(groups, max(1, most // rows)), _even(rows, most))
    if size == (groups, rows):
        return choose(scoring.scores(work.q, work.k, work.marks), work.top_k, work.top_p)
    across = -(-rows // size[1])

    def step(index: Array, done: tuple[Array, Array]) -> tuple[Array, Array]:
        # The last chunk of either axis starts early enough to be whole: it repeats some rows.
        group = jnp.minimum(index // across * size[0], groups - size[0])
        row = jnp.minimum(index % across * size[1], rows - size[1])

        def cut(x: Array) -> Array:
            return jax.lax.dynamic_slice(x, (group, row, 0, 0)[: x.ndim], (*size, *x.shape[2:]))

        k = jax.lax.dynamic_slice_in_dim(work.k, group, size[0])
        scores = scoring.scores(jax.tree.map(cut, work.q), k, work.marks)
        counts, lists = choose(scores, cut(work.top_k), cut(work.top_p))
        return (
            jax.lax.dynamic_update_slice(done[0], counts, (group, row)),
            jax.lax.dynamic_update_slice(done[1], lists, (group, row, 0)),
        )

    start = (
        jnp.zeros((groups, rows), jnp.int32),
        jnp.zeros((groups, rows, blocks), index_dtype(blocks)),
    )
    return jax.lax.fori_loop(0, -(-groups // size[0]) * across, step, start)


def _even(total: int, most: int) -> int:
    """The size of chunks, `most` or fewer, that repeats the least in as few chunks."""
    return -(-total // -(-total // most))


def _scoring(implementation: str | None, q: Queries) -> Scoring:
    """A single pooled query a block needs no kernel: the score is its product with a key."""
    parts = q.pooled.shape[2]
    if implementation == "xla" or parts == 1:
        return Scoring(block_scores, parts)
    try:
        check_scoring(q)
    except NotImplementedError:
        if implementation == "triton":
            raise
        return Scoring(block_scores, parts)
    return Scoring(block_scores_triton, 1)
