"""Rays against solids and ground, checked by hand and by points on the surface."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.scenes import SCENES
from jaxrecon.scenes.landscapes import Ground, draw_landscape
from jaxrecon.scenes.noise import noise_2d
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.scenes.rooms import Room, draw_room, leaves_at
from jaxrecon.scenes.solids import (
    FAR,
    Solids,
    any_solid,
    box_interval,
    cylinder_interval,
    first_solid,
    meet,
    place,
    sphere_interval,
    turn,
)
from jaxrecon.scenes.vectors import Vector, columns, constant
from jaxrecon.scenes.world import World

KINDS = (box_interval, cylinder_interval, sphere_interval)
first_of = jax.jit(first_solid, static_argnums=1)


@pytest.fixture(scope="module")
def rooms() -> World:
    return drawn(draw_room)


@pytest.fixture(scope="module")
def landscapes() -> World:
    return drawn(draw_landscape)


def drawn(draw: Callable[..., World]) -> World:
    """Forty worlds, with eight cameras each."""
    one = jax.vmap(lambda number: draw(scene_rng(jax.random.key(1), number), 8, SCENES, 64))
    return jax.jit(one)(jnp.arange(40, dtype=jnp.uint32))


def solids(centre: list, half: list, yaw: list, tilt: list) -> Solids:
    axes = turn(jnp.array(yaw, jnp.float32), jnp.array(tilt, jnp.float32))
    return place(
        columns(jnp.array(centre, jnp.float32)), columns(jnp.array(half, jnp.float32)), axes
    )


def rays(directions: list[list[float]]) -> Vector:
    return columns(jnp.array(directions, jnp.float32))


THREE = solids(
    [[0, 5, 0], [4, 0, 0], [0, 0, 3]],
    [[1, 2, 0.5], [0.5, 0.5, 1], [1, 1, 1]],
    [np.pi / 2, 0, 0],
    [0, 0, 0],
)


def test_first_solid_and_exact_depth_by_hand() -> None:
    # A box turned by 90 degrees reaches from y = 4; a cylinder from x = 3.5; a ball from z = 2.
    ray = rays([[0, 1, 0], [2, 0, 0], [0, 0, 1], [0, -1, 0], [0.25, 0, 1]])
    about, number = first_of(THREE, KINDS, constant(0.0, 0.0, 0.0), ray)
    # For the last: |t (0.25, 0, 1) - (0, 0, 3)| = 1.
    slanted = (3 - np.sqrt(9 - 1.0625 * 8)) / 1.0625
    expected = [4, 1.75, 2, FAR, slanted]
    np.testing.assert_allclose(about, expected, rtol=1e-5)
    np.testing.assert_array_equal(number[:3], [0, 1, 2])
    hit = np.array([0, 1, 2, 4])
    chosen = rays(np.array(ray.stack())[hit].tolist())
    depth, _, normal = meet(THREE[number[hit]], number[hit], KINDS, constant(0.0, 0.0, 0.0), chosen)
    np.testing.assert_allclose(depth, np.array(expected)[hit], rtol=1e-6)
    world = THREE[number[hit]].world_normal(normal).stack()
    on_ball = (slanted * np.array([0.25, 0, 1]) - [0, 0, 3]).tolist()
    expected_normals = [[0, -1, 0], [-1, 0, 0], [0, 0, -1], on_ball]
    np.testing.assert_allclose(world, expected_normals, atol=1e-5)


def test_shadows_count_only_what_is_between() -> None:
    ray = rays([[0, 8, 0], [0, 3.9, 0], [0, -8, 0], [8, 0, 0]])
    dark = any_solid(THREE, KINDS, constant(0.0, 0.0, 0.0), ray)
    np.testing.assert_array_equal(dark, [True, False, False, True])


def inside(kind: int, unit: np.ndarray) -> np.ndarray:
    """Whether points of the unit frame are within the unit solid of a kind."""
    x, y, z = np.moveaxis(unit, -1, 0)
    if kind == 0:
        return np.abs(unit).max(-1) < 1
    if kind == 1:
        return (x * x + y * y < 1) & (np.abs(z) < 1)
    return x * x + y * y + z * z < 1


@pytest.mark.parametrize("kind", range(3))
def test_turned_solids_agree_with_walking_along_the_ray(kind: int) -> None:
    random = np.random.default_rng(kind)
    yaw, tilt = 0.7, 0.4
    one = solids([[0.3, 4, 0.2]], [[0.6, 0.9, 0.4]], [yaw], [tilt])
    direction = np.array([0, 1, 0]) + random.uniform(-0.25, 0.25, (200, 3))
    about, _ = first_of(one, (KINDS[kind],), constant(0.0, 0.0, 0.0), rays(direction.tolist()))
    c, s = np.cos(yaw), np.sin(yaw)
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array(
        [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    steps = np.linspace(2, 7, 20001)
    points = direction[:, None] * steps[:, None] - [0.3, 4, 0.2]
    within = inside(kind, points @ (about_z @ about_x) / [0.6, 0.9, 0.4])
    walked = np.where(within.any(1), steps[within.argmax(1)], FAR)
    assert 20 < within.any(1).sum() < 180
    close = np.isclose(about, walked, rtol=0, atol=4e-4) | ((walked == FAR) & (about > 0.5 * FAR))
    # A ray that only grazes may slip between two steps of the walk.
    assert close.mean() > 0.98


@pytest.mark.thorough
def test_depth_of_the_ground_by_hand_and_by_height(landscapes: World) -> None:
    depth_of = jax.jit(lambda ground, *ray: ground.depth(*ray))
    grounds = landscapes.surroundings
    assert isinstance(grounds, Ground)
    ground = jax.tree.map(lambda leaf: leaf[3], grounds)
    top = float(ground.height(jnp.zeros(()), jnp.zeros(()))) + 2
    down = depth_of(ground, constant(0.0, 0.0, top), rays([[0, 0, -1], [0, 0, 1]]))
    np.testing.assert_allclose(down, [2, FAR], rtol=1e-5)
    random = np.random.default_rng(0)
    slanted = np.array([1.0, 0, -0.15]) + random.uniform(-0.2, 0.1, (300, 3))
    origin = constant(0.0, 0.0, top)
    depth = np.asarray(depth_of(ground, origin, rays(slanted.tolist())))
    hit = depth < FAR / 2
    assert hit.sum() > 200
    met = slanted[hit] * depth[hit, None] + [0, 0, top]
    level = ground.height(*jnp.array(met[:, :2].T, jnp.float32))
    np.testing.assert_allclose(met[:, 2], level, atol=2e-4)
    before = slanted[hit, None] * np.linspace(0.05, 0.995, 400)[:, None] * depth[hit, None, None]
    x, y = jnp.asarray(before[..., 0], jnp.float32), jnp.asarray(before[..., 1], jnp.float32)
    clear = (before[..., 2] + top > ground.height(x, y) - 0.01).all(axis=1)
    assert clear.mean() > 0.98


def positions(worlds: World) -> np.ndarray:
    return np.asarray(worlds.cameras.position.stack())


def clearances(worlds: World) -> np.ndarray:
    """Distances from the cameras to the boxes around the solids."""
    half = np.asarray(worlds.solids.half.stack())[:, None]
    point = columns(jnp.asarray(positions(worlds)[:, :, None]))
    solids = jax.tree.map(lambda leaf: leaf[:, None], worlds.solids)
    own = np.abs(np.asarray(solids.unit_point(point).stack())) * half - half
    return np.linalg.norm(np.maximum(own, 0), axis=-1)


def test_cameras_keep_away_from_solids_and_walls(rooms: World) -> None:
    gap = clearances(rooms)
    assert gap.min() > 0.25
    assert (gap.min(axis=1) < 100).mean() > 0.8, "too many solids were put out of sight"
    walls = rooms.surroundings
    assert isinstance(walls, Room)
    place = positions(rooms)
    sides = np.stack([walls.half_width, walls.half_depth], axis=-1)[:, None]
    assert (sides - np.abs(place[..., :2])).min() > 0.25
    assert place[..., 2].min() > 0.25
    assert (np.asarray(walls.height)[:, None] - place[..., 2]).min() > 0.25


@pytest.mark.thorough
def test_cameras_keep_away_from_solids_and_ground(landscapes: World) -> None:
    gap = clearances(landscapes)
    assert gap.min() > 0.25
    assert (gap.min(axis=1) < 100).mean() > 0.8, "too many solids were put out of sight"
    place, step = positions(landscapes), np.linspace(-1, 1, 21)
    around = place[..., None, None, :2] + np.stack(np.meshgrid(step, step), axis=-1)
    x, y = jnp.asarray(around[..., 0]), jnp.asarray(around[..., 1])
    level = np.asarray(
        jax.vmap(lambda ground, x, y: ground.height(x, y))(landscapes.surroundings, x, y)
    )
    nearest = np.concatenate([around, level[..., None]], axis=-1)
    distance = np.linalg.norm(nearest - place[:, :, None, None], axis=-1)
    assert distance.min() > 0.25


def test_noise_is_smooth_random_and_centred() -> None:
    x = jnp.linspace(0, 200, 20001)
    value = np.asarray(noise_2d(x, 0.37 * x, jnp.int32(5)))
    assert np.abs(value).max() <= 1
    assert abs(value.mean()) < 0.1
    assert 0.2 < value.std() < 0.6
    assert np.abs(np.diff(value)).max() < 0.06
    other = np.asarray(noise_2d(x, 0.37 * x, jnp.int32(6)))
    assert abs(np.corrcoef(value, other)[0, 1]) < 0.2


def test_streams_of_chance_are_even_and_independent() -> None:
    parent = scene_rng(jax.random.key(0), jnp.uint32(7))
    first, second = parent.split(2)
    a, b = np.asarray(first.uniform(4000)), np.asarray(second.uniform(4000))
    counts = np.histogram(a, bins=20, range=(0, 1))[0]
    assert counts.min() > 140
    assert counts.max() < 260
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06
    normal = np.asarray(first.normal(4000))
    assert abs(normal.mean()) < 0.06
    assert abs(normal.std() - 1) < 0.05
    assert np.unique(np.asarray(first.integer(4000))).size == 4000


@pytest.mark.parametrize(
    ("slope", "expected"), [(2.0, 1.5), (-2.0, 0.5), (0.0, 1e9), (1e-12, 3e9), (-1e-12, 1e9)]
)
def test_a_ray_leaves_a_room_ahead_of_it(slope: float, expected: float) -> None:
    """From 1 between walls at 0 and 4; rays along the walls end far ahead, never behind."""
    found = leaves_at(jnp.float32(1), jnp.float32(slope), 0.0, 4.0)
    assert float(found) == pytest.approx(expected)
