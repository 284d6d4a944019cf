"""Point clouds and cameras as binary glTF, to look at in a viewer."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxrecon.extras import Extra
from jaxrecon.files import replacing_file
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.ramps import camera_color
from jaxrecon.formats.scene import (
    FRUSTUM_SIZE,
    Scene,
    ScenePoints,
    aspect_ratio,
    check_cameras,
    file_stems,
    scene_size,
    vertical_view_angle,
)
from jaxrecon.formats.thinning import chosen_points

DEFAULT_POINTS = 1_000_000

# OpenCV's x right, y down, z forward to glTF's x right, y up, z backward; its own inverse.
_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])

_FLOAT = 5126  # glTF component type
_FRUSTUM_LINES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2, 3, 4, 1))


def write_glb(scene: Scene, path: Path, options: ExportOptions) -> int:
    """Writes coloured points and, for each view, a camera and its frustum drawn in lines.

    World and camera axes are turned to glTF's (y up, z backward). Colours are stored linear, as
    glTF asks, so that viewers show the photos' colours. A glTF camera has its principal point in
    the image's centre; the drawn frustum has the true one. At most `max_points` points are
    written, by default 1,000,000.

    Returns:
      The number of points that were written.

    Raises:
      InputError: trimesh is not installed, there is no point to write, or a camera is not finite.
      OutputError: the file cannot be written.
    """
    check_cameras(scene)
    points = chosen_points(scene, options, DEFAULT_POINTS)
    content = _glb(scene, points)
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)
    return len(points.pixel)


def _glb(scene: Scene, points: ScenePoints) -> bytes:
    with Extra("mesh", "GLB files need trimesh"):
        import trimesh
    from trimesh.exchange.gltf import export_glb

    size = scene_size(points.xyz)
    poses = _FLIP @ scene.world_from_camera.astype(np.float64) @ _FLIP
    stems = file_stems(scene.names)
    world = trimesh.Scene()
    world.add_geometry(trimesh.PointCloud(points.xyz @ _FLIP[:3, :3]), "points", "points")
    for view, stem in enumerate(stems):
        name, frustum = f"frustum_{stem}", _frustum(scene, view, FRUSTUM_SIZE * size)
        world.add_geometry(frustum, name, name, transform=poses[view])
    cameras = [_gltf_camera(scene, view, near=1e-3 * size) for view in range(len(stems))]
    return export_glb(
        world,
        tree_postprocessor=lambda tree: _add_cameras(tree, cameras, stems, poses),
        buffer_postprocessor=lambda buffers, tree: _add_colors(buffers, tree, "points", points.rgb),
    )


def colored_glb(
    vertices: Float[np.ndarray, "N 3"], faces: Int[np.ndarray, "F 3"], rgb: UInt8[np.ndarray, "N 3"]
) -> bytes:
    """A triangle mesh in world coordinates as binary glTF, with axes and colours as in `write_glb`.

    Raises:
      InputError: trimesh is not installed.
    """
    with Extra("mesh", "GLB files need trimesh"):
        import trimesh
    from trimesh.exchange.gltf import export_glb

    mesh = trimesh.Trimesh(vertices @ _FLIP[:3, :3], faces, process=False)
    return export_glb(
        trimesh.Scene({"mesh": mesh}),
        buffer_postprocessor=lambda buffers, tree: _add_colors(buffers, tree, "mesh", rgb),
    )


def _frustum(scene: Scene, view: int, depth: float):
    """The pyramid from the camera's centre to its image corners, in the glTF camera's frame."""
    from trimesh.path import Path3D
    from trimesh.path.entities import Line

    height, width = scene.mask.shape[1:]
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]], float)
    corners[:, :2] -= 0.5
    rays = corners @ np.linalg.inv(scene.intrinsics[view].astype(float)).T
    vertices = np.concatenate([np.zeros((1, 3)), depth * rays]) @ _FLIP[:3, :3]
    color = _linear_table()[list(camera_color(view, len(scene.names)))]
    rgba = np.append(np.rint(255 * color), 255).astype(np.uint8)
    return Path3D([Line(line, color=rgba) for line in _FRUSTUM_LINES], vertices, process=False)


def _gltf_camera(scene: Scene, view: int, *, near: float) -> dict:
    # glTF has no negative fields of view; the frustum shows the sign.
    perspective = {
        "yfov": vertical_view_angle(scene, view),
        "aspectRatio": aspect_ratio(scene, view),
        "znear": near,
    }
    return {"type": "perspective", "perspective": perspective}


def _add_cameras(
    tree: dict, cameras: list[dict], stems: list[str], poses: Float[np.ndarray, "V 4 4"]
) -> None:
    tree["cameras"] = cameras
    for view, (stem, pose) in enumerate(zip(stems, poses, strict=True)):
        tree["scenes"][0]["nodes"].append(len(tree["nodes"]))
        columns = pose.T.reshape(-1).tolist()
        tree["nodes"].append({"name": f"camera_{stem}", "camera": view, "matrix": columns})


def _add_colors(buffers: dict, tree: dict, name: str, rgb: UInt8[np.ndarray, "P 3"]) -> None:
    """Colours as float32, since linear colours in 8 bits would show steps in the dark."""
    (colored,) = [mesh for mesh in tree["meshes"] if mesh["name"] == name]
    colored["primitives"][0]["attributes"]["COLOR_0"] = len(tree["accessors"])
    tree["accessors"]["colors"] = {
        "bufferView": len(buffers),
        "componentType": _FLOAT,
        "count": len(rgb),
        "type": "VEC3",
    }
    buffers["colors"] = _linear_table()[rgb].astype("<f4").tobytes()


def _linear_table() -> Float[np.ndarray, "256"]:
    """Linear light of each sRGB value (IEC 61966-2-1)."""
    value = np.arange(256) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def display_colors(linear: UInt8[np.ndarray, "P 3"]) -> UInt8[np.ndarray, "P 3"]:
    """sRGB values of linear light in 8 bits: the inverse of how colours are written here."""
    light = np.arange(256) / 255
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * value).astype(np.uint8)[linear]
