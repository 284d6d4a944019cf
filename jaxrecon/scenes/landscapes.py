"""Hilly ground under a sky, with things that stand on it."""

from dataclasses import replace

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.cameras import Cameras, focal_length, hold, look_at, path, wander
from jaxrecon.scenes.clutter import draw_sizes, merged, strewn
from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.houses import Stance, build, draw_stance, with_houses
from jaxrecon.scenes.noise import noise_2d
from jaxrecon.scenes.placing import at_best, out_of_the_way, standing_height
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.solids import FAR, Solids, Turn, place, turn
from jaxrecon.scenes.textures import draw_materials
from jaxrecon.scenes.vectors import Vector, columns, mix, where
from jaxrecon.scenes.world import Lights, World

# Wavelength in metres and share of the relief of each octave of the ground.
_HILLS = ((19.0, 1.0), (7.7, 0.32), (3.1, 0.1))
_TOP = sum(share for _, share in _HILLS)
_START = 0.4
_STEPS, _UNROLL, _HALVINGS = 40, 4, 6
_SUN = 500.0

_BEHIND = 1.25
"""How far ground that ends near goes on behind the farthest thing on it."""


@pytree_dataclass
class Ground:
    """A height field, the sky above it and the haze between."""

    relief: Array
    seed: Int[Array, ""]
    reach: Array
    zenith: Vector
    horizon: Vector
    clouds: Array
    haze: Array

    def height(self, x: Array, y: Array) -> Array:
        """Height of the ground."""
        total = jnp.zeros_like(x)
        for number, (wave, share) in enumerate(_HILLS):
            total += share * noise_2d(x * (1 / wave), y * (1 / wave), self.seed + number)
        return self.relief * total

    def depth(self, origin: Vector, ray: Vector) -> Array:
        """Where each ray meets the ground: the first of many steps below it, then refined."""
        start, rate = self._steps(origin, ray)

        def step(first: Array, number: Array) -> tuple[Array, None]:
            t = start * jnp.exp2((number + 1) * rate)
            below = self._above(origin, ray, t) < 0
            return jnp.minimum(first, jnp.where(below, t, FAR)), None

        nothing = jnp.full(jnp.broadcast_shapes(start.shape, ray.z.shape), FAR)
        numbers = jnp.arange(_STEPS, dtype=jnp.float32)
        first = lax.scan(step, nothing, numbers, unroll=_UNROLL)[0]
        met = first < 0.5 * FAR
        high = jnp.where(met, first, start * 2)
        depth = self._refine(origin, ray, high * jnp.exp2(-rate), high)
        found = met & (depth < self.reach)
        return lax.optimization_barrier(jnp.where(found, depth, FAR))

    def face(self, point: Vector, ray: Vector) -> tuple[Vector, Int[Array, "..."]]:
        """Normal by differences."""
        del ray
        e = 0.02
        heights = [self.height(point.x + x, point.y + y) for x, y in ((0, 0), (e, 0), (0, e))]
        here, beside, behind = lax.optimization_barrier(heights)
        slope_x, slope_y = (beside - here) * (1 / e), (behind - here) * (1 / e)
        normal = Vector(-slope_x, -slope_y, jnp.ones_like(here)).unit()
        return normal, jnp.zeros(here.shape, jnp.int32)

    def ambient(self, point: Vector, normal: Vector) -> Vector:
        """Light of the sky, and some from the ground."""
        del point
        up = 0.5 + 0.5 * normal.z
        return (self.zenith + self.horizon) * (0.12 + 0.2 * up)

    def through_air(self, colour: Vector, ray: Vector, depth: Array) -> Vector:
        """Haze in front of a surface, or the sky."""
        direction = ray.unit()
        share = 1 - jnp.exp(-self.haze * jnp.minimum(depth, 1e3) * ray.length())
        hazy = mix(colour, self.horizon, share)
        return where(depth < 0.5 * FAR, hazy, self._sky(direction))

    def _above(self, origin: Vector, ray: Vector, t: Array) -> Array:
        point = origin + ray * t
        return point.z - self.height(point.x, point.y)

    def _steps(self, origin: Vector, ray: Vector) -> tuple[Array, Array]:
        """First ray parameter to look at, and the binary logarithm of the ratio of steps."""
        top = self.relief * _TOP
        crossing = (top - origin.z) / jnp.where(jnp.abs(ray.z) < 1e-6, 1e-6, ray.z)
        above = origin.z > top
        start = jnp.where(above & (ray.z < 0), jnp.maximum(crossing, _START), _START)
        end = jnp.where(~above & (ray.z > 0), jnp.minimum(crossing, self.reach), self.reach)
        ratio = jnp.maximum(end, start * 1.01) / start
        return start, jnp.log2(ratio) * (1 / _STEPS)

    def _refine(self, origin: Vector, ray: Vector, low: Array, high: Array) -> Array:
        """Halves the interval of a crossing a few times, then follows the chord twice."""

        def halve(number: Array, low: Array) -> Array:
            middle = low + width * jnp.exp2(-1.0 - number)
            return jnp.where(self._above(origin, ray, middle) < 0, low, middle)

        width = high - low
        low = lax.fori_loop(0, _HALVINGS, halve, low)
        high = low + width * 2.0**-_HALVINGS
        over, under = self._above(origin, ray, low), self._above(origin, ray, high)
        guess = lax.optimization_barrier(low + (high - low) * _share(over, under))
        rest = self._above(origin, ray, guess)
        below = rest < 0
        low, high = jnp.where(below, low, guess), jnp.where(below, guess, high)
        over, under = jnp.where(below, over, rest), jnp.where(below, rest, under)
        return low + (high - low) * _share(over, under)

    def _sky(self, direction: Vector) -> Vector:
        up = jnp.maximum(direction.z, 0)
        colour = mix(self.horizon, self.zenith, jnp.sqrt(up))
        scale = 1.5 / (up + 0.15)
        x, y = direction.x * scale, direction.y * scale
        puff = noise_2d(x, y, self.seed + 11) + 0.5 * noise_2d(x * 2.3, y * 2.3, self.seed + 12)
        cover = jnp.clip(puff + self.clouds, 0, 1)
        white = Vector(*(jnp.full_like(up, 1.1),) * 3)
        return mix(colour, white, cover * jnp.clip(up * 4, 0, 0.9))


