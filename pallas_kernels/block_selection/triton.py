"""The choice for a chunk of query blocks as one kernel: a program does one row.

A row is in the program's registers, unless it is longer than `LONGEST`: see `triton_tiles.py`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels.block_selection import triton_tiles
from pallas_kernels.block_selection.choice import choose, marked_gaps, score_gaps
from pallas_kernels.block_sparse_attention.mask import index_dtype
from pallas_kernels.pallas_triton import check_triton, plgpu

LONGEST = 2**15
"""Most key blocks that the registers of one program have room for."""

PER_LANE = 32
"""So many key blocks in the registers of a lane, of the 32 of a warp: fewer warps wait less for
each other."""


def list_blocks_triton(
    scores: Float[Array, "G rows candidates"],
    top_k: Int[Array, "G rows"],
    top_p: Float[Array, "G rows"],
    *,
    first: int,
    blocks: int,
    marked: bool = False,
    interpret: bool = False,
) -> tuple[Int[Array, "G rows"], Int[Array, "G rows blocks"]]:
    """Counts and lists; the candidates are blocks `first` on, all other `blocks` are in each list.

    With `marked`, all blocks are candidates and infinite scores mean what `marked_gaps` says.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
    """
    if not interpret:
        check_triton()
    groups, rows, candidates = scores.shape
    sizes = {"first": first, "candidates": candidates, "blocks": blocks, "marked": marked}
    wide = pl.next_power_of_2(blocks)
    if wide > LONGEST:
        kernel, warps = partial(triton_tiles.tiled_kernel, **sizes), triton_tiles.WARPS
    else:
        kernel = partial(_kernel, **sizes, wide=wide)
        warps = min(16, max(1, wide // (32 * PER_LANE)))
    one = pl.BlockSpec((None, None), lambda row, group: (group, row))
    shape = jax.ShapeDtypeStruct((groups, rows, blocks), index_dtype(blocks))
    return pl.pallas_call(
        kernel,
        grid=(rows, groups),
        in_specs=[
            pl.BlockSpec((None, None, candidates), lambda row, group: (group, row, 0)),
            one,
            one,
        ],
        out_specs=(one, pl.BlockSpec((None, None, blocks), lambda row, group: (group, row, 0))),
        out_shape=(jax.ShapeDtypeStruct((groups, rows), jnp.int32), shape),
        compiler_params=plgpu.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name="block_selection",
    )(scores, top_k, top_p)


def _kernel(
    scores_ref: Any,
    top_k_ref: Any,
    top_p_ref: Any,
    counts_ref: Any,
    indices_ref: Any,
    *,
    first: int,
    candidates: int,
    blocks: int,
    marked: bool,
    wide: int,
) -> None:
    number = jnp.arange(wide)
    scores, candidate = triton_tiles.candidate_scores(scores_ref, number, first, candidates)
    if marked:
        gaps, always = marked_gaps(scores)
    else:
        gaps, always = jnp.where(candidate, score_gaps(scores), jnp.inf), ~candidate
    chosen = choose(gaps, top_k_ref[...][None], top_p_ref[...][None])
    chosen = (chosen & candidate) | (always & (number < blocks))
    # Compaction: the inclusive sum up to a chosen block is its place in the list plus one, so lists
    # rise by construction.
    order = jax.lax.cumsum(chosen.astype(jnp.int32), axis=0)
    count = chosen.astype(jnp.int32).sum()
    counts_ref[...] = count
    # What was not chosen fills the rest of the list, so that every place is written once.
    place = jnp.where(chosen, order - 1, count + number - order)
    plgpu.store(indices_ref.at[place], number.astype(indices_ref.dtype), mask=number < blocks)
