"""A model that reads the truth from the pixels, in a world and unit of its own for each scene.

The first pixel's red is a view's number, and its green that of the place it shows. Views of one
place lie where `true_pose` has them, seen from the scene's first view, in a unit that depends on
its number; those of other places lie together, but anywhere. All see one rough wall.

With a `period` the path is a round, walked again and again; with a `drift` each scene is bent.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from jaxrecon.geometry import invert_rigid, transform_points
from jaxrecon.models import Encoded, Model, Prediction, ResizeRule
from jaxrecon.nn.attention import AttentionFn, Count, TokenLayout, attend_densely
from jaxrecon.nn.dinov2 import IMAGE_MEAN, IMAGE_STD, DinoV2
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.pipeline import ModelDefaults, Pipeline
from jaxrecon.priors import PriorArrays

PATCH = 7
HEIGHT, WIDTH = 14, 21
FOCAL = 20.0
RULE = ResizeRule(patch=PATCH, pixel_limit=HEIGHT * WIDTH)


def true_pose(number: Any, period: int | None = None) -> Float[Array, "*dims 4 4"]:
    """Where a view is: on a winding path, turning; or on a round."""
    turn = 0.25 * jnp.sin(0.2 * number)
    place = 0.4 * number, 0.3 * jnp.sin(0.5 * number), 0.2 * number + jnp.cos(0.3 * number)
    if period is not None:
        angle = 2 * np.pi / period * number
        turn, place = 0.2 * jnp.sin(angle), (6 * jnp.sin(angle), 0 * angle, 6 - 6 * jnp.cos(angle))
    c, s, zero, one = jnp.cos(turn), jnp.sin(turn), 0 * turn, 0 * turn + 1
    rows = [
        [c, zero, s, place[0]],
        [zero, one, zero, place[1]],
        [-s, zero, c, place[2]],
        [zero, zero, zero, one],
    ]
    return jnp.stack([jnp.stack(jnp.broadcast_arrays(*row), axis=-1) for row in rows], axis=-2)


def unit_of(number: Any) -> Array:
    """How long the unit of a scene is whose first view has this number."""
    return 1 + 0.5 * jnp.sin(1.3 * number)


class Oracle(Model):
    """See the module."""

    def __init__(
        self, *, metric: bool = False, period: int | None = None, drift: float = 0.0
    ) -> None:
        self.weight = nnx.Param(jnp.ones(()))
        self.metric, self.period, self.drift = metric, period, drift
        self.encoder = Eyes(period or 64)

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        return TokenLayout(1, (shape[2] // PATCH, shape[3] // PATCH))

    def encode(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
        priors: PriorArrays | None = None,
    ) -> Encoded:
        code = jnp.round(images[:, :, 0, 0] * 255)
        number, place = code[..., 0], code[..., 1]
        first = number[:, :1]
        unit = jnp.ones_like(first) if self.metric else unit_of(first)
        path = partial(true_pose, period=self.period)
        poses = jnp.matmul(invert_rigid(path(first)), path(number), precision="highest")
        poses = jnp.matmul(
            bent(self.drift * jnp.arange(number.shape[1], dtype=float)[None]),
            poses,
            precision="highest",
        )
        other = place != place[:, :1]
        anywhere = jnp.matmul(true_pose(50 + 17 * first), path(number), precision="highest")
        poses = jnp.where(other[..., None, None], anywhere, poses)
        poses = poses.at[..., :3, 3].divide(unit[..., None])
        depth = true_depth(number, images[..., 2], self.period) / unit[..., None, None]
        views: dict[str, Any] = {"poses": poses, "depth": depth}
        if priors is not None:
            known = priors.has_intrinsics[..., None, None]
            views["intrinsics"] = jnp.where(known, priors.intrinsics, matrix())
        return Encoded(views=views)

    def predict(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Prediction:
        depth, poses = encoded.views["depth"], encoded.views["poses"]
        points = rays()[None, None] * depth[..., None]
        world = transform_points(poses[:, :, None, None], points)
        sure = jnp.full_like(depth, 0.9)
        return Prediction(world, points, sure, poses, intrinsics=encoded.views.get("intrinsics"))


def bent(angle: Array) -> Float[Array, "*dims 4 4"]:
    """A turn about the vertical."""
    c, s, zero, one = jnp.cos(angle), jnp.sin(angle), 0 * angle, 0 * angle + 1
    rows = [[c, zero, s, zero], [zero, one, zero, zero], [-s, zero, c, zero], [zero] * 3 + [one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


class Eyes(DinoV2):
    """An image encoder whose tokens tell where on the round a picture was taken."""

    def __init__(self, period: int) -> None:
        self.period = period

    def patch_grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return shape[1] // PATCH, shape[2] // PATCH

    def __call__(
        self, images: Float[Array, "G H W 3"], *, execution: ExecutionConfig = INFERENCE
    ) -> Float[Array, "G P D"]:
        rows, columns = self.patch_grid(images.shape)
        seen = images[:, 0, 0, 0] * IMAGE_STD[0] + IMAGE_MEAN[0]
        angle = 2 * np.pi / self.period * jnp.round(seen * 255)
        waves = [f(k * angle) for k in range(1, 9) for f in (jnp.sin, jnp.cos)]
        return jnp.stack(waves, axis=-1)[:, None].repeat(rows * columns, axis=1)


def rays() -> Float[Array, "H W 3"]:
    """The ray of each pixel, whose depth is 1."""
    x, y = jnp.meshgrid(jnp.arange(WIDTH, dtype=float), jnp.arange(HEIGHT, dtype=float))
    across, down = (x - (WIDTH - 1) / 2) / FOCAL, (y - (HEIGHT - 1) / 2) / FOCAL
    return jnp.stack([across, down, jnp.ones_like(across)], axis=-1)


def true_depth(number: Any, rough: Any, period: int | None = None) -> Float[Array, "*dims H W"]:
    """Depth of a wall across the path, a little rough."""
    pose = true_pose(number, period)
    ahead = jnp.einsum("...i,hwi->...hw", pose[..., 2, :3], rays())
    return (40 - pose[..., 2, 3, None, None]) / ahead * (1 + 0.02 * rough)


def matrix() -> Float[np.ndarray, "3 3"]:
    """The camera of all views."""
    rows = [[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]]
    return np.array(rows, np.float32)


def film(
    count: int, *, places: Any = None, period: int | None = None
) -> UInt8[np.ndarray, "V H W 3"]:
    """Pictures of so many views; `places` tells for each which place it shows."""
    number = np.arange(count) % (period or count)
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    rough = 60 + column // 3 + row // 2 + 5 * (number % 7)[:, None, None]
    depth = np.asarray(true_depth(number * 1.0, rough / 255, period))
    pose = np.asarray(true_pose(number * 1.0, period))
    wall = np.einsum("vij,hwj,vhw->vhwi", pose[:, :3, :3], np.asarray(rays()), depth)
    x, y, _ = np.moveaxis(wall + pose[:, None, None, :3, 3], -1, 0)
    paint = 128 + 50 * np.sin(0.3 * x) + 50 * np.sin(0.35 * y + 0.2 * x)
    pixels = np.stack([paint, paint, rough], axis=-1).astype(np.uint8)
    pixels[:, 0, 0, 0] = np.arange(count)
    pixels[:, 0, 0, 1] = 1 if places is None else places
    return pixels


def oracle(*, metric: bool = False, **options: Any) -> Pipeline:
    """A pipeline of it."""
    defaults = ModelDefaults(priors=metric, metric=metric)
    return Pipeline(Oracle(metric=metric, **options), "oracle", RULE, defaults=defaults)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
