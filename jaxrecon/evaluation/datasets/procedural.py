"""Scenes rendered on the spot from test seeds, which training never sees."""

from collections.abc import Iterator

import jax
import numpy as np

from jaxrecon.evaluation.datasets.ground_truth import GroundTruth

TOGETHER = 8
"""So many scenes are rendered together at most."""


def procedural_scenes(
    *, scenes: int, views: int, size: int, seed: int = 0
) -> Iterator[GroundTruth]:
    """Square renderings of scenes 0, 1, ... of the test stream of a seed, in metres.

    Images are rounded to 8 bits, as if they had been stored. The scenes depend on the seed and the
    number of views only. They are rendered a few at a time.

    Args:
      scenes, views: how many.
      size: side of the images in pixels.
      seed: of the stream.

    Raises:
      InputError: a number is out of range.
    """
    from jaxrecon.scenes import render_scenes, scene_key

    key = scene_key("test", seed)
    together = min(TOGETHER, scenes)
    for first in range(0, scenes, together):
        batch = jax.device_get(
            render_scenes(key, scenes=together, views=views, height=size, width=size, first=first)
        )
        for place in range(min(together, scenes - first)):
            yield GroundTruth(
                name=f"procedural-{seed}-{first + place:04d}",
                images=np.round(255 * np.clip(batch.images[place], 0, 1)).astype(np.uint8),
                world_from_camera=batch.world_from_camera[place],
                intrinsics=batch.intrinsics[place],
                depth_z=np.where(batch.mask[place], batch.depth_z[place], 0).astype(np.float32),
            )
