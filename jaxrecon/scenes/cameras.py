"""Cameras on random paths that look at one region of a scene."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.geometry.transforms import rigid
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.vectors import Vector, columns

_PATHS = 4


@pytree_dataclass
class Cameras:
    """Positions and axes of `V` cameras that share one focal length (in pixels).

    `bend` is the distortion of their lens, if it has one: a pixel's direction is that of a pinhole
    camera with the distance from the image's centre (in focal lengths) times `1 + bend r^2`.
    """

    position: Vector
    right: Vector
    down: Vector
    forward: Vector
    focal: Array
    bend: Array | None = None

    def rays(self, row: Array, column: Array) -> Vector:
        """Directions through pixels measured from the image's centre; their depth_z is 1."""
        x, y = column * (1 / self.focal), row * (1 / self.focal)
        if self.bend is not None:
            further = 1 + self.bend * (x * x + y * y)
            x, y = x * further, y * further
        right, down, forward = (
            axis[:, None, None] for axis in (self.right, self.down, self.forward)
        )
        return right * x + down * y + forward

    def world_from_camera(self) -> Float[Array, "V 4 4"]:
        """Poses as matrices."""
        axes = [self.right.stack(), self.down.stack(), self.forward.stack()]
        return rigid(jnp.stack(axes, axis=-1), self.position.stack())

    def intrinsics(self, height: int, width: int) -> Float[Array, "V 3 3"]:
        """Pinhole matrices with square pixels and the principal point at the centre."""
        zero, one = jnp.zeros_like(self.focal), jnp.ones_like(self.focal)
        rows = [
            [self.focal, zero, one * ((width - 1) / 2)],
            [zero, self.focal, one * ((height - 1) / 2)],
            [zero, zero, one],
        ]
        matrix = jnp.stack([jnp.stack(row) for row in rows])
        return jnp.broadcast_to(matrix, (*self.position.x.shape, 3, 3))


def focal_length(rng: Rng, fov: tuple[float, float], longer_side: int) -> Array:
    """A random focal length in pixels, for a field of view across the longer side."""
    angle = fov[0] + (fov[1] - fov[0]) * rng.uniform()
    return longer_side / 2 / jnp.tan(jnp.deg2rad(angle) / 2)


def path(rng: Rng, views: int, heading: Array, distance: Array) -> tuple[Array, Array]:
    """Ground positions of `V` cameras around a target at the origin, in shuffled order.

    An orbit, a sideways walk, a random cloud or a forward motion, drawn at random. Their middle
    lies `distance` from the target in the direction `heading`.
    """
    streams = rng.split(3)
    order = jnp.argsort(streams[0].uniform(views))
    jitter = 0.5 * streams[1].centred(3, views)
    kind, arc, length, slant = streams[2].uniform(4)
    along = (order.astype(jnp.float32) + 0.5 + 0.7 * jitter[0]) / views - 0.5
    side, ahead = 0.22 * jitter[1] * distance, 0.22 * jitter[2] * distance
    turned = along * (0.8 + 1.6 * arc)
    walk = along * distance * (0.9 + 0.9 * length)
    slant = slant - 0.5
    paths = [
        (jnp.sin(turned) * distance + side, jnp.cos(turned) * distance + ahead),
        (walk * jnp.cos(slant) + side, distance + walk * jnp.sin(slant) + ahead),
        ((1.1 + 0.6 * length) * distance * jitter[1], distance * (1 + 0.9 * jitter[2])),
        (side * 1.5, distance * (1 + along * (0.7 + 0.3 * length)) + ahead),
    ]
    number = jnp.floor(kind * _PATHS).astype(jnp.int32)
    across = jnp.stack([x for x, _ in paths])[number]
    away = jnp.stack([y for _, y in paths])[number]
    c, s = jnp.cos(heading), jnp.sin(heading)
    return away * c - across * s, away * s + across * c


