"""What a consumer warpgroup of the kernel for Hopper GPUs does: attention of 64 queries.

Tiles are folded into a running softmax. Two consumers take turns on the tensor cores, so that one
multiplies while the other makes weights of its scores. Source of both: FlashAttention-3 (arXiv
2407.08608).

Where scores are known to be small, weights are powers of two of the scores as they are: nothing is
subtracted, so there is no largest score to find and no earlier sum to shrink. Bfloat16 has the
exponents of float32, and so weights from 2^-90 to 2^90 (`LARGEST_EXPONENT`) lose no precision.
"""

import operator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array

from pallas_kernels.block_sparse_attention.mosaic_gpu_config import (
    LOG2_E,
    WARPGROUP_QUERIES,
    Place,
    Sizes,
)

type Running = tuple[Array, Array, Array]
"""Weighted values, largest score (times log2 e) and sum of the weights in `partial_sums` parts."""


def consume(
    sizes: Sizes,
    outputs: Any,
    scratch: dict[str, Any],
    place: Place,
    count: Array,
    keys: Array,
    *,
    bounded: bool,
) -> None:
    """Attends for 64 queries to so many keys in so many blocks.

    Args:
      bounded: scores times `factor` are known to be small; see above.
    """
    warpgroup = lax.axis_index("warpgroup")
    tiles = sizes.config.tiles(count)
    plgpu.barrier_wait(scratch["q_filled"].at[warpgroup])
    weighted, top, totals = _Work(sizes, scratch, tiles, keys, bounded).folded()

    total = totals.sum(axis=1)
    inverse = 1.0 / total
    # The queries are done with: their place takes the result, if it is large enough.
    out, sums = scratch["out" if sizes.float8 else "q"].at[warpgroup], scratch["sums"].at[warpgroup]
    out[...] = (weighted * lax.broadcast_in_dim(inverse, weighted.shape, [0])).astype(sizes.dtype)
    sums[...] = top * (1 / LOG2_E) + jnp.log(total)
    plgpu.commit_smem()
    scene, head, block = place
    start = block * sizes.config.block_q + warpgroup * WARPGROUP_QUERIES
    rows = pl.ds(start, WARPGROUP_QUERIES)
    plgpu.copy_smem_to_gmem(out, outputs[0].at[scene, rows, head])
    plgpu.copy_smem_to_gmem(sums, outputs[1].at[scene, head, rows])


def take_turn(sizes: Sizes, scratch: dict[str, Any]) -> None:
    """Where consumers take turns, lets the other go on, and waits until it does the same.

    Both arrive, so each call is a rendezvous. Consumer 1 makes one call more before its first tile
    and consumer 0 one more after its last, which puts them half a tile apart: what is between two
    calls of the one, products, meets what is between two calls of the other, the softmax.
    """
    if sizes.config.takes_turns:
        plgpu.barrier_arrive(scratch["turn"])
        plgpu.barrier_wait(scratch["turn"])


