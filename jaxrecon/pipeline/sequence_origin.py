"""What a sequence is made of, by digests, and which part of one that is written may stay."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxrecon.files import output_error
from jaxrecon.formats import Streamed
from jaxrecon.formats.chunk_files import chunk_path, read_chunks
from jaxrecon.formats.streamed import told_in
from jaxrecon.images import ImageSource, identities_of
from jaxrecon.pipeline.sequence_job import SequenceJob
from jaxrecon.runtime.fingerprint import digest, stable_name, weights_digest

_BEGUN = "begun"
"""What the list of views of a sequence that is not finished says, beside its digest."""


@dataclass(frozen=True)
class Origin:
    """What a sequence is made of.

    Attributes:
      whole: a digest of all of it.
      rest: a digest of all but the images.
      images: digests of the first image, of the first two, and so on; none where only reading them
        tells which there are.
    """

    whole: str
    rest: str
    images: tuple[str, ...]

    def begun(self, views: int) -> dict[str, Any]:
        """What the list of views says while the first so many have been read, and not all."""
        return {_BEGUN: self._first(views)} if 0 < views < len(self.images) else {}

    def views_begun(self, told: Mapping[str, Any]) -> int:
        """How many of the first images are those of a list of views that is not finished."""
        begun = told.get(_BEGUN)
        views = begun.get("views") if isinstance(begun, dict) else None
        if type(views) is not int or not 0 < views <= len(self.images):
            return 0
        return views if begun == self._first(views) else 0

    def _first(self, views: int) -> dict[str, Any]:
        return {"views": views, "rest": self.rest, "images": self.images[views - 1]}


def origin_of(job: SequenceJob, images: ImageSource) -> Origin:
    """What a sequence is made of: two that would not come out alike differ in `whole`.

    Raises:
      InputError: see `identities_of`.
    """
    each = identities_of(images, job.sampling)
    made = [job.inputs, job.key, job.attention, job.rule, job.resolution]
    taken = [job.chunk, job.overlap, job.joins.join, job.joins.group, job.loops]
    taken.append(job.sampling)
    told = [job.priors, None if job.masks is None else stable_name(job.masks)]
    weights = weights_digest(job.executor.model)
    rest = [*made, *taken, *told]
    listed = job.sampling.motion is None and len(each) > 1
    return Origin(
        whole=digest("sequence", job.name, weights, each[-1], *rest).hex(),
        rest=digest("sequence but its images", job.name, weights, *rest).hex(),
        images=tuple(one.hex() for one in each) if listed else (),
    )


def keep_beginning(streamed: Streamed, origin: Origin) -> None:
    """Has a run take up what was made of the same first images, where those behind are others now.

    So it is where one of them was damaged, and is saved again or gone. Of the chunks that are
    written the last is made anew: how it ends depends on what follows. The one before is followed
    by it as it was.

    Raises:
      InputError: a chunk's record is damaged.
      OutputError: the folder cannot be written.
    """
    told = told_in(streamed.folder) or {}
    views = 0 if told.get("digest") == streamed.digest else origin.views_begun(told)
    if not views:
        return
    records = read_chunks(streamed.folder)
    kept = max(sum(record.stop <= views for record in records) - 1, 0)
    first = records[kept - 1].kept[1] if kept else 0
    try:
        for number in reversed(range(kept, len(records))):
            chunk_path(streamed.folder, number).unlink()
        for file in streamed.folder.glob("*.npz"):
            view = re.match(r"(\d{6})_", file.name)
            if view is not None and int(view[1]) >= first:
                file.unlink()
    except OSError as error:
        raise output_error(streamed.folder, error) from error
    read = records[kept - 1].stop if kept else 0
    streamed.write_list({"finished": False} | origin.begun(read))