def wander(
    rng: Rng, views: int, heading: Array, distance: Array, all_round: Array | float = 0.0
) -> tuple[Array, Array]:
    """Ground positions as people take them, like `path`: more kinds, from nearly one place to far.

    Orbits of up to 160 degrees with or without a change of distance, walks past the target,
    clouds, forward motion, walks that turn, and steps to and fro on one spot; the length of all
    but orbits is drawn in octaves. A share `all_round` of paths are orbits of 140 to 360 degrees.
    """
    streams = rng.split(4)
    order = jnp.argsort(streams[0].uniform(views))
    jitter = 0.5 * streams[1].centred(3, views)
    kind, arc, length, slant, shake = streams[2].uniform(5)
    even = (order.astype(jnp.float32) + 0.5 + 0.7 * jitter[0]) / views - 0.5
    size = 0.2 * 8.0**length
    rough = 0.25 * shake * size * distance
    side, ahead = rough * jitter[1], rough * jitter[2]
    round_it = streams[3].uniform() < all_round
    turned = even * jnp.where(round_it, 2.4 + (2 * jnp.pi - 2.4) * arc, 0.15 + 2.65 * arc)
    nearer = distance * (1 + 0.5 * even * (2 * length - 1))
    walk = even * distance * size * 1.3
    slant = 1.6 * (slant - 0.5)
    bow = 4 * even * even * distance * 0.3 * size * jnp.sign(slant)
    paths = [
        (jnp.sin(turned) * distance + side, jnp.cos(turned) * distance + ahead),
        (jnp.sin(turned) * nearer + side, jnp.cos(turned) * nearer + ahead),
        (walk * jnp.cos(slant) + side, distance + walk * jnp.sin(slant) + ahead),
        (size * distance * jitter[1] * 1.6, distance * (1 + 0.6 * size * jitter[2])),
        (side * 1.5, distance * (1 + jnp.clip(even * size, -0.45, 0.6)) + ahead),
        (walk + side, distance + bow + ahead),
        (0.08 * distance * jitter[1] * (1 + size), distance * (1 + 0.08 * jitter[2])),
    ]
    # The first kinds most often: four scenes in ten have cameras that turn around the target.
    number = jnp.floor(kind**1.5 * len(paths)).astype(jnp.int32)
    number = jnp.where(round_it, number % 2, number)
    across = jnp.stack([x for x, _ in paths])[number]
    away = jnp.stack([y for _, y in paths])[number]
    c, s = jnp.cos(heading), jnp.sin(heading)
    return away * c - across * s, away * s + across * c


def hold(
    rng: Rng,
    position: Vector,
    target: Vector,
    distance: Array,
    focal: Array,
    lens: Array | None,
) -> Cameras:
    """Cameras as people hold them: aimed loosely, some far off the target, rolled.

    `lens` is the highest distortion, as the `bend` of `Cameras`.
    """
    streams = rng.split(3)
    loose, rolled, bend, turned = streams[0].uniform(4)
    aim = distance * 0.05 * 12.0**loose
    still = look_at(streams[1], position, target, aim, focal)
    deviation = jnp.where(rolled < 0.7, 0.06, 0.5 * rolled - 0.3)
    angle = deviation * streams[2].normal(position.x.shape[0])
    angle += jnp.where(turned < 0.06, 0.5, 0.0) * (turned - 0.03) * 20
    curve = None if lens is None else lens * (1.5 * bend - 0.5)
    c, s = jnp.cos(angle), jnp.sin(angle)
    right, down = still.right * c + still.down * s, still.down * c - still.right * s
    return Cameras(position, right, down, still.forward, focal, curve)


def look_at(rng: Rng, position: Vector, target: Vector, spread: Array, focal: Array) -> Cameras:
    """Cameras that look at points within `spread` of the target, with a little roll."""
    views = position.x.shape[0]
    streams = rng.split(2)
    offset = columns(streams[0].centred(views, 3)) * spread
    forward = (target + offset - position).unit()
    level = forward.cross(Vector(jnp.zeros(views), jnp.zeros(views), jnp.ones(views))).unit()
    plumb = forward.cross(level)
    roll = 0.08 * streams[1].normal(views)
    c, s = jnp.cos(roll), jnp.sin(roll)
    return Cameras(position, level * c + plumb * s, plumb * c - level * s, forward, focal)
