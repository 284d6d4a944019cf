"""Triangle meshes with a colour a vertex, as OBJ, PLY or binary glTF."""

from pathlib import Path

from jaxrecon.errors import InputError
from jaxrecon.extras import Extra
from jaxrecon.files import replacing_file
from jaxrecon.formats.depths import check_points
from jaxrecon.formats.glb import colored_glb
from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import Scene, check_cameras
from jaxrecon.formats.tsdf import Surface, fused_surface

SUFFIXES = (".glb", ".obj", ".ply")


def write_mesh(scene: Scene, path: Path, options: ExportOptions) -> None:
    """Writes one mesh of all depth maps, fused by their confidence: see `fused_surface`.

    OBJ and PLY are in world coordinates (OpenCV axes), glTF in its own (y up, z backward).
    `options.voxel` is the side of a voxel of the grid in which they are fused.

    Raises:
      InputError: trimesh or scikit-image is not installed, the suffix is unknown, a camera is not
        finite, or there is no point or no triangle to write.
      OutputError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"a mesh is written as {', '.join(SUFFIXES)}, but the path is {path}")
    check_cameras(scene)
    check_points(scene)
    content = _content(_surface(scene, options), suffix)
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)


def _surface(scene: Scene, options: ExportOptions) -> Surface:
    with options.stages.stage("mesh", total=2 * len(scene.names)) as advance:
        surface = fused_surface(scene, voxel=options.voxel, advance=advance)
    if surface is None:
        raise InputError(
            "the views' depth maps agree on no surface, so there is no mesh to write; loosen the "
            "mask with a lower min_confidence (--min-confidence), or write points instead (.ply)"
        )
    return surface


def _content(surface: Surface, suffix: str) -> bytes:
    with Extra("mesh", "a mesh needs trimesh"):
        import trimesh
    if suffix == ".glb":
        return colored_glb(surface.vertices, surface.faces, surface.colors)
    mesh = trimesh.Trimesh(
        surface.vertices, surface.faces, vertex_colors=surface.colors, process=False
    )
    content = mesh.export(file_type=suffix[1:])
    return content.encode() if isinstance(content, str) else bytes(content)
