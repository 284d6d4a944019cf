"""From light to a picture: exposure, white balance, tone curve and noise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.noise import mixed, normal
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.vectors import Vector

_MIDDLE = 0.30
"""Mean light of a well exposed picture before the tone curve."""


@pytree_dataclass
class Film:
    """How `V` pictures are taken: gain of each channel, noise."""

    gain: Vector
    noise: Array


def draw_film(rng: Rng, views: int, config: SceneConfig) -> Film:
    """Random errors of exposure and white balance for each view, one noise level for all."""
    streams = rng.split(4)
    stops = config.exposure * streams[0].normal(views)
    tint = jnp.exp(0.06 * streams[1].normal(3, 1))
    drift = jnp.exp(0.02 * streams[2].normal(3, views))
    red, green, blue = jnp.exp2(stops)[None] * tint * drift
    level = config.noise * streams[3].uniform() ** 2
    return Film(Vector(red, green, blue), level)


def develop(light: Vector, film: Film, bits: Array) -> Float[Array, "V H W 3"]:
    """Display-encoded pictures of linear light.

    A camera sets its exposure partly for the view, partly for the whole scene.
    """
    bright = jnp.log(1e-3 + 0.3 * light.x + 0.6 * light.y + 0.1 * light.z)
    view = jnp.mean(bright, axis=(1, 2), keepdims=True)
    exposure = _MIDDLE * jnp.exp(-0.5 * view - 0.5 * jnp.mean(view))
    gain = film.gain[:, None, None] * exposure
    channels = [light.x * gain.x, light.y * gain.y, light.z * gain.z]
    pictures = []
    for number, channel in enumerate(channels):
        random = normal(mixed(bits + jnp.uint32(number)))
        pictures.append(jnp.clip(_tone(channel) + film.noise * random, 0, 1))
    return jnp.stack(jax.lax.optimization_barrier(pictures), axis=-1)


def _tone(light: Array) -> Array:
    """Gamma 2.2 with a soft shoulder: light goes to white without a hard edge."""
    squeezed = light * (1 + light * (1 / 6.0)) / (1 + light)
    return jnp.clip(squeezed, 1e-6, 1) ** (1 / 2.2)
