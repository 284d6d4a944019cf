"""The plain form, on every platform."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

CONFIDENT_BELOW = 0.05
"""Relative error under which a point counts as right, for the confidence."""

FLAT_BELOW = 1.1
"""Depths of a triangle's corners differ by less than this factor, or an edge runs through it."""

CLOSE_BELOW = 1.25
"""The factor of the field's delta < 1.25."""

SMALLEST = 1e-24
"""Added under the root of a cosine."""


class Planes(NamedTuple):
    """Points of `G` images, a coordinate a plane."""

    x: Float[Array, "G H W"]
    y: Float[Array, "G H W"]
    z: Float[Array, "G H W"]


class Guess(NamedTuple):
    """What is compared with the truth, or its gradient."""

    points: Planes
    logits: Float[Array, "G H W"]


class Truth(NamedTuple):
    """Points, and where there are any."""

    points: Planes
    mask: Bool[Array, "G H W"]


class Sums(NamedTuple):
    """Of each image, what is to become small.

    Attributes:
      points: distances (the sum over the axes) relative to the true depth, where there is truth.
      normals: one minus the cosine between the normals of the triangles (pixel, right neighbour,
        lower neighbour), where no edge runs through them.
      confidence: binary cross-entropy of all pixels; a point is right if its distance is small, and
        without truth there is none.
    """

    points: Float[Array, " G"]
    normals: Float[Array, " G"]
    confidence: Float[Array, " G"]


class Tallies(NamedTuple):
    """Of each image, what has no gradient.

    Attributes:
      seen: pixels with truth.
      flat: triangles without an edge.
      depth_error: relative errors of the depth, where there is truth.
      close: how many depths are within a factor of 1.25.
    """

    seen: Float[Array, " G"]
    flat: Float[Array, " G"]
    depth_error: Float[Array, " G"]
    close: Float[Array, " G"]


def point_map_loss_xla(guess: Guess, truth: Truth) -> tuple[Sums, Tallies]:
    """Sums over the pixels of each image."""
    points, logits = guess
    true, mask = truth
    depth = jnp.where(mask, true.z, 1.0)
    error = distance(points, true) / depth
    flat = of_one_depth(_corners(depth), _corners(mask))
    bend = 1 - cosine(_normal(points), _normal(true))
    right = mask & (error < CONFIDENT_BELOW)
    ratio = points.z / depth

    def total(values: Array, where: Array) -> Array:
        return jnp.sum(jnp.where(where, values, 0.0), axis=(1, 2))

    sums = Sums(total(error, mask), total(bend, flat), cross_entropy(logits, right).sum((1, 2)))
    tallies = Tallies(
        total(jnp.ones_like(depth), mask),
        total(jnp.ones_like(bend), flat),
        total(jnp.abs(ratio - 1), mask),
        total(is_close(ratio).astype(jnp.float32), mask),
    )
    return sums, jax.lax.stop_gradient(tallies)


def gradients_xla(guess: Guess, truth: Truth, gradients: Sums) -> Guess:
    """Gradient of the guess, given that of the sums."""
    return jax.vjp(lambda guess: point_map_loss_xla(guess, truth)[0], guess)[1](gradients)[0]


def distance(a: Planes, b: Planes) -> Array:
    """The sum over the axes."""
    return jnp.abs(a.x - b.x) + jnp.abs(a.y - b.y) + jnp.abs(a.z - b.z)


def cross_entropy(logits: Array, right: Array) -> Array:
    """Of a probability's logits."""
    wrong = jnp.maximum(logits, 0) - jnp.where(right, logits, 0.0)
    return wrong + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def is_close(ratio: Array) -> Array:
    """Whether a depth over the true one is within a factor of 1.25."""
    return jnp.maximum(ratio, 1 / jnp.maximum(ratio, 1e-6)) < CLOSE_BELOW


def of_one_depth(depths: tuple[Array, Array, Array], masks: tuple[Array, Array, Array]) -> Array:
    """Whether triangles have three corners, all of about one depth."""
    low, high = (of(of(*depths[:2]), depths[2]) for of in (jnp.minimum, jnp.maximum))
    return masks[0] & masks[1] & masks[2] & (high < FLAT_BELOW * low)


def _corners(x: Array) -> tuple[Array, Array, Array]:
    """A pixel, its right neighbour and its lower one, of all pixels that have both."""
    return x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1]


def _normal(points: Planes) -> Planes:
    corners = [_corners(x) for x in points]
    right, lower = (Planes(*(c[at] - c[0] for c in corners)) for at in (1, 2))
    return cross(right, lower)


def cross(a: Planes, b: Planes) -> Planes:
    """The cross product."""
    return Planes(a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x)


def dot(a: Planes, b: Planes) -> Array:
    """The inner product."""
    return a.x * b.x + a.y * b.y + a.z * b.z


def cosine(a: Planes, b: Planes) -> Array:
    """Of the angle between vectors."""
    return dot(a, b) * jax.lax.rsqrt(dot(a, a) * dot(b, b) + SMALLEST)
