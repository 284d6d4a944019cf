"""The rule by which a query block chooses its key blocks.

Blocks are taken from the best down while their share of the softmax stays within a budget, and at
least so many of them. That is a threshold on the scores: the threshold is searched bit by bit, so
nothing is sorted. The functions are plain array code that runs in XLA and inside kernels alike.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MASS_SLACK = 1e-5
"""Added to the budget against rounding, as upstream does (sparse-vggt, `get_block_mask`)."""

BITS = 31
LARGEST = 0x7F7FFFFF
"""The bits of the largest finite float32."""


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
    keep: Int[Array, "*rows 1"],
    mass: Float[Array, "*rows 1"],
) -> Bool[Array, "*rows blocks"]:
    """The best blocks of each row.

    Taken from the smallest gap up, of equal ones the first: the longest run whose softmax weights
    sum to at most `mass` (plus `MASS_SLACK`), but at least `keep` blocks.

    Args:
      gaps: of the blocks, at least 0; infinite for what may not be chosen.
      keep: at least 1.
      mass: in (0, 1]; negative for no budget.
    """
    weights = jnp.exp(-gaps)
    budget = (mass + MASS_SLACK) * weights.sum(-1, keepdims=True)
    # The bits of floats that are not negative rise with the floats.
    bits = jax.lax.bitcast_convert_type(gaps, jnp.int32)

    def totals(inside: Bool[Array, "*rows blocks"]) -> tuple[Array, Array]:
        taken = jnp.where(inside, weights, 0.0).sum(-1, keepdims=True)
        return taken, inside.astype(jnp.int32).sum(-1, keepdims=True)

    def refine(step: Array, limit: Int[Array, "*rows 1"]) -> Int[Array, "*rows 1"]:
        higher = limit + jnp.left_shift(jnp.int32(1), BITS - 1 - step).astype(jnp.int32)
        taken, count = totals(bits <= higher)
        return jnp.where((taken <= budget) | (count <= keep), higher, limit)

    limit = jax.lax.fori_loop(0, BITS, refine, jnp.full_like(keep, -1))
    inside = bits <= jnp.minimum(limit, LARGEST)
    taken, count = totals(inside)
    following = jnp.where(inside, jnp.inf, gaps).min(-1, keepdims=True)
    ties = (gaps == following) & (bits <= LARGEST)
    fitting = jnp.clip((budget - taken) / jnp.exp(-following), 0.0, gaps.shape[-1])
    room = jnp.maximum(fitting.astype(jnp.int32), keep - count)
    order = jax.lax.cumsum(ties.astype(jnp.int32), axis=ties.ndim - 1)
    return inside | (ties & (order <= room))
