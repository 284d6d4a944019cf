"""Block-sparse attention for Hopper GPUs in Pallas Mosaic GPU.

A program does one query block after another. Its producer warpgroup reads the list and has the copy
engine (TMA) gather a few listed key blocks into one wide tile of shared memory; its consumer
warpgroups, 64 queries each, multiply (WGMMA) and fold the tile into a running softmax. Lists rise,
so only the last tile can hold repeated blocks or keys beyond the end: all others need no masking.
The producer goes on to the next query block while the consumers end the last one. Source of the
schedule between consumers: FlashAttention-3 (arXiv 2407.08608), as in JAX's own
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
      programs: how many programs share the query blocks; None gives each block its own.
    """

    block_q: int = 128
    block_kv: int = 64
    gather: int = 4
    stages: int = 2
    fresh_accumulator: bool = False
    programs: int | None = None

    def __post_init__(self) -> None:
        if self.block_q not in (64, 128, 192):
            raise ValueError(f"{self.block_q=} must be 64, 128 or 192")
        if self.block_kv % 64 or not 64 <= self.tile <= 256:
            raise ValueError(
                f"{self.block_kv=} must be a multiple of 64, and {self.gather=} of them at most 256"
            )
        if self.stages < 2:
            raise ValueError(f"{self.stages=} must be at least 2")
        if self.programs is not None and self.programs < 1:
            raise ValueError(f"{self.programs=} must be at least 1")

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
        return 2 * width * (2 * self.block_q + 2 * self.stages * self.tile)


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
        batch=q.shape[0],
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
    config = sizes.config
    rows = sizes.query_blocks * config.block_q
    sums = jax.ShapeDtypeStruct((sizes.batch, sizes.heads, rows), jnp.float32)

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
        grid=(sizes.programs,),
        grid_names=("program",),
        num_threads=config.consumers + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(q, k, v, *told)


type Place = tuple[Array, Array, Array]
"""Batch, head and query block."""


@dataclass(frozen=True)
class Sizes:
    """What is known of a call before it runs."""

    config: TuningConfig
    batch: int
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

    @property
    def all_blocks(self) -> int:
        """Query blocks of all scenes and heads."""
        return self.batch * self.heads * self.query_blocks

    @property
    def programs(self) -> int:
        return min(self.config.programs or self.all_blocks, self.all_blocks)

    def place(self, number: Array) -> Place:
        """Where the query block of that number is."""
        scene = lax.div(number, jnp.int32(self.heads * self.query_blocks))
        rest = lax.rem(number, jnp.int32(self.heads * self.query_blocks))
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
    each = plgpu.Barrier(num_barriers=config.consumers)
    filled = plgpu.Barrier(num_arrivals=config.gather, num_barriers=config.stages)
    used = plgpu.Barrier(num_arrivals=config.consumers, num_barriers=config.stages)
    interpreted = {"weights": shared(*queries, config.tile)} if sizes.interpreted else {}
    return interpreted | {
        "q": shared(*queries, sizes.width),
        "out": shared(*queries, sizes.width),
        "k": tiles,
        "v": tiles,
        "sums": plgpu.SMEM(queries, jnp.float32),
        "q_filled": each,
        "q_used": each,
        "k_filled": filled,
        "v_filled": filled,
        "k_used": used,
        "v_used": used,
        "turn": plgpu.Barrier(num_arrivals=config.consumers),
    }


def _program(sizes: Sizes, inputs: Any, told: Any, outputs: Any, scratch: dict[str, Any]) -> None:
    """`told` are the lists, if there are any, and the number of keys, if some are padding."""
    config = sizes.config
    lists = _Lists(sizes, told)
    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup < config.consumers)
    def _consumer() -> None:
        plgpu.set_max_registers(config.registers[0], action="increase")
        turn = partial(_take_turn, scratch) if config.takes_turns else lambda: None
        pl.when(warpgroup == 1)(turn)
        consume = partial(_consume, sizes, outputs, scratch, turn)
        _one_after_another(sizes, lists.length, consume)
        pl.when(warpgroup == 0)(turn)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    @pl.when(warpgroup == config.consumers)
    def _producer() -> None:
        plgpu.set_max_registers(config.registers[1], action="decrease")
        produce = partial(_produce, sizes, inputs, scratch, lists)
        _one_after_another(sizes, lists.beginning, produce)


