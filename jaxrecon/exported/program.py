"""The program in the form in which it is kept: plain mappings of arrays in and out."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Array, UInt8

from jaxrecon import checkpoint
from jaxrecon.models import Model
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline import Options, Thresholds
from jaxrecon.pipeline.program import scene_program


def flat_program(
    attention: AttentionFn,
    options: Options,
    model: Model,
    weights: Mapping[str, Array],
    pixels: UInt8[Array, "1 V H W 3"],
    limits: Mapping[str, Array],
) -> dict[str, Array]:
    """`scene_program` without classes of this package among its arguments and results.

    Args:
      attention, options: as there.
      model: how the weights belong together; its own leaves are not looked at.
      weights: by their paths in a checkpoint.
      pixels: the images, padding views last.
      limits: the fields of `Thresholds`.

    Returns:
      The fields of `Geometry` that the model tells.
    """
    filled = checkpoint.unflatten(model, weights)
    geometry = scene_program(attention, options, filled, pixels, Thresholds(**limits), None)
    return told_fields(geometry)


def told_fields(values: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not None."""
    return {name: value for name, value in vars(values).items() if value is not None}
