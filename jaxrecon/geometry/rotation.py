"""Rotations."""

import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float


def nearest_rotation(matrix: Float[Array, "*dims 3 3"]) -> Float[Array, "*dims 3 3"]:
    """The rotation nearest to a 3x3 matrix whose rows are first scaled to length one.

    With `M` the scaled matrix and `M^T = U S V^T`, the result is `V diag(1, 1, det(V U^T)) U^T`:
    orthogonal Procrustes with the reflection taken out of the weakest direction (arXiv 2006.14616;
    upstream `CameraHead.svd_orthogonalize`). It jumps where a reflection meets two equal smallest
    singular values.
    """
    length = jnp.linalg.norm(matrix, axis=-1, keepdims=True)
    rows = matrix / jnp.maximum(length, 1e-12)
    u, _, vt = jnp.linalg.svd(jnp.swapaxes(rows, -1, -2), full_matrices=False)
    v, ut = jnp.swapaxes(vt, -1, -2), jnp.swapaxes(u, -1, -2)
    sign = jnp.linalg.det(jnp.matmul(v, ut, precision=Precision.HIGHEST))
    fix = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], axis=-1)
    return jnp.matmul(v * fix[..., None, :], ut, precision=Precision.HIGHEST)
