"""Scenes as `mini-all-round` draws them: geometry agrees, with openings, clutter and houses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.scenes import RenderedScenes, SceneConfig, render_scenes, scene_key
from jaxrecon.scenes.cameras import wander
from jaxrecon.scenes.houses import build, draw_stance
from jaxrecon.scenes.photographs import Pictures, pyramid
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.training import MINI_ALL_ROUND

VIEWS, HEIGHT, WIDTH = 4, 42, 56
PINHOLE = replace(
    MINI_ALL_ROUND.scenes,
    lens=0.0,
    boxes=2,
    buildings=2,
    cylinders=1,
    pictures=1,
    lights=1,
    clutter=8,
)


@pytest.fixture(scope="module")
def scenes() -> RenderedScenes:
    """Rooms and landscapes by turns."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, 256, (3, 32, 32, 3), np.uint8)
    pictures = Pictures(np.stack([pyramid(picture) for picture in drawn]))
    batch = render_scenes(
        scene_key("test", 1),
        scenes=8,
        views=VIEWS,
        height=HEIGHT,
        width=WIDTH,
        config=PINHOLE,
        pictures=pictures,
    )
    return jax.tree.map(np.asarray, batch)


@pytest.mark.thorough
def test_pictures_are_in_range_and_rooms_have_no_sky(scenes: RenderedScenes) -> None:
    assert np.isfinite(scenes.images).all()
    assert np.isfinite(scenes.depth_z).all()
    assert ((scenes.images >= 0) & (scenes.images <= 1)).all()
    assert scenes.images.std(axis=(1, 2, 3)).min() > 0.01
    assert scenes.mask[::2].all()
    assert 0.3 < scenes.mask[1::2].mean() < 1
    np.testing.assert_array_equal(scenes.mask, scenes.depth_z > 0)


@pytest.mark.thorough
def test_depth_of_one_view_predicts_that_of_the_others(scenes: RenderedScenes) -> None:
    """A point that lands near a pixel's centre of another view is there, or hidden."""
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1).astype(float)
    agree = []
    for batch in range(len(scenes.images)):
        inverse = np.linalg.inv(np.float64(scenes.intrinsics[batch, 0]))
        for i in range(VIEWS):
            for j in set(range(VIEWS)) - {i}:
                here, there = np.asarray(scenes.world_from_camera[batch, [i, j]], np.float64)
                points = (pixels @ inverse.T) * scenes.depth_z[batch, i][..., None]
                world = points @ here[:3, :3].T + here[:3, 3]
                camera = (world - there[:3, 3]) @ there[:3, :3]
                known = scenes.mask[batch, i] & (camera[..., 2] > 0.1)
                at = camera[known] @ np.float64(scenes.intrinsics[batch, j]).T
                at = at[:, :2] / at[:, 2:]
                near = np.rint(at).astype(int)
                inside = (near >= 0).all(-1) & (near < [WIDTH, HEIGHT]).all(-1)
                inside &= (np.abs(at - near) < 0.04).all(-1)
                found = scenes.depth_z[batch, j][near[inside, 1], near[inside, 0]]
                ratio = found / camera[known][inside, 2]
                # Nothing is seen behind a point that the first view sees.
                agree.append(ratio[ratio < 1.02])
    ratio = np.concatenate(agree)
    total = np.mean(np.abs(ratio - 1) < 2e-3)
    assert len(ratio) > 50
    assert total > 0.6
    assert np.median(np.abs(ratio[np.abs(ratio - 1) < 0.02] - 1)) < 1e-3


def test_paths_reach_from_one_spot_to_half_way_round() -> None:
    def spread(number: jax.Array) -> jax.Array:
        stream = scene_rng(jax.random.key(2), number)
        x, y = wander(stream, 8, jnp.float32(1.0), jnp.float32(4.0))
        angle = jnp.unwrap(jnp.sort(jnp.arctan2(y, x)))
        return jnp.stack([angle.max() - angle.min(), jnp.hypot(x - x.mean(), y - y.mean()).max()])

    angle, length = np.asarray(jax.jit(jax.vmap(spread))(jnp.arange(300, dtype=jnp.uint32))).T
    assert np.isfinite(angle).all()
    assert np.mean(angle > np.radians(90)) > 0.1
    assert np.mean(angle < np.radians(20)) > 0.1
    assert length.min() < 0.8 < 4.0 < length.max()


def test_some_paths_go_all_round() -> None:
    def gap(number: jax.Array) -> jax.Array:
        """The largest angle between neighbours of 24 positions around the target."""
        stream = scene_rng(jax.random.key(3), number)
        x, y = wander(stream, 24, jnp.float32(1.0), jnp.float32(4.0), all_round=1.0)
        angle = jnp.sort(jnp.arctan2(y, x))
        return jnp.diff(angle, append=angle[:1] + 2 * jnp.pi).max()

    gaps = np.degrees(np.asarray(jax.jit(jax.vmap(gap))(jnp.arange(200, dtype=jnp.uint32))))
    assert 120 < gaps.max() < 245
    assert np.mean(gaps < 60) > 0.15


@pytest.mark.thorough
def test_wings_stand_at_the_ends_of_the_first_house_and_roofs_on_their_tops() -> None:
    config = SceneConfig(boxes=5, buildings=3, pictures=3, wings=1.0, roofs=1.0)
    rng = scene_rng(jax.random.key(4), jnp.uint32(7))
    centre, half, axes = build(rng, draw_stance(rng, config), config)
    centres, halves = np.asarray(centre.stack()), np.asarray(half.stack())
    along, front = np.asarray(axes.x.stack())[0], np.asarray(axes.y.stack())[0]
    ends = (centres[1:3] - centres[0]) @ along
    assert sorted(np.sign(ends)) == [-1, 1]
    assert (np.abs(ends) < halves[0, 0] + halves[1:3, 0]).all()
    assert (np.abs(ends) + halves[1:3, 0] > halves[0, 0] * 0.9).all()
    assert ((centres[1:3] - centres[0]) @ front > 0).all()
    tops = centres[:3, 2] + halves[:3, 2]
    diagonal = np.hypot(halves[3:, 1], halves[3:, 2])
    np.testing.assert_allclose(centres[3:, :2], centres[:3, :2], atol=1e-5)
    assert (centres[3:, 2] <= tops + 1e-5).all()
    assert (centres[3:, 2] + 0.9 * diagonal > tops).all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"clutter": 21}, "clutter + 2 is 33; it must be at most 32"),
        ({"clutter": -1}, "clutter"),
        ({"buildings": 5}, "buildings is 5; it must be at most boxes"),
        ({"boxes": 4, "buildings": 4, "roofs": 0.5, "pictures": 1}, "at most half of boxes"),
        ({"roofs": 1.1}, "roofs"),
        ({"wings": -0.1}, "wings"),
        ({"trees": float("inf")}, "trees"),
        ({"all_round": 2.0}, "all_round"),
        ({"picture_share": 1.5}, "picture_share"),
        ({"close_ups": float("nan")}, "close_ups"),
        ({"relief": 2.0}, "relief"),
        ({"contrast": -1.0}, "contrast"),
        ({"phone": -0.1}, "phone"),
        ({"lens": 0.5}, "lens"),
        ({"plain": 1.5}, "plain"),
        ({"plain": float("nan")}, "plain"),
        ({"vistas": 1.1}, "vistas"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(InputError) as error:
        SceneConfig(**wrong)  # pyright: ignore[reportArgumentType]
    assert told in str(error.value)
