"""What every model returns."""

from jaxtyping import Array, Float

from jaxrecon.pytree import pytree_dataclass


@pytree_dataclass
class Prediction:
    """Geometry of `V` views of `B` scenes, in float32.

    Attributes:
      points_world: the point seen by each pixel, in the scene's world frame.
      points_camera: the same point in its own camera's frame (x right, y down, z forward).
      confidence: how far to trust each point. π³: a probability in [0, 1]. VGGT: above 1, without
        an upper bound.
      world_from_camera: rigid pose of each camera.
      intrinsics: of each camera, in pixels, if the model tells them; π³ does not.
      confidence_logits: of a confidence that is a probability; training needs them, because a
        probability that is all but one or zero has no gradient.

    The unit of length is the model's own: π³ and VGGT are free up to one scale factor for each
    scene.
    """

    points_world: Float[Array, "B V H W 3"]
    points_camera: Float[Array, "B V H W 3"]
    confidence: Float[Array, "B V H W"]
    world_from_camera: Float[Array, "B V 4 4"]
    intrinsics: Float[Array, "B V 3 3"] | None = None
    confidence_logits: Float[Array, "B V H W"] | None = None
