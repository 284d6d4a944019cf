"""Data sets for nerfstudio and instant-ngp, by a strict reading of the rules of their loaders."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.images.pictures import file_size
from jaxrecon.priors import read_view_priors
from jaxrecon.reconstruction import Reconstruction
from room_scenes import room_recon

plyfile = pytest.importorskip("plyfile")

HEIGHT, WIDTH = 48, 64
NAMES = (
    *("left/IMG 1.jpg", "right/IMG 1.jpg", "Käse é.JPEG", "b.png"),
    *("c.jpg", "d.jpg", "e.jpg", "f.tif"),
)
SIZES = (*((130, 97), (97, 130), (201, 151)), (128, 96), *((131, 99),) * 3, (99, 131))
"""Upright: odd sides, portraits and landscapes; view `n` has the EXIF orientation `n + 1`."""

SHARED = ("fl_x", "fl_y", "cx", "cy", "w", "h")


def transform_of(size: tuple[int, int]) -> PixelTransform:
    """A crop to 64x48 after scaling to its width."""
    scale = WIDTH / size[0]
    return PixelTransform(
        size, (WIDTH, HEIGHT), (scale, scale), (0.0, (HEIGHT - scale * size[1]) // 2)
    )


def write_photo(path: Path, size: tuple[int, int], orientation: int) -> None:
    stored = size[::-1] if orientation >= 5 else size
    rows = np.linspace(0, 255, stored[1], dtype=np.uint8)[:, None]
    pixels = np.broadcast_to(rows, (stored[1], stored[0]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([pixels] * 3, -1)).save(path, exif=exif)


def recon_of(
    folder: Path,
    names: Sequence[str] = NAMES,
    sizes: Sequence[tuple[int, int]] = SIZES,
    orientations: Sequence[int] = range(1, 9),
) -> Reconstruction:
    files = [folder / name for name in names]
    for file, size, orientation in zip(files, sizes, orientations, strict=True):
        write_photo(file, size, orientation)
    room = room_recon(len(names), HEIGHT, WIDTH, tuple(map(transform_of, sizes)), tuple(names))
    return replace(room, files=tuple(str(file) for file in files))


@pytest.fixture
def recon(tmp_path) -> Reconstruction:
    return recon_of(tmp_path / "photos")


class Strict:
    """What nerfstudio's parser and instant-ngp's loader make of a folder, or an assertion."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = json.loads((folder / "transforms.json").read_text())
        assert self.meta["camera_model"] == "OPENCV"  # of nerfstudio's CAMERA_MODEL_TO_TYPE
        assert [self.meta.get(key, 0) for key in ("k1", "k2", "k3", "k4", "p1", "p2")] == [0] * 6
        applied = np.array(self.meta["applied_transform"])
        assert applied.shape == (3, 4)
        np.testing.assert_array_equal(applied, np.eye(4)[:3])
        self.frames = self.meta["frames"]
        # nerfstudio takes a value for all frames if the top of the file has it, and instant-ngp
        # divides cx by a w that stands in the same object.
        self.one_camera = "fl_x" in self.meta
        for frame in self.frames:
            holder, other = (self.meta, frame) if self.one_camera else (frame, self.meta)
            assert all(key in holder and key not in other for key in SHARED)
            assert isinstance(holder["w"], int) and isinstance(holder["h"], int)
            self._check_files(frame, holder)
        # nerfstudio: for all frames or for none
        for key in ("depth_file_path", "mask_path"):
            assert sum(key in frame for frame in self.frames) in (0, len(self.frames))

    def _check_files(self, frame: dict, holder: dict) -> None:
        """Both read pixels as they are stored, whatever EXIF says."""
        for key in ("file_path", "depth_file_path", "depth_path"):
            assert not Path(frame[key]).is_absolute() and "\\" not in frame[key]
            with Image.open(self.folder / frame[key]) as image:
                assert image.size == (holder["w"], holder["h"])
                assert image.getexif().get(0x0112, 1) == 1
        assert (self.folder / frame["file_path"]).resolve().is_file()

    def number(self, view: int, key: str) -> float:
        return (self.meta if self.one_camera else self.frames[view])[key]

    def project(self, view: int, world: np.ndarray) -> np.ndarray:
        """Pixels counted from the corner, by OpenGL's axes."""
        pose = np.array(self.frames[view]["transform_matrix"])
        assert pose.shape == (4, 4)
        x, y, z = ((world - pose[:3, 3]) @ pose[:3, :3]).T
        assert (z < 0).all()
        u = self.number(view, "fl_x") * x / -z + self.number(view, "cx")
        v = self.number(view, "fl_y") * -y / -z + self.number(view, "cy")
        return np.stack([u, v], axis=-1)

    def depth(self, view: int) -> np.ndarray:
        with Image.open(self.folder / self.frames[view]["depth_file_path"]) as image:
            assert image.mode == "I;16"
            return np.asarray(image) * self.meta["depth_unit_scale_factor"]

    def points(self) -> Any:
        return plyfile.PlyData.read(self.folder / self.meta["ply_file_path"])["vertex"]


