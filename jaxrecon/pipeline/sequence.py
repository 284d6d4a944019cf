"""Reconstructions of sequences of any length, chunk by chunk, written view by view.

One chunk is run while the one before is joined and written and the next one is read.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.files import holding_folder
from jaxrecon.formats import Streamed
from jaxrecon.formats.chunk_files import (
    ChunkRecord,
    Join,
    Part,
    chunk_path,
    read_chunks,
    write_chunk,
)
from jaxrecon.formats.loop_files import Loop, read_loops, write_loops
from jaxrecon.formats.streamed import read_files
from jaxrecon.geometry import IDENTITY, Similarity, composed, seen_by_the_next
from jaxrecon.images import (
    Frame,
    Frames,
    ImageBatch,
    ImageRule,
    ImageSource,
    MaskSource,
    Sampling,
    identity_of,
    reading_frames,
)
from jaxrecon.nn.attention import AttentionFn
from jaxrecon.pipeline.chunking import Chunk, chunks_of
from jaxrecon.pipeline.joins import JoinConfig, cut, cuts_in, joined, refusal, sampled
from jaxrecon.pipeline.loops import Candidate, candidates, closed, confirmed, move_files, window
from jaxrecon.pipeline.result import Oddities, reconstruction_of
from jaxrecon.pipeline.streaming import write_all
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays
from jaxrecon.priors.view_priors import KINDS
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import NO_STATISTICS, Reconstruction, Statistics
from jaxrecon.runtime.defaults import ModelDefaults
from jaxrecon.runtime.describing import describe
from jaxrecon.runtime.executor import Executor
from jaxrecon.runtime.fingerprint import digest, stable_name, weights_digest
from jaxrecon.runtime.options import ProgramKey, RuntimeInputs
from jaxrecon.runtime.program import Geometry

_WAITING = 16
"""Views that wait to be written."""


@dataclass(frozen=True)
class SequenceJob:
    """What is to be made of a sequence, and with what; see `Pipeline.reconstruct_sequence`.

    Attributes:
      executor, inputs, key, attention: the model, and what it is to do.
      name: the model's in results.
      rule: how it wants its images.
      defaults: how the model's family is used.
      chunk, overlap: numbers of views.
      joins: how chunks are joined.
      loops: whether places that the sequence comes back to are made to agree.
      sampling, resolution, masks, priors: see `Pipeline.reconstruct`.
    """

    executor: Executor
    inputs: RuntimeInputs
    key: ProgramKey
    attention: AttentionFn
    name: str
    rule: ImageRule
    defaults: ModelDefaults
    chunk: int
    overlap: int
    joins: JoinConfig
    loops: bool
    sampling: Sampling
    resolution: int | None
    masks: MaskSource | None
    priors: ViewPriors

    def run(self, images: ImageSource, folder: Path, stages: Stages, *, overwrite: bool) -> None:
        """Writes the folder, or what is missing of it.

        Raises:
          InputError: the images or an argument cannot be used, or a join cannot be trusted.
          OutputError: the folder holds something else, or cannot be written.
        """
        streamed = Streamed(folder, self._digest(images), ())
        with holding_folder(folder):
            streamed.make_room(overwrite=overwrite)
            done = streamed.was_finished
            written = Written(self, streamed, sound_chunks(folder), Stages(quiet=True))
            if done and written.complete:
                return
            if not written.complete:
                self._go_on(images, written, stages)
            if self.loops:
                self._close_loops(written, stages)
            written.write_list(finished=True)

    def _go_on(self, images: ImageSource, written: "Written", stages: Stages) -> None:
        """Makes what is not there yet; of the last chunk that is, the views are read again."""
        done = written.records
        start = done[-1].start if done else 0
        with reading_frames(
            images,
            rule=self.rule.unstretched(),
            resolution=self.resolution,
            sampling=replace(self.sampling, skip=start),
            known_cameras=self.priors.views_with_intrinsics,
            first_size=done[0].original_size if done else None,
        ) as frames:
            number = max(len(done) - 1, 0)
            with chunks_of(frames, self.chunk, self.overlap, start=start, number=number) as chunks:
                self._work(frames, chunks, written, stages)
            for note in frames.notes():
                stages.note(f"NOTE: {note}")
        written.oddities.note(stages)
        for name, seconds in written.stages.seconds.items():
            stages.seconds[name] = stages.seconds.get(name, 0.0) + seconds

    def _work(
        self, frames: Frames, chunks: Iterator[Chunk], written: "Written", stages: Stages
    ) -> None:
        before = len(written.records)
        with stages.stage("views", total=frames.count) as advance, ThreadPoolExecutor(1) as pool:
            pending: Future[None] | None = None
            first = True
            for chunk in chunks:
                if chunk.number < before:
                    _check_same(chunk, written.records[chunk.number])
                    continue
                batch, geometry = self._run(chunk, written, stages if first else written.stages)
                first = False
                if pending is not None:
                    pending.result()
                pending = pool.submit(written.add, chunk, batch, geometry, advance)
            if pending is not None:
                pending.result()

    def _run(self, chunk: Chunk, written: "Written", stages: Stages) -> tuple[ImageBatch, Geometry]:
        """The chunk's images, and its geometry in host memory."""
        batch = batch_of(chunk.frames)
        if self.masks is not None:
            batch = batch.masked(masks_of(self.masks, chunk))
        priors, order = self._priors(chunk, batch)
        turned = batch if order is None else reordered(batch, order)
        executor = self.executor
        with stages.stage("compile"):
            expected = executor.expected_program(batch.transforms, self.inputs, self.key)
            executor.compile(*expected, self.attention)
        geometry = executor.run(
            turned, self.inputs, self.key, self.attention, written.stages, priors=priors
        )
        if order is not None:
            geometry = in_order(geometry, order)
        return batch, jax.tree.map(np.asarray, geometry)

    def _close_loops(self, written: "Written", stages: Stages) -> None:
        """Finds places that the sequence comes back to, and moves the views accordingly."""
        folder = written.streamed.folder
        found = read_loops(folder)
        if found is None:
            with_scale = self.joins.with_scale(metric=self.defaults.metric)
            loops = self._loops(written, stages, with_scale=with_scale)
            found = closed(written.records, loops, with_scale=with_scale)
            write_loops(found, folder)
        if found.loops:
            with stages.stage("loops", total=len(written.streamed.names)) as advance:
                files = written.streamed.files
                move_files(written.records, found.placements, files, advance)

    def _loops(
        self, written: "Written", stages: Stages, *, with_scale: bool
    ) -> list[tuple[Loop, int, int, Similarity, Similarity]]:
        """Loops that were confirmed, the numbers of their two views, and the worlds of these."""
        records = written.records
        rows = [
            slice(record.kept[0] - record.start, record.kept[1] - record.start)
            for record in records
        ]
        descriptions = np.concatenate(
            [record.descriptions[own] for record, own in zip(records, rows, strict=True)]
        )
        tried = candidates(descriptions, self.chunk)
        found = []
        with stages.stage("places", total=len(tried)) as advance:
            for candidate in tried:
                own = self._visits(written, candidate)
                if own is not None:
                    visits, together = own
                    told = confirmed(candidate, visits, together, with_scale=with_scale)
                    if told is not None:
                        found.append((told[0], candidate.first, candidate.second, *told[1:]))
                advance()
        return found

    def _visits(
        self, written: "Written", candidate: Candidate
    ) -> tuple[tuple[Reconstruction, Reconstruction], Reconstruction] | None:
        """Views around both of a pair, as they are written, and reconstructed together.

        None where they lie in different segments, or there are too few for the compiled program.
        """
        pair, half = (candidate.first, candidate.second), self.chunk // 2
        segments = [segment_around(written.records, view) for view in pair]
        if segments[0] != segments[1]:
            return None
        middle = (pair[0] + pair[1] + 1) // 2
        around = (
            window(pair[0], half, segments[0].start, middle),
            window(pair[1], self.chunk - half, middle, segments[0].stop),
        )
        if sum(map(len, around)) != self.chunk:
            return None
        files = written.streamed.files
        first, second = (
            Reconstruction.of_scene(
                read_files(written.streamed.folder, [files[view] for view in views])
            )
            for views in around
        )
        batch = ImageBatch(
            pixels=np.concatenate([np.asarray(first.colors), np.asarray(second.colors)]),
            transforms=(*first.transforms, *second.transforms),
            names=(*first.names, *second.names),
            files=(*first.files, *second.files),
        )
        priors = None
        if self.priors.kinds:
            views = [view for part in around for view in part]
            known = [self.priors.by_view_in("intrinsics", view, view + 1) for view in views]
            matrices = {row: each[0] for row, each in enumerate(known) if each}
            own = ViewPriors(intrinsics=matrices)
            priors = self._prior_arrays(own, batch)
        geometry = self.executor.run(
            batch, self.inputs, self.key, self.attention, written.stages, priors=priors
        )
        together = reconstruction_of(geometry, batch, self.name, None, written.stages).numpy()
        return (first, second), together

    def _priors(
        self, chunk: Chunk, batch: ImageBatch
    ) -> tuple[PriorArrays | None, list[int] | None]:
        """What is known of the chunk's views, and the order in which the model takes them.

        Poses count only where the first view has one, so a view that has goes first.
        """
        if not self.priors.kinds:
            return None, None
        own = priors_of(self.priors, chunk)
        posed = own.by_view("poses", len(chunk.frames))
        order = None
        if posed and 0 not in posed:
            first = min(posed)
            order = [first, *(view for view in range(len(chunk.frames)) if view != first)]
            own = reordered_priors(own, order)
            batch = reordered(batch, order)
        return self._prior_arrays(own, batch), order

    def _prior_arrays(self, priors: ViewPriors, batch: ImageBatch) -> PriorArrays:
        return prior_arrays(
            priors,
            batch.transforms,
            self.rule.resized_intrinsics,
            independent=self.defaults.independent_priors,
        )

    def _digest(self, images: ImageSource) -> str:
        """Tells apart sequences that would not come out alike."""
        source = identity_of(images, self.sampling)
        made = [self.inputs, self.key, self.attention, self.rule, self.resolution]
        taken = [self.chunk, self.overlap, self.joins.join, self.joins.group, self.loops]
        taken.append(self.sampling)
        told = [self.priors, None if self.masks is None else stable_name(self.masks)]
        weights = weights_digest(self.executor.model)
        return digest("sequence", self.name, weights, source, *made, *taken, *told).hex()


