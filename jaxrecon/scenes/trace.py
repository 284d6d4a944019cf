"""Which surface each ray meets first, exactly."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrecon.scenes.solids import FAR, Interval, first_solid, meet
from jaxrecon.scenes.vectors import Vector, where
from jaxrecon.scenes.world import Hit, World


def cast(world: World, tests: tuple[Interval, ...], origin: Vector, ray: Vector) -> Hit:
    """Follows rays of any length from `origin` to what they meet first.

    Barriers between the stages keep XLA from computing a stage again for each of its uses.
    """
    about, number = first_solid(world.solids, tests, origin, ray)
    around = world.surroundings.depth(origin, ray)
    on_solid = about < jnp.minimum(around, 0.5 * FAR)
    one = world.solids[number]
    solid_depth, unit_point, unit_normal = meet(one, number, tests, origin, ray)
    depth = jnp.where(on_solid, solid_depth, around)
    point = origin + ray * jnp.minimum(depth, FAR)
    face_normal, face = world.surroundings.face(point, ray)
    normal = where(on_solid, one.world_normal(unit_normal), face_normal)
    u, v = _on_surface(
        where(on_solid, unit_point * one.half, point), where(on_solid, unit_normal, face_normal)
    )
    length = ray.length()
    slant = jnp.maximum(jnp.abs(normal.dot(ray)) / length, 0.15)
    footprint = depth * length / (world.cameras.focal * slant)
    material = jnp.where(on_solid, number, len(tests) + face)
    found = depth < 0.5 * FAR
    return lax.optimization_barrier(Hit(depth, found, point, normal, u, v, footprint, material))


def _on_surface(point: Vector, normal: Vector) -> tuple[Array, Array]:
    """The two coordinates of a point across the main direction of its normal."""
    ax, ay, az = jnp.abs(normal.x), jnp.abs(normal.y), jnp.abs(normal.z)
    is_x = (ax > ay) & (ax > az)
    is_z = (az >= ay) & ~is_x
    return jnp.where(is_x, point.y, point.x), jnp.where(is_z, point.y, point.z)
