"""Renders scenes by following rays; one jitted function, no files needed."""

from dataclasses import replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Key

from jaxrecon.errors import InputError
from jaxrecon.scenes.config import SCENES, SceneConfig
from jaxrecon.scenes.landscapes import draw_landscape
from jaxrecon.scenes.noise import hashed, uniform
from jaxrecon.scenes.phone import after_film, before_film, draw_phone
from jaxrecon.scenes.photo import develop, draw_film
from jaxrecon.scenes.photographs import Pictures, backdrop, draw_prints, printed
from jaxrecon.scenes.plain import made_plain
from jaxrecon.scenes.relief import draw_relief
from jaxrecon.scenes.rendered import RenderedScene, RenderedScenes
from jaxrecon.scenes.rng import Rng, scene_rng
from jaxrecon.scenes.rooms import draw_room
from jaxrecon.scenes.shading import shade
from jaxrecon.scenes.solids import box_interval, intervals
from jaxrecon.scenes.textures import albedo
from jaxrecon.scenes.trace import cast, painted
from jaxrecon.scenes.vectors import Vector, where
from jaxrecon.scenes.world import World

_SPLITS = {"train": 0x7A11, "test": 0x7E57}
_SMALLEST, _LARGEST = 8, 4096
_RING = 0.35
"""Distance of the further colour samples from a pixel's centre, in pixels."""


def scene_key(split: Literal["train", "test"], seed: int) -> Key[Array, ""]:
    """The key of a stream of scenes; those of "train" and "test" have no scene in common.

    Raises:
      InputError: the split has another name, or the seed is negative.
    """
    if split not in _SPLITS:
        raise InputError(f"split is {split!r}; choose 'train' or 'test'")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; choose a whole number from 0 to 2**32 - 1")
    return jax.random.fold_in(jax.random.key(seed), _SPLITS[split])


def render_scenes(
    key: Key[Array, ""],
    *,
    scenes: int,
    views: int,
    height: int,
    width: int,
    config: SceneConfig = SCENES,
    first: int = 0,
    pictures: Pictures | None = None,
) -> RenderedScenes:
    """Renders scenes number `first`, `first + 1`, ... of the stream of a key.

    A scene depends on the key, its number, the number of views and the config only, never on the
    scenes beside it. Views come in random order. It may be called inside another jit, and works in
    float32 whether or not `jax_enable_x64` is set.

    Args:
      key: from `scene_key`, or any key.
      scenes, views: how many.
      height, width: size of the images in pixels.
      config: what kinds of scenes.
      first: number of the first scene; each kind of scene repeats every `config.outdoor_every`.
      pictures: to lie on a share of the surfaces (`config.picture_share`), and behind landscapes.

    Raises:
      InputError: a number is out of range.
    """
    for name, value in (("scenes", scenes), ("views", views)):
        if value < 1:
            raise InputError(f"{name} is {value}; ask for at least 1")
    for name, value in (("height", height), ("width", width)):
        if not _SMALLEST <= value <= _LARGEST:
            raise InputError(f"{name} is {value}; choose {_SMALLEST} to {_LARGEST} pixels")
    if not 0 <= first <= 2**32 - scenes:
        raise InputError(f"first is {first}; scene numbers go from 0 to 2**32 - 1")
    outdoors = tuple(config.outdoors(first + number) for number in range(scenes))
    with jax.enable_x64(False):
        return _render(
            key[None], jnp.uint32(first), outdoors, views, (height, width), config, pictures
        )


def render_groups(
    keys: Key[Array, " G"],
    *,
    scenes: int,
    views: int,
    height: int,
    width: int,
    config: SceneConfig = SCENES,
    pictures: Pictures | None = None,
) -> RenderedScenes:
    """The first `scenes` scenes of the streams of several keys, one stream after the other.

    The same as `render_scenes` for each of them, at once.
    """
    outdoors = tuple(config.outdoors(number) for number in range(scenes))
    with jax.enable_x64(False):
        return _render(keys, jnp.uint32(0), outdoors, views, (height, width), config, pictures)


def render_scene(
    seed: int,
    *,
    views: int,
    height: int,
    width: int,
    split: Literal["train", "test"] = "test",
    number: int = 0,
    config: SceneConfig = SCENES,
    pictures: Pictures | None = None,
) -> RenderedScene:
    """Renders one scene of a stream; see `render_scenes`.

    Raises:
      InputError: a number or the split is out of range.
    """
    if number < 0:
        raise InputError(f"number is {number}; scene numbers go from 0 to 2**32 - 1")
    batch = render_scenes(
        scene_key(split, seed),
        scenes=1,
        views=views,
        height=height,
        width=width,
        config=config,
        first=number,
        pictures=pictures,
    )
    return RenderedScene(
        batch.images[0],
        batch.depth_z[0],
        batch.mask[0],
        batch.world_from_camera[0],
        batch.intrinsics[0],
    )


@partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _render(
    keys: Array,
    first: Array,
    outdoors: tuple[bool, ...],
    views: int,
    size: tuple[int, int],
    config: SceneConfig,
    pictures: Pictures | None,
) -> RenderedScenes:
    """Renders rooms and landscapes as two groups, then puts them in order."""
    groups, order = [], np.empty((0, len(keys)), int)
    every = np.arange(len(outdoors) * len(keys)).reshape(len(keys), -1).T
    for kind in (False, True):
        numbers = [number for number, outdoor in enumerate(outdoors) if outdoor == kind]
        if numbers:
            one = partial(
                _render_one,
                outdoor=kind,
                views=views,
                size=size,
                config=config,
                pictures=pictures,
            )
            own = jnp.tile(keys, len(numbers))
            named = jnp.repeat(first + jnp.array(numbers, jnp.uint32), len(keys))
            groups.append(jax.vmap(one)(own, named))
            order = np.concatenate([order, every[numbers]])
    back = np.argsort(order, axis=None)
    fields = (jnp.concatenate(parts)[back] for parts in zip(*groups, strict=True))
    return RenderedScenes(*fields)


