"""Rooms with a vista: a table at one end of a long room, and cameras that look along it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.scenes import SceneConfig
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.scenes.rooms import Room, draw_room
from jaxrecon.scenes.world import World
from jaxrecon.training.config import MINI_HORIZONS

SMALL = SceneConfig(
    samples=1, boxes=2, cylinders=1, spheres=1, handheld=True, vistas=1.0, all_round=0.5
)
TABLE = 0
"""The number of the table's top."""


def worlds(config: SceneConfig, count: int = 60) -> World:
    def one(number: jax.Array) -> World:
        return draw_room(scene_rng(jax.random.key(1), number), 4, config, 64)

    return jax.jit(jax.vmap(one))(jnp.arange(count, dtype=jnp.uint32))


@pytest.fixture(scope="module")
def vistas() -> World:
    return worlds(SMALL)


def sides(world: World) -> np.ndarray:
    """Width and depth of each room."""
    room = world.surroundings
    assert isinstance(room, Room)
    return 2 * np.stack([np.asarray(room.half_width), np.asarray(room.half_depth)], axis=-1)


def test_one_side_of_the_room_is_long(vistas: World) -> None:
    size = sides(vistas)
    assert size.max(axis=1).min() >= 8
    assert 15 < size.max() <= 20
    assert size.min(axis=1).max() <= SMALL.room[1]


def test_cameras_stand_at_one_end_and_look_to_the_other(vistas: World) -> None:
    size = sides(vistas)
    cameras = vistas.cameras
    position = np.stack([np.asarray(cameras.position.x), np.asarray(cameras.position.y)], axis=-1)
    ahead = np.stack([np.asarray(cameras.forward.x), np.asarray(cameras.forward.y)], axis=-1)
    assert (np.abs(position) < size[:, None] / 2).all()
    room, long = np.arange(len(size)), size.argmax(axis=1)
    along, where = ahead[room, :, long], position[room, :, long]
    # Nearly all look along the room, away from the end where they are.
    assert np.mean(np.abs(along) > 0.6) > 0.8
    assert np.mean(np.sign(along) == -np.sign(where)) > 0.9
    free = size.max(axis=1)[:, None] / 2 + np.abs(where)
    assert np.mean(free > 0.6 * size.max(axis=1)[:, None]) > 0.8


def test_the_table_stands_near_them(vistas: World) -> None:
    centre = vistas.solids.centre()
    x, y = (np.asarray(axis)[:, TABLE, None] for axis in (centre.x, centre.y))
    cameras = vistas.cameras.position
    gap = np.hypot(np.asarray(cameras.x) - x, np.asarray(cameras.y) - y)
    assert np.mean(np.median(gap, axis=1) < 4) > 0.9


@pytest.mark.thorough
def test_rooms_without_stay_as_they_are() -> None:
    without, beside = worlds(replace(SMALL, vistas=0.0), 6), worlds(replace(SMALL, vistas=1e-7), 6)
    for kept, new in zip(jax.tree.leaves(without), jax.tree.leaves(beside), strict=True):
        np.testing.assert_allclose(kept, new, rtol=1e-5, atol=1e-4)


def test_the_next_stretch_has_them() -> None:
    assert MINI_HORIZONS.scenes.vistas == 0.3
