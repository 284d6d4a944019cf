"""Depth and normal discontinuities, where point maps smear between foreground and background."""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxrecon.choices import EDGE_RTOL
from jaxrecon.geometry.normals import normals_from_points

_EDGE, _BESIDE = 0.1, 3
"""A depth edge: neighbouring pixels whose depths differ by this share of the nearer one; and how
many pixels from it are beside it."""

type Threshold = float | Float[Array | np.ndarray, ""]


def depth_edges(
    depth: Float[Array, "*dims H W"],
    *,
    atol: Threshold | None = None,
    rtol: Threshold | None = None,
    window: int = 3,
    mask: Bool[Array, "*dims H W"] | None = None,
) -> Bool[Array, "*dims H W"]:
    """Pixels whose window spans a depth range above `atol`, or above `rtol` times their depth.

    Only pixels in `mask` count towards the range; the image's border adds nothing.

    Source: upstream `depth_edge` (`pi3/utils/geometry.py`).
    """
    nearest, farthest = _depth_range(depth, window, mask)
    span = farthest - nearest
    edges = jnp.zeros(depth.shape, bool)
    if atol is not None:
        edges |= span > atol
    if rtol is not None:
        edges |= jnp.nan_to_num(span / depth, nan=0.0) > rtol
    return edges


def normal_edges(
    normals: Float[Array, "*dims H W 3"],
    *,
    degrees: Threshold = 5.0,
    window: int = 3,
    mask: Bool[Array, "*dims H W"] | None = None,
) -> Bool[Array, "*dims H W"]:
    """Pixels near which two neighbouring normals differ by more than `degrees`.

    The largest angle between a pixel's normal and those of its window (the image's edge repeats),
    then the maximum of that angle over the window again.

    Source: upstream `normal_edge` (`pi3/utils/geometry.py`).
    """
    valid = jnp.isfinite(normals).all(axis=-1)
    if mask is not None:
        valid &= mask
    length = jnp.linalg.norm(normals, axis=-1, keepdims=True)
    unit = jnp.nan_to_num(normals / jnp.maximum(length, 1e-12))
    reach, (height, width) = window // 2, valid.shape[-2:]
    lead = [(0, 0)] * (valid.ndim - 2)
    pad = [*lead, (reach, reach), (reach, reach)]
    padded = jnp.pad(unit, [*pad, (0, 0)], mode="edge")
    padded_valid = jnp.pad(valid, pad, mode="edge")
    least = jnp.ones(valid.shape, normals.dtype)
    for row, column in np.ndindex(window, window):
        near = (..., slice(row, row + height), slice(column, column + width))
        cosine = jnp.sum(unit * padded[(*near, slice(None))], axis=-1)
        least = jnp.minimum(least, jnp.where(padded_valid[near], cosine, 1))
    # The largest angle has the least cosine: one arccos a pixel in place of one for each neighbour.
    angle = jnp.arccos(jnp.maximum(least, -1))
    return (_window_max(angle, window) > jnp.deg2rad(degrees)) & valid


def depth_normal_edges(
    points_camera: Float[Array, "*dims H W 3"],
    *,
    rtol: Threshold = EDGE_RTOL,
    degrees: Threshold = 5.0,
    mask: Bool[Array, "*dims H W"] | None = None,
    strict: bool = False,
) -> Bool[Array, "*dims H W"]:
    """Pixels that are both a relative depth edge and a normal edge.

    A slanted plane far away spans much depth in a window but has one normal: it is kept. If
    `strict`, a pixel without a normal counts as a normal edge.

    Source: upstream `depth_normal_edge` (`pi3/utils/geometry.py`); strict as in
    `postprocess_model_outputs_for_inference` (`mapanything/utils/inference.py`).
    """
    depth = points_camera[..., 2]
    valid = jnp.isfinite(points_camera).all(axis=-1) & (depth > 0)
    if mask is not None:
        valid &= mask
    jumps = depth_edges(depth, rtol=rtol, mask=valid) & valid
    normals, has_normal = normals_from_points(points_camera, valid)
    bends = normal_edges(normals, degrees=degrees, mask=has_normal)
    return jumps & (bends | ~has_normal if strict else bends)


def beside_depth_edges(
    depth: Float[Array | np.ndarray, "*dims H W"], mask: Bool[Array | np.ndarray, "*dims H W"]
) -> Bool[Array, "*dims H W"]:
    """Pixels of the mask within 3 pixels, along rows and columns, of an edge of the depth under it.

    An edge is a pixel of which a known neighbour's depth differs by more than a tenth of the nearer
    one's. Where depth is known at few pixels, which have no neighbours, there is none.
    """
    known = jnp.asarray(mask)
    nearest, farthest = _depth_range(jnp.asarray(depth), 3, known)
    edge = known & (farthest > (1 + _EDGE) * nearest)
    return known & (_window_max(edge.astype(jnp.float32), 2 * _BESIDE + 1) > 0)


def _depth_range(depth: Array, window: int, mask: Array | None) -> tuple[Array, Array]:
    """The nearest and the farthest depth of each pixel's window, of those in the mask."""
    masked = depth if mask is None else jnp.where(mask, depth, -jnp.inf)
    negated = -depth if mask is None else jnp.where(mask, -depth, -jnp.inf)
    return -_window_max(negated, window), _window_max(masked, window)


def _window_max(values: Array, window: int) -> Array:
    reach, lead = window // 2, (1,) * (values.ndim - 2)
    padding = [(0, 0)] * len(lead) + [(reach, reach)] * 2
    return lax.reduce_window(
        values, -jnp.inf, lax.max, (*lead, window, window), (1,) * values.ndim, padding
    )
