"""Scenes of which only a part may be known, as the steps take them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt8

from jaxrecon.pytree import pytree_dataclass
from jaxrecon.training.config import Bucket


@pytree_dataclass
class KnownScenes:
    """`V` views of each of `B` scenes and what is known about them.

    Attributes:
      images: RGB as they are stored.
      gain: factors of each channel, by which images are made brighter or tinted.
      depth_z: along the optical axis, in the unit of the poses; 0 where it is unknown.
      is_dense: where depth is that of surfaces. Sparse depth is that of points, and pixels beside
        one another say nothing of normals.
      world_from_camera: rigid poses; the identity where they are unknown.
      has_pose: where they are known.
      intrinsics: in pixels of the images; the identity where they are unknown.
      has_rays: where they are known.
    """

    images: UInt8[Any, "B V H W 3"]
    gain: Float[Any, "B V 3"]
    depth_z: Float[Any, "B V H W"]
    is_dense: Bool[Any, "B V"]
    world_from_camera: Float[Any, "B V 4 4"]
    has_pose: Bool[Any, "B V"]
    intrinsics: Float[Any, "B V 3 3"]
    has_rays: Bool[Any, "B V"]


def developed(scenes: KnownScenes) -> Float[Array, "B V H W 3"]:
    """The images in [0, 1], made brighter or darker and tinted by their gain."""
    gain = scenes.gain[:, :, None, None]
    return jnp.clip(scenes.images.astype(jnp.float32) / 255 * gain, 0, 1)


def abstract_known(bucket: Bucket, sharding: Any = None) -> KnownScenes:
    """The shapes of a batch."""
    batch, size = (bucket.scenes, bucket.views), (bucket.height, bucket.width)

    def shape(rest: tuple[int, ...], dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((*batch, *rest), dtype, sharding=sharding)

    return KnownScenes(
        images=shape((*size, 3), jnp.uint8),
        gain=shape((3,)),
        depth_z=shape(size),
        is_dense=shape((), jnp.bool_),
        world_from_camera=shape((4, 4)),
        has_pose=shape((), jnp.bool_),
        intrinsics=shape((3, 3)),
        has_rays=shape((), jnp.bool_),
    )
