"""What a consumer warpgroup of the kernel for Hopper GPUs does: attention of 64 queries.

Tiles are folded into a running softmax in one of two ways. In turns: two consumers alternate, so
that one multiplies while the other makes weights of its scores. Overlapped: each consumer also
multiplies on its own account while it makes weights, the weights of the tile before with its
values, and the keys of the tile after. Source of both: FlashAttention-3 (arXiv 2407.08608).
"""

import math
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

LOG2_E = math.log2(math.e)

type Running = tuple[Array, Array, Array]
"""Weighted values, largest score (times log2 e) and sum of the weights."""


def consume(
    sizes: Sizes,
    outputs: Any,
    scratch: dict[str, Any],
    before: Array | int,
    place: Place,
    count: Array,
    keys: Array,
) -> Array:
    """Attends for 64 queries to so many keys in so many blocks; returns the number of tiles.

    Args:
      before: tiles of the query blocks that this program has done.
    """
    warpgroup = lax.axis_index("warpgroup")
    tiles = sizes.config.tiles(count)
    plgpu.barrier_wait(scratch["q_filled"].at[warpgroup])
    work = _Work(sizes, scratch, before, tiles, keys)
    weighted, top, total = work.overlapped() if sizes.config.overlap else work.in_turns()

    inverse = 1.0 / total
    out, sums = scratch["out"].at[warpgroup], scratch["sums"].at[warpgroup]
    if sizes.shared:
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # what the block before has left there
    out[...] = (weighted * lax.broadcast_in_dim(inverse, weighted.shape, [0])).astype(sizes.dtype)
    sums[...] = top * (1 / LOG2_E) + jnp.log(total)
    plgpu.commit_smem()
    scene, head, block = place
    start = block * sizes.config.block_q + warpgroup * WARPGROUP_QUERIES
    rows = pl.ds(start, WARPGROUP_QUERIES)
    plgpu.copy_smem_to_gmem(out, outputs[0].at[scene, rows, head])
    plgpu.copy_smem_to_gmem(sums, outputs[1].at[scene, head, rows])
    return tiles


def take_turn(scratch: dict[str, Any]) -> None:
    """Lets the other consumer go on, and waits until it does the same."""
    plgpu.barrier_arrive(scratch["turn"])
    plgpu.barrier_wait(scratch["turn"])


