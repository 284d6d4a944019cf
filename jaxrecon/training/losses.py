"""The losses of π³ (arXiv 2507.13347, section 3.3), for scenes whose geometry is known exactly.

No view is the reference: points are compared in each camera's own frame, poses by every pair of
views, and one scale for each scene aligns the prediction with the truth.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import beside_depth_edges, invert_rigid, unproject_depth
from jaxrecon.models import Prediction
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.scenes import RenderedScenes
from jaxrecon.training.config import LossWeights
from pallas_kernels.point_map_loss import Planes, Sums, Tallies, cosine, point_map_loss

_ALIGN_POINTS = 6000
_SMALLEST_BASELINE = 0.1
_CLOSE = 0.02
_HIGHEST = jax.lax.Precision.HIGHEST


@pytree_dataclass
class Target:
    """The truth about `B` scenes, each scaled so that its points lie at a mean distance of one.

    `unit` is that distance: in metres, for rendered scenes.
    """

    points_camera: Float[Array, "B V H W 3"]
    mask: Bool[Array, "B V H W"]
    world_from_camera: Float[Array, "B V 4 4"]
    unit: Float[Array, " B"]


def target(scenes: RenderedScenes) -> Target:
    """Points, poses and mask of rendered scenes, in the unit of length that the loss uses."""
    depth, mask, pose = scenes.depth_z, scenes.mask, scenes.world_from_camera
    rays = unproject_depth(jnp.ones_like(depth), scenes.intrinsics)
    distance = depth * jnp.sqrt(jnp.sum(rays * rays, axis=-1))
    unit = jnp.maximum(_masked_mean(distance, mask, axes=(1, 2, 3)), 1e-6)
    return Target(
        points_camera=unproject_depth(depth / unit[:, None, None, None], scenes.intrinsics),
        mask=mask,
        world_from_camera=pose.at[..., :3, 3].divide(unit[:, None, None]),
        unit=unit,
    )


def loss(
    prediction: Prediction, truth: Target, weights: LossWeights
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The weighted sum of all terms, and each term and some metrics by name."""
    assert prediction.confidence_logits is not None
    scale = align(jax.lax.stop_gradient(prediction.points_camera), truth)
    points = scale[:, None, None, None, None] * prediction.points_camera
    maps, metrics = _point_map_terms(points, prediction.confidence_logits, truth)
    rotation, translation, angles = _pose_terms(prediction.world_from_camera, truth, scale)
    terms = {**maps, "rotation": rotation, "translation": translation}
    if weights.edges:
        terms["edges"] = _edge_error(points[..., 2], truth).mean()
    if prediction.mask_logits is not None:
        terms["mask"] = _cross_entropy(prediction.mask_logits, truth.mask).mean()
    if prediction.metric_scale is not None:
        terms["scale"] = _scale_error(prediction.metric_scale, scale, truth).mean()
    total = sum((getattr(weights, name) * term for name, term in terms.items()), jnp.zeros(()))
    return total, {"loss": total, **terms, **metrics, **angles}


