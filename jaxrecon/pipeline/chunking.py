"""A sequence of views in chunks that overlap, the next read while the last is worked on."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from jaxrecon.checks import whole_number
from jaxrecon.errors import InputError
from jaxrecon.images import Frame, Frames, ImageSource, Loading, is_video
from jaxrecon.progress import Stages

MANY_VIEWS = 200
"""Where a video gives more views than these to be reconstructed together, it is told before."""


@dataclass(frozen=True)
class Chunk:
    """Views of a sequence that are worked out together.

    Attributes:
      number: of the chunk, from 0.
      start: number of its first view in the sequence.
      frames: the views.
    """

    number: int
    start: int
    frames: tuple[Frame, ...]
    _ahead: "Future[list[Frame]]" = field(repr=False)

    @property
    def stop(self) -> int:
        """Number of the view behind its last."""
        return self.start + len(self.frames)

    def next_start(self) -> int | None:
        """Number of the next chunk's first view, once its views were read; None for the last chunk.

        Raises:
          InputError: see `Frames.take`.
        """
        new = len(self._ahead.result())
        return self.start + new if new else None


def checked_sizes(chunk: int, overlap: int | None) -> tuple[int, int]:
    """Views in a chunk, and how many of them the next one has too: half of them, if not given.

    Raises:
      InputError: a chunk has fewer than two, or no new views.
    """
    chunk = whole_number("chunk", chunk, least=2)
    overlap = chunk // 2 if overlap is None else whole_number("overlap", overlap, least=1)
    if overlap >= chunk:
        raise InputError(
            f"overlap={overlap} leaves no new views in a chunk of {chunk}; give at most {chunk - 1}"
        )
    return chunk, overlap


def note_many_views(images: ImageSource, loading: Loading, stages: Stages) -> None:
    """Tells that very many views of a video are to be worked out together, and what takes less.

    Raises:
      InputError: how many they are is told by reading them alone, and they cannot be read.
    """
    if not is_video(images):
        return
    about, count = "about ", loading.count
    if count is None:
        about, count = "", len(loading.transforms())
    if count > MANY_VIEWS:
        stages.note(
            f"NOTE: {about}{count} views are reconstructed together: "
            "reconstruct_sequence (--chunk 60) works on a few at a time, a lower fps (--fps) or "
            "max_views (--max-views) takes fewer"
        )


@contextmanager
def chunks_of(
    frames: Frames, size: int, overlap: int, *, start: int = 0, number: int = 0
) -> Iterator[Iterator[Chunk]]:
    """Chunks of `size` views, of which each shares `overlap` with the one before.

    The last one begins earlier where views are too few, so that all have one size; where a whole
    sequence has fewer, it is one chunk. While one is worked on, the new views of the next are read.

    Args:
      frames: what is read, from view `start` on.
      size, overlap: numbers of views; see `checked_sizes`.
      start, number: of the first chunk.
    """
    with ThreadPoolExecutor(1) as pool:
        yield _chunks(pool, frames, size, size - overlap, start, number)
        pool.shutdown(cancel_futures=True)


def _chunks(
    pool: ThreadPoolExecutor, frames: Frames, size: int, new: int, start: int, number: int
) -> Iterator[Chunk]:
    window = frames.take(size)
    while window:
        chunk = Chunk(number, start, tuple(window), pool.submit(frames.take, new))
        yield chunk
        more = chunk._ahead.result()
        if not more:
            return
        start += len(more)
        window = window[len(more) :] + more
        number += 1
