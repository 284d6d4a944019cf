"""Houses in a landscape: one that is looked at from in front, others beside and behind it."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.solids import Turn, turn
from jaxrecon.scenes.vectors import Vector, columns, where

type Boxes = tuple[Vector, Vector, Turn]
"""Centres, half sizes and axes."""


@pytree_dataclass
class Stance:
    """Whether a landscape has houses, and from which side the first is seen."""

    built: Bool[Array, ""]
    heading: Float[Array, ""]


def draw_stance(rng: Rng) -> Stance:
    """Seven landscapes in ten have houses."""
    built, heading = rng.uniform(2)
    return Stance(built < 0.7, 2 * jnp.pi * heading)


def build(rng: Rng, stance: Stance, count: int) -> Boxes:
    """Houses whose fronts look about towards `heading`; heights of centres above the ground."""
    streams = rng.split(2)
    u = streams[0].uniform(count, 3)
    half = jnp.array([[3.0, 2.0, 2.2]]) * jnp.array([[5.0, 3.0, 4.0]]) ** u
    first = jnp.arange(count) == 0
    across, away, yaw, side = streams[1].uniform(4, count)
    sign = jnp.where(side < 0.5, -1.0, 1.0)
    across = jnp.where(
        first, 4.0 * (across - 0.5), sign * (half[0, 0] + half[:, 0] * (0.2 + 1.2 * across))
    )
    back = half[:, 1] + jnp.where(first, 4.0 * away - 1.0, 10.0 * away - 5.0)
    c, s = jnp.cos(stance.heading), jnp.sin(stance.heading)
    centre = Vector(-back * c - across * s, -back * s + across * c, 0.92 * half[:, 2])
    right_angle = jnp.where(first, 0.0, jnp.round(yaw) * jnp.pi / 2)
    facing = stance.heading - jnp.pi / 2 + right_angle + jnp.where(first, 1.2, 0.3) * (yaw - 0.5)
    return centre, columns(half), turn(facing, jnp.zeros(count))


def with_houses(
    houses: Boxes, stance: Stance, boxes: Boxes, height: Callable[[Array, Array], Array]
) -> Boxes:
    """The first boxes replaced by houses that stand on the ground, if there are any."""
    centre, half, axes = houses
    centre = Vector(centre.x, centre.y, centre.z + height(centre.x, centre.y))
    count = centre.x.shape[0]

    def put(old: Vector, new: Vector) -> Vector:
        merged = where(stance.built, new, old[:count])
        return Vector(
            old.x.at[:count].set(merged.x),
            old.y.at[:count].set(merged.y),
            old.z.at[:count].set(merged.z),
        )

    old_centre, old_half, old_axes = boxes
    turned = Turn(put(old_axes.x, axes.x), put(old_axes.y, axes.y), put(old_axes.z, axes.z))
    return put(old_centre, centre), put(old_half, half), turned
