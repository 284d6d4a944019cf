"""Everything of a reconstruction in one NumPy archive."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.files import replacing_file
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.recorded import RecordedViews, recorded_transforms
from jaxrecon.formats.scene import VIEW_ARRAYS, PointTracks, Scene
from jaxrecon.reading import ArrayHeader, NpzArchive, is_plain_file, open_npz, shown

_MARK, _VERSION = "jaxrecon_npz", 1
_ARRAYS = (*VIEW_ARRAYS, "original_sizes", "scales", "offsets")
_TRACK_ARRAYS = ("xy", "visibility", "confidence", "query_view")

_NUMBERS, _WHOLE = "fiu", "iu"
_SHAPES = {
    "points_world": ("V", "H", "W", 3),
    "points_camera": ("V", "H", "W", 3),
    "confidence": ("V", "H", "W"),
    "mask": ("V", "H", "W"),
    "colors": ("V", "H", "W", 3),
    "world_from_camera": ("V", 4, 4),
    "intrinsics": ("V", 3, 3),
    "original_sizes": ("V", 2),
    "scales": ("V", 2),
    "offsets": ("V", 2),
    "track_xy": ("V", "Q", 2),
    "track_visibility": ("V", "Q"),
    "track_confidence": ("V", "Q"),
    "track_query_view": ("Q",),
    "track_points_world": ("Q", 3),
    "names": ("V",),
    "files": ("V",),
    "photo_masks": ("V",),
    "stages": ("S",),
    "stage_seconds": ("S",),
}
"""Axes by letter (views, height, width, points that were followed, stages) or length; what is not
here is one value."""

_KINDS = {
    "mask": "b",
    "colors": "u",
    "original_sizes": _WHOLE,
    "track_query_view": _WHOLE,
    _MARK: _WHOLE,
    "names": "U",
    "files": "U",
    "photo_masks": "U",
    "model": "U",
    "stages": "U",
}
"""NumPy's letters of the kinds that an array may have; numbers if it is not here."""

_MOST_RATIO = 10
_MOST_SIDE = 2**31 - 1
_LEAST_SCALE, _MOST_SCALE = 1e-9, 1e9
_WHAT = "a whole .npz file of a reconstruction"
_ADVICE = "write it again with Reconstruction.save"


def write_npz(scene: Scene, path: Path, *, compressed: bool = True) -> None:
    """Writes every array of the scene, its names, model and timings; `numpy.load` opens it too.

    The absolute paths of the photos are in the array `files`, empty for a view without one, so that
    formats that need the photos can be written later. Nothing else depends on them. Those of the
    users' masks are in `photo_masks`, if all of them are files.

    The arrays of its tracks, if it has any, are named `track_xy` and so on. Numbers with a fraction
    are stored as they are, since compression takes a minute a gigabyte and saves a tenth; masks and
    colours are compressed. What would unpack to more than ten times its size is not: readers take
    that for a file made to fill the memory.

    Raises:
      OutputError: the file cannot be written.
    """
    arrays = {name: getattr(scene, name) for name in _ARRAYS}
    notes = {
        _MARK: np.int64(_VERSION),
        "names": np.array(scene.names, np.str_),
        "model": np.array(scene.model, np.str_),
        "stages": np.array(list(scene.seconds), np.str_),
        "stage_seconds": np.array(list(scene.seconds.values()), np.float64),
    }
    if scene.metric_scale is not None:
        notes["metric_scale"] = np.float64(scene.metric_scale)
    if any(scene.files):
        notes["files"] = np.array([file or "" for file in scene.files], np.str_)
    if scene.photo_masks and all(isinstance(mask, str) for mask in scene.photo_masks):
        notes["photo_masks"] = np.array(scene.photo_masks, np.str_)
    told = {name: _plain(x) for name, x in (arrays | _track_arrays(scene.tracks) | notes).items()}
    with replacing_file(path) as temporary:
        _save(temporary, told, compressed=compressed)
        unpacked = sum(array.nbytes for array in told.values())
        if compressed and unpacked > _MOST_RATIO * temporary.stat().st_size:
            _save(temporary, told, compressed=False)


