"""How the kernel for Hopper GPUs is cut, and what is known of a call before it runs."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

WARPGROUP_QUERIES = 64
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
      partial_sums: in so many parts, a multiple of 8, weights are summed until the last tile.
    """

    block_q: int = 128
    block_kv: int = 64
    gather: int = 4
    stages: int = 2
    fresh_accumulator: bool = False
    partial_sums: int = 8

    def __post_init__(self) -> None:
        if self.block_q not in (64, 128, 192):
            raise ValueError(f"{self.block_q=} must be 64, 128 or 192")
        if self.block_kv % 64 or not 64 <= self.tile <= 256:
            raise ValueError(
                f"{self.block_kv=} must be a multiple of 64, and {self.gather=} of them at most 256"
            )
        if self.stages < 2:
            raise ValueError(f"{self.stages=} must be at least 2")
        if self.partial_sums not in (8, 16, 32, 64):
            raise ValueError(f"{self.partial_sums=} must be 8, 16, 32 or 64")

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
        """Registers of a consumer's thread and of a producer's.

        An SM has 65,536 and a warpgroup 128 threads, so `128 * (consumers * first + second)` must
        stay within that; both are multiples of 8 (`setmaxnreg`). The producer only counts and
        starts copies.
        """
        return {1: (232, 40), 2: (232, 40), 3: (160, 32)}[self.consumers]

    def tiles(self, count: Array) -> Array:
        """Tiles that hold so many listed blocks."""
        return lax.div(count + jnp.int32(self.gather - 1), jnp.int32(self.gather))

    def shared_bytes(self, width: int, float8: bool = False) -> int:
        """Queries or the result, and `stages` tiles of keys and of values, two bytes a number.

        With keys and queries of one byte a number, the queries' place is too small for the result.
        """
        tiles = self.stages * self.tile
        if float8:
            return 3 * width * (self.block_q + tiles)
        return 2 * width * (self.block_q + 2 * tiles)


type Place = tuple[Array, Array, Array]
"""Batch, head and query block."""


@dataclass(frozen=True)
class Sizes:
    """What is known of a call before it runs.

    Attributes:
      listed, padded_keys, bounds: whether there are lists of key blocks, a number of keys beyond
        which there is padding, and a bound on the scores of each query block.
      dtype: of values, weights and results.
      float8: queries and keys are e4m3.
    """

    config: TuningConfig
    heads: int
    width: int
    query_blocks: int
    keys: int
    listed: bool
    padded_keys: bool
    dtype: Any
    scale: float
    float8: bool
    bounds: bool
    interpreted: bool

    @property
    def fresh(self) -> bool:
        # WGMMA can add a product onto what registers hold. JAX's interpreter knows no accumulator
        # that starts from a value, so there the product is added afterwards.
        return self.config.fresh_accumulator or self.interpreted

    @property
    def factor(self) -> float:
        """What scores are multiplied by before they are exponents of two; 1 costs nothing."""
        factor = self.scale * LOG2_E
        return 1.0 if math.isclose(factor, 1.0, rel_tol=1e-9) else factor

    @property
    def ragged(self) -> bool:
        """Whether a last tile may hold places that are no key."""
        # Places repeat where the length of a list is no multiple of `gather`, known only at run
        # time; with one block a tile there are none, and whole blocks need no mask either.
        cut_short = self.padded_keys or self.keys % self.config.block_kv != 0
        return cut_short or self.config.gather > 1

    def place(self, number: Array) -> Place:
        """Where the query block of that number is: query blocks vary fastest, then heads."""
        scene = lax.div(number, jnp.int32(self.heads * self.query_blocks))
        rest = lax.rem(number, jnp.int32(self.heads * self.query_blocks))
        blocks = jnp.int32(self.query_blocks)
        return scene, lax.div(rest, blocks), lax.rem(rest, blocks)