@dataclass(frozen=True)
class _Work:
    """One query block's; `before` and `keys` as in `consume`."""

    sizes: Sizes
    scratch: dict[str, Any]
    before: Array | int
    tiles: Array
    keys: Array

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

    def in_turns(self) -> Running:
        """Each consumer has the tensor cores for a product with values and one with keys."""
        self.wait("k_filled", 0)
        turn = partial(take_turn, self.scratch) if self.sizes.config.takes_turns else lambda: None

        def fold(last: bool, tile: Array, running: Running) -> Running:
            weighted, top, total = running

            def products(scores: Any) -> Array:
                self.multiply_keys(scores, tile)
                turn()
                return scores[...]

            scores = pl.run_scoped(products, self.scores_ref)
            self.keys_done(tile)
            scores = self.without_others(scores) if last else scores
            weights, shrink, top, total = self.weights(scores, top, total)
            if not self.sizes.fresh:
                weighted = _scaled(weighted, shrink)
            narrow = weights.astype(self.sizes.dtype)
            weighted, total, top, narrow = lax.optimization_barrier((weighted, total, top, narrow))
            if self.sizes.config.takes_turns:
                plgpu.barrier_arrive(self.scratch["turn"])
            self.wait("v_filled", tile)
            if self.sizes.config.takes_turns:
                plgpu.barrier_wait(self.scratch["turn"])

            def accumulate(sums: Any) -> Array:
                self.multiply_values(sums, narrow, weighted, tile)
                pl.when(tile + 1 < self.tiles)(partial(self.wait, "k_filled", tile + 1))
                return sums[...]

            added = pl.run_scoped(accumulate, self.values_ref)
            weighted = _scaled(weighted, shrink) + added if self.sizes.fresh else added
            self.arrive("v_used", tile)
            return weighted, top, total

        running = _nothing_seen(self.sizes.width)
        if not self.sizes.ragged:
            return lax.fori_loop(0, self.tiles, partial(fold, False), running)
        running = lax.fori_loop(0, self.tiles - 1, partial(fold, False), running)
        return fold(True, self.tiles - 1, running)

    def overlapped(self) -> Running:
        """Products of the tiles before and after run while a tile's scores become weights.

        What goes from tile to tile: its scores, the weights of the tile before, which wait for
        their values, and what was running before these.
        """
        dtype = self.sizes.dtype

        def first(scores: Any) -> Array:
            self.multiply_keys(scores, 0)
            return scores[...]

        def second(_: Array, carry: Any) -> Any:
            scores, _, (weighted, top, total) = carry
            self.wait("k_filled", 1)

            def work(following: Any) -> Any:
                self.multiply_keys(following, 1)
                weights, _, new_top, new_total = self.weights(scores, top, total)
                return following[...], weights.astype(dtype), (weighted, new_top, new_total)

            carry = pl.run_scoped(work, self.scores_ref)
            self.keys_done(1)
            return carry

        def middle(tile: Array, carry: Any) -> Any:
            scores, narrow, (weighted, top, total) = carry
            self.wait("v_filled", tile - 1)
            self.wait("k_filled", tile + 1)

            def work(following: Any, sums: Any) -> Any:
                # ptxas runs products and softmax one after another unless all registers that are
                # multiplied stand ready before the first product, and are not written while one
                # runs: so values come first, and weights become narrow when both have ended.
                self.multiply_values(sums, narrow, weighted, tile - 1)
                self.multiply_keys(following, tile + 1)
                found = self.weights(scores, top, total)
                found = lax.optimization_barrier((*found, following[...], sums[...]))
                weights, shrink, new_top, new_total, scores_after, added = found
                whole = weighted + added if self.sizes.fresh else added
                running = _scaled(whole, shrink), new_top, new_total
                return scores_after, weights.astype(dtype), running

            carry = pl.run_scoped(work, self.scores_ref, self.values_ref)
            self.arrive("v_used", tile - 1)
            self.keys_done(tile + 1)
            return carry

        def two(pair: Array, carry: Any) -> Any:
            return middle(2 * pair + 2, middle(2 * pair + 1, carry))

        def weigh(tile: Array, carry: Any) -> Any:
            """Adds the values of a tile whose weights wait for them."""
            scores, narrow, (weighted, top, total) = carry
            self.wait("v_filled", tile)

            def work(sums: Any) -> Array:
                self.multiply_values(sums, narrow, weighted, tile)
                return sums[...]

            added = pl.run_scoped(work, self.values_ref)
            self.arrive("v_used", tile)
            weighted = weighted + added if self.sizes.fresh else added
            return scores, narrow, (weighted, top, total)

        self.wait("k_filled", 0)
        scores = pl.run_scoped(first, self.scores_ref)
        self.keys_done(0)
        no_weights = plgpu.layout_cast(jnp.zeros(self.shape, dtype), plgpu.Layout.WGMMA)
        carry = scores, no_weights, _nothing_seen(self.sizes.width)
        last = self.tiles - 1
        carry = lax.fori_loop(0, jnp.minimum(last, 1), second, carry)
        pairs = jnp.maximum(last - 1, 0) // 2
        carry = lax.fori_loop(0, pairs, two, carry)
        carry = lax.fori_loop(2 * pairs + 1, last, middle, carry)
        carry = lax.fori_loop(jnp.maximum(last - 1, 0), last, weigh, carry)
        scores, _, (weighted, top, total) = carry
        scores = self.without_others(scores) if self.sizes.ragged else scores
        weights, shrink, top, total = self.weights(scores, top, total)
        carry = scores, weights.astype(dtype), (_scaled(weighted, shrink), top, total)
        return weigh(last, carry)[2]

    def at(self, name: str, tile: Array | int) -> Any:
        stages = jnp.int32(self.sizes.config.stages)
        return self.scratch[name].at[lax.rem(self.before + tile, stages)]

    def wait(self, name: str, tile: Array | int) -> None:
        plgpu.barrier_wait(self.at(name, tile))

    def arrive(self, name: str, tile: Array | int) -> None:
        plgpu.barrier_arrive(self.at(name, tile))

    def multiply_keys(self, scores: Any, tile: Array | int) -> None:
        """Starts the product of the queries and a tile's keys."""
        queries = self.scratch["q"].at[lax.axis_index("warpgroup")]
        plgpu.wgmma(scores, queries, self.at("k", tile).transpose((1, 0)))

    def keys_done(self, tile: Array | int) -> None:
        """Gives a tile's keys free, and after the last tile the queries."""
        self.arrive("k_used", tile)
        if self.sizes.shared:
            used = self.scratch["q_used"].at[lax.axis_index("warpgroup")]
            pl.when(tile + 1 == self.tiles)(partial(plgpu.barrier_arrive, used))

    def multiply_values(self, sums: Any, narrow: Array, weighted: Array, tile: Array | int) -> None:
        """Starts the product of weights and a tile's values, added to `weighted` if not fresh."""
        if self.sizes.interpreted:
            narrow = self.in_shared(narrow)
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

    def weights(self, scores: Array, top: Array, total: Array) -> tuple[Array, Array, Array, Array]:
        """Weights of a tile, what shrinks those before, and the new largest score and sum."""
        factor = self.sizes.scale * LOG2_E
        new_top = jnp.maximum(top, scores.max(axis=1) * factor)
        shrink = jnp.exp2(top - new_top)
        weights = jnp.exp2(scores * factor - lax.broadcast_in_dim(new_top, self.shape, [0]))
        return weights, shrink, new_top, total * shrink + weights.sum(axis=1)


def _nothing_seen(width: int) -> Running:
    column = plgpu.Layout.WGMMA.reduce(1)
    rows = (WARPGROUP_QUERIES,)
    return (
        plgpu.layout_cast(jnp.zeros((*rows, width), jnp.float32), plgpu.Layout.WGMMA),
        plgpu.layout_cast(jnp.full(rows, -jnp.inf, jnp.float32), column),
        plgpu.layout_cast(jnp.zeros(rows, jnp.float32), column),
    )


def _scaled(weighted: Array, shrink: Array) -> Array:
    return weighted * lax.broadcast_in_dim(shrink, weighted.shape, [0])
