"""Block-sparse attention for Hopper GPUs in Pallas Mosaic GPU.

One program does one query block. Its producer warpgroup reads the list and has the copy engine
(TMA) gather a few listed key blocks into one wide tile of shared memory; its consumer warpgroups,
64 queries each, multiply (WGMMA) and fold the tile into a running softmax. Lists rise, so only the
last tile can hold repeated blocks or keys beyond the end: all others need no masking. Source of
the schedule between consumers: FlashAttention-3 (arXiv 2407.08608), as in JAX's own
`jax.experimental.pallas.ops.gpu.attention_mgpu`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int

from pallas_kernels.block_sparse_attention.mask import BlockMask, without_padding
from pallas_kernels.errors import UnfitError
from pallas_kernels.platform import target_is_hopper, target_platform

WIDTHS = (64, 128)
WARPGROUP_QUERIES = 64
SHARED_BYTES = 227 * 1024
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class TuningConfig:
    """How the kernel is cut; `default_config` chooses one, sweeps try others.

    Attributes:
      block_q: queries of one program; each 64 make one consumer warpgroup.
      block_kv: keys of one listed block, copied at once.
      gather: listed blocks in one tile.
      stages: tiles in flight.
      fresh_accumulator: multiply weights and values into registers of their own and add these to
        the running sum, instead of accumulating onto it.
    """

    block_q: int = 128
    block_kv: int = 64
    gather: int = 4
    stages: int = 2
    fresh_accumulator: bool = False

    def __post_init__(self) -> None:
        if self.block_q not in (64, 128, 192):
            raise ValueError(f"{self.block_q=} must be 64, 128 or 192")
        if self.block_kv % 64 or not 64 <= self.tile <= 256:
            raise ValueError(
                f"{self.block_kv=} must be a multiple of 64, and {self.gather=} of them at most 256"
            )
        if self.stages < 2:
            raise ValueError(f"{self.stages=} must be at least 2")

    @property
    def tile(self) -> int:
        return self.gather * self.block_kv

    @property
    def consumers(self) -> int:
        return self.block_q // WARPGROUP_QUERIES

    @property
    def takes_turns(self) -> bool:
        """Whether two consumers take turns on the tensor cores."""
        return self.consumers == 2

    @property
    def registers(self) -> tuple[int, int]:
        """Registers of a consumer's thread and of a producer's."""
        return {1: (232, 40), 2: (232, 40), 3: (160, 32)}[self.consumers]

    def shared_bytes(self, width: int) -> int:
        return 2 * width * (self.block_q + 2 * self.stages * self.tile)


def default_config(mask: BlockMask | None, width: int) -> TuningConfig:
    """The configuration for a mask's block sizes (None: all blocks) and a head width.

    Raises:
      UnfitError: the kernel cannot work with blocks of these sizes.
    """
    block_q = 128 if mask is None else mask.block_q
    tile = 256 if width == 64 and block_q <= 128 else 128
    block_kv = tile if mask is None else mask.block_kv
    if block_q not in (64, 128, 192) or block_kv % 64 or tile % block_kv:
        raise UnfitError(
            "mosaic_gpu: query blocks must be 64, 128 or 192 and key blocks divide "
            f"{tile} by multiples of 64 at head width {width}, found {block_q} x {block_kv}"
        )
    return TuningConfig(block_q, block_kv, tile // block_kv)


def attention_mosaic_gpu(
    q: Float[Array, "B T N K"],
    k: Float[Array, "B S N K"],
    v: Float[Array, "B S N K"],
    mask: BlockMask | None,
    *,
    scale: float,
    real_keys: Int[Array, ""] | None = None,
    config: TuningConfig | None = None,
    interpret: Any = None,
) -> tuple[Float[Array, "B T N K"], Float[Array, "B N T"]]:
    """Float16 and bfloat16 on Hopper GPUs, head widths up to 128; also returns the log of the sums.

    Args:
      real_keys: without a mask, so many first keys are seen, the others are padding; all if not
        given. (A mask has its own.)
      config: how to cut the work; `default_config` if not given.
      interpret: `plgpu.InterpretGPUParams` to run on the CPU.

    Raises:
      NotImplementedError: not on a Hopper GPU.
      UnfitError: the dtype, head width or block sizes are not for this kernel.
      ValueError: the configuration's block sizes are not the mask's.
    """
    if q.dtype == jnp.float64:
        raise UnfitError(f"mosaic_gpu: needs bfloat16 or float16, found {q.dtype}")
    if interpret is None and not target_is_hopper():
        raise NotImplementedError(f"mosaic_gpu: needs a Hopper GPU, found {target_platform()}")
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise UnfitError(f"mosaic_gpu: needs bfloat16 or float16, found {q.dtype}")
    width = next((width for width in WIDTHS if q.shape[-1] <= width), None)
    if width is None:
        raise UnfitError(f"mosaic_gpu: head width {q.shape[-1]} is beyond {WIDTHS[-1]}")
    config = default_config(mask, width) if config is None else config
    if mask is not None and (config.block_q, config.block_kv) != (mask.block_q, mask.block_kv):
        raise ValueError(
            f"{config.block_q=}, {config.block_kv=} differ from the mask's {mask.block_q}, "
            f"{mask.block_kv}"
        )
    if config.shared_bytes(width) > SHARED_BYTES:
        raise UnfitError(
            f"mosaic_gpu: {config} needs {config.shared_bytes(width)} bytes of shared memory, "
            f"a Hopper GPU has {SHARED_BYTES}"
        )
    if mask is None:
        told = () if real_keys is None else (jnp.asarray(real_keys, jnp.int32).reshape(1),)
    else:
        told, real_keys = mask.lists, mask.real_keys
    sizes = Sizes(
        config=config,
        heads=q.shape[2],
        width=width,
        query_blocks=pl.cdiv(q.shape[1], config.block_q),
        keys=k.shape[1],
        listed=mask is not None,
        padded_keys=real_keys is not None,
        dtype=q.dtype,
        scale=scale,
        interpreted=interpret is not None,
    )
    padded = (_padded(x, width) for x in (q, k, without_padding(v, mask)))
    out, sums = _call(*padded, *told, sizes=sizes, interpret=interpret)
    return out[:, : q.shape[1], :, : q.shape[-1]], sums[..., : q.shape[1]]


def _padded(x: Float[Array, "B T N K"], width: int) -> Float[Array, "B T_padded N K_padded"]:
    """The copy engine wants whole rows of 8 tokens in memory; what lies beyond them it makes up."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % 8), (0, 0), (0, width - x.shape[3])))


