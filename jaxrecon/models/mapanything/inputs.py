"""What a user knows of the views, brought to the size of the processed images."""

from collections.abc import Container, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float

from jaxrecon.errors import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.models.mapanything.conditions import Conditions
from jaxrecon.models.mapanything.known import KnownOfViews, PerView, check_known, given_of


def conditions_from(
    transforms: Sequence[PixelTransform],
    *,
    intrinsics: PerView | None = None,
    poses: PerView | None = None,
    depths: PerView | None = None,
    metric_depths: bool = True,
    metric_poses: bool = True,
) -> Conditions:
    """Conditions of one scene.

    Args:
      transforms: of each view, from its original image to the processed one; all processed images
        have one size.
      intrinsics: camera matrices in pixels of the original images, where the centre of the top-left
        pixel is (0, 0); or one for all views.
      poses: world-from-camera, rigid, in any world frame; x right, y down, z forward.
      depths: depth along the optical axis of each pixel of the original image; 0, NaN or infinite
        where it is unknown.
      metric_depths, metric_poses: whether depths, and translations, are in metres. If not, their
        unit is taken to be unknown.

    Raises:
      InputError: one of them is given for a view that does not exist or has another shape; poses
        are not rigid, given for later views but not the first, or so far from the origin of their
        world that float32 loses a millimetre; intrinsics are no camera matrix in pixels of the
        original image; a depth map has another size than its image, comes without intrinsics, or
        has no depth left in the processed image.
    """
    known = check_known(
        [transform.original_size for transform in transforms],
        intrinsics=given_of(intrinsics, "intrinsics"),
        poses=given_of(poses, "poses"),
        depths=given_of(depths, "depths"),
        metric_depths=metric_depths,
        metric_poses=metric_poses,
    )
    return resized_conditions(known, transforms)


def resized_conditions(known: KnownOfViews, transforms: Sequence[PixelTransform]) -> Conditions:
    """What is known, in pixels of the processed images.

    Raises:
      InputError: none of a map's pixels with a depth is left.
    """
    views, (width, height) = len(transforms), transforms[0].size
    matrices = np.broadcast_to(np.eye(3), (views, 3, 3)).copy()
    rigid = np.broadcast_to(np.eye(4), (views, 4, 4)).copy()
    depth_z = np.zeros((views, height, width), np.float32)
    for view, matrix in known.intrinsics.items():
        matrices[view] = _resized_intrinsics(matrix, transforms[view])
    for view, pose in known.poses.items():
        rigid[view] = pose
    for view, depth in known.depths.items():
        depth_z[view] = _resized_depth(depth, transforms[view], view)
    return Conditions(
        intrinsics=jnp.asarray(matrices[None], jnp.float32),
        has_intrinsics=_flags(known.intrinsics, views),
        depth_z=jnp.asarray(depth_z[None]),
        has_depth=_flags(known.depths, views),
        world_from_camera=jnp.asarray(rigid[None], jnp.float32),
        has_pose=_flags(known.poses, views),
        metric_depth=jnp.full((1, views), known.metric_depths),
        metric_poses=jnp.full((1, views), known.metric_poses),
        origin=jnp.broadcast_to(jnp.asarray(known.origin, jnp.float32), (1, views, 3)),
    )


def padded_conditions(conditions: Conditions, views: int) -> Conditions:
    """The conditions of one scene with unknown views behind it, up to so many views."""

    def pad(x: Array) -> Array:
        missing = views - x.shape[1]
        return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2))) if missing else x

    return jax.tree.map(pad, conditions)


def abstract_conditions(shape: tuple[int, ...], sharding: Sharding | None = None) -> Any:
    """Placeholders for the conditions of images of `shape` (V, H, W, 3)."""
    views, height, width = shape[:3]

    def known(dtype: Any, *rest: int) -> Any:
        return jax.ShapeDtypeStruct((1, views, *rest), dtype, sharding=sharding)

    empty = conditions_from([PixelTransform.stretch((1, 1), (width, height))] * views)
    return jax.tree.map(lambda x: known(x.dtype, *x.shape[2:]), empty)


def _flags(known: Container[int], views: int) -> Bool[Any, "1 V"]:
    return jnp.asarray([[view in known for view in range(views)]])


def _resized_intrinsics(
    matrix: Float[np.ndarray, "3 3"], transform: PixelTransform
) -> Float[np.ndarray, "3 3"]:
    """The camera matrix as upstream's preprocessing gives it to the network.

    An image that covers its processed size is scaled to whole pixels. Upstream scales intrinsics by
    the factor before that rounding, about the middle of the image: up to a pixel's share of the
    image's side away from where the pixels are.

    Source: upstream `rescale_image_and_other_optional_info` (`mapanything/utils/cropping.py`).
    """
    resized = transform.intrinsics_from_original(matrix)
    size = np.array(transform.original_size)
    wanted = (np.array(transform.size) / size).max()
    middle = transform.from_original((size - 1) / 2)
    for axis, scale in enumerate(transform.scale):
        if abs(wanted - scale) * size[axis] < 1:  # else the image was stretched
            resized[axis, :2] *= wanted / scale
            resized[axis, 2] = (resized[axis, 2] - middle[axis]) * wanted / scale + middle[axis]
    return resized


def _resized_depth(
    depth: Float[np.ndarray, "H W"], transform: PixelTransform, view: int
) -> Float[np.ndarray, "H2 W2"]:
    resized = transform.nearest(depth)
    if not resized.any():
        width, height = transform.size
        raise InputError(
            f"depths: view {view}: none of its {np.count_nonzero(depth)} pixels with a depth is "
            f"left at {width}x{height}; give denser depth, or leave out the view's depth map"
        )
    return resized