def _render_one(
    key: Array,
    number: Array,
    *,
    outdoor: bool,
    views: int,
    size: tuple[int, int],
    config: SceneConfig,
    pictures: Pictures | None,
) -> tuple[Array, ...]:
    """The fields of one scene of `RenderedScenes`."""
    scenery, film, surfaces, phones = scene_rng(key, number).split(4)
    draw = draw_landscape if outdoor else draw_room
    world = draw(scenery, views, config, max(size))
    world = lax.optimization_barrier(_furbished(world, surfaces, config, pictures, outdoor))
    light, depth, mask = expose(world, size, config, pictures)
    bits = pixel_bits(world, size, 1)
    phone = draw_phone(phones, views, config.phone) if config.phone else None
    if phone is not None:
        light = before_film(light, phone)
    images = develop(light, draw_film(film, views, config), bits)
    if phone is not None:
        images = after_film(images, phone, bits)
    cameras = world.cameras
    pose, intrinsics = cameras.world_from_camera(), cameras.intrinsics(*size)
    return images, depth, mask, pose, intrinsics


def _furbished(
    world: World, rng: Rng, config: SceneConfig, pictures: Pictures | None, outdoor: bool
) -> World:
    """The scene with pictures, openings and paint on its surfaces."""
    streams = rng.split(4)
    half, faces = world.solids.half, world.materials.gloss.shape[0] - world.solids.half.x.shape[0]
    least = jnp.minimum(jnp.minimum(half.x, half.y), half.z)
    boxes = intervals(config).count(box_interval)
    if config.relief:
        wall = jnp.full(faces, 0.0 if outdoor else 0.3)
        is_box = jnp.arange(half.x.shape[0]) < boxes
        room = jnp.concatenate([jnp.where(is_box, 0.8 * least, 0.0), wall])
        size = jnp.concatenate([jnp.maximum(half.x, half.y) * 2, jnp.full(faces, 3.0)])
        world = replace(world, relief=draw_relief(streams[0], size, room, config.relief))
    if pictures is not None:
        largest = 2 * jnp.maximum(jnp.maximum(half.x, half.y), half.z)
        wide = jnp.full(faces, 3.0)
        size = jnp.concatenate([largest, wide, jnp.ones(1)])
        prints = draw_prints(streams[1], size, pictures, config.picture_share)
        world = replace(world, prints=prints)
    if config.plain:
        world = made_plain(streams[3], world, boxes, config, pictures)
    return world


def expose(
    world: World, size: tuple[int, int], config: SceneConfig, pictures: Pictures | None
) -> tuple[Vector, Array, Array]:
    """Mean light of the samples of each pixel; depth and mask at the pixels' centres."""
    shape = (*world.cameras.position.x.shape, *size)
    bits = pixel_bits(world, size, 0)

    def add_sample(
        carry: tuple[Vector, Array, Array], number: Array
    ) -> tuple[tuple[Vector, Array, Array], None]:
        total, depth, mask = carry
        light, here, found = _sample(world, size, config, bits, number, pictures)
        centre = number == 0
        kept = jnp.where(centre, here, depth), jnp.where(centre, found, mask)
        return (total + light * (1 / config.samples), *kept), None

    dark = Vector(*(jnp.zeros(shape),) * 3)
    start = dark, jnp.zeros(shape), jnp.zeros(shape, bool)
    numbers = jnp.arange(config.samples, dtype=jnp.uint32)
    return lax.scan(add_sample, start, numbers)[0]


def _sample(
    world: World,
    size: tuple[int, int],
    config: SceneConfig,
    bits: Array,
    number: Array,
    pictures: Pictures | None,
) -> tuple[Vector, Array, Array]:
    """Light, depth and mask of one sample of each pixel: the centre, then points around it."""
    tests = intervals(config)
    turned = uniform(bits) * (2 * jnp.pi) + number.astype(jnp.float32) * (
        2 * jnp.pi / max(config.samples - 1, 1)
    )
    off = jnp.where(number == 0, 0.0, _RING)
    row = jnp.arange(size[0], dtype=jnp.float32)[None, :, None] - (size[0] - 1) / 2
    column = jnp.arange(size[1], dtype=jnp.float32)[None, None] - (size[1] - 1) / 2
    rays = world.cameras.rays(row + off * jnp.sin(turned), column + off * jnp.cos(turned))
    origin = world.cameras.position[:, None, None]
    hit = painted(world, cast(world, tests, origin, rays))
    materials = world.materials[hit.number]
    colour = albedo(materials, hit.point, hit.u, hit.v, hit.footprint)
    if pictures is not None and world.prints is not None:
        prints = world.prints[hit.number]
        pictured = printed(prints, pictures, hit.u, hit.v, hit.footprint)
        colour = where(prints.share > 0.5, pictured, colour)
    colour = lax.optimization_barrier(colour)
    light = shade(world, tests, hit, rays, colour, bits + number * jnp.uint32(0x9E3779B9))
    seen = world.surroundings.through_air(light, rays, hit.depth)
    if pictures is not None and world.prints is not None:
        seen = where(hit.found, seen, backdrop(world.prints[-1], pictures, rays, seen))
    return seen, jnp.where(hit.found, hit.depth, 0.0), hit.found


def pixel_bits(world: World, size: tuple[int, int], salt: int) -> Array:
    """Random bits for each pixel of each view."""
    shape = (*world.cameras.position.x.shape, *size)
    view, row, column = (lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in range(3))
    return hashed(column, row, view, world.seed + salt)
