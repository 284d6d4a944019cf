"""Reconstructions in a folder with a file a view, which may be written over several runs."""

import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.checks import truth_value
from jaxrecon.errors import InputError, OutputError
from jaxrecon.files import (
    check_output_folder,
    check_unheld,
    check_writable,
    output_error,
    replacing_file,
    sweep,
)
from jaxrecon.formats import FORMATS, SUMMARY_FILE
from jaxrecon.formats.chunk_files import CHUNK_FILE, read_chunks, segments_of
from jaxrecon.formats.loop_files import LOOP_FILE
from jaxrecon.formats.npz import read_npz, read_npz_views
from jaxrecon.formats.recorded import RecordedViews
from jaxrecon.formats.scene import VIEW_ARRAYS, Scene, file_stems
from jaxrecon.machine import machine_memory
from jaxrecon.reading import is_file_name, is_plain_file, read_json, shown, unpacked_limit

SCENE_FILE = "scene.json"
VERSION = 1

_MOST_BYTES = 64 * 2**20
_ADVICE = "write the reconstruction again"
_ROWS = (*VIEW_ARRAYS, "original_sizes", "scales", "offsets")
_WRITTEN = re.compile(rf"scene\.json|\d{{6}}_.*\.npz|{CHUNK_FILE.pattern}|{LOOP_FILE}")
_EXPORT = re.compile(r"(segment_\d+/)?([^/]+/?)")
"""What a command writes beside the views, of all or of a segment; folders end with a slash."""

_UNFINISHED = re.compile(rf"\.({_WRITTEN.pattern})\.[^.]+\.part")


@dataclass(frozen=True)
class Streamed:
    """A folder that a reconstruction is written to, a file a view.

    Attributes:
      folder: where.
      digest: of all that the result depends on.
      names: of the views.
    """

    folder: Path
    digest: str
    names: tuple[str, ...]

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """One a view: its number and its name."""
        stems = enumerate(file_stems(self.names))
        return tuple(self.folder / f"{view:06d}_{stem}.npz" for view, stem in stems)

    @property
    def was_finished(self) -> bool:
        """Whether the list of views says that all are there and nothing is left to do."""
        return (told_in(self.folder) or {}).get("finished") is True

    def missing(self) -> list[int]:
        """Views that are not written yet."""
        return [view for view, file in enumerate(self.files) if not file.exists()]

    def start(self, facts: dict[str, Any], *, overwrite: bool) -> None:
        """Makes the folder, or takes up what an earlier run of the same reconstruction left.

        Files that an earlier run was in the middle of are deleted: the caller holds the folder
        (`holding_folder`).

        Raises:
          OutputError: the folder holds something else, or cannot be written.
        """
        self.make_room(overwrite=overwrite)
        self.write_list(facts)

    def write_list(self, facts: dict[str, Any]) -> None:
        """Writes the list of the views' files.

        Args:
          facts: what else it says. With `finished` false, more views are to come.

        Raises:
          OutputError: it cannot be written.
        """
        notes = {"format": "jaxrecon-views", "version": VERSION, "digest": self.digest}
        listed = {"files": [file.name for file in self.files]}
        with replacing_file(self.folder / SCENE_FILE) as temporary:
            temporary.write_text(json.dumps(notes | facts | listed, indent=1) + "\n")

    def make_room(self, *, overwrite: bool) -> None:
        """Deletes what an earlier run was in the middle of, and all of another reconstruction.

        Of that, too, what its `summary.json` lists as written beside the views: it would pass for
        this one's.

        Raises:
          OutputError: the folder holds something else, or cannot be written.
        """
        _check_content(self.folder, overwrite=overwrite)
        found = _digest_in(self.folder)
        kept = found == self.digest
        if found is not None and not kept and not overwrite:
            raise _refusal(self.folder, "another reconstruction")
        try:
            if found is not None and not kept:
                _remove_exports(self.folder)
            for file in self.folder.iterdir():
                if _UNFINISHED.fullmatch(file.name) or (not kept and _WRITTEN.fullmatch(file.name)):
                    file.unlink()
        except OSError as error:
            raise output_error(self.folder, error) from error


