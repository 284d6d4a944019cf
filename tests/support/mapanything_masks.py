"""Which of MapAnything's points upstream keeps."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import depth_consistency, depth_edges, normal_edges, normals_from_points
from jaxrecon.models.mapanything.output import MapAnythingOutput, intrinsics_from_rays

DEPTH_RTOL = 0.03
NORMAL_DEGREES = 5.0


def points_to_keep(
    output: MapAnythingOutput,
    *,
    edges: bool = True,
    depth_rtol: float = DEPTH_RTOL,
    normal_degrees: float = NORMAL_DEGREES,
    confidence: Float[Array, "B V H W"] | None = None,
    percentile: float | None = None,
) -> Bool[Array, "B V H W"]:
    """Pixels whose geometry is not ambiguous, confident enough and on no edge.

    Args:
      output: what the model told.
      edges: leaves out pixels that are an edge of the depth, and an edge of the normals or without
        a normal.
      depth_rtol: relative depth range of a 3x3 window from which on it is an edge.
      normal_degrees: angle between neighbouring normals from which on it is an edge.
      confidence: in place of the model's, such as `multiview_confidence`.
      percentile: leaves out, in each view, the pixels whose confidence does not exceed it; in
        [0, 100]. All are kept if not given.

    Source: upstream `postprocess_model_outputs_for_inference` (`mapanything/utils/inference.py`).
    There rounding hides some angles (the arc cosine of slightly more than 1), and the window that
    tells which neighbours have a normal is transposed: with both, which the tests have, every pixel
    of the golden masks is upstream's; without them a few pixels in ten thousand differ.
    """
    keep = output.unambiguous
    if percentile is not None:
        confidence = output.confidence if confidence is None else confidence
        least = jnp.quantile(confidence, percentile / 100, axis=(2, 3), keepdims=True)
        keep &= confidence > least
    if edges:
        jumps = depth_edges(output.points_camera[..., 2], rtol=depth_rtol, mask=keep)
        normals, has_normal = normals_from_points(output.points_world, keep)
        bends = normal_edges(normals, degrees=normal_degrees, mask=has_normal) | ~has_normal
        keep &= ~(jumps & bends)
    return keep


def multiview_confidence(
    output: MapAnythingOutput, *, atol: float = 0.02, rtol: float = 0.02
) -> Float[Array, "B V H W"]:
    """How far the views agree on each point, in [0, 1]; see `geometry.depth_consistency`.

    The tolerances are in metres and relative to the depth.
    """

    def one_scene(*scene: Array) -> Float[Array, "V H W"]:
        return depth_consistency(*scene, atol=atol, rtol=rtol)

    return jax.vmap(one_scene)(
        output.points_camera[..., 2],
        output.unambiguous,
        output.world_from_camera,
        intrinsics_from_rays(output.ray_directions),
    )
