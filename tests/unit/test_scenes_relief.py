"""Openings in surfaces: where rays that enter them end, against a march in small steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.scenes.relief import Relief, enter
from jaxrecon.scenes.vectors import Vector, columns

ACROSS, UP, WIDE, HIGH, DEPTH = 1.0, 1.4, 0.6, 0.5, 0.25


def relief(missing: float = 0.0, depth: float = DEPTH) -> Relief:
    across, up, wide, high, deep, gaps = map(jnp.float32, (ACROSS, UP, WIDE, HIGH, depth, missing))
    return Relief(across, up, wide, high, deep, gaps, jnp.int32(5))


def rays(axis: int, count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points on an upright plane, its normal, and rays into it."""
    random = np.random.default_rng(axis)
    point = random.uniform(-3, 3, (count, 3))
    point[:, axis] = 2.0
    normal = np.zeros((count, 3))
    normal[:, axis] = 1.0
    ray = random.normal(size=(count, 3))
    ray[:, axis] = -np.abs(ray[:, axis]) - 0.2
    return point, normal, ray


def is_open(place: np.ndarray, width: float, share: float) -> np.ndarray:
    return np.abs((place / width) % 1 - 0.5) < share / 2


def marched(point: np.ndarray, ray: np.ndarray, axis: int) -> np.ndarray:
    """How far each ray goes until it is in solid matter, in steps of a thousandth."""
    far = np.zeros(len(point))
    running = np.ones(len(point), bool)
    for _ in range(8000):
        at = point + ray * (far + 1e-3)[:, None]
        hollow = is_open(at[:, 1 - axis], ACROSS, WIDE) & is_open(at[:, 2], UP, HIGH)
        hollow &= at[:, axis] > 2.0 - DEPTH
        running &= hollow
        if not running.any():
            break
        far = np.where(running, far + 1e-3, far)
    return far


@pytest.mark.parametrize("axis", [0, 1])
def test_rays_end_at_the_back_or_at_a_side(axis: int) -> None:
    point, normal, ray = rays(axis)
    found = enter(relief(), *(columns(jnp.float32(x)) for x in (point, normal, ray)))
    inside = is_open(point[:, 1 - axis], ACROSS, WIDE) & is_open(point[:, 2], UP, HIGH)
    np.testing.assert_array_equal(found.inside, inside)
    assert 20 < inside.sum() < 180
    expected = marched(point[inside], ray[inside], axis)
    np.testing.assert_allclose(np.asarray(found.further)[inside], expected, atol=3e-3)
    end = point + ray * np.asarray(found.further)[:, None]
    on_back = np.isclose(end[:, axis], 2.0 - DEPTH, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(found.back)[inside], on_back[inside])
    inner = np.asarray(found.normal.stack())[inside]
    np.testing.assert_allclose(np.abs(inner).sum(axis=1), 1)
    assert ((inner * ray[inside]).sum(axis=1) < 0).all()


def test_floors_and_flat_surfaces_have_none() -> None:
    point, normal, ray = rays(0)
    up = np.zeros_like(normal)
    up[:, 2] = 1.0
    flat = enter(relief(), *(columns(jnp.float32(x)) for x in (point, up, ray)))
    none = enter(relief(depth=0.0), *(columns(jnp.float32(x)) for x in (point, normal, ray)))
    assert not np.asarray(flat.inside).any()
    assert not np.asarray(none.inside).any()


def test_some_cells_are_closed() -> None:
    point, normal, ray = (columns(jnp.float32(x)) for x in rays(1, 3000))
    every = np.asarray(enter(relief(), point, normal, ray).inside)
    half = np.asarray(enter(relief(missing=0.5), point, normal, ray).inside)
    assert not (half & ~every).any()
    assert 0.2 < half.sum() / every.sum() < 0.8
    assert isinstance(point, Vector)
