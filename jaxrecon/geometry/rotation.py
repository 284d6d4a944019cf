"""Rotations."""

import jax
import jax.numpy as jnp
from jax.lax import Precision
from jaxtyping import Array, Float

_SMALLEST_GAP = 1e-6


def nearest_rotation(matrix: Float[Array, "*dims 3 3"]) -> Float[Array, "*dims 3 3"]:
    """The rotation nearest to a 3x3 matrix whose rows are first scaled to length one.

    With `M` the scaled matrix and `M^T = U S V^T`, the result is `V diag(1, 1, det(V U^T)) U^T`:
    orthogonal Procrustes with the reflection taken out of the weakest direction (arXiv 2006.14616;
    upstream `CameraHead.svd_orthogonalize`). It jumps where a reflection meets two equal smallest
    singular values, and is differentiable everywhere else, equal singular values included.
    """
    length = jnp.linalg.norm(matrix, axis=-1, keepdims=True)
    return _procrustes(matrix / jnp.maximum(length, 1e-12))


@jax.custom_jvp
def _procrustes(matrix: Float[Array, "*dims 3 3"]) -> Float[Array, "*dims 3 3"]:
    return _decompose(matrix)[0]


def _decompose(matrix: Array) -> tuple[Array, Array, Array]:
    """`R`, `U` and `W` of `matrix = R (U diag(W) U^T)`: a rotation and a symmetric matrix."""
    u, weights, vt = jnp.linalg.svd(_transposed(matrix), full_matrices=False)
    v, ut = _transposed(vt), _transposed(u)
    sign = jnp.linalg.det(_product(v, ut))
    fix = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], axis=-1)
    return _product(v * fix[..., None, :], ut), u, fix * weights


@_procrustes.defjvp
def _procrustes_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """`dR = R U X U^T` with `X_ij = (A - A^T)_ij / (W_i + W_j)` and `A = U^T R^T dM U`.

    It follows from `M = R P`: `R^T dM = Omega P + dP`, whose antisymmetric part holds no `dP`.
    """
    rotation, u, weights = _decompose(primals[0])
    change = _product(_product(_transposed(u), _transposed(rotation)), _product(tangents[0], u))
    gap = weights[..., :, None] + weights[..., None, :]
    safe = jnp.where(jnp.abs(gap) < _SMALLEST_GAP, jnp.inf, gap)
    turn = (change - _transposed(change)) / safe
    return rotation, _product(_product(rotation, u), _product(turn, _transposed(u)))


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=Precision.HIGHEST)
