"""The filter for the depth of each pixel."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from drawn_weights import drawn
from jaxrecon import checkpoint
from jaxrecon.errors import InputError
from jaxrecon.models import Pi3
from jaxrecon.nn.depth_filter import NEIGHBOURS, RADIUS, DepthFilter, neighbours_of
from jaxrecon.nn.execution import ExecutionConfig
from jaxrecon.nn.layers import gelu
from jaxrecon.nn.patches import fold, unfold
from jaxrecon.training.config import Bucket, TrainConfig
from jaxrecon.training.flops import step_flops
from jaxrecon.training.state import initial_weights, starting_weights
from one_program import one_program
from tiny_models import PI3_TINY

FILTERED = replace(PI3_TINY, refine_width=8, filter_width=8)
WIDTH_IN = 5
SHAPE = (2, 8, 12)


@pytest.fixture(scope="module")
def depth_filter() -> DepthFilter:
    options: dict[str, Any] = {"width_in": WIDTH_IN, "dtype": jnp.float32}
    return drawn(lambda: DepthFilter(8, **options, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    cells = (SHAPE[0], SHAPE[1] // 2, SHAPE[2] // 2, WIDTH_IN)
    return {
        "log_depths": random.normal(size=SHAPE).astype(np.float32),
        "logits": random.normal(size=SHAPE).astype(np.float32),
        "images": random.uniform(size=(*SHAPE, 3)).astype(np.float32),
        "cells": random.normal(size=cells).astype(np.float32),
    }


@one_program
def apply(depth_filter: DepthFilter, maps: dict[str, Any]) -> jax.Array:
    return depth_filter(**maps)


def around(view: np.ndarray, row: int, column: int) -> list[Any]:
    """The plain form of `neighbours_of`."""
    height, width = view.shape
    return [
        view[np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)]
        for down in range(-RADIUS, RADIUS + 1)
        for right in range(-RADIUS, RADIUS + 1)
        if (down + right) % 2 == 0
    ]


def test_neighbours(maps: dict[str, np.ndarray]) -> None:
    found = one_program(neighbours_of)(maps["log_depths"])
    expected = [
        [[around(view, row, column) for column in range(SHAPE[2])] for row in range(SHAPE[1])]
        for view in maps["log_depths"]
    ]
    np.testing.assert_array_equal(found, expected)


def test_it_is_the_mean_of_the_neighbours_by_what_the_convolutions_say(
    depth_filter: DepthFilter, maps: dict[str, np.ndarray]
) -> None:
    """Step by step, in NumPy but for the convolutions themselves."""
    depths = maps["log_depths"]
    neighbours = np.array(one_program(neighbours_of)(depths))
    seen = np.concatenate(
        [
            (depths - depths.mean(axis=(1, 2), keepdims=True))[..., None],
            8 * (depths - neighbours.mean(axis=-1))[..., None],
            maps["logits"][..., None] / 4,
            maps["images"] - 0.5,
        ],
        axis=-1,
    )

    @one_program
    def convolve(depth_filter: DepthFilter, seen: jax.Array, cells: jax.Array) -> jax.Array:
        x = depth_filter.enter(jnp.concatenate([fold(seen, 2), cells], axis=-1))
        for block in depth_filter.blocks:
            x = block(x)
        return unfold(depth_filter.leave(gelu(x)), 2)

    logits = np.array(convolve(depth_filter, seen, maps["cells"]))
    logits[..., [each != (0, 0) for each in NEIGHBOURS]] -= 6
    weights = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    expected = (weights * neighbours).sum(axis=-1)
    np.testing.assert_allclose(apply(depth_filter, maps), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_computes_what_a_cpu_does(
    depth_filter: DepthFilter, maps: dict[str, np.ndarray]
) -> None:
    host = jax.devices("cpu")[0]
    with jax.default_device(host):
        there = jax.device_put((depth_filter, maps), host)
        expected = jax.jit(lambda depth_filter, maps: depth_filter(**maps))(*there)
    np.testing.assert_allclose(apply(depth_filter, maps), expected, rtol=1e-5, atol=1e-5)


def test_depth_stays_between_its_neighbours_and_follows_the_scale(
    depth_filter: DepthFilter, maps: dict[str, np.ndarray]
) -> None:
    found = np.array(apply(depth_filter, maps))
    neighbours = np.array(one_program(neighbours_of)(maps["log_depths"]))
    assert (found >= neighbours.min(axis=-1) - 1e-5).all()
    assert (found <= neighbours.max(axis=-1) + 1e-5).all()
    assert (np.abs(found - maps["log_depths"]) > 1e-3).mean() > 0.9
    larger = apply(depth_filter, maps | {"log_depths": maps["log_depths"] + 0.7})
    np.testing.assert_allclose(larger, found + 0.7, rtol=1e-5, atol=1e-5)


def test_it_moves_points_along_their_rays_and_nothing_else() -> None:
    model = drawn(lambda: Pi3(FILTERED, rngs=nnx.Rngs(0)))
    weights = checkpoint.flatten(model)
    like = jax.eval_shape(lambda: Pi3(replace(FILTERED, filter_width=0), rngs=nnx.Rngs(0)))
    plain = checkpoint.unflatten(like, {path: weights[path] for path in checkpoint.flatten(like)})
    images = np.random.default_rng(0).random((1, 3, 28, 42, 3), np.float32)
    pairs = ExecutionConfig(head_views=2)
    predict = one_program(lambda x: (model(x), plain(x), model(x, execution=pairs)))
    found, before, in_groups = predict(images)
    np.testing.assert_allclose(in_groups.points_camera, found.points_camera, rtol=1e-5, atol=1e-6)
    for name in ("confidence", "world_from_camera"):
        np.testing.assert_array_equal(getattr(found, name), getattr(before, name))
    rays, plain_rays = (
        each.points_camera[..., :2] / each.points_camera[..., 2:] for each in (found, before)
    )
    np.testing.assert_allclose(rays, plain_rays, rtol=1e-5, atol=1e-6)
    assert (found.points_camera[..., 2] != before.points_camera[..., 2]).mean() > 0.9


def test_training_sets_out_from_nearly_no_change(maps: dict[str, np.ndarray]) -> None:
    """Of the weight of a pixel's neighbours, 24 / (24 + e^6) is with others."""
    config = TrainConfig(model=FILTERED)
    begin = "depth_filter."
    weights = initial_weights(config)
    own = {path.removeprefix(begin): x for path, x in weights.items() if path.startswith(begin)}
    like = jax.eval_shape(lambda: DepthFilter(8, width_in=8, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    cells = np.ones((*maps["cells"].shape[:3], 8), np.float32)
    found = apply(checkpoint.unflatten(like, own), maps | {"cells": cells})
    others = np.exp(-6) * np.array(one_program(neighbours_of)(maps["log_depths"])).sum(axis=-1)
    others -= np.exp(-6) * maps["log_depths"]
    expected = (maps["log_depths"] + others) / (1 + (len(NEIGHBOURS) - 1) * np.exp(-6))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lacking", [{"filter_width": 0}, {"filter_width": 0, "refine_width": 0}])
def test_a_run_starts_from_weights_that_lack_it(tmp_path: Path, lacking: dict[str, int]) -> None:
    config = replace(FILTERED, **lacking)
    model = drawn(lambda: Pi3(config, rngs=nnx.Rngs(0)))
    header = {"family": "pi3", "model": "x", "license": "", "source": {}}
    checkpoint.save(model, tmp_path / "plain", header | {"config": asdict(config)})
    run = TrainConfig(model=FILTERED)
    found, fresh = starting_weights(run, tmp_path / "plain"), initial_weights(run)
    stored = checkpoint.flatten(model)
    assert found.keys() == fresh.keys()
    for path, value in found.items():
        np.testing.assert_array_equal(value, stored.get(path, fresh[path]))


def test_it_needs_the_features_of_a_refiner() -> None:
    with pytest.raises(InputError, match="filter_width is 8; it needs the convolutions"):
        replace(PI3_TINY, filter_width=8)


def test_its_arithmetic_counts() -> None:
    """As the compiler counts it, of the filter alone."""
    like = jax.eval_shape(lambda: DepthFilter(8, width_in=8, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    shapes = ((1, 140, 140), (1, 140, 140), (1, 140, 140, 3), (1, 70, 70, 8))
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    cost = jax.jit(lambda part, *given: part(*given)).lower(like, *given).cost_analysis()
    bucket = Bucket(scenes=1, views=1, height=140, width=140)
    plain = step_flops(replace(FILTERED, filter_width=0), bucket)
    counted = (step_flops(FILTERED, bucket) - plain) / 3
    assert cost is not None
    assert counted == pytest.approx(cost["flops"], rel=0.15)
