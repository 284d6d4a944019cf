"""Rigid transforms as 4x4 matrices."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_HIGHEST = jax.lax.Precision.HIGHEST


def rigid(
    rotation: Float[Array, "*dims 3 3"], translation: Float[Array, "*dims 3"]
) -> Float[Array, "*dims 4 4"]:
    """The matrix [R t; 0 0 0 1]."""
    top = jnp.concatenate([rotation, translation[..., None]], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0, 0, 0, 1], top.dtype), (*top.shape[:-2], 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)


def invert_rigid(matrix: Float[Array, "*dims 4 4"]) -> Float[Array, "*dims 4 4"]:
    """Inverse of a rigid transform in closed form, [R^T, -R^T t]."""
    rotation = jnp.swapaxes(matrix[..., :3, :3], -1, -2)
    translation = -jnp.einsum("...ij,...j->...i", rotation, matrix[..., :3, 3], precision=_HIGHEST)
    return rigid(rotation, translation)


def transform_points(
    matrix: Float[Array, "*#dims 4 4"], points: Float[Array, "*#dims 3"]
) -> Float[Array, "*dims 3"]:
    """`R p + t`, in full precision on every device; leading axes broadcast.

    As sums, which the compiler joins with what makes the points: a matrix product of so few columns
    would read and write all of them again, without a matrix unit.
    """
    rank = max(matrix.ndim - 1, points.ndim)
    first, second, third, moved = (
        jax.lax.broadcast_to_rank(matrix[..., :3, column], rank) for column in range(4)
    )
    x, y, z = (jax.lax.broadcast_to_rank(points[..., i : i + 1], rank) for i in range(3))
    return first * x + second * y + third * z + moved
