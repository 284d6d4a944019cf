"""The losses of π³ (arXiv 2507.13347, section 3.3), for scenes whose geometry is known exactly.

No view is the reference: points are compared in each camera's own frame, poses by every pair of
views, and one scale for each scene aligns the prediction with the truth.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import invert_rigid, unproject_depth
from jaxrecon.models import Prediction
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes import RenderedScenes
from jaxrecon.training.config import LossWeights

CONFIDENT_BELOW = 0.05
"""Relative error under which a point counts as right, for the confidence."""

_ALIGN_POINTS = 6000
_SMALLEST_BASELINE = 0.1
_CLOSE = 0.02
_HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class Target:
    """The truth about `B` scenes, each scaled so that its points lie at a mean distance of one."""

    points_camera: Float[Array, "B V H W 3"]
    mask: Bool[Array, "B V H W"]
    world_from_camera: Float[Array, "B V 4 4"]


def target(scenes: RenderedScenes) -> Target:
    """Points, poses and mask of rendered scenes, in the unit of length that the loss uses."""
    points = unproject_depth(scenes.depth_z, scenes.intrinsics)
    distance = jnp.sqrt(jnp.sum(points * points, axis=-1))
    unit = jnp.maximum(_masked_mean(distance, scenes.mask, axes=(1, 2, 3)), 1e-6)
    pose = scenes.world_from_camera
    return Target(
        points_camera=points / unit[:, None, None, None, None],
        mask=scenes.mask,
        world_from_camera=pose.at[..., :3, 3].divide(unit[:, None, None]),
    )


def loss(
    prediction: Prediction, truth: Target, weights: LossWeights
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum of all terms, and each term and some metrics by name."""
    assert prediction.confidence_logits is not None
    scale = align(jax.lax.stop_gradient(prediction.points_camera), truth)
    points = scale[:, None, None, None, None] * prediction.points_camera
    error = jnp.sum(jnp.abs(points - truth.points_camera), axis=-1) / _depth(truth)
    rotation, translation, angles = _pose_terms(prediction.world_from_camera, truth, scale)
    terms = {
        "points": _masked_mean(error, truth.mask, axes=(1, 2, 3)).mean(),
        "normals": _normal_term(points, truth),
        "confidence": _confidence_term(prediction.confidence_logits, error, truth.mask),
        "rotation": rotation,
        "translation": translation,
    }
    total = sum((getattr(weights, name) * term for name, term in terms.items()), jnp.zeros(()))
    metrics = _depth_metrics(points[..., 2], truth) | angles
    return total, {"loss": total, **terms, **metrics}


