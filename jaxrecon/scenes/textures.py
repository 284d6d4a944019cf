"""Random surfaces: colours, tiled patterns, stains, veins and grain."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.noise import hashed, noise_3d, uniform
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.vectors import Vector, mix

# Columns: height of a tile for width 1, shift of each row, joint, and how much of the colour comes
# from the tile's own tone, from its parity and from a disc in it. Tones are random a tile, so
# that no pattern repeats.
_PATTERNS = np.array(
    [
        [1, 0, 0, 0.3, 0.7, 0],  # checks
        [1e3, 0, 0, 0.6, 0.4, 0],  # stripes
        [1, 0, 0.05, 0.9, 0, 0],  # tiles
        [0.45, 0.5, 0.07, 0.8, 0, 0],  # bricks
        [0.12, 0.37, 0.012, 0.9, 0, 0],  # planks
        [1, 0.5, 0, 0.15, 0, 1],  # spots
        [0.7, 0.3, 0, 0.5, 0.4, 0.5],  # patchwork
    ],
    np.float32,
)
_OCTAVES, _STEP = 6, 2.15
# Each octave's lattice is turned against the one before, to hide the lattices.
_TURN = np.array([[0.0, 0.8, 0.6], [-0.8, 0.36, -0.48], [-0.6, -0.48, 0.64]], np.float32) * _STEP


@pytree_dataclass
class Materials:
    """Numbers that describe `M` surfaces; lengths in metres, frequencies in cycles a metre."""

    light: Vector
    dark: Vector
    accent: Vector
    frequency: Array
    seed: Int[Array, "..."]
    cloud: Array
    pattern: Array
    stain: Array
    vein: Array
    grain: Array
    tile: Array
    aspect: Array
    shift: Array
    joint: Array
    tone: Array
    parity: Array
    disc: Array
    cosine: Array
    sine: Array
    gloss: Array

    def __getitem__(self, index: object) -> "Materials":
        return jax.tree.map(lambda leaf: leaf[index], self)


def draw_materials(rng: Rng, size: Float[Array, " M"]) -> Materials:
    """Random materials for surfaces about `size` metres wide."""
    streams = rng.split(3)
    count = size.shape[0]
    u = streams[0].uniform(20, count)
    kind = jnp.floor(u[0] * len(_PATTERNS)).astype(jnp.int32)
    aspect, shift, joint, tone, parity, disc = jnp.asarray(_PATTERNS).T[:, kind]
    swap = (u[1] < 0.5).astype(jnp.float32)
    bright, dim = (
        colour_of(u[2], u[3] ** 2, 0.45 + 0.45 * u[4]),
        colour_of(u[5], u[6], 0.06 + 0.3 * u[7]),
    )
    angle = jnp.where(u[8] < 0.5, jnp.round(u[9] * 4) * (jnp.pi / 2), u[9] * 2 * jnp.pi)
    return Materials(
        light=mix(bright, dim, swap),
        dark=mix(dim, bright, swap),
        accent=colour_of(u[10], u[11], 0.08 + 0.7 * u[12]),
        frequency=(0.8 + 1.2 * u[13]) / size,
        seed=streams[1].integer(count),
        cloud=0.3 + 0.7 * u[14],
        pattern=jnp.where(u[15] < 0.75, 0.5 + 0.5 * u[16], 0.0),
        stain=u[17] * 0.9,
        vein=jnp.where(u[18] < 0.4, u[18] * 2, 0.0),
        grain=0.15 + 0.4 * u[19],
        tile=size * jnp.exp2(-3.5 + 2 * streams[2].uniform(count)),
        aspect=aspect,
        shift=shift,
        joint=joint,
        tone=tone,
        parity=parity,
        disc=disc,
        cosine=jnp.cos(angle),
        sine=jnp.sin(angle),
        gloss=jnp.maximum(u[12] * 1.6 - 0.8, 0.0),
    )


def albedo(material: Materials, point: Vector, u: Array, v: Array, footprint: Array) -> Vector:
    """Colour of a surface.

    Args:
      material: that of each point.
      point: where in the world, for stains and grain.
      u, v: coordinates on the surface in metres, for patterns.
      footprint: how wide a pixel is there in metres; finer detail fades out.
    """
    low, cloud, fine = _octaves(point * material.frequency, material, footprint)
    pattern, joint = lax.optimization_barrier(_tiles(material, u, v, footprint))
    blend = 0.5 + 0.8 * material.cloud * cloud + material.pattern * (pattern - 0.5)
    colour = mix(material.light, material.dark, _step(blend, 0.5, 0.45))
    marks = _step(low + 0.6 * cloud, 0.75 - material.stain, 0.12) * 0.75
    veins = material.vein * (1 - _step(jnp.abs(cloud), 0.045, 0.035))
    colour = mix(colour, material.accent, jnp.maximum(marks, veins))
    shade = (1 - 0.6 * joint) * (1 + 0.3 * low + material.grain * fine)
    return colour * jnp.clip(shade, 0.2, 1.6)


def _octaves(point: Vector, material: Materials, footprint: Array) -> tuple[Array, Array, Array]:
    """Slow, middle and fine variation, each about in [-1, 1]."""
    cycles = material.frequency * footprint
    values = []
    for octave in range(_OCTAVES):
        sharp = jnp.clip(1.5 - 2 * _STEP**octave * cycles, 0, 1)
        values.append(noise_3d(point, material.seed + octave) * sharp)
        x, y, z = (Vector(*(jnp.float32(t) for t in row)).dot(point) for row in _TURN)
        point = Vector(x, y, z)
    values = lax.optimization_barrier(values)
    low = values[0] + 0.5 * values[1]
    cloud = 0.6 * values[1] + 0.55 * values[2] + 0.4 * values[3] + 0.3 * values[4]
    return low, cloud, values[3] + values[4] + values[5]


def _tiles(material: Materials, u: Array, v: Array, footprint: Array) -> tuple[Array, Array]:
    """Brightness of the tiled pattern in [0, 1], and the share of a joint."""
    scale = 1 / material.tile
    across = (material.cosine * u + material.sine * v) * scale
    down = (material.cosine * v - material.sine * u) * scale / material.aspect
    row = jnp.floor(down)
    across = across + row * material.shift
    column = jnp.floor(across)
    x, y = across - column - 0.5, down - row - 0.5
    cell, line = column.astype(jnp.int32), row.astype(jnp.int32)
    own = uniform(hashed(cell, line, jnp.zeros_like(cell), material.seed))
    odd = ((cell + line) & 1).astype(jnp.float32)
    blur = footprint * scale
    other = uniform(hashed(line, cell, cell, material.seed))
    right, below = x - 0.3 * (own - 0.5), (y - 0.3 * (other - 0.5)) * material.aspect
    radius = jnp.sqrt(right * right + below * below)
    disc = 1 - _step(radius, 0.12 + 0.2 * own, 0.02 + blur)
    edge = jnp.minimum(0.5 - jnp.abs(x), (0.5 - jnp.abs(y)) * material.aspect)
    has_joint = (material.joint > 0).astype(jnp.float32)
    joint = (1 - _step(edge, material.joint, 0.5 * blur + 0.004)) * has_joint
    value = material.tone * own + material.parity * odd + material.disc * disc
    narrow = jnp.minimum(material.aspect, 1.0)
    sharp = jnp.clip(1.5 - 1.5 * blur / narrow, 0, 1)
    return 0.5 + (value - 0.5) * sharp, joint * sharp


def _step(value: Array, edge: Array | float, width: Array | float) -> Array:
    """A smooth step from 0 to 1 around `edge`, from `edge - width` to `edge + width`."""
    t = jnp.clip((value - edge) / (2 * width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def colour_of(hue: Array, saturation: Array, value: Array) -> Vector:
    """RGB of hue, saturation and value, all in [0, 1]."""

    def channel(offset: float) -> Array:
        k = (offset + 6 * hue) % 6
        return value * (1 - saturation * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))

    return Vector(channel(5.0), channel(3.0), channel(1.0))
