"""Rotations as quaternions (x, y, z, w), the real part last."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_SMALLEST_DIVISOR = 0.1


def rotation_from_quaternion(quaternion: Float[Array, "*dims 4"]) -> Float[Array, "*dims 3 3"]:
    """The rotation of a quaternion of any length but zero."""
    x, y, z, w = jnp.moveaxis(quaternion, -1, 0)
    s = 2 / jnp.sum(quaternion * quaternion, axis=-1)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
        [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
        [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def multiply_quaternions(
    a: Float[Array, "*#dims 4"], b: Float[Array, "*#dims 4"]
) -> Float[Array, "*dims 4"]:
    """The quaternion of the rotation `a` after the rotation `b`."""
    (ax, ay, az, aw), (bx, by, bz, bw) = jnp.moveaxis(a, -1, 0), jnp.moveaxis(b, -1, 0)
    x = aw * bx + ax * bw + ay * bz - az * by
    y = aw * by - ax * bz + ay * bw + az * bx
    z = aw * bz + ax * by - ay * bx + az * bw
    w = aw * bw - ax * bx - ay * by - az * bz
    return jnp.stack([x, y, z, w], axis=-1)


def quaternion_from_rotation(rotation: Float[Array, "*dims 3 3"]) -> Float[Array, "*dims 4"]:
    """The quaternion of length one, real part not negative, of a rotation.

    Row `i` of `products` is the quaternion times four times its component `i`; the row of the
    largest component is the most accurate one.
    """
    r = rotation
    xx, yy, zz = r[..., 0, 0], r[..., 1, 1], r[..., 2, 2]
    xy, xz, yz = (
        r[..., 0, 1] + r[..., 1, 0],
        r[..., 0, 2] + r[..., 2, 0],
        r[..., 1, 2] + r[..., 2, 1],
    )
    xw, yw, zw = (
        r[..., 2, 1] - r[..., 1, 2],
        r[..., 0, 2] - r[..., 2, 0],
        r[..., 1, 0] - r[..., 0, 1],
    )
    rows = [
        [1 + xx - yy - zz, xy, xz, xw],
        [xy, 1 - xx + yy - zz, yz, yw],
        [xz, yz, 1 - xx - yy + zz, zw],
        [xw, yw, zw, 1 + xx + yy + zz],
    ]
    products = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    squares = jnp.diagonal(products, axis1=-2, axis2=-1)
    largest = jax.nn.one_hot(jnp.argmax(squares, axis=-1), 4, dtype=r.dtype)
    divisor = 2 * jnp.sqrt(jnp.maximum(jnp.sum(largest * squares, axis=-1), _SMALLEST_DIVISOR))
    quaternion = jnp.sum(largest[..., None] * products, axis=-2) / divisor[..., None]
    return jnp.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
