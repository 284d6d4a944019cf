"""The losses of π³ for scenes of which only a part is known: what is unknown carries none.

Terms and metrics are means over the scenes that have them. They are returned as two numbers each,
the sum of the values and how many there are, both over the number of scenes: their means over
devices and parts of a batch give the same quotient in whatever way a batch is shared.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import unproject_depth
from jaxrecon.models import Prediction
from jaxrecon.training.config import LossWeights
from jaxrecon.training.losses import Target, align, pair_errors, relative_poses, view_sums
from jaxrecon.training.own.known import KnownScenes

type Known = tuple[Float[Array, " B"], Bool[Array, " B"]]
"""A value of each scene, and of which scenes there is one."""

_ACROSS = np.array([True, True, False]).reshape(1, 1, 1, 1, 3)
"""The coordinates that a ray gives, of points (B, V, H, W, 3)."""

_SILENT = -1e4
"""Logits whose cross-entropy with "wrong" is zero."""


def known_target(scenes: KnownScenes) -> Target:
    """Points, poses and mask, each scene scaled to a mean distance of one.

    The distance is that of the points; where no depth is known, that of the cameras from one
    another. A view of unknown intrinsics has points whose depth alone means something.
    """
    depth, mask = scenes.depth_z, scenes.depth_z > 0
    rays = unproject_depth(jnp.ones_like(depth), scenes.intrinsics)
    longer = jnp.where(scenes.has_rays[..., None, None], jnp.linalg.norm(rays, axis=-1), 1.0)
    distance, seen = _mean(depth * longer, mask)
    baseline, posed = _mean(_baselines(scenes.world_from_camera), _pairs(scenes))
    unit = jnp.where(seen, distance, jnp.where(posed & (baseline > 1e-6), baseline, 1.0))
    return Target(
        points_camera=rays * (depth / unit[:, None, None, None])[..., None],
        mask=mask,
        world_from_camera=scenes.world_from_camera.at[..., :3, 3].divide(unit[:, None, None]),
        unit=unit,
    )


def known_loss(
    prediction: Prediction, scenes: KnownScenes, weights: LossWeights
) -> tuple[Float[Array, ""], dict[str, Float[Array, "2"]]]:
    """The weighted sum of all terms, and each term and some metrics by name; see `shown`."""
    terms, metrics = known_errors(prediction, scenes)
    parts = {name: _pair(known) for name, known in terms.items()}
    total = sum((getattr(weights, name) * part[0] for name, part in parts.items()), jnp.zeros(()))
    measured = {name: _pair(known) for name, known in metrics.items()}
    return total, {"loss": jnp.stack([total, jnp.ones(())]), **parts, **measured}


def shown(pairs: dict[str, Float[Array, "2"]]) -> dict[str, Float[Array, ""]]:
    """The means over the scenes that have a value; NaN where none has."""
    return {
        name: jnp.where(pair[1] > 0, pair[0] / jnp.maximum(pair[1], 1e-9), jnp.nan)
        for name, pair in pairs.items()
    }


def known_errors(
    prediction: Prediction, scenes: KnownScenes
) -> tuple[dict[str, Known], dict[str, Known]]:
    """Terms of the loss and metrics, of each scene that has them."""
    truth, logits = known_target(scenes), prediction.confidence_logits
    assert logits is not None
    scale = _scale(jax.lax.stop_gradient(prediction), scenes, truth)
    points = scale[:, None, None, None, None] * prediction.points_camera
    maps, metrics = _map_errors(points, logits, scenes, truth)
    errors, pairs = pair_errors(prediction.world_from_camera, truth, scale), _pairs(scenes)
    terms = maps | {
        "rotation": _mean(errors.rotation, pairs),
        "translation": _mean(errors.translation, pairs),
        "rays": _ray_error(prediction.points_camera, scenes, truth),
    }
    angles = {name: _mean(values, pairs) for name, values in errors.metrics().items()}
    return terms, metrics | angles


def _scale(prediction: Prediction, scenes: KnownScenes, truth: Target) -> Float[Array, " B"]:
    """What brings the prediction to the truth: by points, else by baselines, else nothing."""
    points = jnp.where(_free(scenes), 0.0, prediction.points_camera)
    by_points = align(points, truth)
    pairs = _pairs(scenes)
    guess, true = (
        _mean(_baselines(pose), pairs)[0]
        for pose in (prediction.world_from_camera, truth.world_from_camera)
    )
    by_baselines = jnp.where(true > 1e-6, true / jnp.maximum(guess, 1e-6), 1.0)
    seen = truth.mask.any(axis=(1, 2, 3))
    return jnp.where(seen, by_points, jnp.clip(by_baselines, 1e-2, 1e2))


def _free(scenes: KnownScenes) -> Bool[Array, "B V 1 1 3"]:
    """The coordinates of points of which nothing is known: across the image, without a ray."""
    return _ACROSS & ~scenes.has_rays[:, :, None, None, None]


def _map_errors(
    points: Float[Array, "B V H W 3"],
    logits: Float[Array, "B V H W"],
    scenes: KnownScenes,
    truth: Target,
) -> tuple[dict[str, Known], dict[str, Known]]:
    """Without rays a point counts by its depth alone: across the image it is its own truth."""
    across = _free(scenes)
    own = jax.lax.stop_gradient(points)
    points = jnp.where(across, own, points)
    true = replace(truth, points_camera=jnp.where(across, own, truth.points_camera))
    sums, tallies = view_sums(points, jnp.where(truth.mask, logits, _SILENT), true)

    def over(total: Array, count: Array) -> Known:
        total, count = total.sum(axis=1), count.sum(axis=1).astype(jnp.float32)
        return total / jnp.maximum(count, 1), count > 0

    def where_surfaces(values: Array) -> Array:
        return jnp.where(scenes.has_rays & scenes.is_dense, values, 0)

    terms = {
        "points": over(sums.points, tallies.seen),
        "normals": over(where_surfaces(sums.normals), where_surfaces(tallies.flat)),
        "confidence": over(sums.confidence, tallies.seen),
    }
    metrics = {
        "abs_rel": over(tallies.depth_error, tallies.seen),
        "delta125": over(tallies.close, tallies.seen),
    }
    return terms, metrics


def _ray_error(points: Float[Array, "B V H W 3"], scenes: KnownScenes, truth: Target) -> Known:
    """How far pixels of unknown depth lie beside their rays, in units of their depth."""
    rays = unproject_depth(jnp.ones_like(scenes.depth_z), scenes.intrinsics)
    across = points[..., :2] / jnp.maximum(points[..., 2:], 1e-6)
    beside = jnp.sum(jnp.abs(across - rays[..., :2]), axis=-1)
    return _mean(beside, scenes.has_rays[..., None, None] & ~truth.mask)


def _pairs(scenes: KnownScenes) -> Bool[Array, "B V V"]:
    """Ordered pairs of two views whose poses are known."""
    known = scenes.has_pose
    return known[:, :, None] & known[:, None] & ~jnp.eye(known.shape[1], dtype=bool)[None]


def _baselines(pose: Float[Array, "B V 4 4"]) -> Float[Array, "B V V"]:
    return jnp.linalg.norm(relative_poses(pose)[..., :3, 3], axis=-1)


def _mean(values: Array, mask: Array) -> Known:
    """The mean of each scene over all but its own axis."""
    axes = tuple(range(1, values.ndim))
    count = jnp.sum(mask, axis=axes).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, values, 0), axis=axes) / jnp.maximum(count, 1), count > 0


def _pair(known: Known) -> Float[Array, "2"]:
    values, there = known
    return jnp.stack([jnp.where(there, values, 0).mean(), there.astype(jnp.float32).mean()])
