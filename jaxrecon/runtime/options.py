"""What is compiled into a program, and what it takes from call to call."""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Array, Int

from jaxrecon.deprecation import renamed_fields
from jaxrecon.pytree import pytree_dataclass
from jaxrecon.runtime.cameras import PER_VIEW, CameraConfig
from jaxrecon.runtime.defaults import MODEL_DEFAULTS, PointsChoice
from jaxrecon.runtime.masks import MaskConfig, MaskInputs

PADDING = ("valid_region", "num_valid_views")
"""The inputs that tell a program of padding views."""


@renamed_fields(frames="valid_region", views="num_valid_views")
@pytree_dataclass
class RuntimeInputs(MaskInputs):
    """Numbers that can change from call to call without compiling again.

    Which of them are None is compiled into the program; see `ProgramKey`. Those of the mask are
    told at `MaskConfig`.

    Attributes:
      valid_region: left, top, right and bottom of the photo in each processed image, in whole
        pixels (the last two exclusive), if there are margins around it; all 0 for a view that is
        padding.
      num_valid_views: how many of the views are no padding, if some may be.
    """

    valid_region: Int[Array | np.ndarray, "V 4"] | None = None
    num_valid_views: Int[Array | np.ndarray, ""] | None = None

    @property
    def given(self) -> frozenset[str]:
        """The names of those that are not None."""
        names = (field.name for field in fields(self))  # pyright: ignore[reportArgumentType]
        return frozenset(name for name in names if getattr(self, name) is not None)


@dataclass(frozen=True)
class ProgramKey:
    """What is compiled into a program, beside its shapes and its attention.

    Attributes:
      camera: how cameras are fitted.
      points: which of the model's kinds of points, if it has several.
      priors: whether it takes what is known of the views beforehand.
      maps: whether it returns the feature maps for tracks, too.
      multiview: whether the confidence is how far the views agree.
      strict_edges: see `ModelDefaults`.
      inputs: the fields of `RuntimeInputs` that it takes; the others are None.
    """

    camera: CameraConfig = PER_VIEW
    points: PointsChoice | None = None
    priors: bool = False
    maps: bool = False
    multiview: bool = False
    strict_edges: bool = False
    inputs: frozenset[str] = frozenset({"min_confidence", "edge_rtol"})

    def taking(self, *names: str) -> "ProgramKey":
        """The key of the same program with further inputs."""
        return replace(self, inputs=self.inputs.union(names))

    def abstract_inputs(self, views: int) -> RuntimeInputs:
        """Inputs of the kind that a program for so many views takes; their numbers are zeros."""
        whole = {"valid_region": (views, 4), "num_valid_views": ()}
        zeros = {
            name: np.zeros(whole[name], np.int32) if name in whole else np.zeros((), np.float32)
            for name in self.inputs
        }
        return RuntimeInputs(**zeros)


def runtime_inputs(
    min_confidence: float,
    confidence_quantile: float,
    edge_rtol: float | None,
    **others: Any,
) -> RuntimeInputs:
    """The numbers of a mask as a program takes them; see `MaskConfig`.

    Raises:
      InputError: one of them is out of range.
    """
    config = MaskConfig(min_confidence, confidence_quantile, edge_rtol=edge_rtol, **others)
    return RuntimeInputs(**vars(config.inputs(MODEL_DEFAULTS)))
