"""What VGGT's tracker sees of the feature maps around a point, and how it encodes places."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrecon.nn.layers import HIGHEST

SINE_RANGE = 1000.0
PLACE_BASE = 10_000.0

type Pyramid = tuple[Float[Array, "B V _h _w C"], ...]


def feature_pyramid(maps: Float[Array, "B V h w C"], levels: int) -> Pyramid:
    """The maps and their averages over 2x2 pixels, again and again; odd edges are left out.

    Raises:
      ValueError: the maps are too small for that many levels.
    """
    if min(maps.shape[2:4]) < 2 ** (levels - 1):
        raise ValueError(f"maps of shape {maps.shape} are too small for {levels} levels")
    pyramid = [maps]
    for _ in range(levels - 1):
        batch, views, height, width, channels = pyramid[-1].shape
        even = pyramid[-1][:, :, : height // 2 * 2, : width // 2 * 2]
        quads = even.reshape(batch, views, height // 2, 2, width // 2, 2, channels)
        pyramid.append(jnp.mean(quads, axis=(3, 5)))
    return tuple(pyramid)


def correlate(
    pyramid: Pyramid,
    targets: Float[Array, "B V Q C"],
    places: Float[Array, "B V Q 2"],
    radius: int,
) -> Float[Array, "B V Q E"]:
    """Likeness of each target to the features in a window around its place, on all levels.

    Upstream makes the likeness to the whole map and samples that. Here only the pixels of the
    window are looked at, a view at a time: sampling and likeness are both linear.

    Args:
      pyramid: see `feature_pyramid`.
      targets: the features looked for.
      places: (x, y) in pixels of the finest level.
      radius: half the window's side, on each level in its own pixels.

    Returns:
      For each level and each step across, then down, the scaled inner product.
    """
    batch, views, queries, _ = targets.shape
    maps = tuple(level.reshape(-1, *level.shape[2:]) for level in pyramid)

    def one_view(view: tuple[tuple[Array, ...], Array, Array]) -> Array:
        levels, target, place = view
        windows = [
            _window(level, target, place / 2**depth, radius) for depth, level in enumerate(levels)
        ]
        return jnp.concatenate(windows, axis=-1)

    flat = jax.lax.map(one_view, (maps, _views(targets), _views(places)))
    return flat.reshape(batch, views, queries, -1)


def _views(x: Float[Array, "B V *rest"]) -> Float[Array, "G *rest"]:
    return x.reshape(-1, *x.shape[2:])


def _window(
    features: Float[Array, "h w C"],
    targets: Float[Array, "Q C"],
    places: Float[Array, "Q 2"],
    radius: int,
) -> Float[Array, "Q E"]:
    """Likeness in the window on one level; zero outside the map."""
    height, width, channels = features.shape
    base = jnp.floor(places)
    part = places - base
    steps = jnp.arange(-radius, radius + 2)[None]
    across, seen_across = _pixels(base[:, :1].astype(jnp.int32) + steps, width)
    down, seen_down = _pixels(base[:, 1:].astype(jnp.int32) + steps, height)
    patch = features[down[:, None, :], across[:, :, None]]
    likeness = jnp.einsum("qijc,qc->qij", patch, targets, precision=HIGHEST) / channels**0.5
    seen = seen_across[:, :, None] & seen_down[:, None, :]
    likeness = likeness * seen.astype(likeness.dtype)
    likeness = _between(likeness, part[:, :1, None])
    likeness = _between(likeness.swapaxes(1, 2), part[:, 1:, None]).swapaxes(1, 2)
    return likeness.reshape(len(targets), -1)


def _pixels(pixels: Int[Array, "Q n"], size: int) -> tuple[Int[Array, "Q n"], Array]:
    """Pixels moved into the map, and whether they were there; a single pixel is everywhere."""
    inside = (pixels >= 0) & (pixels < size) | (size == 1)
    return jnp.clip(pixels, 0, size - 1), inside


def _between(x: Float[Array, "Q n *m"], part: Float[Array, "Q 1 1"]) -> Float[Array, "Q k *m"]:
    """Interpolates between neighbours on the second axis."""
    return x[:, :-1] * (1 - part) + x[:, 1:] * part


def sample_features(
    features: Float[Array, "B h w C"], places: Float[Array, "B Q 2"]
) -> Float[Array, "B Q C"]:
    """Bilinear interpolation at (x, y); places outside take the nearest edge."""

    def one(features: Array, places: Array) -> Array:
        height, width, _ = features.shape
        (left, right, x), (top, bottom, y) = (
            _neighbours(places[:, axis], size) for axis, size in enumerate((width, height))
        )
        upper = features[top, left] * (1 - x) + features[top, right] * x
        lower = features[bottom, left] * (1 - x) + features[bottom, right] * x
        return upper * (1 - y) + lower * y

    return jax.vmap(one)(features, places)


def _neighbours(
    place: Float[Array, "*dims"], size: int
) -> tuple[Int[Array, "*dims"], Int[Array, "*dims"], Float[Array, "*dims 1"]]:
    """The pixels on both sides of a place, and how far it is from the first to the second."""
    place = jnp.clip(place, 0, size - 1)
    first = jnp.minimum(place.astype(jnp.int32), max(size - 2, 0))
    second = jnp.minimum(first + 1, size - 1)
    return first, second, (place - first.astype(place.dtype))[..., None]


def embed_places(
    places: Float[Array, "B Q 2"], size: tuple[int, int], channels: int
) -> Float[Array, "B Q C"]:
    """Sines and cosines of the pixels around each place of a map of `size` (h, w), interpolated.

    The first half of the channels tells x, the second y.
    """
    height, width = size
    halves = []
    for axis, count in enumerate((width, height)):
        table = jnp.asarray(_place_table(count, channels // 2), jnp.float32)
        first, second, part = _neighbours(places[..., axis], count)
        halves.append(table[first] * (1 - part) + table[second] * part)
    return jnp.concatenate(halves, axis=-1)


def _place_table(count: int, channels: int) -> Float[np.ndarray, "count C"]:
    frequencies = PLACE_BASE ** -(np.arange(channels // 2) / (channels / 2))
    angles = np.arange(count)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def embed_motion(motion: Float[Array, "*dims 2"], channels: int) -> Float[Array, "*dims C"]:
    """Sine and cosine of each frequency in turn, `channels` of them of x, then as many of y."""
    frequencies = jnp.arange(0, channels, 2, dtype=jnp.float32) * (SINE_RANGE / channels)
    angles = motion[..., None] * jax.lax.broadcast_to_rank(frequencies, motion.ndim + 1)
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return waves.reshape(*motion.shape[:-1], 2 * channels)
