"""How cameras are fitted to what a model predicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxrecon.errors import InputError
from jaxrecon.geometry import intrinsics_from_points
from jaxrecon.images import PixelTransform
from jaxrecon.images.resize import same_shape
from jaxrecon.models import Prediction
from jaxrecon.runtime.defaults import check_choice

type FittedIntrinsics = Literal["per_view", "shared"]
type PrincipalPoint = Literal["free", "centre"]

_SAME_SCALE = 0.02


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


def check_one_camera(
    camera: CameraConfig, transforms: Sequence[PixelTransform], names: Callable[[], Sequence[str]]
) -> None:
    """Refuses one camera for photos that were brought to size so that they cannot share one.

    They can if their pixels have one scale, or if they are copies of each other's size. Photos of
    which some are turned are another matter: see `turned_intrinsics`.

    Args:
      camera: how cameras are fitted.
      transforms: of the photos.
      names: gives theirs, for the message.

    Raises:
      InputError: naming two photos that cannot have one camera.
    """
    if camera.intrinsics != "shared":
        return
    first = transforms[0]
    for view, transform in enumerate(transforms):
        one_scale = np.allclose(transform.scale, first.scale, rtol=_SAME_SCALE, atol=0)
        one_place = np.allclose(transform.shown, first.shown, rtol=0, atol=1)
        copies = one_place and same_shape(transform.original_size, first.original_size)
        if not (one_scale or copies):
            found = [
                f"{names()[number]} ({'x'.join(map(str, transforms[number].original_size))})"
                for number in (0, view)
            ]
            raise InputError(
                'intrinsics="shared" (--shared-intrinsics): one camera for all views needs photos '
                f"of one shape, found {found[0]} and {found[1]}; leave it out, or leave out the "
                "others"
            )


def intrinsics_of(
    scene: Prediction,
    camera: CameraConfig,
    num_valid_views: Any,
    inside: Bool[Array, "V H W"] | None = None,
) -> Float[Array, "V 3 3"]:
    """The model's own, unless it has none or the caller asks for what it does not promise.

    They are fitted to the pixels `inside` of the photos, to all if that is not given.
    """
    if camera == PER_VIEW and scene.intrinsics is not None:
        return scene.intrinsics
    return intrinsics_from_points(
        scene.points_camera,
        sharing=camera.intrinsics,
        principal_point=camera.principal_point,
        views=num_valid_views,
        inside=inside,
    )
