"""A median of each pixel's neighbourhood that keeps to the edges of the image."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.nn.views import map_views

LIKENESS = 0.07
"""The distance of two colours in RGB at which a neighbour's weight has fallen to exp(-1/2)."""

HALVINGS = 12
"""How often the range of a neighbourhood is halved to find its median."""

MOST_RADIUS = 16

PIXELS = 2**19
"""Most pixels of the views that are worked on together: each has weights for its neighbours."""


def weighted_median(
    values: Float[Array, "G H W"],
    weights: Float[Array, "G H W"],
    images: Float[Array, "G H W 3"],
    *,
    radius: int,
) -> Float[Array, "G H W"]:
    """The weighted median of the values around each pixel, up to `radius` rows and columns away.

    A neighbour's weight is multiplied by Gaussians of how far away it is and of how unlike its
    colour is, as in a bilateral filter: where an edge of the values is soft, or lies beside that of
    the image, it moves there. Of the neighbours every other one counts, as on a chessboard. The
    median is exact to 2^-12 of the range of the neighbourhood.

    Args:
      values: to be filtered, such as logarithms of depths.
      weights: how much the value of each pixel counts, above 0.
      images: RGB in [0, 1].
      radius: in pixels, at least 1.

    Source: Ma et al., Constant time weighted median filtering for stereo matching and beyond,
    ICCV 2013.
    """
    of_views = jax.vmap(partial(_median_of_view, radius=radius))
    at_once = max(1, PIXELS // (values.shape[1] * values.shape[2]))
    return map_views(lambda views: of_views(*views), (values, weights, images), at_once=at_once)


def _median_of_view(
    values: Float[Array, "H W"],
    weights: Float[Array, "H W"],
    image: Float[Array, "H W 3"],
    *,
    radius: int,
) -> Float[Array, "H W"]:
    offsets, nearness = _neighbours(radius)
    padded, padded_weights, padded_image = (
        jnp.pad(x, ((radius, radius),) * 2 + ((0, 0),) * (x.ndim - 2), mode="edge")
        for x in (values, weights, image)
    )

    def shifted(x: Float[Array, "h w *rest"], offset: Array) -> Float[Array, "H W *rest"]:
        start = *offset, *(0,) * (x.ndim - 2)
        return jax.lax.dynamic_slice(x, start, (*values.shape, *x.shape[2:]))

    def weigh(neighbour: tuple[Array, Array]) -> Float[Array, "H W"]:
        offset, near = neighbour
        unlike = jnp.sum((shifted(padded_image, offset) - image) ** 2, axis=-1)
        return near * jnp.exp(-unlike / (2 * LIKENESS**2)) * shifted(padded_weights, offset)

    counted = jax.lax.map(weigh, (offsets, nearness))
    half = counted.sum(axis=0) / 2

    def extreme(start: float, fold: Callable[[Array, Array], Array]) -> Float[Array, "H W"]:
        window = 2 * radius + 1, 2 * radius + 1
        return jax.lax.reduce_window(padded, start, fold, window, (1, 1), "valid")

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2

        def add(at: Array, below: Array) -> Array:
            return below + jnp.where(shifted(padded, offsets[at]) <= middle, counted[at], 0.0)

        enough = jax.lax.fori_loop(0, len(offsets), add, jnp.zeros_like(values)) >= half
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    bounds = extreme(jnp.inf, jax.lax.min), extreme(-jnp.inf, jax.lax.max)
    return jax.lax.fori_loop(0, HALVINGS, halve, bounds)[1]


def _neighbours(radius: int) -> tuple[Array, Array]:
    """Offsets (row, column) from the corner of the window, and weights by distance."""
    reach = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(reach, reach, indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = offsets[offsets.sum(axis=1) % 2 == 0]
    near = np.exp(-np.sum(offsets**2, axis=1) / (2 * radius**2))
    return jnp.asarray(offsets + radius, jnp.int32), jnp.asarray(near, jnp.float32)
