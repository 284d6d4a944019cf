"""Houses in a landscape: one that is looked at from in front, others beside and behind it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.solids import Turn, turn
from jaxrecon.scenes.vectors import Vector, where

type Boxes = tuple[Vector, Vector, Turn]
"""Centres, half sizes and axes."""


@pytree_dataclass
class Stance:
    """Whether a landscape has houses, and from which side the first is seen.

    `winged` tells whether the others are wings of the first, and `planted` whether a landscape
    without houses has a tree in the middle.
    """

    built: Bool[Array, ""]
    heading: Float[Array, ""]
    winged: Bool[Array, ""]
    planted: Bool[Array, ""]


def draw_stance(rng: Rng, config: SceneConfig) -> Stance:
    """Seven landscapes in ten have houses."""
    built, heading = rng.uniform(2)
    winged, planted = rng.split(1)[0].uniform(2)
    return Stance(
        built < 0.7,
        2 * jnp.pi * heading,
        winged < config.wings,
        (built >= 0.7) & (planted < config.trees),
    )


def build(rng: Rng, stance: Stance, config: SceneConfig) -> Boxes:
    """Houses whose fronts look about towards `heading`, then their roofs if there are any.

    Heights of centres are those above the ground.
    """
    streams, count = rng.split(3), config.buildings
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
    x, y = -back * c - across * s, -back * s + across * c
    right_angle = jnp.where(first, 0.0, jnp.round(yaw) * jnp.pi / 2)
    facing = stance.heading - jnp.pi / 2 + right_angle + jnp.where(first, 1.2, 0.3) * (yaw - 0.5)
    houses = jnp.stack([x, y, facing, *half.T])
    if config.wings:
        others = jnp.where(first, houses, _wings(streams[2], houses))
        houses = jnp.where(stance.winged, others, houses)
    x, y, facing, *sides = houses
    walls = Vector(x, y, 0.92 * sides[2]), Vector(*sides), turn(facing, jnp.zeros(count))
    if not config.roofs:
        return walls
    roofs = _roofs(streams[2], walls, facing, config.roofs)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), walls, roofs)


def _wings(rng: Rng, houses: Float[Array, "6 N"]) -> Float[Array, "6 N"]:
    """Wings at the ends of the first house in turn, which stand out from its front.

    A house is its place on the ground, its direction and its half sizes.
    """
    u = rng.split(1)[0].uniform(4, houses.shape[1])
    x, y, facing, wide, deep, tall = houses[:, 0]
    half_wide = wide * (0.12 + 0.2 * u[0])
    end = jnp.where(jnp.arange(houses.shape[1]) % 2 == 1, 1.0, -1.0)
    along, out = end * (wide - half_wide * (1.6 * u[1] - 0.6)), deep * (0.1 + 1.1 * u[2])
    c, s = jnp.cos(facing), jnp.sin(facing)
    return jnp.stack(
        [
            x + along * c - out * s,
            y + along * s + out * c,
            jnp.full_like(along, facing),
            half_wide,
            jnp.full_like(along, deep),
            tall * (0.85 + 0.35 * u[3]),
        ]
    )


def _roofs(rng: Rng, walls: Boxes, facing: Array, share: float) -> Boxes:
    """Gables: square beams laid on edge along the tops of houses; those of houses without one are
    small and lie inside the house.
    """
    centre, half, _ = walls
    chance, sink, slope, eaves = rng.uniform(4, facing.shape[0])
    # Along the longer side of the house.
    turned = half.y > half.x
    long, short = jnp.where(turned, half.y, half.x), jnp.where(turned, half.x, half.y)
    side = short * 0.5**0.5 * (1.0 + 0.12 * eaves)
    beam = Vector(long * (0.97 + 0.06 * eaves), side, side)
    here = chance < share
    top = Vector(centre.x, centre.y, centre.z + half.z - 0.35 * short * sink)
    axes = turn(facing + jnp.where(turned, jnp.pi / 2, 0.0), jnp.pi / 4 + 0.2 * (slope - 0.5))
    return where(here, top, centre), where(here, beam, half * 0.3), axes


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