def _remove_exports(folder: Path) -> None:
    """Removes what a command has written beside views, and its list of it."""
    try:
        told = read_json(folder / SUMMARY_FILE, limit=_MOST_BYTES)
    except InputError:
        return
    listed = told.get("files") if isinstance(told, dict) else None
    known = {each.file for each in FORMATS.values()}
    for name in listed if isinstance(listed, list) else ():
        found = _EXPORT.fullmatch(name) if isinstance(name, str) else None
        if found is None or found[2] not in known:
            continue
        path = folder / name
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
        else:
            shutil.rmtree(path)
        if found[1]:
            with suppress(OSError):  # it holds something else
                path.parent.rmdir()
    (folder / SUMMARY_FILE).unlink()


def check_stream_folder(folder: str | Path, *, overwrite: bool) -> None:
    """Refuses a folder that no reconstruction could be streamed to, before any work is done for it.

    Raises:
      InputError: `overwrite` is neither true nor false.
      OutputError: it is a file, holds other files than a streamed reconstruction and `overwrite` is
        false, or another run is writing there, or nothing may be written there.
    """
    folder = Path(folder)
    overwrite = truth_value("overwrite", overwrite)
    if not os.path.isdir(folder):
        check_output_folder(folder, overwrite=True)
        return
    check_writable(folder, folder)
    sweep(folder)
    check_unheld(folder)
    _check_content(folder, overwrite=overwrite)


def _check_content(folder: Path, *, overwrite: bool) -> None:
    """Refuses a folder that holds other files."""
    try:
        others = [file for file in folder.iterdir() if not _UNFINISHED.fullmatch(file.name)]
    except OSError as error:
        raise output_error(folder, error) from error
    if others and _digest_in(folder) is None and not overwrite:
        damaged = is_streamed(folder)  # by its name, and yet nothing that a run has begun
        what = f"a {SCENE_FILE} that is damaged or of something else" if damaged else "other files"
        raise _refusal(folder, what)


def _refusal(folder: Path, what: str) -> OutputError:
    return OutputError(f"{folder} holds {what}; choose another folder, or overwrite it")


def _digest_in(folder: Path) -> str | None:
    """The digest of what an earlier run began in a folder; None if that cannot be told."""
    digest = (told_in(folder) or {}).get("digest")
    return digest if isinstance(digest, str) else None


def told_in(folder: Path) -> dict[str, Any] | None:
    """What the list of views in a folder says; None if there is none that can be read."""
    try:
        values = read_json(folder / SCENE_FILE, limit=_MOST_BYTES)
    except InputError:
        return None
    return values if isinstance(values, dict) else None


def is_streamed(folder: Path) -> bool:
    """Whether a folder claims to be such a reconstruction."""
    return is_plain_file(folder / SCENE_FILE)


def check_finished(folder: Path) -> None:
    """Refuses a folder of which not all views are written.

    Raises:
      InputError: see above; or it is damaged.
    """
    _whole_files(folder)


def count_views(folder: Path) -> int:
    """How many views a folder says that it holds.

    Raises:
      InputError: its list of views is damaged, or more are to come.
    """
    return len(_listed(folder))


def read_streamed(folder: Path, views: Sequence[int] | None = None) -> Scene:
    """Reads views of a folder, in order; all of them if their numbers are not given.

    Raises:
      InputError: the folder is damaged, not all of its views are written, or all are asked for of a
        sequence with gaps, which has no world of all.
    """
    files = _whole_files(folder)
    if views is None:
        _check_one_world(folder)
    return read_files(folder, files if views is None else [files[view] for view in views])


def _check_one_world(folder: Path) -> None:
    segments = segments_of(read_chunks(folder))
    if len(segments) > 1:
        raise InputError(
            f"{folder} is a sequence of {len(segments)} segments, each a world of its own, which "
            "lie in no place to one another; read one with "
            "SequenceReconstruction.load(...).views(segment=0), or write each for itself "
            "(its save; the same reconstruct command with other --formats)"
        )


def read_files(folder: Path, files: list[Path]) -> Scene:
    """Reads files of single views, which have one size.

    Raises:
      InputError: one is damaged, or they would take too much memory.
    """
    first = read_npz(files[0])
    _check_room(folder, files, first)
    rows: dict[str, Any] = {name: _room(getattr(first, name), len(files)) for name in _ROWS}
    names, photos, masks = [], [], []
    for view, file in enumerate(files):  # one at a time, so that no view lies in memory twice
        scene = read_npz(file)
        for name, array in rows.items():
            array[view] = _row(scene, name, array, file)
        names.append(scene.names[0])
        photos.append(scene.files[0])
        masks += scene.photo_masks
    return Scene(
        **rows,
        names=tuple(names),
        model=first.model,
        metric_scale=first.metric_scale,
        files=tuple(photos),
        photo_masks=tuple(masks) if len(masks) == len(files) else (),
    )


