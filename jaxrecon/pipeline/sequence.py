"""Reconstructions of sequences of any length, chunk by chunk, written view by view.

One chunk is run while the one before is joined and written and the next one is read.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from jaxrecon.checks import shown
from jaxrecon.errors import InputError
from jaxrecon.files import holding_folder
from jaxrecon.formats import Streamed
from jaxrecon.formats.chunk_files import ChunkRecord
from jaxrecon.images import Frames, ImageSource, reading_frames
from jaxrecon.pipeline.chunk_inputs import (
    batch_of,
    check_begins_posed,
    check_told,
    chunk_priors,
    digests_of,
    in_order,
    masks_of,
    priors_of,
    reordered,
)
from jaxrecon.pipeline.chunk_places import SolvedChunk
from jaxrecon.pipeline.chunking import Chunk, chunks_of
from jaxrecon.pipeline.loop_closing import close_loops
from jaxrecon.pipeline.sequence_files import SequenceFolder, sound_chunks
from jaxrecon.pipeline.sequence_job import SequenceJob
from jaxrecon.pipeline.sequence_origin import keep_beginning, origin_of
from jaxrecon.priors.doubts import doubts
from jaxrecon.progress import Stages


def run_sequence(
    job: SequenceJob, images: ImageSource, folder: Path, stages: Stages, *, overwrite: bool
) -> None:
    """Writes the folder, or what is missing of it.

    Raises:
      InputError: the images or an argument cannot be used, poses are known of later views than
        the first chunk's alone, or a join cannot be trusted.
      OutputError: the folder holds something else, or cannot be written.
    """
    origin = origin_of(job, images)
    streamed = Streamed(folder, origin.whole, ())
    with holding_folder(folder):
        keep_beginning(streamed, origin)
        streamed.make_room(overwrite=overwrite)
        done = streamed.was_finished
        written = SequenceFolder(job, origin, streamed, sound_chunks(folder), Stages(quiet=True))
        if done and written.complete:
            return
        if not written.complete:
            _go_on(job, images, written, stages)
        if job.loops:
            close_loops(job, written, stages)
        written.write_list(finished=True)


def _go_on(job: SequenceJob, images: ImageSource, written: SequenceFolder, stages: Stages) -> None:
    """Makes what is not there yet; of the last chunk that is, the views are read again."""
    done = written.records
    start = done[-1].start if done else 0
    with reading_frames(
        images,
        rule=job.rule.unstretched(),
        resolution=job.resolution,
        sampling=replace(job.sampling, skip=start),
        known_cameras=job.priors.views_with_intrinsics,
        first_size=done[0].original_size if done else None,
    ) as frames:
        if frames.total is not None:  # else the last chunk tells it
            check_told(job, frames.total)
        check_begins_posed(job)
        number = max(len(done) - 1, 0)
        with chunks_of(frames, job.chunk, job.overlap, start=start, number=number) as chunks:
            _work(job, frames, chunks, written, stages)
        for note in frames.notes():
            stages.note(f"NOTE: {note}")
    written.oddities.note(stages)
    for name, seconds in written.stages.seconds.items():
        stages.seconds[name] = stages.seconds.get(name, 0.0) + seconds


def _work(
    job: SequenceJob,
    frames: Frames,
    chunks: Iterator[Chunk],
    written: SequenceFolder,
    stages: Stages,
) -> None:
    before = len(written.records)
    with stages.stage("views", total=frames.count) as advance, ThreadPoolExecutor(1) as pool:
        pending: Future[None] | None = None
        first = True
        for chunk in chunks:
            if chunk.number < before:
                _check_same(chunk, written.records[chunk.number])
                continue
            solved = _solved(job, chunk, written, stages if first else written.stages)
            first = False
            if pending is not None:
                pending.result()
            pending = pool.submit(written.add, solved, advance)
        if pending is not None:
            pending.result()


def _solved(job: SequenceJob, chunk: Chunk, written: SequenceFolder, stages: Stages) -> SolvedChunk:
    """The chunk's images, and its geometry in host memory."""
    batch = batch_of(chunk.frames)
    if job.masks is not None:
        batch = batch.masked(masks_of(job.masks, chunk))
    priors, order = chunk_priors(job, chunk, batch)
    sizes = [transform.original_size for transform in batch.transforms]
    for note in doubts(priors_of(job.priors, chunk), sizes, start=chunk.start):
        stages.note(f"NOTE: {note}")
    posed = job.priors.by_view_in("poses", chunk.start, chunk.stop)
    turned = batch if order is None else reordered(batch, order)
    executor = job.executor
    with stages.stage("compile"):
        expected = executor.expected_program(batch.transforms, job.inputs, job.key)
        executor.compile(*expected, job.attention)
    geometry = executor.run(
        turned, job.inputs, job.key, job.attention, written.stages, priors=priors
    )
    if order is not None:
        geometry = in_order(geometry, order)
    known = job.priors.metric_poses and bool(posed)
    return SolvedChunk(chunk, batch, jax.tree.map(np.asarray, geometry), known)


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
