"""Every file that is written, read back by another reader; and what is left after a failure."""

import builtins
import errno
import io
import json
import os
import resource
import struct
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrecon import InputError, OutputError
from jaxrecon.formats import animation, colmap, format_of, glb, trajectory
from jaxrecon.formats.ramps import camera_color
from jaxrecon.formats.scene import file_stems
from jaxrecon.reconstruction import Reconstruction
from random_recon import HEIGHT, VIEWS, WIDTH, one_pixel_recon, random_recon, random_rotations

# Installed for development; a machine lent for GPU tests may lack them.
plyfile = pytest.importorskip("plyfile")
pycolmap = pytest.importorskip("pycolmap")
trimesh = pytest.importorskip("trimesh")

GLTF_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def read_mesh(path: Path) -> Any:
    return trimesh.load(path)


def read_colmap(folder: Path) -> Any:
    return pycolmap.Reconstruction(folder)


def kept(recon: Reconstruction) -> list[np.ndarray]:
    return [
        np.asarray(field)[recon.mask]
        for field in (recon.points_world, recon.colors, recon.confidence)
    ]


# PLY


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    vertex = plyfile.PlyData.read(path)["vertex"]
    xyz = np.stack([vertex[name] for name in ("x", "y", "z")], axis=-1)
    rgb = np.stack([vertex[name] for name in ("red", "green", "blue")], axis=-1)
    return xyz, rgb, np.asarray(vertex["confidence"])