@dataclass(frozen=True)
class _Lists:
    """Reads the lists of key blocks; `told` is as in `_program`."""

    sizes: Sizes
    told: tuple[Any, ...]

    @property
    def keys(self) -> Array:
        return self.told[-1][0] if self.sizes.padded_keys else jnp.int32(self.sizes.keys)

    @property
    def blocks(self) -> Array:
        """Key blocks that hold a key."""
        block_kv = jnp.int32(self.sizes.config.block_kv)
        return lax.div(self.keys + block_kv - 1, block_kv)

    def count(self, place: Place) -> Array:
        return self.told[0][place] if self.sizes.listed else self.blocks

    def block(self, place: Place, count: Array, position: Array) -> Array:
        """The listed key block at a position, of `count`; the last one beyond it."""
        position = jnp.minimum(position, count - 1)
        return self.told[1][*place, position].astype(jnp.int32) if self.sizes.listed else position

    def length(self, place: Place) -> tuple[Array, Array]:
        """How many blocks are listed, and how many keys they hold."""
        count, block_kv = self.count(place), self.sizes.config.block_kv
        # The last block may be cut short by the end of the keys.
        missing = self.blocks * block_kv - self.keys
        last = self.block(place, count, count - 1)
        return count, count * block_kv - jnp.where(last == self.blocks - 1, missing, 0)

    def beginning(self, place: Place) -> tuple[Array, ...]:
        """How many blocks are listed, and those of the first tile."""
        count, gather = self.count(place), self.sizes.config.gather
        if not self.sizes.listed:
            return count, *(self.block(place, count, jnp.int32(at)) for at in range(gather))
        # None of these reads waits for the length of the list.
        places = range(min(gather, self.told[1].shape[-1]))
        found = [self.told[1][*place, at].astype(jnp.int32) for at in places]
        found += found[:1] * (gather - len(places))
        # Places beyond the list are masked; they only need to be those of some block.
        return count, *(jnp.where(at < count, block, found[0]) for at, block in enumerate(found))


def _one_after_another(
    sizes: Sizes,
    read: Callable[[Place], tuple[Array, ...]],
    work: Callable[..., Array],
) -> None:
    """Does the query blocks of this program: every `programs`-th.

    What `read` tells of a block is asked for while the one before is worked on. `work` takes it
    after how many blocks and tiles were before and the place, and returns its number of tiles.
    """
    first = lax.axis_index("program")
    if sizes.programs == sizes.all_blocks:
        place = sizes.place(first)
        work(0, 0, place, *read(place))
        return

    def one(number: Array, before: tuple[Array, tuple[Array, ...]]) -> Any:
        tiles, known = before
        block = first + number * sizes.programs
        after = jnp.minimum(block + sizes.programs, sizes.all_blocks - 1)
        coming = read(sizes.place(after))
        return tiles + work(number, tiles, sizes.place(block), *known), coming

    rounds = lax.div(sizes.all_blocks - 1 - first, jnp.int32(sizes.programs)) + 1
    lax.fori_loop(0, rounds, one, (jnp.int32(0), read(sizes.place(first))))


def _produce(
    sizes: Sizes,
    inputs: Any,
    scratch: dict[str, Any],
    lists: _Lists,
    number: Array,
    before: Array,
    place: Place,
    count: Array,
    *first: Array,
) -> Array:
    """Keeps the queries and the tiles of keys and values filled; `first` is the first tile's."""
    config = sizes.config
    scene, head, block_of_queries = place
    tiles = _tiles(config, count)

    def blocks_of(tile: Array) -> tuple[Array, ...]:
        positions = (tile * config.gather + at for at in range(config.gather))
        return tuple(lists.block(place, count, position) for position in positions)

    def fill_queries() -> None:
        for consumer in range(config.consumers):
            pl.when(number > 0)(partial(plgpu.barrier_wait, scratch["q_used"].at[consumer]))
            start = block_of_queries * config.block_q + consumer * WARPGROUP_QUERIES
            plgpu.copy_gmem_to_smem(
                inputs[0].at[scene, pl.ds(start, WARPGROUP_QUERIES), head],
                scratch["q"].at[consumer],
                scratch["q_filled"].at[consumer],
            )

    def fill(tile: Array, blocks: tuple[Array, ...]) -> tuple[Array, ...]:
        ahead = blocks_of(tile + 1)
        slot = lax.rem(before + tile, jnp.int32(config.stages))
        for name, source in zip("kv", inputs[1:], strict=True):
            pl.when(before + tile >= config.stages)(
                partial(plgpu.barrier_wait, scratch[f"{name}_used"].at[slot])
            )
            for at, block in enumerate(blocks):
                plgpu.copy_gmem_to_smem(
                    source.at[scene, pl.ds(block * config.block_kv, config.block_kv), head],
                    scratch[name].at[slot, pl.ds(at * config.block_kv, config.block_kv)],
                    scratch[f"{name}_filled"].at[slot],
                )
            if name == "k":
                pl.when(tile == 0)(fill_queries)
        return ahead

    lax.fori_loop(0, tiles, fill, first)
    return tiles


