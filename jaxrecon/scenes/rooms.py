"""Furnished rooms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.cameras import Cameras, focal_length, hold, look_at, path, wander
from jaxrecon.scenes.clutter import draw_sizes, either, merged, on_top, strewn
from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.placing import at_best, out_of_the_way, standing_height
from jaxrecon.scenes.rng import Rng
from jaxrecon.scenes.solids import Solids, Turn, place, turn
from jaxrecon.scenes.textures import draw_materials
from jaxrecon.scenes.vectors import Vector, columns
from jaxrecon.scenes.world import Lights, World

_FACES = 6
_LONGEST = 20.0
"""Sides of a hall, at most, in metres."""

_SHORTEST_VISTA = 8.0
"""The longer side of a room with a vista, at least, in metres."""

_BELOW = -1000.0
"""Height of what is not in a room."""

_FROM_WALL = 0.45
"""Least distance of a camera from the walls, in metres."""


@pytree_dataclass
class Room:
    """A box seen from inside; its floor is centred on the origin."""

    half_width: Array
    half_depth: Array
    height: Array
    sky: Vector
    bounce: Vector

    def depth(self, origin: Vector, ray: Vector) -> Array:
        """Where each ray leaves the room."""
        x = leaves_at(origin.x, ray.x, -self.half_width, self.half_width)
        y = leaves_at(origin.y, ray.y, -self.half_depth, self.half_depth)
        return jnp.minimum(jnp.minimum(x, y), leaves_at(origin.z, ray.z, 0.0, self.height))

    def face(self, point: Vector, ray: Vector) -> tuple[Vector, Int[Array, "..."]]:
        """Normal and number: floor and ceiling, then the walls."""
        x = self.half_width - jnp.abs(point.x)
        y = self.half_depth - jnp.abs(point.y)
        z = jnp.minimum(jnp.abs(point.z), jnp.abs(self.height - point.z))
        is_x = (x < y) & (x < z)
        is_y = (y < z) & ~is_x
        is_z = ~is_x & ~is_y
        normal = Vector(
            jnp.where(is_x, -jnp.sign(ray.x), 0),
            jnp.where(is_y, -jnp.sign(ray.y), 0),
            jnp.where(is_z, -jnp.sign(ray.z), 0),
        )
        far_side = (normal.x + normal.y + normal.z < 0).astype(jnp.int32)
        return normal, far_side + jnp.where(is_x, 2, jnp.where(is_y, 4, 0))

    def ambient(self, point: Vector, normal: Vector) -> Vector:
        """Light from above and below, less in the corners."""
        x = _crowded(self.half_width - jnp.abs(point.x), normal.x)
        y = _crowded(self.half_depth - jnp.abs(point.y), normal.y)
        z = _crowded(jnp.minimum(point.z, self.height - point.z), normal.z)
        up = 0.5 + 0.5 * normal.z
        return (self.bounce + (self.sky - self.bounce) * up) * (x * y * z)

    def through_air(self, colour: Vector, ray: Vector, depth: Array) -> Vector:
        """Air is clear in a room."""
        del ray, depth
        return colour


def draw_room(rng: Rng, views: int, config: SceneConfig, longer_side: int) -> World:
    """A random room with furniture, lamps and cameras."""
    streams = rng.split(10)
    room, lamps = _draw_walls(streams[0], config), 1.0
    plain = (streams[8].uniform() < config.plain) if config.plain else None
    if plain is not None:
        room, lamps = _enlarged(streams[8], room, plain)
    vista = None
    if config.handheld and config.vistas:
        vista = streams[9].uniform() < config.vistas
        room, more = _lengthened(streams[9], room, vista)
        lamps = lamps * more
    focal = focal_length(streams[1], config.fov, longer_side)
    corner = (config.lens * (2 * focal / longer_side) ** 2 / 2) if config.lens else None
    cameras, spot = _draw_cameras(streams[2], views, room, focal), None
    if config.handheld:
        cameras, spot = _held_cameras(streams[2], views, room, focal, corner, plain, vista, config)
    solids = _furnish(streams[3], room, cameras.position, config, spot, plain)
    if config.clutter:
        solids = _strew(streams[7], room, solids, cameras.position, config, spot, plain)
    smallest = 0.1 if config.clutter else 0.3
    largest = jnp.maximum(jnp.maximum(solids.half.x, solids.half.y), solids.half.z)
    size = jnp.clip(2 * largest, smallest)
    walls = jnp.concatenate([size, jnp.full(_FACES, 2.0)])
    seed = streams[6].integer()
    materials = draw_materials(streams[4], walls)
    lights = _lamps(streams[5], room, config)
    if plain is not None or vista is not None:
        lights = replace(lights, colour=lights.colour * lamps)
    return World(cameras, solids, room, materials, lights, seed, plain=plain)


def _draw_walls(rng: Rng, config: SceneConfig) -> Room:
    u = rng.uniform(9)
    low, high = (side / 2 for side in config.room)
    # The longer rooms of an even draw would leave few small ones: draw in octaves.
    sides = low * (high / low) ** u[:2]
    ambient = 0.12 + 0.3 * u[2]
    sky = Vector(0.9 + 0.2 * u[3], 0.9 + 0.2 * u[4], 0.9 + 0.2 * u[5]) * ambient
    bounce = Vector(0.8 + 0.3 * u[6], 0.7 + 0.3 * u[6], 0.6 + 0.3 * u[6]) * (ambient * 0.6)
    if config.contrast:
        tint = rng.split(1)[0].centred(3)
        sky = sky * Vector(*jnp.exp2(config.contrast * jnp.array([0.6, 0.2, 0.6]) * tint))
        sky, bounce = sky * (0.5 + u[7]), bounce * (0.4 + 1.6 * u[7] ** 2)
    return Room(sides[0], sides[1], 2.4 + 1.4 * u[8], sky, bounce)


def _enlarged(rng: Rng, room: Room, plain: Bool[Array, ""]) -> tuple[Room, Array]:
    """Six plain rooms in ten are halls, up to 20 m long; how much stronger their lamps are."""
    hall, octaves = rng.split(1)[0].uniform(2)
    larger = jnp.where(plain & (hall < 0.6), jnp.exp2(0.4 + 1.2 * octaves), 1.0)
    wide, deep = (
        jnp.maximum(side, jnp.minimum(side * larger, _LONGEST / 2))
        for side in (room.half_width, room.half_depth)
    )
    height = room.height * (1 + 0.3 * (larger - 1))
    return replace(room, half_width=wide, half_depth=deep, height=height), larger**1.5


def _lengthened(rng: Rng, room: Room, vista: Bool[Array, ""]) -> tuple[Room, Array]:
    """With a vista the longer side is 8 to 20 m; how much stronger the lamps are then."""
    wide = room.half_width >= room.half_depth
    side = jnp.maximum(room.half_width, room.half_depth)
    octaves = rng.split(1)[0].uniform()
    long = _SHORTEST_VISTA / 2 * (_LONGEST / _SHORTEST_VISTA) ** octaves
    long = jnp.where(vista, jnp.maximum(side, long), side)
    half_width = jnp.where(wide, long, room.half_width)
    half_depth = jnp.where(wide, room.half_depth, long)
    return replace(room, half_width=half_width, half_depth=half_depth), long / side


def _draw_cameras(rng: Rng, views: int, room: Room, focal: Array) -> Cameras:
    streams = rng.split(4)
    u = streams[0].uniform(6)
    heading = 2 * jnp.pi * u[0]
    c, s = jnp.cos(heading), jnp.sin(heading)
    extent = jnp.minimum(room.half_width / jnp.abs(c), room.half_depth / jnp.abs(s))
    target = -extent * (0.25 + 0.35 * u[1])
    distance = extent * (0.5 + 0.25 * u[2]) - target
    x, y = path(streams[1], views, heading, distance)
    side_x, side_y = room.half_width - _FROM_WALL, room.half_depth - _FROM_WALL
    height = 0.8 + 1.0 * u[3] + 0.5 * streams[2].centred(views)
    position = Vector(
        jnp.clip(x + target * c, -side_x, side_x),
        jnp.clip(y + target * s, -side_y, side_y),
        jnp.clip(height, _FROM_WALL, room.height - _FROM_WALL),
    )
    aim = Vector(target * c, target * s, 0.5 + 0.9 * u[4])
    return lax.optimization_barrier(look_at(streams[3], position, aim, 0.22 * distance, focal))


@pytree_dataclass
class Spot:
    """Where the cameras look, and whether at a table from near."""

    x: Array
    y: Array
    distance: Array
    near: Bool[Array, ""]


def _held_cameras(
    rng: Rng,
    views: int,
    room: Room,
    focal: Array,
    corner: Array | None,
    plain: Bool[Array, ""] | None,
    vista: Bool[Array, ""] | None,
    config: SceneConfig,
) -> tuple[Cameras, Spot]:
    """Cameras in the hand: through the room, or close to a table, which may stand at one end."""
    streams = rng.split(5)
    u = streams[0].uniform(9)
    heading = 2 * jnp.pi * u[0]
    if vista is not None:
        heading = jnp.where(vista, _along(streams[4], room), heading)
    c, s = jnp.cos(heading), jnp.sin(heading)
    extent = jnp.minimum(room.half_width / jnp.abs(c), room.half_depth / jnp.abs(s))
    close_ups, reach = jnp.float32(config.close_ups), 1.4
    if plain is not None:
        close_ups = jnp.where(plain, jnp.maximum(close_ups, 0.65), close_ups)
        reach = jnp.where(plain, 2.2, reach)
    near, all_round = u[5] < close_ups, jnp.float32(config.all_round)
    if vista is not None:
        near, all_round = near | vista, jnp.where(vista, 0.0, all_round)
    target = -extent * (jnp.where(near, 0.0, 0.1) + 0.55 * u[1])
    distance = jnp.where(near, 0.8 + reach * u[2], extent * (0.2 + 0.55 * u[2]) - target)
    if vista is not None:
        at_an_end = (extent - _FROM_WALL - distance) * (0.5 + 0.5 * u[1])
        target = jnp.where(vista, at_an_end, target)
    x, y = wander(streams[1], views, heading, distance, all_round)
    side_x, side_y = room.half_width - _FROM_WALL, room.half_depth - _FROM_WALL
    sway = streams[2].centred(views)
    height = jnp.where(near, 1.15 + 0.6 * u[3] + 0.15 * sway, 0.7 + 1.3 * u[3] + 0.4 * u[6] * sway)
    position = Vector(
        jnp.clip(x + target * c, -side_x, side_x),
        jnp.clip(y + target * s, -side_y, side_y),
        jnp.clip(height, _FROM_WALL, room.height - _FROM_WALL),
    )
    aim_z = jnp.where(near, 0.65 + 0.3 * u[4], 0.4 + 1.2 * u[4])
    if vista is not None:
        aim_z = jnp.where(vista, aim_z + 0.3 * u[7], aim_z)
    aim = Vector(target * c, target * s, aim_z)
    cameras = hold(streams[3], position, aim, distance, focal, corner)
    spot = Spot(target * c, target * s, distance, near)
    return lax.optimization_barrier((cameras, spot))


def _along(rng: Rng, room: Room) -> Array:
    """A direction along the longer side of a room, within 20 degrees."""
    end, off = rng.uniform(2)
    side = jnp.where(room.half_width >= room.half_depth, 0.0, jnp.pi / 2)
    return side + jnp.where(end < 0.5, 0.0, jnp.pi) + 0.35 * (2 * off - 1)


def _strew(
    rng: Rng,
    room: Room,
    solids: Solids,
    cameras: Vector,
    config: SceneConfig,
    spot: Spot | None,
    plain: Bool[Array, ""] | None,
) -> Solids:
    """Puts small things on the table and the floor; `solids` begins with the table's top."""
    streams = rng.split(4)
    near = jnp.zeros((), bool) if spot is None else spot.near
    about = near if plain is None else near & plain
    up = (streams[0].uniform(config.clutter) < 0.6) | (near & ~about)
    half, axes, rise = draw_sizes(streams[1], config, jnp.where(up, 0.14, 0.35))
    top = on_top(streams[2], half, axes, rise, cameras, _top_of(solids))
    spread = jnp.maximum(room.half_width, room.half_depth)
    x, y = strewn(streams[3], jnp.where(about, 2.0, spread), config.clutter)
    if spot is not None:
        x, y = x + jnp.where(about, spot.x, 0.0), y + jnp.where(about, spot.y, 0.0)
    x = jnp.clip(x, -room.half_width + 0.1, room.half_width - 0.1)
    y = jnp.clip(y, -room.half_depth + 0.1, room.half_depth - 0.1)
    floor = at_best(x, y, jnp.broadcast_to(rise, x.shape), half, axes, cameras)
    below = place(out_of_the_way(floor, half, axes, cameras), half, axes)
    return merged(config, solids, either(up, top, below))