def write_whole(scene: Scene, path: Path, options: ExportOptions) -> None:
    """`write_npz`, as the other formats are written; it takes none of the options."""
    del options
    write_npz(scene, path)


def _save(path: Path, arrays: Mapping[str, np.ndarray], *, compressed: bool) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            if compressed and array.dtype.kind != "f":
                member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _plain(array: Any) -> np.ndarray:
    """An array of a dtype that NumPy's files can name; bfloat16 is none."""
    array = np.asarray(array)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _is_photo(path: str) -> bool:
    """Whether a recorded path leads to a file on this machine."""
    return os.path.isabs(path) and is_plain_file(path)


def _track_arrays(tracks: PointTracks | None) -> dict[str, np.ndarray]:
    if tracks is None:
        return {}
    found = {f"track_{name}": np.asarray(getattr(tracks, name)) for name in _TRACK_ARRAYS}
    if tracks.points_world is not None:
        found["track_points_world"] = np.asarray(tracks.points_world)
    return found


def read_npz(path: str | Path) -> Scene:
    """Reads back what `write_npz` wrote; nothing in the file is unpickled.

    Poses, intrinsics and points may be anything but of another shape: what a model says of a scene
    that it does not understand need not be finite.

    Raises:
      InputError: the file is absent, damaged, or not a reconstruction: an array is missing, of
        another kind or shape, or sizes, scales and offsets are none that a picture can have.
    """
    with open_npz(path, what=_WHAT, advice=_ADVICE) as archive:
        return _Reader(path, archive, {}).scene()


def is_reconstruction(path: str | Path) -> bool:
    """Whether an archive is one that `write_npz` wrote, by the names of its arrays.

    Raises:
      InputError: it is absent, damaged, or no archive.
    """
    with open_npz(path) as archive:
        return _MARK in archive


def read_npz_views(path: str | Path, *, depths: bool) -> RecordedViews:
    """What a file of `write_npz` says of its views; of its points only their depth, if wanted.

    Raises:
      InputError: see `read_npz`.
    """
    with open_npz(path, what=_WHAT, advice=_ADVICE) as archive:
        return _Reader(path, archive, {}).views(depths=depths)