def test_ply_holds_the_points_under_the_mask(tmp_path):
    recon = random_recon()
    path = recon.save(tmp_path / "scene.ply")
    for found, expected in zip(read_ply(path), kept(recon), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    cloud = read_mesh(path)
    np.testing.assert_array_equal(cloud.vertices, kept(recon)[0])
    np.testing.assert_array_equal(cloud.colors[:, :3], kept(recon)[1])


def test_ply_bytes_of_one_point(tmp_path):
    header, body = one_pixel_recon().save(tmp_path / "s.PLY").read_bytes().split(b"end_header\n")
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 1\n")
    assert body == struct.pack("<3f3Bf", 0.5, 4, 7, 188, 10, 255, 0.75)


def test_points_that_are_not_finite_are_left_out(tmp_path):
    recon = random_recon()
    recon.mask[0, 0, :4] = True
    recon.points_world[0, 0, :3, 1] = np.nan, np.inf, -np.inf
    xyz, _, _ = read_ply(recon.save(tmp_path / "s.ply"))
    np.testing.assert_array_equal(xyz, kept(recon)[0][3:])
    recon.save(tmp_path / "s.glb")
    assert len(read_mesh(tmp_path / "s.glb").geometry["points"].vertices) == len(xyz)
    recon.save(tmp_path / "colmap")
    assert len(read_colmap(tmp_path / "colmap/sparse/0").points3D) == len(xyz)


@pytest.mark.parametrize("name", ["scene.ply", "scene.glb", "colmap"])
def test_an_empty_mask_writes_nothing(tmp_path, name):
    recon = random_recon()
    recon.mask[:] = False
    with pytest.raises(InputError, match=r"mask keeps no point.*min_confidence.*edge_rtol=None"):
        recon.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_fewer_points_are_a_repeatable_choice_spread_over_all_views(tmp_path):
    recon = random_recon()
    first = read_ply(recon.save(tmp_path / "a.ply", max_points=60))
    second = read_ply(recon.save(tmp_path / "b.ply", max_points=60))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    place = {tuple(point): number for number, point in enumerate(kept(recon)[0])}
    chosen = [place[tuple(point)] for point in first[0]]
    assert len(chosen) == 60 and chosen == sorted(set(chosen))
    np.testing.assert_array_equal(first[1], kept(recon)[1][chosen])
    per_view = np.cumsum(recon.mask.sum(axis=(1, 2)))
    views = np.searchsorted(per_view, chosen, side="right")
    assert np.bincount(views, minlength=VIEWS).min() > 10


def test_a_large_max_points_means_all(tmp_path):
    recon = random_recon()
    xyz, _, _ = read_ply(recon.save(tmp_path / "a.ply", max_points=10**12))
    assert len(xyz) == recon.mask.sum()


def test_default_number_of_points(tmp_path, monkeypatch):
    assert (glb.DEFAULT_POINTS, colmap.DEFAULT_POINTS) == (1_000_000, 100_000)
    monkeypatch.setattr(glb, "DEFAULT_POINTS", 20)
    monkeypatch.setattr(colmap, "DEFAULT_POINTS", 30)
    recon = random_recon()
    for limit, default, kind in ((None, 20, "s.glb"), (25, 25, "t.glb")):
        scene = read_mesh(recon.save(tmp_path / kind, max_points=limit))
        assert len(scene.geometry["points"].vertices) == default
    for limit, default, kind in ((None, 30, "s"), (25, 25, "t")):
        folder = recon.save(tmp_path / kind, max_points=limit)
        assert read_colmap(folder / "sparse/0").num_points3D() == default


# GLB


def glb_json(path: Path) -> dict:
    content = path.read_bytes()
    magic, version, length, json_length, kind = struct.unpack_from("<4sII I4s", content)
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
    return json.loads(content[20 : 20 + json_length])


def linear(color: np.ndarray) -> np.ndarray:
    value = color / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def test_glb_opened_by_trimesh(tmp_path):
    recon = random_recon()
    scene = read_mesh(recon.save(tmp_path / "scene.glb"))
    points = scene.geometry["points"]
    xyz, rgb, _ = kept(recon)
    np.testing.assert_array_equal(points.vertices, xyz * [1, -1, -1])
    np.testing.assert_allclose(points.colors[:, :3] / 255, linear(rgb), atol=0.5 / 255 + 1e-6)
    frustums = [name for name in scene.graph.nodes_geometry if name.startswith("frustum_")]
    assert sorted(frustums) == ["frustum_a", "frustum_a_2", "frustum_b"]


def test_glb_frustums_open_at_the_cameras(tmp_path):
    recon = random_recon()
    scene = read_mesh(recon.save(tmp_path / "scene.glb"))
    for view, name in enumerate(("frustum_a", "frustum_b", "frustum_a_2")):
        placed, _ = scene.graph[name]
        vertices = trimesh.transform_points(scene.geometry[name].vertices, placed)
        centre = recon.world_from_camera[view, :3, 3] * [1, -1, -1]
        np.testing.assert_allclose(vertices[0], centre, atol=1e-6)
        pose = GLTF_FROM_OPENCV @ recon.world_from_camera[view] @ GLTF_FROM_OPENCV
        np.testing.assert_allclose(placed, pose, atol=1e-6)


def test_cameras_have_one_colour_everywhere(tmp_path):
    recon = random_recon()
    path = recon.save(tmp_path / "scene.glb")
    tree, content = glb_json(path), path.read_bytes()
    drawn = animation._cameras(recon.scene(), 1.0)
    for view, name in enumerate(("frustum_a", "frustum_b", "frustum_a_2")):
        color = camera_color(view, VIEWS)
        assert tuple(drawn[view].rgb[0]) == color
        (mesh,) = [mesh for mesh in tree["meshes"] if mesh["name"] == name]
        stored = tree["accessors"][mesh["primitives"][0]["attributes"]["COLOR_0"]]
        (json_length,) = struct.unpack_from("<I", content, 12)
        start = 28 + json_length + tree["bufferViews"][stored["bufferView"]]["byteOffset"]
        # trimesh writes the colours of lines, and does not read them.
        rgba = np.frombuffer(content, np.uint8, 4 * stored["count"], start).reshape(-1, 4)
        light = rgba[:, :3] / 255
        np.testing.assert_allclose(light, [linear(np.array(color))] * len(light), atol=0.003)


def test_glb_cameras_are_nodes(tmp_path):
    recon = random_recon()
    tree = glb_json(recon.save(tmp_path / "scene.glb"))
    nodes = {node["name"]: node for node in tree["nodes"] if "camera" in node}
    assert list(nodes) == ["camera_a", "camera_b", "camera_a_2"]
    assert len(tree["cameras"]) == VIEWS
    for view, node in enumerate(nodes.values()):
        assert node["camera"] == view
        assert tree["nodes"].index(node) in tree["scenes"][0]["nodes"]
        matrix = np.array(node["matrix"]).reshape(4, 4).T
        pose = GLTF_FROM_OPENCV @ recon.world_from_camera[view] @ GLTF_FROM_OPENCV
        np.testing.assert_allclose(matrix, pose, atol=1e-6)


def test_glb_of_one_point_by_hand(tmp_path):
    path = one_pixel_recon().save(tmp_path / "one.glb")
    tree, scene = glb_json(path), read_mesh(path)
    assert scene.geometry["points"].vertices.tolist() == [[0.5, -4, -7]]
    (node,) = [node for node in tree["nodes"] if "camera" in node]
    assert node["matrix"] == [0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, -2, -3, 1]
    camera = tree["cameras"][0]
    assert camera["type"] == "perspective"
    assert camera["perspective"] == {
        "yfov": pytest.approx(2 * np.arctan(1 / 4)),
        "aspectRatio": pytest.approx((3 / 2) / (2 / 4)),
        "znear": 0.001,
    }
    corner = 0.05 * np.array([(-0.5 - 1) / 2, (0.5 + 0.5) / 4, -1])
    assert np.isclose(scene.geometry["frustum_one"].vertices, corner).all(axis=1).any()


def test_glb_colours_are_linear_light(tmp_path):
    path = one_pixel_recon().save(tmp_path / "one.glb")
    tree = glb_json(path)
    (mesh,) = [mesh for mesh in tree["meshes"] if mesh["name"] == "points"]
    accessor = tree["accessors"][mesh["primitives"][0]["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["type"], accessor["count"]) == (5126, "VEC3", 1)
    view = tree["bufferViews"][accessor["bufferView"]]
    binary = path.read_bytes()[28 + struct.unpack_from("<I", path.read_bytes(), 12)[0] :]
    color = np.frombuffer(binary, "<f4", 3, view["byteOffset"])
    np.testing.assert_allclose(color, [0.502886, 0.003035, 1.0], atol=1e-6)


# COLMAP


@pytest.mark.parametrize("text", [False, True])
def test_colmap_opened_by_pycolmap(tmp_path, text):
    recon = random_recon()
    folder = recon.save(tmp_path / "colmap", text=text)
    ending = "txt" if text else "bin"
    files = {file.name for file in (folder / "sparse/0").iterdir()}
    assert files == {f"{name}.{ending}" for name in ("cameras", "images", "points3D")}
    model = read_colmap(folder / "sparse/0")
    assert model.num_reg_images() == VIEWS
    by_name = {image.name: image for image in model.images.values()}
    assert set(by_name) == {"a.png", "b.png", "a_2.png"}
    xyz, rgb, seen = [], [], np.zeros_like(recon.mask)
    for view, name in enumerate(("a.png", "b.png", "a_2.png")):
        image = by_name[name]
        check_camera(recon, view, image)
        for point_2d in image.points2D:
            point = model.points3D[point_2d.point3D_id]
            assert [e.image_id for e in point.track.elements] == [image.image_id]
            column, row = point_2d.xy - 0.5
            seen[view, int(row), int(column)] = True
            np.testing.assert_allclose(image.project_point(point.xyz), point_2d.xy, atol=1e-4)
            assert point.error < 1e-4
            xyz.append(point.xyz)
            rgb.append(point.color)
    np.testing.assert_array_equal(seen, recon.mask)
    np.testing.assert_allclose(xyz, kept(recon)[0], atol=1e-6)
    np.testing.assert_array_equal(rgb, kept(recon)[1])


def check_camera(recon: Reconstruction, view: int, image: Any) -> None:
    camera = image.camera
    assert (camera.model_name, camera.width, camera.height) == ("PINHOLE", WIDTH, HEIGHT)
    np.testing.assert_allclose(camera.params, [10, 11, 5.75, 4.25], atol=1e-6)
    pose = np.linalg.inv(recon.world_from_camera[view].astype(float))[:3]
    np.testing.assert_allclose(image.cam_from_world().matrix(), pose, atol=1e-6)


@pytest.mark.parametrize("text", [False, True])
def test_colmap_of_one_point_by_hand(tmp_path, text):
    folder = one_pixel_recon().save(tmp_path / "colmap", text=text)
    model = read_colmap(folder / "sparse/0")
    (image,), (point,) = model.images.values(), model.points3D.values()
    half = np.sqrt(0.5)
    pose = image.cam_from_world()
    np.testing.assert_allclose(pose.rotation.quat, [0, 0, -half, half], atol=1e-12)
    np.testing.assert_allclose(pose.translation, [-2, 1, -3], atol=1e-12)
    np.testing.assert_allclose(image.camera.params, [2, 4, 1.5, 1.0], atol=1e-12)
    np.testing.assert_allclose(image.points2D[0].xy, [2.5, 1.5], atol=1e-12)
    np.testing.assert_allclose(image.camera.img_from_cam([2, 0.5, 4]), [2.5, 1.5], atol=1e-12)
    np.testing.assert_allclose(image.project_point(point.xyz), [2.5, 1.5], atol=1e-12)
    assert point.xyz.tolist() == [0.5, 4, 7] and point.color.tolist() == [188, 10, 255]
    assert abs(point.error) < 1e-12


def test_colmap_error_is_the_distance_to_the_projection(tmp_path):
    recon = one_pixel_recon()
    point_world = np.asarray(recon.points_world)[0, 1, 2]
    point_world += (-4, 6, 0)  # (6, 4, 0) in the camera's frame: 6 and 4 pixels
    for shift, error in ((0, np.hypot(2 * 6 / 4, 4 * 4 / 4)), (-20, -1)):
        point_world[2] += shift
        folder = recon.save(tmp_path / f"colmap{shift}")
        (point,) = read_colmap(folder / "sparse/0").points3D.values()
        assert point.error == pytest.approx(error)


def test_colmap_pictures_are_the_processed_ones(tmp_path):
    recon = random_recon()
    folder = recon.save(tmp_path / "colmap")
    assert sorted(file.name for file in (folder / "images").iterdir()) == [
        "a.png",
        "a_2.png",
        "b.png",
    ]
    for view, name in enumerate(("a.png", "b.png", "a_2.png")):
        with Image.open(folder / "images" / name) as picture:
            np.testing.assert_array_equal(np.asarray(picture), recon.colors[view])


def test_quaternions_are_stable_for_every_rotation():
    identity, diagonal = np.eye(3)[None], np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    half_turns = np.array([np.diag(signs) for signs in diagonal], float)
    third = np.array([[[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]])  # 120 degrees about (1, 1, 1)
    axes = np.random.default_rng(1).normal(size=(50, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turned = 2 * axes[:, :, None] * axes[:, None] - np.eye(3)  # half a turn about each axis
    some = random_rotations(np.random.default_rng(2), 200)
    rotations = np.concatenate([identity, third, half_turns, turned, some])
    poses = np.tile(np.eye(4), (len(rotations), 1, 1))
    poses[:, :3, :3] = rotations
    lines = trajectory._tum_lines(list(range(len(poses))), poses)
    x, y, z, w = np.array([line.split()[4:] for line in lines], float).T
    assert (w >= 0).all()
    np.testing.assert_allclose(x * x + y * y + z * z + w * w, 1, atol=1e-14)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    np.testing.assert_allclose(np.array(rows).transpose(2, 0, 1), rotations, atol=1e-14)
    np.testing.assert_allclose([x[0], y[0], z[0], w[0]], [0, 0, 0, 1], atol=1e-15)
    np.testing.assert_allclose([x[1], y[1], z[1], w[1]], 0.5, atol=1e-15)


def test_file_stems_are_unique_and_plain():
    assert file_stems(["a.jpg", "b/a.png", "A.JPG", "a_2.png"]) == ["a", "a_2", "A_3", "a_2_2"]
    assert file_stems(["my photo\t1.jpg", "c:\\x\\y.jpg", "frame_000012"]) == [
        "my_photo_1",
        "y",
        "frame_000012",
    ]
    assert file_stems(["", "..", "π.jpg", "\udcff.jpg"]) == ["view", "view_2", "π", "_"]


# Pictures


def test_depth_pictures(tmp_path):
    recon = random_recon()
    recon.points_camera[0, 0, :4, 2] = np.nan, np.inf, -1, 4
    folder = recon.save_pictures(tmp_path / "pictures")
    scales = json.loads((folder / "depth_scale.json").read_text())
    assert list(scales) == ["a.png", "b.png", "a_2.png"]
    assert scales["a.png"] == 4 / 65535
    for view, (name, scale) in enumerate(scales.items()):
        with Image.open(folder / "depth" / name) as picture:
            assert picture.mode == "I;16" and picture.size == (WIDTH, HEIGHT)
            assert float(picture.info["depth_per_unit"]) == scale
            stored = np.asarray(picture)
        expected = np.asarray(recon.depth_z[view], float)
        expected = np.where(np.isfinite(expected) & (expected > 0), expected, 0)
        assert stored.max() == 65535
        np.testing.assert_allclose(stored * scale, expected, atol=scale * 0.5000001)
        if view == 0:
            assert stored[0, :4].tolist() == [0, 0, 0, 65535]


def test_a_view_without_depth_is_black(tmp_path):
    recon = random_recon()[0]
    recon.points_camera[..., 2] = np.nan
    folder = recon.save_pictures(tmp_path / "pictures")
    assert json.loads((folder / "depth_scale.json").read_text()) == {"a.png": 1.0}
    for kind in ("depth", "normal"):
        with Image.open(folder / kind / "a.png") as picture:
            assert not np.asarray(picture).any()


def test_normal_pictures(tmp_path):
    """A plane that faces the camera has the normal (0, 0, -1); a floor below it (0, -1, 0)."""
    row, column = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    wall = np.stack([column, row, np.full_like(row, 5)], axis=-1)
    floor = np.stack([column, np.full_like(row, 2), 20 - row], axis=-1)
    recon = random_recon()[:2]
    recon = replace(recon, points_camera=np.stack([wall, floor]), mask=np.ones_like(recon.mask))
    recon.mask[0, 2:5, 2:5] = False
    on_device = replace(recon, points_camera=jnp.asarray(recon.points_camera))
    folder = on_device.save_pictures(tmp_path / "pictures")
    with Image.open(folder / "normal" / "a.png") as picture:
        color = np.asarray(picture)
    expected = np.where(recon.mask[0][..., None], [128, 128, 0], 0)
    np.testing.assert_array_equal(color, expected)
    with Image.open(folder / "normal" / "b.png") as picture:
        assert (np.asarray(picture) == [128, 0, 128]).all()


# Arguments


def test_the_path_names_the_format(tmp_path):
    (tmp_path / "there.v2").mkdir()
    formats = {"a.ply": "ply", "b/c.GLB": "glb", "s.npz": "npz", "colmap": "colmap"}
    formats |= {"scan.v1/": "colmap", str(tmp_path / "there.v2"): "colmap"}
    assert {path: format_of(path) for path in formats} == formats
    assert format_of(Path("a.ply")) == "ply"


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(
        InputError,
        match=r"suffix \.obj; use \.ply, \.glb, \.npz, \.rrd, \.webp, \.html, or a folder",
    ):
        random_recon().save(tmp_path / "scene.obj")
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_do_not_fit_are_refused(tmp_path):
    recon = random_recon()
    for count in (0, -5):
        for name in ("s.ply", "s.glb", "s.npz", "s"):
            with pytest.raises(InputError, match=f"^max_points is {count}; give .* at least 1"):
                recon.save(tmp_path / name, max_points=count)
    with pytest.raises(InputError, match=r"^max_points=5 is not for npz: it is taken by ply"):
        recon.save(tmp_path / "s.npz", max_points=5)
    with pytest.raises(InputError, match=r"^text=True is not for ply: it is taken by colmap"):
        recon.save(tmp_path / "s.ply", text=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["s.glb", "colmap"])
@pytest.mark.parametrize(
    ("field", "place", "value"),
    [("world_from_camera", (1, 0, 3), np.nan), ("intrinsics", (1, 1, 1), 0.0)],
)
def test_unusable_cameras_are_refused(tmp_path, name, field, place, value):
    recon = random_recon()
    getattr(recon, field)[place] = value
    with pytest.raises(InputError, match=r"^the camera of view 1 \(b\.JPG\) is not usable"):
        recon.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


# Failures: each writer, each way to fail

FILES = ("scene.ply", "scene.glb", "scene.npz")
FOLDERS = ("colmap/", "colmap_text/", "pictures/")


def write(recon: Reconstruction, folder: Path, name: str, **options) -> Path:
    if name == "pictures/":
        return recon.save_pictures(folder / name, **options)
    return recon.save(f"{folder}/{name}", text=name == "colmap_text/", **options)


def contents(folder: Path) -> dict[str, bytes | None]:
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in found}


def expect_failure(folder: Path, name: str, reason: str, failure, **options) -> None:
    before = contents(folder)
    with failure, pytest.raises(OutputError) as refusal:
        write(random_recon(1), folder, name, **options)
    message = str(refusal.value)
    assert message.startswith(f"cannot write {folder / name}: ") and reason in message
    assert "\n" not in message
    assert contents(folder) == before


@contextmanager
def file_size_limit(size: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullDisk(io.FileIO):
    def write(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_disk():
    real = builtins.open

    def fake(path, mode="r", *args, **kwargs):
        if ".part" in str(path) and "w" in mode:
            return FullDisk(path, mode.replace("b", ""))
        return real(path, mode, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", fake)
        patch.setattr(io, "open", fake)
        yield


@contextmanager
def as_ordinary_user():
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("name", FILES + FOLDERS)
@pytest.mark.parametrize("existing", [False, True])
def test_a_file_size_limit(tmp_path, name, existing):
    if existing:
        write(random_recon(0), tmp_path, name)
    overwrite = {"overwrite": True} if name in FOLDERS else {}
    failure = file_size_limit(100)
    expect_failure(tmp_path, name, "allowed file size", failure, **overwrite)


def test_a_file_size_limit_met_late(tmp_path):
    write(random_recon(), tmp_path, "colmap/")
    largest = max(file.stat().st_size for file in tmp_path.rglob("*"))
    failure = file_size_limit(largest - 1)
    expect_failure(tmp_path, "colmap/", "allowed file size", failure, overwrite=True)


@pytest.mark.parametrize("name", FILES + FOLDERS)
@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk(tmp_path, name, existing):
    if existing:
        write(random_recon(0), tmp_path, name)
    overwrite = {"overwrite": True} if name in FOLDERS else {}
    expect_failure(tmp_path, name, "the disk is full", full_disk(), **overwrite)


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_a_folder_without_permission(name, tmp_path):
    write(random_recon(), tmp_path, name)  # so that nothing is imported as the other user
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        expect_failure(Path(folder), name, "no permission", as_ordinary_user())


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_in_use_is_replaced_only_on_demand(tmp_path, name):
    (tmp_path / name).mkdir()
    write(random_recon(0), tmp_path, name)
    (tmp_path / name / "notes.txt").write_text("mine")
    expect_failure(tmp_path, name, "overwrite=True", nullcontext())
    write(random_recon(1), tmp_path, name, overwrite=True)
    write(random_recon(1), tmp_path / "fresh", name)
    assert contents(tmp_path / name) == contents(tmp_path / "fresh" / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name.strip("/"), "fresh"])


@pytest.mark.parametrize("name", FILES)
def test_files_are_replaced_whole(tmp_path, name):
    fresh = write(random_recon(1), tmp_path / "fresh", name)
    write(random_recon(0), tmp_path, name)
    write(random_recon(1), tmp_path, name)
    assert (tmp_path / name).read_bytes() == fresh.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", name]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "colmap").write_text("mine")
    expect_failure(tmp_path, "colmap", "a file of that name exists", nullcontext())
