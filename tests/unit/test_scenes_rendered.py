"""Rendered scenes: images, depth, masks and cameras agree, and depend on what they should only."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jaxrecon.errors import InputError, OutputError
from jaxrecon.scenes import (
    SCENES,
    RenderedScene,
    RenderedScenes,
    SceneConfig,
    render_scene,
    render_scenes,
    save_scene,
    scene_key,
)
from jaxrecon.scenes.landscapes import Ground, _draw_ground, draw_landscape
from jaxrecon.scenes.render import _render
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.scenes.vectors import Vector
from jaxrecon.scenes.world import World
from jaxrecon.training.config import MINI_HORIZONS
from one_program import one_program

VIEWS, HEIGHT, WIDTH = 6, 56, 72
FAST = replace(SCENES, samples=1)
SEEDS = range(6)
render = partial(render_scenes, views=VIEWS, height=HEIGHT, width=WIDTH, config=FAST)


@pytest.fixture(scope="module")
def batches() -> list[RenderedScenes]:
    """A landscape (scene 3) and a room (scene 4) of several seeds."""
    keys = [scene_key("test", seed) for seed in SEEDS]
    return [jax.tree.map(np.asarray, render(key, scenes=2, first=3)) for key in keys]


@pytest.fixture(scope="module")
def scenes(batches: list[RenderedScenes]) -> list[RenderedScene]:
    """Landscapes and rooms by turns."""
    return [scene_of(batch, number) for batch in batches for number in range(2)]


@pytest.fixture(scope="module")
def portrait() -> RenderedScene:
    """A room in upright pictures with two samples a pixel."""
    config = replace(SCENES, samples=2)
    return render_scene(0, views=3, height=48, width=36, number=0, config=config)


def scene_of(batch: RenderedScenes, number: int) -> RenderedScene:
    fields = (getattr(batch, name) for name in RenderedScene.__dataclass_fields__)
    return RenderedScene(*(np.asarray(field)[number] for field in fields))


def world_points(scene: RenderedScene, view: int) -> np.ndarray:
    """The world point of each pixel, in float64."""
    row, column = np.mgrid[: scene.depth_z.shape[1], : scene.depth_z.shape[2]]
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    rays = pixels @ np.linalg.inv(np.asarray(scene.intrinsics[view], float)).T
    pose = np.asarray(scene.world_from_camera[view], float)
    return (rays * scene.depth_z[view][..., None]) @ pose[:3, :3].T + pose[:3, 3]


def projected(scene: RenderedScene, points: np.ndarray, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates and depth of world points in a view."""
    pose = np.asarray(scene.world_from_camera[view], float)
    camera = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = camera[..., 2]
    pixels = camera @ np.asarray(scene.intrinsics[view], float).T
    return pixels[..., :2] / np.where(depth > 1e-3, depth, np.nan)[..., None], depth


def seen_again(scene: RenderedScene, i: int, j: int, atol: float = 0.5) -> tuple[np.ndarray, ...]:
    """View i's pixels that land within `atol` of a pixel centre in j: which, where, depth."""
    at, depth = projected(scene, world_points(scene, i), j)
    rounded = np.nan_to_num(np.rint(at), nan=-1).astype(int)
    height, width = depth.shape
    inside = (rounded >= 0).all(-1) & (rounded < [width, height]).all(-1) & scene.mask[i]
    inside &= (np.abs(np.nan_to_num(at) - rounded) <= atol).all(-1)
    return inside, rounded[inside], depth[inside]


def overlap(scene: RenderedScene, i: int, j: int) -> float:
    """Share of view i's surface that view j sees."""
    _, at, depth = seen_again(scene, i, j)
    there = scene.depth_z[j][at[:, 1], at[:, 0]]
    return float(np.sum((np.abs(there / depth - 1) < 0.05) & (there > 0)) / scene.mask[i].sum())


def pairs(views: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(views) for j in range(views) if i != j]


