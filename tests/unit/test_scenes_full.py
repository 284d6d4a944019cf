"""Scenes as `mini-real` draws them: geometry still agrees, with openings, clutter and houses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.scenes import RenderedScenes, SceneConfig, render_scenes, scene_key
from jaxrecon.scenes.cameras import wander
from jaxrecon.scenes.photographs import Pictures, pyramid
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.training import MINI_REAL

VIEWS, HEIGHT, WIDTH = 4, 42, 56
PINHOLE = replace(
    MINI_REAL.scenes, lens=0.0, boxes=2, buildings=2, cylinders=1, pictures=1, lights=1, clutter=8
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


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"clutter": 21}, "clutter + 2 is 33; it must be at most 32"),
        ({"clutter": -1}, "clutter"),
        ({"buildings": 5}, "buildings is 5; it must be at most boxes"),
        ({"picture_share": 1.5}, "picture_share"),
        ({"close_ups": float("nan")}, "close_ups"),
        ({"relief": 2.0}, "relief"),
        ({"contrast": -1.0}, "contrast"),
        ({"phone": -0.1}, "phone"),
        ({"lens": 0.5}, "lens"),
    ],
)
def test_settings_out_of_range(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(InputError) as error:
        SceneConfig(**wrong)  # pyright: ignore[reportArgumentType]
    assert told in str(error.value)
