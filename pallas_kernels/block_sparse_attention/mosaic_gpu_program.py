"""A program of the kernel for Hopper GPUs: its memory and its producer."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.block_sparse_attention.mosaic_gpu_config import (
    WARPGROUP_QUERIES,
    Place,
    Sizes,
)
from pallas_kernels.block_sparse_attention.mosaic_gpu_consumer import consume, take_turn
from pallas_kernels.float8 import E4M3


def scratch_of(sizes: Sizes) -> dict[str, Any]:
    """Shared memory and barriers of a program, by name."""
    config = sizes.config

    def shared(*shape: int, dtype: Any = sizes.dtype) -> Any:
        # The layout that WGMMA reads and TMA writes: 8 rows of up to 128 bytes (64 numbers of two
        # bytes), swizzled so that neither meets bank conflicts. It is why head widths are filled up
        # to 64 or 128.
        size = jnp.dtype(dtype).itemsize
        columns = min(128 // size, sizes.width)
        tiling = plgpu.TilingTransform((8, columns))  # pyright: ignore[reportAbstractUsage]
        swizzle = plgpu.SwizzleTransform(columns * size)  # pyright: ignore[reportAbstractUsage]
        return plgpu.SMEM(shape, dtype, transforms=(tiling, swizzle))

    shape = config.stages, config.tile, sizes.width
    queries = (config.consumers, WARPGROUP_QUERIES)
    scored = E4M3 if sizes.float8 else sizes.dtype
    # Each copy arrives once, when all its bytes are there: keys and values, a block at a time.
    filled = plgpu.Barrier(num_arrivals=2 * config.gather, num_barriers=config.stages)
    used = plgpu.Barrier(num_arrivals=config.consumers, num_barriers=config.stages)
    extra: dict[str, Any] = {}
    if sizes.interpreted:
        extra["weights"] = shared(*queries, config.tile)
    if sizes.float8:
        extra["out"] = shared(*queries, sizes.width)
    return extra | {
        "q": shared(*queries, sizes.width, dtype=scored),
        "k": shared(*shape, dtype=scored),
        "v": shared(*shape),
        "sums": plgpu.SMEM(queries, jnp.float32),
        "q_filled": plgpu.Barrier(num_barriers=config.consumers),
        "filled": filled,
        "k_used": used,
        "v_used": used,
        "turn": plgpu.Barrier(num_arrivals=config.consumers),
    }


def run_program(
    sizes: Sizes, inputs: Any, arrays: Any, outputs: Any, scratch: dict[str, Any]
) -> None:
    """What each warpgroup of a program does.

    Args:
      inputs: queries, keys and values in global memory.
      arrays: the lists, if there are any, the number of keys, if some are padding, and of each
        query block whether its scores are bounded (not 0), if that is known.
      outputs: results and logs of the sums in global memory.
      scratch: from `scratch_of`.
    """
    config = sizes.config
    arrays, bounds = (arrays[:-1], arrays[-1]) if sizes.bounds else (arrays, None)
    lists = _Lists(sizes, arrays)
    place = sizes.place(lax.axis_index("program"))
    warpgroup = lax.axis_index("warpgroup")

    @pl.when(warpgroup < config.consumers)
    def _consumer() -> None:
        plgpu.set_max_registers(config.registers[0], action="increase")
        # One turn apart: see `take_turn`.
        turn = partial(take_turn, sizes, scratch)
        pl.when(warpgroup == 1)(turn)
        attend = partial(consume, sizes, outputs, scratch, place, *lists.length(place))
        if bounds is None:
            attend(bounded=False)
        else:
            bounded = bounds[place] != 0
            pl.when(bounded)(partial(attend, bounded=True))
            pl.when(jnp.logical_not(bounded))(partial(attend, bounded=False))
        pl.when(warpgroup == 0)(turn)
        # A program may end before its copies are written, but not before they are read.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    @pl.when(warpgroup == config.consumers)
    def _producer() -> None:
        plgpu.set_max_registers(config.registers[1], action="decrease")
        tiles = _produce(sizes, inputs, scratch, lists, place)
        if sizes.interpreted:
            _see_all(sizes, scratch, tiles)


@dataclass(frozen=True)
class _Lists:
    """Reads the lists of key blocks; `arrays` is as in `run_program`."""

    sizes: Sizes
    arrays: tuple[Any, ...]

    @property
    def keys(self) -> Array:
        return self.arrays[-1][0] if self.sizes.padded_keys else jnp.int32(self.sizes.keys)

    @property
    def blocks(self) -> Array:
        """Key blocks that hold a key."""
        block_kv = jnp.int32(self.sizes.config.block_kv)
        return lax.div(self.keys + block_kv - 1, block_kv)

    def count(self, place: Place) -> Array:
        return self.arrays[0][place] if self.sizes.listed else self.blocks

    def block(self, place: Place, count: Array, position: Array) -> Array:
        """The listed key block at a position, of `count`; the last one beyond it."""
        position = jnp.minimum(position, count - 1)
        return self.arrays[1][*place, position].astype(jnp.int32) if self.sizes.listed else position

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
        # A read of global memory takes hundreds of cycles, and nothing else runs yet: all of these
        # start together, and none waits for the length of the list.
        places = range(min(gather, self.arrays[1].shape[-1]))
        found = [self.arrays[1][*place, at].astype(jnp.int32) for at in places]
        found += found[:1] * (gather - len(places))
        # Places beyond the list are masked; they only need to be those of some block.
        return count, *(jnp.where(at < count, block, found[0]) for at, block in enumerate(found))


def _see_all(sizes: Sizes, scratch: dict[str, Any], tiles: Array) -> None:
    """Waits for what was used last, as the interpreter of JAX 0.11 asks of who waits at all."""
    for slot in range(sizes.config.stages):
        for name in ("k_used", "v_used"):
            pl.when(slot < tiles)(partial(plgpu.barrier_wait, scratch[name].at[slot]))


def _produce(
    sizes: Sizes, inputs: Any, scratch: dict[str, Any], lists: _Lists, place: Place
) -> Array:
    """Fills the queries, and keeps the tiles of keys and values filled; returns their number."""
    config = sizes.config
    scene, head, block_of_queries = place
    count, *first = lists.beginning(place)
    tiles = config.tiles(count)

    def blocks_of(tile: Array) -> tuple[Array, ...]:
        positions = (tile * config.gather + at for at in range(config.gather))
        return tuple(lists.block(place, count, position) for position in positions)

    def fill_queries() -> None:
        for consumer in range(config.consumers):
            start = block_of_queries * config.block_q + consumer * WARPGROUP_QUERIES
            plgpu.copy_gmem_to_smem(
                inputs[0].at[scene, pl.ds(start, WARPGROUP_QUERIES), head],
                scratch["q"].at[consumer],
                scratch["q_filled"].at[consumer],
            )

    def fill(tile: Array, blocks: tuple[Array, ...]) -> tuple[Array, ...]:
        # Read one tile early, so that the list's latency hides behind this tile's copies.
        ahead = blocks_of(tile + 1)
        slot = lax.rem(tile, jnp.int32(config.stages))
        for name, source in zip("kv", inputs[1:], strict=True):
            pl.when(tile >= config.stages)(
                partial(plgpu.barrier_wait, scratch[f"{name}_used"].at[slot])
            )
            for at, block in enumerate(blocks):
                plgpu.copy_gmem_to_smem(
                    source.at[scene, pl.ds(block * config.block_kv, config.block_kv), head],
                    scratch[name].at[slot, pl.ds(at * config.block_kv, config.block_kv)],
                    scratch["filled"].at[slot],
                )
            # After the first keys, of which there are more. (Before the loop, ptxas 13 would order
            # the consumers' loop otherwise: the wait for a turn amid the softmax, 4 % slower.)
            if name == "k":
                pl.when(tile == 0)(fill_queries)
        return ahead

    lax.fori_loop(0, tiles, fill, tuple(first))
    return tiles