def draw_landscape(rng: Rng, views: int, config: SceneConfig, longer_side: int) -> World:
    """A random landscape with blocks, trunks, boulders and trees, a sun and cameras."""
    streams = rng.split(10)
    ground, sun = _draw_ground(streams[0], config)
    focal = focal_length(streams[1], config.fov, longer_side)
    corner = (config.lens * (2 * focal / longer_side) ** 2 / 2) if config.lens else None
    stance = None
    if config.buildings:
        stance = draw_stance(streams[7], config)
        ground = replace(ground, relief=ground.relief * jnp.where(stance.built, 0.15, 1.0))
    if config.handheld:
        cameras = _held_cameras(streams[2], views, ground, focal, corner, stance, config)
    else:
        cameras = _draw_cameras(streams[2], views, ground, focal)
    solids = _scatter(streams[3], ground, cameras.position, config, stance)
    if config.clutter:
        solids = _strew(streams[8], ground, solids, cameras.position, config)
    if config.nearest_reach:
        behind = jnp.minimum(_BEHIND * _farthest(solids, cameras.position), config.reach)
        ground = replace(ground, reach=jnp.maximum(ground.reach, behind))
    size = 2 * jnp.maximum(jnp.maximum(solids.half.x, solids.half.y), solids.half.z)
    earth = 2.5 + 3.0 * streams[4].uniform(1)
    materials = draw_materials(streams[5], jnp.concatenate([size, earth]))
    seed = streams[6].integer()
    plain = (streams[9].uniform() < config.plain) if config.plain else None
    return World(cameras, solids, ground, materials, sun, seed, plain=plain)


