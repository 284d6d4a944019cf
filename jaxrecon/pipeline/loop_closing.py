"""Closes the loops of a sequence whose views are all written."""

from collections.abc import Sequence

import numpy as np

from jaxrecon.formats.chunk_files import ChunkRecord
from jaxrecon.formats.loop_files import read_loops, write_loops
from jaxrecon.formats.streamed import read_files
from jaxrecon.images import ImageBatch
from jaxrecon.pipeline.loops import (
    Candidate,
    ConfirmedLoop,
    LookAlikes,
    Visits,
    closed,
    confirmed,
    move_files,
    window,
)
from jaxrecon.pipeline.result import reconstruction_of
from jaxrecon.pipeline.sequence_files import SequenceFolder
from jaxrecon.pipeline.sequence_job import SequenceJob
from jaxrecon.priors import ViewPriors
from jaxrecon.progress import Stages
from jaxrecon.reconstruction import Reconstruction


def close_loops(job: SequenceJob, written: SequenceFolder, stages: Stages) -> None:
    """Finds places that the sequence comes back to, and moves the views accordingly."""
    folder = written.streamed.folder
    found = read_loops(folder)
    if found is None:
        with_scale = job.with_scale
        loops = _loops(job, written, stages)
        found = closed(written.records, loops, with_scale=with_scale)
        write_loops(found, folder)
    if found.loops:
        with stages.stage("loops", total=len(written.streamed.names)) as advance:
            files = written.streamed.files
            move_files(written.records, found.placements, files, advance)


def _loops(job: SequenceJob, written: SequenceFolder, stages: Stages) -> list[ConfirmedLoop]:
    """Loops that were confirmed.

    What lies beside one is tried too, so that two visits agree as long as they go the same way; but
    no pair of views that both belong to a loop by then, or a camera that stands still would have as
    many as pairs of views.
    """
    records = written.records
    rows = [
        slice(record.kept[0] - record.start, record.kept[1] - record.start) for record in records
    ]
    descriptions = np.concatenate(
        [record.descriptions[own] for record, own in zip(records, rows, strict=True)]
    )
    alike = LookAlikes(descriptions, job.chunk)
    waiting, tried, found = alike.candidates(), list[Candidate](), list[ConfirmedLoop]()
    tied = np.zeros(len(descriptions), bool)
    while waiting:
        beside: list[Candidate] = []
        with stages.stage("places", total=len(waiting)) as advance:
            for candidate in waiting:
                visits = _visits(job, written, candidate)
                loop = None
                if visits is not None:
                    loop = confirmed(candidate, visits, with_scale=job.with_scale)
                if loop is not None:
                    found.append(loop)
                    beside += alike.beside(loop)
                    for numbers in loop.numbers:
                        tied[numbers] = True
                advance()
        tried += waiting
        new = [pair for pair in beside if not (tied[pair.first] and tied[pair.second])]
        waiting = alike.untried(new, tried)
    return found


def _visits(job: SequenceJob, written: SequenceFolder, candidate: Candidate) -> Visits | None:
    """Views around both of a pair.

    None where they lie in different segments, or there are too few for the compiled program.
    """
    pair, half = (candidate.first, candidate.second), job.chunk // 2
    segments = [segment_around(written.records, view) for view in pair]
    if segments[0] != segments[1]:
        return None
    middle = (pair[0] + pair[1] + 1) // 2
    around = (
        window(pair[0], half, segments[0].start, middle),
        window(pair[1], job.chunk - half, middle, segments[0].stop),
    )
    if sum(map(len, around)) != job.chunk:
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
    if job.priors.kinds:
        views = [view for part in around for view in part]
        known = [job.priors.by_view_in("intrinsics", view, view + 1) for view in views]
        matrices = {row: each[0] for row, each in enumerate(known) if each}
        own = ViewPriors(intrinsics=matrices)
        priors = job.prior_arrays(own, batch)
    geometry = job.executor.run(
        batch, job.inputs, job.key, job.attention, written.stages, priors=priors
    )
    together = reconstruction_of(geometry, batch, job.name, None, written.stages).numpy()
    return Visits(around, (first, second), together)


def segment_around(records: Sequence[ChunkRecord], view: int) -> range:
    """The numbers of the views of the segment in which a view is."""
    segments = [record.part_of(each).segment for record in records for each in range(*record.kept)]
    start = stop = view
    while start > 0 and segments[start - 1] == segments[view]:
        start -= 1
    while stop < len(segments) and segments[stop] == segments[view]:
        stop += 1
    return range(start, stop)
