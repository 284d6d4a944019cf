"""Scenes for tests of training: a coloured plane seen by cameras near the origin."""

from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxrecon.geometry.rotation import nearest_rotation
from jaxrecon.geometry.transforms import rigid
from jaxrecon.models import Pi3Config
from jaxrecon.nn.dinov2 import DinoV2Config
from jaxrecon.scenes import SCENES, RenderedScenes
from jaxrecon.training import Bucket, TrainConfig, step, train

__all__ = ["SMALL", "jax", "render_planes", "small_config", "train", "use_planes"]

SMALL = Pi3Config(
    encoder=DinoV2Config(width=32, depth=1, heads=2, registers=1, grid=3),
    heads=2,
    pairs=1,
    registers=1,
    head_width=32,
    head_heads=2,
    head_depth=1,
    point_width=32,
    camera_width=16,
)


def small_config(**changes: object) -> TrainConfig:
    """A run of a few steps of a few milliseconds."""
    values = {
        "model": SMALL,
        "buckets": (Bucket(4, 2, 28, 42),),
        # Two groups of two scenes, which two devices can share.
        "scenes": replace(SCENES, outdoor_every=2),
        "steps": 12,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "dtype": "float32",
        "log_every": 2,
        "save_every": 4,
        "validate_every": 6,
        "validation_scenes": 4,
    }
    return TrainConfig(**{**values, **changes})


def render_planes(
    groups: jax.Array, *, scenes: int, views: int, height: int, width: int, config: object
) -> RenderedScenes:
    """Stands in for `jaxrecon.scenes.render_groups`."""
    del config
    drawn = jax.vmap(lambda key: _planes(key, scenes, views, height, width))(groups)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), drawn)


def _planes(key: jax.Array, scenes: int, views: int, height: int, width: int) -> RenderedScenes:
    keys = jax.random.split(key, 3)
    turn = jnp.eye(3)[None, None] + 0.1 * jax.random.normal(keys[0], (scenes, views, 3, 3))
    centre = 0.7 * jax.random.normal(keys[1], (scenes, views, 3))
    pose = rigid(nearest_rotation(turn), centre)
    phase = jax.random.uniform(keys[2], (scenes, 1, 1, 1, 3), maxval=6.0)
    x = (jnp.arange(width, dtype=float) - (width - 1) / 2) / width
    y = (jnp.arange(height, dtype=float) - (height - 1) / 2) / width
    rays = jnp.stack([*jnp.meshgrid(x, y), jnp.ones((height, width))], axis=-1)
    world = jnp.einsum("bvij,hwj->bvhwi", pose[..., :3, :3], rays)
    depth = (4 - centre[..., 2, None, None]) / world[..., 2]
    point = centre[:, :, None, None] + depth[..., None] * world
    paint = jnp.stack([point[..., 0], point[..., 1], point[..., 0] + point[..., 1]], axis=-1)
    images = 0.5 + 0.4 * jnp.sin(2 * paint + phase)
    intrinsics = jnp.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])
    matrices = jnp.broadcast_to(intrinsics, (scenes, views, 3, 3))
    return RenderedScenes(images, depth, depth > 0, pose, matrices)


def use_planes() -> None:
    """From here on training draws planes instead of rooms and landscapes."""
    step.render_groups = render_planes