def read_streamed_views(folder: Path, *, depths: bool) -> RecordedViews:
    """What the files of a folder say of their views; of their points only depth, if wanted.

    Raises:
      InputError: see `read_streamed`.
    """
    views = [read_npz_views(file, depths=depths) for file in _whole_files(folder)]
    size = views[0].transforms[0].size
    odd = next((view for view in views if view.transforms[0].size != size), None)
    if odd is not None:
        raise InputError(f"{folder}: the picture of {odd.names[0]} has another size; {_ADVICE}")
    return RecordedViews(
        names=tuple(name for view in views for name in view.names),
        transforms=tuple(each for view in views for each in view.transforms),
        intrinsics=np.concatenate([view.intrinsics for view in views]),
        world_from_camera=np.concatenate([view.world_from_camera for view in views]),
        depth_z=np.concatenate([v.depth_z for v in views if v.depth_z is not None])
        if depths
        else None,
        metric=views[0].metric,
    )


def _whole_files(folder: Path) -> list[Path]:
    """The files of all views, in order.

    Raises:
      InputError: not all are there.
    """
    files = [folder / name for name in _listed(folder)]
    missing = [file for file in files if not is_plain_file(file)]
    if missing:
        raise InputError(
            f"{folder} is not finished: {len(missing)} of {len(files)} views are missing, the "
            f"first is {missing[0].name}; run the same reconstruction again to finish it"
        )
    return files


def _check_room(folder: Path, files: list[Path], first: Scene) -> None:
    """Refuses views that would take far more memory together than their files do on disk."""
    stored = sum(file.stat().st_size for file in files)
    needed = len(files) * sum(getattr(first, name).nbytes for name in _ROWS)
    if needed > unpacked_limit(stored):
        raise InputError(
            f"{folder} unpacks to {needed // 2**20} MiB, far more than its size; if it is yours, "
            "write the reconstruction again"
        )
    memory = machine_memory()
    if memory is not None and needed > memory:
        raise InputError(
            f"{folder}: {len(files)} views take {needed // 2**20} MiB together, this machine has "
            f"{memory // 2**20}; take a part of them (every=, --export-every)"
        )


def _room(like: np.ndarray, views: int) -> np.ndarray:
    return np.empty((views, *like.shape[1:]), like.dtype)


def _row(scene: Scene, name: str, rows: np.ndarray, file: Path) -> np.ndarray:
    """What a file tells of its view, of the shape and kind that the first file's has."""
    found = getattr(scene, name)
    if found.shape != (1, *rows.shape[1:]) or found.dtype != rows.dtype:
        raise InputError(
            f"{file}: its {name} is {found.dtype} {found.shape}, expected {rows.dtype} "
            f"{(1, *rows.shape[1:])}; write the reconstruction again"
        )
    return found[0]


def _listed(folder: Path) -> list[str]:
    """The names of the files of all views, no two of them the same."""
    path = folder / SCENE_FILE
    values = read_json(path, limit=_MOST_BYTES, advice=f"the list of views is not sound; {_ADVICE}")
    if isinstance(values, dict) and values.get("finished") is False:
        raise InputError(
            f"{folder} is not finished: more views are to come; run the same reconstruction again "
            "to finish it"
        )
    try:
        if not isinstance(values, dict):
            raise ValueError(f"it holds {shown(values)}")
        if values.get("format") != "jaxrecon-views" or values.get("version") != VERSION:
            raise ValueError("another format or version")
        files = values.get("files")
        if not isinstance(files, list):
            raise ValueError(f"'files' is {shown(files)}")
        sound = all(isinstance(name, str) and is_file_name(name) for name in files)
        if not files or not sound or len(set(files)) < len(files):
            raise ValueError("its list of files is not sound")
    except ValueError as error:
        raise InputError(f"{path} is not sound ({error}); {_ADVICE}") from error
    return files
