"""The rule by which a query block chooses its key blocks.

Blocks are taken from the best down while their share of the softmax stays within a budget, and at
least so many of them. That is a threshold on the scores: the threshold is searched by halving an
interval until a single block is left in it, so nothing is sorted. The functions are plain array
code that runs in XLA and inside kernels alike.
"""

from collections.abc import Callable, Sequence
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
    bits = jax.lax.bitcast_convert_type(gaps, jnp.int32)

    def totals(inside: Bool[Array, "*rows blocks"]) -> tuple[Array, Array]:
        taken = jnp.where(inside, weights, 0.0).sum(-1, keepdims=True)
        return taken, inside.sum(-1, keepdims=True, dtype=jnp.int32)

    def up_to(guesses: tuple[Array, ...]) -> list[tuple[Array, Array]]:
        return [totals(bits <= guess) for guess in guesses]

    furthest = jnp.where(bits <= LARGEST, gaps, 0.0).max(-1, keepdims=True)
    low = threshold(up_to, furthest, gaps.shape[-1], budget, top_k)
    inside = bits <= low
    taken, count = totals(inside)
    following = jnp.where(inside, jnp.inf, gaps).min(-1, keepdims=True)
    ties = (gaps == following) & (bits <= LARGEST)
    room = room_for_ties(budget - taken, following, gaps.shape[-1], top_k - count)
    return inside | first_ties(ties, room)


def threshold(
    totals: Callable[[tuple[Array, ...]], Sequence[tuple[Array, Array]]],
    furthest: Float[Array, "*rows 1"],
    blocks: int,
    budget: Float[Array, "*rows 1"],
    top_k: Int[Array, "*rows 1"],
    halvings: int = 1,
) -> Int[Array, "*rows 1"]:
    """The bits of a gap up to which blocks are taken; of those behind it only the next may fit.

    Args:
      totals: for some thresholds, which rise, the sum of the weights up to each and the number of
        blocks.
      furthest: the largest gap that is finite.
      blocks: of a row.
      budget: most that the weights of what is taken may sum to.
      top_k: so many blocks are taken whatever their weights.
      halvings: the interval is halved so often by a call of `totals`, of `2**halvings - 1`
        thresholds. The result does not depend on it.
    """

    # The bits of floats that are not negative, read as integers, rise with the floats. Halving an
    # interval of such integers ends after about 31 turns whatever the range of the scores, where
    # halving an interval of floats may take many more.
    def undecided(search: _Search) -> Bool[Array, ""]:
        """Whether a threshold may lie between two of some row's blocks."""
        apart = jnp.minimum(search.above - search.below, search.high - search.low)
        return apart.max() > 1

    def narrow(search: _Search) -> _Search:
        low, below, high, above, guesses = search
        # Both totals rise with the guess, so "fits" is true up to the threshold and false beyond.
        tried = [
            (guess, count, (taken <= budget) | (count <= top_k))
            for guess, (taken, count) in zip(guesses, totals(guesses), strict=True)
        ]
        for guess, count, fits in tried:
            low, below = _pick(fits, (guess, count), (low, below))
        for guess, count, fits in reversed(tried):
            high, above = _pick(fits, (high, above), (guess, count))
        return _Search(low, below, high, above, _between(low, high, halvings))

    number = 2**halvings - 1
    parts = [FIRST_GUESS ** (part / number) for part in range(number, 0, -1)]
    last, *guesses = (
        jax.lax.bitcast_convert_type(x, jnp.int32)
        for x in (furthest, *(part * furthest for part in parts))
    )
    nothing, all_and_one = jnp.zeros_like(last), jnp.full_like(last, blocks + 1)
    # Bits of -1 lie below every gap, and those behind the furthest gap above all. The count there
    # is one more than there are blocks, so that the search does not end before all were tried.
    start = _Search(nothing - 1, nothing, last + 1, all_and_one, tuple(guesses))
    return jax.lax.while_loop(undecided, narrow, start).low


class _Search(NamedTuple):
    """The blocks up to `low` are taken, those up to `high` are too many. Bits of gaps."""

    low: Int[Array, "*rows 1"]
    below: Int[Array, "*rows 1"]
    """So many blocks up to `low`."""
    high: Int[Array, "*rows 1"]
    above: Int[Array, "*rows 1"]
    """So many blocks, or more, up to `high`."""
    guesses: tuple[Int[Array, "*rows 1"], ...]
    """What is tried next, between the two; they rise."""


def _between(low: Array, high: Array, halvings: int) -> tuple[Array, ...]:
    """What halving the interval, and each half again, and so on, would try."""
    if halvings == 0:
        return ()
    middle = low + (high - low) // 2
    before, behind = (_between(*ends, halvings - 1) for ends in ((low, middle), (middle, high)))
    return (*before, middle, *behind)


def room_for_ties(
    rest: Float[Array, "*rows 1"],
    following: Float[Array, "*rows 1"],
    blocks: int,
    lacking: Int[Array, "*rows 1"],
) -> Int[Array, "*rows 1"]:
    """How many of the blocks behind the threshold are taken, which have one gap, `following`.

    One more block would pass the budget; of several blocks of exactly its score some may fit: the
    first of them are taken, as a stable sort would.

    Args:
      rest: what is left of the budget.
      following: their gap.
      blocks: of a row.
      lacking: so many are taken even so.
    """
    fitting = jnp.clip(rest / jnp.exp(-following), 0.0, blocks)
    return jnp.maximum(fitting.astype(jnp.int32), lacking)


def _pick(which: Array, yes: tuple[Array, ...], no: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(jnp.where(which, x, y) for x, y in zip(yes, no, strict=True))


def first_ties(
    ties: Bool[Array, "*rows blocks"], room: Int[Array, "*rows 1"]
) -> Bool[Array, "*rows blocks"]:
    """So many of the blocks of equal scores, the first."""
    wanted = ties & (room > 0)
    many = ties.sum(-1, keepdims=True, dtype=jnp.int32)

    def counted() -> Array:
        return wanted & (jax.lax.cumsum(ties.astype(jnp.int32), axis=ties.ndim - 1) <= room)

    # Mostly there is one. To count along a row takes a kernel as long as some steps of the search.
    some = ((room > 0) & (room < many)).astype(jnp.int32).max() > 0
    return jax.lax.cond(some, counted, lambda: wanted)
