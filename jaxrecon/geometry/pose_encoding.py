"""VGGT's nine numbers of a camera.

An encoding holds the translation (3) and the quaternion x, y, z, w (4) of camera-from-world, then
the vertical and the horizontal angle of view in radians. Its principal point is (W / 2, H / 2).

Source: upstream `vggt/utils/pose_enc.py`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrecon.geometry.quaternion import quaternion_from_rotation, rotation_from_quaternion
from jaxrecon.geometry.transforms import rigid


def decode_pose(
    encoding: Float[Array, "*dims 9"], size: tuple[int, int]
) -> tuple[Float[Array, "*dims 4 4"], Float[Array, "*dims 3 3"]]:
    """Camera-from-world transform, and intrinsics in pixels of an image of `size` (H, W)."""
    camera_from_world = rigid(rotation_from_quaternion(encoding[..., 3:7]), encoding[..., :3])
    height, width = size
    focal_y = height / 2 / jnp.tan(encoding[..., 7] / 2)
    focal_x = width / 2 / jnp.tan(encoding[..., 8] / 2)
    zero, one = jnp.zeros_like(focal_x), jnp.ones_like(focal_x)
    rows = [
        [focal_x, zero, one * (width / 2)],
        [zero, focal_y, one * (height / 2)],
        [zero, zero, one],
    ]
    return camera_from_world, jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def encode_pose(
    camera_from_world: Float[Array, "*dims 4 4"],
    intrinsics: Float[Array, "*dims 3 3"],
    size: tuple[int, int],
) -> Float[Array, "*dims 9"]:
    """The encoding of a camera whose image has `size` (H, W); its principal point is lost."""
    height, width = size
    angles = [
        2 * jnp.arctan(height / 2 / intrinsics[..., 1, 1]),
        2 * jnp.arctan(width / 2 / intrinsics[..., 0, 0]),
    ]
    quaternion = quaternion_from_rotation(camera_from_world[..., :3, :3])
    return jnp.concatenate(
        [camera_from_world[..., :3, 3], quaternion, jnp.stack(angles, axis=-1)], axis=-1
    )
