"""What a model is given of a chunk: its images, masks, and what is known of its views."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Array, UInt8

from jaxrecon.errors import InputError
from jaxrecon.images import Frame, ImageBatch, MaskSource
from jaxrecon.pipeline.chunking import Chunk
from jaxrecon.pipeline.sequence_job import SequenceJob
from jaxrecon.priors import PriorArrays, ViewPriors
from jaxrecon.priors.view_priors import KINDS
from jaxrecon.runtime.fingerprint import digest
from jaxrecon.runtime.program import Geometry


def batch_of(frames: Sequence[Frame]) -> ImageBatch:
    """The images of a chunk."""
    return ImageBatch(
        np.stack([frame.pixels for frame in frames]),
        tuple(frame.transform for frame in frames),
        tuple(frame.name for frame in frames),
        tuple(frame.file for frame in frames),
    )


def digests_of(batch: ImageBatch) -> UInt8[np.ndarray, "V 16"]:
    """Of each view's pixels, 16 bytes."""
    rows = [np.frombuffer(digest(pixels), np.uint8) for pixels in batch.pixels]
    return np.stack(rows)


def chunk_priors(
    job: SequenceJob, chunk: Chunk, batch: ImageBatch
) -> tuple[PriorArrays | None, list[int] | None]:
    """What is known of the chunk's views, and the order in which the model takes them.

    Poses count only where the first view has one, so a view that has goes first.
    """
    if not job.priors.kinds:
        return None, None
    own = priors_of(job.priors, chunk)
    posed = own.by_view("poses", len(chunk.frames))
    order = None
    if posed and 0 not in posed:
        first = min(posed)
        order = [first, *(view for view in range(len(chunk.frames)) if view != first)]
        own = reordered_priors(own, order)
        batch = reordered(batch, order)
    return job.prior_arrays(own, batch), order


def reordered(batch: ImageBatch, order: list[int]) -> ImageBatch:
    """The images in another order, without masks."""
    return ImageBatch(
        pixels=batch.pixels[order],
        transforms=tuple(batch.transforms[view] for view in order),
        names=tuple(batch.names[view] for view in order),
        files=tuple(batch.files[view] for view in order),
    )


def in_order(geometry: Geometry, order: list[int]) -> Geometry:
    """Geometry of views that were given in another order, in their own."""
    back = np.argsort(order)
    names = ("points_world", "points_camera", "confidence", "mask", "world_from_camera")
    chosen = {name: getattr(geometry, name)[back] for name in (*names, "intrinsics")}
    return replace(geometry, **chosen)


def priors_of(priors: ViewPriors, chunk: Chunk) -> ViewPriors:
    """What is known of a chunk's views, by their numbers in it.

    Raises:
      InputError: there is one entry for each view, and these are more.
    """
    parts = {kind: priors.by_view_in(kind, chunk.start, chunk.stop) for kind in KINDS}
    return replace(priors, **parts)


def reordered_priors(priors: ViewPriors, order: list[int]) -> ViewPriors:
    """What is known of views that are given in another order."""
    parts: dict[str, Any] = {}
    for kind in KINDS:
        known = priors.by_view(kind, len(order))
        parts[kind] = {new: known[old] for new, old in enumerate(order) if old in known}
    return replace(priors, **parts)


def check_told(job: SequenceJob, views: int) -> None:
    """Refuses what is told of other views than those of a sequence of so many.

    Raises:
      InputError: one entry for each view is not that, or one is for a view that does not exist.
    """
    for kind in KINDS:
        job.priors.by_view(kind, views)
    if job.masks is not None and _is_listed(job.masks) and len(job.masks) != views:
        raise InputError(
            f"masks: found {len(job.masks)} for the {views} views of the sequence; give one for "
            "each"
        )


def check_begins_posed(job: SequenceJob) -> None:
    """Refuses poses of which none is of the first chunk, whose world is that of the sequence.

    Raises:
      InputError: the result would lie in another world than the poses.
    """
    first = job.priors.first_posed
    if first is not None and first >= job.chunk:
        raise InputError(
            f"poses: the first that is known is of view {first}, and the first chunk ends with "
            f"view {job.chunk - 1}, so that the result would lie in a world of its own and not in "
            f"theirs; give one of an earlier view, begin with view {first}, take chunks of more "
            f"than {first} views (chunk, --chunk), or leave the poses out"
        )


def masks_of(masks: MaskSource, chunk: Chunk) -> MaskSource:
    """The masks of a chunk's views; a folder serves all.

    Raises:
      InputError: there is one for each view, and these are more.
    """
    if not _is_listed(masks):
        return masks
    if len(masks) < chunk.stop:
        raise InputError(
            f"masks: found {len(masks)}, and the sequence has at least {chunk.stop} views; give "
            "one for each"
        )
    return masks[chunk.start : chunk.stop]


def _is_listed(masks: MaskSource) -> TypeGuard[Sequence[Any] | np.ndarray]:
    return isinstance(masks, list | tuple | np.ndarray | Array)
