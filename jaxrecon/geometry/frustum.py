"""Which cameras could see the same space."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry.transforms import transform_points

_HIGHEST = jax.lax.Precision.HIGHEST
_CORNERS = np.array([[x, y] for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))], np.float32)
# Pairs of corners (the near plane's are 0 to 3, the far plane's 4 to 7) along the six directions
# in which a frustum has edges, and the corners of three of the five planes that have normals of
# their own, of which the others are mirror images.
_EDGES = np.array([[0, 1], [0, 3], [0, 4], [1, 5], [2, 6], [3, 7]])
_FACES = np.array([[0, 1], [0, 2], [1, 3], [0, 5], [1, 4]])
_SMALLEST = 1e-12


def frustum_corners(
    intrinsics: Float[Array, "V 3 3"],
    world_from_camera: Float[Array, "V 4 4"],
    near: Float[Array, "V"],
    far: Float[Array, "V"],
) -> Float[Array, "V 8 3"]:
    """World positions of the corners of what each camera sees between two depths.

    The image is taken to reach as far on the other side of the principal point.
    """
    reach = intrinsics[:, :2, 2] / jnp.diagonal(intrinsics, axis1=1, axis2=2)[:, :2]
    slopes = jnp.concatenate(
        [_CORNERS[None] * reach[:, None], jnp.ones((len(reach), len(_CORNERS), 1))], axis=-1
    )
    corners = jnp.concatenate([slopes * near[:, None, None], slopes * far[:, None, None]], axis=1)
    return transform_points(world_from_camera[:, None], corners)


def frustums_overlap(corners: Float[Array, "V 8 3"]) -> Bool[Array, "V V"]:
    """Whether two frustums share a point, by the separating axis theorem."""
    ends = corners[:, _EDGES]
    edges = _unit(ends[:, :, 1] - ends[:, :, 0])
    normals = _unit(jnp.cross(edges[:, _FACES[:, 0]], edges[:, _FACES[:, 1]]))

    def with_all(one: tuple[Array, Array, Array]) -> Bool[Array, " V"]:
        return jax.vmap(lambda *other: ~_separated(*one, *other))(corners, edges, normals)

    return jax.lax.map(with_all, (corners, edges, normals))


def _separated(
    corners1: Float[Array, "8 3"],
    edges1: Float[Array, "6 3"],
    normals1: Float[Array, "5 3"],
    corners2: Float[Array, "8 3"],
    edges2: Float[Array, "6 3"],
    normals2: Float[Array, "5 3"],
) -> Bool[Array, ""]:
    """Whether the two are apart along one of the axes that decide it."""
    crossed = _unit(jnp.cross(edges1[:, None], edges2[None]).reshape(-1, 3))
    axes = jnp.concatenate([normals1, normals2, crossed])
    first, second = (jnp.matmul(axes, c.T, precision=_HIGHEST) for c in (corners1, corners2))
    apart = jnp.maximum(
        first.min(axis=1) - second.max(axis=1), second.min(axis=1) - first.max(axis=1)
    )
    return jnp.any(apart > 0)


def _unit(vectors: Float[Array, "*dims 3"]) -> Float[Array, "*dims 3"]:
    """Vectors of length one; zero where they have no length to speak of."""
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.maximum(length, _SMALLEST) * (length > 1e-6).astype(length.dtype)
