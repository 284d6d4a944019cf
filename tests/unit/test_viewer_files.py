"""What a path shows in the viewer."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.cli import main
from jaxrecon.formats import LoosePoints, Scene, read_shown, shown_file
from random_recon import random_recon


def sorted_rows(array: np.ndarray) -> np.ndarray:
    """By the first three columns."""
    return array[np.lexsort(array[:, :3].round(4).T)]


def test_an_output_folder_is_shown_whole_where_it_can_be(tmp_path: Path) -> None:
    recon = random_recon()
    recon.save(tmp_path / "scene.ply")
    assert shown_file(tmp_path) == tmp_path / "scene.ply"
    recon.save(tmp_path / "scene.npz")
    assert shown_file(str(tmp_path)) == tmp_path / "scene.npz"
    scene = read_shown(shown_file(tmp_path))
    assert isinstance(scene, Scene)
    np.testing.assert_array_equal(scene.points_world, recon.points_world)


def test_the_one_file_of_a_folder_and_the_folder_scene_are_found(tmp_path: Path) -> None:
    random_recon().save(tmp_path / "scene" / "mine.npz")
    assert shown_file(tmp_path) == tmp_path / "scene" / "mine.npz"
    random_recon().save(tmp_path / "scene" / "other.npz")
    with pytest.raises(InputError, match="holds no scene to show; give a folder"):
        shown_file(tmp_path)


def test_a_streamed_folder_is_shown(tmp_path: Path) -> None:
    from jaxrecon.formats.streamed import SCENE_FILE

    (tmp_path / SCENE_FILE).write_text("{}")
    assert shown_file(tmp_path) == tmp_path
    with pytest.raises(InputError):
        read_shown(tmp_path)


@pytest.mark.parametrize("suffix", ["ply", "glb"])
def test_points_of_files(tmp_path: Path, suffix: str) -> None:
    if suffix == "glb":
        pytest.importorskip("trimesh")
    recon = random_recon()
    shown = read_shown(recon.save(tmp_path / f"cloud.{suffix}"))
    assert isinstance(shown, LoosePoints)
    flip = np.array([1, -1, -1]) if suffix == "glb" else np.ones(3)
    points = np.asarray(recon.points_world)[recon.mask]
    rows = np.concatenate([points * flip, np.asarray(recon.colors)[recon.mask]], axis=1)
    found = np.concatenate([shown.cloud.xyz, shown.cloud.rgb], axis=1)
    difference = np.abs(sorted_rows(found) - sorted_rows(rows))
    assert difference[:, :3].max() < 1e-5
    assert difference[:, 3:].max() <= (
        13 if suffix == "glb" else 0
    )  # dark colours, linear in 8 bits
    np.testing.assert_array_equal(shown.up, [0, 1, 0] if suffix == "glb" else [0, -1, 0])


def test_splats_and_points_without_colours_are_shown(tmp_path: Path) -> None:
    recon = random_recon()
    shown = read_shown(recon.save(tmp_path / "splats.ply", "splats"))
    assert isinstance(shown, LoosePoints)
    assert shown.cloud.rgb.std() > 30
    plain = tmp_path / "plain.ply"
    plain.write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
        "property float z\nend_header\n0 0 1\nnan 0 1\n"
    )
    shown = read_shown(plain)
    assert isinstance(shown, LoosePoints)
    assert shown.cloud.xyz.tolist() == [[0, 0, 1]]
    assert shown.cloud.rgb.tolist() == [[128, 128, 128]]


@pytest.mark.parametrize("suffix", ["ply", "glb", "npz"])
@pytest.mark.parametrize("content", [b"", b"ply\nformat", b"glTF\x02\0\0\0", b"\0" * 99])
def test_damaged_files_get_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    if suffix == "glb":
        pytest.importorskip("trimesh")
    path = tmp_path / f"cloud.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_shown(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
@pytest.mark.parametrize("element", ["vertex", "face"])
def test_a_ply_header_that_declares_far_too_much(tmp_path: Path, kind: str, element: str) -> None:
    path = tmp_path / "cloud.ply"
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    face = f"element face {2**31}\nproperty list uchar int vertex_indices\n"
    count, rest = (2**31, "") if element == "vertex" else (0, face)
    path.write_text(f"ply\nformat {kind} 1.0\nelement vertex {count}\n{axes}{rest}end_header\n")
    with pytest.raises(InputError, match=r"declares \d+ bytes of points and has \d+ bytes in all"):
        read_shown(path)


@pytest.mark.parametrize("header", [b"comment " + b"x" * 2**17, b"element vertex -1"])
def test_a_ply_header_that_does_not_end_or_counts_backwards(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "cloud.ply"
    path.write_bytes(b"ply\nformat ascii 1.0\n" + header + b"\nend_header\n")
    with pytest.raises(InputError, match="not a whole PLY file"):
        read_shown(path)


def glb(header: object) -> bytes:
    """A binary glTF file of a header alone."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text


ZEROS = {"componentType": 5126, "count": 2**29, "type": "VEC3"}
"""Points without a buffer: the format has them all zero."""


@pytest.mark.parametrize(
    ("accessors", "reason"),
    [
        ([ZEROS], "declares 6442450944 bytes of points"),
        ([ZEROS | {"count": 2**22}] * 9, "declares 452984832 bytes of points"),
        ([ZEROS | {"count": "many"}], "not a whole GLB file"),
        ([ZEROS | {"count": -1}], "not a whole GLB file"),
        ([{"count": 3}], "not a whole GLB file"),
        ("none", "not a whole GLB file"),
    ],
)
def test_a_glb_that_declares_far_too_much(tmp_path: Path, accessors: Any, reason: str) -> None:
    pytest.importorskip("trimesh")
    path = tmp_path / "cloud.glb"
    mesh = {"primitives": [{"attributes": {"POSITION": 0}, "mode": 0}]}
    header = {"asset": {"version": "2.0"}, "accessors": accessors, "meshes": [mesh]}
    path.write_bytes(glb(header | {"nodes": [{"mesh": 0}], "scenes": [{"nodes": [0]}], "scene": 0}))
    with pytest.raises(InputError, match=reason):
        read_shown(path)


def test_other_paths_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, reason in (
        ("a.txt", "cannot be shown"),
        ("none", "not there"),
        ("empty", "no scene"),
    ):
        assert main(["view", str(tmp_path / name)]) == 2
        assert reason in capsys.readouterr().err
