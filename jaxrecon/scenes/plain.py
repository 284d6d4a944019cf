"""Plain scenes: paint of one colour on most surfaces, and isolated pictures, doors and windows."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.patches import FRAMES, Patches, bright, draw_kinds, draw_walls, sizes
from jaxrecon.scenes.photographs import Pictures, draw_prints
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.rooms import Room
from jaxrecon.scenes.textures import Materials, colour_of, draw_materials
from jaxrecon.scenes.vectors import Vector, where
from jaxrecon.scenes.world import World

_FLOOR, _CEILING = 0, 1


def made_plain(
    rng: Rng, world: World, boxes: int, config: SceneConfig, pictures: Pictures | None
) -> World:
    """A scene that is `world.plain`, painted and hung with pictures; others stay as they are.

    The first `boxes` solids are boxes. Relief and prints of the scene, if any, are already drawn.
    """
    assert world.plain is not None
    streams = rng.split(6)
    solids, count = world.solids.half.x.shape[0], world.materials.gloss.shape[0]
    chosen = _chosen(streams[0], world, solids, config) & world.plain
    materials = _painted(streams[1], world.materials, chosen, _paint(streams[2], world, solids))
    kinds = draw_kinds(streams[3])
    walls = draw_walls(streams[4], *_extents(world, boxes, solids, chosen))
    more = streams[5].split(4)
    materials = _joined(materials, _signs(more[0], sizes(kinds), kinds.door | kinds.window))
    gain = jnp.concatenate([jnp.ones(count), bright(kinds).x])
    materials = replace(
        materials,
        light=materials.light * gain,
        dark=materials.dark * gain,
        accent=materials.accent * gain,
    )
    if world.relief is not None:
        closed = chosen & (more[1].uniform(count) < 0.7)
        depth = jnp.where(closed, 0.0, world.relief.depth)
        world = replace(world, relief=replace(world.relief, depth=depth))
    if pictures is not None and world.prints is not None:
        old = world.prints
        old = replace(old, share=jnp.where(jnp.append(chosen, False), 0.0, old.share))
        signs = draw_prints(more[2], sizes(kinds), pictures, config.picture_share)
        filled = jnp.where(kinds.door, 0.1, 0.65)
        filled = jnp.concatenate([filled, jnp.zeros(FRAMES)])
        flat = jnp.zeros_like(signs.width)
        signs = replace(
            signs,
            share=(more[3].uniform(signs.width.shape[0]) < filled).astype(jnp.float32),
            # Upright, and as wide as the rectangle.
            width=sizes(kinds),
            cosine=flat - 1,
            sine=flat,
            across=flat + 0.5,
            along=flat + 0.5,
            gain=signs.gain * bright(kinds),
        )
        world = replace(world, prints=_joined(_joined(old[:-1], signs), old[-1:]))
    return replace(world, materials=materials, patches=Patches(walls, kinds))


def _chosen(rng: Rng, world: World, solids: int, config: SceneConfig) -> Bool[Array, " M"]:
    """Which surfaces of a plain scene have no texture: most walls, and six things in ten.

    Of the thin boxes on walls, which follow the table, three in four keep their texture.
    """
    faces = world.materials.gloss.shape[0] - solids
    share = jnp.full(solids + faces, 0.6)
    if isinstance(world.surroundings, Room):
        share = share.at[2 : 2 + config.pictures].set(0.25)
        share = share.at[solids:].set(0.95).at[solids + _FLOOR].set(0.75)
    else:
        share = share.at[solids:].set(0.0)
    return rng.uniform(solids + faces) < share


def _paint(rng: Rng, world: World, solids: int) -> Vector:
    """Colours of things, and of walls: pale and mostly alike."""
    streams = rng.split(2)
    count = world.materials.gloss.shape[0]
    u = streams[0].uniform(6, count)
    wooden, vivid = u[0] < 0.15, u[0] > 0.6
    hue = jnp.where(wooden, 0.06 + 0.05 * u[1], u[1])
    saturation = jnp.where(vivid, 0.4 + 0.6 * u[2], jnp.where(wooden, 0.25 + 0.4 * u[2], 0.1))
    own = colour_of(hue, saturation, 0.03 + 0.85 * u[3])
    if not isinstance(world.surroundings, Room):
        return own
    face = jnp.arange(count) - solids
    wall = streams[1].uniform(4)
    alike = u[4] < 0.85
    pale_hue = jnp.where(alike, wall[0], u[1])
    pale = jnp.where(alike, 0.3 * wall[1] ** 2, 0.9 * u[2] ** 2)
    value = jnp.where(alike, 0.45 + 0.45 * wall[2], 0.2 + 0.7 * u[3])
    floor, ceiling = face == _FLOOR, face == _CEILING
    pale = jnp.where(floor, 0.4 * u[2] ** 2, jnp.where(ceiling, 0.08 * u[2], pale))
    value = jnp.where(floor, 0.1 + 0.6 * u[3], jnp.where(ceiling, 0.65 + 0.25 * u[3], value))
    return where(face < 0, own, colour_of(pale_hue, pale, value))


def _signs(rng: Rng, size: Array, plain: Bool[Array, " K"]) -> Materials:
    """Materials of kinds of rectangles and of frames; doors, windows and frames are plain."""
    streams = rng.split(3)
    count = size.shape[0]
    u = streams[1].uniform(4, count)
    wooden = u[0] < 0.3
    hue, saturation = jnp.where(wooden, 0.08, u[1]), jnp.where(wooden, 0.45, 0.6 * u[2] ** 3)
    paint = colour_of(hue, saturation, jnp.where(u[3] < 0.25, 0.04, 0.1 + 0.8 * u[3]))
    chosen = jnp.concatenate([plain, jnp.ones(FRAMES, bool)])
    return _painted(streams[2], draw_materials(streams[0], size), chosen, paint)


def _painted(rng: Rng, old: Materials, chosen: Bool[Array, " M"], paint: Vector) -> Materials:
    """Materials with paint, a little uneven, on those chosen; some keep their joints."""
    u = rng.uniform(4, chosen.shape[0])
    flaw = 0.01 + 0.1 * u[0] ** 2

    def put(new: Array | float, before: Array) -> Array:
        return jnp.where(chosen, new, before)

    return replace(
        old,
        light=where(chosen, paint, old.light),
        dark=where(chosen, paint * (1 - flaw), old.dark),
        accent=where(chosen, paint * (1 - 2 * flaw), old.accent),
        # The slow variation of brightness is spread over a whole wall.
        frequency=put(0.15 * old.frequency, old.frequency),
        vein=put(0.0, old.vein),
        grain=put(0.01 + 0.06 * u[1], old.grain),
        joint=put(jnp.where(u[2] < 0.85, 0.0, old.joint), old.joint),
    )


def _extents(
    world: World, boxes: int, solids: int, chosen: Bool[Array, " M"]
) -> tuple[Array, Array, Array, Array]:
    """Width, height and foot of each surface, and the chance that it has rectangles."""
    half, room = world.solids.half, world.surroundings
    faces = chosen.shape[0] - solids
    wide = 2 * jnp.maximum(half.x, half.y)
    is_box = jnp.arange(solids) < boxes
    chance = jnp.where(is_box & (jnp.minimum(half.x, half.y) > 0.1) & (half.z > 0.1), 0.45, 0.0)
    if isinstance(room, Room):
        sides = jnp.stack([room.half_depth, room.half_width])
        # Floor and ceiling, then the walls across x and those across y.
        around = 2 * jnp.concatenate([sides, jnp.repeat(sides, 2)])
        high, foot = jnp.full(faces, room.height), jnp.zeros(faces)
        there = jnp.where(jnp.arange(faces) < 2, 0.0, 0.9)
    else:
        around, high = jnp.ones(faces), jnp.ones(faces)
        foot, there = jnp.zeros(faces), jnp.zeros(faces)
    return (
        jnp.concatenate([wide, around]),
        jnp.concatenate([2 * half.z, high]),
        jnp.concatenate([-half.z, foot]),
        jnp.where(chosen, jnp.concatenate([chance, there]), 0.0),
    )


def _joined[T](first: T, second: T) -> T:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, second)
