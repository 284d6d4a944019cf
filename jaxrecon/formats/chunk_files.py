"""What is kept of each chunk of a long sequence: where it lies, and what the next one joins to."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from jaxrecon.checks import shown
from jaxrecon.errors import InputError, reason_of
from jaxrecon.files import replacing_file
from jaxrecon.geometry import Similarity
from jaxrecon.reading import open_npz

CHUNK_FILE = re.compile(r"chunk_\d{6}\.npz")
"""Names of these files."""

_VERSION = 1
_KINDS = {
    **dict.fromkeys(("first_view", "last_view", "way", "doubt"), np.str_),
    **dict.fromkeys(("inliers", "residual", "turn", "shift", "scale"), np.float64),
    **dict.fromkeys(("chunk", "points"), np.int64),
}
_WHAT, _ADVICE = "a chunk of a sequence", "reconstruct the sequence again, with overwrite"


@dataclass(frozen=True)
class Join:
    """How a chunk, or what follows a cut in it, was joined to what is before.

    Attributes:
      chunk: the chunk's number; the one before is `chunk - 1`.
      first_view, last_view: names of the first and the last of the views that both share; of the
        two views beside a cut.
      way: "points" or "poses", as asked for; "known", where both lie in the world of known poses;
        or "cut", where nothing is shared.
      points: how many pairs of points were compared.
      inliers: share of them, by weight, that lie within a tenth of their distance from the camera.
      residual: the median distance between them, over their distance from the camera.
      turn, shift: how far the two poses of a view are apart: the median angle, in degrees, and the
        median distance, over that of all points from the cameras.
      scale: of the chunk's lengths in those of the chunk before.
      doubt: why the join cannot be trusted; empty if it can. Such a join is left as a gap.
    """

    chunk: int
    first_view: str
    last_view: str
    way: str
    points: int
    inliers: float
    residual: float
    turn: float
    shift: float
    scale: float
    doubt: str = ""


@dataclass(frozen=True, eq=False)
class Part:
    """Views of a chunk between two cuts.

    Attributes:
      start: number of its first view.
      placement: from the chunk's own world to that of the segment.
      segment: number of the run of views without a gap.
    """

    start: int
    placement: Similarity
    segment: int


@dataclass(frozen=True, eq=False)
class ChunkRecord:
    """One chunk of V views, of which the next one shares the last F, seen at P pixels each.

    Attributes:
      start: number of its first view.
      kept: numbers of the first of the views that are written as this chunk has them, and of the
        one behind the last.
      names: of its views.
      digests: of the views' processed pixels.
      original_size: width and height of the sequence's first view.
      world_from_camera: poses, in the chunk's own world.
      intrinsics: in pixels of the processed pictures.
      parts: where its views lie, from cut to cut; one part if there is none.
      joins: to what is before; none for the first part of the first chunk.
      tail_points: points of the shared views, in their cameras' frames.
      tail_weights: how far to trust them.
      known: whether the chunk's own world is that of known poses.
      descriptions: what its views look like, if loops are to be closed; else of no numbers.
    """

    start: int
    kept: tuple[int, int]
    names: tuple[str, ...]
    digests: UInt8[np.ndarray, "V 16"]
    original_size: tuple[int, int]
    world_from_camera: Float[np.ndarray, "V 4 4"]
    intrinsics: Float[np.ndarray, "V 3 3"]
    parts: tuple[Part, ...]
    joins: tuple[Join, ...]
    tail_points: Float[np.ndarray, "F P 3"]
    tail_weights: Float[np.ndarray, "F P"]
    known: bool
    descriptions: Float[np.ndarray, "V D"]

    @property
    def stop(self) -> int:
        """Number of the view behind its last."""
        return self.start + len(self.names)

    def part_of(self, view: int) -> Part:
        """The part in which a view is, by its number in the sequence."""
        return next(part for part in reversed(self.parts) if part.start <= view)

    @property
    def cuts(self) -> tuple[int, ...]:
        """Numbers of the first views behind cuts."""
        return tuple(part.start for part in self.parts[1:])

    def poses(self) -> Float[np.ndarray, "V 4 4"]:
        """Poses, each in the world of its segment; rigid, in double precision."""
        views = range(self.start, self.stop)
        rows = zip(views, self.world_from_camera, strict=True)
        return np.stack([self.part_of(view).placement.poses(pose) for view, pose in rows])


def chunk_path(folder: Path, number: int) -> Path:
    """Where the record of a chunk lies."""
    return folder / f"chunk_{number:06d}.npz"


def write_chunk(record: ChunkRecord, path: Path) -> None:
    """Writes a record.

    Raises:
      OutputError: it cannot be written.
    """
    arrays: dict[str, Any] = {
        "version": np.int64(_VERSION),
        "start": np.int64(record.start),
        "kept": np.array(record.kept, np.int64),
        "names": np.array(record.names, np.str_),
        "digests": record.digests,
        "original_size": np.array(record.original_size, np.int64),
        "world_from_camera": record.world_from_camera,
        "intrinsics": record.intrinsics,
        "part_start": np.array([part.start for part in record.parts], np.int64),
        "part_segment": np.array([part.segment for part in record.parts], np.int64),
        "part_scale": np.array([part.placement.scale for part in record.parts], np.float64),
        "part_rotation": np.stack([part.placement.rotation for part in record.parts]),
        "part_translation": np.stack([part.placement.translation for part in record.parts]),
        "tail_points": record.tail_points,
        "tail_weights": record.tail_weights,
        "known": np.bool_(record.known),
        "descriptions": record.descriptions,
    }
    for each in fields(Join):
        values = [getattr(join, each.name) for join in record.joins]
        arrays[f"join_{each.name}"] = np.array(values, _KINDS[each.name])
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_chunk(path: Path) -> ChunkRecord:
    """Reads back what `write_chunk` wrote.

    Raises:
      InputError: it is absent or damaged.
    """
    with open_npz(path, what=_WHAT, advice=_ADVICE) as archive:
        told = {name: archive.read(name) for name in archive.names}
    try:
        return _record(told)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not {_WHAT} ({reason_of(error)}); {_ADVICE}") from error


def _record(told: dict[str, np.ndarray]) -> ChunkRecord:
    whole = {name: array.item() for name, array in told.items() if array.shape == ()}
    if whole["version"] != _VERSION:
        raise ValueError(f"its version is {shown(whole['version'])}, expected {_VERSION}")
    joins = {each.name: told[f"join_{each.name}"].tolist() for each in fields(Join)}
    names = ("part_start", "part_scale", "part_rotation", "part_translation", "part_segment")
    rows = zip(*(told[name] for name in names), strict=True)
    first, stop = told["kept"].tolist()
    width, height = told["original_size"].tolist()
    return ChunkRecord(
        start=whole["start"],
        kept=(first, stop),
        names=tuple(told["names"].tolist()),
        digests=told["digests"],
        original_size=(width, height),
        world_from_camera=told["world_from_camera"],
        intrinsics=told["intrinsics"],
        parts=tuple(
            Part(int(start), Similarity(float(scale), rotation, translation), int(segment))
            for start, scale, rotation, translation, segment in rows
        ),
        joins=tuple(Join(*values) for values in zip(*joins.values(), strict=True)),
        tail_points=told["tail_points"],
        tail_weights=told["tail_weights"],
        known=whole["known"],
        descriptions=told["descriptions"],
    )


def read_chunks(folder: Path) -> list[ChunkRecord]:
    """The records of a folder, from the first on, up to the first that is not there.

    Raises:
      InputError: one is damaged.
    """
    records: list[ChunkRecord] = []
    while (path := chunk_path(folder, len(records))).exists():
        records.append(read_chunk(path))
    return records


def segments_of(records: Sequence[ChunkRecord]) -> tuple[range, ...]:
    """The numbers of the views of each run without a gap; none without records."""
    own = [record.part_of(view).segment for record in records for view in range(*record.kept)]
    ends = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), len(own)]
    return tuple(range(start, stop) for start, stop in pairwise(ends) if start < stop)
