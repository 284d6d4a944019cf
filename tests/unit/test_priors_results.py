"""Our own results given back as what is known of the photos that they were made of."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import InputError, Reconstruction
from jaxrecon.formats import Streamed, write_npz
from jaxrecon.images import view_names, view_sizes
from jaxrecon.priors import read_view_priors
from random_recon import random_recon

SIZES = ((24, 16), (120, 40), (20, 16))


@pytest.fixture
def recon() -> Reconstruction:
    return replace(random_recon(), names=("left/IMG 1.jpg", "right/IMG 1.jpg", "b.HEIC"))


def npz(recon: Reconstruction, folder: Path) -> Path:
    return recon.save(folder / "scene.npz")


def streamed(recon: Reconstruction, folder: Path) -> Path:
    target = Streamed(folder / "streamed", "digest", recon.names)
    target.folder.mkdir()
    target.start({}, overwrite=False)
    for view, file in enumerate(target.files):
        write_npz(recon[view].scene(), file)
    return target.folder


def colmap(recon: Reconstruction, folder: Path) -> Path:
    return recon.save(folder / "colmap/")


def colmap_text(recon: Reconstruction, folder: Path) -> Path:
    return recon.save(folder / "colmap/", text=True) / "sparse" / "0"


WRITERS = [npz, streamed, colmap, colmap_text]


def known_of(path: Path, names: Any, sizes: Any, **options: Any) -> Any:
    return read_view_priors(path, names, sizes=sizes, **options)


def read(path: Path, recon: Reconstruction, sizes=SIZES, wanted=("intrinsics", "poses")) -> Any:
    return read_view_priors(path, recon.names, sizes=sizes, wanted=wanted)


@pytest.mark.parametrize("write", WRITERS)
def test_cameras_of_the_photos(tmp_path, recon, write):
    known = read(write(recon, tmp_path), recon)
    assert (known.metric_poses, known.metric_depths) == (False, False)
    original = recon.to_original()
    for view in range(3):
        np.testing.assert_allclose(known.intrinsics[view], original.intrinsics[view], rtol=2e-7)
        np.testing.assert_allclose(known.poses[view], recon.world_from_camera[view], atol=1e-6)
    known.checked(SIZES)


@pytest.mark.parametrize("write", WRITERS)
def test_resized_photos(tmp_path, recon, write):
    sizes = [(2 * width, 2 * height) for width, height in SIZES]
    known = read(write(recon, tmp_path), recon, sizes)
    focal = recon.to_original().intrinsics[2][0, 0]
    np.testing.assert_allclose(known.intrinsics[2][0, 0], 2 * focal, rtol=1e-6)


@pytest.mark.parametrize("write", [npz, streamed])
def test_exact_numbers(tmp_path, recon, write):
    known = read(write(recon, tmp_path), recon)
    np.testing.assert_array_equal(known.intrinsics[0], recon.to_original().intrinsics[0])


@pytest.mark.parametrize("write", WRITERS)
def test_metres(tmp_path, recon, write):
    path = write(replace(recon, metric_scale=2.0), tmp_path)
    assert read(path, recon).metric_poses


@pytest.mark.parametrize("write", [npz, streamed])
def test_depths(tmp_path, recon, write):
    known = read(write(recon, tmp_path), recon, wanted=("intrinsics", "depths"))
    original = recon.to_original()
    for view, (width, height) in enumerate(SIZES):
        assert known.depths[view].shape == (height, width)
        expected = np.nan_to_num(original.depth_z(view), nan=0)
        np.testing.assert_array_equal(known.depths[view], expected)
    assert (known.depths[2] == 0).any() and not known.poses  # where the photo was cropped


@pytest.mark.parametrize("write", WRITERS)
def test_other_suffixes_and_parts_of_the_photos(tmp_path, recon, write):
    """Photos converted since, some of them alone, in another order."""
    names = ("b.jpg", "right/IMG 1.png")
    path = write(recon, tmp_path)
    known = known_of(path, names, sizes=[SIZES[2], SIZES[1]], wanted=["poses"])
    for view, number in ((0, 2), (1, 1)):
        np.testing.assert_allclose(known.poses[view], recon.world_from_camera[number], atol=1e-6)


@pytest.mark.parametrize("write", WRITERS)
def test_photos_where_they_lie(tmp_path, recon, write):
    """Of one folder the names alone do not tell which photo is meant."""
    path = write(recon, tmp_path)
    (tmp_path / "right").mkdir()
    Image.new("RGB", SIZES[1]).save(tmp_path / "right" / "IMG 1.jpg")
    photos = tmp_path / "right"
    assert view_names(photos) == ("IMG 1.jpg",)
    known = known_of(path, view_names(photos), sizes=view_sizes(photos))
    np.testing.assert_allclose(known.poses[0], recon.world_from_camera[1], atol=1e-6)


@pytest.mark.parametrize("write", WRITERS)
def test_turned_by_exif(tmp_path, recon, write):
    """Our cameras are of the upright photos, whichever way they are stored."""
    path = write(recon, tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 20)).save(tmp_path / "b.jpg", exif=exif)
    photos = [str(tmp_path / "b.jpg")]
    assert view_sizes(photos) == (SIZES[2],)
    known = known_of(path, view_names(photos), sizes=view_sizes(photos))
    np.testing.assert_allclose(
        known.intrinsics[0], recon.to_original().intrinsics[2], rtol=2e-7, atol=1e-6
    )


@pytest.mark.parametrize("write", [npz, streamed])
@pytest.mark.parametrize("wanted", [("intrinsics",), ("poses",)])
def test_photos_of_another_shape(tmp_path, recon, write, wanted):
    sizes = [(height, width) for width, height in SIZES]
    with pytest.raises(InputError, match="is for an image of 24x16, this one is 16x24"):
        read(write(recon, tmp_path), recon, sizes, wanted)


@pytest.mark.parametrize("write", WRITERS)
def test_other_photos(tmp_path, recon, write):
    with pytest.raises(InputError, match="knows none of the images"):
        read_view_priors(write(recon, tmp_path), ["z.jpg"], sizes=[(24, 16)])


class TestColmapFolders:
    def test_the_record(self, tmp_path, recon):
        path = colmap(recon, tmp_path)
        told = json.loads((path / "photos.json").read_text())
        rows = {row["picture"]: row["photo"] for row in told["pictures"]}
        assert rows == {
            "IMG_1.png": "left/IMG 1.jpg",
            "IMG_1_2.png": "right/IMG 1.jpg",
            "b.png": "b.HEIC",
        }
        assert {path.name for path in (path / "images").iterdir()} == set(rows)
        first = told["pictures"][0]
        assert (first["photo_size"], first["scale"], first["offset"]) == (
            [24, 16],
            [0.5] * 2,
            [0] * 2,
        )

    def test_its_own_pictures(self, tmp_path, recon):
        """The pictures beside the model are no photos: their cameras stay as they are."""
        path = colmap(recon, tmp_path)
        pictures = path / "images"
        names = view_names(pictures)
        known = known_of(path, names, sizes=view_sizes(pictures))
        assert names == ("b.png", "IMG_1.png", "IMG_1_2.png")
        for view, number in enumerate((2, 0, 1)):
            np.testing.assert_allclose(known.intrinsics[view], recon.intrinsics[number], rtol=1e-6)
            np.testing.assert_allclose(
                known.poses[view], recon.world_from_camera[number], atol=1e-6
            )

    def test_without_a_record(self, tmp_path, recon):
        """Of the version before; names that differ in the suffix alone agree, and copies scale."""
        path = colmap(replace(recon, names=("a.jpg", "b.JPG", "c.jpg")), tmp_path)
        (path / "photos.json").unlink()
        known = known_of(path, ["b.JPG", "a.jpg"], sizes=[(12, 8), (24, 16)])
        original = recon.to_original().intrinsics[0]
        np.testing.assert_allclose(known.intrinsics[1], original, rtol=1e-6)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"version": 3}, "photos.json has another version"),
            ({"pictures": 3}, "photos.json has another version, or no pictures"),
            ({"pictures": [3]}, "a picture is no object"),
            ({"picture_size": [12]}, "picture_size is no pair of numbers"),
            ({"pictures": [{"picture": "a.png"}]}, "a.png: photo_size is no pair"),
            ({"pictures": [{"picture": ""}]}, "picture is"),
        ],
    )
    def test_damaged_records(self, tmp_path, recon, change, message):
        path = colmap(recon, tmp_path)
        values = json.loads((path / "photos.json").read_text()) | change
        (path / "photos.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=message):
            read(path, recon)

    @pytest.mark.parametrize(
        ("key", "value"), [("scale", [0, 1]), ("offset", ["x", 1]), ("photo", 3)]
    )
    def test_damaged_rows(self, tmp_path, recon, key, value):
        path = colmap(recon, tmp_path)
        values = json.loads((path / "photos.json").read_text())
        values["pictures"][0][key] = value
        (path / "photos.json").write_text(json.dumps(values))
        with pytest.raises(InputError, match=f"IMG_1.png: {key} is"):
            read(path, recon)


def test_unfinished_folders(tmp_path, recon):
    path = streamed(recon, tmp_path)
    next(path.glob("000001_*")).unlink()
    with pytest.raises(InputError, match="is not finished: 1 of 3 views are missing"):
        read(path, recon)


def test_pictures_of_two_sizes(tmp_path, recon):
    path = streamed(recon, tmp_path)
    other = streamed(recon, tmp_path / "other") if (tmp_path / "other").mkdir() is None else path
    odd = next(other.glob("000001_*"))
    with np.load(odd) as stored:
        arrays = dict(stored)
    for name, array in arrays.items():
        if array.ndim >= 3 and array.shape[1:3] == (8, 12):
            arrays[name] = array[:, :7]
    np.savez(path / odd.name, **arrays)
    with pytest.raises(InputError, match=r"the picture of right/IMG 1\.jpg has another size"):
        read(path, recon)


def test_damaged_archives(tmp_path, recon):
    path = npz(recon, tmp_path)
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays | {"scales": arrays["scales"] * 0})
    with pytest.raises(InputError, match="scales are not all from"):
        read(path, recon)


def test_a_folder_of_results(tmp_path, recon):
    colmap(recon, tmp_path)
    npz(recon, tmp_path)
    with pytest.raises(InputError, match=r"holds no COLMAP model; give a file of it: .*scene\.npz"):
        read(tmp_path, recon)
    shutil.copy(tmp_path / "scene.npz", tmp_path / "known.npz")
    assert len(read(tmp_path / "known.npz", recon).poses) == 3
