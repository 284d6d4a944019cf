"""How cameras are fitted to what a model predicts."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Array, Float

from jaxrecon.geometry import intrinsics_from_points
from jaxrecon.models import Prediction
from jaxrecon.runtime.defaults import check_choice

type FittedIntrinsics = Literal["per_view", "shared"]
type PrincipalPoint = Literal["free", "centre"]


@dataclass(frozen=True)
class CameraConfig:
    """How cameras are fitted; a part of the compiled program.

    Attributes:
      intrinsics: for each view ("per_view"), or one camera shared by all views ("shared").
      principal_point: fitted ("free"), or held at the image's centre ("centre").

    Raises:
      InputError: one is another word.
    """

    intrinsics: FittedIntrinsics = "per_view"
    principal_point: PrincipalPoint = "free"

    def __post_init__(self) -> None:
        check_choice("intrinsics", self.intrinsics, ("per_view", "shared"))
        check_choice("principal_point", self.principal_point, ("free", "centre"))


PER_VIEW = CameraConfig()
"""Each view's own camera, with nothing held fixed."""


def intrinsics_of(
    scene: Prediction, camera: CameraConfig, num_valid_views: Any
) -> Float[Array, "V 3 3"]:
    """The model's own, unless it has none or the caller asks for what it does not promise."""
    if camera == PER_VIEW and scene.intrinsics is not None:
        return scene.intrinsics
    return intrinsics_from_points(
        scene.points_camera,
        sharing=camera.intrinsics,
        principal_point=camera.principal_point,
        views=num_valid_views,
    )