@dataclass(frozen=True)
class _Work:
    """One query block's tiles, which hold so many keys."""

    sizes: Sizes
    scratch: dict[str, Any]
    tiles: Array
    keys: Array
    bounded: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Of a tile's scores."""
        return WARPGROUP_QUERIES, self.sizes.config.tile

    @property
    def scores_ref(self) -> Any:
        return plgpu.WGMMAAccumulatorRef(self.shape, jnp.float32)

    @property
    def values_ref(self) -> Any:
        return plgpu.WGMMAAccumulatorRef((WARPGROUP_QUERIES, self.sizes.width), jnp.float32)

    def folded(self) -> Running:
        """All tiles; a turn on the tensor cores is a product with values and one with keys."""
        self.wait_for(0)

        def fold(last: bool, tile: Array, running: Running) -> Running:
            weighted, top, totals = running

            def products(scores: Any) -> Array:
                self.multiply_keys(scores, tile)
                # The product runs on by itself; reading `scores` waits for it. So the turn is given
                # up when the last product has been started, not when it is done.
                take_turn(self.sizes, self.scratch)
                return scores[...]

            scores = pl.run_scoped(products, self.scores_ref)
            # Keys may be overwritten from here on, values only after the second product: two
            # barriers let the producer fetch the next keys a softmax earlier.
            self.arrive("k_used", tile)
            scores = self.without_others(scores) if last else scores
            weights, shrink, top, totals = self.weights(scores, top, totals)
            if not self.sizes.fresh:
                weighted = _scaled(weighted, shrink)
            narrow = weights.astype(self.sizes.dtype)
            # All of the softmax belongs before the rendezvous: this keeps the compiler from moving
            # parts of it behind, into the time that this consumer has the tensor cores for.
            weighted, totals, top, narrow = lax.optimization_barrier(
                (weighted, totals, top, narrow)
            )
            take_turn(self.sizes, self.scratch)

            def accumulate(sums: Any) -> Array:
                self.multiply_values(sums, narrow, weighted, tile)
                # While this product runs; the next one starts without waiting then.
                pl.when(tile + 1 < self.tiles)(partial(self.wait_for, tile + 1))
                return sums[...]

            added = pl.run_scoped(accumulate, self.values_ref)
            weighted = _scaled(weighted, shrink) + added if self.sizes.fresh else added
            self.arrive("v_used", tile)
            return weighted, top, totals

        running = _nothing_seen(self.sizes, 0.0 if self.bounded else -jnp.inf)
        # Every list has an entry, so there is a last tile. It is traced a second time, with the
        # mask, rather than masked in the loop, where that would cost each tile.
        if not self.sizes.ragged:
            return lax.fori_loop(0, self.tiles, partial(fold, False), running)
        running = lax.fori_loop(0, self.tiles - 1, partial(fold, False), running)
        return fold(True, self.tiles - 1, running)

    def at(self, name: str, tile: Array | int) -> Any:
        stages = jnp.int32(self.sizes.config.stages)
        return self.scratch[name].at[lax.rem(jnp.int32(tile), stages)]

    def wait_for(self, tile: Array | int) -> None:
        """Until keys and values are there: each wait costs 100 cycles, also for what has come."""
        plgpu.barrier_wait(self.at("filled", tile))

    def arrive(self, name: str, tile: Array | int) -> None:
        plgpu.barrier_arrive(self.at(name, tile))

    def multiply_keys(self, scores: Any, tile: Array | int) -> None:
        """Starts the product of the queries and a tile's keys."""
        queries = self.scratch["q"].at[lax.axis_index("warpgroup")]
        # Keys lie row by row in shared memory; the transpose is a flag of the instruction.
        plgpu.wgmma(scores, queries, self.at("k", tile).transpose((1, 0)))

    def multiply_values(self, sums: Any, narrow: Array, weighted: Array, tile: Array | int) -> None:
        """Starts the product of weights and a tile's values, added to `weighted` if not fresh."""
        if self.sizes.interpreted:
            narrow = self.in_shared(narrow)
        # The weights stay in registers: WGMMA's layout of an accumulator is that of a left operand.
        if not self.sizes.fresh:
            sums[...] = weighted
        plgpu.wgmma(sums, narrow, self.at("v", tile))

    def in_shared(self, narrow: Array) -> Any:
        """JAX's interpreter multiplies from shared memory only, a GPU from registers too."""
        weights = self.scratch["weights"].at[lax.axis_index("warpgroup")]
        weights[...] = narrow
        plgpu.commit_smem()
        return weights

    def without_others(self, scores: Array) -> Array:
        """The last tile's scores, minus infinity where there is no key."""
        column = plgpu.broadcasted_iota(jnp.int32, self.shape, 1, layout=plgpu.Layout.WGMMA)
        keys = self.keys - (self.tiles - 1) * self.sizes.config.tile
        return jnp.where(column < keys, scores, -jnp.inf)

    def weights(
        self, scores: Array, top: Array, totals: Array
    ) -> tuple[Array, Array | None, Array, Array]:
        """Weights of a tile, what shrinks those before, and the new largest score and sums.

        Nothing shrinks where scores are bounded, and the largest counts as 0.
        """
        # Powers of two are one instruction, powers of e two. `factor` is positive, so the largest
        # score is the largest after scaling as well. It is finite: the list's first tile has a key,
        # and no tile is masked as a whole.
        factor = self.sizes.factor
        exponents = scores if factor == 1 else scores * factor
        shrink, new_top = None, top
        if not self.bounded:
            largest = scores.max(axis=1)
            new_top = jnp.maximum(top, largest if factor == 1 else largest * factor)
            shrink = jnp.exp2(top - new_top)
            exponents = exponents - lax.broadcast_in_dim(new_top, self.shape, [0])
        weights = jnp.exp2(exponents)
        # In WGMMA's layout a thread has two of every 8 columns of a row, and four threads share the
        # row. Slices of a multiple of 8 columns add up within each thread; the sum over threads,
        # which needs shuffles, waits until the end (`consume`).
        rows, columns = totals.shape
        starts = range(0, self.shape[1], columns)
        parts = (lax.slice(weights, (0, at), (rows, at + columns)) for at in starts)
        return weights, shrink, new_top, _scaled(totals, shrink) + reduce(operator.add, parts)


def _nothing_seen(sizes: Sizes, top: float) -> Running:
    column = plgpu.Layout.WGMMA.reduce(1)
    rows = (WARPGROUP_QUERIES,)
    return (
        plgpu.layout_cast(jnp.zeros((*rows, sizes.width), jnp.float32), plgpu.Layout.WGMMA),
        plgpu.layout_cast(jnp.full(rows, top, jnp.float32), column),
        plgpu.layout_cast(
            jnp.zeros((*rows, sizes.config.partial_sums), jnp.float32), plgpu.Layout.WGMMA
        ),
    )


def _scaled(weighted: Array, shrink: Array | None) -> Array:
    if shrink is None:
        return weighted
    return weighted * lax.broadcast_in_dim(shrink, weighted.shape, [0])
