"""A room of known walls, seen from inside with exact depth, for the tests of what is written."""

import numpy as np

from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction

HALF = np.array([2.0, 1.5, 3.0])
"""The room reaches from -HALF to HALF."""


def room_recon(
    views: int = 4,
    height: int = 48,
    width: int = 64,
    transforms: tuple[PixelTransform, ...] = (),
    names: tuple[str, ...] = (),
    metric: bool = True,
) -> Reconstruction:
    """Cameras that look around in the room; colours are those of the places on the walls."""
    poses = np.stack([_pose(view, views) for view in range(views)])
    matrix = np.array([[0.7 * width, 0, 0.48 * width], [0, 0.72 * width, 0.53 * height], [0, 0, 1]])
    row, column = np.mgrid[:height, :width]
    rays = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(matrix).T
    shape = (views, height, width)
    camera, world = np.empty((2, *shape, 3), np.float32)
    for view, pose in enumerate(poses):
        along = rays @ pose[:3, :3].T
        walls = (np.sign(along) * HALF - pose[:3, 3]) / np.where(along == 0, 1e-9, along)
        depth = walls.min(axis=-1, keepdims=True)
        camera[view], world[view] = depth * rays, depth * along + pose[:3, 3]
    stretch = PixelTransform.stretch((2 * width, 2 * height), (width, height))
    return Reconstruction(
        points_world=world,
        points_camera=camera,
        confidence=np.broadcast_to(np.linspace(0.5, 0.9, width, dtype=np.float32), shape).copy(),
        mask=np.ones(shape, bool),
        colors=wall_colors(world),
        world_from_camera=poses,
        intrinsics=np.tile(matrix, (views, 1, 1)),
        names=names or tuple(f"photo {view}.jpg" for view in range(views)),
        transforms=transforms or (stretch,) * views,
        model="room",
        metric_scale=1.0 if metric else None,
    )


def wall_colors(points: np.ndarray) -> np.ndarray:
    """The colour of each place on the walls."""
    return np.rint(127.5 * (1 + 0.9 * np.sin(points))).astype(np.uint8)


def distance_to_walls(points: np.ndarray) -> np.ndarray:
    """How far each point is from the nearest wall."""
    return np.abs(np.abs(points) - HALF).min(axis=-1)


def _pose(view: int, views: int) -> np.ndarray:
    yaw, pitch = 2 * np.pi * view / views, 0.3 * np.sin(2.5 * view)
    turn = np.array(
        [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    ) @ np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    pose = np.eye(4)
    pose[:3, :3] = turn
    pose[:3, 3] = 0.5 * np.sin(view + np.array([0.0, 1.0, 2.0]))
    return pose
