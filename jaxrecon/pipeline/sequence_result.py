"""A reconstruction of a sequence of any length, in its folder."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Unpack

import numpy as np
from jaxtyping import Float

from jaxrecon.checks import path_of, whole_number
from jaxrecon.errors import InputError
from jaxrecon.files import replacing_folder
from jaxrecon.formats import ExportKeywords, ExportOptions, check_options, format_named
from jaxrecon.formats.chunk_files import Join, read_chunks, segments_of
from jaxrecon.formats.loop_files import Loop, read_loops
from jaxrecon.formats.streamed import check_finished, read_streamed
from jaxrecon.formats.trajectory import write_poses
from jaxrecon.pipeline.loops import with_placements
from jaxrecon.reconstruction import Reconstruction

USUAL_FORMATS = ("ply", "glb", "colmap", "trajectory")
"""What `save` writes if nothing else is asked for."""


class TemporaryFolder:
    """A folder that is deleted once nothing refers to this, at the latest at the process's end."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="jaxrecon-"))
        self._end = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class SequenceReconstruction:
    """A reconstruction of a sequence of views, which lie in a folder, a file a view.

    Where a join was left as a gap, what is before and behind it has a world and unit of its own:
    each such run of views is a segment.

    Attributes:
      folder: where the views are. `Reconstruction.load` reads it, if there is one segment, or one
        of its `.npz` files.
      names: of the views.
      world_from_camera: poses; rigid, in double precision.
      intrinsics: pinhole cameras, in pixels of the processed pictures.
      joins: how each chunk but the first was joined to the one before.
      segments: the numbers of the views of each segment.
      loops: places that the sequence comes back to, if they were looked for.
    """

    folder: Path
    names: tuple[str, ...]
    world_from_camera: Float[np.ndarray, "V 4 4"]
    intrinsics: Float[np.ndarray, "V 3 3"]
    joins: tuple[Join, ...]
    segments: tuple[range, ...]
    loops: tuple[Loop, ...] = ()
    _kept: "TemporaryFolder | None" = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def load(cls, folder: str | Path) -> "SequenceReconstruction":
        """Opens the folder that `Pipeline.reconstruct_sequence` wrote.

        Raises:
          InputError: it is absent, damaged, unfinished, or none of a sequence.
        """
        folder = path_of("folder", folder)
        check_finished(folder)
        records = read_chunks(folder)
        if not records:
            raise InputError(
                f"{folder} is no reconstruction of a sequence; read it with Reconstruction.load"
            )
        closed = read_loops(folder)
        if closed is not None:
            records = with_placements(records, closed.placements)
        rows = [np.arange(*record.kept) - record.start for record in records]
        each = list(zip(records, rows, strict=True))
        return cls(
            folder=folder,
            names=tuple(record.names[row] for record, own in each for row in own),
            world_from_camera=np.concatenate([record.poses()[own] for record, own in each]),
            intrinsics=np.concatenate([record.intrinsics[own] for record, own in each]),
            joins=tuple(join for record in records for join in record.joins),
            segments=segments_of(records),
            loops=() if closed is None else closed.loops,
        )

    def views(self, *, every: int = 1, segment: int | None = None) -> Reconstruction:
        """The views, in host memory: about 32 bytes a pixel.

        Args:
          every: each `every`-th view.
          segment: of this segment alone.

        Raises:
          InputError: there is no such segment, a file is damaged, or they take too much memory.
        """
        every = whole_number("every", every, least=1)
        chosen = range(len(self))
        if segment is not None:
            most = len(self.segments) - 1
            chosen = self.segments[whole_number("segment", segment, least=0, most=most)]
        return Reconstruction.of_scene(read_streamed(self.folder, chosen[::every]))

    def save(
        self,
        folder: str | Path,
        formats: Sequence[str] = USUAL_FORMATS,
        *,
        every: int = 1,
        **options: Unpack[ExportKeywords],
    ) -> Path:
        """Writes the sequence in several formats, each under its usual name in one folder.

        Segments get folders of their own, `segment_0` and so on, if there are several. The
        trajectory, as TUM and KITTI have it, is of all views; it needs no points in memory.

        Args:
          folder: where to; it is replaced as a whole, and only if it is empty or `overwrite` is
            true.
          formats: names of `jaxrecon.formats.FORMATS`.
          every: all but the trajectory are of each `every`-th view; those lie in memory together.
          options: fields of `ExportOptions`.

        Returns:
          The folder.

        Raises:
          InputError: a format or an option is unknown, or the views take too much memory.
          OutputError: the folder is in use, holds the sequence, or cannot be written; nothing was
            left half-written.
        """
        chosen = ExportOptions(**options)
        kinds = [format_named(name) for name in formats]
        check_options(chosen, kinds)
        for kind in kinds:
            kind.check_library()
        path = path_of("folder", folder)
        own = [self.folder]
        with replacing_folder(path, overwrite=chosen.overwrite, inputs=own) as temporary:
            for number in range(len(self.segments)):
                several = len(self.segments) > 1
                place = temporary / f"segment_{number}" if several else temporary
                place.mkdir(exist_ok=True)
                self.write(place, formats, chosen, every=every, segment=number)
        return path

    def write(
        self,
        folder: Path,
        formats: Sequence[str],
        options: ExportOptions,
        *,
        every: int = 1,
        segment: int = 0,
        refused: dict[str, str] | None = None,
    ) -> dict[str, int | None]:
        """Writes formats of one segment into a folder that is there; see `save`.

        Args:
          refused: where it is given, formats that cannot hold the segment are left out, and noted
            there: their files and why.

        Returns:
          The files that were written, and how many points each has; None for those that are not
          made of points.

        Raises:
          InputError: a format cannot hold the segment, and `refused` is not given.
          OutputError: a file cannot be written.
        """
        kinds = [format_named(name) for name in formats]
        scene = None
        written: dict[str, int | None] = {}
        for kind in kinds:
            target = folder / kind.file
            if kind.name == "trajectory":
                own = self.segments[segment]
                names = self.names[own.start : own.stop]
                poses = self.world_from_camera[own.start : own.stop]
                write_poses(names, poses, target, overwrite=options.overwrite)
                written[kind.file] = None
                continue
            if scene is None:
                scene = self.views(every=every, segment=segment).scene()
            try:
                written[kind.file] = kind.write(scene, target, kind.own(options))
            except InputError as error:
                if refused is None:
                    raise
                refused[kind.file] = str(error)
        return written