def _top_of(solids: Solids) -> tuple[Vector, Vector, Turn]:
    """Centre, half sizes and axes of the first solid, an upright box."""
    top = solids[0]
    own = Turn(top.row_x.unit(), top.row_y.unit(), top.row_z.unit())
    size = top.half
    away = own.x * (size.x * top.offset.x) + own.y * (size.y * top.offset.y)
    return -(away + own.z * (size.z * top.offset.z)), size, own


def _furnish(
    rng: Rng,
    room: Room,
    cameras: Vector,
    config: SceneConfig,
    spot: Spot | None,
    plain: Bool[Array, ""] | None,
) -> Solids:
    """A table, pictures on the walls, and boxes, cylinders and spheres on the floor or table."""
    streams = rng.split(4)
    count = 1 + config.boxes + config.cylinders + config.spheres
    half, axes = lax.optimization_barrier(_draw_sizes(streams[0], count, config))
    rise = standing_height(half, axes, config.spheres)
    places = streams[1].centred(8, count, 2)
    x = places[..., 0] * (room.half_width - 0.3)
    y = places[..., 1] * (room.half_depth - 0.3)
    wall = jnp.sign(x) * (room.half_width - half.x - 0.01)[None]
    x = jnp.where(_at_wall(count), wall, x)
    centre = at_best(x, y, jnp.broadcast_to(rise, x.shape), half, axes, cameras)
    if spot is not None:
        first = (jnp.arange(count) == 0) & spot.near
        x, y = jnp.where(first, spot.x, centre.x), jnp.where(first, spot.y, centre.y)
        centre = Vector(x, y, centre.z)
    random = 0.5 * streams[2].centred(count, 3)
    centre = _onto_table(centre, half, rise, random, config)
    centre = out_of_the_way(centre, half, axes, cameras)
    hung = _hang(streams[3], room, config.pictures)
    if plain is not None and spot is not None and config.pictures:
        screen = _screen(streams[3], centre[:1], half[:1], axes[:1], cameras)
        first = jnp.arange(config.pictures) == 0
        hung = either(first & plain & spot.near, screen, hung)
    parts = [
        _table(centre[:1], half[:1], axes[:1]),
        hung,
        place(centre[1:], half[1:], axes[1:]),
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def _at_wall(count: int) -> Bool[Array, " N"]:
    """Every third thing stands against a wall."""
    return jnp.arange(count) % 3 == 1


def _table(centre: Vector, half: Vector, axes: Turn) -> Solids:
    """A top and a leg within the given bounding box."""
    thick = jnp.full(1, 0.03)
    top = place(
        Vector(centre.x, centre.y, centre.z + half.z - thick), Vector(half.x, half.y, thick), axes
    )
    leg = Vector(half.x * 0.4, half.y * 0.25, half.z - thick)
    stand = place(Vector(centre.x, centre.y, centre.z - thick), leg, axes)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), top, stand)


