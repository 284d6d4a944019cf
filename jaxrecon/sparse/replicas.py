"""Block-sparse attention of one head, its query blocks dealt out to several devices."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.nn.attention import Count
from pallas_kernels.block_sparse_attention import BlockMask


class OwnRows(NamedTuple):
    """Queries of some neighbouring blocks, their lists, and how many of the queries count."""

    q: Float[Array, "G part N K"]
    mask: BlockMask
    num_valid: Count


def own_rows(
    q: Float[Array, "G T N K"], mask: BlockMask, num_valid: Count | None, replicas: int, rank: Count
) -> OwnRows:
    """What one of `replicas` devices attends for: as many query blocks each, padded at the end.

    Args:
      num_valid: so many first queries count, the others are padding; all if not given.
    """
    blocks = -(-mask.query_blocks // replicas)
    length = blocks * mask.block_q
    rank = jnp.asarray(rank, jnp.int32)

    def part(x: Array, axis: int, size: int, mode: str) -> Array:
        spare = [(0, 0)] * x.ndim
        spare[axis] = (0, replicas * size - x.shape[axis])
        padded = jnp.pad(x, spare, mode=mode)
        return jax.lax.dynamic_slice_in_dim(padded, rank * size, size, axis)

    counts, indices = (part(x, 2, blocks, "edge") for x in (mask.counts, mask.indices))
    own = jnp.clip((q.shape[1] if num_valid is None else num_valid) - rank * length, 0, length)
    lists = replace(mask, counts=counts, indices=indices, q_length=length)
    return OwnRows(part(q, 1, length, "constant"), lists, own)
