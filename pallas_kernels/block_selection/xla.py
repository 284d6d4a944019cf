"""The choice for a chunk of query blocks in plain XLA."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels.block_selection.choice import choose, marked_gaps, score_gaps
from pallas_kernels.block_sparse_attention.mask import index_dtype


def list_blocks_xla(
    scores: Float[Array, "G rows candidates"],
    top_k: Int[Array, "G rows"],
    top_p: Float[Array, "G rows"],
    *,
    first: int,
    blocks: int,
    marked: bool = False,
) -> tuple[Int[Array, "G rows"], Int[Array, "G rows blocks"]]:
    """Counts and lists: candidates are blocks `first` on, all others are in every list.

    With `marked`, all blocks are candidates and infinite scores mean what `marked_gaps` says.
    """
    if marked:
        gaps, always = marked_gaps(scores)
        chosen = choose(gaps, top_k[..., None], top_p[..., None]) | always
    else:
        chosen = choose(score_gaps(scores), top_k[..., None], top_p[..., None])
        around = ((0, 0), (0, 0), (first, blocks - first - scores.shape[-1]))
        chosen = jnp.pad(chosen, around, constant_values=True)
    numbers = jnp.where(chosen, jnp.arange(blocks, dtype=index_dtype(blocks)), blocks)
    lists = jnp.sort(numbers, axis=-1)
    return chosen.sum(-1, dtype=jnp.int32), jnp.where(lists < blocks, lists, 0)
