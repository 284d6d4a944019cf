"""The scores of key blocks as one kernel, where a block of queries has several pooled vectors.

A program does some query blocks of one (batch, head). It goes over the pooled keys twice, first for
the sum of each pooled query's softmax, then for its shares, so that the products of single pooled
queries stay in registers. A float32 product is three of bfloat16's, of the numbers' high and low
parts, which leaves a relative error of about 1e-5.
"""

from functools import partial
from math import log
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, BFloat16, Float

from pallas_kernels.block_selection.scoring import Queries
from pallas_kernels.errors import UnfitError
from pallas_kernels.pallas_triton import check_triton, plgpu

TILE = (64, 64)
"""Pooled queries of a program (a warp has 16 of them), and pooled keys of a step."""

STAGES = 3
MOST_PARTS, WIDEST = 128, 128
LOG2_E = 1 / log(2)
LOWEST, TINY = float(jnp.finfo(jnp.float32).min), float(jnp.finfo(jnp.float32).tiny)


def check_scoring(q: Queries, interpret: bool = False) -> None:
    """Refuses what the kernel cannot do.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: too many pooled queries a block, or too wide ones.
    """
    if not interpret:
        check_triton()
    parts, width = q.pooled.shape[2:]
    if parts > MOST_PARTS:
        raise UnfitError(f"triton: {parts} pooled queries a block are more than {MOST_PARTS}")
    if width > WIDEST:
        raise UnfitError(f"triton: head width {width} is beyond {WIDEST}")


def block_scores_triton(
    q: Queries,
    k: Float[Array, "G candidates K"],
    marks: Float[Array, " candidates"] | None,
    *,
    interpret: bool = False,
) -> Float[Array, "G rows candidates"]:
    """What `block_scores` makes of several pooled queries a block, in float32.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: too many pooled queries a block, or too wide ones.
    """
    check_scoring(q, interpret)
    groups, rows, parts, width = q.pooled.shape
    candidates, wide = k.shape[1], max(16, pl.next_power_of_2(width))
    parts = pl.next_power_of_2(parts)
    tile = (max(1, TILE[0] // parts), TILE[1])
    pooled = _padded(LOG2_E * q.pooled, {1: tile[0], 2: parts, 3: wide})
    weight = _padded(LOG2_E * q.weight, {1: tile[0], 2: parts}, -jnp.inf)
    marks = jnp.zeros(candidates) if marks is None else marks
    marks = _padded(marks.astype(jnp.float32), {0: tile[1]}, -jnp.inf)
    queries = _split(pooled.reshape(groups, -1, wide))
    keys = _split(_padded(k, {1: tile[1], 2: wide}))
    some, all_keys = (None, tile[0] * parts, wide), (None, *keys[0].shape[1:])
    return pl.pallas_call(
        partial(_kernel, parts=parts, step=tile[1], rows=rows, candidates=candidates),
        grid=(pl.cdiv(rows, tile[0]), groups),
        in_specs=[
            *[pl.BlockSpec(some, lambda row, group: (group, row, 0))] * 2,
            pl.BlockSpec(some[:2], lambda row, group: (group, row)),
            *[pl.BlockSpec(all_keys, lambda row, group: (group, 0, 0))] * 2,
            pl.BlockSpec(marks.shape, lambda row, group: (0,)),
        ],
        out_specs=pl.BlockSpec((None, tile[0], candidates), lambda row, group: (group, row, 0)),
        out_shape=jax.ShapeDtypeStruct((groups, rows, candidates), jnp.float32),
        compiler_params=plgpu.CompilerParams(
            num_warps=max(1, tile[0] * parts // 16), num_stages=STAGES
        ),
        interpret=interpret,
        name="block_scores",
    )(*queries, weight.reshape(groups, -1), *keys, marks)


def _padded(x: Array, multiples: dict[int, int], value: float = 0.0) -> Array:
    """Each of the axes up to a multiple."""
    ends = [(0, -size % multiples.get(axis, 1)) for axis, size in enumerate(x.shape)]
    return jnp.pad(x, ends, constant_values=value)


def _split(x: Float[Array, "*shape"]) -> tuple[BFloat16[Array, "*shape"], ...]:
    """Two numbers whose sum is nearly the number."""
    # XLA would take conversion to bfloat16 and back for no change at all.
    high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)


def _kernel(
    q_high_ref: Any,
    q_low_ref: Any,
    weight_ref: Any,
    k_high_ref: Any,
    k_low_ref: Any,
    marks_ref: Any,
    scores_ref: Any,
    *,
    parts: int,
    step: int,
    rows: int,
    candidates: int,
) -> None:
    q_high, q_low = q_high_ref[...], q_low_ref[...]
    size = q_high.shape[0] // parts

    def products(tile: Array) -> tuple[Array, Array]:
        """Powers of two, not of e; minus infinity for what does not compete. And the marks."""
        span = pl.ds(tile * step, step)
        high, low = k_high_ref[span, :].T, k_low_ref[span, :].T
        marks = marks_ref[span]
        # Without the product of both low parts, which is below 2^-16 of the whole.
        # The smallest terms come first, so that their sum is not lost in the largest.
        scores = plgpu.dot(q_low, high) + plgpu.dot(q_high, low) + plgpu.dot(q_high, high)
        return jnp.where(jnp.abs(marks) == jnp.inf, -jnp.inf, scores), marks

    def fold(tile: Array, running: tuple[Array, Array]) -> tuple[Array, Array]:
        top, total = running
        scores, _ = products(tile)
        new_top = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.exp2(scores - new_top[:, None])
        return new_top, total * jnp.exp2(top - new_top) + weights.sum(axis=1)

    steps = marks_ref.shape[0] // step
    start = (
        jnp.full(q_high.shape[:1], LOWEST, jnp.float32),
        jnp.zeros(q_high.shape[:1], jnp.float32),
    )
    top, total = jax.lax.fori_loop(0, steps, fold, start)
    # log2 of (weight of the pooled query) / (sum of its softmax): one addition a score below.
    shift = weight_ref[...] - top - jnp.log2(total)
    row = pl.program_id(0) * size + jnp.arange(size)

    def write(tile: Array, _: None) -> None:
        scores, marks = products(tile)
        shares = jnp.exp2(scores + shift[:, None]).reshape(size, parts, step)
        mean = jnp.log(jnp.maximum(shares.sum(axis=1), TINY))
        marks = jnp.broadcast_to(marks[None, :], mean.shape)
        place = tile * step + jnp.arange(step)
        plgpu.store(
            scores_ref.at[:, pl.ds(tile * step, step)],
            jnp.where(jnp.abs(marks) == jnp.inf, marks, mean),
            mask=(row < rows)[:, None] & (place < candidates)[None, :],
        )

    jax.lax.fori_loop(0, steps, write, None)
