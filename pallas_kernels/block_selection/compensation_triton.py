"""Attention to the means of blocks that are not listed, as two kernels.

The first writes, for each block of queries, a bit for each key block that is listed. The second
goes over the mean keys a tile at a time. A program does the pooled queries of several blocks of
queries, each with its own bits, so that a tile that has been read serves them all.
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

TOGETHER = {64: 128, 128: 64}
"""Pooled queries of a program, if no block has more, by the width of heads up to which it holds."""

WARPS, STAGES = 4, {64: 3, 128: 2}
"""Stages by width, too: tiles in flight have to fit into less shared memory than a Hopper has."""


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
    deep, wide = pl.next_power_of_2(parts), max(16, pl.next_power_of_2(width))
    limit = min(limit for limit in TOGETHER if wide <= limit)
    together = max(1, TOGETHER[limit] // deep)
    blocks = k.shape[1]
    spare, more, others = -blocks % STEP, wide - width, -rows % together
    words = listed_words(counts, lists, blocks, interpret=interpret)
    # Rows that there are not list nothing: what they see is thrown away.
    words = jnp.pad(words, ((0, 0), (0, others), (0, 0)))
    q = jnp.pad(LOG2_E * q, ((0, 0), (0, others), (0, deep - parts), (0, more))).astype(dtype)
    q = q.reshape(groups, -1, wide)
    k, v = (jnp.pad(x, ((0, 0), (0, spare), (0, more))).astype(dtype) for x in (k, v))
    # What stands for no key, padding too, is not seen.
    logs = jnp.pad(jnp.log2(sizes), (0, spare), constant_values=-jnp.inf)
    own = (None, together * deep, wide)
    all_keys = pl.BlockSpec((None, *k.shape[1:]), lambda row, group: (group, 0, 0))
    values, sums = pl.pallas_call(
        partial(_kernel, steps=(blocks + spare) // STEP, deep=deep),
        grid=((rows + others) // together, groups),
        in_specs=[
            pl.BlockSpec(own, lambda row, group: (group, row, 0)),
            all_keys,
            all_keys,
            pl.BlockSpec(logs.shape, lambda row, group: (0,)),
            pl.BlockSpec((None, together, words.shape[2]), lambda row, group: (group, row, 0)),
        ],
        out_specs=(
            pl.BlockSpec(own, lambda row, group: (group, row, 0)),
            pl.BlockSpec(own[:2], lambda row, group: (group, row)),
        ),
        out_shape=(
            jax.ShapeDtypeStruct(q.shape, jnp.float32),
            jax.ShapeDtypeStruct(q.shape[:2], jnp.float32),
        ),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=STAGES[limit]),
        interpret=interpret,
        name="attend_to_skipped",
    )(q, k, v, logs, words)
    values = values.reshape(groups, -1, deep, wide)[:, :rows, :parts, :width]
    return values, sums.reshape(groups, -1, deep)[:, :rows, :parts]


def _kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    logs_ref: Any,
    words_ref: Any,
    values_ref: Any,
    sums_ref: Any,
    *,
    steps: int,
    deep: int,
) -> None:
    q, numbers = q_ref[...], jnp.arange(STEP)
    row = jnp.arange(q.shape[0]) // deep

    def fold(tile: Array, running: tuple[Array, ...]) -> tuple[Array, ...]:
        top, total, values = running
        span = pl.ds(tile * STEP, STEP)
        first, second = (plgpu.load(words_ref.at[row, 2 * tile + at])[:, None] for at in range(2))
        words = jnp.where(numbers[None] < 32, first, second)
        listed = jnp.right_shift(words, numbers[None] & 31) & 1 > 0
        # A mean stands for `size` keys: adding log2(size) to its score counts it as often.
        scores = plgpu.dot(q, k_ref[span, :].T) + logs_ref[span][None, :]
        scores = jnp.where(listed, -jnp.inf, scores)
        new_top = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.exp2(scores - new_top[:, None])
        shrink = jnp.exp2(top - new_top)
        added = plgpu.dot(weights.astype(v_ref.dtype), v_ref[span, :])
        total = total * shrink + weights.sum(axis=1)
        return new_top, total, values * shrink[:, None] + added

    start = (
        # Not minus infinity: a tile may hold listed keys alone, and inf - inf is no number.
        jnp.full(q.shape[:1], LOWEST, jnp.float32),
        jnp.zeros(q.shape[:1], jnp.float32),
        jnp.zeros(q.shape, jnp.float32),
    )
    top, total, values = jax.lax.fori_loop(0, steps, fold, start)
    # Where every block is listed the total is zero: values of zero, whose log of the sum, minus
    # infinity, gives them no share in `merged_with_skipped`.
    values_ref[...] = values / jnp.maximum(total, 1e-30)[:, None]
    sums_ref[...] = (top + jnp.log2(total)) / LOG2_E


def listed_words(
    counts: Int[Array, "G rows"],
    lists: Int[Array, "G rows capacity"],
    blocks: int,
    *,
    interpret: bool = False,
) -> Int[Array, "G rows words"]:
    """A bit for each of so many blocks, 1 if it is listed; two words for each `STEP` of them.

    A program does one row, in step with its list, which rises: the entries that fall into a tile
    are the next ones.
    """
    groups, rows, capacity = lists.shape
    steps = pl.cdiv(blocks, STEP)
    words = 2 * steps
    return pl.pallas_call(
        partial(_list_kernel, steps=steps, capacity=capacity),
        grid=(rows, groups),
        in_specs=[
            pl.BlockSpec((None, None), lambda row, group: (group, row)),
            pl.BlockSpec((None, None, capacity), lambda row, group: (group, row, 0)),
        ],
        out_specs=pl.BlockSpec((None, None, words), lambda row, group: (group, row, 0)),
        out_shape=jax.ShapeDtypeStruct((groups, rows, words), jnp.int32),
        compiler_params=plgpu.CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="listed_words",
    )(counts, lists)


def _list_kernel(
    count_ref: Any, list_ref: Any, words_ref: Any, *, steps: int, capacity: int
) -> None:
    count, numbers = count_ref[...], jnp.arange(STEP)

    def write(tile: Array, done: Array) -> Array:
        # `done` entries lie in tiles before this one. Lists rise, so those of this tile are next,
        # and of the 64 that are read the ones beyond it are at least `STEP`.
        place = done + numbers
        entries = plgpu.load(list_ref.at[jnp.minimum(place, capacity - 1)]).astype(jnp.int32)
        entries = jnp.where(place < count, entries - tile * STEP, STEP)
        for word in range(2):
            words_ref[2 * tile + word] = _word(entries, 32 * word)
        return done + (entries < STEP).astype(jnp.int32).sum()

    jax.lax.fori_loop(0, steps, write, jnp.int32(0))


def _word(entries: Array, first: int) -> Array:
    """The 32 bits from the `first` on, 1 for each of the entries, of which no two are equal."""
    inside = (entries >= first) & (entries < first + 32)
    return jnp.where(inside, jnp.left_shift(1, entries & 31), 0).sum()