def _draw_sizes(rng: Rng, count: int, config: SceneConfig) -> tuple[Vector, Turn]:
    """Half sizes and rotations of the table (first) and of what stands on the floor."""
    streams = rng.split(3)
    u = streams[0].uniform(count, 3)
    boxes = 1 + config.boxes
    number = jnp.arange(count)[:, None]
    box = jnp.array([[0.15, 0.15, 0.15]]) * jnp.array([[5.0, 5.0, 7.0]]) ** u
    drum = jnp.array([[0.08, 0.08, 0.15]]) * jnp.array([[4.5, 1.0, 5.0]]) ** u
    drum = drum.at[:, 1].set(drum[:, 0])
    ball = (0.13 * 4.0 ** u[:, :1]) * (0.7 + 0.6 * streams[2].uniform(count, 3))
    half = jnp.where(number < boxes, box, jnp.where(number < boxes + config.cylinders, drum, ball))
    half = half.at[0].set(jnp.array([0.45, 0.35, 0.33]) + jnp.array([0.5, 0.3, 0.1]) * u[0])
    yaw, tilt, lean = streams[1].uniform(3, count)
    number = number[:, 0]
    aligned = _at_wall(count)
    yaw = jnp.where(aligned, 0.0, yaw * 2 * jnp.pi)
    leans = (lean < 0.4) & ~aligned & (number > 0) & (number < boxes)
    leans |= number >= boxes + config.cylinders
    return columns(half), turn(yaw, jnp.where(leans, tilt * 1.4, 0.0))


