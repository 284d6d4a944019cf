"""An order of all patches of a scene in which those that look alike stand together.

A tree of principal axes: patches are cut in two along the direction in which they vary most, each
part again, down to blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.nn.attention import Count
from jaxrecon.sparse.layout import BlockLayout, Permutation, moves_pairs, paired, unpaired

FEATURES = 32
"""About so many numbers tell how a patch looks to all heads together."""

ITERATIONS = 4
"""How often a direction is multiplied by a covariance, until one stands out."""

SUMMED_AT_ONCE = 1024
"""About so many tokens' products are summed by one matrix product."""

PACKED = 2**18
"""Up to so many tokens are sorted by one whole number each, a float's upper bits and the token's
place: that takes half as long as to sort floats with their places beside them. At this limit 14
bits of a float are left, of which five are the mantissa's.
"""


@dataclass(frozen=True)
class PcaTreeOrder:
    """Patches of all views that look alike to the heads, next to each other: see `pca_tree_order`.

    Queries and keys are ordered each by their own numbers.
    """

    def order(
        self, q: Float[Array, "G T N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> Permutation:
        """One tree over the queries and one over the keys of each scene, built together."""
        tokens, views = layout.layout, layout.counted_views
        num_valid = (
            None if tokens.num_valid_views is None else views * tokens.grid[0] * tokens.grid[1]
        )
        own = views * (tokens.leading + tokens.trailing) + tokens.scene
        # Aligned keys begin with the specials, which share their last block with patches.
        front = own % layout.block_kv if layout.special_tokens == "aligned" else 0
        groups, both = q.shape[0], jnp.concatenate([_features(x, layout) for x in (q, k)])
        fronts = (*(0,) * groups, *(front,) * groups)
        found = pca_tree_order(both, leaf=layout.block_kv, front=fronts, num_valid=num_valid)
        return Permutation(queries=found[:groups], keys=found[groups:])


def _features(x: Float[Array, "G T N K"], layout: BlockLayout) -> Float[Array, "G patches F"]:
    """How patches look to all heads of the layer, those on other devices too."""
    tokens, heads = layout.layout, x.shape[2]
    every = heads if tokens.heads is None else tokens.heads
    found = layout.patches_of(head_features(x, every, tokens.first_head))
    if heads == every:
        return found
    each = found.shape[2] // heads
    gathered = tokens.collectives.all_gather(found, axis=2, replicas=tokens.replicas)
    return gathered[..., : every * each]


def head_features(
    x: Float[Array, "G T N K"], heads: int, first_head: Count = 0
) -> Float[Array, "G T F"]:
    """A few numbers of each head of each token, by a fixed random projection.

    They are the same whether a device has all heads or a part of them.

    Args:
      x: queries or keys.
      heads: of how many heads these are a part.
      first_head: from which one on; those beyond the last are copies of it.
    """
    each = -(-FEATURES // heads)
    shape = (heads, x.shape[3], each)
    table = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    own = jnp.minimum(first_head + jnp.arange(x.shape[2]), heads - 1)
    # One matrix product with zeros between heads: products of single heads are too thin.
    apart = jnp.eye(x.shape[2], dtype=x.dtype)[:, None, :, None]
    matrix = apart * jnp.asarray(table, x.dtype)[own][:, :, None]
    # Behind the barrier XLA does not make one product of those of queries and of keys, for which it
    # would copy both side by side.
    flat, matrix = jax.lax.optimization_barrier((x.reshape(*x.shape[:2], -1), matrix))
    made = jnp.matmul(flat, matrix.reshape(flat.shape[2], -1))
    if not moves_pairs(made):
        return made
    # Pairs lie side by side. Else XLA has the product written feature by feature, for which cuBLAS
    # has no fast kernel where the number of tokens is no multiple of 8.
    return unpaired(jax.lax.optimization_barrier(paired(made)), made.dtype)


def pca_tree_order(
    features: Float[Array, "G P F"],
    *,
    leaf: int,
    front: Sequence[Count] | None = None,
    num_valid: Count | None = None,
) -> Int[Array, "G P"]:
    """The numbers of the patches of each group, those with like features next to each other.

    All patches of a group are cut in two along the direction in which their features vary most,
    each part again, down to leaves: a principal axis tree. Cuts lie at fixed places, so that a leaf
    is a block of attention. The idea of bringing like tokens together, there by k-means, is that of
    Yang et al., Sparse VideoGen2 (arXiv 2505.18875).

    Args:
      leaf: patches of a leaf.
      front: the first leaf of each group holds so many patches less, fewer than `leaf`; none less
        if not given.
      num_valid: so many first patches count; the others come last, and change nothing. All if not
        given.
    """
    groups, patches, width = features.shape
    front = [0] * groups if front is None else front
    static = [count for count in front if isinstance(count, int)]
    ahead = max(static) if len(static) == groups else leaf - 1
    levels = (-(-(patches + ahead) // leaf) - 1).bit_length()
    size = leaf << levels
    first = jnp.stack([jnp.asarray(count, jnp.int32) for count in front])
    stop = jnp.asarray(patches if num_valid is None else num_valid, jnp.int32)
    x = jnp.pad(_standardised(features, stop), ((0, 0), (0, size - patches), (0, 0)))
    x = jax.vmap(partial(jnp.roll, axis=0))(x, first)
    numbers = jnp.arange(size, dtype=jnp.int32)[None] - first[:, None]
    for level in range(levels):
        length = size >> level
        starts = length * jnp.arange(1 << level, dtype=jnp.int32)[None]
        ends = (jnp.clip(end[:, None] - starts, 0, length) for end in (first, first + stop))
        numbers, x = _sorted_along_axis(
            numbers.reshape(-1, length),
            x.reshape(-1, length, width),
            *(end.reshape(-1, 1) for end in ends),
        )

    def own(numbers: Int[Array, " size"], first: Int[Array, ""]) -> Int[Array, " P"]:
        return jax.lax.dynamic_slice_in_dim(numbers, first, patches)

    return jax.vmap(own)(numbers.reshape(groups, size), first)


def _standardised(features: Float[Array, "G P F"], stop: Int[Array, ""]) -> Float[Array, "G P F"]:
    """The first `stop` less their mean, scaled by a power of two to about unit size; then zeros."""
    counts = (jnp.arange(features.shape[1]) < stop)[None, :, None]
    valid = jnp.where(counts, features, 0).astype(jnp.float32)
    count = stop.astype(jnp.float32)
    mean, squares = valid.sum(1, keepdims=True) / count, jnp.square(valid).sum(1, keepdims=True)
    variance = jnp.sum(squares / count - jnp.square(mean), axis=2, keepdims=True)
    # Products of four covariances are to stay within float32.
    size = jnp.exp2(jnp.round(jnp.log2(jnp.where(variance > 0, variance, 1)) / 2))
    shift, factor = mean.astype(features.dtype), (1 / size).astype(features.dtype)
    return jnp.where(counts, (features - shift) * factor, 0)


def _sorted_along_axis(
    numbers: Int[Array, "S n"],
    x: Float[Array, "S n F"],
    first: Int[Array, "S 1"],
    end: Int[Array, "S 1"],
) -> tuple[Int[Array, "S n"], Float[Array, "S n F"]]:
    """Each segment, in the order of its patches along the direction in which they vary most.

    What stands before the place `first` or from the place `end` on is no patch; it stays there, and
    `x` of it is 0. A segment whose second half holds no patch stays as it is.
    """
    length = numbers.shape[1]
    place = jnp.arange(length, dtype=jnp.int32)[None]
    total = jnp.sum(x, axis=1, dtype=jnp.float32)
    count = jnp.maximum(end - first, 1).astype(jnp.float32)
    mean = total / count
    direction = _main_direction(x, mean, count)
    # Less the mean, near which the cut lies, and near zero floats are fine.
    along = _products(x.astype(jnp.float32) - mean[:, None, :], direction)
    along = jnp.where((end > length // 2) & ~jnp.isnan(along), along, 0)
    along = jnp.where(place < first, -jnp.inf, jnp.where(place < end, along, jnp.inf))
    order = _order(along)
    # Behind the barrier XLA gathers once, and not anew in each of the sums that follow.
    return _taken(numbers, order), jax.lax.optimization_barrier(_taken(x, order))


def _order(along: Float[Array, "S n"]) -> Int[Array, "S n"]:
    """The places in rising order; equal numbers keep theirs, nearly equal ones in long rows too."""
    length = along.shape[1]
    if length > PACKED:
        return jnp.argsort(along, axis=1, stable=True)
    low = (1 << (length - 1).bit_length()) - 1
    bits = jax.lax.bitcast_convert_type(along, jnp.int32)
    # Floats below zero rise where their bits, but for the sign, fall.
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    packed = (rising & ~low) | jnp.arange(length, dtype=jnp.int32)[None]
    return jax.lax.sort(packed, dimension=1, is_stable=False) & low


def _main_direction(
    x: Float[Array, "S n F"], mean: Float[Array, "S F"], count: Float[Array, "S 1"]
) -> Float[Array, "S F"]:
    """The first principal axis, of any length, by power iteration.

    Args:
      mean: of the patches; the rest of `x` is 0.
      count: how many patches a segment has.
    """
    segments, length, width = x.shape
    while length > SUMMED_AT_ONCE and length % 2 == 0:
        length //= 2
    parts = x.reshape(-1, length, width)
    products = jnp.einsum("snf,sng->sfg", parts, parts, preferred_element_type=jnp.float32)
    products = products.reshape(segments, -1, width, width).sum(1)
    spread = products / count[:, :, None] - mean[:, :, None] * mean[:, None, :]
    start = np.random.default_rng(1).normal(size=width).astype(np.float32)
    direction = jnp.broadcast_to(start, (segments, width))
    for _ in range(ITERATIONS):
        direction = _products(spread, direction)
    return direction


def _products(rows: Float[Array, "S n F"], vector: Float[Array, "S F"]) -> Float[Array, "S n"]:
    """Matrices times vectors; too thin for a library of matrix products."""
    return jnp.sum(rows * vector[:, None, :], axis=2)


def _taken(x: Array, order: Int[Array, "S n"]) -> Array:
    return jax.vmap(lambda x, order: x.at[order].get(mode="promise_in_bounds"))(x, order)
