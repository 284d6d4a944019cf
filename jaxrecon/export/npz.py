"""Everything of a reconstruction in one compressed numpy archive."""

import zipfile
from pathlib import Path

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.export.scene import VIEW_ARRAYS, PointTracks, Scene
from jaxrecon.files import DAMAGED_ARCHIVE, replacing_file

_VERSION = 1
_ARRAYS = (*VIEW_ARRAYS, "original_sizes", "scales", "offsets")
_TRACK_ARRAYS = ("xy", "visibility", "confidence", "query_view")
_DAMAGED = (*DAMAGED_ARCHIVE, KeyError, TypeError)


def write_npz(scene: Scene, path: Path, *, compressed: bool = True) -> None:
    """Writes every array of the scene, its names, model and timings; `numpy.load` opens it too.

    The arrays of its tracks, if it has any, are named `track_xy` and so on.

    Raises:
      OutputError: the file cannot be written.
    """
    arrays = {name: getattr(scene, name) for name in _ARRAYS}
    notes = {
        "jaxrecon_npz": np.int64(_VERSION),
        "names": np.array(scene.names, np.str_),
        "model": np.array(scene.model, np.str_),
        "stages": np.array(list(scene.seconds), np.str_),
        "stage_seconds": np.array(list(scene.seconds.values()), np.float64),
    }
    if scene.metric_scale is not None:
        notes["metric_scale"] = np.float64(scene.metric_scale)
    arrays |= _track_arrays(scene.tracks)
    with replacing_file(path) as temporary, open(temporary, "wb") as file:
        save = np.savez_compressed if compressed else np.savez
        save(file, **arrays, **notes)


def _track_arrays(tracks: PointTracks | None) -> dict[str, np.ndarray]:
    if tracks is None:
        return {}
    found = {f"track_{name}": np.asarray(getattr(tracks, name)) for name in _TRACK_ARRAYS}
    if tracks.points_world is not None:
        found["track_points_world"] = np.asarray(tracks.points_world)
    return found


def read_npz(path: str | Path) -> Scene:
    """Reads back what `write_npz` wrote; nothing in the file is unpickled.

    Raises:
      InputError: the file is absent, damaged, or not a reconstruction.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise InputError(
            f"{path} is not a whole .npz file of a reconstruction ({_one_line(error)}); "
            "write it again with Reconstruction.save"
        ) from error


def _read(file) -> Scene:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is no zip archive")
    file.seek(0)
    loaded = np.load(file, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("a single array")
    with loaded as archive:
        if int(archive["jaxrecon_npz"]) != _VERSION:
            raise ValueError(f"format version {archive['jaxrecon_npz']}, expected {_VERSION}")
        arrays = {name: archive[name] for name in _ARRAYS}
        names = archive["names"].tolist()
        if arrays["mask"].ndim != 3 or {len(array) for array in arrays.values()} != {len(names)}:
            raise ValueError("its arrays do not agree on the number of views")
        tracks = _read_tracks(archive)
        if tracks is not None and len(tracks.xy) != len(names):
            raise ValueError("its tracks are of another number of views")
        stages, seconds = archive["stages"].tolist(), archive["stage_seconds"].tolist()
        return Scene(
            **arrays,
            names=tuple(names),
            model=str(archive["model"]),
            seconds=dict(zip(stages, seconds, strict=True)),
            tracks=tracks,
            metric_scale=float(archive["metric_scale"]) if "metric_scale" in archive else None,
        )


def _read_tracks(archive: np.lib.npyio.NpzFile) -> PointTracks | None:
    if "track_xy" not in archive:
        return None
    arrays = {name: archive[f"track_{name}"] for name in _TRACK_ARRAYS}
    refined = "track_points_world" in archive
    return PointTracks(**arrays, points_world=archive["track_points_world"] if refined else None)


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if error.args else type(error).__name__
    return text.splitlines()[0] if text else type(error).__name__