def _onto_table(
    centre: Vector, half: Vector, rise: Array, random: Float[Array, "N 3"], config: SceneConfig
) -> Vector:
    """Puts the first cylinder and the first sphere on the table, if small and by chance."""
    number = jnp.arange(rise.shape[0])
    drum = 1 + config.boxes
    chosen = (number == drum) | (number == drum + config.cylinders)
    chosen &= (half.x < 0.3) & (rise < 0.35) & (random[:, 2] < 0.2)
    return Vector(
        jnp.where(chosen, centre.x[0] + 0.5 * random[:, 0], centre.x),
        jnp.where(chosen, centre.y[0] + 0.4 * random[:, 1], centre.y),
        jnp.where(chosen, centre.z[0] + half.z[0] + rise, centre.z),
    )


def _hang(rng: Rng, room: Room, count: int) -> Solids:
    """Pictures on the walls."""
    u = rng.uniform(6, count)
    on_x = jnp.arange(count) % 2 == 0
    side = jnp.where(u[0] < 0.5, -1.0, 1.0)
    half = Vector(0.2 + 0.6 * u[1], jnp.full(count, 0.02), 0.2 + 0.4 * u[2])
    centre = Vector(
        jnp.where(on_x, side * (room.half_width - 0.02), (u[3] - 0.5) * 1.2 * room.half_width),
        jnp.where(on_x, (u[3] - 0.5) * 1.2 * room.half_depth, side * (room.half_depth - 0.02)),
        1.2 + 0.6 * u[4],
    )
    return place(centre, half, turn(jnp.where(on_x, jnp.pi / 2, 0.0), jnp.zeros(count)))


