"""From what a program told to what the user gets."""

from dataclasses import dataclass, field

import numpy as np

from jaxrecon.formats import PointTracks
from jaxrecon.images import ImageBatch
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction, Statistics
from jaxrecon.runtime.program import Geometry

_THIN = 0.02


@dataclass
class Oddities:
    """What looks like a failure: rays that form no camera, a mask that keeps nothing.

    Attributes:
      views, odd: how many views there are, and of how many the rays form no camera.
      pixels, kept: how many pixels there are, and how many of them the mask keeps.
      medians: of the confidence, of each part that was added.
    """

    views: int = 0
    odd: int = 0
    pixels: int = 0
    kept: int = 0
    medians: list[float] = field(default_factory=list)

    def add(self, geometry: Geometry, *, masks: bool = True) -> None:
        """Counts those of more views; masks only if wanted, since they come from the device."""
        focal = np.asarray(geometry.intrinsics)[:, [0, 1], [0, 1]]
        self.views += len(focal)
        self.odd += int((~(focal > 0) | ~np.isfinite(focal)).any(axis=1).sum())
        if masks:
            mask = np.asarray(geometry.mask)
            self.pixels += mask.size
            self.kept += int(np.count_nonzero(mask))
            self.medians.append(float(np.median(np.asarray(geometry.confidence))))

    def note(self, stages: Stages) -> None:
        """Says so; of a mask too, since a cloud of next to nothing looks like a failure."""
        if self.odd:
            stages.note(
                f"NOTE: the rays of {self.odd} of {self.views} views do not form a camera "
                "(the focal length is not positive and finite): do not trust their intrinsics"
            )
        if self.pixels and self.kept / self.pixels < _THIN:
            median = float(np.median(self.medians))
            stages.note(
                f"NOTE: the mask keeps {self.kept / self.pixels:.1%} of the pixels (median "
                f"confidence {median:.2g}): a lower min_confidence (--min-confidence) shows more "
                "points, of which fewer are right"
            )


def note_oddities(geometry: Geometry, stages: Stages) -> None:
    """Says what looks like a failure; see `Oddities`."""
    found = Oddities()
    found.add(geometry, masks=not stages.quiet)  # else nobody would read it
    found.note(stages)


def reconstruction_of(
    geometry: Geometry,
    batch: ImageBatch,
    name: str,
    tracks: PointTracks | None,
    stages: Stages,
) -> Reconstruction:
    """What a program told of these images, for the user."""
    scale, skipped, masks = geometry.metric_scale, geometry.skipped, batch.masks
    return Reconstruction(
        points_world=geometry.points_world,
        points_camera=geometry.points_camera,
        confidence=geometry.confidence,
        mask=geometry.mask if masks is None else geometry.mask & masks.keep,
        world_from_camera=geometry.world_from_camera,
        intrinsics=geometry.intrinsics,
        colors=batch.pixels,
        names=batch.names,
        transforms=batch.transforms,
        files=batch.files,
        photo_masks=() if masks is None else masks.photos,
        model=name,
        seconds=dict(stages.seconds),
        tracks=tracks,
        metric_scale=None if scale is None else float(scale),
        stats=Statistics(sparsity=None if skipped is None else np.asarray(skipped)),
    )
