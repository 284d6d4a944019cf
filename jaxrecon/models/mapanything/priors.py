"""What is known of the views, as MapAnything's encoders want to see it."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import (
    multiply_quaternions,
    quaternion_from_rotation,
    unproject_depth,
)
from jaxrecon.geometry.transforms import invert_rigid, transform_points
from jaxrecon.images import PixelTransform
from jaxrecon.models.mapanything.resize import MAPANYTHING_RESIZE
from jaxrecon.nn.execution import ALONE, Collectives
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays
from jaxrecon.pytree import pytree_dataclass

SMALLEST = 1e-8


@pytree_dataclass
class Geometry:
    """Priors as the encoders see them; zero, or the identity, where nothing is known.

    Attributes:
      rays: unit vector of each pixel in its camera's frame.
      has_rays: where they are known.
      depth: `log(1 + d / mean)` of the distance `d` from the camera, with each view's own mean.
      depth_scale: `log(mean + 1e-8)`.
      has_depth, has_depth_scale: where they are known; the scale counts only if it is metric.
      rotations: quaternions of first-from-camera.
      translations: of first-from-camera, divided by their mean length over the scene.
      translation_scale: logarithm of that mean length plus 1e-8.
      has_pose, has_pose_scale: where they are known; the scale counts only if it is metric.
    """

    rays: Float[Array, "B V H W 3"]
    has_rays: Bool[Array, "B V"]
    depth: Float[Array, "B V H W 1"]
    depth_scale: Float[Array, "B V 1"]
    has_depth: Bool[Array, "B V"]
    has_depth_scale: Bool[Array, "B V"]
    rotations: Float[Array, "B V 4"]
    translations: Float[Array, "B V 3"]
    translation_scale: Float[Array, "B V 1"]
    has_pose: Bool[Array, "B V"]
    has_pose_scale: Bool[Array, "B V"]


def geometry_of(priors: PriorArrays, collectives: Collectives = ALONE) -> Geometry:
    """Priors as the encoders see them.

    Poses are relative to the first view's, and scaled by those of all views; where devices share
    the scene, they exchange them.

    Source: upstream `preprocess_input_views_for_inference` (`mapanything/utils/inference.py`) and
    `MapAnything._encode_and_fuse_*` (`mapanything/models/mapanything/model.py`).
    """
    has_rays = priors.has_intrinsics
    has_depth = priors.has_depth & has_rays
    views = has_rays.shape[1]
    given, poses = (
        collectives.all_gather(x, axis=1) for x in (priors.has_pose, priors.world_from_camera)
    )
    posed = given & given[:, :1]
    intrinsics = _known(has_rays, priors.intrinsics, jnp.eye(3))
    depth_z = _known(has_depth, priors.depth_z, 0)
    rays = unproject_depth(jnp.ones_like(depth_z), intrinsics)
    rays = rays / jnp.linalg.norm(rays, axis=-1, keepdims=True)
    depth, depth_scale = scaled_depth(distances(depth_z, intrinsics))
    rotations, translations = relative_poses(_known(posed, poses, jnp.eye(4)))
    translations, translation_scale = scaled_translations(_known(posed, translations, 0))
    has_pose, rotations, translations = (
        collectives.own_views(x, views) for x in (posed, rotations, translations)
    )
    return Geometry(
        rays=_known(has_rays, rays, 0),
        has_rays=has_rays,
        depth=depth[..., None],
        depth_scale=jnp.log(_known(has_depth, depth_scale[..., None], 0) + SMALLEST),
        has_depth=has_depth,
        has_depth_scale=has_depth & priors.metric_depth,
        rotations=_known(has_pose, rotations, jnp.array([0.0, 0.0, 0.0, 1.0])),
        translations=translations,
        translation_scale=jnp.broadcast_to(
            jnp.log(translation_scale + SMALLEST)[:, None, None], (*has_pose.shape, 1)
        ),
        has_pose=has_pose,
        has_pose_scale=has_pose & priors.metric_poses,
    )


def distances(
    depth_z: Float[Array, "*dims H W"], intrinsics: Float[Array, "*dims 3 3"]
) -> Float[Array, "*dims H W"]:
    """Distance of each pixel's point from the camera."""
    return jnp.linalg.norm(unproject_depth(depth_z, intrinsics), axis=-1)


def scaled_depth(
    distance: Float[Array, "*dims H W"],
) -> tuple[Float[Array, "*dims H W"], Float[Array, "*dims"]]:
    """`log(1 + d / mean)` of the distances of each view, and their mean where they are known."""
    count = jnp.sum(distance > 0, axis=(-2, -1)).astype(distance.dtype)
    mean = jnp.maximum(jnp.sum(distance, axis=(-2, -1)) / (count + SMALLEST), SMALLEST)
    return jnp.log1p(distance / mean[..., None, None]), mean


def relative_poses(
    world_from_camera: Float[Array, "B V 4 4"],
) -> tuple[Float[Array, "B V 4"], Float[Array, "B V 3"]]:
    """Quaternions and translations of first-from-camera.

    Each quaternion is the product of two whose real parts are not negative; its own may be.
    """
    first = world_from_camera[:, :1]
    quaternions = quaternion_from_rotation(world_from_camera[..., :3, :3])
    inverse = quaternions[:, :1] * jnp.array([-1, -1, -1, 1], jnp.float32)[None, None]
    # Differences first: the first view's own translation becomes an exact zero.
    shifts = world_from_camera[..., :3, 3] - first[..., :3, 3]
    turn = invert_rigid(first).at[..., :3, 3].set(0)
    return multiply_quaternions(inverse, quaternions), transform_points(turn, shifts)


def scaled_translations(
    translations: Float[Array, "B V 3"],
) -> tuple[Float[Array, "B V 3"], Float[Array, "B"]]:
    """Translations over their mean length, which leaves out those of length zero."""
    length = jnp.linalg.norm(translations, axis=-1)
    count = jnp.sum(length > 0, axis=-1).astype(length.dtype)
    mean = jnp.maximum(jnp.sum(length, axis=-1) / (count + SMALLEST), SMALLEST)
    return translations / mean[:, None, None], mean


def _known(known: Bool[Array, "B V"], values: Array, other: Array | int) -> Array:
    """The values where they are known, `other` elsewhere."""
    return jnp.where(known.reshape(*known.shape, *(1,) * (values.ndim - 2)), values, other)


def conditions_from(transforms: Sequence[PixelTransform], **known: Any) -> PriorArrays:
    """The former name of `prior_arrays`, of the fields of `ViewPriors` and for this model alone."""
    return prior_arrays(ViewPriors(**known), transforms, MAPANYTHING_RESIZE.resized_intrinsics)
