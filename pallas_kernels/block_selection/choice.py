"""The rule by which a query block chooses its key blocks.

Blocks are taken from the best down while their share of the softmax stays within a budget, and at
least so many of them. That is a threshold on the scores: the threshold is searched by halving an
interval until a single block is left in it, so nothing is sorted. The functions are plain array
code that runs in XLA and inside kernels alike.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

TOP_P_SLACK = 1e-5
"""Added to the budget against rounding, as upstream does (sparse-vggt, `get_block_mask`)."""

LARGEST = 0x7F7FFFFF
"""The bits of the largest finite float32."""

FIRST_GUESS = 2.0**-6
"""Where the search for the threshold starts, as a part of the largest gap."""


def score_gaps(scores: Float[Array, "*rows blocks"]) -> Float[Array, "*rows blocks"]:
    """How far each score lies below the best of its row."""
    return scores.max(-1, keepdims=True) - scores


def marked_gaps(
    scores: Float[Array, "*rows blocks"],
) -> tuple[Float[Array, "*rows blocks"], Bool[Array, "*rows blocks"]]:
    """How far each competing score lies below the best, and which blocks are always taken.

    A score of minus infinity is never taken, one of plus infinity always; the others compete.
    """
    competing = ~jnp.isinf(scores)
    best = jnp.where(competing, scores, -jnp.inf).max(-1, keepdims=True)
    return jnp.where(competing, best - scores, jnp.inf), scores == jnp.inf


def choose(
    gaps: Float[Array, "*rows blocks"],
    top_k: Int[Array, "*rows 1"],
    top_p: Float[Array, "*rows 1"],
) -> Bool[Array, "*rows blocks"]:
    """The best blocks of each row.

    Taken from the smallest gap up, of equal ones the first: the longest run whose softmax weights
    sum to at most `top_p` (plus `TOP_P_SLACK`), but at least `top_k` blocks.

    Args:
      gaps: of the blocks, at least 0; infinite for what may not be chosen.
      top_k: at least 1.
      top_p: in (0, 1]; negative for no budget.
    """
    weights = jnp.exp(-gaps)
    budget = (top_p + TOP_P_SLACK) * weights.sum(-1, keepdims=True)
    # The bits of floats that are not negative, read as integers, rise with the floats. Halving an
    # interval of such integers ends after about 31 turns whatever the range of the scores, where
    # halving an interval of floats may take many more.
    bits = jax.lax.bitcast_convert_type(gaps, jnp.int32)

    def totals(inside: Bool[Array, "*rows blocks"]) -> tuple[Array, Array]:
        taken = jnp.where(inside, weights, 0.0).sum(-1, keepdims=True)
        return taken, inside.astype(jnp.int32).sum(-1, keepdims=True)

    def undecided(search: _Search) -> Bool[Array, ""]:
        """Whether a threshold may lie between two of some row's blocks."""
        apart = jnp.minimum(search.above - search.below, search.high - search.low)
        return apart.max() > 1

    def halve(search: _Search) -> _Search:
        taken, count = totals(bits <= search.guess)
        # Both totals rise with the guess, so "fits" is true up to the threshold and false beyond.
        fits = (taken <= budget) | (count <= top_k)
        low, below = _pick(fits, (search.guess, count), (search.low, search.below))
        high, above = _pick(fits, (search.high, search.above), (search.guess, count))
        return _Search(low, below, high, above, low + (high - low) // 2)

    furthest = jnp.where(bits <= LARGEST, gaps, 0.0).max(-1, keepdims=True)
    ends = (jax.lax.bitcast_convert_type(x, jnp.int32) for x in (furthest, FIRST_GUESS * furthest))
    last, guess = ends
    nothing, all_and_one = jnp.zeros_like(last), jnp.full_like(last, gaps.shape[-1] + 1)
    # Bits of -1 lie below every gap, and those behind the furthest gap above all. The count there
    # is one more than there are blocks, so that the search does not end before all were tried.
    start = _Search(nothing - 1, nothing, last + 1, all_and_one, guess)
    inside = bits <= jax.lax.while_loop(undecided, halve, start).low
    taken, count = totals(inside)
    # The block behind the threshold would pass the budget. Several blocks of exactly its score may
    # fit in part: the first of them are taken, as a stable sort would.
    following = jnp.where(inside, jnp.inf, gaps).min(-1, keepdims=True)
    ties = (gaps == following) & (bits <= LARGEST)
    fitting = jnp.clip((budget - taken) / jnp.exp(-following), 0.0, gaps.shape[-1])
    room = jnp.maximum(fitting.astype(jnp.int32), top_k - count)
    return inside | _first(ties, room)


class _Search(NamedTuple):
    """The blocks up to `low` are taken, those up to `high` are too many. Bits of gaps."""

    low: Int[Array, "*rows 1"]
    below: Int[Array, "*rows 1"]
    """So many blocks up to `low`."""
    high: Int[Array, "*rows 1"]
    above: Int[Array, "*rows 1"]
    """So many blocks, or more, up to `high`."""
    guess: Int[Array, "*rows 1"]
    """What is tried next, between the two."""


def _pick(which: Array, yes: tuple[Array, ...], no: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(jnp.where(which, x, y) for x, y in zip(yes, no, strict=True))


def _first(
    ties: Bool[Array, "*rows blocks"], room: Int[Array, "*rows 1"]
) -> Bool[Array, "*rows blocks"]:
    """So many of the blocks of equal scores, the first."""
    wanted = ties & (room > 0)
    many = ties.astype(jnp.int32).sum(-1, keepdims=True)

    def counted() -> Array:
        return wanted & (jax.lax.cumsum(ties.astype(jnp.int32), axis=ties.ndim - 1) <= room)

    # Mostly there is one. To count along a row takes a kernel as long as some steps of the search.
    some = ((room > 0) & (room < many)).astype(jnp.int32).max() > 0
    return jax.lax.cond(some, counted, lambda: wanted)
