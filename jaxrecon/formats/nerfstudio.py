"""Data sets for nerfstudio and instant-ngp: `transforms.json`, photos, depth maps and points.

The rules are those of nerfstudio's `nerfstudio_dataparser.py` and instant-ngp's `nerf_loader.cu`.
Poses are camera-to-world with OpenGL's axes; pixels are counted from the image's corner.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxrecon.files import replacing_folder
from jaxrecon.formats.cameras import Cameras
from jaxrecon.formats.depths import DepthMaps
from jaxrecon.formats.options import ExportOptions, Size
from jaxrecon.formats.photo_files import photo_names, put_masks, put_photos, size_of_pictures
from jaxrecon.formats.pictures import each_view, write_colors
from jaxrecon.formats.ply import write_points
from jaxrecon.formats.scene import Scene, check_cameras, file_stems
from jaxrecon.formats.thinning import thinned_points

DEFAULT_POINTS = 100_000
TRANSFORMS_FILE, POINTS_FILE = "transforms.json", "sparse_pc.ply"

_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_LENS = ("k1", "k2", "p1", "p2")
_AABB_SCALE = 16
"""How far instant-ngp's box of rays reaches; a power of two, of which it recommends 16 outdoors."""


def write_nerfstudio(scene: Scene, folder: Path, options: ExportOptions) -> int:
    """Writes `transforms.json`, `images/`, `depths/<view>.png` and `sparse_pc.ply` into `folder`.

    Cameras and depth maps are in pixels of the photos, once upright, which `images/` has as links,
    or as copies if `images` asks for them: see `put_photos`. For `size="processed"`, and where it
    is not given and a view has no file, they are those of the processed pictures, which are written
    to `images/<view>.png`. Masks that the user gave are written to `masks/`.

    Depth is 16-bit grey, of the pixels under the mask, in steps of `depth_unit_scale_factor`, which
    is nerfstudio's default of 0.001 if that suits the scene (`DepthMaps.unit`). World coordinates
    are the scene's own, so `applied_transform` is the identity. At most `max_points` points, by
    default 100,000, are written, thinned by voxel.

    Returns:
      The number of points that were written.

    Raises:
      InputError: there is no point to write, a camera is not finite, or a photo is not there.
      OutputError: the folder is in use or cannot be written.
    """
    check_cameras(scene)
    points = thinned_points(scene, options.most_points(DEFAULT_POINTS), options.voxel)
    size = size_of_pictures(scene, options)
    maps = DepthMaps(scene, size)
    depths = [f"depths/{stem}.png" for stem in file_stems(scene.names)]
    with replacing_folder(folder, overwrite=options.overwrite) as temporary:
        images = _write_images(scene, temporary / "images", size, options)
        put_masks(scene, images, temporary / "masks", size)
        _write_depths(maps, [temporary / depth for depth in depths], options)
        write_points(points, temporary / POINTS_FILE)
        frames = _frames(maps.cameras, images, depths, masks=bool(scene.photo_masks))
        facts = _shared(maps.unit) | frames
        (temporary / TRANSFORMS_FILE).write_text(json.dumps(facts, indent=1) + "\n")
    return len(points.pixel)


def _write_images(scene: Scene, place: Path, size: Size, options: ExportOptions) -> list[str]:
    """Writes the pictures that go with the cameras; returns their names."""
    place.mkdir()
    if size == "original":
        names = photo_names(scene)
        put_photos(scene, names, place, options.images or "link", options.stages)
    else:
        names = [f"{stem}.png" for stem in file_stems(scene.names)]
        with options.stages.stage("images", total=len(names)) as advance:
            write_colors(scene.colors, [place / name for name in names], advance)
    return names


def _write_depths(maps: DepthMaps, files: list[Path], options: ExportOptions) -> None:
    maps.note_too_deep(options.stages)
    files[0].parent.mkdir()
    with options.stages.stage("depth", total=len(files)) as advance:
        each_view(lambda view: maps.write_png(view, files[view]), len(files), advance)


def _shared(unit: float) -> dict[str, Any]:
    return {
        "camera_model": "OPENCV",
        **dict.fromkeys(_LENS, 0.0),
        "exif_orientation_applied": True,
        "applied_transform": np.eye(4)[:3].tolist(),
        "ply_file_path": POINTS_FILE,
        "depth_unit_scale_factor": unit,
        "integer_depth_scale": unit,
        "aabb_scale": _AABB_SCALE,
    }


def _frames(
    cameras: Cameras, images: list[str], depths: list[str], *, masks: bool
) -> dict[str, Any]:
    """The frames, and beside them the camera, if all have one."""
    pinholes = [_pinhole(cameras, view) for view in range(len(images))]
    one = all(pinhole == pinholes[0] for pinhole in pinholes)
    poses = cameras.world_from_camera @ _OPENGL_FROM_OPENCV
    frames = [
        {
            "file_path": f"images/{image}",
            **({"mask_path": f"masks/{image}.png"} if masks else {}),
            "depth_file_path": depth,
            "depth_path": depth,
            **({} if one else pinhole),
            "transform_matrix": pose.tolist(),
        }
        for image, depth, pinhole, pose in zip(images, depths, pinholes, poses, strict=True)
    ]
    return {**(pinholes[0] if one else {}), "frames": frames}


def _pinhole(cameras: Cameras, view: int) -> dict[str, int | float]:
    (width, height), matrix = cameras.sizes[view].tolist(), cameras.intrinsics[view]
    return {
        "w": width,
        "h": height,
        "fl_x": float(matrix[0, 0]),
        "fl_y": float(matrix[1, 1]),
        "cx": float(matrix[0, 2] + 0.5),
        "cy": float(matrix[1, 2] + 0.5),
    }
