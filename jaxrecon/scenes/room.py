"""A furnished room, ray-cast: images, depth and cameras that agree exactly."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxrecon.geometry.transforms import rigid, transform_points
from jaxrecon.pytree import pytree_dataclass

ROOM = (3.0, 1.5, 3.0)
"""Half the room's extent along x, y (down) and z, in metres; its middle is the origin."""

_SPHERES, _BOXES = 5, 5
_LIGHT = (0.8, -1.2, -0.6)
_FAR = 1e9


@dataclass(frozen=True)
class RenderedScene:
    """`V` views of one scene with the truth about them, in metres.

    `depth_z` is the depth along the optical axis at each pixel's centre; `intrinsics` are in
    pixels of the images.
    """

    images: UInt8[Array, "V H W 3"]
    depth_z: Float[Array, "V H W"]
    world_from_camera: Float[Array, "V 4 4"]
    intrinsics: Float[Array, "V 3 3"]


def render_room(
    seed: int, *, views: int = 6, height: int = 126, width: int = 168, focal: float = 0.8
) -> RenderedScene:
    """Renders a room with random furniture from cameras on an arc.

    Args:
      seed: decides furniture, textures and colours.
      views: number of images.
      height, width: their size in pixels.
      focal: focal length in widths of the image.
    """
    pose = _arc(views)
    matrix = jnp.array(
        [[focal * width, 0, (width - 1) / 2], [0, focal * width, (height - 1) / 2], [0, 0, 1]]
    )
    render = jax.jit(partial(_render_view, size=(height, width)))
    furniture = _furniture(jax.random.key(seed))
    images, depth = jax.lax.map(lambda camera: render(furniture, camera, matrix), pose)
    return RenderedScene(images, depth, pose, jnp.broadcast_to(matrix, (views, 3, 3)))


@pytree_dataclass
class _Furniture:
    sphere_centre: Float[Array, "S 3"]
    sphere_radius: Float[Array, " S"]
    box_low: Float[Array, "B 3"]
    box_high: Float[Array, "B 3"]
    colours: Float[Array, "C 3"]
    texture: Float[Array, "G G G"]


def _furniture(key: Array) -> _Furniture:
    keys = jax.random.split(key, 6)
    floor = ROOM[1]
    radius = jax.random.uniform(keys[0], (_SPHERES,), minval=0.2, maxval=0.5)
    angle = (jnp.arange(_SPHERES) + jax.random.uniform(keys[1])) * (2 * jnp.pi / _SPHERES)
    centre = jnp.stack([jnp.sin(angle), floor - radius, jnp.cos(angle)], axis=-1)
    size = jax.random.uniform(keys[2], (_BOXES, 3), minval=0.3, maxval=0.9)
    place = jax.random.uniform(keys[3], (_BOXES, 2), minval=-2.2, maxval=2.2)
    low = jnp.stack([place[:, 0], floor - size[:, 1], place[:, 1]], axis=-1)
    colours = jax.random.uniform(keys[4], (_SPHERES + _BOXES + 6, 3), minval=0.35, maxval=1.0)
    texture = jax.random.uniform(keys[5], (32, 32, 32))
    return _Furniture(centre, radius, low, low + size, colours, texture)


def _arc(views: int) -> Float[Array, "V 4 4"]:
    """Cameras on an arc at eye height that look at the middle of the room."""
    angle = jnp.linspace(-0.6, 0.6, views) if views > 1 else jnp.zeros(1)
    position = jnp.stack([2.5 * jnp.sin(angle), jnp.full(views, -0.3), -2.5 * jnp.cos(angle)], -1)
    forward = jnp.array([0.0, 0.5, 0.3]) - position
    forward /= jnp.linalg.norm(forward, axis=-1, keepdims=True)
    right = jnp.cross(jnp.array([0.0, 1.0, 0.0]), forward)
    right /= jnp.linalg.norm(right, axis=-1, keepdims=True)
    down = jnp.cross(forward, right)
    return rigid(jnp.stack([right, down, forward], axis=-1), position)