@pytest.mark.parametrize("size", ["original", "processed"])
def test_points_are_projected_to_where_they_are_in_the_pictures(tmp_path, recon, size):
    read = Strict(recon.save(tmp_path / "out", "nerfstudio", size=size))
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    processed = np.stack([column, row], axis=-1).reshape(-1, 2).astype(np.float64)
    for view, transform in enumerate(recon.transforms):
        shown = processed if size == "processed" else transform.to_original(processed)
        world = np.asarray(recon.points_world, np.float64)[view].reshape(-1, 3)
        np.testing.assert_allclose(read.project(view, world), shown + 0.5, atol=0.01)
        pose = np.array(read.frames[view]["transform_matrix"]) @ np.diag([1, -1, -1, 1])
        np.testing.assert_allclose(pose, recon.world_from_camera[view], atol=1e-6)


def test_photos_keep_names_and_folders_and_stand_upright(tmp_path, recon):
    folder = recon.save(tmp_path / "out", "nerfstudio")
    read = Strict(folder)
    assert [frame["file_path"] for frame in read.frames] == [f"images/{name}" for name in NAMES]
    assert (folder / "images" / NAMES[0]).is_symlink()
    copied = recon.save(tmp_path / "copies", "nerfstudio", images="copy")
    Strict(copied)
    assert not any(path.is_symlink() for path in copied.rglob("*"))
    for view, name in enumerate(NAMES):
        assert (np.array(read.number(view, "w")), read.number(view, "h")) == SIZES[view]
        with Image.open(copied / "images" / name) as image:
            grey = np.asarray(image.convert("L")).astype(int)
        along = 1 if view + 1 >= 5 else 0  # the stored rows
        assert np.ptp(grey.mean(axis=1 - along)) > 200 > 20 > np.ptp(grey.mean(axis=along))


def test_depth_is_that_of_the_scene_in_millimetres(tmp_path, recon):
    mask = np.asarray(recon.mask).copy()
    mask[0, :20] = False
    recon = replace(recon, mask=mask)
    read = Strict(recon.save(tmp_path / "out", "nerfstudio"))
    # nerfstudio's default, which it does not read from the file, and instant-ngp's key
    assert read.meta["depth_unit_scale_factor"] == read.meta["integer_depth_scale"] == 0.001
    original = recon.to_original()
    for view in range(len(NAMES)):
        expected = np.nan_to_num(original.depth_z(view), nan=0.0)
        if view == 0:
            _, y = np.moveaxis(
                recon.transforms[0].from_original(
                    np.stack(np.meshgrid(*map(np.arange, map(float, SIZES[0]))), -1)
                ),
                -1,
                0,
            )
            expected = np.where(np.floor(y + 0.5) < 20, 0, expected)
        np.testing.assert_allclose(read.depth(view), expected, atol=0.00051)
    assert (read.depth(0) == 0).any() and (read.depth(0) > 0).any()


