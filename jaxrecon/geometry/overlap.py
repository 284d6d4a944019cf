"""How much of what one view shows another view shows too."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry.intrinsics import unproject_depth
from jaxrecon.geometry.transforms import invert_rigid, transform_points


def overlap(
    depth_z: Float[Array, "V H W"],
    mask: Bool[Array, "V H W"],
    world_from_camera: Float[Array, "V 4 4"],
    intrinsics: Float[Array, "V 3 3"],
    *,
    stride: int = 4,
    tolerance: float = 0.05,
) -> Float[Array, "V V"]:
    """Share of the surface points of view `i` (row) that view `j` (column) sees as well.

    A point of `i` is seen by `j` if it projects into the image of `j`, in front of the camera, onto
    a pixel of known depth that is not nearer than the point by more than the tolerance:
    `z <= (1 + tolerance) * depth_z[j]` at the nearest pixel. On the diagonal it is 1. A view
    without any known depth has 0 in its row. For a batch use `jax.vmap`.

    Args:
      depth_z: depth along the optical axis, in any unit.
      mask: where it is known.
      world_from_camera: poses in the same unit.
      intrinsics: in pixels of the depth maps.
      stride: every `stride`-th pixel of every `stride`-th row is tested.
      tolerance: relative.
    """
    height, width = depth_z.shape[1:]
    points, valid = _sampled_points(depth_z, mask, world_from_camera, intrinsics, stride)
    camera_from_world = invert_rigid(world_from_camera)

    def seen_by(view: tuple[Array, Array, Array, Array]) -> Float[Array, " V"]:
        depth, known, pose, matrix = view
        camera = transform_points(pose, points)
        z = camera[..., 2]
        safe = jnp.where(z > 0, z, 1.0)
        column = _nearest(matrix[0, 0] * camera[..., 0] / safe + matrix[0, 2], width)
        row = _nearest(matrix[1, 1] * camera[..., 1] / safe + matrix[1, 2], height)
        inside = (z > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        place = jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)
        seen = inside & known[place] & (z <= (1 + tolerance) * depth[place])
        return jnp.sum(seen & valid, axis=1) / jnp.maximum(jnp.sum(valid, axis=1), 1)

    # One view after another: the points of all views, seen by all at once, would need their square.
    return jax.lax.map(seen_by, (depth_z, mask, camera_from_world, intrinsics)).T


def _sampled_points(
    depth_z: Array, mask: Array, world_from_camera: Array, intrinsics: Array, stride: int
) -> tuple[Float[Array, "V P 3"], Bool[Array, "V P"]]:
    """World points of every `stride`-th pixel, and which of them are known."""
    start_row, start_column = (min(stride // 2, side - 1) for side in depth_z.shape[1:])
    chosen = (slice(None), slice(start_row, None, stride), slice(start_column, None, stride))
    camera, valid = unproject_depth(depth_z, intrinsics)[chosen], mask[chosen]
    camera = jnp.where(valid[..., None], camera, 1.0)
    points = transform_points(world_from_camera[:, None, None], camera)
    views = len(depth_z)
    return points.reshape(views, -1, 3), valid.reshape(views, -1)


def _nearest(position: Array, side: int) -> Array:
    """The nearest pixel, as a number that is outside if the position is far outside."""
    return jnp.round(jnp.clip(position, -2.0, side + 1.0)).astype(jnp.int32)