def _consume(
    sizes: Sizes,
    outputs: Any,
    scratch: dict[str, Any],
    turn: Callable[[], None],
    number: Array,
    before: Array,
    place: Place,
    count: Array,
    keys: Array,
) -> Array:
    """Attends for 64 queries to so many keys in so many blocks."""
    config = sizes.config
    warpgroup = lax.axis_index("warpgroup")
    scene, head, block = place
    tiles = _tiles(config, count)
    plgpu.barrier_wait(scratch["q_filled"].at[warpgroup])
    plgpu.barrier_wait(scratch["k_filled"].at[lax.rem(before, jnp.int32(config.stages))])
    fold = partial(_fold, sizes, scratch, before, tiles, turn)
    running = _nothing_seen(sizes.width)
    if sizes.ragged:
        running = lax.fori_loop(0, tiles - 1, partial(fold, None), running)
        running = fold(keys - (tiles - 1) * config.tile, tiles - 1, running)
    else:
        running = lax.fori_loop(0, tiles, partial(fold, None), running)

    weighted, top, total = running
    inverse = 1.0 / total
    out, sums = scratch["out"].at[warpgroup], scratch["sums"].at[warpgroup]
    if sizes.programs < sizes.all_blocks:
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # what the block before has left there
    out[...] = (weighted * lax.broadcast_in_dim(inverse, weighted.shape, [0])).astype(sizes.dtype)
    sums[...] = top * (1 / LOG2_E) + jnp.log(total)
    plgpu.commit_smem()
    rows = pl.ds(block * config.block_q + warpgroup * WARPGROUP_QUERIES, WARPGROUP_QUERIES)
    plgpu.copy_smem_to_gmem(out, outputs[0].at[scene, rows, head])
    plgpu.copy_smem_to_gmem(sums, outputs[1].at[scene, head, rows])
    return tiles


def _tiles(config: TuningConfig, count: Array) -> Array:
    """Tiles that hold so many blocks."""
    return lax.div(count + jnp.int32(config.gather - 1), jnp.int32(config.gather))


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
    before: Array,
    tiles: Array,
    turn: Callable[[], None],
    places: Array | None,
    tile: Array,
    running: tuple[Array, Array, Array],
) -> tuple[Array, Array, Array]:
    """Folds one tile into the running softmax; only its first `places` keys, if given.

    `before` are the tiles of the query blocks before.
    """
    config = sizes.config
    weighted, top, total = running
    shape = (WARPGROUP_QUERIES, config.tile)
    slot = lax.rem(before + tile, jnp.int32(config.stages))

    def products(scores: Any) -> Array:
        q = scratch["q"].at[lax.axis_index("warpgroup")]
        plgpu.wgmma(scores, q, scratch["k"].at[slot].transpose((1, 0)))
        turn()
        return scores[...]

    scores = pl.run_scoped(products, plgpu.WGMMAAccumulatorRef(shape, jnp.float32))
    plgpu.barrier_arrive(scratch["k_used"].at[slot])
    if sizes.programs < sizes.all_blocks:
        arrive = partial(plgpu.barrier_arrive, scratch["q_used"].at[lax.axis_index("warpgroup")])
        pl.when(tile + 1 == tiles)(arrive)
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
        after = lax.rem(before + tile + 1, jnp.int32(config.stages))
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
