"""Data sets for nerfstudio and instant-ngp: `transforms.json`, photos, depth maps and points.

The rules are those of nerfstudio's `nerfstudio_dataparser.py` and instant-ngp's `nerf_loader.cu`.
Poses are camera-to-world with OpenGL's axes; pixels are counted from the image's corner.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.files import replacing_folder
from jaxrecon.formats.cameras import Cameras, cameras_of
from jaxrecon.formats.depths import DepthMaps, each_view
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.ply import write_points
from jaxrecon.formats.scene import Scene, check_cameras, file_stems
from jaxrecon.formats.thinning import thinned_points

DEFAULT_POINTS = 100_000
TRANSFORMS_FILE, POINTS_FILE = "transforms.json", "sparse_pc.ply"

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_LENS = ("k1", "k2", "p1", "p2")
_AABB_SCALE = 16
"""How far instant-ngp's box of rays reaches; a power of two, of which it recommends 16 outdoors."""


def write_nerfstudio(scene: Scene, folder: Path, options: ExportOptions) -> None:
    """Writes `transforms.json`, `images/`, `depths/<view>.png` and `sparse_pc.ply` into `folder`.

    Depth maps are of the images' size, 16-bit grey in steps of `depth_unit_scale_factor`, which is
    0.001, nerfstudio's default, if that suits the scene (`DepthMaps.unit`). World coordinates are
    the scene's own, so `applied_transform` is the identity. At most `max_points` points, by
    default 100,000, are written.

    Raises:
      InputError: there is no point to write, or a camera is not finite.
      OutputError: the folder is in use or cannot be written.
    """
    check_cameras(scene)
    points = thinned_points(scene, options.max_points or DEFAULT_POINTS, options.voxel)
    size = options.size or "original"
    maps = DepthMaps(scene, size)
    depths = [f"depths/{stem}.png" for stem in file_stems(scene.names)]
    with replacing_folder(folder, overwrite=options.overwrite) as temporary:
        (temporary / "depths").mkdir()
        images = write_images(scene, temporary / "images", options)
        each_view(lambda view: maps.write_png(view, temporary / depths[view]), len(depths))
        write_points(points, temporary / POINTS_FILE)
        facts = _shared(maps.unit) | _frames(cameras_of(scene, size), images, depths)
        (temporary / TRANSFORMS_FILE).write_text(json.dumps(facts, indent=1) + "\n")


def _shared(unit: float) -> dict[str, Any]:
    return {
        "camera_model": "OPENCV",
        **dict.fromkeys(_LENS, 0.0),
        "applied_transform": np.eye(4)[:3].tolist(),
        "ply_file_path": POINTS_FILE,
        "depth_unit_scale_factor": unit,
        "integer_depth_scale": unit,
        "aabb_scale": _AABB_SCALE,
    }


def _frames(cameras: Cameras, images: list[str], depths: list[str]) -> dict[str, Any]:
    """The frames, and beside them the camera, if all have one."""
    pinholes = [_pinhole(cameras, view) for view in range(len(images))]
    one = all(pinhole == pinholes[0] for pinhole in pinholes)
    poses = cameras.world_from_camera @ _OPENGL_FROM_OPENCV
    frames = [
        {
            "file_path": image,
            "depth_file_path": depth,
            "depth_path": depth,
            **({} if one else pinhole),
            "transform_matrix": pose.tolist(),
        }
        for image, depth, pinhole, pose in zip(images, depths, pinholes, poses, strict=True)
    ]
    return {**(pinholes[0] if one else {}), "frames": frames}


def _pinhole(cameras: Cameras, view: int) -> dict[str, float]:
    (width, height), matrix = cameras.sizes[view].tolist(), cameras.intrinsics[view]
    return {
        "w": width,
        "h": height,
        "fl_x": float(matrix[0, 0]),
        "fl_y": float(matrix[1, 1]),
        "cx": float(matrix[0, 2] + 0.5),
        "cy": float(matrix[1, 2] + 0.5),
    }
