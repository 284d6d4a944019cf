"""What the renderer returns."""

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.pytree import pytree_dataclass


@pytree_dataclass
class RenderedScenes:
    """`V` views of each of `B` scenes with the truth about them.

    `images` are RGB in [0, 1], encoded for display. `depth_z` is in metres along the optical axis
    at each pixel's centre, and 0 where `mask` is false: sky, or ground beyond reach.
    `world_from_camera` is in metres, and the world's z axis points up. `intrinsics` are in pixels.
    """

    images: Float[Array, "B V H W 3"]
    depth_z: Float[Array, "B V H W"]
    mask: Bool[Array, "B V H W"]
    world_from_camera: Float[Array, "B V 4 4"]
    intrinsics: Float[Array, "B V 3 3"]


@pytree_dataclass
class RenderedScene:
    """`V` views of one scene; fields as in `RenderedScenes`."""

    images: Float[Array | np.ndarray, "V H W 3"]
    depth_z: Float[Array | np.ndarray, "V H W"]
    mask: Bool[Array | np.ndarray, "V H W"]
    world_from_camera: Float[Array | np.ndarray, "V 4 4"]
    intrinsics: Float[Array | np.ndarray, "V 3 3"]
