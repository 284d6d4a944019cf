"""Small things: books, boxes, cups, bottles, poles and balls, many of them on one table."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.placing import at_best, out_of_the_way, standing_height
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.solids import Solids, Turn, place, turn
from jaxrecon.scenes.vectors import Vector, columns


def draw_sizes(
    rng: Rng, config: SceneConfig, size: Array
) -> tuple[Vector, Turn, Float[Array, " N"]]:
    """Half sizes, rotations and standing heights of things, each about `size` metres wide."""
    streams = rng.split(3)
    boxes, drums, balls = config.clutter_kinds
    count = boxes + drums + balls
    u = streams[0].uniform(count, 3)
    shape, pole = streams[1].uniform(2, count)
    number = jnp.arange(count)
    box = 0.25 * 5.0**u
    board = jnp.stack([box[:, 0], 0.08 + 0.1 * u[:, 1], box[:, 2]], axis=-1)
    book = jnp.stack([box[:, 0], 0.7 * box[:, 0], 0.06 + 0.2 * u[:, 2]], axis=-1)
    box = jnp.where((shape < 0.25)[:, None], board, jnp.where((shape > 0.7)[:, None], book, box))
    radius = jnp.where(pole < 0.35, 0.05 + 0.08 * u[:, 0], 0.2 + 0.45 * u[:, 0])
    height = jnp.where(pole < 0.35, 1.0 + 2.0 * u[:, 2], 0.25 + 0.9 * u[:, 2])
    drum = jnp.stack([radius, radius, height], axis=-1)
    ball = (0.2 + 0.5 * u[:, :1]) * (0.7 + 0.6 * u)
    is_box, is_ball = number < boxes, number >= boxes + drums
    half = jnp.where(is_box[:, None], box, jnp.where(is_ball[:, None], ball, drum))
    half = half * size[:, None]
    yaw, tilt, lean = streams[2].uniform(3, count)
    leans = jnp.where(is_ball | (is_box & (lean < 0.1)), 1.4 * tilt, 0.0)
    sizes, axes = lax.optimization_barrier((columns(half), turn(yaw * 2 * jnp.pi, leans)))
    return sizes, axes, standing_height(sizes, axes, balls)


def on_top(
    rng: Rng,
    half: Vector,
    axes: Turn,
    rise: Array,
    cameras: Vector,
    table: tuple[Vector, Vector, Turn],
) -> Solids:
    """Things in random places of a table top, given its centre, half sizes and axes."""
    centre, extent, own = table
    places = rng.centred(6, rise.shape[0], 2)
    across, along = places[..., 0] * extent.x * 0.95, places[..., 1] * extent.y * 0.95
    x = centre.x + own.x.x * across + own.y.x * along
    y = centre.y + own.x.y * across + own.y.y * along
    z = jnp.broadcast_to(centre.z + extent.z + rise, x.shape)
    spot = at_best(x, y, z, half, axes, cameras)
    return place(out_of_the_way(spot, half, axes, cameras), half, axes)


def strewn(rng: Rng, spread: Array, count: int) -> tuple[Array, Array]:
    """Eight random places on the ground for each thing, within `spread` metres of the origin."""
    u = rng.uniform(8, count, 2)
    away, turned = spread * jnp.sqrt(u[..., 0]), 2 * jnp.pi * u[..., 1]
    return away * jnp.cos(turned), away * jnp.sin(turned)


def merged(config: SceneConfig, solids: Solids, clutter: Solids) -> Solids:
    """All solids of a scene by kind: boxes, then cylinders, then spheres."""
    ends = (-config.cylinders - config.spheres, -config.spheres)
    boxes, drums, _ = config.clutter_kinds
    parts = [
        solids[: ends[0]],
        clutter[:boxes],
        solids[ends[0] : ends[1]],
        clutter[boxes : boxes + drums],
        solids[ends[1] :],
        clutter[boxes + drums :],
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def either(first: Bool[Array, " N"], yes: Solids, no: Solids) -> Solids:
    """For each thing its place in one arrangement or in the other."""
    return jax.tree.map(lambda a, b: jnp.where(first, a, b), yes, no)
