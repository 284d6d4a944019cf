"""Which surface each ray meets first, exactly."""

from dataclasses import replace

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrecon.scenes.patches import on_patches
from jaxrecon.scenes.relief import Relief, enter
from jaxrecon.scenes.solids import FAR, Interval, Solids, first_solid, meet
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
    if world.relief is not None:
        local = (
            where(on_solid, unit_point * one.half, point),
            where(on_solid, unit_normal, face_normal),
            where(on_solid, one.unit_direction(ray) * one.half, ray),
        )
        surface = jnp.where(on_solid, number, len(tests) + face)
        return _with_relief(world, world.relief, (depth, point, surface, on_solid, one), local, ray)
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


def _with_relief(
    world: World,
    relief: Relief,
    met: tuple[Array, Vector, Array, Array, Solids],
    local: tuple[Vector, Vector, Vector],
    ray: Vector,
) -> Hit:
    """What rays meet when they have gone on into the openings of surfaces."""
    depth, point, surface, on_solid, one = met
    place, normal, direction = local
    entered = lax.optimization_barrier(enter(relief[surface], place, normal, direction))
    inside = entered.inside & (depth < 0.5 * FAR)
    further = jnp.where(inside, entered.further, 0.0)

    def outwards(local_normal: Vector) -> Vector:
        return where(on_solid, one.world_normal(local_normal), local_normal)

    front = outwards(normal)
    inner = where(inside, entered.normal, normal)
    depth, place = depth + further, place + direction * further
    u, v = _on_surface(place, inner)
    world_normal = outwards(inner)
    back = (entered.cell >> 8).astype(jnp.int32) % relief.depth.shape[0]
    material = jnp.where(inside & entered.back, back, surface)
    length = ray.length()
    slant = jnp.maximum(jnp.abs(world_normal.dot(ray)) / length, 0.15)
    footprint = depth * length / (world.cameras.focal * slant)
    hit = Hit(
        depth,
        depth < 0.5 * FAR,
        point + ray * further,
        world_normal,
        u,
        v,
        footprint,
        material,
        entry=point + front * 1e-3,
        dimmed=jnp.where(inside, 0.6, 1.0),
    )
    return lax.optimization_barrier(hit)


def painted(world: World, hit: Hit) -> Hit:
    """The same hits, with what is painted on surfaces in rectangles, if the scene has any."""
    if world.patches is None:
        return hit
    patch = on_patches(world.patches, hit.number, hit.u, hit.v, hit.normal)
    here = patch.here & hit.found
    if hit.dimmed is not None:
        # What lies inside an opening is not on the surface.
        here &= hit.dimmed == 1
    return lax.optimization_barrier(
        replace(
            hit,
            number=jnp.where(here, patch.number, hit.number),
            u=jnp.where(here, patch.u, hit.u),
            v=jnp.where(here, patch.v, hit.v),
            footprint=jnp.where(here, patch.larger, 1.0) * hit.footprint,
        )
    )


def _on_surface(point: Vector, normal: Vector) -> tuple[Array, Array]:
    """The two coordinates of a point across the main direction of its normal."""
    ax, ay, az = jnp.abs(normal.x), jnp.abs(normal.y), jnp.abs(normal.z)
    is_x = (ax > ay) & (ax > az)
    is_z = (az >= ay) & ~is_x
    return jnp.where(is_x, point.y, point.x), jnp.where(is_z, point.y, point.z)
