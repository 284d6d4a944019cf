"""One camera for portraits and landscapes of one phone."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.runtime.turned_cameras import are_turned, check_turned_sizes, turned_intrinsics

SIZE = (252, 196)
FOCAL, OFF = np.array([900.0, 890.0]), np.array([12.0, -7.0])
"""Of the sensor, along its long and its short side, in pixels of 1000x750."""

LYING, STANDING, COPY = (1000, 750), (750, 1000), (375, 500)


def transforms(*sizes: tuple[int, int]) -> tuple[PixelTransform, ...]:
    return tuple(PixelTransform.inside(size, SIZE) for size in sizes)


def own_camera(size: tuple[int, int], sense: int) -> np.ndarray:
    """The camera in pixels of a photo that was turned to the left or to the right if it stands."""
    unit, focal, off = max(size) / 1000, FOCAL, OFF
    if size[1] > size[0]:
        focal, off = FOCAL[::-1], np.array([-sense * OFF[1], sense * OFF[0]])
    matrix = np.eye(3)
    matrix[[0, 1], [0, 1]] = unit * focal
    matrix[:2, 2] = unit * off + (np.array(size) - 1) / 2
    return matrix


def points_of(cameras: Sequence[np.ndarray], places: Sequence[PixelTransform]) -> jax.Array:
    """Points at random depths on the rays of each pixel; noise where there is no photo."""
    random = np.random.default_rng(0)
    made = []
    for matrix, place in zip(cameras, places, strict=True):
        grid = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), axis=-1)
        own = place.to_original(grid.astype(np.float64))
        slope = (own - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]
        depth = random.uniform(0.5, 4.0, (*grid.shape[:2], 1))
        points = depth * np.concatenate([slope, np.ones_like(depth)], axis=-1)
        left, top, right, bottom = place.shown
        around = np.ones(grid.shape[:2], bool)
        around[top:bottom, left:right] = False
        points[around] = random.normal(size=(around.sum(), 3))
        made.append(points)
    return jnp.asarray(np.stack(made), jnp.float32)


@pytest.mark.parametrize("sense", [1, -1])
@pytest.mark.parametrize(
    "sizes",
    [
        (LYING, STANDING),
        (STANDING, LYING, LYING),
        (LYING, STANDING, COPY, (500, 375)),
        (COPY, LYING, (333, 250)),
    ],
)
def test_the_sensor_is_found(sizes: tuple[tuple[int, int], ...], sense: int) -> None:
    places = transforms(*sizes)
    assert are_turned(places)
    true = [own_camera(size, sense) for size in sizes]
    found = np.asarray(turned_intrinsics(points_of(true, places), places, "free"))
    for matrix, place, expected in zip(found, places, true, strict=True):
        own = place.intrinsics_to_original(matrix.astype(np.float64))
        np.testing.assert_allclose(own, expected, rtol=2e-4, atol=2e-2 * max(expected[:2, 2]) / 400)


def test_all_views_have_one_camera_where_they_disagree() -> None:
    """Of cameras whose focal lengths differ by a tenth, the fit lies between them."""
    places = transforms(LYING, STANDING)
    true = [own_camera(size, 1) for size in (LYING, STANDING)]
    true[1][[0, 1], [0, 1]] *= 1.1
    found = np.asarray(turned_intrinsics(points_of(true, places), places, "free"), np.float64)
    lying, standing = (
        place.intrinsics_to_original(matrix) for place, matrix in zip(places, found, strict=True)
    )
    np.testing.assert_allclose(standing[[0, 1], [0, 1]], lying[[1, 0], [1, 0]], rtol=1e-5)
    assert (lying[[0, 1], [0, 1]] > FOCAL).all() and (lying[[0, 1], [0, 1]] < 1.1 * FOCAL).all()


def test_the_centre_is_held() -> None:
    places = transforms(LYING, STANDING)
    true = [own_camera(size, 1) for size in (LYING, STANDING)]
    found = np.asarray(turned_intrinsics(points_of(true, places), places, "centre"), np.float64)
    for matrix, place in zip(found, places, strict=True):
        own = place.intrinsics_to_original(matrix)
        np.testing.assert_allclose(own[:2, 2], (np.array(place.original_size) - 1) / 2, atol=1e-3)


@pytest.mark.parametrize(
    "sizes",
    [
        (LYING, LYING),
        ((600, 600), (600, 600)),
        (LYING, STANDING, (640, 360)),
        (LYING, (1200, 900)),
    ],
)
def test_others_are_not_turned(sizes: tuple[tuple[int, int], ...]) -> None:
    assert not are_turned(transforms(*sizes))


@pytest.mark.parametrize(
    "sizes",
    [
        ((224, 168), (168, 224)),
        ((168, 224), (224, 168), (224, 168)),
        ((400, 300), (375, 500), (500, 375), (300, 400)),
    ],
)
def test_turned_photos_of_one_size_have_one_camera(sizes: tuple[tuple[int, int], ...]) -> None:
    assert are_turned(transforms(*sizes))
    check_turned_sizes(transforms(*sizes), list)


@pytest.mark.parametrize(
    ("sizes", "refused"),
    [
        (((224, 168), (126, 168)), 1),  # cut out of the middle of one
        (((126, 168), (224, 168), (168, 126), (168, 224), (90, 120)), 4),
        (((400, 300), (300, 400), (450, 600)), 2),
    ],
)
def test_a_turned_photo_that_may_be_cut_out_of_another_is_refused(
    sizes: tuple[tuple[int, int], ...], refused: int
) -> None:
    assert are_turned(transforms(*sizes))
    names = [f"photo{view}.jpg" for view in range(len(sizes))]
    with pytest.raises(InputError, match=rf"--shared-intrinsics.*photo{refused}\.jpg"):
        check_turned_sizes(transforms(*sizes), lambda: names)
