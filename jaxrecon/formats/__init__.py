"""Writes reconstructions to the formats of other tools; `FORMATS` lists them.

`save` tells the format by the path's suffix, and a folder is a COLMAP model; the others are asked
for by name. Names resolve on first use, so that the command line starts without JAX.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from jaxrecon.checks import path_given, shown
from jaxrecon.choices import meant
from jaxrecon.errors import InputError
from jaxrecon.extras import check_installed
from jaxrecon.files import check_output_folder
from jaxrecon.formats.options import ExportKeywords, ExportOptions

if TYPE_CHECKING:
    from jaxrecon.formats.npz import read_npz, write_npz
    from jaxrecon.formats.scene import VIEW_ARRAYS, PointTracks, Scene
    from jaxrecon.formats.streamed import (
        Streamed,
        check_stream_folder,
        is_streamed,
        read_streamed,
    )
    from jaxrecon.formats.summary import write_summary
    from jaxrecon.formats.viewer import serve, serve_cloud
    from jaxrecon.formats.viewer_files import LoosePoints, read_shown, shown_file

_HOMES = {
    "VIEW_ARRAYS": "scene",
    "PointTracks": "scene",
    "Scene": "scene",
    "Streamed": "streamed",
    "check_stream_folder": "streamed",
    "is_streamed": "streamed",
    "read_npz": "npz",
    "read_streamed": "streamed",
    "LoosePoints": "viewer_files",
    "read_shown": "viewer_files",
    "serve": "viewer",
    "serve_cloud": "viewer",
    "shown_file": "viewer_files",
    "write_npz": "npz",
    "write_summary": "summary",
}

SUMMARY_FILE = "summary.json"
"""What a run says of itself, beside its files."""

__all__ = [
    "FORMATS",
    "SUMMARY_FILE",
    "VIEW_ARRAYS",
    "ExportKeywords",
    "ExportOptions",
    "Format",
    "LoosePoints",
    "PointTracks",
    "Scene",
    "Streamed",
    "check_options",
    "check_stream_folder",
    "format_named",
    "format_of",
    "is_streamed",
    "photos_of",
    "read_npz",
    "read_shown",
    "read_streamed",
    "save",
    "serve",
    "serve_cloud",
    "shown_file",
    "write_npz",
    "write_summary",
]


@dataclass(frozen=True)
class Format:
    """A format that reconstructions are written in.

    Attributes:
      name: what users call it.
      file: what it is called in a folder of several formats; a folder's name ends in a slash.
      home: the module in this package that holds its writer.
      writer: the name there of a function of a `Scene`, a path and `ExportOptions`, which returns
        the number of points that it wrote, or None if it does not write points one by one.
      takes: the options that it takes, beside `overwrite` and `stages`.
      by_suffix: whether a path with the suffix of `file` means this format.
      library: what it needs that a plain installation leaves out, and `extra` which installs it.
    """

    name: str
    file: str
    home: str
    writer: str
    takes: frozenset[str] = frozenset()
    by_suffix: bool = False
    library: str | None = None
    extra: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder, not a file."""
        return self.file.endswith("/")

    @property
    def suffix(self) -> str:
        """The suffix of its file; empty for a folder."""
        return Path(self.file).suffix

    @property
    def write(self) -> "Callable[[Scene, Path, ExportOptions], int | None]":
        """The writer, imported now."""
        return getattr(import_module(f"jaxrecon.formats.{self.home}"), self.writer)

    def own(self, options: ExportOptions) -> ExportOptions:
        """The options that it takes, of those for several formats."""
        plain = ExportOptions()
        kept = {*self.takes, "overwrite"}
        return replace(
            options,
            **{name: getattr(plain, name) for name in options.given if name not in kept},
        )

    def check_library(self, where: str = "") -> None:
        """Refuses a format whose library is not installed.

        Raises:
          InputError: naming the extra that installs it; `where` begins the message.
        """
        if self.library is not None:
            check_installed(self.library, self.extra, f"{where}{self.name} needs {self.library}")


_POINTS = frozenset({"max_points", "voxel"})
_SIZE, _VOXEL = frozenset({"size"}), frozenset({"voxel"})
_PHOTOS = frozenset({"images", "size"})
_COLMAP = _POINTS | _PHOTOS | {"text"}