@dataclass
class Written:
    """A sequence's folder, which is filled chunk by chunk.

    Attributes:
      job: what is made.
      streamed: the folder, with the names of the views that are written.
      records: of the chunks that are.
      stages: times the work.
      oddities: what looks like a failure.
    """

    job: SequenceJob
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

    def add(self, chunk: Chunk, batch: ImageBatch, geometry: Geometry, advance: Any) -> None:
        """Joins a chunk to the one before it, writes its views and then its record.

        Raises:
          InputError: the join cannot be trusted, and no gap is allowed.
          OutputError: a file cannot be written.
        """
        record = self._record(chunk, batch, geometry)
        doubtful = next((join for join in record.joins if join.doubt), None)
        if doubtful is not None and not self.job.joins.allow_gaps:
            raise refusal(doubtful)
        self.write_list()
        views = list(range(*record.kept))
        names = (*self.streamed.names, *(record.names[view - chunk.start] for view in views))
        streamed = replace(self.streamed, names=names)
        made = ((view, self._view(view, chunk, batch, geometry, record)) for view in views)
        write_all(made, streamed, views, _WAITING, advance)
        write_chunk(record, chunk_path(streamed.folder, chunk.number))
        self.streamed = streamed
        self.records.append(record)
        self.oddities.add(geometry)
        self.write_list()

    def write_list(self, *, finished: bool = False) -> None:
        """Writes the list of the views that are there, and how they were joined."""
        joins = [
            {name: finite(value) for name, value in vars(join).items()}
            for record in self.records
            for join in record.joins
        ]
        self.streamed.write_list(
            {
                "model": self.job.name,
                "finished": finished,
                "chunk": self.job.chunk,
                "overlap": self.job.overlap,
                "joins": joins,
            }
        )

    def _record(self, chunk: Chunk, batch: ImageBatch, geometry: Geometry) -> ChunkRecord:
        following = chunk.next_start()
        before = self.records[-1] if self.records else None
        stop = chunk.stop if following is None else (following + chunk.stop + 1) // 2
        last = chunk.stop if following is None else following
        points, weights = _sampled(geometry, batch, slice(last - chunk.start, None))
        posed = self.job.priors.by_view_in("poses", chunk.start, chunk.stop)
        known = self.job.priors.metric_poses and bool(posed)
        parts, joins = self._parts(chunk, batch, geometry, before, known=known)
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
            known=known,
            descriptions=descriptions,
        )

    def _parts(
        self,
        chunk: Chunk,
        batch: ImageBatch,
        geometry: Geometry,
        before: ChunkRecord | None,
        *,
        known: bool,
    ) -> tuple[list[Part], list[Join]]:
        """Where the chunk's views lie, from cut to cut, and how that was found."""
        cuts = [] if known else self._cuts(chunk, batch, geometry, before)
        starts = [chunk.start, *cuts]
        parts: list[Part] = []
        joins: list[Join] = []
        newest = -1 if before is None else max(part.segment for part in self.records[-1].parts)
        for start, stop in zip(starts, [*cuts, chunk.stop], strict=True):
            found, join, onto = IDENTITY, None, None
            if before is not None and start in (chunk.start, *before.cuts) and start < before.stop:
                onto = before.part_of(start)
                found, join = self._joined(
                    chunk, batch, geometry, before, start, min(stop, before.stop), known=known
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

    def _cuts(
        self, chunk: Chunk, batch: ImageBatch, geometry: Geometry, before: ChunkRecord | None
    ) -> list[int]:
        """Numbers of the first views behind cuts: those found here and in the chunk before.

        What is beside a view that shows nothing is not judged.
        """
        points, weights = _sampled(geometry, batch, slice(None))
        seen = seen_by_the_next(
            points,
            np.asarray(geometry.points_camera)[..., 2],
            np.asarray(geometry.world_from_camera, np.float64),
            np.asarray(geometry.intrinsics),
        )
        blank = ~(weights > 0).any(axis=1)
        seen[blank[1:] | blank[:-1]] = np.nan
        own = {chunk.start + row for row in cuts_in(seen)}
        told = () if before is None else before.cuts
        return sorted(own | {view for view in told if view > chunk.start})

    def _joined(
        self,
        chunk: Chunk,
        batch: ImageBatch,
        geometry: Geometry,
        before: ChunkRecord,
        start: int,
        stop: int,
        *,
        known: bool,
    ) -> tuple[Similarity, Join]:
        """The chunk before from this one, by the shared views from `start` to `stop`."""
        rows = slice(start - chunk.start, stop - chunk.start)
        return joined(
            before,
            start,
            batch.names[rows],
            *_sampled(geometry, batch, rows),
            np.asarray(geometry.world_from_camera, np.float64)[rows],
            self.job.joins,
            number=chunk.number,
            known=known,
            metric=self.job.defaults.metric,
        )

    def _view(
        self, view: int, chunk: Chunk, batch: ImageBatch, geometry: Geometry, record: ChunkRecord
    ) -> Reconstruction:
        """One view in the world of its segment; its pose stays rigid, its points are scaled."""
        place, row = record.part_of(view).placement, view - chunk.start
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
            model=self.job.name,
            metric_scale=None if scale is None else float(scale),
            stats=NO_STATISTICS if skipped is None else Statistics(np.asarray(skipped)),
        )


