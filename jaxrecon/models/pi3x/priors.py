"""What is known of the views, as π³-X's branch for it wants to see it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.geometry import unproject_depth
from jaxrecon.geometry.transforms import invert_rigid
from jaxrecon.nn.execution import ALONE, Collectives
from jaxrecon.nn.layers import HIGHEST
from jaxrecon.priors import PriorArrays, reference_view
from jaxrecon.pytree import pytree_dataclass

SMALLEST = 1e-8
RAY_SMALLEST = 1e-6
STATIC = 2e-2
"""Cameras all nearer to the reference view than this have stayed where they are."""


@pytree_dataclass
class KnownGeometry:
    """Priors as the network sees them.

    Attributes:
      slopes: (x / z, y / z) of the ray of each pixel in its camera's frame.
      has_rays: where they are known.
      depth: depth over the scene's mean depth, and 1 where there is one, else 0.
      has_depth: where it is known.
      world_from_camera: poses relative to the reference view's, in a unit of the scene's own; the
        identity where none counts.
      has_pose: where one counts.
      order: numbers of all views of the scene, those with a pose first.
      posed_views: how many views of the scene have one; 1 if none has.
    """

    slopes: Float[Array, "B V H W 2"]
    has_rays: Bool[Array, "B V"]
    depth: Float[Array, "B V H W 2"]
    has_depth: Bool[Array, "B V"]
    world_from_camera: Float[Array, "B V 4 4"]
    has_pose: Bool[Array, "B V"]
    order: Int[Array, "B all"]
    posed_views: Int[Array, "B"]


def known_geometry(
    priors: PriorArrays,
    rays: Float[Array, "B V H W 3"] | None = None,
    *,
    collectives: Collectives = ALONE,
) -> KnownGeometry:
    """Priors as the network sees them.

    Depth is divided by the mean depth of the scene, and so are translations, which are relative to
    the first view with a pose. Where no depth is used, or depth and poses are not in one unit,
    translations are divided by their mean length, unless the cameras stand still. So no unit is
    left, and known metres do not decide the scale of what is predicted. One pose alone tells
    nothing: it does not count. Where devices share the scene, they exchange poses and mean depths.

    Depth above 0 counts in the mean even where `has_depth` says that the network is not to see the
    map, as upstream.

    Args:
      priors: what is known.
      rays: of each pixel in its camera's frame, of any length, in place of the intrinsics wherever
        `priors.has_intrinsics`.

    Source: upstream `Pi3X.encode` (`pi3/models/pi3x.py`).
    """
    views = priors.has_pose.shape[1]
    depth = jnp.where(priors.depth_z > 0, priors.depth_z, 0)
    sums, counts = jnp.sum(depth, axis=(2, 3)), jnp.sum(depth > 0, axis=(2, 3), dtype=jnp.float32)
    sums, counts, has_depth, given, poses = (
        collectives.all_gather(x, axis=1)
        for x in (sums, counts, priors.has_depth, priors.has_pose, priors.world_from_camera)
    )
    total, count = jnp.sum(sums, axis=1), jnp.sum(counts, axis=1)
    mean = jnp.where(count > 0, total / jnp.maximum(count, 1), 1)
    posed = given & (jnp.sum(given, axis=1, keepdims=True) > 1)
    poses = relative_poses(poses, posed)
    one_unit = jnp.any(has_depth, axis=1) & (priors.metric_depth[:, 0] == priors.metric_poses[:, 0])
    length = jnp.where(one_unit, mean, spread(poses[..., :3, 3], posed))
    poses = poses.at[..., :3, 3].divide(length[:, None, None])
    normalised = depth / (mean + SMALLEST)[:, None, None, None]
    return KnownGeometry(
        slopes=_known(priors.has_intrinsics, slopes_of(priors) if rays is None else slopes(rays)),
        has_rays=priors.has_intrinsics,
        depth=jnp.stack([normalised, (normalised > 0).astype(jnp.float32)], axis=-1),
        has_depth=priors.has_depth,
        world_from_camera=collectives.own_views(poses, views),
        has_pose=collectives.own_views(posed, views),
        order=jnp.argsort(~posed, axis=1, stable=True),
        posed_views=jnp.maximum(jnp.sum(posed, axis=1, dtype=jnp.int32), 1),
    )


def slopes(rays: Float[Array, "*dims 3"]) -> Float[Array, "*dims 2"]:
    """(x / z, y / z) of rays, as upstream divides."""
    return rays[..., :2] / (rays[..., 2:] + RAY_SMALLEST)


def slopes_of(priors: PriorArrays) -> Float[Array, "B V H W 2"]:
    """(x / z, y / z) of each pixel's ray, from the intrinsics.

    Upstream counts pixels from the corner of the image, here the first pixel's centre is (0, 0):
    camera matrices differ by half a pixel, rays do not.
    """
    intrinsics = jnp.where(
        priors.has_intrinsics[..., None, None], priors.intrinsics, jnp.eye(3)[None, None]
    )
    return unproject_depth(jnp.ones_like(priors.depth_z), intrinsics)[..., :2]


def relative_poses(
    world_from_camera: Float[Array, "B V 4 4"], posed: Bool[Array, "B V"]
) -> Float[Array, "B V 4 4"]:
    """Poses in the frame of the first posed view; the identity where there is none."""
    poses = jnp.where(posed[..., None, None], world_from_camera, jnp.eye(4)[None, None])
    first = jnp.take_along_axis(poses, reference_view(posed)[:, None, None, None], axis=1)
    relative = jnp.matmul(invert_rigid(first), poses, precision=HIGHEST)
    return jnp.where(posed[..., None, None], relative, jnp.eye(4)[None, None])


def spread(translations: Float[Array, "B V 3"], posed: Bool[Array, "B V"]) -> Float[Array, "B"]:
    """Mean distance of the posed views from the reference view, itself left out; or 1.

    It is 1 where the cameras stand still.
    """
    distance = jnp.where(posed, jnp.linalg.norm(translations, axis=-1), 0)
    others = jnp.maximum(jnp.sum(posed, axis=1, dtype=jnp.float32) - 1, 1)
    mean = jnp.sum(distance, axis=1) / others + SMALLEST
    return jnp.where(jnp.max(distance, axis=1) < STATIC, 1, mean)


def _known(known: Bool[Array, "B V"], values: Float[Array, "B V H W C"]) -> Array:
    """The values where they are known, 0 elsewhere."""
    return jnp.where(known[:, :, None, None, None], values, 0)
