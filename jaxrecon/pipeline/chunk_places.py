"""Where the views of a chunk lie: cut from cut, each part joined to what is before."""

from dataclasses import dataclass

import numpy as np

from jaxrecon.formats.chunk_files import ChunkRecord, Join, Part
from jaxrecon.geometry import IDENTITY, Similarity, composed, seen_by_the_next
from jaxrecon.images import ImageBatch
from jaxrecon.pipeline.chunking import Chunk
from jaxrecon.pipeline.joins import JoinConfig, cut, cuts_in, joined, sampled, shown_alone
from jaxrecon.runtime.program import Geometry


@dataclass(frozen=True, eq=False)
class SolvedChunk:
    """A chunk and what the model says of it.

    Attributes:
      chunk: its views.
      batch: their images.
      geometry: what the model says, in host memory, in a world of the chunk's own.
      known: whether that is the world of known poses.
    """

    chunk: Chunk
    batch: ImageBatch
    geometry: Geometry
    known: bool

    @property
    def poses(self) -> np.ndarray:
        """Poses of its views, in double precision."""
        return np.asarray(self.geometry.world_from_camera, np.float64)

    def sampled(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Points of some of its views and their weights; see `joins.sampled`."""
        points = np.asarray(self.geometry.points_camera)[rows]
        confidence = np.asarray(self.geometry.confidence)[rows]
        return sampled(points, confidence, self.batch.pixels[rows], self.batch.transforms[rows])


def parts_of(
    solved: SolvedChunk, before: ChunkRecord | None, config: JoinConfig, *, metric: bool
) -> tuple[list[Part], list[Join]]:
    """Where the chunk's views lie, from cut to cut, and how that was found."""
    chunk, batch = solved.chunk, solved.batch
    cuts = [] if solved.known else _cuts(solved, before)
    starts = [chunk.start, *cuts]
    parts: list[Part] = []
    joins: list[Join] = []
    newest = -1 if before is None else max(part.segment for part in before.parts)
    for start, stop in zip(starts, [*cuts, chunk.stop], strict=True):
        found, join, onto = IDENTITY, None, None
        if before is not None and start in (chunk.start, *before.cuts) and start < before.stop:
            onto = before.part_of(start)
            found, join = _joined(
                solved, before, start, min(stop, before.stop), config, metric=metric
            )
        elif start > chunk.start:
            row = start - chunk.start
            join = cut(chunk.number, batch.names[row - 1], batch.names[row])
        if join is not None:
            joins.append(join)
        if onto is None or (join is not None and join.doubt):
            newest += 1
            parts.append(Part(start, IDENTITY, newest))
        else:
            parts.append(Part(start, composed(onto.placement, found), onto.segment))
    return parts, joins


def _cuts(solved: SolvedChunk, before: ChunkRecord | None) -> list[int]:
    """Numbers of the first views behind cuts: those found here and in the chunk before.

    What is beside a view that shows nothing is not judged.
    """
    chunk, geometry = solved.chunk, solved.geometry
    points, weights = solved.sampled(slice(None))
    seen = seen_by_the_next(
        *shown_alone(points, np.asarray(geometry.points_camera), solved.batch.transforms),
        solved.poses,
        np.asarray(geometry.intrinsics),
    )
    blank = ~(weights > 0).any(axis=1)
    seen[blank[1:] | blank[:-1]] = np.nan
    own = {chunk.start + row for row in cuts_in(seen)}
    told = () if before is None else before.cuts
    return sorted(own | {view for view in told if view > chunk.start})


def _joined(
    solved: SolvedChunk,
    before: ChunkRecord,
    start: int,
    stop: int,
    config: JoinConfig,
    *,
    metric: bool,
) -> tuple[Similarity, Join]:
    """The chunk before from this one, by the shared views from `start` to `stop`."""
    chunk = solved.chunk
    rows = slice(start - chunk.start, stop - chunk.start)
    return joined(
        before,
        start,
        solved.batch.names[rows],
        *solved.sampled(rows),
        solved.poses[rows],
        config,
        number=chunk.number,
        known=solved.known,
        metric=metric,
    )
