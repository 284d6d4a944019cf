"""How far the depth maps of several views agree."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrecon.geometry.frustum import frustum_corners, frustums_overlap
from jaxrecon.geometry.intrinsics import unproject_depth
from jaxrecon.geometry.transforms import invert_rigid, transform_points

_NEAREST = 0.04
_WITHOUT_DEPTH = 0.1, 100.0

type _Target = tuple[Array, Array, Array, Array | None, Array]


def depth_consistency(
    depth_z: Float[Array, "V H W"],
    mask: Bool[Array, "V H W"],
    world_from_camera: Float[Array, "V 4 4"],
    intrinsics: Float[Array, "V 3 3"],
    *,
    atol: float = 0.02,
    rtol: float = 0.02,
    views: Int[Array | np.ndarray, ""] | None = None,
    shown: Bool[Array, "V H W"] | None = None,
) -> Float[Array, "V H W"]:
    """Share of the other views that see a pixel's point where their own depth map has it.

    Only views count into whose image the point falls and whose frustum, between the smallest and
    the largest depth of the view, meets this view's. A view that meets no other has 1 everywhere,
    a pixel of such views that no other sees has 0. For a batch use `jax.vmap`.

    Args:
      depth_z: depth along the optical axis, not positive where there is none.
      mask: which pixels are asked about.
      world_from_camera: poses in the unit of the depth.
      intrinsics: in pixels of the depth maps.
      atol, rtol: views agree if their depths differ by less than `atol + rtol * depth`.
      views: so many first views count; all if not given.
      shown: which pixels show a photo; all if not given. Of the others a view's depth is unknown,
        and what falls there it does not see.

    Source: upstream `compute_multiview_depth_confidence` (`mapanything/utils`).
    """
    if shown is not None:
        depth_z = jnp.where(shown, depth_z, -1.0)
    points = transform_points(
        world_from_camera[:, None, None], unproject_depth(depth_z, intrinsics)
    )
    valid, others = mask & (depth_z > 0), _others(depth_z, world_from_camera, intrinsics)
    if views is not None:
        others &= jnp.arange(len(others))[None] < views
    targets = invert_rigid(world_from_camera), intrinsics, depth_z, shown

    def one_view(source: tuple[Array, Array, Array]) -> Float[Array, "H W"]:
        points, valid, others = source

        def count(totals: Array, target: _Target) -> tuple[Array, None]:
            pose, matrix, depth, shown, meets = target
            seen, gap, z = _seen(points, pose, matrix, depth, shown)
            seen &= valid & meets
            agrees = gap < atol + rtol * z
            found = jnp.stack([seen & agrees, seen & ~agrees])
            return totals + found.astype(totals.dtype), None

        start = jnp.zeros((2, *valid.shape))
        (agreeing, other), _ = jax.lax.scan(count, start, (*targets, others))
        share = agreeing / (agreeing + other + 1e-10)
        return jnp.where(jnp.any(others), share, 1.0)

    return jax.lax.map(one_view, (points, valid, others))


def _others(
    depth_z: Float[Array, "V H W"],
    world_from_camera: Float[Array, "V 4 4"],
    intrinsics: Float[Array, "V 3 3"],
) -> Bool[Array, "V V"]:
    """Which other views each view's frustum meets."""
    known = depth_z > 0
    any_known = jnp.any(known, axis=(1, 2))
    near = jnp.min(jnp.where(known, depth_z, jnp.inf), axis=(1, 2))
    far = jnp.max(jnp.where(known, depth_z, -jnp.inf), axis=(1, 2))
    near, far = (
        jnp.where(any_known, value, other)
        for value, other in zip((near, far), _WITHOUT_DEPTH, strict=True)
    )
    corners = frustum_corners(intrinsics, world_from_camera, near, far)
    return frustums_overlap(corners) & ~jnp.eye(len(depth_z), dtype=bool)


def _seen(
    points: Float[Array, "H W 3"],
    camera_from_world: Float[Array, "4 4"],
    intrinsics: Float[Array, "3 3"],
    depth_z: Float[Array, "H W"],
    shown: Bool[Array, "H W"] | None,
) -> tuple[Bool[Array, "H W"], Float[Array, "H W"], Float[Array, "H W"]]:
    """Whether points fall into a view's image, how far its depth is off there, and their depth."""
    camera = transform_points(camera_from_world, points)
    z, (height, width) = camera[..., 2], depth_z.shape
    safe = jnp.maximum(z, 1e-6)
    x = (intrinsics[0, 0] * camera[..., 0] + intrinsics[0, 2] * z) / safe
    y = (intrinsics[1, 1] * camera[..., 1] + intrinsics[1, 2] * z) / safe
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (z > _NEAREST)
    column = jnp.round(jnp.clip(x, 0, width - 1)).astype(jnp.int32)
    row = jnp.round(jnp.clip(y, 0, height - 1)).astype(jnp.int32)
    if shown is not None:
        seen &= shown[row, column]
    return seen, jnp.abs(z - depth_z[row, column]), z
