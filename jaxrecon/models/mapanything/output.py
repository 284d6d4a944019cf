"""What MapAnything's heads tell, and how their numbers become geometry."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import (
    intrinsics_from_points,
    rigid,
    rotation_from_quaternion,
    transform_points,
)
from jaxrecon.models.prediction import Prediction
from jaxrecon.nn.exact import Apply, plainly
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import linear
from jaxrecon.nn.pose import PoseRegressor
from jaxrecon.pytree import pytree_dataclass

SMALLEST = 1e-8
NUMBERS = 6
"""Numbers of the dense head for each pixel: ray (3), depth, confidence, mask."""
SAMPLES = 50
"""Rows, and columns, at which rays are looked at for the intrinsics: at least so many."""


@pytree_dataclass
class MapAnythingOutput:
    """What MapAnything tells of `V` views of `B` scenes, in float32 and metres.

    The world frame is near the first view's camera frame.

    Attributes:
      points_world: the point seen by each pixel.
      points_camera: the same in its camera's frame.
      ray_directions: unit vector of each pixel in its camera's frame.
      depth_along_ray: distance of each point from its camera.
      translations: of world-from-camera.
      quaternions: of world-from-camera, x, y, z, w, of length one.
      metric_scale: metres a unit of the model; all lengths are multiplied by it already.
      confidence: of the points; above 1.
      confidence_logits: its logarithm above 1.
      mask_logits: above 0 where the pixel's geometry is not ambiguous.
    """

    points_world: Float[Array, "B V H W 3"]
    points_camera: Float[Array, "B V H W 3"]
    ray_directions: Float[Array, "B V H W 3"]
    depth_along_ray: Float[Array, "B V H W"]
    translations: Float[Array, "B V 3"]
    quaternions: Float[Array, "B V 4"]
    metric_scale: Float[Array, "B"]
    confidence: Float[Array, "B V H W"]
    confidence_logits: Float[Array, "B V H W"]
    mask_logits: Float[Array, "B V H W"]

    @property
    def world_from_camera(self) -> Float[Array, "B V 4 4"]:
        """Pose of each camera."""
        return rigid(rotation_from_quaternion(self.quaternions), self.translations)

    @property
    def unambiguous(self) -> Bool[Array, "B V H W"]:
        """Where the geometry is not ambiguous, as the sky's is."""
        return self.mask_logits > 0

    def prediction(self) -> Prediction:
        """What all families return; the intrinsics are fitted to the rays."""
        return Prediction(
            points_world=self.points_world,
            points_camera=self.points_camera,
            confidence=self.confidence,
            world_from_camera=self.world_from_camera,
            intrinsics=intrinsics_from_rays(self.ray_directions),
            confidence_logits=self.confidence_logits,
            mask=self.unambiguous,
            mask_logits=self.mask_logits,
        )


class PoseHead(PoseRegressor):
    """Patch features of a view to its translation and a quaternion of any length; float32."""

    def __init__(self, width_in: int, width: int, *, rngs: nnx.Rngs) -> None:
        super().__init__(width, 4, rngs=rngs)
        self.project = linear(width_in, width, dtype=jnp.float32, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "G P D"],
        *,
        apply: Apply = plainly,
        execution: ExecutionConfig = INFERENCE,
    ) -> Float[Array, "G 7"]:
        """Translation and quaternion (x, y, z, w); for `apply` see `regress`."""
        parts = self.regress(apply(self.project, x), apply=apply, execution=execution)
        return jnp.concatenate(parts, axis=-1)


class ScaleHead(nnx.Module):
    """The scale token to the logarithm of the metric scale; float32."""

    def __init__(self, width_in: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.project = linear(width_in, width, dtype=jnp.float32, rngs=rngs)
        self.fc1 = linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.fc2 = linear(width, width, dtype=jnp.float32, rngs=rngs)
        self.out = linear(width, 1, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B"]:
        hidden = jax.nn.relu(self.fc1(self.project(x)))
        return self.out(jax.nn.relu(self.fc2(hidden)))[..., 0]


def compose(
    dense: Float[Array, "B V H W 6"],
    pose: Float[Array, "B V 7"],
    metric: Float[Array, "B"],
) -> MapAnythingOutput:
    """Geometry from the numbers of the heads.

    Source: upstream `MapAnything.forward` and the adaptors of `uniception/models/prediction_heads`.
    """
    rays, depth = _unit(dense[..., :3]), jnp.exp(dense[..., 3])
    quaternions = _unit(pose[..., 3:])
    points = rays * depth[..., None]
    rotation = rotation_from_quaternion(quaternions)
    placed = transform_points(rigid(rotation, pose[..., :3])[:, :, None, None], points)
    each_view, each_pixel = metric[:, None, None], metric[:, None, None, None]
    return MapAnythingOutput(
        points_world=placed * each_pixel[..., None],
        points_camera=points * each_pixel[..., None],
        ray_directions=rays,
        depth_along_ray=depth * each_pixel,
        translations=pose[..., :3] * each_view,
        quaternions=quaternions,
        metric_scale=metric,
        confidence=1 + jnp.exp(dense[..., 4]),
        confidence_logits=dense[..., 4],
        mask_logits=dense[..., 5],
    )


def metres(scale: Float[Array, "B"]) -> Float[Array, "B"]:
    """Metres a unit of the model, from the scale head's number."""
    return jnp.maximum(jnp.exp(scale), SMALLEST)


def intrinsics_from_rays(rays: Float[Array, "B V H W 3"]) -> Float[Array, "B V 3 3"]:
    """Fits a pinhole camera to rays on a grid of pixels; see `geometry.intrinsics_from_points`.

    Source: upstream `recover_pinhole_intrinsics_from_ray_directions` (`mapanything/utils`).
    """
    down, right = (max(1, side // SAMPLES) for side in rays.shape[2:4])
    sampled = rays[:, :, ::down, ::right]
    fitted = intrinsics_from_points(sampled.reshape(-1, *sampled.shape[2:]))
    pixels = fitted * jnp.array([right, down, 1], jnp.float32)[None, :, None]
    return pixels.reshape(*rays.shape[:2], 3, 3)


def _unit(vectors: Array) -> Array:
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.maximum(length, SMALLEST)
