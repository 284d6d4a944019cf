"""A walk through connected rooms, as long as one likes, as a video camera sees it.

Rooms lie in two rows; doors lead along the rows and from one to the other at both ends, so that a
walk may return to where it began.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from scipy.interpolate import CubicSpline

from jaxrecon.errors import InputError
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.cameras import Cameras
from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.photo import Film, develop
from jaxrecon.scenes.render import expose, pixel_bits
from jaxrecon.scenes.rendered import RenderedScene
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.scenes.solids import FAR, Solids, place, turn
from jaxrecon.scenes.textures import draw_materials
from jaxrecon.scenes.vectors import Vector, columns, constant
from jaxrecon.scenes.world import Lights, World

WALK = SceneConfig(
    samples=3, outdoor_every=0, boxes=14, cylinders=4, spheres=4, pictures=6, exposure=0.0
)
"""What stands in the rooms; the pictures, the table's top and its leg are boxes like the others."""

_CELL = 5.0
_WALL = 0.3
_HEIGHT = 2.7
_DOOR = 1.3, 2.2
_EYE = 1.5
_EPS = 1e-3
_FACES = 6


@pytree_dataclass
class Flat:
    """`N` boxes that touch or overlap, seen from inside: rooms, and the doors between them."""

    low: Vector
    high: Vector

    def depth(self, origin: Vector, ray: Vector) -> Array:
        """Where each ray leaves them all."""
        inverse = _inverse(ray)
        count = self.low.x.shape[0]

        def crossing(number: Array) -> tuple[Array, Array]:
            near, far = [], []
            for axis in ("x", "y", "z"):
                at, step = getattr(origin, axis), getattr(inverse, axis)
                one = (getattr(self.low, axis)[number] - at) * step
                other = (getattr(self.high, axis)[number] - at) * step
                near.append(jnp.minimum(one, other))
                far.append(jnp.maximum(one, other))
            return jnp.stack(near).max(axis=0), jnp.stack(far).min(axis=0)

        def further(_: Array, reached: Array) -> Array:
            def through(number: Array, reached: Array) -> Array:
                near, far = crossing(number)
                inside = (near <= reached + _EPS) & (far > reached)
                return jnp.where(inside, far, reached)

            return lax.fori_loop(0, count, through, reached)

        shape = jnp.broadcast_shapes(origin.x.shape, ray.x.shape)
        reached = lax.fori_loop(0, count, further, jnp.zeros(shape))
        return jnp.where(reached > 0, reached, FAR)

    def face(self, point: Vector, ray: Vector) -> tuple[Vector, Int[Array, "..."]]:
        """Normal and number of the wall, floor or ceiling at a point where a ray has left them."""

        def nearer(number: Array, best: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            gaps, insides = [], []
            for axis in ("x", "y", "z"):
                at, along = getattr(point, axis), getattr(ray, axis)
                low, high = getattr(self.low, axis)[number], getattr(self.high, axis)[number]
                gaps.append(jnp.abs(jnp.where(along > 0, high - at, at - low)))
                insides.append((at > low - 10 * _EPS) & (at < high + 10 * _EPS))
            inside = insides[0] & insides[1] & insides[2]
            gap = jnp.where(inside, jnp.stack(gaps), FAR)
            axis = jnp.argmin(gap, axis=0).astype(jnp.int32)
            least = jnp.min(gap, axis=0)
            closer = least < best[0]
            return (
                jnp.where(closer, least, best[0]),
                jnp.where(closer, axis, best[1]),
                jnp.where(closer, number, best[2]),
            )

        shape = point.x.shape
        start = jnp.full(shape, 2 * FAR), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.int32)
        _, axis, box = lax.fori_loop(0, self.low.x.shape[0], nearer, start)
        normal = Vector(
            *(
                jnp.where(axis == number, -jnp.sign(getattr(ray, name)), 0.0)
                for number, name in enumerate(("x", "y", "z"))
            )
        )
        far_side = (normal.x + normal.y + normal.z < 0).astype(jnp.int32)
        return normal, box * _FACES + 2 * axis + far_side

    def ambient(self, point: Vector, normal: Vector) -> Vector:
        """Light from above and below, the same in all rooms."""
        del point
        up = 0.5 + 0.5 * normal.z
        below, above = constant(0.13, 0.12, 0.11), constant(0.26, 0.26, 0.27)
        return below + (above - below) * up

    def through_air(self, colour: Vector, ray: Vector, depth: Array) -> Vector:
        """Air is clear in rooms."""
        del ray, depth
        return colour


def _inverse(ray: Vector) -> Vector:
    parts = (jnp.where(jnp.abs(p) < 1e-9, 1e-9, p) for p in (ray.x, ray.y, ray.z))
    return Vector(*(1 / part for part in parts))


