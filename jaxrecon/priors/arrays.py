"""What is known of the views as arrays on the device, in pixels of the processed images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.errors import InputError
from jaxrecon.geometry import invert_rigid
from jaxrecon.images import PixelTransform
from jaxrecon.priors.sparse_depth import SparseDepth, points_if_sparse
from jaxrecon.priors.view_priors import KINDS, ViewPriors
from jaxrecon.pytree import pytree_dataclass

SMALLEST = 1e-8


@pytree_dataclass
class PriorArrays:
    """What is known of `V` views of `B` scenes before they are reconstructed, as models take it.

    Each array comes with the views for which it is known; elsewhere its numbers are not used. The
    arrays have one size whatever is known, so that one compiled program serves every combination.

    Attributes:
      intrinsics: in pixels of the processed images; the centre of the top-left pixel is (0, 0).
      has_intrinsics: where they are known.
      depth_z: depth along the optical axis of each pixel, 0 where it is unknown.
      has_depth: where there is a depth map; MapAnything needs such a view's intrinsics.
      world_from_camera: rigid poses in any world frame whose axes are the given world's.
      has_pose: where they are known; to MapAnything none counts in a scene whose first view has
        none.
      metric_depth, metric_poses: where depth, or translations, are in metres; elsewhere their
        unit is unknown.
      origin: where that frame's origin is in the given world, in the unit of the poses. A scene's
        views share it.
    """

    intrinsics: Float[Array, "B V 3 3"]
    has_intrinsics: Bool[Array, "B V"]
    depth_z: Float[Array, "B V H W"]
    has_depth: Bool[Array, "B V"]
    world_from_camera: Float[Array, "B V 4 4"]
    has_pose: Bool[Array, "B V"]
    metric_depth: Bool[Array, "B V"]
    metric_poses: Bool[Array, "B V"]
    origin: Float[Array, "B V 3"]


def prior_arrays(
    priors: ViewPriors,
    transforms: Sequence[PixelTransform],
    resized_intrinsics: Callable[
        [PixelTransform, Float[np.ndarray, "3 3"]], Float[np.ndarray, "3 3"]
    ] = PixelTransform.intrinsics_from_original,
    *,
    independent: bool = False,
) -> PriorArrays:
    """The priors of one scene, in pixels of the processed images.

    Args:
      priors: what is known.
      transforms: of each view, from its original image to the processed one; all processed images
        have one size.
      resized_intrinsics: how camera matrices follow their images; see
        `ImageRule.resized_intrinsics`.
      independent: see `ViewPriors.checked`.

    Raises:
      InputError: as `ViewPriors.checked`; or none of a map's pixels with a depth is left.
    """
    views, (width, height) = len(transforms), transforms[0].size
    sizes = [transform.original_size for transform in transforms]
    checked = priors.checked(sizes, independent=independent)
    cameras, posed, maps = (checked.by_view(kind, views) for kind in KINDS)
    origin = posed[min(posed)][:3, 3] if posed else np.zeros(3)
    matrices = np.broadcast_to(np.eye(3), (views, 3, 3)).copy()
    rigid = np.broadcast_to(np.eye(4), (views, 4, 4)).copy()
    depth_z = np.zeros((views, height, width), np.float32)
    for view, matrix in cameras.items():
        matrices[view] = resized_intrinsics(transforms[view], matrix)
    for view, pose in posed.items():
        rigid[view] = pose
        rigid[view, :3, 3] -= origin
    for view, depth in maps.items():
        depth_z[view] = _resized_depth(depth, transforms[view], view)
    return PriorArrays(
        intrinsics=jnp.asarray(matrices[None], jnp.float32),
        has_intrinsics=_flags(cameras, views),
        depth_z=jnp.asarray(depth_z[None]),
        has_depth=_flags(maps, views),
        world_from_camera=jnp.asarray(rigid[None], jnp.float32),
        has_pose=_flags(posed, views),
        metric_depth=jnp.full((1, views), checked.metric_depths),
        metric_poses=jnp.full((1, views), checked.metric_poses),
        origin=jnp.broadcast_to(jnp.asarray(origin, jnp.float32), (1, views, 3)),
    )


def padded_priors(priors: PriorArrays, views: int) -> PriorArrays:
    """The priors of one scene with unknown views behind it, up to so many views."""

    def pad(x: Array) -> Array:
        missing = views - x.shape[1]
        return jnp.pad(x, ((0, 0), (0, missing), *((0, 0),) * (x.ndim - 2))) if missing else x

    return jax.tree.map(pad, priors)


def abstract_priors(shape: tuple[int, ...], sharding: Sharding | None = None) -> Any:
    """Placeholders for the priors of images of `shape` (V, H, W, 3)."""
    views, height, width = shape[:3]

    def placeholder(x: Array) -> Any:
        return jax.ShapeDtypeStruct((1, views, *x.shape[2:]), x.dtype, sharding=sharding)

    one_view = prior_arrays(ViewPriors(), [PixelTransform.stretch((1, 1), (width, height))])
    return jax.tree.map(placeholder, one_view)


def reference_view(posed: Bool[Array, "B V"]) -> Int[Array, "B"]:
    """The first view of each scene with a pose; 0 where there is none."""
    return jnp.argmax(posed, axis=1).astype(jnp.int32)


def prior_world(
    found: Float[Array, "B V 4 4"], priors: PriorArrays, *, first_view_is_world: bool = True
) -> Float[Array, "B 4 4"]:
    """Where the model's world is in that of the known poses; the identity if none counts.

    Both are in metres: if the known translations may be in another unit, their world is scaled such
    that the known cameras are as far from the first known one, in the mean, as the model finds
    them.

    Args:
      found: world-from-camera poses of all views in the model's world.
      priors: with the known poses.
      first_view_is_world: the model's world is the first camera's frame, and without its pose none
        counts. Else the first camera with a pose comes to lie where that is.
    """
    known = priors.world_from_camera
    posed = priors.has_pose & priors.has_pose[:, :1] if first_view_is_world else priors.has_pose
    view = reference_view(posed)[:, None, None, None]
    known_first, found_first = (jnp.take_along_axis(x, view, axis=1)[:, 0] for x in (known, found))
    spread, found_spread = (
        jnp.sum(jnp.where(posed, jnp.linalg.norm(t - first[:, None, :3, 3], axis=-1), 0), axis=1)
        for t, first in ((known[..., :3, 3], known_first), (found[..., :3, 3], found_first))
    )
    metres = jnp.where(spread > 0, found_spread / jnp.maximum(spread, SMALLEST), 0)
    metres = jnp.where(priors.metric_poses[:, 0], 1, metres)
    place = (priors.origin[:, 0] + known_first[:, :3, 3]) * metres[:, None]
    world = known_first.at[:, :3, 3].set(place)
    if not first_view_is_world:
        world = jnp.matmul(world, invert_rigid(found_first), precision=jax.lax.Precision.HIGHEST)
    return jnp.where(jnp.any(posed, axis=1)[:, None, None], world, jnp.eye(4))


def _flags(known: Mapping[int, np.ndarray], views: int) -> Bool[Any, "1 V"]:
    return jnp.asarray([[view in known for view in range(views)]])


def _resized_depth(
    depth: Float[np.ndarray, "H W"], transform: PixelTransform, view: int
) -> Float[np.ndarray, "H2 W2"]:
    """Depth of the processed image's pixels: as upstream takes it, at one pixel in so many.

    Where it is sparse, as of a LiDAR's points, next to none would be left of it, so each known
    pixel counts where it lies.
    """
    known = points_if_sparse(depth)
    sparse = isinstance(known, SparseDepth)
    resized = known.processed(transform) if sparse else transform.nearest(known)
    if not resized.any():
        width, height = transform.size
        raise InputError(
            f"depths: view {view}: none of its {np.count_nonzero(depth)} pixels with a depth is "
            f"left at {width}x{height}, which shows a part of the photo; leave out the view's "
            "depth map"
        )
    return resized