def _call(
    q: Array, k: Array, v: Array, *told: Array, sizes: "Sizes", interpret: Any
) -> tuple[Array, Array]:
    config, batch, heads, blocks = sizes.config, q.shape[0], sizes.heads, sizes.query_blocks
    sums = jax.ShapeDtypeStruct((batch, heads, blocks * config.block_q), jnp.float32)

    def entry(*refs: Any) -> None:
        inputs, outputs = refs[: 3 + len(told)], refs[3 + len(told) :]
        pl.run_scoped(
            lambda scratch: _program(sizes, inputs[:3], inputs[3:], outputs, scratch),
            _scratch(sizes),
            collective_axes="warpgroup",
        )

    return plgpu.kernel(
        entry,
        out_type=(jax.ShapeDtypeStruct(q.shape, q.dtype), sums),
        grid=(batch * heads * blocks,),
        grid_names=("program",),
        num_threads=config.consumers + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(q, k, v, *told)


@dataclass(frozen=True)
class Sizes:
    """What is known of a call before it runs."""

    config: TuningConfig
    heads: int
    width: int
    query_blocks: int
    keys: int
    listed: bool
    padded_keys: bool
    dtype: Any
    scale: float
    interpreted: bool

    @property
    def fresh(self) -> bool:
        # JAX's interpreter knows no accumulators that start from a value.
        return self.config.fresh_accumulator or self.interpreted

    @property
    def ragged(self) -> bool:
        """Whether a last tile may hold places that are no key."""
        cut_short = self.padded_keys or self.keys % self.config.block_kv != 0
        return cut_short or self.config.gather > 1

    def place(self, program: Array) -> tuple[Array, Array, Array]:
        """(batch, head, query block) of a program."""
        scene = lax.div(program, jnp.int32(self.heads * self.query_blocks))
        rest = lax.rem(program, jnp.int32(self.heads * self.query_blocks))
        blocks = jnp.int32(self.query_blocks)
        return scene, lax.div(rest, blocks), lax.rem(rest, blocks)


def _scratch(sizes: Sizes) -> dict[str, Any]:
    config = sizes.config

    def shared(*shape: int) -> Any:
        tiling = plgpu.TilingTransform((8, 64))  # pyright: ignore[reportAbstractUsage]
        swizzle = plgpu.SwizzleTransform(128)  # pyright: ignore[reportAbstractUsage]
        return plgpu.SMEM(shape, sizes.dtype, transforms=(tiling, swizzle))

    tiles = shared(config.stages, config.tile, sizes.width)
    queries = (config.consumers, WARPGROUP_QUERIES)
    filled = plgpu.Barrier(num_arrivals=config.gather, num_barriers=config.stages)
    used = plgpu.Barrier(num_arrivals=config.consumers, num_barriers=config.stages)
    interpreted = {"weights": shared(*queries, config.tile)} if sizes.interpreted else {}
    return interpreted | {
        "q": shared(*queries, sizes.width),
        "k": tiles,
        "v": tiles,
        "sums": plgpu.SMEM(queries, jnp.float32),
        "q_filled": plgpu.Barrier(num_barriers=config.consumers),
        "k_filled": filled,
        "v_filled": filled,
        "k_used": used,
        "v_used": used,
        "turn": plgpu.Barrier(num_arrivals=config.consumers),
    }


def _program(sizes: Sizes, inputs: Any, told: Any, outputs: Any, scratch: dict[str, Any]) -> None:
    """`told` are the lists, if there are any, and the number of keys, if some are padding."""
    config = sizes.config
    scene, head, block = sizes.place(lax.axis_index("program"))
    warpgroup = lax.axis_index("warpgroup")
    keys = told[-1][0] if sizes.padded_keys else jnp.int32(sizes.keys)
    blocks = lax.div(keys + jnp.int32(config.block_kv - 1), jnp.int32(config.block_kv))
    count = told[0][scene, head, block] if sizes.listed else blocks
    tiles = lax.div(count + jnp.int32(config.gather - 1), jnp.int32(config.gather))

    def listed(position: Array) -> Array:
        position = jnp.minimum(position, count - 1)
        if not sizes.listed:
            return position
        return told[1][scene, head, block, position].astype(jnp.int32)

    def first_listed() -> tuple[Array, ...]:
        """The blocks of the first tile; none of these reads waits for the length of the list."""
        if not sizes.listed:
            return tuple(listed(jnp.int32(place)) for place in range(config.gather))
        places = range(min(config.gather, told[1].shape[-1]))
        found = [told[1][scene, head, block, place].astype(jnp.int32) for place in places]
        found += found[:1] * (config.gather - len(places))
        # Places beyond the list are masked; they only need to be those of some block.
        return tuple(jnp.where(place < count, at, found[0]) for place, at in enumerate(found))

    @pl.when(warpgroup < config.consumers)
    def _consumer() -> None:
        plgpu.set_max_registers(config.registers[0], action="increase")
        # The last block may be cut short by the end of the keys.
        missing = blocks * config.block_kv - keys
        missing = jnp.where(listed(count - 1) == blocks - 1, missing, 0)
        places = (count - (tiles - 1) * config.gather) * config.block_kv - missing
        start = block * config.block_q + warpgroup * WARPGROUP_QUERIES
        _consume(sizes, inputs[0], outputs, scratch, (scene, head, start), tiles, places)

    @pl.when(warpgroup == config.consumers)
    def _producer() -> None:
        plgpu.set_max_registers(config.registers[1], action="decrease")
        _produce(sizes, inputs[1:], scratch, (scene, head), tiles, first_listed(), listed)


def _produce(
    sizes: Sizes,
    keys_values: Any,
    scratch: dict[str, Any],
    place: tuple[Array, Array],
    tiles: Array,
    first: tuple[Array, ...],
    listed: Callable[[Array], Array],
) -> None:
    """Keeps the tiles of keys and values filled; `first` are the blocks of the first tile."""
    config = sizes.config
    scene, head = place

    def blocks_of(tile: Array) -> tuple[Array, ...]:
        return tuple(listed(tile * config.gather + place) for place in range(config.gather))

    def fill(tile: Array, blocks: tuple[Array, ...]) -> tuple[Array, ...]:
        ahead = blocks_of(tile + 1)
        slot = lax.rem(tile, jnp.int32(config.stages))
        for name, source in zip("kv", keys_values, strict=True):
            pl.when(tile >= config.stages)(
                partial(plgpu.barrier_wait, scratch[f"{name}_used"].at[slot])
            )
            for place, block in enumerate(blocks):
                plgpu.copy_gmem_to_smem(
                    source.at[scene, pl.ds(block * config.block_kv, config.block_kv), head],
                    scratch[name].at[slot, pl.ds(place * config.block_kv, config.block_kv)],
                    scratch[f"{name}_filled"].at[slot],
                )
        return ahead

    lax.fori_loop(0, tiles, fill, first)


def _consume(
    sizes: Sizes,
    queries: Any,
    outputs: Any,
    scratch: dict[str, Any],
    place: tuple[Array, Array, Array],
    tiles: Array,
    places: Array,
) -> None:
    """Attends for 64 queries; the last tile holds `places` keys."""
    config = sizes.config
    warpgroup = lax.axis_index("warpgroup")
    scene, head, start = place
    rows = pl.ds(start, WARPGROUP_QUERIES)
    q = scratch["q"].at[warpgroup]
    plgpu.copy_gmem_to_smem(queries.at[scene, rows, head], q, scratch["q_filled"].at[warpgroup])
    plgpu.barrier_wait(scratch["q_filled"].at[warpgroup])
    plgpu.barrier_wait(scratch["k_filled"].at[0])
    turn = partial(_take_turn, scratch) if config.takes_turns else lambda: None
    pl.when(warpgroup == 1)(turn)
    fold = partial(_fold, sizes, scratch, tiles, turn)
    running = _nothing_seen(sizes.width)
    if sizes.ragged:
        running = lax.fori_loop(0, tiles - 1, partial(fold, None), running)
        running = fold(places, tiles - 1, running)
    else:
        running = lax.fori_loop(0, tiles, partial(fold, None), running)
    pl.when(warpgroup == 0)(turn)

    weighted, top, total = running
    inverse = 1.0 / total
    q[...] = (weighted * lax.broadcast_in_dim(inverse, weighted.shape, [0])).astype(sizes.dtype)
    sums = scratch["sums"].at[warpgroup]
    sums[...] = top * (1 / LOG2_E) + jnp.log(total)
    plgpu.commit_smem()
    plgpu.copy_smem_to_gmem(q, outputs[0].at[scene, rows, head])
    plgpu.copy_smem_to_gmem(sums, outputs[1].at[scene, head, rows])
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _take_turn(scratch: dict[str, Any]) -> None:
    plgpu.barrier_arrive(scratch["turn"])
    plgpu.barrier_wait(scratch["turn"])


def _nothing_seen(width: int) -> tuple[Array, Array, Array]:
    """Weighted values, largest score (times log2 e) and sum."""
    column = plgpu.Layout.WGMMA.reduce(1)
    rows = (WARPGROUP_QUERIES,)
    return (
        plgpu.layout_cast(jnp.zeros((*rows, width), jnp.float32), plgpu.Layout.WGMMA),
        plgpu.layout_cast(jnp.full(rows, -jnp.inf, jnp.float32), column),
        plgpu.layout_cast(jnp.zeros(rows, jnp.float32), column),
    )


def _fold(
    sizes: Sizes,
    scratch: dict[str, Any],
    tiles: Array,
    turn: Callable[[], None],
    places: Array | None,
    tile: Array,
    running: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    """Folds one tile into the running softmax; only its first `places` keys, if given."""
    config = sizes.config
    weighted, top, total = running
    shape = (WARPGROUP_QUERIES, config.tile)
    slot = lax.rem(tile, jnp.int32(config.stages))

    def products(scores: Any) -> Array:
        q = scratch["q"].at[lax.axis_index("warpgroup")]
        plgpu.wgmma(scores, q, scratch["k"].at[slot].transpose((1, 0)))
        turn()
        return scores[...]

    scores = pl.run_scoped(products, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))
    plgpu.barrier_arrive(scratch["k_used"].at[slot])
    if places is not None:
        column = plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=plgpu.Layout.WGMMA)
        scores = jnp.where(column < places, scores, -jnp.inf)

    factor = sizes.scale * LOG2_E
    new_top = jnp.maximum(top, scores.max(axis=1) * factor)
    shrink = jnp.exp2(top - new_top)
    weights = jnp.exp2(scores * factor - lax.broadcast_in_dim(new_top, shape, [0]))
    if not sizes.fresh:
        weighted *= lax.broadcast_in_dim(shrink, weighted.shape, [0])
    total = total * shrink + weights.sum(axis=1)
    narrow = weights.astype(sizes.dtype)
    weighted, total, new_top, narrow = lax.optimization_barrier((weighted, total, new_top, narrow))
    if config.takes_turns:
        plgpu.barrier_arrive(scratch["turn"])
    plgpu.barrier_wait(scratch["v_filled"].at[slot])
    if config.takes_turns:
        plgpu.barrier_wait(scratch["turn"])
    if sizes.interpreted:
        narrow = _in_shared(narrow, scratch)

    def accumulate(accumulator: Any) -> None:
        plgpu.wgmma(accumulator, narrow, scratch["v"].at[slot])
        after = lax.rem(tile + 1, jnp.int32(config.stages))
        pl.when(tile + 1 < tiles)(partial(plgpu.barrier_wait, scratch["k_filled"].at[after]))

    def apart(accumulator: Any) -> Array:
        accumulate(accumulator)
        return accumulator[...]

    if sizes.fresh:
        added = pl.run_scoped(apart, plgpu.WGMMAAccumulatorRef(weighted.shape, jnp.float32))
        weighted = weighted * lax.broadcast_in_dim(shrink, weighted.shape, [0]) + added
    else:
        state: Any = pl.run_state(accumulate)(plgpu.WGMMAAccumulatorRef.init(weighted))
        weighted = state
    plgpu.barrier_arrive(scratch["v_used"].at[slot])
    return weighted, new_top, total


def _in_shared(narrow: Array, scratch: dict[str, Any]) -> Any:
    """JAX's interpreter multiplies from shared memory only, a GPU from registers too."""
    weights = scratch["weights"].at[lax.axis_index("warpgroup")]
    weights[...] = narrow
    plgpu.commit_smem()
    return weights
