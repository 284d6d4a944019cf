"""Attention to the means of blocks that are not listed, as one kernel.

A program does the pooled queries of one block of queries. It goes over the mean keys a tile at a
time, in step with the list, which rises: the entries that fall into a tile are the next ones.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from pallas_kernels.block_selection.scoring_triton import LOG2_E, LOWEST, MOST_PARTS, WIDEST
from pallas_kernels.errors import UnfitError
from pallas_kernels.pallas_triton import check_triton, plgpu

STEP = 64
"""Mean keys of a tile, the bits of two words.

Which of a tile's 64 mean keys are listed, and so not to be seen again, is a set. It is kept as two
32-bit words, in which the listed entries set their bits:

    list of the row      ...  61 | 66  70  71  95  97 | 130 ...     rises
    tile 1, keys 64..127      entries - 64:  2  6  7  31  33
    word 0, keys 64..95       1 << 2 | 1 << 6 | 1 << 7 | 1 << 31
    word 1, keys 96..127      1 << (33 - 32)

A sum of distinct powers of two is their union, and a sum is a reduction over the lanes that Triton
has: two of these replace 64 x 64 comparisons of entries with keys.
"""


def skipped_triton(
    q: Float[Array, "G rows parts K"],
    k: Float[Array, "G blocks K"],
    v: Float[Array, "G blocks K"],
    sizes: Float[Array, " blocks"],
    counts: Int[Array, "G rows"],
    lists: Int[Array, "G rows capacity"],
    *,
    dtype: Any,
    interpret: bool = False,
) -> tuple[Float[Array, "G rows parts K"], Float[Array, "G rows parts"]]:
    """Values, and the log of their softmax's sum, in float32.

    Args:
      q, k, v: means; those of queries hold the factor on the scores.
      sizes: keys that each mean stands for.
      counts, lists: the blocks that are not seen, in rising order.
      dtype: of the operands of products, bfloat16 or float16.

    Raises:
      NotImplementedError: not on a GPU, or a JAX without Triton.
      UnfitError: another dtype, too many pooled queries a block, or too wide ones.
    """
    if not interpret:
        check_triton()
    groups, rows, parts, width = q.shape
    if dtype not in (jnp.bfloat16, jnp.float16):
        raise UnfitError(f"triton: needs bfloat16 or float16, found {jnp.dtype(dtype).name}")
    if parts > MOST_PARTS or width > WIDEST:
        raise UnfitError(
            f"triton: {parts} pooled queries a block of width {width} are beyond {MOST_PARTS} of "
            f"width {WIDEST}"
        )
    deep, wide = (max(16, pl.next_power_of_2(size)) for size in (parts, width))
    blocks, capacity = k.shape[1], lists.shape[2]
    spare, more = -blocks % STEP, wide - width
    q = jnp.pad(LOG2_E * q, ((0, 0), (0, 0), (0, deep - parts), (0, more))).astype(dtype)
    k, v = (jnp.pad(x, ((0, 0), (0, spare), (0, more))).astype(dtype) for x in (k, v))
    # What stands for no key, padding too, is not seen.
    logs = jnp.pad(jnp.log2(sizes), (0, spare), constant_values=-jnp.inf)
    own = (None, None, deep, wide)
    all_keys = pl.BlockSpec((None, *k.shape[1:]), lambda row, group: (group, 0, 0))
    values, sums = pl.pallas_call(
        partial(_kernel, steps=(blocks + spare) // STEP, capacity=capacity),
        grid=(rows, groups),
        in_specs=[
            pl.BlockSpec(own, lambda row, group: (group, row, 0, 0)),
            all_keys,
            all_keys,
            pl.BlockSpec(logs.shape, lambda row, group: (0,)),
            pl.BlockSpec((None, None), lambda row, group: (group, row)),
            pl.BlockSpec((None, None, capacity), lambda row, group: (group, row, 0)),
        ],
        out_specs=(
            pl.BlockSpec(own, lambda row, group: (group, row, 0, 0)),
            pl.BlockSpec(own[:3], lambda row, group: (group, row, 0)),
        ),
        out_shape=(
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct(q.shape[:3], jnp.float32),
        ),
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=interpret,
        name="attend_to_skipped",
    )(q, k, v, logs, counts, lists)
    return values[:, :, :parts, :width], sums[:, :, :parts]


def _kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    logs_ref: Any,
    count_ref: Any,
    list_ref: Any,
    values_ref: Any,
    sums_ref: Any,
    *,
    steps: int,
    capacity: int,
) -> None:
    q, count = q_ref[...], count_ref[...]
    numbers = jnp.arange(STEP)

    def fold(tile: Array, running: tuple[Array, ...]) -> tuple[Array, ...]:
        top, total, values, done = running
        span = pl.ds(tile * STEP, STEP)
        # `done` entries lie in tiles before this one. Lists rise, so those of this tile are next,
        # and of the 64 that are read the ones beyond it are at least `STEP`.
        place = done + numbers
        entries = plgpu.load(list_ref.at[jnp.minimum(place, capacity - 1)]).astype(jnp.int32)
        entries = jnp.where(place < count, entries - tile * STEP, STEP)
        # A mean stands for `size` keys: adding log2(size) to its score counts it as often.
        logs = jnp.where(_among(entries, numbers), -jnp.inf, logs_ref[span])
        scores = plgpu.dot(q, k_ref[span, :].T) + logs[None, :]
        new_top = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.exp2(scores - new_top[:, None])
        shrink = jnp.exp2(top - new_top)
        added = plgpu.dot(weights.astype(v_ref.dtype), v_ref[span, :])
        total = total * shrink + weights.sum(axis=1)
        done = done + (entries < STEP).astype(jnp.int32).sum()
        return new_top, total, values * shrink[:, None] + added, done

    start = (
        # Not minus infinity: a tile may hold listed keys alone, and inf - inf is no number.
        jnp.full(q.shape[:1], LOWEST, jnp.float32),
        jnp.zeros(q.shape[:1], jnp.float32),
        jnp.zeros(q.shape, jnp.float32),
        jnp.int32(0),
    )
    top, total, values, _ = jax.lax.fori_loop(0, steps, fold, start)
    # Where every block is listed the total is zero: values of zero, whose log of the sum, minus
    # infinity, gives them no share in `merged_with_skipped`.
    values_ref[...] = values / jnp.maximum(total, 1e-30)[:, None]
    sums_ref[...] = (top + jnp.log2(total)) / LOG2_E


def _among(entries: Array, numbers: Array) -> Array:
    """Which numbers below 64 are among the entries, of which no two below 64 are equal."""

    def word(first: int) -> Array:
        inside = (entries >= first) & (entries < first + 32)
        return jnp.where(inside, jnp.left_shift(1, entries & 31), 0).sum()

    words = jnp.where(numbers < 32, word(0), word(32))
    return jnp.right_shift(words, numbers & 31) & 1 > 0
