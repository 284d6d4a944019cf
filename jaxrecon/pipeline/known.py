"""What a caller knows of the views beforehand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxrecon.images import PixelTransform
from jaxrecon.models import Conditions, PerView, conditions_from


@dataclass(frozen=True, eq=False)
class Known:
    """What the caller knows of the views; see `Pipeline.reconstruct`."""

    poses: PerView | None
    depths: PerView | None
    metric_poses: bool
    metric_depths: bool
    intrinsics: PerView | None = None

    def with_intrinsics(self, intrinsics: str | PerView) -> "Known":
        """With the cameras, if they are known; a string tells how they are fitted."""
        return self if isinstance(intrinsics, str) else replace(self, intrinsics=intrinsics)

    @property
    def first(self) -> str | None:
        """The name of something that is known."""
        names = ("intrinsics", "poses", "depths")
        return next((name for name in names if getattr(self, name) is not None), None)

    def conditions(self, transforms: Sequence[PixelTransform]) -> Conditions | None:
        """What the model takes with images of these transforms.

        Raises:
          InputError: it cannot be used; see `models.conditions_from`.
        """
        if self.first is None:
            return None
        return conditions_from(
            transforms,
            intrinsics=self.intrinsics,
            poses=self.poses,
            depths=self.depths,
            metric_poses=self.metric_poses,
            metric_depths=self.metric_depths,
        )