def _screen(rng: Rng, centre: Vector, half: Vector, axes: Turn, cameras: Vector) -> Solids:
    """A partition that stands behind the table as most cameras see it, in every other scene."""
    u = rng.split(1)[0].uniform(3, 1)
    size = Vector(half.x * (0.7 + 0.6 * u[0]), jnp.full(1, 0.02), 0.5 + 0.35 * u[1])
    towards = axes.y.x * (jnp.mean(cameras.x) - centre.x)
    towards += axes.y.y * (jnp.mean(cameras.y) - centre.y)
    away = -jnp.sign(towards) * (half.y + 0.04)
    x, y = centre.x + axes.y.x * away, centre.y + axes.y.y * away
    stand = Vector(x, y, jnp.where(u[2] < 0.5, size.z, _BELOW))
    return place(out_of_the_way(stand, size, axes, cameras), size, axes)


def _lamps(rng: Rng, room: Room, config: SceneConfig) -> Lights:
    u = rng.uniform(config.lights, 8)
    position = Vector(
        (u[:, 0] - 0.5) * 1.5 * room.half_width,
        (u[:, 1] - 0.5) * 1.5 * room.half_depth,
        room.height - 0.1 - 0.5 * u[:, 2],
    )
    strength = (0.5 + u[:, 3]) * 2.5
    warmth = u[:, 4]
    colour = Vector(strength, strength * (0.8 + 0.2 * warmth), strength * (0.55 + 0.5 * warmth))
    if config.contrast:
        colour = colour * jnp.exp2(config.contrast * (5 * u[:, 6] - 3.5))
    return Lights(position, colour, 0.05 + 0.3 * u[:, 5])


def leaves_at(origin: Array, ray: Array, low: Array | float, high: Array | float) -> Array:
    """Where a ray passes the wall ahead of it; far away if it runs along the walls."""
    ahead = jnp.where(ray > 0, high - origin, origin - low)
    return ahead / jnp.maximum(jnp.abs(ray), 1e-9)


def _crowded(gap: Array, across: Array) -> Array:
    """Share of ambient light left near a wall that the surface does not lie in."""
    return 1 - 0.45 * jnp.exp(-3.0 * jnp.maximum(gap, 0)) * (1 - jnp.abs(across))
