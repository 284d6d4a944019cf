"""What is known of the views beforehand, and how MapAnything's encoders want to see it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import (
    multiply_quaternions,
    quaternion_from_rotation,
    unproject_depth,
)
from jaxrecon.geometry.transforms import invert_rigid, transform_points
from jaxrecon.nn.execution import ALONE, Collectives
from jaxrecon.pytree import pytree_dataclass

SMALLEST = 1e-8


@pytree_dataclass
class Conditions:
    """Known calibration, depth and poses of `V` views of `B` scenes.

    Each comes with the views for which it is known; elsewhere its numbers are not used. The arrays
    have one size whatever is known, so that one compiled program serves every combination.

    Attributes:
      intrinsics: in pixels of the processed images; the centre of the top-left pixel is (0, 0).
      has_intrinsics: where they are known.
      depth_z: depth along the optical axis of each pixel, 0 where it is unknown.
      has_depth: where there is a depth map; such a view needs intrinsics.
      world_from_camera: rigid poses in any world frame whose axes are the given world's.
      has_pose: where they are known; none counts in a scene whose first view has none.
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


@pytree_dataclass
class Geometry:
    """Conditions as the encoders see them; zero, or the identity, where nothing is known.

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


def geometry_of(conditions: Conditions, collectives: Collectives = ALONE) -> Geometry:
    """Conditions as the encoders see them.

    Poses are relative to the first view's, and scaled by those of all views; where devices share
    the scene, they exchange them.

    Source: upstream `preprocess_input_views_for_inference` (`mapanything/utils/inference.py`) and
    `MapAnything._encode_and_fuse_*` (`mapanything/models/mapanything/model.py`).
    """
    has_rays = conditions.has_intrinsics
    has_depth = conditions.has_depth & has_rays
    views = has_rays.shape[1]
    given, poses = (
        collectives.all_gather(x, axis=1)
        for x in (conditions.has_pose, conditions.world_from_camera)
    )
    posed = given & given[:, :1]
    intrinsics = _known(has_rays, conditions.intrinsics, jnp.eye(3))
    depth_z = _known(has_depth, conditions.depth_z, 0)
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
        has_depth_scale=has_depth & conditions.metric_depth,
        rotations=_known(has_pose, rotations, jnp.array([0.0, 0.0, 0.0, 1.0])),
        translations=translations,
        translation_scale=jnp.broadcast_to(
            jnp.log(translation_scale + SMALLEST)[:, None, None], (*has_pose.shape, 1)
        ),
        has_pose=has_pose,
        has_pose_scale=has_pose & conditions.metric_poses,
    )


def given_world(found: Float[Array, "B V 4 4"], conditions: Conditions) -> Float[Array, "B 4 4"]:
    """Where the model's world is in that of the given poses; the identity if none counts.

    The model's world is the first camera's frame. Both are in metres: if the given translations
    are not known to be, their world is scaled such that the known cameras are as far from the first
    one, in the mean, as the model finds them.

    Args:
      found: world-from-camera poses of all views in the model's world.
      conditions: the given poses.
    """
    given = conditions.world_from_camera
    posed = conditions.has_pose & conditions.has_pose[:, :1]
    spread, found_spread = (
        jnp.sum(jnp.where(posed, jnp.linalg.norm(t - t[:, :1], axis=-1), 0), axis=1)
        for t in (given[..., :3, 3], found[..., :3, 3])
    )
    metres = jnp.where(spread > 0, found_spread / jnp.maximum(spread, SMALLEST), 0)
    metres = jnp.where(conditions.metric_poses[:, 0], 1, metres)
    place = (conditions.origin[:, 0] + given[:, 0, :3, 3]) * metres[:, None]
    first = given[:, 0].at[:, :3, 3].set(place)
    return jnp.where(posed[:, :1, None], first, jnp.eye(4))


def distances(
    depth_z: Float[Array, "*dims H W"], intrinsics: Float[Array, "*dims 3 3"]
) -> Float[Array, "*dims H W"]:
    """Distance of each pixel's point from the camera."""
    return jnp.linalg.norm(unproject_depth(depth_z, intrinsics), axis=-1)


def scaled_depth(
    distance: Float[Array, "*dims H W"],
) -> tuple[Float[Array, "*dims H W"], Float[Array, "*dims"]]:
    """`log(1 + d / mean)` of the distances of each view, and their mean where they are known."""
    count = jnp.sum(distance > 0, axis=(-2, -1))
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
    inverse = quaternions[:, :1] * jnp.array([-1, -1, -1, 1])
    # Differences first: the first view's own translation becomes an exact zero.
    shifts = world_from_camera[..., :3, 3] - first[..., :3, 3]
    turn = invert_rigid(first).at[..., :3, 3].set(0)
    return multiply_quaternions(inverse, quaternions), transform_points(turn, shifts)


def scaled_translations(
    translations: Float[Array, "B V 3"],
) -> tuple[Float[Array, "B V 3"], Float[Array, "B"]]:
    """Translations over their mean length, which leaves out those of length zero."""
    length = jnp.linalg.norm(translations, axis=-1)
    count = jnp.sum(length > 0, axis=-1)
    mean = jnp.maximum(jnp.sum(length, axis=-1) / (count + SMALLEST), SMALLEST)
    return translations / mean[:, None, None], mean


def _known(known: Bool[Array, "B V"], values: Array, other: Array | int) -> Array:
    """The values where they are known, `other` elsewhere."""
    return jnp.where(known.reshape(*known.shape, *(1,) * (values.ndim - 2)), values, other)
