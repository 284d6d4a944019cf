"""The folder of a sequence, which is filled chunk by chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.formats import Streamed
from jaxrecon.formats.chunk_files import ChunkRecord, chunk_path, read_chunks, write_chunk
from jaxrecon.pipeline.chunk_inputs import check_told, digests_of
from jaxrecon.pipeline.chunk_places import SolvedChunk, parts_of
from jaxrecon.pipeline.joins import refusal
from jaxrecon.pipeline.result import Oddities
from jaxrecon.pipeline.sequence_job import SequenceJob
from jaxrecon.pipeline.sequence_origin import Origin
from jaxrecon.pipeline.streaming import write_all
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import NO_STATISTICS, Reconstruction, Statistics
from jaxrecon.runtime.describing import describe

_WAITING = 16
"""Views that wait to be written."""


@dataclass
class SequenceFolder:
    """A sequence's folder, which is filled chunk by chunk.

    Attributes:
      job: what is made.
      origin: what tells it apart from others.
      streamed: the folder, with the names of the views that are written.
      records: of the chunks that are.
      stages: times the work.
      oddities: what looks like a failure.
    """

    job: SequenceJob
    origin: Origin
    streamed: Streamed
    records: list[ChunkRecord]
    stages: Stages
    oddities: Oddities = field(default_factory=Oddities)

    def __post_init__(self) -> None:
        self.streamed = replace(self.streamed, names=kept_names(self.records))

    @property
    def complete(self) -> bool:
        """Whether the last chunk is written: no other one follows it."""
        return bool(self.records) and self.records[-1].kept[1] == self.records[-1].stop

    def add(self, solved: SolvedChunk, advance: Callable[[], None]) -> None:
        """Joins a chunk to the one before it, writes its views and then its record.

        Raises:
          InputError: the join cannot be trusted, and no gap is allowed.
          OutputError: a file cannot be written.
        """
        record = self._record(solved)
        doubtful = next((join for join in record.joins if join.doubt), None)
        if doubtful is not None and not self.job.joins.allow_gaps:
            raise refusal(doubtful)
        self.write_list()
        views = list(range(*record.kept))
        names = (*self.streamed.names, *(record.names[view - record.start] for view in views))
        streamed = replace(self.streamed, names=names)
        made = ((view, self._view(view, solved, record)) for view in views)
        write_all(made, streamed, views, _WAITING, advance)
        write_chunk(record, chunk_path(streamed.folder, len(self.records)))
        self.streamed = streamed
        self.records.append(record)
        self.oddities.add(solved.geometry)
        self.write_list()

    def write_list(self, *, finished: bool = False) -> None:
        """Writes the list of the views that are there, and how they were joined."""
        joins = [
            {name: _finite(value) for name, value in vars(join).items()}
            for record in self.records
            for join in record.joins
        ]
        begun = self.origin.begun(self.records[-1].stop) if self.records and not finished else {}
        self.streamed.write_list(
            {
                "model": self.job.name,
                "finished": finished,
                "chunk": self.job.chunk,
                "overlap": self.job.overlap,
                "joins": joins,
                **begun,
            }
        )

    def _record(self, solved: SolvedChunk) -> ChunkRecord:
        chunk, batch, geometry = solved.chunk, solved.batch, solved.geometry
        following = chunk.next_start()
        if following is None:
            check_told(self.job, chunk.stop)
        before = self.records[-1] if self.records else None
        stop = chunk.stop if following is None else (following + chunk.stop + 1) // 2
        last = chunk.stop if following is None else following
        points, weights = solved.sampled(slice(last - chunk.start, None))
        parts, joins = parts_of(solved, before, self.job.joins, metric=self.job.defaults.metric)
        descriptions = np.zeros((len(batch.names), 0), np.float32)
        if self.job.loops:
            descriptions = describe(self.job.executor, batch.pixels)
        return ChunkRecord(
            start=chunk.start,
            kept=(before.kept[1] if before else 0, stop),
            names=batch.names,
            digests=digests_of(batch),
            original_size=(
                self.records[0].original_size if before else batch.transforms[0].original_size
            ),
            world_from_camera=np.asarray(geometry.world_from_camera),
            intrinsics=np.asarray(geometry.intrinsics),
            parts=tuple(parts),
            joins=tuple(joins),
            tail_points=points,
            tail_weights=weights,
            known=solved.known,
            descriptions=descriptions,
        )

    def _view(self, view: int, solved: SolvedChunk, record: ChunkRecord) -> Reconstruction:
        """One view in the world of its segment; its pose stays rigid, its points are scaled."""
        batch, geometry = solved.batch, solved.geometry
        place, row = record.part_of(view).placement, view - record.start
        rows = slice(row, row + 1)
        mask, dtype = np.asarray(geometry.mask[rows]), geometry.points_world.dtype
        scale, skipped = geometry.metric_scale, geometry.skipped
        poses = place.poses(np.asarray(geometry.world_from_camera[rows]))
        return Reconstruction(
            points_world=place.points(np.asarray(geometry.points_world[rows], np.float64)).astype(
                dtype
            ),
            points_camera=(place.scale * geometry.points_camera[rows]).astype(dtype),
            confidence=np.asarray(geometry.confidence[rows]),
            mask=mask if batch.masks is None else mask & batch.masks.keep[rows],
            colors=batch.pixels[rows],
            world_from_camera=poses.astype(np.float32),
            intrinsics=np.asarray(geometry.intrinsics[rows]),
            names=batch.names[rows],
            transforms=batch.transforms[rows],
            files=batch.files[rows],
            photo_masks=() if batch.masks is None else batch.masks.photos_of((row,)),
            model=self.job.name,
            metric_scale=None if scale is None else float(scale),
            stats=NO_STATISTICS if skipped is None else Statistics(np.asarray(skipped)),
        )


def sound_chunks(folder: Path) -> list[ChunkRecord]:
    """The records of a folder up to the first chunk of which a view is missing."""
    records = read_chunks(folder)
    files = Streamed(folder, "", kept_names(records)).files
    for number, record in enumerate(records):
        if not all(file.exists() for file in files[slice(*record.kept)]):
            return records[:number]
    return records


def kept_names(records: Sequence[ChunkRecord]) -> tuple[str, ...]:
    """The names of the views that are written."""
    return tuple(
        record.names[view - record.start] for record in records for view in range(*record.kept)
    )


def _finite(value: Any) -> Any:
    """A value as JSON has it: None for a number that is not finite."""
    return None if isinstance(value, float) and not np.isfinite(value) else value
