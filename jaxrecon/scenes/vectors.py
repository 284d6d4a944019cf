"""Vectors kept as three separate arrays.

A trailing axis of 3 would keep XLA from fusing a renderer into few element-wise kernels, and a
small matrix product would run in TF32 on a GPU.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxrecon.pytree import pytree_dataclass

type Scalar = float | Array


@pytree_dataclass
class Vector:
    """The components x, y and z, whose shapes broadcast together."""

    x: Array
    y: Array
    z: Array

    def __add__(self, other: "Vector") -> "Vector":
        return Vector(self.x + other.x, self.y + other.y, self.z + other.z)

    def __sub__(self, other: "Vector") -> "Vector":
        return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    def __neg__(self) -> "Vector":
        return Vector(-self.x, -self.y, -self.z)

    def __mul__(self, factor: "Vector | Scalar") -> "Vector":
        other = factor if isinstance(factor, Vector) else _equal(factor)
        return Vector(self.x * other.x, self.y * other.y, self.z * other.z)

    def __getitem__(self, index: object) -> "Vector":
        return Vector(self.x[index], self.y[index], self.z[index])

    def dot(self, other: "Vector") -> Array:
        return self.x * other.x + self.y * other.y + self.z * other.z

    def cross(self, other: "Vector") -> "Vector":
        return Vector(
            self.y * other.z - self.z * other.y,
            self.z * other.x - self.x * other.z,
            self.x * other.y - self.y * other.x,
        )

    def length(self) -> Array:
        return jnp.sqrt(self.dot(self))

    def unit(self) -> "Vector":
        return self * (1 / jnp.maximum(self.length(), 1e-12))

    def of_rank(self, rank: int) -> "Vector":
        """The same with so many axes, the new ones in front."""
        return Vector(*(lax.broadcast_to_rank(part, rank) for part in (self.x, self.y, self.z)))

    def stack(self) -> Float[Array, "*dims 3"]:
        """One array with a trailing axis of 3."""
        return jnp.stack(jnp.broadcast_arrays(self.x, self.y, self.z), axis=-1)


def constant(x: float, y: float, z: float) -> Vector:
    """A vector of three numbers."""
    return Vector(jnp.float32(x), jnp.float32(y), jnp.float32(z))


def columns(table: Float[Array, "*dims 3"]) -> Vector:
    """The trailing axis of 3 taken apart."""
    return Vector(table[..., 0], table[..., 1], table[..., 2])


def where(condition: Array, yes: Vector, no: Vector) -> Vector:
    """`jnp.where` for each component."""
    return Vector(
        jnp.where(condition, yes.x, no.x),
        jnp.where(condition, yes.y, no.y),
        jnp.where(condition, yes.z, no.z),
    )


def mix(first: Vector, second: Vector, share: Array) -> Vector:
    """`first` where `share` is 0, `second` where it is 1."""
    return first + (second - first) * share


def _equal(factor: Scalar) -> Vector:
    value = jnp.asarray(factor, jnp.float32)
    return Vector(value, value, value)