def _sampled(geometry: Geometry, batch: ImageBatch, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    points, confidence = np.asarray(geometry.points_camera), np.asarray(geometry.confidence)
    return sampled(points[rows], confidence[rows], batch.pixels[rows])


def sound_chunks(folder: Path) -> list[ChunkRecord]:
    """The records of a folder up to the first chunk of which a view is missing."""
    records = read_chunks(folder)
    files = Streamed(folder, "", kept_names(records)).files
    for number, record in enumerate(records):
        if not all(file.exists() for file in files[slice(*record.kept)]):
            return records[:number]
    return records


def segment_around(records: Sequence[ChunkRecord], view: int) -> range:
    """The numbers of the views of the segment in which a view is."""
    segments = [record.part_of(each).segment for record in records for each in range(*record.kept)]
    start = stop = view
    while start > 0 and segments[start - 1] == segments[view]:
        start -= 1
    while stop < len(segments) and segments[stop] == segments[view]:
        stop += 1
    return range(start, stop)


def kept_names(records: Sequence[ChunkRecord]) -> tuple[str, ...]:
    """The names of the views that are written."""
    return tuple(
        record.names[view - record.start] for record in records for view in range(*record.kept)
    )


def batch_of(frames: Sequence[Frame]) -> ImageBatch:
    """The images of a chunk."""
    return ImageBatch(
        np.stack([frame.pixels for frame in frames]),
        tuple(frame.transform for frame in frames),
        tuple(frame.name for frame in frames),
        tuple(frame.file for frame in frames),
    )


def digests_of(batch: ImageBatch) -> np.ndarray:
    """Of each view's pixels, 16 bytes."""
    rows = [np.frombuffer(digest(pixels), np.uint8) for pixels in batch.pixels]
    return np.stack(rows)


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


def masks_of(masks: MaskSource, chunk: Chunk) -> MaskSource:
    """The masks of a chunk's views; a folder serves all.

    Raises:
      InputError: there is one for each view, and these are more.
    """
    if not isinstance(masks, list | tuple | np.ndarray | Array):
        return masks
    if len(masks) < chunk.stop:
        raise InputError(
            f"masks: found {len(masks)}, and the sequence has at least {chunk.stop} views; give "
            "one for each"
        )
    return masks[chunk.start : chunk.stop]


def finite(value: Any) -> Any:
    """A value as JSON has it: None for a number that is not finite."""
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _check_same(chunk: Chunk, record: ChunkRecord) -> None:
    """Refuses to go on where the views of the last chunk that is written are others now.

    Raises:
      InputError: naming the first of them.
    """
    found = digests_of(batch_of(chunk.frames))
    if chunk.frames and len(found) == len(record.digests):
        odd = (found != record.digests).any(axis=1)
        if not odd.any():
            return
        name = chunk.frames[int(odd.argmax())].name
    else:
        name = f"views {chunk.start} to {record.stop - 1}"
    raise InputError(
        f"images: {shown(name)} is not what the part that is written was made from; give the same "
        "images, or overwrite it"
    )
