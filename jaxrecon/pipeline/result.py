"""From what a program told to what the user gets."""

import numpy as np
from jaxtyping import Array, Float

from jaxrecon.formats import PointTracks
from jaxrecon.images import ImageBatch
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction, Statistics
from jaxrecon.runtime.program import Geometry

_THIN = 0.02


def note_oddities(geometry: Geometry, stages: Stages) -> None:
    """Says what looks like a failure: rays that form no camera, a mask that keeps nothing."""
    _note_odd_cameras(geometry.intrinsics, stages)
    _note_thin_mask(geometry, stages)


def _note_odd_cameras(intrinsics: Float[Array, "V 3 3"], stages: Stages) -> None:
    """Says how many views' rays form no camera, if some do not."""
    focal = np.asarray(intrinsics)[:, [0, 1], [0, 1]]
    odd = int((~(focal > 0) | ~np.isfinite(focal)).any(axis=1).sum())
    if odd:
        stages.note(
            f"NOTE: the rays of {odd} of {len(focal)} views do not form a camera "
            "(the focal length is not positive and finite): do not trust their intrinsics"
        )


def _note_thin_mask(geometry: Geometry, stages: Stages) -> None:
    """Says so where the mask keeps next to nothing, since a cloud of that looks like a failure."""
    if stages.quiet:  # nobody would read it, and the mask is copied from the device for it
        return
    mask = np.asarray(geometry.mask)
    share = np.count_nonzero(mask) / mask.size
    if share < _THIN:
        median = float(np.median(np.asarray(geometry.confidence)))
        stages.note(
            f"NOTE: the mask keeps {share:.1%} of the pixels (median confidence {median:.2g}): a "
            "lower min_confidence (--min-confidence) shows more points, of which fewer are right"
        )


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
