"""Block-sparse attention for Hopper GPUs in Pallas Mosaic GPU.

A program does one query block. Its producer warpgroup reads the list and has the copy engine (TMA)
gather a few listed key blocks into one wide tile of shared memory; its consumer warpgroups, 64
queries each, multiply (WGMMA) and fold the tile into a running softmax. Source of the schedule:
FlashAttention-3 (arXiv 2407.08608), and JAX's own
`jax.experimental.pallas.ops.gpu.attention_mgpu`.

Rows. For one (batch, head), with `gather` = 4 listed key blocks in a tile:

    key blocks of memory    0  1  2  3  4  5  6  7  8'        8' is cut short by the end of the keys
    list of a query block   0     2  3        6     8'        rises strictly; count = 5
    tiles                  [0 2 3 6] [8' 8' 8' 8']            beyond the list its last block repeats

Because a list rises, a block that is cut short can only be its last entry, and so only the last
tile can hold repeated blocks or places that are no key. That tile alone is masked: the keys of a
tile count from its left end up to `count * block_kv` less what is missing of the last block.

Pipeline. K, V and S are a tile of keys, of values and of scores; `stages` = 2 slots are in flight:

    producer     K0 Q V0   K1 V1   (waits: K0 used) K2   (waits: V0 used) V2   ...
    consumer 0        S0=QK0 | softmax 0 | O+=P0V0 S1=QK1 | softmax 1      | O+=P1V1 S2 ...
    consumer 1                 S0=QK0    | softmax 0      | O+=P0V0 S1=QK1 | softmax 1  ...
                             ^           ^                ^                ^
                             each | is a rendezvous at the barrier "turn": one consumer has the
                             tensor cores while the other has the exponentials

Barriers, and who arrives (a wait takes the phase after the one it took last, so every completed
phase must be waited for exactly once):

    q_filled[consumer]   1 copy of its 64 queries
    filled[slot]         2 * gather copies: `gather` blocks of keys, as many of values
    k_used, v_used[slot] every consumer, when its product with the tile is done; the producer waits
                         for them from tile `stages` on, since before that the slot is empty
    turn                 both consumers; see `take_turn`
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.block_sparse_attention.mask import BlockMask, without_padding
from pallas_kernels.block_sparse_attention.mosaic_gpu_config import LOG2_E, Sizes, TuningConfig
from pallas_kernels.block_sparse_attention.mosaic_gpu_program import run_program, scratch_of
from pallas_kernels.errors import UnfitError
from pallas_kernels.float8 import is_float8
from pallas_kernels.platform import target_is_hopper, target_platform

WIDTHS = (64, 128)
LARGEST_EXPONENT = 90
"""Weights up to this power of two need no largest score subtracted.