def _draw_ground(rng: Rng, config: SceneConfig) -> tuple[Ground, Lights]:
    streams = rng.split(3)
    u = streams[0].uniform(12)
    height, turned = jnp.deg2rad(25 + 45 * u[0]), 2 * jnp.pi * u[1]
    level = jnp.cos(height)
    sun = Vector(level * jnp.cos(turned), level * jnp.sin(turned), jnp.sin(height))
    horizon = Vector(0.75 + 0.25 * u[2], 0.75 + 0.15 * u[3], 0.75 + 0.2 * u[4])
    zenith = Vector(0.15 + 0.3 * u[5], 0.3 + 0.3 * u[5], 0.6 + 0.3 * u[6])
    if config.contrast:
        overcast = 0.8 * (u[11] > 0.6).astype(jnp.float32) * config.contrast
        zenith = mix(zenith, horizon * 0.8, overcast)
        horizon = horizon * jnp.exp2(config.contrast * (2 * u[2] - 1.2))
    ground = Ground(
        relief=0.4 + 1.6 * u[7],
        seed=streams[1].integer(),
        reach=_draw_reach(streams[2], config),
        zenith=zenith,
        horizon=horizon,
        clouds=u[8] * 1.2 - 0.6,
        haze=0.002 + 0.015 * u[9] ** 2,
    )
    bright = (0.5 + 1.2 * u[10]) * _SUN**2
    if config.contrast:
        bright = bright * jnp.exp2(config.contrast * (3 * u[7] - 2))
    colour = Vector(bright * 1.05, bright * (0.9 + 0.1 * u[11]), bright * (0.7 + 0.25 * u[11]))
    return ground, Lights(
        Vector(*(part[None] for part in (sun.x * _SUN, sun.y * _SUN, sun.z * _SUN))),
        Vector(*(part[None] for part in (colour.x, colour.y, colour.z))),
        jnp.full(1, 0.02 * _SUN),
    )


def _draw_reach(rng: Rng, config: SceneConfig) -> Array:
    if not config.nearest_reach:
        return jnp.float32(config.reach)
    return config.reach * (config.nearest_reach / config.reach) ** rng.uniform()


def _farthest(solids: Solids, cameras: Vector) -> Float[Array, ""]:
    """How far the farthest end of a solid may be from a camera, on the map."""
    centre = solids.centre()
    x = centre.x[:, None] - cameras.x[None]
    y = centre.y[:, None] - cameras.y[None]
    return jnp.max(jnp.hypot(x, y) + solids.half.length()[:, None])


def _draw_cameras(rng: Rng, views: int, ground: Ground, focal: Array) -> Cameras:
    streams = rng.split(4)
    u = streams[0].uniform(6)
    distance = 5.0 + 7.0 * u[0]
    x, y = path(streams[1], views, 2 * jnp.pi * u[1], distance)
    tall = jnp.where(u[2] < 0.35, 3.0 + 3.0 * u[3], 1.4 + 0.8 * u[3])
    wobble = 0.25 * tall * streams[2].centred(views)
    position = Vector(x, y, ground.height(x, y) + tall + wobble)
    zero = jnp.zeros(())
    target = Vector(zero, zero, ground.height(zero, zero) + 0.3 + 0.8 * u[4])
    return lax.optimization_barrier(look_at(streams[3], position, target, 0.1 * distance, focal))


def _held_cameras(
    rng: Rng,
    views: int,
    ground: Ground,
    focal: Array,
    corner: Array | None,
    stance: Stance | None,
    config: SceneConfig,
) -> Cameras:
    """Cameras in the hand, before a house if there is one."""
    streams = rng.split(4)
    u = streams[0].uniform(6)
    distance = 2.5 * 5.0 ** u[0]
    heading, aim = 2 * jnp.pi * u[1], 0.2 + 0.8 * u[4]
    all_round: Array | float = config.all_round
    if stance is not None:
        heading = stance.heading
        all_round = jnp.where(stance.built, 0.0, all_round)
        distance = jnp.where(stance.planted, 0.5 * distance, distance)
        aim = jnp.where(stance.planted, 0.4 + 1.2 * u[4], aim)
        distance = jnp.where(stance.built, 6.0 * 4.0 ** u[0], distance)
        aim = jnp.where(stance.built, 0.5 + 3.5 * u[4], aim)
    x, y = wander(streams[1], views, heading, distance, all_round)
    tall = jnp.where(u[2] < 0.2, 3.0 + 3.0 * u[3], 1.1 + 0.8 * u[3])
    sway = 0.25 * u[5] * tall * streams[2].centred(views)
    position = Vector(x, y, ground.height(x, y) + tall + sway)
    zero = jnp.zeros(())
    target = Vector(zero, zero, ground.height(zero, zero) + aim)
    return lax.optimization_barrier(hold(streams[3], position, target, distance, focal, corner))


