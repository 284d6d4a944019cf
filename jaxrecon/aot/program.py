"""The program in the form in which it is kept: plain mappings of arrays in and out."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from jaxrecon import checkpoint
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline import Options, Thresholds, thresholds
from jaxrecon.runtime.placement import ONE_DEVICE, Placement
from jaxrecon.runtime.program import scene_program


def flat_program(
    attention: AttentionFn,
    options: Options,
    model: Model,
    weights: Mapping[str, Array],
    pixels: UInt8[Array, "1 V H W 3"],
    limits: Mapping[str, Array],
    *,
    placement: Placement = ONE_DEVICE,
) -> dict[str, Array]:
    """`scene_program` without classes of this package among its arguments and results.

    Args:
      attention, options: as there.
      model: how the weights belong together; its own leaves are not looked at.
      weights: by their paths in a checkpoint.
      pixels: the images, padding views last.
      limits: the fields of `Thresholds`.
      placement: where the work is done, and how.

    Returns:
      The fields of `Geometry` that the model tells.
    """
    filled = checkpoint.unflatten(model, weights)
    numbers = Thresholds(**limits)
    geometry = scene_program(attention, options, filled, pixels, numbers, None, placement=placement)
    return told_fields(geometry)


def told_fields(values: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not None."""
    return {name: value for name, value in vars(values).items() if value is not None}


def abstract_arguments(
    weights: Mapping[str, Any], views: int, size: tuple[int, int]
) -> tuple[Any, ...]:
    """Shapes and dtypes of what `flat_program` takes beside the model.

    Args:
      weights: arrays, or their shapes and dtypes.
      views: the most views.
      size: width and height of the processed images, in pixels.
    """
    limits = replace(
        thresholds(0.0, 0.0, 0.0),
        frames=np.zeros((views, 4), np.int32),
        views=np.asarray(views, np.int32),
    )
    pixels = jax.ShapeDtypeStruct((1, views, size[1], size[0], 3), np.uint8)
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in weights.items()}
    told = told_fields(limits)
    return (
        shapes,
        pixels,
        {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in told.items()},
    )


def result_shapes(
    views: int, size: tuple[int, int]
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Shapes of the fields of `Geometry` that programs tell, and names of those that some do."""
    image = (views, size[1], size[0])
    needed = {
        "points_world": (*image, 3),
        "points_camera": (*image, 3),
        "confidence": image,
        "mask": image,
        "world_from_camera": (views, 4, 4),
        "intrinsics": (views, 3, 3),
    }
    return needed, ("metric_scale", "skipped")
