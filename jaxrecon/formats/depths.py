"""Depth maps, one file a view, at the size of the photos or of the processed pictures."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, UInt16

from jaxrecon.extras import Extra, check_installed
from jaxrecon.files import output_error_of_text, replacing_folder
from jaxrecon.formats.cameras import Cameras, cameras_of
from jaxrecon.formats.options import ExportOptions, Size
from jaxrecon.formats.pictures import each_view
from jaxrecon.formats.scene import Scene, check_cameras, file_stems, no_points, usable_pixels
from jaxrecon.images import PixelTransform
from jaxrecon.images.original import at_original_size
from jaxrecon.progress import Stages

type DepthKind = Literal["png", "npy", "exr"]

DEPTH_FILE = "depth.json"
MILLIMETRE = 0.001

_DEEPEST = 65535
_FAST: dict[str, Any] = {"compress_level": 1, "compress_type": 3}
"""Zlib's Z_RLE: only runs of equal bytes, of which maps at the photos' size are full. It is the
quickest, and smaller there than zlib's own level 1."""

_EXR = ("exr", "EXR files need OpenEXR")


@dataclass(frozen=True)
class DepthMaps:
    """The depth of each view along its optical axis, of the pixels under the mask.

    Attributes:
      scene: whose.
      size: at the size of the photos, or of the processed pictures.
    """

    scene: Scene
    size: Size = "original"

    @cached_property
    def transforms(self) -> tuple[PixelTransform, ...]:
        """From the photos to the processed pictures."""
        return self.scene.transforms

    @cached_property
    def cameras(self) -> Cameras:
        """The cameras of the maps."""
        return cameras_of(self.scene, self.size)

    def depth(self, view: int) -> Float[np.ndarray, "H W"]:
        """A view's map; NaN where there is none."""
        return self._sized(view, self._processed(view), np.nan)

    def steps(self, view: int) -> UInt16[np.ndarray, "H W"]:
        """A view's map in steps of `unit`; 0 where there is none, or it is beyond 16 bits."""
        steps = np.rint(np.nan_to_num(self._processed(view)) / np.float32(self.unit))
        return self._sized(view, np.where(steps <= _DEEPEST, steps, 0).astype(np.uint16), 0.0)

    def _processed(self, view: int) -> Float[np.ndarray, "H W"]:
        depth = self.scene.points_camera[view, ..., 2]
        present = self.scene.mask[view] & np.isfinite(depth) & (depth > 0)
        return np.where(present, depth, np.nan).astype(np.float32)

    def _sized(self, view: int, values: np.ndarray, outside: float) -> np.ndarray:
        if self.size == "processed":
            return values
        return at_original_size(self.transforms[view], values, outside=outside)

    @cached_property
    def unit(self) -> float:
        """Depth in the scene's unit of one step of a 16-bit picture, the same for all views.

        A millimetre, if the scene is in metres. If its unit is unknown, a thousandth of that too,
        as readers take it unless told otherwise, but a power of ten that fits where the deepest
        pixel is nearer than 1 or beyond what 16 bits hold.
        """
        views = range(len(self.scene.names))
        z, mask = self.scene.points_camera[..., 2], self.scene.mask
        deepest = max(float(z[v].max(where=mask[v] & np.isfinite(z[v]), initial=0)) for v in views)
        if self.scene.metric_scale is not None or not deepest:
            return MILLIMETRE
        if 1 <= deepest <= _DEEPEST * MILLIMETRE:
            return MILLIMETRE
        return 10.0 ** math.ceil(math.log10(deepest / _DEEPEST))

    def note_too_deep(self, stages: Stages) -> None:
        """Says how much depth 16 bits do not hold."""
        limit = (_DEEPEST + 0.5) * self.unit
        z, found, lost = self.scene.points_camera[..., 2], 0, 0
        for view, mask in enumerate(self.scene.mask):
            depth = z[view][mask & np.isfinite(z[view])]
            found += np.count_nonzero(depth > 0)
            lost += np.count_nonzero(depth > limit)
        if lost:
            stages.note(
                f"NOTE: {lost:,} of {found:,} pixels with depth are deeper than {limit:.5g}, which "
                "pictures of 16 bits do not hold, and have none there: the formats depth-npy and "
                "depth-exr hold all"
            )

    def write_png(self, view: int, path: Path) -> None:
        """The `steps` of a view as 16-bit grey."""
        from PIL import Image

        Image.fromarray(self.steps(view)).save(path, **_FAST)


