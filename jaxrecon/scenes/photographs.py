"""Pictures from files as surfaces of rendered scenes: an atlas with every picture at all scales.

A picture is square in the atlas, with sides that are halved down to one texel; three channels of
eight bits are packed into one number, so that a texel is one read from memory.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8, UInt32

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.vectors import Vector, mix, where

_GREY = 3**-0.5
_LIGHT = (np.arange(256, dtype=np.float32) / 255) ** np.float32(2.2)


@pytree_dataclass
class Pictures:
    """`N` pictures, each with its smaller versions one after another, RGB in the lowest 24 bits."""

    texels: UInt32[Array | np.ndarray, "N T"]

    @property
    def side(self) -> int:
        """Of the largest version, in texels."""
        return round(((3 * self.texels.shape[1] + 1) / 4) ** 0.5)

    def colour(self, number: Int[Array, "..."], u: Array, v: Array, width: Array) -> Vector:
        """Display-encoded RGB, blended between the four nearest texels.

        Args:
          number: of the picture.
          u, v: place in it, which is 1 wide; beyond it the picture goes on as in a mirror.
          width: of a pixel at that place; the version whose texels are about as wide is read.
        """
        levels = self.side.bit_length() - 1
        blur = jnp.log2(jnp.maximum(width * self.side, 1.0))
        level = jnp.clip(jnp.round(blur), 0, levels).astype(jnp.int32)
        side = self.side >> level
        # 4^k + 4^(k+1) + ... of the levels before this one.
        before = (4 * self.side**2 - 4 * side * side) // 3
        start = number * self.texels.shape[1] + before
        column, right = _cell(u, side)
        row, down = _cell(v, side)
        next_column = jnp.minimum(column + 1, side - 1)
        next_row = jnp.minimum(row + 1, side - 1)

        def read(y: Array, x: Array) -> Vector:
            flat = jnp.asarray(self.texels).reshape(-1)
            return _unpacked(flat.at[start + y * side + x].get(mode="promise_in_bounds"))

        above = mix(read(row, column), read(row, next_column), right)
        below = mix(read(next_row, column), read(next_row, next_column), right)
        return mix(above, below, down)


@pytree_dataclass
class Prints:
    """How pictures lie on `M` surfaces.

    `width` is that of a picture in metres, `turned` rotates its colours, and `share` is 1 where the
    surface has a picture at all, else 0.
    """

    share: Array
    number: Int[Array, "..."]
    width: Array
    across: Array
    along: Array
    cosine: Array
    sine: Array
    gain: Vector
    turned: Array
    contrast: Array

    def __getitem__(self, index: object) -> "Prints":
        return jax.tree.map(lambda leaf: leaf[index], self)


def draw_prints(rng: Rng, size: Float[Array, " M"], pictures: Pictures, share: float) -> Prints:
    """Random pictures for surfaces about `size` metres wide, on `share` of them."""
    streams = rng.split(4)
    count = size.shape[0]
    u = streams[0].uniform(11, count)
    # One scene in eight has no picture at all.
    present = jnp.where(streams[3].uniform() < 0.125, 0.0, min(share / 0.875, 1.0))
    # From small tiles to a photograph as large as the surface, and cut-outs of larger ones.
    width = size * jnp.exp2(jnp.where(u[1] < 0.5, 0.8 * u[2], -2.2 + 3.2 * u[2]))
    angle = jnp.where(u[3] < 0.7, jnp.floor(4 * u[4]) * (jnp.pi / 2), 2 * jnp.pi * u[4])
    stops = 0.7 * streams[1].centred(count)
    tint = 0.2 * streams[2].centred(3, count)
    red, green, blue = jnp.exp2(stops[None] + tint)
    return Prints(
        share=(u[0] < present).astype(jnp.float32),
        number=jnp.floor(u[5] * pictures.texels.shape[0]).astype(jnp.int32),
        width=width,
        across=2 * u[6],
        along=2 * u[7],
        cosine=jnp.cos(angle),
        sine=jnp.sin(angle),
        gain=Vector(red, green, blue),
        turned=jnp.where(u[8] < 0.25, 2 * jnp.pi * u[9], 0.0),
        contrast=0.7 + 0.6 * u[10],
    )


def printed(prints: Prints, pictures: Pictures, u: Array, v: Array, footprint: Array) -> Vector:
    """Linear colour of surfaces with pictures; arguments as those of `textures.albedo`."""
    x = (u * prints.cosine - v * prints.sine) / prints.width + prints.across
    y = (u * prints.sine + v * prints.cosine) / prints.width + prints.along
    colour = pictures.colour(prints.number, x, y, footprint / prints.width)
    colour = hue_turned(colour, prints.turned)
    return linear_light(colour, 2.2 * prints.contrast) * prints.gain


def backdrop(prints: Prints, pictures: Pictures, ray: Vector, sky: Vector) -> Vector:
    """Light from beyond everything: of a picture around the horizon or, without one, the sky."""
    direction = ray.unit()
    turn = jnp.arctan2(direction.y, direction.x) * (1 / jnp.pi)
    high = direction.z * (1 / jnp.pi)
    width = 2.0 ** (0.5 * jnp.round(2 * prints.contrast))
    place = 2 * turn * width, -2 * high * width + 0.5
    colour = pictures.colour(prints.number, *place, jnp.float32(1 / 220) * jnp.ones_like(high))
    light = linear_light(colour) * 1.5
    return where((prints.share > 0.5) & (prints.contrast < 1), light, sky)


def linear_light(colour: Vector, gamma: Array | float = 2.2) -> Vector:
    """Light of display-encoded colours."""
    return Vector(*(jnp.clip(c, 0.004, 1.0) ** gamma for c in (colour.x, colour.y, colour.z)))


def hue_turned(colour: Vector, angle: Array) -> Vector:
    """Colours turned about the axis of greys."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    axis = Vector(*(jnp.full_like(colour.x, _GREY),) * 3)
    along = axis * (axis.dot(colour) * (1 - cosine))
    return colour * cosine + axis.cross(colour) * sine + along


def pyramid(picture: UInt8[np.ndarray, "S S 3"]) -> UInt32[np.ndarray, " T"]:
    """A picture and its halved versions, packed; the side is a power of two.

    Means are taken of linear light.
    """
    parts, light = [_packed(picture)], _LIGHT[picture]
    while len(light) > 1:
        side = len(light) // 2
        light = light.reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
        parts.append(_packed(np.round(255 * light ** np.float32(1 / 2.2))))
    return np.concatenate(parts)


def _packed(picture: np.ndarray) -> UInt32[np.ndarray, " T"]:
    red, green, blue = np.moveaxis(picture.astype(np.uint32), -1, 0)
    return (red << 16 | green << 8 | blue).reshape(-1)


def _cell(place: Array, side: Array) -> tuple[Array, Array]:
    """Number of the texel at or before a place of a mirrored picture, and the share of the next."""
    mirrored = 1 - jnp.abs(jnp.mod(place, 2.0) - 1)
    at = mirrored * side.astype(jnp.float32) - 0.5
    at = jnp.clip(at, 0, (side - 1).astype(jnp.float32))
    low = jnp.floor(at)
    return low.astype(jnp.int32), at - low


def _unpacked(texel: Array) -> Vector:
    red, green, blue = ((texel >> shift) & np.uint32(255) for shift in (16, 8, 0))
    return Vector(
        *(c.astype(jnp.int32).astype(jnp.float32) * (1 / 255) for c in (red, green, blue))
    )
