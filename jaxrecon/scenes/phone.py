"""What phones do to pictures: vignette, colours, blur, noise, sharpening and blocks."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.noise import mixed, normal
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.vectors import Vector

_BLOCK = 8
_CHROMA = np.array(
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32
)
_HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class Phone:
    """How `V` pictures of one scene come out; scalars hold for all of them."""

    vignette: Array
    balance: Vector
    contrast: Array
    saturation: Array
    blur: Array
    sharpening: Array
    noise: Array
    blocks: Array


def draw_phone(rng: Rng, views: int, strength: float) -> Phone:
    """A phone of random quality, and how steadily each picture was taken."""
    streams = rng.split(4)
    u = streams[0].uniform(8)
    much = strength * jnp.sqrt(u[7])
    red, green, blue = jnp.exp2(
        much * (0.16 * streams[1].normal(3, 1) + 0.06 * streams[2].normal(3, views))
    )
    shaken = streams[3].uniform(views)
    is_shaken = (shaken > 0.75).astype(jnp.float32)
    return Phone(
        vignette=much * 0.5 * u[0] ** 2,
        balance=Vector(red, green, blue),
        contrast=jnp.exp2(much * (u[1] - 0.5)),
        saturation=1 + much * (u[2] - 0.5),
        blur=much * jnp.clip(0.2 + 0.5 * u[3] + 1.2 * (shaken - 0.75) * is_shaken, 0, 1),
        sharpening=much * jnp.maximum(1.6 * u[4] - 0.6, 0),
        noise=much * 0.07 * u[5] ** 3,
        blocks=much * 0.09 * u[6] ** 3,
    )


def before_film(light: Vector, phone: Phone) -> Vector:
    """Light as it falls on the sensor: less in the corners, tinted, and blurred."""
    height, width = light.x.shape[1:]
    y = (jnp.arange(height, dtype=jnp.float32) - (height - 1) / 2) / (width / 2)
    x = (jnp.arange(width, dtype=jnp.float32) - (width - 1) / 2) / (width / 2)
    shade = 1 - phone.vignette * (y[:, None] ** 2 + x[None] ** 2) / 2
    tinted = light * phone.balance[:, None, None] * jnp.maximum(shade, 0.1)[None]
    blur = phone.blur[:, None, None]
    return Vector(
        *(part + (_smooth(part) - part) * blur for part in (tinted.x, tinted.y, tinted.z))
    )


def after_film(
    images: Float[Array, "V H W 3"], phone: Phone, bits: Array
) -> Float[Array, "V H W 3"]:
    """A developed picture with contrast, saturation, noise, sharpening and blocks."""
    grey = jnp.mean(images, axis=-1, keepdims=True)
    images = jnp.clip(grey + (images - grey) * phone.saturation, 0, 1) ** phone.contrast
    random = jnp.stack([normal(mixed(bits + jnp.uint32(number))) for number in (7, 8, 9)], axis=-1)
    level = phone.noise * (0.3 + 0.7 * jnp.sqrt(jnp.clip(1 - grey, 0, 1)))
    images = images + level * random
    channels = [images[..., number] for number in range(3)]
    sharp = [c + phone.sharpening * (c - _smooth(c)) for c in channels]
    return jnp.clip(_in_blocks(jnp.stack(sharp, axis=-1), phone.blocks), 0, 1)


def _smooth(plane: Float[Array, "V H W"]) -> Float[Array, "V H W"]:
    """The mean over 3x3 pixels with weights 1, 2, 1."""
    rows = jnp.pad(plane, ((0, 0), (1, 1), (0, 0)), mode="edge")
    rows = 0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
    columns = jnp.pad(rows, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return 0.25 * columns[:, :, :-2] + 0.5 * columns[:, :, 1:-1] + 0.25 * columns[:, :, 2:]


def _in_blocks(images: Float[Array, "V H W 3"], step: Array) -> Float[Array, "V H W 3"]:
    """Frequencies of blocks of 8x8 pixels rounded as JPEG does, the higher and colours coarser."""
    views, height, width, _ = images.shape
    padding = ((0, 0), (0, -height % _BLOCK), (0, -width % _BLOCK), (0, 0))
    padded = jnp.pad(images, padding, mode="edge")
    rows, columns = padded.shape[1] // _BLOCK, padded.shape[2] // _BLOCK
    blocks = padded.reshape(views, rows, _BLOCK, columns, _BLOCK, 3)
    cosines, chroma = _cosines(), jnp.asarray(_CHROMA)
    told = jnp.einsum(
        "vrycxk,iy,jx,lk->vricjl", blocks, cosines, cosines, chroma, precision=_HIGHEST
    )
    number = np.arange(_BLOCK, dtype=np.float32)
    coarse = 0.3 + 0.25 * (number[:, None] + number)
    colours = np.array([1, 2, 2], np.float32).reshape(1, 1, 1, 1, 1, 3)
    unit = jnp.maximum(step, 1e-4) * coarse[None, None, :, None, :, None] * colours
    rounded = jnp.round(told / unit) * unit
    back = jnp.asarray(np.linalg.inv(_CHROMA))
    blocks = jnp.einsum(
        "vricjl,iy,jx,kl->vrycxk", rounded, cosines, cosines, back, precision=_HIGHEST
    )
    return blocks.reshape(padded.shape)[:, :height, :width]


def _cosines() -> Float[np.ndarray, "8 8"]:
    """The orthonormal cosine transform of eight numbers."""
    number = np.arange(_BLOCK)
    matrix = np.cos(np.pi * (2 * number + 1) * number[:, None] / (2 * _BLOCK)) * (2 / _BLOCK) ** 0.5
    matrix[0] *= 0.5**0.5
    return matrix.astype(np.float32)