@pytest.mark.thorough
def test_depth_of_one_view_predicts_that_of_the_others(scenes: list[RenderedScene]) -> None:
    for scene in scenes:
        errors = []
        for i, j in pairs(VIEWS):
            _, at, depth = seen_again(scene, i, j, atol=0.02)
            relative = np.abs(scene.depth_z[j][at[:, 1], at[:, 0]] / depth - 1)
            errors.append(relative[relative < 0.05])
        error = np.concatenate(errors)
        assert error.size > 20
        assert np.median(error) < 1e-3


def test_a_point_has_one_colour_in_all_views(scenes: list[RenderedScene]) -> None:
    ratios = []
    for scene in scenes:
        here, there = [], []
        for i, j in pairs(VIEWS):
            inside, at, depth = seen_again(scene, i, j)
            seen = np.abs(scene.depth_z[j][at[:, 1], at[:, 0]] / depth - 1) < 0.01
            here.append(scene.images[i][inside][seen])
            there.append(scene.images[j][at[:, 1], at[:, 0]][seen])
        a, b = np.concatenate(here), np.concatenate(there)
        shuffled = np.random.default_rng(0).permutation(b)
        ratios.append(np.abs(a - b).mean() / np.abs(a - shuffled).mean())
    assert np.median(ratios) < 0.5
    assert max(ratios) < 0.75


def test_most_pairs_overlap_and_few_baselines_are_short(scenes: list[RenderedScene]) -> None:
    shares, baselines = [], []
    for scene in scenes:
        place = scene.world_from_camera[:, :3, 3]
        for i, j in pairs(VIEWS):
            shares.append(overlap(scene, i, j))
            mean_depth = scene.depth_z[i][scene.mask[i]].mean()
            baselines.append(np.linalg.norm(place[i] - place[j]) / mean_depth)
    assert np.mean(np.array(shares) >= 0.1) > 0.85
    assert np.mean(np.array(baselines) > 0.05) > 0.95


def test_masks_mean_sky_outdoors_and_nothing_indoors(scenes: list[RenderedScene]) -> None:
    for landscape, room in zip(scenes[::2], scenes[1::2], strict=True):
        assert room.mask.all()
        for scene in (landscape, room):
            np.testing.assert_array_equal(scene.mask, scene.depth_z > 0)
            assert np.isfinite(scene.depth_z).all()
        assert landscape.mask.mean() > 0.2
        assert landscape.depth_z.max() <= FAST.reach
        assert room.depth_z.max() < 14
    assert min(scene.mask.mean() for scene in scenes[::2]) < 0.9


def test_the_sky_is_above_the_ground(scenes: list[RenderedScene]) -> None:
    for scene in scenes[::2]:
        below = scene.mask[:, 1:] | ~scene.mask[:, :-1]
        assert below.mean() > 0.97


def test_pictures_are_neither_black_nor_burnt_out(scenes: list[RenderedScene]) -> None:
    for scene in scenes:
        assert scene.images.min() >= 0
        assert scene.images.max() <= 1
        assert 0.25 < scene.images.mean() < 0.75
        assert np.mean(scene.images > 0.99) < 0.1
        assert scene.images.std(axis=(1, 2)).min() > 0.02


def test_cameras_are_pinholes_with_square_pixels(scenes: list[RenderedScene]) -> None:
    for scene in scenes:
        turn = np.asarray(scene.world_from_camera[:, :3, :3], float)
        gram = turn @ turn.swapaxes(-1, -2)
        np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=1e-5)
        np.testing.assert_allclose(np.linalg.det(turn), 1, atol=1e-5)
        focal = scene.intrinsics[0, 0, 0]
        centre = [(WIDTH - 1) / 2, (HEIGHT - 1) / 2]
        expected = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
        np.testing.assert_allclose(scene.intrinsics, np.tile(expected, (VIEWS, 1, 1)), rtol=1e-6)
        assert 45 <= np.rad2deg(2 * np.arctan(WIDTH / 2 / focal)) <= 80


@pytest.mark.thorough
def test_a_scene_is_the_same_alone_and_in_a_batch(batches: list[RenderedScenes]) -> None:
    alone = scene_of(render(scene_key("test", 0), scenes=1, first=4), 0)
    there = scene_of(batches[0], 1)
    np.testing.assert_allclose(alone.world_from_camera, there.world_from_camera, atol=1e-5)
    np.testing.assert_allclose(alone.intrinsics, there.intrinsics, rtol=1e-6)
    close = np.isclose(alone.depth_z, there.depth_z, rtol=1e-4)
    assert close.mean() > 0.998
    assert np.mean(np.abs(alone.images - there.images) < 2e-3) > 0.99