def _point_map_terms(
    points: Float[Array, "B V H W 3"], logits: Float[Array, "B V H W"], truth: Target
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Terms and metrics, averaged over the scenes so that devices may share them in any way."""
    found = view_sums(points, logits, truth)
    sums, tallies = jax.tree.map(lambda x: x.sum(axis=1), found)

    def mean(total: Array, count: Array) -> Array:
        return (total / jnp.maximum(count, 1)).mean()

    terms = {
        "points": mean(sums.points, tallies.seen),
        "normals": mean(sums.normals, tallies.flat),
        "confidence": sums.confidence.sum() / logits.size,
    }
    metrics = {
        "abs_rel": mean(tallies.depth_error, tallies.seen),
        "delta125": mean(tallies.close, tallies.seen),
    }
    return terms, metrics


def view_sums(
    points: Float[Array, "B V H W 3"], logits: Float[Array, "B V H W"], truth: Target
) -> tuple[Sums, Tallies]:
    """What `point_map_loss` sums over the pixels of each view, (B, V)."""
    batch, images = logits.shape[:2], (-1, *logits.shape[2:])

    def planes(points: Array) -> Planes:
        return Planes(*(points[..., axis].reshape(images) for axis in range(3)))

    found = point_map_loss(
        planes(points),
        logits.reshape(images),
        planes(truth.points_camera),
        truth.mask.reshape(images),
    )
    return jax.tree.map(lambda x: x.reshape(batch), found)


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
    seen = truth.mask[chosen].astype(jnp.float32)
    weight = jnp.abs(guess) * (seen / _depth(truth)[chosen])[..., None]
    ratio = true / jnp.where(jnp.abs(guess) < 1e-6, 1e-6, guess)
    ratio, weight = (x.reshape(x.shape[0], -1) for x in (ratio, weight))
    ratio, weight = jax.lax.sort((ratio, weight), dimension=1, num_keys=1)
    below = jnp.cumsum(weight, axis=1) < 0.5 * jnp.sum(weight, axis=1, keepdims=True)
    middle = jnp.minimum(jnp.sum(below, axis=1, keepdims=True), ratio.shape[1] - 1)
    return jnp.clip(jnp.take_along_axis(ratio, middle, axis=1)[:, 0], 1e-2, 1e2)


def _edge_error(depth: Float[Array, "B V H W"], truth: Target) -> Float[Array, " B"]:
    """The mean relative error of the depths beside depth edges, 0 for a scene without any."""
    true = _depth(truth)
    beside = beside_depth_edges(true, truth.mask)
    return _masked_mean(jnp.abs(depth - true) / true, beside, axes=(1, 2, 3))


def _cross_entropy(
    logits: Float[Array, "*dims"], truth: Bool[Array, "*dims"]
) -> Float[Array, "*dims"]:
    return jax.nn.softplus(jnp.where(truth, -logits, logits))


def _scale_error(
    metric_scale: Float[Array, " B"], scale: Float[Array, " B"], truth: Target
) -> Float[Array, " B"]:
    """How far, in logarithms, lengths are from metres; only the metric scale itself learns from it.

    `scale` aligns lengths that have been multiplied by the metric scale already.
    """
    wanted = jax.lax.stop_gradient(metric_scale * scale * truth.unit)
    return jnp.abs(jnp.log(metric_scale) - jnp.log(wanted))


def _depth(truth: Target) -> Float[Array, "B V H W"]:
    return jnp.where(truth.mask, truth.points_camera[..., 2], 1.0)


def _masked_mean(values: Array, mask: Array, axes: tuple[int, ...] | None = None) -> Array:
    count = jnp.maximum(jnp.sum(mask, axis=axes), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, values, 0), axis=axes) / count


def _pose_terms(
    pose: Float[Array, "B V 4 4"], truth: Target, scale: Float[Array, " B"]
) -> tuple[Array, Array, dict[str, Array]]:
    """Rotation and translation terms over all ordered pairs of views, and the angles' metrics."""
    views = pose.shape[1]
    errors = pair_errors(pose, truth, scale)
    pairs = jnp.broadcast_to(~jnp.eye(views, dtype=bool), errors.rotation.shape)
    return (
        _masked_mean(errors.rotation, pairs),
        _masked_mean(errors.translation, pairs),
        {name: _masked_mean(x, pairs) for name, x in errors.metrics().items()},
    )


@pytree_dataclass
class PairErrors:
    """Of every ordered pair of views: what is to become small, and both relative translations.

    `rotation` is the chord of the angle, `translation` relative to the true baseline.
    """

    rotation: Float[Array, "B V V"]
    translation: Float[Array, "B V V"]
    guess: Float[Array, "B V V 3"]
    true: Float[Array, "B V V 3"]

    def metrics(self) -> dict[str, Float[Array, "B V V"]]:
        """Angles in degrees, and the area under the curve of those up to 30."""
        rotation = jnp.rad2deg(2 * jnp.arcsin(jnp.clip(self.rotation / 2, 0, 1)))
        along = cosine(*(Planes(*jnp.moveaxis(x, -1, 0)) for x in (self.guess, self.true)))
        direction = jnp.rad2deg(jnp.arccos(jnp.clip(along, -1, 1)))
        worst = jnp.maximum(rotation, direction)
        degrees = jnp.arange(1, 31).astype(jnp.float32)
        within = jnp.mean(worst[..., None] < degrees[None, None, None], axis=-1)
        return {"rotation_degrees": rotation, "direction_degrees": direction, "auc30": within}


def pair_errors(
    pose: Float[Array, "B V 4 4"], truth: Target, scale: Float[Array, " B"]
) -> PairErrors:
    """How far the relative poses are from the true ones, once scaled."""
    aligned = pose.at[..., :3, 3].multiply(scale[:, None, None])
    guess, true = relative_poses(aligned), relative_poses(truth.world_from_camera)
    turned = jnp.sum((guess[..., :3, :3] - true[..., :3, :3]) ** 2, axis=(-1, -2)) / 2
    rotation = jnp.sqrt(turned + 1e-6)
    moved = jnp.sum((guess[..., :3, 3] - true[..., :3, 3]) ** 2, axis=-1)
    baseline = jnp.sqrt(jnp.sum(true[..., :3, 3] ** 2, axis=-1) + 1e-12)
    translation = (jnp.sqrt(moved + _CLOSE**2) - _CLOSE) / (baseline + _SMALLEST_BASELINE)
    return PairErrors(rotation, translation, guess[..., :3, 3], true[..., :3, 3])


def relative_poses(pose: Float[Array, "B V 4 4"]) -> Float[Array, "B V V 4 4"]:
    """`[b, i, j]` maps camera j's coordinates to camera i's."""
    return jnp.einsum("biac,bjcd->bijad", invert_rigid(pose), pose, precision=_HIGHEST)
