"""Pinhole intrinsics from points, and points from intrinsics."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

type Count = int | Int[Array | np.ndarray, ""]


def intrinsics_from_points(
    points_camera: Float[Array, "V H W 3"],
    *,
    sharing: Literal["per_view", "shared"] = "per_view",
    principal_point: Literal["free", "centre"] = "free",
    views: Count | None = None,
    inside: Bool[Array, "V H W"] | None = None,
) -> Float[Array, "V 3 3"]:
    """Fits `u = fx x/|z| + cx` and `v = fy y/|z| + cy` by least squares over all pixels.

    Args:
      points_camera: the point (or ray) of each pixel in its camera's frame, of any length.
      sharing: one camera a view, or one for all views (then the same matrix V times).
      principal_point: fitted, or held at the image's centre ((W - 1) / 2, (H - 1) / 2).
      views: so many first views count towards a shared camera; all if not given.
      inside: which pixels count; all if not given, and all of a view of which none does.

    Returns:
      Intrinsics in pixels; the centre of the top-left pixel is (0, 0).

    Source: upstream `recover_intrinsic_from_rays_d` (`pi3/utils/geometry.py`).
    """
    total, height, width, _ = points_camera.shape
    slope = points_camera[..., :2] / (jnp.abs(points_camera[..., 2:]) + 1e-10)
    axes = (1, 2) if sharing == "per_view" else (0, 1, 2)
    counts = None if inside is None else inside | ~jnp.any(inside, axis=(1, 2), keepdims=True)
    if sharing == "shared" and views is not None:
        among = (jnp.arange(total) < views)[:, None, None]
        counts = among if counts is None else among & counts
    column, row = jnp.arange(width, dtype=slope.dtype), jnp.arange(height, dtype=slope.dtype)
    fits = [
        _fit_line(slope[..., 0], column, (width - 1) / 2, axes, principal_point, counts),
        _fit_line(slope[..., 1], row[:, None], (height - 1) / 2, axes, principal_point, counts),
    ]
    (fx, cx), (fy, cy) = (tuple(jnp.broadcast_to(p, (total,)) for p in fit) for fit in fits)
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    rows = [[fx, zero, cx], [zero, fy, cy], [zero, zero, one]]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def unproject_depth(
    depth_z: Float[Array, "*dims H W"], intrinsics: Float[Array, "*dims 3 3"]
) -> Float[Array, "*dims H W 3"]:
    """The point of each pixel in its camera's frame; the intrinsics have no skew.

    Args:
      depth_z: depth along the optical axis.
      intrinsics: in pixels; the centre of the top-left pixel is (0, 0).

    Source: upstream `depth_to_cam_coords_points` (`vggt/utils/geometry.py`).
    """
    height, width = depth_z.shape[-2:]
    column, row = jnp.arange(width, dtype=depth_z.dtype), jnp.arange(height, dtype=depth_z.dtype)
    column, row = (lax.broadcast_to_rank(x, depth_z.ndim) for x in (column, row[:, None]))
    k = intrinsics[..., None, None, :, :]
    x = (column - k[..., 0, 2]) / k[..., 0, 0]
    y = (row - k[..., 1, 2]) / k[..., 1, 1]
    return jnp.stack([x * depth_z, y * depth_z, depth_z], axis=-1)


def _fit_line(
    slope: Float[Array, "V H W"],
    pixel: Float[Array, "..."],
    centre: float,
    axes: tuple[int, ...],
    principal_point: str,
    counts: Bool[Array, "V #H #W"] | None,
) -> tuple[Array, Array]:
    """Focal length and principal point of `pixel = focal * slope + principal`."""
    mean = jnp.mean(slope, axis=axes, keepdims=True, where=counts)
    if principal_point == "centre":
        mean = jnp.zeros_like(mean)
    s = slope - mean
    off = lax.broadcast_to_rank(pixel - centre, s.ndim)
    focal = jnp.sum(s * off, axis=axes, where=counts) / jnp.sum(s * s, axis=axes, where=counts)
    principal = centre - focal * mean.reshape(focal.shape)
    if counts is not None and principal_point == "free":  # which need not lie around the centre
        off = jnp.broadcast_to(off, slope.shape)
        principal += jnp.mean(off, axis=axes, where=counts).reshape(focal.shape)
    return focal, principal