def align(points: Float[Array, "B V H W 3"], truth: Target) -> Float[Array, " B"]:
    """The scale `s` of each scene that minimises `sum |s points - truth| / truth_z`.

    It is the median of `truth / points` weighted by `|points| / truth_z` (MoGe, arXiv 2410.19115,
    section 3.2, with a scale alone), over a regular selection of the pixels.
    """
    views, height, width = points.shape[1:4]
    stride = max(1, round((views * height * width / _ALIGN_POINTS) ** 0.5))
    chosen = (slice(None), slice(None), slice(stride // 2, None, stride))
    chosen += (slice(stride // 2, None, stride),)
    guess, true = points[chosen], truth.points_camera[chosen]
    weight = jnp.abs(guess) * (truth.mask[chosen] / _depth(truth)[chosen])[..., None]
    ratio = true / jnp.where(jnp.abs(guess) < 1e-6, 1e-6, guess)
    ratio, weight = (x.reshape(x.shape[0], -1) for x in (ratio, weight))
    ratio, weight = jax.lax.sort((ratio, weight), dimension=1, num_keys=1)
    below = jnp.cumsum(weight, axis=1) < 0.5 * jnp.sum(weight, axis=1, keepdims=True)
    middle = jnp.minimum(jnp.sum(below, axis=1, keepdims=True), ratio.shape[1] - 1)
    return jnp.clip(jnp.take_along_axis(ratio, middle, axis=1)[:, 0], 1e-2, 1e2)


def _depth(truth: Target) -> Float[Array, "B V H W"]:
    return jnp.where(truth.mask, truth.points_camera[..., 2], 1.0)


def _masked_mean(values: Array, mask: Array, axes: tuple[int, ...] | None = None) -> Array:
    count = jnp.maximum(jnp.sum(mask, axis=axes), 1)
    return jnp.sum(jnp.where(mask, values, 0), axis=axes) / count


def _normal_term(points: Float[Array, "B V H W 3"], truth: Target) -> Float[Array, ""]:
    """One minus the cosine between the normals of predicted and true points, edges left out.

    Averaged over the scenes, so that it does not depend on which device has which.
    """
    depth = _depth(truth)
    low = jnp.minimum(jnp.minimum(depth[..., 1:, :-1], depth[..., :-1, 1:]), depth[..., :-1, :-1])
    high = jnp.maximum(jnp.maximum(depth[..., 1:, :-1], depth[..., :-1, 1:]), depth[..., :-1, :-1])
    mask = truth.mask
    smooth = mask[..., 1:, :-1] & mask[..., :-1, 1:] & mask[..., :-1, :-1] & (high < 1.1 * low)
    cosine = _cosine(_cross(points), _cross(truth.points_camera))
    return _masked_mean(1 - cosine, smooth, axes=(1, 2, 3)).mean()


def _cross(points: Array) -> tuple[Array, Array, Array]:
    """Normal of the triangle (pixel, right neighbour, lower neighbour), of any length."""
    x, y, z = (points[..., i] for i in range(3))
    (xr, yr, zr), (xd, yd, zd) = (
        [u[..., :-1, 1:] - u[..., :-1, :-1] for u in (x, y, z)],
        [u[..., 1:, :-1] - u[..., :-1, :-1] for u in (x, y, z)],
    )
    return yr * zd - zr * yd, zr * xd - xr * zd, xr * yd - yr * xd


def _cosine(a: tuple[Array, ...], b: tuple[Array, ...]) -> Array:
    product = sum(u * v for u, v in zip(a, b, strict=True))
    lengths = sum(u * u for u in a), sum(v * v for v in b)
    return product * jax.lax.rsqrt(lengths[0] * lengths[1] + 1e-24)


def _confidence_term(logits: Array, error: Array, mask: Array) -> Float[Array, ""]:
    """Binary cross-entropy: a point is right if its error is small; sky has no right point."""
    right = mask & (error < CONFIDENT_BELOW)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, right))


def _pose_terms(
    pose: Float[Array, "B V 4 4"], truth: Target, scale: Float[Array, " B"]
) -> tuple[Array, Array, dict[str, Array]]:
    """Rotation and translation terms over all ordered pairs of views, and the angles' metrics."""
    aligned = pose.at[..., :3, 3].multiply(scale[:, None, None])
    guess, true = relative_poses(aligned), relative_poses(truth.world_from_camera)
    views = pose.shape[1]
    pairs = jnp.broadcast_to(~jnp.eye(views, dtype=bool), guess.shape[:3])
    turned = jnp.sum((guess[..., :3, :3] - true[..., :3, :3]) ** 2, axis=(-1, -2)) / 2
    rotation = jnp.sqrt(turned + 1e-6)
    moved = jnp.sum((guess[..., :3, 3] - true[..., :3, 3]) ** 2, axis=-1)
    baseline = jnp.sqrt(jnp.sum(true[..., :3, 3] ** 2, axis=-1) + 1e-12)
    translation = (jnp.sqrt(moved + _CLOSE**2) - _CLOSE) / (baseline + _SMALLEST_BASELINE)
    return (
        _masked_mean(rotation, pairs),
        _masked_mean(translation, pairs),
        _pose_metrics(rotation, guess[..., :3, 3], true[..., :3, 3], pairs),
    )


def relative_poses(pose: Float[Array, "B V 4 4"]) -> Float[Array, "B V V 4 4"]:
    """`[b, i, j]` maps camera j's coordinates to camera i's."""
    return jnp.einsum("biac,bjcd->bijad", invert_rigid(pose), pose, precision=_HIGHEST)


def _pose_metrics(chord: Array, guess: Array, true: Array, pairs: Array) -> dict[str, Array]:
    rotation = jnp.rad2deg(2 * jnp.arcsin(jnp.clip(chord / 2, 0, 1)))
    cosine = _cosine(tuple(jnp.moveaxis(guess, -1, 0)), tuple(jnp.moveaxis(true, -1, 0)))
    direction = jnp.rad2deg(jnp.arccos(jnp.clip(cosine, -1, 1)))
    worst = jnp.maximum(rotation, direction)
    within = jnp.mean(worst[..., None] < jnp.arange(1, 31), axis=-1)
    return {
        "rotation_degrees": _masked_mean(rotation, pairs),
        "direction_degrees": _masked_mean(direction, pairs),
        "auc30": _masked_mean(within, pairs),
    }


def _depth_metrics(depth: Array, truth: Target) -> dict[str, Array]:
    """Averaged over the scenes, as `jaxrecon.evaluation` does."""
    ratio, each = depth / _depth(truth), (1, 2, 3)
    close = jnp.maximum(ratio, 1 / jnp.maximum(ratio, 1e-6)) < 1.25
    return {
        "abs_rel": _masked_mean(jnp.abs(ratio - 1), truth.mask, each).mean(),
        "delta125": _masked_mean(close, truth.mask, each).mean(),
    }