def write_depth_png(scene: Scene, folder: Path, options: ExportOptions) -> None:
    """Writes depth maps as 16-bit PNG: see `_write`."""
    _write(scene, folder, options, "png", lambda maps: maps.write_png)


def write_depth_npy(scene: Scene, folder: Path, options: ExportOptions) -> None:
    """Writes depth maps as NPY: see `_write`."""
    _write(scene, folder, options, "npy", _npy_writer)


def write_depth_exr(scene: Scene, folder: Path, options: ExportOptions) -> None:
    """Writes depth maps as EXR: see `_write`.

    Raises:
      InputError: OpenEXR is not installed.
    """
    check_installed("OpenEXR", *_EXR)
    _write(scene, folder, options, "exr", _exr_writer)


def _write(
    scene: Scene,
    folder: Path,
    options: ExportOptions,
    kind: DepthKind,
    writer: Callable[[DepthMaps], Callable[[int, Path], None]],
) -> None:
    """Writes `<view>.png`, `.npy` or `.exr` of each view, and `depth.json`, which describes them.

    Depth is along the optical axis, of the pixels under the mask, each from the nearest processed
    pixel. PNG is 16-bit grey in steps of `depth_unit` (millimetres where the scene is in metres),
    with 0 for none; NPY and EXR (channel Z) are float32 in the scene's unit, with NaN for none.
    `depth.json` has each map's photo, size and camera in pixels of the map.

    Raises:
      InputError: the mask keeps no point, or a camera is not finite.
      OutputError: the folder is in use or cannot be written.
    """
    check_cameras(scene)
    check_points(scene)
    maps = DepthMaps(scene, "processed" if options.size == "processed" else "original")
    files = [f"{stem}.{kind}" for stem in file_stems(scene.names)]
    write = writer(maps)
    if kind == "png":
        maps.note_too_deep(options.stages)
    with (
        replacing_folder(folder, overwrite=options.overwrite) as temporary,
        options.stages.stage("depth", total=len(files)) as advance,
    ):
        each_view(lambda view: write(view, temporary / files[view]), len(files), advance)
        (temporary / DEPTH_FILE).write_text(json.dumps(_facts(maps, files, kind), indent=1) + "\n")


def check_points(scene: Scene) -> None:
    """Refuses a scene whose mask keeps no finite point.

    Raises:
      InputError: see above.
    """
    if not usable_pixels(scene).any():
        raise no_points()


def _npy_writer(maps: DepthMaps) -> Callable[[int, Path], None]:
    return lambda view, path: np.save(path, maps.depth(view))


def _exr_writer(maps: DepthMaps) -> Callable[[int, Path], None]:
    def write(view: int, path: Path) -> None:
        with Extra(*_EXR):
            import OpenEXR
        header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
        try:
            OpenEXR.File(header, {"Z": maps.depth(view)}).write(str(path))
        except RuntimeError as error:  # as which it tells of a full disk
            raise output_error_of_text(path, error) from error

    return write


def _facts(maps: DepthMaps, files: list[str], kind: DepthKind) -> dict[str, Any]:
    png = kind == "png"
    return {
        "format": "jaxrecon-depth",
        "version": 1,
        "size": maps.size,
        "metric": maps.scene.metric_scale is not None,
        "depth_unit": maps.unit if png else 1.0,
        "no_depth": 0 if png else "NaN",
        "views": [_view_facts(maps, view, file) for view, file in enumerate(files)],
    }


def _view_facts(maps: DepthMaps, view: int, file: str) -> dict[str, Any]:
    (width, height), matrix = maps.cameras.sizes[view].tolist(), maps.cameras.intrinsics[view]
    return {
        "file": file,
        "photo": maps.scene.names[view],
        "width": width,
        "height": height,
        "fx": float(matrix[0, 0]),
        "fy": float(matrix[1, 1]),
        "cx": float(matrix[0, 2]),
        "cy": float(matrix[1, 2]),
        "world_from_camera": maps.cameras.world_from_camera[view].tolist(),
    }
