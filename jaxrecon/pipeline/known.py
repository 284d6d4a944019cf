"""What a caller knows of the views beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxrecon.checks import truth_value
from jaxrecon.images import PixelTransform
from jaxrecon.models import (
    Conditions,
    Given,
    KnownOfViews,
    PerView,
    check_known,
    given_of,
    resized_conditions,
)


@dataclass(frozen=True, eq=False)
class Known:
    """What the caller knows of the views, None where nothing; see `Pipeline.reconstruct`."""

    intrinsics: Given | None
    poses: Given | None
    depths: Given | None
    metric_poses: bool
    metric_depths: bool

    @classmethod
    def of(
        cls,
        *,
        intrinsics: str | PerView = "per_view",
        poses: PerView | None = None,
        depths: PerView | None = None,
        metric_poses: bool = True,
        metric_depths: bool = True,
    ) -> "Known":
        """From the arguments of `Pipeline.reconstruct`; a string tells how cameras are fitted.

        Raises:
          InputError: one of them is of another kind.
        """
        return cls(
            None if isinstance(intrinsics, str) else given_of(intrinsics, "intrinsics"),
            given_of(poses, "poses"),
            given_of(depths, "depths"),
            truth_value("metric_poses", metric_poses),
            truth_value("metric_depths", metric_depths),
        )

    @property
    def first(self) -> str | None:
        """The name of something that is known."""
        found = (self.intrinsics, self.poses, self.depths)
        return next((given.name for given in found if given is not None), None)

    def checked(self, sizes: Sequence[tuple[int, int]]) -> KnownOfViews:
        """What is known of views whose images have these (width, height).

        Raises:
          InputError: it cannot be used; see `models.conditions_from`.
        """
        return check_known(
            sizes,
            intrinsics=self.intrinsics,
            poses=self.poses,
            depths=self.depths,
            metric_poses=self.metric_poses,
            metric_depths=self.metric_depths,
        )

    def conditions(self, transforms: Sequence[PixelTransform]) -> Conditions | None:
        """What the model takes with images of these transforms.

        Raises:
          InputError: it cannot be used; see `models.conditions_from`.
        """
        if self.first is None:
            return None
        sizes = [transform.original_size for transform in transforms]
        return resized_conditions(self.checked(sizes), transforms)
