"""Small reconstructions for the tests of saving and slicing."""

import numpy as np

from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction

VIEWS, HEIGHT, WIDTH = 3, 8, 12


def random_recon(seed: int = 0) -> Reconstruction:
    """Three views of random depth and colour; points, poses and intrinsics agree."""
    rng = np.random.default_rng(seed)
    image = (VIEWS, HEIGHT, WIDTH)
    intrinsics = np.tile(np.array([[10.0, 0, 5.25], [0, 11.0, 3.75], [0, 0, 1]]), (VIEWS, 1, 1))
    poses = np.tile(np.eye(4), (VIEWS, 1, 1))
    poses[:, :3, :3] = random_rotations(rng, VIEWS)
    poses[:, :3, 3] = rng.normal(size=(VIEWS, 3))
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    rays = np.einsum("vij,hwj->vhwi", np.linalg.inv(intrinsics), pixels)
    points_camera = rays * rng.uniform(1, 3, image)[..., None]
    points_world = np.einsum("vij,vhwj->vhwi", poses[:, :3, :3], points_camera)
    points_world += poses[:, None, None, :3, 3]
    return Reconstruction(
        points_world=points_world.astype(np.float32),
        points_camera=points_camera.astype(np.float32),
        confidence=rng.random(image, np.float32),
        mask=rng.random(image) > 0.3,
        colors=rng.integers(0, 256, (*image, 3), np.uint8),
        world_from_camera=poses.astype(np.float32),
        intrinsics=intrinsics.astype(np.float32),
        names=("a.jpg", "b.JPG", "sub/a.png"),
        transforms=(
            PixelTransform.stretch((24, 16), (WIDTH, HEIGHT)),
            PixelTransform.stretch((120, 40), (WIDTH, HEIGHT)),
            PixelTransform((20, 16), (WIDTH, HEIGHT), (1.0, 0.5), (-4.0, 0.0)),
        ),
        model="pi3",
        seconds={"read": 0.25, "run": 1.5},
    )


def random_rotations(rng: np.random.Generator, count: int) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(count, 3, 3)))
    q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    return q * np.sign(np.linalg.det(q))[:, None, None]


def one_pixel_recon() -> Reconstruction:
    """One 3x2 view, turned 90 degrees about z, that keeps pixel (2, 1) alone.

    That pixel at depth 4 with fx 2, fy 4, cx 1, cy 0.5 is the camera point (2, 0.5, 4), and in
    the world (-0.5, 2, 4) + (1, 2, 3) = (0.5, 4, 7).
    """
    pose = np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]], np.float32)
    image = (1, 2, 3)
    points_camera, points_world = np.zeros((2, *image, 3), np.float32)
    points_camera[0, 1, 2], points_world[0, 1, 2] = (2, 0.5, 4), (0.5, 4, 7)
    mask, colors = np.zeros(image, bool), np.zeros((*image, 3), np.uint8)
    mask[0, 1, 2], colors[0, 1, 2] = True, (188, 10, 255)
    return Reconstruction(
        points_world=points_world,
        points_camera=points_camera,
        confidence=np.full(image, 0.75, np.float32),
        mask=mask,
        colors=colors,
        world_from_camera=pose[None],
        intrinsics=np.array([[[2, 0, 1], [0, 4, 0.5], [0, 0, 1]]], np.float32),
        names=("one.jpg",),
        transforms=(PixelTransform((3, 2), (3, 2), (1.0, 1.0)),),
    )