@dataclass(frozen=True, eq=False)
class Walk:
    """A walk through rooms; poses are known before a view is rendered.

    Attributes:
      world_from_camera: in metres; the world's z axis points up.
      length: of the path, in metres.
    """

    world_from_camera: Float[np.ndarray, "V 4 4"]
    length: float
    _world: World
    _focal: float

    def render(
        self, views: slice = slice(None), *, height: int, width: int, at_once: int = 8
    ) -> Iterator[RenderedScene]:
        """Renders the views, `at_once` at a time; a view does not depend on those beside it."""
        numbers = np.arange(len(self.world_from_camera))[views]
        focal = self._focal * max(height, width)
        for start in range(0, len(numbers), at_once):
            own = numbers[start : start + at_once]
            padded = np.resize(own, at_once)
            poses = jnp.asarray(self.world_from_camera[padded], jnp.float32)
            images, depth, mask, intrinsics = _render(
                self._world,
                poses,
                jnp.float32(focal),
                jnp.asarray(padded, jnp.int32),
                (height, width),
            )
            count = len(own)
            yield RenderedScene(
                *(np.asarray(array)[:count] for array in (images, depth, mask, poses, intrinsics))
            )


def draw_walk(
    seed: int, *, views: int, rooms: int = 6, share: float = 1.0, fov: float = 70.0
) -> Walk:
    """A walk through all rooms and back to the first, or a share of that path.

    The camera looks ahead and to and fro, as a person's does.

    Args:
      seed: tells walks apart.
      views: how many, evenly along the path. Where `share` is 1 the last is one step before the
        first.
      rooms: an even number, in two rows.
      share: how much of the way round is walked; more than 1 goes round again.
      fov: across the longer side of the image, in degrees.

    Raises:
      InputError: a number is out of range.
    """
    for name, value, good, wanted in (
        ("seed", seed, 0 <= seed < 2**32, "from 0 to 2**32 - 1"),
        ("views", views, views >= 1, "at least 1"),
        ("rooms", rooms, rooms >= 4 and rooms % 2 == 0 and rooms <= 16, "even, from 4 to 16"),
        ("share", share, 0 < share <= 100, "above 0, and at most 100"),
    ):
        if not good:
            raise InputError(f"{name} is {value}; it must be {wanted}")
    rng = np.random.default_rng([seed, 0x3A1C])
    corners = _round(rooms)
    track = _track(corners, rng)
    dense = track(np.linspace(0, len(corners), 2000))
    steps = np.linalg.norm(np.diff(dense, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    length = share * along[-1]
    wanted = np.arange(views) * (length / views)
    times = np.interp(wanted % along[-1], along, np.linspace(0, len(corners), 2000))
    poses = _poses(track, times, wanted, rng)
    flat, lamps = _flat(corners)
    solids = _furniture(corners, dense, rng)
    faces = _FACES * flat.low.x.shape[0]
    largest = jnp.maximum(jnp.maximum(solids.half.x, solids.half.y), solids.half.z)
    size = jnp.concatenate([jnp.clip(2 * largest, 0.2), jnp.full(faces, 2.0)])
    streams = scene_rng(jax.random.key(seed), jnp.uint32(0x3A1C)).split(2)
    nowhere = constant(0.0, 0.0, 0.0)
    unused = Cameras(nowhere, nowhere, nowhere, nowhere, jnp.float32(1))
    materials = draw_materials(streams[0], size)
    world = World(unused, solids, flat, materials, lamps, streams[1].integer())
    return Walk(poses, float(length), world, 0.5 / np.tan(np.deg2rad(fov) / 2))


def _round(rooms: int) -> Float[np.ndarray, "R 2"]:
    """The middles of the rooms in the order of the walk: along one row, back along the other."""
    half = rooms // 2
    row = [(number * _CELL, 0.0) for number in range(half)]
    back = [(number * _CELL, _CELL) for number in reversed(range(half))]
    return np.array(row + back)


def _track(corners: Float[np.ndarray, "R 2"], rng: np.random.Generator) -> CubicSpline:
    """The path on the ground, through rooms and doors; one unit of its parameter a room."""
    following = np.roll(corners, -1, axis=0)
    points = []
    for corner, after in zip(corners, following, strict=True):
        points += [corner + rng.uniform(-0.7, 0.7, 2), (corner + after) / 2]
    points.append(points[0])
    return CubicSpline(np.arange(len(points)) / 2, np.array(points), bc_type="periodic")


def _poses(
    track: CubicSpline,
    times: Float[np.ndarray, " V"],
    walked: Float[np.ndarray, " V"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "V 4 4"]:
    place, ahead = track(times), track(times, 1)
    phases = rng.uniform(0, 2 * np.pi, 4)
    yaw = np.arctan2(ahead[:, 1], ahead[:, 0])
    yaw = yaw + 0.5 * np.sin(walked / 1.7 + phases[0])
    pitch = -0.08 + 0.1 * np.sin(walked / 1.1 + phases[1])
    roll = 0.03 * np.sin(walked / 0.9 + phases[2])
    forward = np.stack(
        [np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), np.sin(pitch)], axis=1
    )
    level = np.cross(forward, [0, 0, 1.0])
    level /= np.linalg.norm(level, axis=1, keepdims=True)
    plumb = np.cross(forward, level)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    poses = np.broadcast_to(np.eye(4), (len(times), 4, 4)).copy()
    poses[:, :3, 0], poses[:, :3, 1] = level * c + plumb * s, plumb * c - level * s
    poses[:, :3, 2] = forward
    poses[:, :2, 3] = place
    poses[:, 2, 3] = _EYE + 0.06 * np.sin(walked / 0.6 + phases[3])
    return poses


def _flat(corners: Float[np.ndarray, "R 2"]) -> tuple[Flat, Lights]:
    """The rooms and doors, and a lamp in each room."""
    inner = (_CELL - _WALL) / 2
    following = np.roll(corners, -1, axis=0)
    low, high = [], []
    for x, y in corners:
        low.append((x - inner, y - inner, 0.0))
        high.append((x + inner, y + inner, _HEIGHT))
    for (x, y), (u, v) in zip(corners, following, strict=True):
        middle = np.array([(x + u) / 2, (y + v) / 2])
        along = np.array([u - x, v - y]) / _CELL
        half = np.abs(along) * (_WALL / 2 + 0.01) + (1 - np.abs(along)) * _DOOR[0] / 2
        low.append((*(middle - half), 0.0))
        high.append((*(middle + half), _DOOR[1]))
    count = len(corners)
    lamps = np.array([(x, y, _HEIGHT - 0.3) for x, y in corners], np.float32)
    ones = jnp.ones(count)
    light = Vector(2.2 * ones, 2.0 * ones, 1.7 * ones)
    return (
        Flat(columns(jnp.asarray(low, jnp.float32)), columns(jnp.asarray(high, jnp.float32))),
        Lights(columns(jnp.asarray(lamps)), light, 0.2 * ones),
    )


def _furniture(
    corners: Float[np.ndarray, "R 2"], path: Float[np.ndarray, "P 2"], rng: np.random.Generator
) -> Solids:
    """Things in the rooms, off the path: first boxes, then cylinders, then balls."""
    boxes = WALK.boxes + WALK.pictures + 2
    count = boxes + WALK.cylinders + WALK.spheres
    kinds = np.repeat([0, 1, 2], [boxes, WALK.cylinders, WALK.spheres])
    rooms = np.empty(count, int)
    for kind in range(3):  # each kind is spread over the rooms
        own = np.flatnonzero(kinds == kind)
        rooms[own] = (np.arange(len(own)) + 3 * kind) % len(corners)
    halves, centres, yaws = [], [], []
    for kind, room in zip(kinds.tolist(), rooms.tolist(), strict=True):
        half = _half_size(kind, rng)
        centres.append(_off_the_path(corners[room], half, path, rng))
        yaws.append(rng.uniform(0, 2 * np.pi) if rng.random() < 0.5 else 0.0)
        halves.append(half)
    half = columns(jnp.asarray(np.array(halves), jnp.float32))
    centre = columns(jnp.asarray(np.array(centres), jnp.float32))
    return place(centre, half, turn(jnp.asarray(yaws, jnp.float32), jnp.zeros(count)))


def _half_size(kind: int, rng: np.random.Generator) -> Float[np.ndarray, "3"]:
    u = rng.uniform(size=3)
    if kind == 0:
        return np.array([0.2, 0.2, 0.25]) * np.array([3.0, 3.0, 3.5]) ** u
    if kind == 1:
        return np.array([0.12, 0.12, 0.3]) * np.array([2.5, 2.5, 3.0]) ** u[[0, 0, 1]]
    return np.full(3, 0.2 * 2.0 ** u[0])


def _off_the_path(
    corner: Float[np.ndarray, "2"],
    half: Float[np.ndarray, "3"],
    path: Float[np.ndarray, "P 2"],
    rng: np.random.Generator,
) -> Float[np.ndarray, "3"]:
    """The place, of forty in the room, that is farthest from the path; near walls if it can be."""
    reach = (_CELL - _WALL) / 2 - 0.05 - np.hypot(half[0], half[1]) * 0.8
    places = corner + rng.uniform(-reach, reach, (40, 2))
    gap = np.linalg.norm(places[:, None] - path[None], axis=2).min(axis=1)
    gap = gap - np.hypot(half[0], half[1])
    best = places[np.argmax(np.minimum(gap, 0.5 + 0.8 * rng.random()))]
    return np.array([*best, half[2]])


@partial(jax.jit, static_argnums=(4,))
def _render(
    world: World, poses: Array, focal: Array, numbers: Array, size: tuple[int, int]
) -> tuple[Array, Array, Array, Array]:
    def one(pose: Array, number: Array) -> tuple[Array, Array, Array, Array]:
        right, down, forward, position = (columns(pose[None, :3, axis]) for axis in range(4))
        cameras = Cameras(position, right, down, forward, focal)
        own = replace(world, cameras=cameras, seed=world.seed + number)
        light, depth, mask = expose(own, size, WALK, None)
        images = develop(light, film, pixel_bits(own, size, 1))
        return images[0], depth[0], mask[0], cameras.intrinsics(*size)[0]

    plain = jnp.ones(1)
    film = Film(Vector(plain, plain, plain), jnp.float32(0.008))
    return jax.vmap(one)(poses, numbers)