def _strew(
    rng: Rng, ground: Ground, solids: Solids, cameras: Vector, config: SceneConfig
) -> Solids:
    """Puts small things on the ground."""
    streams = rng.split(3)
    u = streams[0].uniform(config.clutter)
    half, axes, rise = draw_sizes(streams[1], config, 0.3 * 3.0**u)
    x, y = strewn(streams[2], jnp.float32(7.0), config.clutter)
    centre = at_best(x, y, ground.height(x, y) + 0.9 * rise[None], half, axes, cameras)
    small = place(out_of_the_way(centre, half, axes, cameras), half, axes)
    return merged(config, solids, small)


def _scatter(
    rng: Rng, ground: Ground, cameras: Vector, config: SceneConfig, stance: Stance | None
) -> Solids:
    streams = rng.split(4)
    boxes = 2 + config.pictures + config.boxes
    count = boxes + config.cylinders + config.spheres
    half, axes = lax.optimization_barrier(_draw_sizes(streams[0], boxes, count, config))
    u = streams[1].uniform(8, count, 2)
    away, turned = 0.5 + 13.0 * u[..., 0], 2 * jnp.pi * u[..., 1]
    x, y = away * jnp.cos(turned), away * jnp.sin(turned)
    sunk = 0.8 * standing_height(half, axes, config.spheres) - 0.05
    z = ground.height(x, y) + sunk[None]
    centre = at_best(x, y, z, half, axes, cameras)
    if stance is not None:
        centre, half = _plant(streams[3], boxes, ground, stance, (centre, half))
    centre = _crown(centre, half, boxes, count - config.spheres)
    if stance is not None:
        houses = build(streams[3], stance, config)
        centre, half, axes = with_houses(houses, stance, (centre, half, axes), ground.height)
    centre = out_of_the_way(centre, half, axes, cameras)
    return place(centre, half, axes)


def _draw_sizes(rng: Rng, boxes: int, count: int, config: SceneConfig) -> tuple[Vector, Turn]:
    streams = rng.split(3)
    u = streams[0].uniform(count, 3)
    number = jnp.arange(count)
    box = 0.25 * jnp.array([[8.0, 8.0, 8.0]]) ** u
    trunk = jnp.array([[0.12, 0.12, 0.6]]) * jnp.array([[3.5, 1.0, 4.0]]) ** u
    trunk = trunk.at[:, 1].set(trunk[:, 0])
    ball = (0.35 * 4.0 ** u[:, :1]) * (0.7 + 0.6 * streams[1].uniform(count, 3))
    is_box, is_ball = number < boxes, number >= boxes + config.cylinders
    half = jnp.where(is_box[:, None], box, jnp.where(is_ball[:, None], ball, trunk))
    yaw, tilt, lean = streams[2].uniform(3, count)
    leans = is_ball | (is_box & (lean < 0.3))
    return columns(half), turn(yaw * 2 * jnp.pi, jnp.where(leans, tilt, 0.0))


def _plant(
    rng: Rng, trunk: int, ground: Ground, stance: Stance, things: tuple[Vector, Vector]
) -> tuple[Vector, Vector]:
    """Centres and half sizes with a tall trunk in the middle of the landscape, if it has one."""
    centre, half = things
    zero = jnp.zeros(())
    tall = 1.5 + 2.0 * rng.split(4)[3].uniform()
    foot = Vector(zero, zero, ground.height(zero, zero) + 0.8 * tall)

    def put(old: Array, new: Array) -> Array:
        return old.at[trunk].set(jnp.where(stance.planted, new, old[trunk]))

    moved = Vector(put(centre.x, foot.x), put(centre.y, foot.y), put(centre.z, foot.z))
    return moved, Vector(half.x, half.y, put(half.z, tall))


def _crown(centre: Vector, half: Vector, trunk: int, ball: int) -> Vector:
    """Puts a sphere on a cylinder to make a tree."""
    top = centre.z[trunk] + half.z[trunk] + 0.4 * half.z[ball]
    x, y = centre.x.at[ball].set(centre.x[trunk]), centre.y.at[ball].set(centre.y[trunk])
    return Vector(x, y, centre.z.at[ball].set(top))


def _share(over: Array, under: Array) -> Array:
    """Where the chord between a value above zero and one below crosses zero."""
    return jnp.clip(over / jnp.where(over - under > 1e-9, over - under, 1.0), 0, 1)
