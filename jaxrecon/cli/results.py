"""What `view` and `report` are given: results on disk, of which large ones are read in part."""

from collections.abc import Sequence
from pathlib import Path

from jaxrecon.formats import LoosePoints, Scene, read_shown, read_streamed, shown_file
from jaxrecon.formats.chunk_files import read_chunks
from jaxrecon.formats.streamed import count_views
from jaxrecon.formats.summary import evenly_chosen
from jaxrecon.pipeline.sequence_result import SequenceReconstruction

MOST_VIEWS = 200
"""Of a folder with a file a view, no more than so many are read, chosen evenly."""


def read_result(given: str) -> tuple[Path, Scene | LoosePoints, str]:
    """Where a result lies, what it holds, and what was left out of it; empty if nothing was.

    Raises:
      InputError: there is none, or it is damaged.
    """
    path = shown_file(given)
    if not path.is_dir():
        return path, read_shown(path), ""
    views, segments = _views_of(path)
    chosen = [views[place] for place in evenly_chosen(len(views), MOST_VIEWS)]
    told = []
    if segments > 1:
        told.append(f"the longest of {segments} segments, each a world of its own")
    if len(chosen) < len(views):
        told.append(f"{len(chosen)} of {len(views)} views")
    return path, read_streamed(path, chosen), ", ".join(told)


def _views_of(folder: Path) -> tuple[Sequence[int], int]:
    """The views of the longest segment, and how many segments there are."""
    if not read_chunks(folder):
        return range(count_views(folder)), 1
    segments = SequenceReconstruction.load(folder).segments
    return max(segments, key=len), len(segments)
