"""Surface normals of point maps."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float


def normals_from_points(
    points: Float[Array, "*dims H W 3"], mask: Bool[Array, "*dims H W"] | None = None
) -> tuple[Float[Array, "*dims H W 3"], Bool[Array, "*dims H W"]]:
    """Unit normal of each pixel from its four neighbours, in the frame of the points.

    The sum of the unit normals of the four triangles (up, left), (left, down), (down, right) and
    (right, up) whose corners are all valid, scaled to length one. On a surface that faces an
    OpenCV camera the normal points towards the camera (negative z).

    Args:
      points: the point of each pixel.
      mask: which points count; all finite ones if not given.

    Returns:
      The normals (zero where there is none) and where there is one.

    Source: upstream `points_to_normals` (`pi3/utils/geometry.py`).
    """
    valid = jnp.isfinite(points).all(axis=-1)
    if mask is not None:
        valid &= mask
    points = jnp.where(valid[..., None], points, 0)
    around = [_neighbour(points, valid, *step) for step in ((-1, 0), (0, -1), (1, 0), (0, 1))]
    total, any_valid = jnp.zeros_like(points), jnp.zeros_like(valid)
    for (first, first_valid), (second, second_valid) in zip(
        around, around[1:] + around[:1], strict=True
    ):
        corner_valid = first_valid & second_valid & valid
        normal = _unit(jnp.cross(first - points, second - points))
        total += jnp.where(corner_valid[..., None], normal, 0)
        any_valid |= corner_valid
    return jnp.where(any_valid[..., None], _unit(total), 0), any_valid


def _neighbour(points: Array, valid: Array, down: int, right: int) -> tuple[Array, Array]:
    """Value and validity of the pixel `down` rows below and `right` columns to the right."""
    shifted = jnp.roll(points, (-down, -right), axis=(-3, -2))
    shifted_valid = jnp.roll(valid, (-down, -right), axis=(-2, -1))
    height, width = valid.shape[-2:]
    row, column = jnp.arange(height)[:, None] + down, jnp.arange(width)[None] + right
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return shifted, shifted_valid & lax.broadcast_to_rank(inside, valid.ndim)


def _unit(vectors: Array) -> Array:
    length = jnp.sqrt(jnp.sum(vectors * vectors, axis=-1, keepdims=True))
    return vectors / jnp.maximum(length, 1e-12)
