"""Boxes, upright or turned cylinders and ellipsoids, and the rays that meet them.

Each solid is the image of a unit solid (the cube [-1, 1]^3, the cylinder of radius 1 and height 2
along z, the unit sphere) under an affine map, so that one ray test a kind does for all sizes and
rotations.
"""

from collections.abc import Callable
from functools import reduce

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes.config import SceneConfig
from jaxrecon.scenes.vectors import Vector, where

FAR = 1e9
"""Ray parameter of a ray that meets nothing."""

_NEAR = 1e-4
_NUMBER_BITS = 31

type Interval = Callable[[Vector, Vector], tuple[Array, Array]]


@pytree_dataclass
class Solids:
    """`N` solids; `row_x · p + offset.x` is the unit solid's x of a world point p, and so on."""

    row_x: Vector
    row_y: Vector
    row_z: Vector
    offset: Vector
    half: Vector

    def __getitem__(self, index: object) -> "Solids":
        return Solids(
            self.row_x[index],
            self.row_y[index],
            self.row_z[index],
            self.offset[index],
            self.half[index],
        )

    def unit_direction(self, ray: Vector) -> Vector:
        """A world direction in the frame of the unit solid."""
        return Vector(self.row_x.dot(ray), self.row_y.dot(ray), self.row_z.dot(ray))

    def unit_point(self, point: Vector) -> Vector:
        """A world point in the frame of the unit solid."""
        return self.unit_direction(point) + self.offset

    def centre(self) -> Vector:
        """The middle of each solid, in the world."""
        along = -(self.offset * self.half * self.half)
        return self.row_x * along.x + self.row_y * along.y + self.row_z * along.z

    def world_normal(self, normal: Vector) -> Vector:
        """The world's unit normal for a normal of the unit solid."""
        world = self.row_x * normal.x + self.row_y * normal.y + self.row_z * normal.z
        return world.unit()


@pytree_dataclass
class Turn:
    """Rotations by their columns: the solid's own axes in the world."""

    x: Vector
    y: Vector
    z: Vector

    def __getitem__(self, index: object) -> "Turn":
        return Turn(self.x[index], self.y[index], self.z[index])


def turn(yaw: Array, tilt: Array) -> Turn:
    """A tilt about the solid's own x axis, then a turn about the world's vertical."""
    c, s, ct, st = jnp.cos(yaw), jnp.sin(yaw), jnp.cos(tilt), jnp.sin(tilt)
    return Turn(Vector(c, s, 0 * c), Vector(-s * ct, c * ct, st), Vector(s * st, -c * st, ct))


def place(centre: Vector, half: Vector, axes: Turn) -> Solids:
    """Solids of given half sizes along their own axes."""
    rows = axes.x * (1 / half.x), axes.y * (1 / half.y), axes.z * (1 / half.z)
    offset = Vector(*(-row.dot(centre) for row in rows))
    return Solids(*rows, offset, half)


def box_interval(origin: Vector, ray: Vector) -> tuple[Array, Array]:
    """Where a ray enters and leaves the unit cube."""
    near_x, far_x = _slab(origin.x, ray.x)
    near_y, far_y = _slab(origin.y, ray.y)
    near_z, far_z = _slab(origin.z, ray.z)
    near = jnp.maximum(jnp.maximum(near_x, near_y), near_z)
    return near, jnp.minimum(jnp.minimum(far_x, far_y), far_z)


def cylinder_interval(origin: Vector, ray: Vector) -> tuple[Array, Array]:
    """Where a ray enters and leaves the unit cylinder."""
    flat = jnp.zeros_like(ray.z)
    near, far = _round(Vector(origin.x, origin.y, flat), Vector(ray.x, ray.y, flat))
    near_z, far_z = _slab(origin.z, ray.z)
    return jnp.maximum(near, near_z), jnp.minimum(far, far_z)


def sphere_interval(origin: Vector, ray: Vector) -> tuple[Array, Array]:
    """Where a ray enters and leaves the unit sphere."""
    return _round(origin, ray)