FORMATS = {
    each.name: each
    for each in (
        Format("ply", "scene.ply", "ply", "write_ply", _POINTS, by_suffix=True),
        Format(
            *("glb", "scene.glb", "glb", "write_glb", _POINTS),
            by_suffix=True,
            library="trimesh",
            extra="mesh",
        ),
        Format("npz", "scene.npz", "npz", "write_whole", by_suffix=True),
        Format("colmap", "colmap/", "colmap", "write_colmap", _COLMAP),
        Format("nerfstudio", "nerfstudio/", "nerfstudio", "write_nerfstudio", _POINTS | _PHOTOS),
        Format("splats", "splats.ply", "splats", "write_splats", _POINTS),
        Format("depth", "depth/", "depths", "write_depth_png", _SIZE),
        Format("depth-npy", "depth-npy/", "depths", "write_depth_npy", _SIZE),
        Format(
            *("depth-exr", "depth-exr/", "depths", "write_depth_exr", _SIZE),
            library="OpenEXR",
            extra="exr",
        ),
        Format("trajectory", "trajectory/", "trajectory", "write_trajectory"),
        *(
            Format(name, file, "mesh", "write_mesh", _VOXEL, library="skimage", extra="mesh")
            for name, file in (
                ("mesh", "mesh.glb"),
                ("mesh-obj", "mesh.obj"),
                ("mesh-ply", "mesh.ply"),
            )
        ),
        Format(
            *("rerun", "scene.rrd", "rerun", "write_rerun", _POINTS),
            by_suffix=True,
            library="rerun",
            extra="rerun",
        ),
        Format("pictures", "pictures/", "pictures", "write_pictures"),
        Format(
            *("summary", "summary.png", "summary", "write_plain_summary"),
            library="matplotlib",
            extra="eval",
        ),
        Format(
            *("animation", "animation.webp", "animation", "write_animation"),
            frozenset({"max_points"}),
            by_suffix=True,
        ),
        Format("report", "report.html", "report", "write_plain_report", by_suffix=True),
    )
}
"""The formats by their names."""


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"jaxrecon.formats.{_HOMES[name]}"), name)


def format_named(name: object) -> Format:
    """The format of a name.

    Raises:
      InputError: there is none.
    """
    if not isinstance(name, str) or name not in FORMATS:
        near = meant(name, FORMATS)
        raise InputError(f"format={shown(name)}: choose from {', '.join(FORMATS)}{near}")
    return FORMATS[name]


def format_of(path: str | Path) -> str:
    """The name of the format that `save` would write at `path` if none is named.

    A trailing slash, an existing folder, or no suffix means a COLMAP folder.

    Raises:
      InputError: the suffix is unknown.
    """
    suffixes = {each.suffix: each.name for each in FORMATS.values() if each.by_suffix}
    path, suffix = os.path.expanduser(path), Path(path).suffix.lower()
    if path.endswith(("/", "\\")) or os.path.isdir(path) or not suffix:
        return "colmap"
    if suffix not in suffixes:
        raise InputError(
            f"cannot tell the format of {path} from its suffix {suffix}; use {', '.join(suffixes)},"
            " or a folder (end it with a slash) for COLMAP; or name it (format=...)"
        )
    return suffixes[suffix]


def save(
    scene: "Scene",
    path: str | Path,
    format: str | None = None,
    **options: Unpack[ExportKeywords],
) -> Path:
    """Writes the scene in one format.

    A file is replaced at once and whole; a folder with something in it is replaced only if
    `overwrite` is true. After an error the path is as it was.

    Args:
      scene: what to write.
      path: where to. A file's format that is asked for by name gets its own name in a folder.
      format: one of `FORMATS`; if it is not given, the path tells it: see `format_of`.
      options: see `ExportOptions`.

    Returns:
      The path of what was written.

    Raises:
      InputError: an option does not fit the format, its library is missing, or there is nothing to
        write.
      OutputError: the path is in use, holds a photo of the scene, or cannot be written.
    """
    for name in options.keys() - ExportKeywords.__optional_keys__:
        near = meant(name, ExportKeywords.__optional_keys__)
        raise TypeError(f"save() got an unexpected keyword argument {name!r}{near}")
    path = path_given("path", path)
    kind = FORMATS[format_of(path)] if format is None else format_named(format)
    chosen = ExportOptions(**options)
    check_options(chosen, (kind,))
    kind.check_library()
    target = _target(path, kind)
    if kind.is_folder:
        check_output_folder(target, overwrite=chosen.overwrite, inputs=photos_of(scene.files))
    kind.write(scene, target, chosen)
    return target


def photos_of(files: "Sequence[str | None]") -> list[str]:
    """The files of a scene's photos that are there, each once."""
    return [file for file in dict.fromkeys(files) if file and os.path.exists(file)]


def check_options(
    options: ExportOptions,
    formats: "Sequence[Format]",
    told: Callable[[str, object], str] = lambda name, value: f"{name}={shown(value)}",
) -> None:
    """Refuses options that none of the formats takes.

    Args:
      options: of all of them.
      formats: what is to be written.
      told: how an option of a value is shown.

    Raises:
      InputError: naming the option.
    """
    taken = frozenset({"overwrite"}).union(*(each.takes for each in formats))
    for name in options.given:
        if name not in taken:
            takers = [each.name for each in FORMATS.values() if name in each.takes]
            raise InputError(
                f"{told(name, getattr(options, name))} is not for "
                f"{', '.join(each.name for each in formats)}: it is taken by {', '.join(takers)}"
            )


def _target(path: str, kind: Format) -> Path:
    """Where a format is written: in a folder, a file gets its usual name.

    Raises:
      InputError: the path has another suffix than the format's file.
    """
    target = Path(os.path.expanduser(path))
    if kind.is_folder:
        return target
    if path.endswith(("/", "\\")) or os.path.isdir(target):
        return target / kind.file
    if target.suffix.lower() != kind.suffix:
        raise InputError(
            f"{path}: {kind.name} is written to a file that ends in {kind.suffix}; call it so, or "
            "give a folder (end it with a slash)"
        )
    return target
