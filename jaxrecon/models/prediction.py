"""What every model returns."""

from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrecon.geometry import transform_points
from jaxrecon.nn.layers import HIGHEST
from jaxrecon.pytree import pytree_dataclass


@pytree_dataclass
class Prediction:
    """Geometry of `V` views of `B` scenes, in float32.

    Attributes:
      points_world: the point seen by each pixel, in the scene's world frame.
      points_camera: the same point in its own camera's frame (x right, y down, z forward).
      confidence: how far to trust each point. π³ and π³-X: a probability in [0, 1]. VGGT and
        MapAnything: above 1, without an upper bound.
      world_from_camera: rigid pose of each camera.
      intrinsics: of each camera, in pixels, if the model tells them; π³ and π³-X do not.
      confidence_logits: of a confidence that is a probability (π³, π³-X), or its logarithm above 1
        (MapAnything); training needs them, because a probability that is all but one or zero has
        no gradient.
      mask: pixels whose geometry is not ambiguous, if the model tells them; MapAnything does.
      mask_logits: above 0 where the mask is set; training needs them.
      metric_scale: metres a unit of the model, by which all lengths are multiplied already, if the
        model tells it; MapAnything and π³-X do.
      skipped: share of the key blocks that each head of each global layer skipped, if the
        attention tells it; block-sparse attention does.

    The unit of length is metres for MapAnything and π³-X; π³ and VGGT are free up to one scale
    factor for each scene.
    """

    points_world: Float[Array, "B V H W 3"]
    points_camera: Float[Array, "B V H W 3"]
    confidence: Float[Array, "B V H W"]
    world_from_camera: Float[Array, "B V 4 4"]
    intrinsics: Float[Array, "B V 3 3"] | None = None
    confidence_logits: Float[Array, "B V H W"] | None = None
    mask: Bool[Array, "B V H W"] | None = None
    mask_logits: Float[Array, "B V H W"] | None = None
    metric_scale: Float[Array, "B"] | None = None
    skipped: Float[Array, "B layers N"] | None = None

    def moved(self, world: Float[Array, "B 4 4"]) -> "Prediction":
        """The same geometry in another world; `world` is rigid, new from old coordinates."""
        moved = transform_points(world[:, None, None, None], self.points_world)
        poses = jnp.matmul(world[:, None], self.world_from_camera, precision=HIGHEST)
        return replace(self, points_world=moved, world_from_camera=poses)


@pytree_dataclass
class Tracks:
    """Where `Q` points of the first view are in each view, in float32.

    Attributes:
      positions: (x, y) in pixels of the image; in the first view the query points themselves.
      visibility: probability that the point is seen.
      confidence: probability that the position is right.
    """

    positions: Float[Array, "B V Q 2"]
    visibility: Float[Array, "B V Q"]
    confidence: Float[Array, "B V Q"]