@dataclass(frozen=True)
class _Reader:
    """An archive, whose arrays must agree on the lengths of the axes that `_SHAPES` names."""

    path: str | Path
    archive: NpzArchive
    lengths: dict[str, int]

    def check_version(self) -> None:
        version = self.read(_MARK)
        if version != _VERSION:
            self.refuse(f"{_MARK}, its version, is {version}, expected {_VERSION}")

    def views(self, *, depths: bool) -> RecordedViews:
        self.check_version()
        self.check_shape("points_camera", self.archive.header("points_camera"))
        names = ("original_sizes", "scales", "offsets")
        sizes, scales, offsets = (self.read(name) for name in names)
        self.check_transforms(sizes, scales, offsets)
        return RecordedViews(
            names=tuple(self.read("names").tolist()),
            transforms=recorded_transforms(
                sizes, scales, offsets, (self.lengths["W"], self.lengths["H"])
            ),
            intrinsics=self.read("intrinsics"),
            world_from_camera=self.read("world_from_camera"),
            depth_z=self.read("points_camera")[..., 2] if depths else None,
            metric=self.metric_scale() is not None,
        )

    def scene(self) -> Scene:
        self.check_version()
        arrays: dict[str, Any] = {name: self.read(name) for name in _ARRAYS}
        for axis in "VHW":
            if not self.lengths[axis]:
                self.refuse(f"points_world has the shape {arrays['points_world'].shape}")
        if arrays["colors"].dtype != np.uint8:
            self.refuse(f"colors has the dtype {arrays['colors'].dtype}, expected uint8")
        arrays["mask"] = arrays["mask"].view(np.uint8) != 0  # a byte may be any, truth is 0 or 1
        self.check_transforms(arrays["original_sizes"], arrays["scales"], arrays["offsets"])
        stages = self.read("stages")
        return Scene(
            **arrays,
            names=tuple(self.read("names").tolist()),
            model=self.read("model").item(),
            seconds=dict(zip(stages.tolist(), self.read("stage_seconds").tolist(), strict=True)),
            tracks=self.tracks(),
            metric_scale=self.metric_scale(),
            files=self.files(),
            photo_masks=self.photo_masks(),
        )

    def read(self, name: str) -> np.ndarray:
        """An array of the kind and shape that it must have."""
        header = self.archive.header(name)
        kinds = _KINDS.get(name, _NUMBERS)
        if header.dtype.kind not in kinds:
            self.refuse(f"{name} has the dtype {header.dtype}")
        self.check_shape(name, header)
        return self.archive.read(name)

    def check_shape(self, name: str, header: ArrayHeader) -> None:
        axes = _SHAPES.get(name, ())
        if len(header.shape) == len(axes):
            for axis, length in zip(axes, header.shape, strict=True):
                if isinstance(axis, str):
                    self.lengths.setdefault(axis, length)
        expected = tuple(self.lengths.get(a, 0) if isinstance(a, str) else a for a in axes)
        if header.shape != expected:
            told = ", ".join(str(self.lengths.get(a, a) if isinstance(a, str) else a) for a in axes)
            self.refuse(f"{name} has the shape {shown(header.shape)}, expected ({told})")

    def check_transforms(self, sizes: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> None:
        """Refuses what no picture can be, and pictures that show nothing of their original."""
        if not ((sizes >= 1) & (sizes <= _MOST_SIDE)).all():
            self.refuse(f"original_sizes are not all from 1 to {_MOST_SIDE} pixels")
        if not ((scales >= _LEAST_SCALE) & (scales <= _MOST_SCALE)).all():
            self.refuse(f"scales are not all from {_LEAST_SCALE:g} to {_MOST_SCALE:g}")
        size = np.array([self.lengths["W"], self.lengths["H"]])
        ends = scales.astype(np.float64) * sizes + offsets
        if not ((offsets < size) & (ends > 0) & np.isfinite(ends)).all():
            self.refuse("offsets lead out of the pictures, or are not finite")

    def files(self) -> tuple[str | None, ...]:
        """Where the photos lie; None for each that is not there, or was not recorded."""
        if "files" not in self.archive:
            return ()
        told = self.read("files").tolist()
        return tuple(path if _is_photo(path) else None for path in told)

    def photo_masks(self) -> tuple[str, ...]:
        """Where the users' masks lie; empty if one is not there, or they were not recorded."""
        if "photo_masks" not in self.archive:
            return ()
        told = self.read("photo_masks").tolist()
        return tuple(told) if all(map(_is_photo, told)) else ()

    def metric_scale(self) -> float | None:
        if "metric_scale" not in self.archive:
            return None
        scale = float(self.read("metric_scale"))
        if not np.isfinite(scale):
            self.refuse(f"metric_scale is {scale}")
        return scale

    def tracks(self) -> PointTracks | None:
        if "track_xy" not in self.archive:
            return None
        arrays = {name: self.read(f"track_{name}") for name in _TRACK_ARRAYS}
        refined = "track_points_world" in self.archive
        points = self.read("track_points_world") if refined else None
        try:
            return PointTracks(**arrays, points_world=points)
        except InputError as error:
            self.refuse(str(error))

    def refuse(self, reason: str) -> NoReturn:
        raise InputError(f"{self.path} is not {_WHAT} ({reason}); {_ADVICE}")