def _render_view(
    room: _Furniture,
    pose: Float[Array, "4 4"],
    intrinsics: Float[Array, "3 3"],
    size: tuple[int, int],
) -> tuple[UInt8[Array, "H W 3"], Float[Array, "H W"]]:
    row, column = jnp.mgrid[: size[0], : size[1]].astype(jnp.float32)
    x = (column - intrinsics[0, 2]) / intrinsics[0, 0]
    y = (row - intrinsics[1, 2]) / intrinsics[1, 1]
    camera_ray = jnp.stack([x, y, jnp.ones_like(x)], axis=-1)
    origin = pose[:3, 3]
    ray = transform_points(pose, camera_ray) - origin
    # Rays have z = 1 in the camera, so the ray parameter is the depth along the optical axis.
    depth, normal, surface = _nearest(room, origin, ray)
    point = origin + depth[..., None] * ray
    light = jnp.array(_LIGHT) - point
    distance = jnp.linalg.norm(light, axis=-1)
    facing = jnp.abs(jnp.sum(normal * light, axis=-1)) / distance
    shade = 0.35 + 0.65 * facing / (1 + 0.1 * distance**2)
    colour = room.colours[surface] * (_paint(room.texture, point) * shade)[..., None]
    return jnp.round(255 * jnp.clip(colour, 0, 1)).astype(jnp.uint8), depth


def _nearest(
    room: _Furniture, origin: Float[Array, "3"], ray: Float[Array, "H W 3"]
) -> tuple[Array, Array, Array]:
    """Ray parameter, normal and number of the first surface along each ray."""
    wall = _walls(origin, ray)
    hits = [
        jax.vmap(lambda c, r: _sphere(origin, ray, c, r))(room.sphere_centre, room.sphere_radius),
        jax.vmap(lambda low, high: _box(origin, ray, low, high))(room.box_low, room.box_high),
        (wall[0][None], wall[1][None]),
    ]
    depth = jnp.concatenate([hit[0] for hit in hits])
    normal = jnp.concatenate([hit[1] for hit in hits])
    first = jnp.argmin(depth, axis=0)
    depth = jnp.take_along_axis(depth, first[None], axis=0)[0]
    normal = jnp.take_along_axis(normal, first[None, ..., None], axis=0)[0]
    side = jnp.argmax(jnp.abs(normal), axis=-1) * 2 + (jnp.sum(normal, axis=-1) > 0)
    return depth, normal, jnp.where(first == _SPHERES + _BOXES, first + side, first)


def _sphere(origin: Array, ray: Array, centre: Array, radius: Array) -> tuple[Array, Array]:
    offset = origin - centre
    a, b = jnp.sum(ray * ray, axis=-1), jnp.sum(ray * offset, axis=-1)
    root = b * b - a * (jnp.sum(offset * offset) - radius**2)
    t = (-b - jnp.sqrt(jnp.maximum(root, 0))) / a
    t = jnp.where((root > 0) & (t > 0), t, _FAR)
    return t, (offset + t[..., None] * ray) / radius


def _box(origin: Array, ray: Array, low: Array, high: Array) -> tuple[Array, Array]:
    t1, t2 = (low - origin) / ray, (high - origin) / ray
    near, far = jnp.minimum(t1, t2), jnp.maximum(t1, t2)
    t = jnp.max(near, axis=-1)
    hit = (t < jnp.min(far, axis=-1)) & (t > 0)
    axis = jax.nn.one_hot(jnp.argmax(near, axis=-1), 3)
    return jnp.where(hit, t, _FAR), -axis * jnp.sign(ray)


def _walls(origin: Array, ray: Array) -> tuple[Array, Array]:
    """The room seen from inside."""
    exit_at = (jnp.array(ROOM) * jnp.sign(ray) - origin) / ray
    axis = jax.nn.one_hot(jnp.argmin(exit_at, axis=-1), 3)
    return jnp.min(exit_at, axis=-1), -axis * jnp.sign(ray)


def _paint(texture: Float[Array, "G G G"], point: Float[Array, "H W 3"]) -> Float[Array, "H W"]:
    """Brightness of the surface at a point: smooth random noise in four octaves."""
    total = jnp.zeros(point.shape[:-1])
    for octave in range(4):
        cells = point * 2.0**octave * 3.1 + 7.7
        total += 0.55**octave * _trilinear(texture, cells)
    return 0.25 + 0.6 * total


def _trilinear(texture: Float[Array, "G G G"], cells: Float[Array, "H W 3"]) -> Array:
    wrapped = jnp.mod(cells, texture.shape[0])
    coordinates = [wrapped[..., axis] for axis in range(3)]
    return jax.scipy.ndimage.map_coordinates(texture, coordinates, order=1, mode="wrap")
