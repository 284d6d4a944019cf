"""Plain scenes: rectangles on surfaces, paint in place of texture, and halls."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.scenes import SceneConfig
from jaxrecon.scenes.landscapes import draw_landscape
from jaxrecon.scenes.patches import KINDS, Kinds, OnPatch, Patches, Walls, on_patches
from jaxrecon.scenes.photographs import Pictures, draw_prints, pyramid
from jaxrecon.scenes.plain import made_plain
from jaxrecon.scenes.relief import draw_relief
from jaxrecon.scenes.render import expose
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.scenes.rooms import Room, draw_room
from jaxrecon.scenes.vectors import Vector
from jaxrecon.scenes.world import World
from jaxrecon.training import MINI_ALL_ROUND, MINI_PICTURES

ACROSS, UP, FOOT, FRAME = 2.0, 3.0, -0.5, 0.05
SMALL = SceneConfig(samples=1, boxes=2, cylinders=1, spheres=1, clutter=4, handheld=True, plain=1.0)
SOLIDS = SMALL.boxes + SMALL.pictures + 2 + SMALL.cylinders + SMALL.spheres + SMALL.clutter
BOXES = SMALL.boxes + SMALL.pictures + 2 + SMALL.clutter_kinds[0]


def patches(wide: float, high: float, missing: float = 0.0, door: bool = False) -> Patches:
    """One surface of two cells by two, and rectangles of one size."""
    across, up, foot = (jnp.full(1, size, jnp.float32) for size in (ACROSS, UP, FOOT))
    filled, empty = jnp.full(1, 0.9, jnp.float32), jnp.full(1, missing, jnp.float32)
    walls = Walls(across, up, across, foot, filled, empty, jnp.array([7]))
    half_wide, half_high, frame = (
        jnp.full(KINDS, size, jnp.float32) for size in (wide, high, FRAME)
    )
    kinds = Kinds(half_wide, half_high, frame, jnp.full(KINDS, door), jnp.zeros(KINDS, bool))
    return Patches(walls, kinds)


def looked_up(drawn: Patches, normal: tuple[float, float, float] = (0, -1, 0)) -> OnPatch:
    """Points every centimetre of the surface, rows from below."""
    u = jnp.arange(-ACROSS + 0.005, ACROSS, 0.01)[None]
    v = FOOT + jnp.arange(0.005, 2 * UP, 0.01)[:, None]
    u, v = jnp.broadcast_arrays(u, v)
    directions = Vector(*(jnp.full(u.shape, part, jnp.float32) for part in normal))
    return on_patches(drawn, jnp.zeros(u.shape, jnp.int32), u, v, directions)


def test_each_cell_has_one_rectangle_of_the_right_size_with_a_frame() -> None:
    found = looked_up(patches(0.4, 0.3))
    here, number = np.asarray(found.here), np.asarray(found.number)
    for rows in (slice(0, 300), slice(300, 600)):
        for columns in (slice(0, 200), slice(200, 400)):
            row, column = np.nonzero(here[rows, columns])
            assert np.ptp(column) + 1 == pytest.approx(80, abs=1)
            assert np.ptp(row) + 1 == pytest.approx(60, abs=1)
            assert len(row) == (np.ptp(column) + 1) * (np.ptp(row) + 1)
            own = number[rows, columns][here[rows, columns]]
            within = np.unique(own[own < 1 + KINDS])
            assert len(within) == 1
            assert np.mean(own >= 1 + KINDS) == pytest.approx(1 - 0.7 * 0.5 / 0.48, abs=0.03)
    u, v = np.asarray(found.u)[here], np.asarray(found.v)[here]
    assert np.abs(u).max() == pytest.approx(0.4, abs=0.01)
    assert np.abs(v).max() == pytest.approx(0.3, abs=0.01)


def test_large_rectangles_are_shrunk_with_what_is_on_them() -> None:
    found = looked_up(patches(2.0, 1.0))
    here = np.asarray(found.here)
    column = np.nonzero(here[:300, :200])[1]
    assert np.ptp(column) + 1 == pytest.approx(180, abs=1)
    np.testing.assert_allclose(np.asarray(found.larger)[here], 2 / 0.9, rtol=1e-5)
    assert np.abs(np.asarray(found.u)[here]).max() == pytest.approx(2.0, abs=0.03)


def test_doors_stand_at_the_foot_of_a_cell() -> None:
    here = np.asarray(looked_up(patches(0.4, 1.0, door=True)).here)
    for rows in (slice(0, 300), slice(300, 600)):
        assert np.nonzero(here[rows])[0].min() == 0
    pictures = np.asarray(looked_up(patches(0.4, 1.0)).here)
    assert np.nonzero(pictures)[0].min() > 10


def test_floors_and_missing_cells_have_none() -> None:
    assert not np.asarray(looked_up(patches(0.4, 0.3), (0, 0, 1)).here).any()
    assert not np.asarray(looked_up(patches(0.4, 0.3, missing=1.0)).here).any()


def worlds(draw: Callable[..., World], config: SceneConfig, count: int = 60) -> World:
    def one(number: jax.Array) -> World:
        rng = scene_rng(jax.random.key(1), number)
        world = draw(rng, 4, config, 64)
        return made_plain(rng, world, BOXES, config, None) if config.plain else world

    return jax.jit(jax.vmap(one))(jnp.arange(count, dtype=jnp.uint32))


@pytest.fixture(scope="module")
def rooms() -> World:
    return worlds(draw_room, SMALL)


def contrast(world: World) -> np.ndarray:
    """Ratio of the two colours of each surface's material, in logarithms, without rectangles'."""
    light, dark = (np.asarray(tone.y) for tone in (world.materials.light, world.materials.dark))
    return np.abs(np.log(light / dark))[:, : SOLIDS + 6]


def test_walls_are_paint_and_bear_rectangles(rooms: World) -> None:
    assert np.mean(contrast(rooms)[:, SOLIDS + 2 :] < 0.13) > 0.9
    assert rooms.patches is not None
    missing = np.asarray(rooms.patches.walls.missing)
    assert np.mean(missing[:, SOLIDS + 2 :] < 1) > 0.7
    assert (missing[:, SOLIDS : SOLIDS + 2] == 1).all()
    # Drums and balls have none.
    assert (missing[:, BOXES:SOLIDS] == 1).all()
    assert (missing[:, :BOXES] < 1).any()


def test_plain_rooms_may_be_halls(rooms: World) -> None:
    room = rooms.surroundings
    assert isinstance(room, Room)
    wide = 2 * np.asarray(room.half_width)
    assert wide.max() > 1.5 * SMALL.room[1]
    assert wide.max() <= 20
    assert wide.min() < 6
    ground = np.abs(np.asarray(rooms.cameras.position.x))
    assert (ground < wide[:, None] / 2).all()


@pytest.mark.thorough
@pytest.mark.parametrize("draw", [draw_room, draw_landscape])
def test_scenes_that_are_not_plain_stay_as_they_are(draw: Callable[..., World]) -> None:
    without = worlds(draw, replace(SMALL, plain=0.0), 6)
    beside = worlds(draw, replace(SMALL, plain=1e-7), 6)
    assert not np.asarray(beside.plain).any()
    assert beside.patches is not None
    assert (np.asarray(beside.patches.walls.missing) == 1).all()
    count = without.materials.gloss.shape[1]
    assert np.mean(contrast(without)[:, SOLIDS:] < 0.13) < 0.3

    def without_patches(world: World) -> World:
        return replace(world, materials=world.materials[:count], plain=None, patches=None)

    own = jax.vmap(without_patches)(beside)
    for kept, new in zip(jax.tree.leaves(without), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(kept, new, rtol=1e-5, atol=1e-4)


@pytest.mark.thorough
def test_facades_bear_rectangles_and_the_ground_does_not() -> None:
    drawn = worlds(draw_landscape, replace(SMALL, buildings=2), 20)
    assert drawn.patches is not None
    missing = np.asarray(drawn.patches.walls.missing)
    assert (missing[:, SOLIDS] == 1).all()
    assert 0.1 < np.mean(missing[:, :2] < 1) < 0.6
    assert (contrast(drawn)[:, SOLIDS] > 0.13).mean() > 0.5


@pytest.mark.thorough
def test_rectangles_change_colours_and_no_depth(rooms: World) -> None:
    exposed = jax.jit(jax.vmap(lambda world: expose(world, (24, 32), SMALL, None)))
    some = jax.tree.map(lambda leaf: leaf[:4], rooms)
    light, depth, mask = exposed(some)
    bare_light, bare_depth, bare_mask = exposed(
        jax.vmap(lambda world: replace(world, patches=None))(some)
    )
    np.testing.assert_allclose(depth, bare_depth, rtol=1e-6)
    np.testing.assert_array_equal(mask, bare_mask)
    changed = np.abs(np.asarray(light.y) / np.asarray(bare_light.y) - 1) > 0.05
    assert 0.005 < changed.mean() < 0.5


@pytest.mark.thorough
def test_paint_has_neither_prints_nor_most_openings_and_signs_are_upright() -> None:
    pictures = Pictures(np.stack([pyramid(np.full((8, 8, 3), 90, np.uint8))] * 2))

    def one(number: jax.Array) -> tuple[World, World]:
        rng = scene_rng(jax.random.key(5), number)
        world = draw_room(rng, 4, SMALL, 64)
        count = world.materials.gloss.shape[0]
        prints = draw_prints(rng, jnp.ones(count + 1), pictures, 1.0)
        relief = draw_relief(rng, jnp.ones(count), jnp.full(count, 0.3), 1.0)
        world = replace(world, prints=prints, relief=relief)
        return world, made_plain(rng, world, BOXES, SMALL, pictures)

    before, after = jax.jit(jax.vmap(one))(jnp.arange(30, dtype=jnp.uint32))
    assert before.prints is not None
    assert after.prints is not None
    assert before.relief is not None
    assert after.relief is not None
    shares, walls = np.asarray(after.prints.share), slice(SOLIDS + 2, SOLIDS + 6)
    assert np.mean(np.asarray(before.prints.share)[:, walls]) > 0.7
    assert np.mean(shares[:, walls]) < 0.15
    assert np.mean(np.asarray(after.relief.depth)[:, walls] > 0) < 0.5
    signs = slice(SOLIDS + 6, SOLIDS + 6 + KINDS)
    assert 0.4 < np.mean(shares[:, signs]) < 0.8
    assert (shares[:, SOLIDS + 6 + KINDS : -1] == 0).all()
    assert (np.asarray(after.prints.cosine)[:, signs] == -1).all()
    last_before, last = (np.asarray(world.prints.number)[:, -1] for world in (before, after))
    np.testing.assert_array_equal(last, last_before)
    assert shares.shape[1] == after.materials.gloss.shape[1] + 1


def test_the_config_differs_from_the_one_before_in_its_scenes_and_schedule() -> None:
    assert replace(MINI_PICTURES.scenes, plain=0.0) == MINI_ALL_ROUND.scenes
    assert MINI_PICTURES.scenes.plain == 0.5
    assert (MINI_PICTURES.model, MINI_PICTURES.losses) == (
        MINI_ALL_ROUND.model,
        MINI_ALL_ROUND.losses,
    )