def test_another_key_needs_no_compilation_and_gives_other_scenes(
    batches: list[RenderedScenes],
) -> None:
    compiled = _render._cache_size()  # pyright: ignore[reportAttributeAccessIssue]
    again = render(scene_key("test", 0), scenes=2, first=3)
    np.testing.assert_array_equal(again.images, batches[0].images)
    train = render(scene_key("train", 0), scenes=2, first=3)
    later = render(scene_key("test", 0), scenes=2, first=7)
    assert _render._cache_size() == compiled  # pyright: ignore[reportAttributeAccessIssue]
    others = [train, later, batches[1]]
    for other in others:
        assert (np.abs(other.depth_z - batches[0].depth_z).mean(axis=(1, 2, 3)) > 0.05).all()


def test_views_are_not_in_the_order_of_their_path(batches: list[RenderedScenes]) -> None:
    rooms = [batch.world_from_camera[1, :, :3, 3] for batch in batches]
    hops = [np.linalg.norm(np.diff(place, axis=0), axis=-1).sum() for place in rooms]
    axes = [np.linalg.svd(place - place.mean(0))[2][0] for place in rooms]
    along = [np.sort(place @ axis) for place, axis in zip(rooms, axes, strict=True)]
    spans = [line[-1] - line[0] for line in along]
    assert np.mean(np.array(hops) / np.array(spans)) > 1.6


@pytest.mark.thorough
def test_upright_pictures_with_two_samples(portrait: RenderedScene) -> None:
    assert portrait.images.shape == (3, 48, 36, 3)
    focal = float(portrait.intrinsics[0, 0, 0])
    assert 45 <= np.rad2deg(2 * np.arctan(48 / 2 / focal)) <= 80
    np.testing.assert_allclose(portrait.intrinsics[:, :2, 2], [[17.5, 23.5]] * 3)


def test_a_saved_scene_reads_back(scenes: list[RenderedScene], tmp_path: Path) -> None:
    scene = scenes[0]
    folder = save_scene(scene, tmp_path / "scene")
    assert sorted(path.name for path in folder.iterdir()) == ["condition.npz", "images"]
    names = sorted((folder / "images").iterdir())
    assert [path.name for path in names] == [f"{view:03}.png" for view in range(VIEWS)]
    pictures = np.stack([np.asarray(Image.open(path)) for path in names])
    np.testing.assert_allclose(pictures / 255, scene.images, atol=0.5 / 255 + 1e-6)
    with np.load(folder / "condition.npz") as truth:
        assert sorted(truth) == ["depths", "intrinsics", "poses"]
        np.testing.assert_array_equal(truth["depths"], scene.depth_z)
        np.testing.assert_array_equal(truth["poses"], scene.world_from_camera)
        np.testing.assert_array_equal(truth["intrinsics"], scene.intrinsics)
    with pytest.raises(OutputError, match="not empty"):
        save_scene(scene, folder)
    save_scene(scene, folder, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene"]


def test_the_program_lowers_for_cuda() -> None:
    run = jax.jit(partial(render, scenes=2, first=3))
    lowered = run.trace(scene_key("train", 0)).lower(lowering_platforms=("cuda",))
    assert "stablehlo.bitcast_convert" in lowered.as_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 0}, "views is 0; ask for at least 1"),
        ({"scenes": 0}, "scenes is 0; ask for at least 1"),
        ({"height": 7}, "height is 7; choose 8 to 4096 pixels"),
        ({"width": 5000}, "width is 5000; choose 8 to 4096 pixels"),
        ({"first": -1}, "first is -1; scene numbers go from 0 to 2\\*\\*32 - 1"),
    ],
)
def test_numbers_out_of_range_are_named(change: dict[str, Any], message: str) -> None:
    small = partial(render_scenes, scenes=1, views=2, height=16, width=16)
    with pytest.raises(InputError, match=message):
        small(scene_key("test", 0), **change)


