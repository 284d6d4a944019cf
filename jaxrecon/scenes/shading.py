"""Light on surfaces, with soft shadows."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxrecon.scenes.noise import mixed, uniform
from jaxrecon.scenes.solids import Interval, any_solid
from jaxrecon.scenes.vectors import Vector
from jaxrecon.scenes.world import Hit, Lights, World

_SHARPNESS = 60.0
"""How narrow highlights are."""


def shade(
    world: World, tests: tuple[Interval, ...], hit: Hit, ray: Vector, colour: Vector, bits: Array
) -> Vector:
    """Light from surfaces of a given colour towards the camera.

    Shade comes from the middle of each light, shadow from one random point of it a sample; `bits`
    are the random bits.
    """
    gloss = world.materials.gloss[hit.number]
    towards = -ray.unit()
    start = hit.point + hit.normal * 1e-3 if hit.entry is None else hit.entry

    def add_light(total: Vector, numbered: tuple[Array, Lights]) -> tuple[Vector, None]:
        number, light = numbered
        to_light = light.position - start
        to_point_of_it = to_light + _in_ball(bits, number) * light.radius
        dark = any_solid(world.solids, tests, start, to_point_of_it)
        strength = jnp.where(dark, 0.0, 1.0)
        diffuse, highlight = _reflected(hit.normal, to_light, towards)
        light_here = light.colour * strength
        shine = gloss * highlight
        lit = colour * diffuse + Vector(shine, shine, shine)
        return total + lit * light_here, None

    ambient = colour * world.surroundings.ambient(hit.point, hit.normal)
    count = jnp.arange(world.lights.radius.shape[0], dtype=jnp.uint32)
    light = lax.scan(add_light, ambient, (count, world.lights))[0]
    return light if hit.dimmed is None else light * hit.dimmed


def _reflected(normal: Vector, to_light: Vector, towards: Vector) -> tuple[Array, Array]:
    """Share of light that a matt surface sends back, and a glossy one's highlight.

    Lambert's law, and Blinn-Phong in Schlick's approximation, over the square of the distance.
    """
    square = to_light.dot(to_light)
    direction = to_light * (1 / jnp.sqrt(square))
    facing = jnp.maximum(normal.dot(direction), 0) / (0.2 + square)
    peak = jnp.maximum(normal.dot((direction + towards).unit()), 0)
    highlight = 0.6 * peak / (_SHARPNESS * (1 - peak) + peak)
    return lax.optimization_barrier((facing, highlight * facing))


def _in_ball(bits: Array, number: Array) -> Vector:
    """A random point in a cube about as large as the unit ball."""
    first = mixed(bits + number * jnp.uint32(0x9E3779B9))
    second, third = mixed(first), mixed(first ^ jnp.uint32(0x5BD1E995))
    return Vector(*(uniform(b) * 1.6 - 0.8 for b in (first, second, third)))
