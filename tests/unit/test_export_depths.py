"""Depth maps at the size of the photos or of the processed pictures, and poses as text."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from jaxrecon import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction
from kept_notes import KeptNotes
from random_recon import random_recon
from room_scenes import HALF, room_recon

HEIGHT, WIDTH = 48, 64
CROPPED = (
    PixelTransform((130, 97), (WIDTH, HEIGHT), (0.5, 0.5), (-1.0, 0.0)),
    PixelTransform((65, 130), (WIDTH, HEIGHT), (0.99, 0.99), (0.0, -41.0)),
    PixelTransform((40, 48), (WIDTH, HEIGHT), (1.0, 1.0), (12.0, 0.0)),
)
"""A crop of an odd size, a portrait photo cropped to a landscape, and one with margins."""


@pytest.fixture
def room() -> Reconstruction:
    return room_recon(3, HEIGHT, WIDTH, transforms=CROPPED)


def png(folder: Path, entry: dict) -> np.ndarray:
    with Image.open(folder / entry["file"]) as image:
        assert image.mode == "I;16"
        return np.asarray(image)


def npy(folder: Path, entry: dict) -> np.ndarray:
    return np.load(folder / entry["file"])


def exr(folder: Path, entry: dict) -> np.ndarray:
    openexr = pytest.importorskip("OpenEXR")
    return openexr.File(str(folder / entry["file"])).channels()["Z"].pixels


KINDS = {"depth": png, "depth-npy": npy, "depth-exr": exr}


def entries(folder: Path) -> tuple[dict, list[dict]]:
    facts = json.loads((folder / "depth.json").read_text())
    return facts, facts["views"]


def matrix_of(entry: dict) -> np.ndarray:
    return np.array(
        [[entry["fx"], 0, entry["cx"]], [0, entry["fy"], entry["cy"]], [0, 0, 1]], np.float64
    )


@pytest.mark.parametrize("size", ["original", "processed"])
@pytest.mark.parametrize("kind", KINDS)
def test_depth_with_its_camera_is_the_walls_of_the_room(tmp_path, room, kind, size):
    if kind == "depth-exr":
        pytest.importorskip("OpenEXR")
    folder = room.save(tmp_path / "out", kind, size=size)
    facts, views = entries(folder)
    assert facts["metric"] and facts["size"] == size
    for view, entry in enumerate(views):
        stored = KINDS[kind](folder, entry)
        expected = CROPPED[view].original_size if size == "original" else (WIDTH, HEIGHT)
        assert stored.shape == expected[::-1] == (entry["height"], entry["width"])
        assert entry["photo"] == room.names[view]
        present = np.isfinite(stored) & (stored > 0)
        row, column = np.nonzero(present)
        depth = stored[present].astype(np.float64) * facts["depth_unit"]
        rays = np.stack([column, row, np.ones_like(row)], -1) @ np.linalg.inv(matrix_of(entry)).T
        pose = np.array(entry["world_from_camera"])
        points = (rays * depth[:, None]) @ pose[:3, :3].T + pose[:3, 3]
        off = np.abs(np.abs(points) - HALF).min(axis=1)
        # The nearest pixel is up to half a processed pixel away, on walls that are seen aslant.
        assert np.median(off) < (0.001 if size == "processed" else 0.03)
        assert off.max() < (0.002 if size == "processed" else 0.35)


@pytest.mark.parametrize("view", range(3))
def test_depth_of_a_photo_is_that_of_the_nearest_processed_pixel(tmp_path, room, view):
    folder = room.save(tmp_path / "out", "depth-npy")
    stored = npy(folder, entries(folder)[1][view])
    transform = CROPPED[view]
    for row, column in np.ndindex(stored.shape):
        x, y = np.floor(transform.from_original(np.array([column, row], float)) + 0.5).astype(int)
        inside = 0 <= x < WIDTH and 0 <= y < HEIGHT
        expected = np.asarray(room.depth_z)[view, y, x] if inside else np.nan
        np.testing.assert_equal(stored[row, column], expected)
    np.testing.assert_equal(room.to_original().depth_z(view), stored)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_mask_drops_and_what_is_no_depth_is_left_out(tmp_path, room, kind):
    if kind == "depth-exr":
        pytest.importorskip("OpenEXR")
    mask, camera = np.asarray(room.mask).copy(), np.asarray(room.points_camera).copy()
    mask[0, :10] = False
    camera[0, 20, 5], camera[0, 21, 5], camera[0, 22, 5, 2] = np.nan, -1, np.inf
    room = replace(room, mask=mask, points_camera=camera)
    folder = room.save(tmp_path / "out", kind, size="processed")
    facts, views = entries(folder)
    stored = KINDS[kind](folder, views[0])
    absent = np.isnan(stored) if facts["no_depth"] == "NaN" else stored == facts["no_depth"]
    expected = np.zeros_like(absent)
    expected[:10], expected[20:23, 5] = True, True
    np.testing.assert_array_equal(absent, expected)


@pytest.mark.parametrize(
    ("scale", "metric", "unit"),
    [
        (1.0, True, 0.001),
        (50.0, True, 0.001),  # millimetres whatever the depth
        (1.0, False, 0.001),
        (0.01, False, 1e-6),
        (50.0, False, 0.01),
        (1e6, False, 100.0),
    ],
)
def test_the_step_of_a_folder_suits_its_deepest_pixel(tmp_path, scale, metric, unit):
    room = room_recon(2, HEIGHT, WIDTH, metric=metric)
    room = replace(room, points_camera=np.asarray(room.points_camera) * np.float32(scale))
    stages = KeptNotes()
    folder = room.save(tmp_path / "out", "depth", size="processed", stages=stages)
    facts, views = entries(folder)
    assert facts["depth_unit"] == pytest.approx(unit, rel=1e-12)
    depth = np.asarray(room.depth_z)[1]
    fits = depth <= 65535 * unit
    stored = png(folder, views[1])
    np.testing.assert_allclose(stored[fits] * unit, depth[fits], atol=0.51 * unit)
    assert not stored[~fits].any() and fits.all() == (not metric or scale < 10)
    if fits.all():
        assert not stages.notes
    else:
        kept = np.asarray(room.mask)
        lost = np.count_nonzero(np.asarray(room.depth_z)[kept] > 65.5355)
        told = f"NOTE: {lost:,} of {np.count_nonzero(kept):,} pixels with depth are deeper than 65."
        assert stages.notes[0].startswith(told)


def test_maps_without_a_point_are_refused(tmp_path, room):
    empty = replace(room, mask=np.zeros_like(room.mask))
    with pytest.raises(InputError, match="the mask keeps no point"):
        empty.save(tmp_path / "out", "depth")
    assert not list(tmp_path.iterdir())


# Trajectories


def lines(path: Path) -> list[list[float]]:
    return [[float(x) for x in line.split()] for line in path.read_text().splitlines()]


def test_poses_come_back_from_both_kinds_of_text(tmp_path):
    recon = random_recon()
    folder = recon.save(tmp_path / "out", "trajectory")
    poses = np.asarray(recon.world_from_camera, np.float64)
    tum = np.array(lines(folder / "tum.txt"))
    assert tum.shape == (3, 8) and tum[:, 0].tolist() == [0, 1, 2]
    np.testing.assert_allclose(tum[:, 1:4], poses[:, :3, 3], atol=1e-7)
    rotation = Rotation.from_quat(tum[:, 4:]).as_matrix()
    np.testing.assert_allclose(rotation, poses[:, :3, :3], atol=1e-6)
    kitti = np.array(lines(folder / "kitti.txt"))
    np.testing.assert_allclose(kitti.reshape(-1, 3, 4), poses[:, :3], atol=1e-7)
    assert (folder / "views.txt").read_text().splitlines() == list(recon.names)


@pytest.mark.parametrize(
    ("names", "times"),
    [
        (("frame_000000", "frame_000012", "frame_000100"), [0, 12, 100]),
        (("frame_000012", "frame_000000", "frame_000100"), [0, 1, 2]),
        (("frame_000000", "b.jpg", "frame_000100"), [0, 1, 2]),
    ],
)
def test_frames_of_a_video_have_their_numbers_as_timestamps(tmp_path, names, times):
    folder = replace(random_recon(), names=names).save(tmp_path / "out", "trajectory")
    assert [line[0] for line in lines(folder / "tum.txt")] == times
