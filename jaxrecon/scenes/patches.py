"""Pictures, posters, signs, doors and windows: rectangles painted on upright surfaces.

A surface is divided into columns and rows, and each cell has one rectangle at most, of one of a
few kinds that a scene has. They are paint: what lies under them and their depth do not change.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.noise import hashed, mixed, uniform
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.vectors import Vector

KINDS = 16
"""Kinds of rectangles that a scene has; a power of two."""

FRAMES = 4
"""Materials of their frames; a power of two."""


@pytree_dataclass
class Walls:
    """How `M` surfaces are divided, in metres.

    `across` and `up` are the sizes of a cell, `edge` and `foot` where the first one begins,
    `filled` is the largest share of a cell's sides that a rectangle takes, and `missing` the share
    of cells without one.
    """

    across: Array
    up: Array
    edge: Array
    foot: Array
    filled: Array
    missing: Array
    seed: Int[Array, "..."]

    def __getitem__(self, index: object) -> "Walls":
        return jax.tree.map(lambda leaf: leaf[index], self)


@pytree_dataclass
class Kinds:
    """Half sizes of `KINDS` rectangles and the width of their frames, in metres.

    `door` tells which stand on the floor, and `window` which are lit from behind.
    """

    wide: Array
    high: Array
    frame: Array
    door: Bool[Array, "..."]
    window: Bool[Array, "..."]

    def __getitem__(self, index: object) -> "Kinds":
        return jax.tree.map(lambda leaf: leaf[index], self)


@pytree_dataclass
class Patches:
    """Rectangles on the surfaces of a scene.

    Their materials follow those of the `M` surfaces: first those of the kinds, then the frames'.
    """

    walls: Walls
    kinds: Kinds


@pytree_dataclass
class OnPatch:
    """Where points lie on rectangles.

    `here` tells which do, `number` is that of the material, `u` and `v` are metres from the middle
    of a rectangle. One that is too large for its cell is shrunk, with what is on it; `u` and `v`
    are then those before, `larger` times as large.
    """

    here: Bool[Array, "..."]
    number: Int[Array, "..."]
    u: Array
    v: Array
    larger: Array


def draw_kinds(rng: Rng) -> Kinds:
    """Doors, windows, banners, and pictures from notes to large posters."""
    u = rng.uniform(6, KINDS)
    door, window = u[0] < 0.15, (u[0] >= 0.15) & (u[0] < 0.32)
    banner = (u[0] >= 0.32) & (u[0] < 0.55)
    wide = jnp.where(banner, 0.5 * 5.0 ** u[1], 0.12 * 7.0 ** u[1])
    high = jnp.where(banner, 0.3 + 0.8 * u[2], wide * jnp.exp2(1.6 * u[2] - 0.8))
    wide = jnp.where(door, 0.4 + 0.15 * u[1], jnp.where(window, 0.35 + 0.9 * u[1], wide))
    high = jnp.where(door, 0.98 + 0.1 * u[2], jnp.where(window, 0.4 + 0.4 * u[2], high))
    frame = jnp.where(u[3] < 0.5, 0.0, 0.01 + 0.04 * u[4])
    frame = jnp.where(door | window, 0.04 + 0.06 * u[4], frame)
    return Kinds(wide, high, jnp.minimum(frame, 0.3 * wide), door, window)


def draw_walls(
    rng: Rng, wide: Float[Array, " M"], high: Float[Array, " M"], foot: Array, share: Array
) -> Walls:
    """Divides surfaces that are `wide` and `high` metres large and begin at the height `foot`.

    `share` is that of the surfaces which have rectangles, one for each of them; 0 for none.
    """
    streams = rng.split(2)
    count = wide.shape[0]
    u = streams[0].uniform(4, count)
    columns = jnp.maximum(jnp.round(wide / (1.2 * 3.0 ** u[0])), 1.0)
    rows = jnp.maximum(jnp.round(high / 3.5), 1.0)
    return Walls(
        across=wide / columns,
        up=high / rows,
        edge=0.5 * wide,
        foot=foot,
        filled=0.45 + 0.5 * u[1],
        missing=jnp.where(u[2] < share, 0.1 + 0.5 * u[3], 1.0),
        seed=streams[1].integer(count),
    )


def on_patches(
    patches: Patches, surface: Int[Array, "..."], u: Array, v: Array, normal: Vector
) -> OnPatch:
    """Which points of surfaces lie on rectangles, and on which.

    Args:
      patches: those of the scene.
      surface: number of the surface of each point.
      u, v: where on it, in metres; `v` is the height on upright surfaces.
      normal: the unit normal there; surfaces that are not upright have no rectangles.
    """
    wall = patches.walls[surface]
    across, up = u + wall.edge, v - wall.foot
    column, row = jnp.floor(across / wall.across), jnp.floor(up / wall.up)
    x_side, y_side = (normal.x > 0).astype(jnp.int32), (normal.y > 0).astype(jnp.int32)
    cell = column.astype(jnp.int32), row.astype(jnp.int32), x_side + 2 * y_side
    bits = hashed(*cell, wall.seed)
    place = mixed(bits)
    # Uniform numbers leave the lowest eight bits out.
    number = (bits & np.uint32(KINDS - 1)).astype(jnp.int32)
    frame = ((bits >> 4) & np.uint32(FRAMES - 1)).astype(jnp.int32)
    kind = patches.kinds[number]
    room = 0.5 * wall.filled * jnp.minimum(wall.across / kind.wide, wall.up / kind.high)
    scale = jnp.minimum(room, 1.0)
    wide, high = kind.wide * scale, kind.high * scale
    aside = (uniform(place) - 0.5) * (wall.across - 2 * wide)
    level = (place & np.uint32(255)).astype(jnp.int32).astype(jnp.float32)
    raised = 0.35 + (0.45 / 256) * level
    raised = jnp.where(kind.door, 0.0, raised) * (wall.up - 2 * high) + high
    x = across - (column + 0.5) * wall.across - aside
    y = up - row * wall.up - raised
    outside = jnp.maximum(jnp.abs(x) - wide, jnp.abs(y) - high)
    upright = jnp.abs(normal.z) < 0.5
    here = upright & (uniform(bits) >= wall.missing) & (outside < 0)
    framed = outside > -kind.frame * scale
    material = patches.walls.across.shape[0] + jnp.where(framed, KINDS + frame, number)
    return OnPatch(here, material, x / scale, y / scale, 1 / scale)


def sizes(kinds: Kinds) -> Float[Array, " N"]:
    """Widths of the materials of kinds and frames, in metres."""
    largest = 2 * jnp.maximum(kinds.wide, kinds.high)
    return jnp.concatenate([largest, jnp.full(FRAMES, 0.2)])


def bright(kinds: Kinds) -> Vector:
    """How much brighter than paint materials of kinds and frames are: windows, three stops."""
    gain = jnp.concatenate([jnp.where(kinds.window, 8.0, 1.0), jnp.ones(FRAMES)])
    return Vector(gain, gain, gain)
