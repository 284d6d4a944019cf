"""Depth and normals as PNG pictures."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from jaxrecon.files import replacing_folder
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene, file_stems
from jaxrecon.geometry import normals_from_points
from jaxrecon.images.resizing import worker_count

_DEEPEST = 65535


def write_pictures(scene: Scene, folder: Path, options: ExportOptions) -> None:
    """Writes `depth/<view>.png`, `normal/<view>.png` and `depth_scale.json` into `folder`.

    Depth (along the optical axis) is 16-bit grey, linear from 0 to the view's largest finite
    depth: depth = value * depth_per_unit, and 0 means no depth. `depth_per_unit` stands in the
    PNG's text chunk of that name and, for all views, in `depth_scale.json`. Normals are in the
    camera's frame (x right, y down, z forward) with n as the colour 255 * (n + 1) / 2, and black
    where there is none. They come from the pixels under the mask.

    Raises:
      OutputError: the folder is in use or cannot be written.
    """
    points, mask = jnp.asarray(scene.points_camera), jnp.asarray(scene.mask)
    normals = np.asarray(normals_from_points(points, mask)[0])
    scales = {}
    with replacing_folder(folder, overwrite=options.overwrite) as temporary:
        (temporary / "depth").mkdir()
        (temporary / "normal").mkdir()
        for view, stem in enumerate(file_stems(scene.names)):
            depth = scene.points_camera[view, ..., 2]
            scales[f"{stem}.png"] = _write_depth(depth, temporary / "depth" / f"{stem}.png")
            _write_normal(normals[view], temporary / "normal" / f"{stem}.png")
        (temporary / "depth_scale.json").write_text(json.dumps(scales, indent=2) + "\n")


def each_view(
    work: Callable[[int], object], views: int, advance: Callable[[], object] = lambda: None
) -> None:
    """Calls `work` with each view's number in a few threads, and `advance` behind each."""
    with ThreadPoolExecutor(worker_count()) as pool:
        try:
            for _ in pool.map(work, range(views)):
                advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_color(color: UInt8[np.ndarray, "H W 3"], path: Path) -> None:
    """Writes one colour picture."""
    from PIL import Image

    Image.fromarray(color).save(path)


def write_colors(
    colors: UInt8[np.ndarray, "V H W 3"], paths: Sequence[Path], advance: Callable[[], object]
) -> None:
    """Writes a picture a view; `advance` is called when one is written."""
    each_view(lambda view: write_color(colors[view], paths[view]), len(paths), advance)


def _write_depth(depth: Float[np.ndarray, "H W"], path: Path) -> float:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    stored, depth_per_unit = _quantised(depth)
    text = PngInfo()
    text.add_text("depth_per_unit", repr(depth_per_unit))
    Image.fromarray(stored).save(path, pnginfo=text)
    return depth_per_unit


def _quantised(depth: Float[np.ndarray, "H W"]) -> tuple[UInt16[np.ndarray, "H W"], float]:
    present = np.isfinite(depth) & (depth > 0)
    depth = np.where(present, depth, 0).astype(np.float64)
    depth_per_unit = float(depth.max()) / _DEEPEST or 1.0
    return np.rint(depth / depth_per_unit).astype(np.uint16), depth_per_unit


def _write_normal(normals: Float[np.ndarray, "H W 3"], path: Path) -> None:
    present = (normals != 0).any(axis=-1, keepdims=True)
    color = np.where(present, np.rint(255 * (normals + 1) / 2), 0)
    write_color(color.astype(np.uint8), path)