def test_points_have_colours_and_lie_in_the_world_of_the_poses(tmp_path, recon):
    vertex = Strict(recon.save(tmp_path / "out", "nerfstudio", max_points=300)).points()
    assert 50 < len(vertex["x"]) <= 300
    points = np.stack([vertex[name] for name in "xyz"], -1)
    known = {tuple(row) for row in np.asarray(recon.points_world)[recon.mask].tolist()}
    assert all(tuple(row) in known for row in points.tolist())
    assert vertex["red"].dtype == np.uint8


@pytest.mark.parametrize("size", ["original", "processed"])
def test_masks_that_were_given_go_with_the_pictures(tmp_path, recon, size):
    masks = [np.ones(size[::-1], bool) for size in SIZES]
    for mask in masks:
        mask[: len(mask) // 2] = False
    folder = replace(recon, photo_masks=tuple(masks)).save(tmp_path / "o", "nerfstudio", size=size)
    read = Strict(folder)
    for view, frame in enumerate(read.frames):
        with Image.open(folder / frame["mask_path"]) as image:
            assert image.mode == "L"  # nerfstudio wants one channel, and keeps what is not 0
            keep = np.asarray(image) > 0
        shown = recon.transforms[view].nearest(masks[view]) if size == "processed" else masks[view]
        np.testing.assert_array_equal(keep, shown)
    assert "mask_path" not in Strict(recon.save(tmp_path / "plain", "nerfstudio")).frames[0]


def test_one_camera_stands_at_the_top(tmp_path):
    names = ("a.jpg", "b.jpg")
    recon = recon_of(tmp_path / "photos", names, ((130, 97),) * 2, (1, 3))
    assert Strict(recon.save(tmp_path / "out", "nerfstudio")).one_camera


def test_views_without_files_have_the_processed_pictures(tmp_path):
    room = room_recon(2, HEIGHT, WIDTH)
    read = Strict(room.save(tmp_path / "out", "nerfstudio"))
    assert read.number(0, "w") == WIDTH and read.one_camera
    for view, frame in enumerate(read.frames):
        with Image.open(read.folder / frame["file_path"]) as image:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(room.colors)[view])


@pytest.mark.parametrize("images", ["link", "copy"])
def test_our_reader_gives_the_cameras_and_depth_back(tmp_path, recon, images):
    """For the photos that EXIF turns, too, since the file says that it is for upright ones."""
    path = recon.save(tmp_path / "out", "nerfstudio", images=images) / "transforms.json"
    files = [Path(file) for file in recon.files if file]
    known: Any = read_view_priors(
        path,
        recon.names,
        sizes=[file_size(file) for file in files],
        wanted=("intrinsics", "poses", "depths"),
    )
    original = recon.to_original()
    for view in range(len(NAMES)):
        np.testing.assert_allclose(known.intrinsics[view], original.intrinsics[view], rtol=1e-7)
        np.testing.assert_allclose(known.poses[view], recon.world_from_camera[view], atol=1e-6)
        expected = np.nan_to_num(original.depth_z(view), nan=0.0)
        np.testing.assert_allclose(known.depths[view], expected, atol=0.00051)


def test_what_cannot_be_written_is_told(tmp_path, recon):
    room = room_recon(2, HEIGHT, WIDTH)
    with pytest.raises(InputError, match="the mask keeps no point"):
        replace(room, mask=np.zeros_like(room.mask)).save(tmp_path / "out", "nerfstudio")
    with pytest.raises(InputError, match="is in no file that is known"):
        room.save(tmp_path / "out", "nerfstudio", images="copy")
    (tmp_path / "photos" / NAMES[3]).unlink()
    with pytest.raises(InputError, match=r"b\.png"):
        recon.save(tmp_path / "out", "nerfstudio")
    assert not (tmp_path / "out").exists()
