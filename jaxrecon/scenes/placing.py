"""Where solids stand: never too near to a camera."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxrecon.scenes.solids import Turn
from jaxrecon.scenes.vectors import Vector

_LEAST, _ENOUGH = 0.35, 1.0
_AWAY = -1000.0


def at_best(
    x: Float[Array, "C N"],
    y: Float[Array, "C N"],
    z: Float[Array, "C N"],
    half: Vector,
    axes: Turn,
    cameras: Vector,
) -> Vector:
    """The first of `C` places of each of `N` solids that is a metre from every camera.

    If there is none, the place farthest from the cameras.
    """
    gap = lax.optimization_barrier(clearance(Vector(x, y, z), half, axes, cameras))
    best = jnp.argmax(jnp.minimum(gap, _ENOUGH), axis=0)
    return lax.optimization_barrier(Vector(x, y, z)[best, jnp.arange(best.shape[0])])


def out_of_the_way(centre: Vector, half: Vector, axes: Turn, cameras: Vector) -> Vector:
    """Puts solids that come nearer than 0.35 m to a camera out of sight, far below the ground."""
    good = clearance(centre, half, axes, cameras) >= _LEAST
    return Vector(centre.x, centre.y, jnp.where(good, centre.z, _AWAY))


def clearance(centre: Vector, half: Vector, axes: Turn, cameras: Vector) -> Float[Array, "*dims N"]:
    """Distance from each solid's bounding box to the nearest camera."""
    rank = centre.x.ndim + 1

    def each_camera(vector: Vector) -> Vector:
        # Room for an axis of cameras behind the axis of solids.
        return vector[..., None].of_rank(rank)

    offset = cameras.of_rank(rank) - centre[..., None]
    own = Vector(*(each_camera(axis).dot(offset) for axis in (axes.x, axes.y, axes.z)))
    size = each_camera(half)
    outside = Vector(
        jnp.maximum(jnp.abs(own.x) - size.x, 0),
        jnp.maximum(jnp.abs(own.y) - size.y, 0),
        jnp.maximum(jnp.abs(own.z) - size.z, 0),
    )
    return jnp.min(outside.length(), axis=-1)


def standing_height(half: Vector, axes: Turn, spheres: int) -> Float[Array, " N"]:
    """Height of each solid's centre when it stands on flat ground; the last ones are spheres."""
    x, y, z = axes.x.z * half.x, axes.y.z * half.y, axes.z.z * half.z
    box = jnp.abs(x) + jnp.abs(y) + jnp.abs(z)
    is_ball = jnp.arange(box.shape[0]) >= box.shape[0] - spheres
    return jnp.where(is_ball, jnp.sqrt(x * x + y * y + z * z), box)
