"""What phones do to pictures."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.scenes.cameras import Cameras
from jaxrecon.scenes.phone import Phone, after_film, before_film, draw_phone
from jaxrecon.scenes.rng import scene_rng
from jaxrecon.scenes.vectors import Vector, columns

VIEWS, HEIGHT, WIDTH = 2, 20, 28


def plain() -> Phone:
    """A phone that changes nothing."""
    one, none, each = jnp.ones(()), jnp.zeros(()), jnp.zeros(VIEWS)
    balance = Vector(*(jnp.ones(VIEWS),) * 3)
    return Phone(none, balance, one, one, each, none, none, none)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.2, 0.8, (VIEWS, HEIGHT, WIDTH, 3)).astype(np.float32)


def taken(images: np.ndarray, **changes: object) -> np.ndarray:
    bits = jax.random.bits(jax.random.key(0), images.shape[:3], jnp.uint32)
    return np.asarray(after_film(jnp.asarray(images), replace(plain(), **changes), bits))


def test_a_plain_phone_changes_nothing(images: np.ndarray) -> None:
    np.testing.assert_allclose(taken(images), images, atol=2e-3)
    light = columns(jnp.asarray(images))
    np.testing.assert_allclose(before_film(light, plain()).stack(), images, atol=1e-6)


def test_corners_are_darker_and_tints_differ(images: np.ndarray) -> None:
    light = Vector(*(jnp.ones((VIEWS, HEIGHT, WIDTH)),) * 3)
    balance = Vector(jnp.array([1.0, 2.0]), jnp.ones(VIEWS), jnp.ones(VIEWS))
    found = before_film(light, replace(plain(), vignette=jnp.float32(0.4), balance=balance))
    assert found.y[0, 0, 0] < 0.8 < 0.99 < found.y[0, HEIGHT // 2, WIDTH // 2]
    np.testing.assert_allclose(found.x[1], 2 * found.x[0], rtol=1e-6)


def test_blur_smooths_and_sharpening_roughens(images: np.ndarray) -> None:
    blurred = before_film(columns(jnp.asarray(images)), replace(plain(), blur=jnp.ones(VIEWS)))
    assert np.std(np.diff(blurred.x, axis=2)) < 0.5 * np.std(np.diff(images[..., 0], axis=2))
    sharp = taken(images, sharpening=jnp.float32(0.5))
    assert np.std(np.diff(sharp, axis=2)) > 1.2 * np.std(np.diff(images, axis=2))


def test_noise_and_blocks(images: np.ndarray) -> None:
    noisy = taken(images, noise=jnp.float32(0.05))
    assert 0.01 < np.std(noisy - images) < 0.06
    blocky = taken(images, blocks=jnp.float32(0.05))
    assert 0.01 < np.std(blocky - images) < 0.2
    flat = np.full_like(images, 0.5)
    assert np.ptp(taken(flat, blocks=jnp.float32(0.05))) < 1e-3


def test_a_drawn_phone_stays_in_range(images: np.ndarray) -> None:
    for number in range(8):
        phone = draw_phone(scene_rng(jax.random.key(1), jnp.uint32(number)), VIEWS, 1.0)
        bits = jnp.zeros(images.shape[:3], jnp.uint32)
        found = np.asarray(
            after_film(before_film(columns(jnp.asarray(images)), phone).stack(), phone, bits)
        )
        assert np.isfinite(found).all()
        assert ((found >= 0) & (found <= 1)).all()


def test_a_lens_bends_rays_away_from_the_centre() -> None:
    x, y, z = (columns(jnp.eye(3)[axis : axis + 1]) for axis in range(3))
    straight = Cameras(x, x, y, z, jnp.float32(10.0))
    bent = replace(straight, bend=jnp.float32(0.1))
    row, column = jnp.zeros((1, 1)), jnp.array([[0.0, 10.0]])
    np.testing.assert_allclose(straight.rays(row, column).x, [[[0, 1]]], atol=1e-6)
    np.testing.assert_allclose(bent.rays(row, column).x, [[[0, 1.1]]], atol=1e-6)
