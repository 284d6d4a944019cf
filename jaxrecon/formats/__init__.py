"""Writes reconstructions to the formats of other tools.

| path | what is written |
|---|---|
| `*.ply` | the coloured points with their confidence |
| `*.glb` | coloured points and cameras, for viewers |
| `*.npz` | everything, to load again |
| a folder | a COLMAP model with its pictures |
"""

import os
from pathlib import Path
from typing import Literal

from jaxrecon.errors import InputError
from jaxrecon.formats.colmap import write_colmap
from jaxrecon.formats.glb import write_glb
from jaxrecon.formats.npz import read_npz, write_npz
from jaxrecon.formats.pictures import save_pictures
from jaxrecon.formats.ply import write_ply
from jaxrecon.formats.scene import VIEW_ARRAYS, PointTracks, Scene, check_max_points
from jaxrecon.formats.streamed import Streamed, check_stream_folder, is_streamed, read_streamed
from jaxrecon.formats.summary import write_summary
from jaxrecon.formats.viewer import serve

__all__ = [
    "VIEW_ARRAYS",
    "PointTracks",
    "Scene",
    "Streamed",
    "check_stream_folder",
    "format_of",
    "is_streamed",
    "read_npz",
    "read_streamed",
    "save",
    "save_pictures",
    "serve",
    "write_npz",
    "write_summary",
]

type Format = Literal["ply", "glb", "npz", "colmap"]

_FILES: dict[str, Format] = {".ply": "ply", ".glb": "glb", ".npz": "npz"}


def format_of(path: str | Path) -> Format:
    """The format that `save` would write at `path`.

    A trailing slash, an existing folder, or no suffix means a COLMAP folder.

    Raises:
      InputError: the suffix is unknown.
    """
    suffix = Path(path).suffix.lower()
    if str(path).endswith(("/", "\\")) or os.path.isdir(path) or not suffix:
        return "colmap"
    if suffix not in _FILES:
        raise InputError(
            f"cannot tell the format of {path} from its suffix {suffix}; use {', '.join(_FILES)}, "
            "or a folder (end it with a slash) for COLMAP"
        )
    return _FILES[suffix]


def save(
    scene: Scene,
    path: str | Path,
    *,
    overwrite: bool = False,
    max_points: int | None = None,
    text: bool = False,
) -> Path:
    """Writes the scene in the format that the path names.

    A file is replaced at once and whole; a COLMAP folder with something in it is replaced only if
    `overwrite` is true. After an error the path is as it was.

    Args:
      scene: what to write.
      path: see the table at the head of this module.
      overwrite: whether a COLMAP folder may be replaced.
      max_points: the most points to write, drawn evenly and repeatably. None means the format's
        default: all in PLY, 1,000,000 in GLB, 100,000 in COLMAP. NPZ always holds everything.
      text: whether COLMAP's files are written as text.

    Returns:
      The path.

    Raises:
      InputError: an argument does not fit the format, or there is no point to write.
      OutputError: the path is in use or cannot be written.
    """
    kind, target = format_of(path), Path(os.path.expanduser(path))
    check_max_points(max_points)
    if text and kind != "colmap":
        raise InputError(f"text=True is for COLMAP folders, but {path} is a {kind} file")
    if kind == "colmap":
        write_colmap(scene, target, overwrite=overwrite, max_points=max_points, text=text)
    elif kind == "ply":
        write_ply(scene, target, max_points=max_points)
    elif kind == "glb":
        write_glb(scene, target, max_points=max_points)
    elif max_points is None:
        write_npz(scene, target)
    else:
        raise InputError(f"max_points={max_points} is not for {path}: NPZ holds every pixel")
    return target
