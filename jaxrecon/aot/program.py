"""The program in the form in which it is kept: plain mappings of arrays in and out."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, UInt8

from jaxrecon import checkpoint
from jaxrecon.aot.record import STORED_NAMES
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline import ProgramKey, RuntimeInputs
from jaxrecon.runtime.placement import ONE_DEVICE, Placement
from jaxrecon.runtime.program import scene_program


def flat_program(
    attention: AttentionFn,
    key: ProgramKey,
    model: Model,
    weights: Mapping[str, Array],
    pixels: UInt8[Array, "1 V H W 3"],
    stored: Mapping[str, Array],
    *,
    placement: Placement = ONE_DEVICE,
) -> dict[str, Array]:
    """`scene_program` without classes of this package among its arguments and results.

    Args:
      attention, key: as there.
      model: how the weights belong together; its own leaves are not looked at.
      weights: by their paths in a checkpoint.
      pixels: the images, padding views last.
      stored: the inputs, under the names of `STORED_NAMES`; those that the key leaves out are not
        looked at.
      placement: where the work is done, and how.

    Returns:
      The fields of `Geometry` that the model tells.
    """
    filled = checkpoint.unflatten(model, weights)
    inputs = RuntimeInputs(**{name: stored[STORED_NAMES[name]] for name in key.inputs})
    geometry = scene_program(attention, key, filled, pixels, inputs, None, placement=placement)
    return present_fields(geometry)


def present_fields(values: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not None."""
    return {name: value for name, value in vars(values).items() if value is not None}


def stored_inputs(inputs: RuntimeInputs) -> dict[str, Any]:
    """Inputs as stored programs take them: all of `STORED_NAMES`.

    No point's confidence is in the least share of 0, and no depth jump is above infinity.
    """
    unused = {"confidence_quantile": np.float32(0), "edge_rtol": np.float32(np.inf)}
    found = {name: unused[name] for name in unused} | present_fields(inputs)
    return {stored: np.asarray(found[name]) for name, stored in STORED_NAMES.items()}


def abstract_arguments(
    weights: Mapping[str, Any], views: int, size: tuple[int, int]
) -> tuple[Any, ...]:
    """Shapes and dtypes of what `flat_program` takes beside the model.

    Args:
      weights: arrays, or their shapes and dtypes.
      views: the most views.
      size: width and height of the processed images, in pixels.
    """
    every = ProgramKey(inputs=frozenset(STORED_NAMES)).abstract_inputs(views)
    pixels = jax.ShapeDtypeStruct((1, views, size[1], size[0], 3), np.uint8)
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in weights.items()}
    stored = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in stored_inputs(every).items()
    }
    return shapes, pixels, stored


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
