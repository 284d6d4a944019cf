"""The choice for a row that is too long for the registers of one program: it goes over the row.

Each pass reads the scores again, a tile at a time, from the L2 cache or from memory, so a pass of
the search tries several thresholds. What is summed over a row is summed over its tiles place by
place, and over the places in the end: such sums rise with the threshold, as the search needs it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from pallas_kernels.block_selection.choice import (
    LARGEST,
    TOP_P_SLACK,
    first_ties,
    room_for_ties,
    threshold,
)
from pallas_kernels.pallas_triton import plgpu

TILE = 2048
"""Key blocks of a step."""

WARPS = 8

HALVINGS = 2
"""Turns of the search in a pass. One more takes twice the registers."""


def tiled_kernel(
    scores_ref: Any,
    top_k_ref: Any,
    top_p_ref: Any,
    counts_ref: Any,
    indices_ref: Any,
    *,
    first: int,
    candidates: int,
    blocks: int,
    marked: bool,
) -> None:
    """Writes the count and the list of what `choose` takes of a row."""
    row = _Row(scores_ref, first, candidates, blocks, marked)
    top_k, top_p = top_k_ref[...][None], top_p_ref[...][None]
    best, always = _best(row)
    total, furthest = _total(row, best)
    budget = (top_p + TOP_P_SLACK) * total
    low = threshold(partial(_totals, row, best), furthest, candidates, budget, top_k, HALVINGS)
    taken, inside, following, ties = _taken(row, best, low)
    room = room_for_ties(budget - taken, following, candidates, top_k - inside)
    count = inside + jnp.clip(room, 0, ties) + always
    counts_ref[...] = count.sum()
    _write(row, best, _Decision(low, following, room, count), indices_ref)


class _Tile(NamedTuple):
    """What is read of some blocks of a row."""

    number: Int[Array, " tile"]
    scores: Float[Array, " tile"]
    competing: Bool[Array, " tile"]
    always: Bool[Array, " tile"]
    """Whether the block is taken whatever its score."""

    def gaps(self, best: Float[Array, "1"]) -> tuple[Float[Array, " tile"], Int[Array, " tile"]]:
        """How far scores lie below the best, infinitely where they do not compete; and the bits."""
        gaps = jnp.where(self.competing, best - self.scores, jnp.inf)
        return gaps, jax.lax.bitcast_convert_type(gaps, jnp.int32)


@dataclass(frozen=True)
class _Row:
    """A row of scores in memory; see `list_blocks_triton`."""

    scores_ref: Any
    first: int
    candidates: int
    blocks: int
    marked: bool

    def fold(self, step: Callable[..., tuple[Array, ...]], *start: Array) -> tuple[Array, ...]:
        """What `step(tile, *running)` makes of one tile after the other."""

        def body(index: Array, running: tuple[Array, ...]) -> tuple[Array, ...]:
            return step(self._tile(index), *running)

        return jax.lax.fori_loop(0, -(-self.blocks // TILE), body, start)

    def _tile(self, index: Array) -> _Tile:
        number = index * TILE + jnp.arange(TILE)
        scores, candidate = candidate_scores(self.scores_ref, number, self.first, self.candidates)
        if self.marked:
            return _Tile(number, scores, ~jnp.isinf(scores), scores == jnp.inf)
        return _Tile(number, scores, candidate, ~candidate & (number < self.blocks))


def candidate_scores(
    scores_ref: Any, number: Int[Array, " some"], first: int, candidates: int
) -> tuple[Float[Array, " some"], Bool[Array, " some"]]:
    """The scores of the blocks with these numbers, and which of them have one.

    The others get minus infinity.
    """
    candidate = (number >= first) & (number < first + candidates)
    place = jnp.clip(number - first, 0, candidates - 1)
    return plgpu.load(scores_ref.at[place], mask=candidate, other=-jnp.inf), candidate


class _Decision(NamedTuple):
    low: Int[Array, "1"]
    """The bits of the threshold."""
    following: Float[Array, "1"]
    """The next gap behind it."""
    room: Int[Array, "1"]
    """So many blocks of that gap are taken."""
    taken: Int[Array, "1"]
    """So many blocks are taken in all."""


def _best(row: _Row) -> tuple[Float[Array, "1"], Int[Array, "1"]]:
    """The best score, and how many blocks are always taken."""

    def step(tile: _Tile, best: Array, always: Array) -> tuple[Array, ...]:
        scores = jnp.where(tile.competing, tile.scores, -jnp.inf)
        return jnp.maximum(best, scores), always + tile.always.astype(jnp.int32)

    best, always = row.fold(step, jnp.full(TILE, -jnp.inf, jnp.float32), _zeros(jnp.int32))
    return best.max(-1, keepdims=True), _sum(always)


def _total(row: _Row, best: Array) -> tuple[Float[Array, "1"], Float[Array, "1"]]:
    """The sum of all weights, and the largest gap that is finite."""

    def step(tile: _Tile, total: Array, furthest: Array) -> tuple[Array, ...]:
        gaps, bits = tile.gaps(best)
        return total + jnp.exp(-gaps), jnp.maximum(furthest, jnp.where(bits <= LARGEST, gaps, 0.0))

    total, furthest = row.fold(step, _zeros(jnp.float32), _zeros(jnp.float32))
    return _sum(total), furthest.max(-1, keepdims=True)


def _totals(row: _Row, best: Array, guesses: tuple[Array, ...]) -> list[tuple[Array, Array]]:
    """Of the blocks up to each guess the sum of the weights, and how many there are."""

    def step(tile: _Tile, *sums: Array) -> tuple[Array, ...]:
        gaps, bits = tile.gaps(best)
        weights = jnp.exp(-gaps)
        inside = [bits <= guess for guess in guesses]
        taken = [jnp.where(own, weights, 0.0) for own in inside]
        counts = [own.astype(jnp.int32) for own in inside]
        return tuple(x + y for x, y in zip(sums, (*taken, *counts), strict=True))

    many = len(guesses)
    sums = row.fold(step, *[_zeros(jnp.float32)] * many, *[_zeros(jnp.int32)] * many)
    return [
        (_sum(taken), _sum(count)) for taken, count in zip(sums[:many], sums[many:], strict=True)
    ]


def _taken(row: _Row, best: Array, low: Array) -> tuple[Array, Array, Array, Array]:
    """Up to the threshold the sum and the number as above; the next gap, and how many have it."""

    def step(tile: _Tile, *running: Array) -> tuple[Array, ...]:
        taken, count, nearest, ties = running
        gaps, bits = tile.gaps(best)
        inside = bits <= low
        taken = taken + jnp.where(inside, jnp.exp(-gaps), 0.0)
        count = count + inside.astype(jnp.int32)
        gaps = jnp.where(inside, jnp.inf, gaps)
        # Of each place in a tile the least, and how often it came.
        ties = jnp.where(gaps == nearest, ties + 1, jnp.where(gaps < nearest, 1, ties))
        return taken, count, jnp.minimum(nearest, gaps), ties

    far = jnp.full(TILE, jnp.inf, jnp.float32)
    start = (_zeros(jnp.float32), _zeros(jnp.int32), far, _zeros(jnp.int32))
    taken, count, nearest, ties = row.fold(step, *start)
    following = nearest.min(-1, keepdims=True)
    own = (nearest == following) & (nearest < jnp.inf)
    return _sum(taken), _sum(count), following, _sum(jnp.where(own, ties, 0))


def _write(row: _Row, best: Array, decision: _Decision, indices_ref: Any) -> None:
    """The list: what is taken in front, each place written once, as in the kernel of short rows."""
    low, following, room, count = decision

    def step(tile: _Tile, before: Array, room: Array) -> tuple[Array, ...]:
        gaps, bits = tile.gaps(best)
        ties = (gaps == following) & (bits <= LARGEST)
        chosen = (bits <= low) | first_ties(ties, room) | tile.always
        order = before + jax.lax.cumsum(chosen.astype(jnp.int32), axis=0)
        place = jnp.where(chosen, order - 1, count + tile.number - order)
        number = tile.number.astype(indices_ref.dtype)
        plgpu.store(indices_ref.at[place], number, mask=tile.number < row.blocks)
        return before + _sum(chosen.astype(jnp.int32)), room - _sum(ties.astype(jnp.int32))

    row.fold(step, jnp.zeros_like(count), room)


def _zeros(dtype: Any) -> Array:
    return jnp.zeros(TILE, dtype)


def _sum(x: Array) -> Array:
    return x.sum(-1, keepdims=True)
