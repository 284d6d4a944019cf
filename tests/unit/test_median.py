"""The weighted median of log depths."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrecon.errors import InputError
from jaxrecon.models.pi3.model import Pi3
from jaxrecon.nn import median
from jaxrecon.nn.execution import TRAINING
from jaxrecon.nn.median import weighted_median
from one_program import one_program
from tiny_models import PI3_TINY

TINY = replace(PI3_TINY, median_radius=2)


def by_sorting(values: Any, weights: Any, image: Any, radius: int) -> np.ndarray:
    """The plain form, of one view."""
    height, width = values.shape
    found = np.zeros_like(values)
    for row in range(height):
        for column in range(width):
            seen = []
            for down in range(-radius, radius + 1):
                for right in range(-radius, radius + 1):
                    if (down + right) % 2:
                        continue
                    at = np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)
                    unlike = np.sum((image[at] - image[row, column]) ** 2) / median.LIKENESS**2
                    far = (down**2 + right**2) / radius**2
                    seen.append((values[at], weights[at] * np.exp(-(unlike + far) / 2)))
            value, weight = np.array(sorted(seen)).T
            enough = np.cumsum(weight) >= weight.sum() / 2
            found[row, column] = value[np.argmax(enough)]
    return found


@pytest.mark.parametrize("radius", [1, 3])
def test_it_is_the_median_of_the_sorted_neighbours(
    monkeypatch: pytest.MonkeyPatch, radius: int
) -> None:
    """Of three views in groups of two, so that the last group is cut short."""
    monkeypatch.setattr(median, "PIXELS", 2 * 9 * 11)
    draw = np.random.default_rng(radius)
    values = draw.normal(size=(3, 9, 11)).astype(np.float32)
    weights = draw.uniform(0.1, 1, size=(3, 9, 11)).astype(np.float32)
    images = 0.2 * draw.uniform(size=(3, 9, 11, 3)).astype(np.float32)
    found = jax.jit(partial(weighted_median, radius=radius))(values, weights, images)
    expected = [by_sorting(*view, radius) for view in zip(values, weights, images, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=np.ptp(values) * 2**-12)


def test_a_soft_edge_moves_to_that_of_the_image() -> None:
    edge = np.clip((np.arange(16) - 5) / 4, 0, 1)  # soft, and two columns too far to the right
    values = jnp.asarray(np.tile(edge, (1, 12, 1)), jnp.float32)
    dark = jnp.asarray(np.arange(16) < 6, jnp.float32)
    images = jnp.broadcast_to(dark[None, None, :, None], (1, 12, 16, 3))
    sure = jnp.asarray(np.tile(0.1 + np.abs(edge - 0.5), (1, 12, 1)), jnp.float32)
    found = weighted_median(values, sure, images, radius=3)
    np.testing.assert_allclose(found[0, :, :6], 0, atol=1e-3)
    assert found[0, :, 6:].min() > 0.6 > values[0, :, 6].max()


def test_depth_passes_it_but_for_training() -> None:
    """It moves points along their rays, and nothing else."""
    model, plain = (
        Pi3(config, rngs=nnx.Rngs(0)) for config in (TINY, replace(TINY, median_radius=0))
    )
    images = jax.random.uniform(jax.random.key(0), (1, 2, 28, 42, 3))

    @one_program
    def run(images: jax.Array) -> Any:
        return model(images), plain(images), model(images, execution=TRAINING)

    found, usual, learning = run(images)
    same = partial(jax.tree.map, partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6))
    same(learning, usual)
    rays = [x.points_camera[..., :2] / x.points_camera[..., 2:] for x in (found, usual)]
    same(*rays)
    same(found.confidence_logits, usual.confidence_logits)
    same(found.world_from_camera, usual.world_from_camera)
    log_depths = jnp.log(usual.points_camera[0, ..., 2])
    sure = jnp.asarray(usual.confidence[0])
    expected = weighted_median(log_depths, sure, images[0], radius=2)
    np.testing.assert_allclose(jnp.log(found.points_camera[0, ..., 2]), expected, atol=1e-5)
    assert jnp.abs(expected - log_depths).max() > 1e-3


@pytest.mark.parametrize("radius", [-1, 17])
def test_a_radius_that_is_none(radius: int) -> None:
    with pytest.raises(InputError, match="median_radius"):
        replace(TINY, median_radius=radius)
