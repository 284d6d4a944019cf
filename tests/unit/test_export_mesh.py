"""Meshes of a room whose walls are known, read back by trimesh and plyfile."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.formats import tsdf
from jaxrecon.reconstruction import Reconstruction
from random_recon import random_recon
from room_scenes import HALF, distance_to_walls, room_recon, wall_colors

pytest.importorskip("skimage")
plyfile = pytest.importorskip("plyfile")
trimesh = pytest.importorskip("trimesh")

VOXEL = 0.1
GLTF_FROM_OPENCV = np.array([1.0, -1.0, -1.0])
FILES = {"mesh": "a.glb", "mesh-obj": "a.obj", "mesh-ply": "a.ply"}


@pytest.fixture(scope="module")
def room() -> Reconstruction:
    return room_recon(8, 96, 128)


def read(path: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, triangles and colours, in the axes of the scene."""
    if path.suffix == ".ply":
        ply = plyfile.PlyData.read(path)
        vertex = ply["vertex"]
        rgb = np.stack([vertex[name] for name in ("red", "green", "blue")], -1)
        faces = np.stack(list(ply["face"]["vertex_indices"]))
        return np.stack([vertex[n] for n in "xyz"], -1), faces, rgb
    mesh = trimesh.load(path, force="mesh", process=False)
    colors = np.asarray(mesh.visual.vertex_colors)[:, :3]
    if path.suffix == ".glb":  # linear light there
        light = colors / 255
        encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        return mesh.vertices * GLTF_FROM_OPENCV, mesh.faces, 255 * encoded
    return mesh.vertices, mesh.faces, colors


@pytest.mark.parametrize("kind", FILES)
def test_the_mesh_lies_on_the_walls_faces_inside_and_has_their_colours(tmp_path, room, kind):
    path = room.save(tmp_path / FILES[kind], kind, voxel=VOXEL)
    vertices, faces, colors = read(path)
    off = distance_to_walls(vertices)
    assert off.mean() < VOXEL / 4 and off.max() < VOXEL
    assert (np.abs(vertices) < HALF + VOXEL).all()
    sides = vertices[faces]
    normals = np.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0])
    inward = (normals * -sides.mean(axis=1)).sum(axis=1) > 0
    assert inward.mean() > 0.95
    area = np.linalg.norm(normals, axis=1).sum() / 2
    whole = 8 * (HALF[0] * HALF[1] + HALF[1] * HALF[2] + HALF[0] * HALF[2])
    assert 0.4 * whole < area < 1.05 * whole
    difference = np.abs(colors - wall_colors(vertices).astype(float))
    assert difference.mean() < 4


def test_two_runs_write_the_same_bytes(tmp_path, room):
    first, second = (
        room.save(tmp_path / name, "mesh-ply", voxel=VOXEL).read_bytes()
        for name in ("a.ply", "b.ply")
    )
    assert first == second


def test_a_grid_has_no_more_voxels_than_its_memory_allows(room, monkeypatch):
    monkeypatch.setattr(tsdf, "MOST_VOXELS", 30**3)
    grid = tsdf._grid(room.scene(), 0.001)
    assert 0.5 * 30**3 < np.prod(grid.shape) <= 30**3
    surface = tsdf.fused_surface(room.scene(), voxel=0.001)
    assert surface is not None and distance_to_walls(surface.vertices).mean() < surface.voxel


def test_a_voxel_is_no_smaller_than_a_pixel_on_the_surface(room):
    depth = np.asarray(room.depth_z) / np.asarray(room.intrinsics)[0, 0, 0]
    assert tsdf._grid(room.scene(), None).voxel == pytest.approx(np.median(depth), rel=0.02)


def test_a_few_points_far_out_do_not_make_the_voxels_large(room):
    world = np.asarray(room.points_world).copy()
    world[0, 0, :50] = 1e5
    voxel = tsdf._grid(replace(room, points_world=world).scene(), None).voxel
    assert voxel == pytest.approx(tsdf._grid(room.scene(), None).voxel, rel=0.1)


def test_confident_views_decide_distance_and_colour(room):
    """Every view twice; the second time nearer, black, and of hardly any confidence."""
    twice = room[[*range(8), *range(8)]].numpy()
    confidence, colors = np.array(twice.confidence), np.array(twice.colors)
    camera, world = np.array(twice.points_camera), np.array(twice.points_world)
    confidence[:8], confidence[8:], colors[8:] = 1, 1e-3, 0
    camera[8:] *= 0.95
    scene = replace(
        twice, confidence=confidence, colors=colors, points_camera=camera, points_world=world
    ).scene()
    surface = tsdf.fused_surface(scene, voxel=VOXEL)
    assert surface is not None and distance_to_walls(surface.vertices).mean() < VOXEL / 4
    difference = np.abs(surface.colors - wall_colors(surface.vertices).astype(float))
    assert difference.mean() < 4


def test_what_agrees_on_no_surface_is_no_mesh(tmp_path):
    recon = random_recon()
    mask = np.zeros_like(recon.mask)
    with pytest.raises(InputError, match="the mask keeps no point"):
        replace(recon, mask=mask).save(tmp_path / "a.ply", "mesh-ply")
    behind = replace(recon, points_camera=-np.asarray(recon.points_camera))
    with pytest.raises(InputError, match="agree on no surface"):
        behind.save(tmp_path / "a.ply", "mesh-ply")
    assert not list(tmp_path.iterdir())