def test_seeds_and_splits_are_checked(without_shape_checks: None) -> None:
    with pytest.raises(InputError, match="seed is -1; choose a whole number"):
        scene_key("test", -1)
    with pytest.raises(InputError, match="split is 'val'; choose 'train' or 'test'"):
        scene_key("val", 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="number is -4"):
        render_scene(0, views=1, height=16, width=16, number=-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples is 0; it must be a whole number from 1"),
        ({"noise": -0.1}, "noise is -0.1; it must be from 0"),
        ({"boxes": 30}, "boxes \\+ cylinders \\+ spheres \\+ pictures \\+ clutter \\+ 2 is 38"),
        ({"fov": (80.0, 45.0)}, "fov is"),
        ({"room": (1.0, 9.0)}, "room is"),
        ({"reach": 5.0}, "reach is 5.0"),
        ({"nearest_reach": 10.0}, "nearest_reach is 10.0; it must be 0, or from 20 to reach"),
        ({"nearest_reach": 41.0}, "nearest_reach is 41.0"),
        ({"nearest_reach": -1.0}, "nearest_reach is -1.0"),
    ],
)
def test_settings_out_of_range_are_named(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"SceneConfig: {message}"):
        SceneConfig(**change)


def test_every_fourth_scene_is_a_landscape() -> None:
    assert [SCENES.outdoors(number) for number in range(8)] == [False, False, False, True] * 2
    assert not replace(SCENES, outdoor_every=0).outdoors(3)
    assert replace(SCENES, outdoor_every=1).outdoors(0)
    assert hash(SCENES) == hash(SceneConfig())


def test_where_landscapes_end_is_drawn() -> None:
    """Anywhere between the two bounds, and nothing else about the ground changes."""
    config = replace(SCENES, nearest_reach=20.0, reach=80.0)
    always = replace(config, nearest_reach=0.0)

    @one_program
    @jax.vmap
    def draw(number: jax.Array) -> tuple[Ground, Ground]:
        rng = scene_rng(scene_key("test", 5), number)
        (drawn, _), (fixed, _) = (_draw_ground(rng, each) for each in (config, always))
        return drawn, fixed

    drawn, fixed = draw(np.arange(400, dtype=np.uint32))
    assert 20 <= drawn.reach.min() < 22 and 76 < drawn.reach.max() < 80
    assert np.median(drawn.reach) == pytest.approx(40, rel=0.15)
    assert (fixed.reach == 80).all()
    for name in ("relief", "seed", "clouds", "haze"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(fixed, name))


def test_ground_that_ends_near_goes_on_behind_what_stands_on_it() -> None:
    """Houses would hover before the sky without it; nothing else about a landscape changes."""
    config = MINI_HORIZONS.scenes

    @one_program
    @jax.vmap
    def draw(number: jax.Array) -> tuple[World, World]:
        rng = scene_rng(scene_key("test", 5), number)
        always = replace(config, nearest_reach=0.0)
        return draw_landscape(rng, 3, config, 64), draw_landscape(rng, 3, always, 64)

    near, far = draw(np.arange(60, dtype=np.uint32))
    assert isinstance(near.surroundings, Ground) and isinstance(far.surroundings, Ground)
    solids = near.solids
    rows = np.stack([_numbers(row) for row in (solids.row_x, solids.row_y, solids.row_z)], axis=-2)
    centres = np.linalg.solve(rows, -_numbers(solids.offset)[..., None])[..., 0]
    between = centres[:, :, None] - _numbers(near.cameras.position)[:, None]
    farthest = np.linalg.norm(between[..., :2], axis=-1).max(axis=(1, 2))
    reach = near.surroundings.reach
    assert (reach > np.minimum(1.2 * farthest, config.reach - 0.1)).all()
    assert config.nearest_reach <= reach.min() < 30 and 70 < reach.max() <= config.reach
    assert (far.surroundings.reach == config.reach).all()
    for one, other in zip(jax.tree.leaves(near.solids), jax.tree.leaves(far.solids), strict=True):
        np.testing.assert_array_equal(one, other)


def _numbers(vector: Vector) -> np.ndarray:
    return np.stack(np.broadcast_arrays(vector.x, vector.y, vector.z), axis=-1)
