"""A walk through connected rooms."""

import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.scenes.rendered import RenderedScene
from jaxrecon.scenes.walks import Walk, draw_walk

HEIGHT, WIDTH = 12, 16


@pytest.fixture(scope="module")
def walk() -> Walk:
    return draw_walk(3, views=120)


@pytest.fixture(scope="module")
def some(walk: Walk) -> RenderedScene:
    (part,) = walk.render(slice(40, 44), height=HEIGHT, width=WIDTH, at_once=4)
    return part


def test_poses_are_rigid_and_lead_back(walk: Walk) -> None:
    poses = walk.world_from_camera
    turns = poses[:, :3, :3]
    np.testing.assert_allclose(turns @ np.swapaxes(turns, 1, 2), [np.eye(3)] * 120, atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    steps = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0, append=poses[:1, :3, 3]), axis=1)
    assert steps.max() < 1.2 * walk.length / 120
    assert 20 < walk.length < 45
    assert np.ptp(poses[:, 0, 3]) > 8 and np.ptp(poses[:, 1, 3]) > 4


@pytest.mark.thorough
def test_walls_are_all_around(some: RenderedScene) -> None:
    assert np.asarray(some.mask).all()
    assert some.depth_z.min() > 0.2 and some.depth_z.max() < 20
    images = np.asarray(some.images)
    assert images.shape == (4, HEIGHT, WIDTH, 3)
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0.05


@pytest.mark.thorough
def test_a_view_does_not_depend_on_those_beside_it(walk: Walk, some: RenderedScene) -> None:
    (part,) = walk.render(slice(42, 43), height=HEIGHT, width=WIDTH, at_once=4)
    np.testing.assert_array_equal(part.depth_z[0], some.depth_z[2])
    np.testing.assert_array_equal(part.images[0], some.images[2])


@pytest.mark.thorough
def test_neighbours_see_the_same_points(some: RenderedScene) -> None:
    """What one view sees and the next one has in its picture lies where the next one sees it."""
    depth, poses, matrix = (
        np.asarray(x, np.float64)
        for x in (some.depth_z, some.world_from_camera, some.intrinsics[0])
    )
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(matrix).T
    world = (pixels * depth[0][..., None]) @ poses[0, :3, :3].T + poses[0, :3, 3]
    own = (world - poses[1, :3, 3]) @ poses[1, :3, :3]
    x, y, _ = np.round(np.moveaxis(own @ matrix.T / own[..., 2:], -1, 0)).astype(int)
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    there = depth[1][y[inside], x[inside]]
    assert inside.mean() > 0.6
    assert np.median(np.abs(there / own[..., 2][inside] - 1)) < 0.05


def test_walks_differ_and_repeat() -> None:
    poses = draw_walk(3, views=10).world_from_camera
    np.testing.assert_array_equal(poses, draw_walk(3, views=10).world_from_camera)
    assert np.abs(poses - draw_walk(4, views=10).world_from_camera).max() > 0.1
    again = draw_walk(3, views=20, share=2.0)
    assert again.length == pytest.approx(2 * draw_walk(3, views=10).length)
    np.testing.assert_allclose(
        again.world_from_camera[10:, :2, 3], again.world_from_camera[:10, :2, 3], atol=1e-3
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"views": 0}, "views is 0; it must be at least 1"),
        ({"rooms": 5}, "rooms is 5; it must be even"),
        ({"share": 0.0}, "share is 0.0; it must be above 0"),
    ],
)
def test_refused(given: dict[str, float], message: str) -> None:
    numbers: dict = {"seed": 0, "views": 3} | given
    with pytest.raises(InputError, match=message):
        draw_walk(numbers.pop("seed"), **numbers)