def intervals(config: SceneConfig) -> tuple[Interval, ...]:
    """The ray test of each solid of a scene: boxes first, then cylinders, then spheres."""
    boxes, cylinders, spheres = config.clutter_kinds
    return (
        (box_interval,) * (config.boxes + config.pictures + 2 + boxes)
        + (cylinder_interval,) * (config.cylinders + cylinders)
        + (sphere_interval,) * (config.spheres + spheres)
    )


def first_solid(
    solids: Solids, tests: tuple[Interval, ...], origin: Vector, ray: Vector
) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
    """Number of the first solid along each ray, and its ray parameter to five digits.

    A non-negative float orders like its bits read as an integer, so the solid's number rides in
    the lowest five bits and one minimum finds both.
    """
    keys = []
    for number, test in enumerate(tests):
        one = solids[number]
        near, far = test(one.unit_point(origin), one.unit_direction(ray))
        depth = jnp.where((near < far) & (near > _NEAR), near, FAR)
        bits = lax.bitcast_convert_type(depth, jnp.int32)
        keys.append((bits & ~_NUMBER_BITS) | number)
    key = lax.optimization_barrier(reduce(jnp.minimum, keys))
    return lax.bitcast_convert_type(key & ~_NUMBER_BITS, jnp.float32), key & _NUMBER_BITS


def any_solid(
    solids: Solids, tests: tuple[Interval, ...], origin: Vector, ray: Vector
) -> Bool[Array, "..."]:
    """Whether a solid stands between `origin` and `origin + ray`."""
    blocked = []
    for number, test in enumerate(tests):
        one = solids[number]
        near, far = test(one.unit_point(origin), one.unit_direction(ray))
        blocked.append((near < far) & (far > _NEAR) & (near < 1))
    return lax.optimization_barrier(reduce(jnp.logical_or, blocked))


def meet(
    one: Solids, number: Int[Array, "..."], tests: tuple[Interval, ...], origin: Vector, ray: Vector
) -> tuple[Float[Array, "..."], Vector, Vector]:
    """Exact ray parameter on the solid that each ray meets, and point and normal in its frame."""
    start, along = one.unit_point(origin), one.unit_direction(ray)
    boxes, cylinders = tests.count(box_interval), tests.count(cylinder_interval)
    is_box, is_sphere = number < boxes, number >= boxes + cylinders
    box, ball = box_interval(start, along)[0], sphere_interval(start, along)[0]
    drum = cylinder_interval(start, along)[0]
    depth = jnp.where(is_box, box, jnp.where(is_sphere, ball, drum))
    depth = lax.optimization_barrier(depth)
    point = start + along * depth
    round_side = Vector(point.x, point.y, jnp.zeros_like(point.z))
    cap = Vector(jnp.zeros_like(point.x), jnp.zeros_like(point.y), point.z)
    on_cap = jnp.abs(point.z) > 1 - 1e-4
    normal = where(is_box, _largest(point), where(is_sphere, point, where(on_cap, cap, round_side)))
    return depth, point, normal


def _largest(point: Vector) -> Vector:
    """The component of largest size alone, as its sign."""
    ax, ay, az = jnp.abs(point.x), jnp.abs(point.y), jnp.abs(point.z)
    is_x = (ax >= ay) & (ax >= az)
    is_y = ~is_x & (ay >= az)
    return Vector(
        jnp.where(is_x, jnp.sign(point.x), 0),
        jnp.where(is_y, jnp.sign(point.y), 0),
        jnp.where(is_x | is_y, 0, jnp.sign(point.z)),
    )


def _slab(origin: Array, ray: Array) -> tuple[Array, Array]:
    inverse = 1 / jnp.where(jnp.abs(ray) < 1e-9, 1e-9, ray)
    middle, reach = -origin * inverse, jnp.abs(inverse)
    return middle - reach, middle + reach


def _round(origin: Vector, ray: Vector) -> tuple[Array, Array]:
    """Where a ray is within 1 of the origin, from its closest point (no cancellation far away)."""
    inverse = 1 / jnp.maximum(ray.dot(ray), 1e-12)
    middle = -origin.dot(ray) * inverse
    closest = origin + ray * middle
    inside = 1 - closest.dot(closest)
    reach = jnp.sqrt(jnp.maximum(inside, 0) * inverse)
    return jnp.where(inside > 0, middle - reach, FAR), jnp.where(inside > 0, middle + reach, -FAR)