A million of them, weighting values up to 2^16, add up to less than float32's 2^127, and the least
of them, 2^-90, is far above its 2^-126."""

SHARED_BYTES = 227 * 1024
"""What a block may use of a Hopper SM's 228 KiB; 1 KiB is the system's."""


def default_config(mask: BlockMask | None, width: int) -> TuningConfig:
    """The configuration for a mask's block sizes (None: all blocks) and a head width.

    Raises:
      UnfitError: the kernel cannot work with blocks of these sizes.
    """
    block_q = 128 if mask is None else mask.block_q
    # A tile of 256 takes 128 of the 232 registers of a consumer's thread for its scores (64 x 256
    # over 128 threads), and heads of width 64 take 32 for the weighted values. Heads of width 128
    # take 64, and three consumers have 160 registers a thread: both get tiles of 128.
    tile = 256 if width == 64 and block_q <= 128 else 128
    block_kv = tile if mask is None else mask.block_kv
    if block_q not in (64, 128, 192) or block_kv % 64 or tile % block_kv:
        raise UnfitError(
            "mosaic_gpu: query blocks must be 64, 128 or 192 and key blocks divide "
            f"{tile} by multiples of 64 at head width {width}, found {block_q} x {block_kv}"
        )
    # Measured with all blocks and with lists (docs/benchmarks.md).
    partial_sums = 32 if mask is None else 8
    return TuningConfig(block_q, block_kv, tile // block_kv, partial_sums=partial_sums)


def attention_mosaic_gpu(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask | None,
    *,
    scale: float,
    num_valid_keys: Int[Array, ""] | None = None,
    config: TuningConfig | None = None,
    interpret: Any = None,
) -> tuple[Float[Array, "B T N K"], Float[Array, "B N T"]]:
    """Float16 and bfloat16 on Hopper GPUs, head widths up to 128; also returns the log of the sums.

    Queries and keys may be e4m3: scores are then products of float8.

    Args:
      num_valid_keys: without a mask, so many first keys are seen, the others are padding; all if
        not given. (A mask has its own.)
      config: how to cut the work; `default_config` if not given.
      interpret: `plgpu.InterpretGPUParams` to run on the CPU.

    Raises:
      NotImplementedError: not on a Hopper GPU.
      UnfitError: the dtype, head width or block sizes are not for this kernel.
      ValueError: the configuration's block sizes are not the mask's.
    """
    if v.dtype == jnp.float64:
        raise UnfitError(f"mosaic_gpu: needs bfloat16 or float16, found {v.dtype}")
    if interpret is None and not target_is_hopper():
        raise NotImplementedError(f"mosaic_gpu: needs a Hopper GPU, found {target_platform()}")
    if v.dtype not in (jnp.bfloat16, jnp.float16):
        raise UnfitError(f"mosaic_gpu: needs bfloat16 or float16, found {v.dtype}")
    width = next((width for width in WIDTHS if q.shape[-1] <= width), None)
    if width is None:
        raise UnfitError(f"mosaic_gpu: head width {q.shape[-1]} is beyond {WIDTHS[-1]}")
    config = default_config(mask, width) if config is None else config
    if mask is not None and (config.block_q, config.block_kv) != (mask.block_q, mask.block_kv):
        raise ValueError(
            f"{config.block_q=}, {config.block_kv=} differ from the mask's {mask.block_q}, "
            f"{mask.block_kv}"
        )
    needed = config.shared_bytes(width, is_float8(q.dtype))
    if needed > SHARED_BYTES:
        raise UnfitError(
            f"mosaic_gpu: {config} needs {needed} bytes of shared memory, a Hopper GPU has "
            f"{SHARED_BYTES}"
        )
    if mask is None:
        arrays = (
            () if num_valid_keys is None else (jnp.asarray(num_valid_keys, jnp.int32).reshape(1),)
        )
    else:
        arrays, num_valid_keys = mask.lists, mask.num_valid_keys
    sizes = Sizes(
        config=config,
        heads=q.shape[2],
        width=width,
        query_blocks=pl.cdiv(q.shape[1], config.block_q),
        keys=k.shape[1],
        listed=mask is not None,
        padded_keys=num_valid_keys is not None,
        dtype=v.dtype,
        scale=scale,
        float8=is_float8(q.dtype),
        bounds=v.dtype == jnp.bfloat16,
        interpreted=interpret is not None,
    )
    if sizes.bounds:
        # Behind the barrier XLA cannot compute queries and keys a second time for their norms, and
        # rows of whole tokens keep it from choosing another layout for them there.
        rows = (x.reshape(*x.shape[:2], -1) for x in (q, k))
        rows = jax.lax.optimization_barrier(tuple(rows))
        q, k = (x.reshape(like.shape) for x, like in zip(rows, (q, k), strict=True))
        arrays = (*arrays, _bounded(q, k, scale, config.block_q))
    padded = (_padded(x, width) for x in (q, k, without_padding(v, mask)))
    out, sums = _call(*padded, *arrays, sizes=sizes, interpret=interpret)
    return out[:, : q.shape[1], :, : q.shape[-1]], sums[..., : q.shape[1]]


def _bounded(
    q: Float[Array, "B T N K"], k: Float[Array, "B S N K"], scale: float, block_q: int
) -> Int[Array, "B N blocks"]:
    """1 for query blocks whose scores cannot pass `LARGEST_EXPONENT`, by Cauchy and Schwarz."""
    queries, keys = (jnp.square(x.astype(jnp.float32)).sum(axis=-1) for x in (q, k))
    rest = -queries.shape[1] % block_q
    blocks = jnp.pad(queries, ((0, 0), (0, rest), (0, 0))).reshape(
        q.shape[0], -1, block_q, q.shape[2]
    )
    # Of squared norms; a comparison with NaN is false.
    largest = blocks.max(axis=2).swapaxes(1, 2) * keys.max(axis=1)[..., None]
    return (largest <= (LARGEST_EXPONENT / (scale * LOG2_E)) ** 2).astype(jnp.int32)


def _padded(x: Float[Array, "B T N K"], width: int) -> Float[Array, "B T_padded N K_padded"]:
    """The copy engine wants whole rows of 8 tokens in memory; what lies beyond them it makes up."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0), (0, width - x.shape[3])))


def _call(
    q: Array, k: Array, v: Array, *arrays: Array, sizes: Sizes, interpret: Any
) -> tuple[Array, Array]:
    config, batch, heads = sizes.config, q.shape[0], sizes.heads
    rows = sizes.query_blocks * config.block_q
    sums = jax.ShapeDtypeStruct((batch, heads, rows), jnp.float32)

    def entry(*refs: Any) -> None:
        inputs, outputs = refs[: 3 + len(arrays)], refs[3 + len(arrays) :]
        pl.run_scoped(
            lambda scratch: run_program(sizes, inputs[:3], inputs[3:], outputs, scratch),
            scratch_of(sizes),
            collective_axes="warpgroup",  # all warpgroups see one and the same allocation
        )

    return plgpu.kernel(
        entry,
        out_type=(jax.ShapeDtypeStruct(q.shape, v.dtype), sums),
        # Neighbouring programs have neighbouring query blocks of one head, which list much the same
        # key blocks: these can then come from the L2 cache.
        grid=(batch * heads * sizes.query_blocks,),
        grid_names=("program",),
        num_threads=config.consumers + 1,
        thread_name="warpgroup",
        # `ex2.approx` and `lg2.approx`: their error is far below that of bfloat16 weights.
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(q, k, v, *arrays)
