"""COLMAP models in pixels of the photos, read back by pycolmap and by our own reader."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxrecon import InputError, OutputError
from jaxrecon.images import view_names, view_sizes
from jaxrecon.models import MAPANYTHING_RESIZE, PI3_RESIZE, VGGT_RESIZE
from jaxrecon.priors import read_view_priors
from jaxrecon.reconstruction import Reconstruction
from kept_notes import KeptNotes
from ramp_photos import recon_of, save_photo
from random_recon import random_recon

pycolmap = pytest.importorskip("pycolmap")

PADDED = VGGT_RESIZE.with_padding()
RULES = (VGGT_RESIZE, PADDED, PI3_RESIZE, MAPANYTHING_RESIZE)


def read(folder: Path) -> dict[str, Any]:
    """pycolmap's images of a folder by their names; its model is kept with them."""
    model = pycolmap.Reconstruction(folder / "sparse/0")
    return {image.name: (image, model) for image in model.images.values()}


def check(recon: Reconstruction, names: list[str], folder: Path) -> None:
    """Poses, sizes, projections and places in the photos of a model that pycolmap has read."""
    found = read(folder)
    assert sorted(found) == sorted(names)
    for view, name in enumerate(names):
        image, model = found[name]
        size = recon.transforms[view].original_size
        assert (image.camera.width, image.camera.height) == size
        pose = np.linalg.inv(recon.world_from_camera[view])[:3]
        np.testing.assert_allclose(image.cam_from_world().matrix(), pose, atol=1e-6)
        matrix = recon.to_original().intrinsics[view]
        expected = [*matrix[[0, 1], [0, 1]], *(matrix[:2, 2] + 0.5)]
        np.testing.assert_allclose(image.camera.params, expected, rtol=1e-5, atol=1e-3)
        assert len(image.points2D) == recon.mask[view].sum()
        points = [(p.xy, model.points3D[p.point3D_id]) for p in image.points2D]
        projected = np.array([image.project_point(point.xyz) for _, point in points])
        xy = np.array([xy for xy, _ in points])
        np.testing.assert_allclose(projected, xy, atol=0.01)
        told = np.array([point.color[:2] for _, point in points]) * size / 255 + 0.5
        np.testing.assert_allclose(told, xy, atol=2.5)


@pytest.mark.parametrize("rule", RULES, ids=["crop", "pad", "pi3", "mapanything"])
def test_photos_of_all_orientations_and_odd_sizes(tmp_path, rule):
    sizes = [(101, 67), (67, 101), (133, 81), (75, 75), (64, 96), (99, 63), (100, 60), (61, 87)]
    photos = [
        save_photo(tmp_path / f"p{orientation}.png", size, orientation)
        for orientation, size in enumerate(sizes, 1)
    ]
    recon = recon_of(photos, rule)
    assert recon.files == tuple(map(str, photos))
    folder = recon.save(tmp_path / "out", max_points=10**6)
    check(recon, [photo.name for photo in photos], folder)
    assert not (folder / "images").exists()


@pytest.mark.parametrize("how", ["link", "copy"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_photos_beside_the_model(tmp_path, how, suffix):
    straight = save_photo(tmp_path / f"in/my é 1{suffix}", (60, 40))
    turned = [save_photo(tmp_path / f"in/t{o}{suffix}", (60, 40), o) for o in range(2, 9)]
    notes = KeptNotes()
    recon = recon_of([straight, *turned])
    folder = recon.save(tmp_path / "out", images=how, stages=notes)
    assert [n for n in notes.notes if "7 of 8 photos are turned by EXIF" in n and "upright" in n]
    for photo in (straight, *turned):
        made = folder / "images" / photo.name
        with Image.open(made) as found, Image.open(photo) as original:
            assert found.format == original.format and found.size == (60, 40)
            assert found.getexif().get(0x0112, 1) == 1
            assert photo is straight or suffix == ".tif" or found.getexif()[0x010F] == "maker"
            expected = np.asarray(ImageOps.exif_transpose(original), int)
            np.testing.assert_allclose(np.asarray(found, int), expected, atol=8)
    made = folder / "images" / straight.name
    assert made.is_symlink() == (how == "link") and made.read_bytes() == straight.read_bytes()
    assert sorted(read(folder)) == sorted(os.listdir(folder / "images"))
    check(recon, [straight.name, *(photo.name for photo in turned)], folder)


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (("a/img.jpg", "b/img.jpg"), ("a/img.jpg", "b/img.jpg")),
        (("a/1.jpg", "b/2.jpg"), ("a/1.jpg", "b/2.jpg")),
        (("a/1.jpg", "a/2.jpg"), ("1.jpg", "2.jpg")),
        (("a/e\u0301.jpg", "b/ ü x.JPG"), ("a/e\u0301.jpg", "b/ ü x.JPG")),
        (("a/1.jpg", "a/b/1.jpg"), ("1.jpg", "b/1.jpg")),
    ],
)
def test_names_are_paths_below_the_common_folder(tmp_path, places, names):
    photos = [save_photo(tmp_path / "in" / place, (60, 40)) for place in places]
    recon = recon_of(photos)
    folder = recon.save(tmp_path / "out", images="copy")
    assert sorted(read(folder)) == sorted(names)
    assert all((folder / "images" / name).is_file() for name in names)
    known = priors_of(folder, photos)
    assert set(known.poses) == {0, 1}


def test_a_photo_that_is_given_twice(tmp_path):
    photo = save_photo(tmp_path / "in/a.jpg", (60, 40))
    folder = recon_of([photo, photo]).save(tmp_path / "out", images="link")
    assert sorted(read(folder)) == ["view_0000_a.jpg", "view_0001_a.jpg"]
    assert sorted(os.listdir(folder / "images")) == sorted(read(folder))


def priors_of(source: Path, photos: list[Path]) -> Any:
    paths = [str(photo) for photo in photos]
    return read_view_priors(
        source, view_names(paths), sizes=view_sizes(paths), wanted=("intrinsics", "poses")
    )


@pytest.mark.parametrize("options", [{}, {"images": "copy"}, {"text": True}, {"size": "processed"}])
def test_own_cameras_go_in_as_they_came_out(tmp_path, options):
    photos = [
        save_photo(tmp_path / f"in/{o}/img.jpg", (161, 90) if o % 2 else (90, 161), o)
        for o in range(1, 9)
    ]
    recon = replace(recon_of(photos, VGGT_RESIZE), metric_scale=2.0)
    recon.save(tmp_path / "scene.npz")
    for source in (recon.save(tmp_path / "colmap", **options), tmp_path / "scene.npz"):
        known = priors_of(source, photos)
        assert known.metric_poses
        for view, matrix in enumerate(recon.to_original().intrinsics):
            np.testing.assert_allclose(known.intrinsics[view], matrix, rtol=1e-5)
            np.testing.assert_allclose(known.poses[view], recon.world_from_camera[view], atol=1e-5)


def test_views_of_one_camera_share_a_row(tmp_path):
    photos = [save_photo(tmp_path / f"{n}.jpg", (60, 40)) for n in range(3)]
    recon = recon_of(photos)
    recon.intrinsics[2, 0, 0] *= 1.01
    found = read(recon.save(tmp_path / "out"))
    assert [found[f"{n}.jpg"][0].camera_id for n in range(3)] == [1, 1, 2]
    assert found["0.jpg"][1].num_cameras() == 2


def test_files_of_pycolmap_are_read_back(tmp_path):
    """With the files of rigs and frames that new releases write; the others have our bytes."""
    photos = [save_photo(tmp_path / f"in/{n}.jpg", (60, 40)) for n in range(2)]
    recon = recon_of(photos)
    ours, theirs = recon.save(tmp_path / "out") / "sparse/0", tmp_path / "theirs"
    theirs.mkdir()
    pycolmap.Reconstruction(ours).write_binary(theirs)
    assert {"rigs.bin", "frames.bin"} <= set(os.listdir(theirs))
    for name in os.listdir(ours):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    for view, matrix in enumerate(recon.to_original().intrinsics):
        np.testing.assert_allclose(priors_of(theirs, photos).intrinsics[view], matrix, rtol=1e-5)


def test_text_has_two_lines_an_image(tmp_path):
    photos = [save_photo(tmp_path / f"{n}.jpg", (60, 40)) for n in range(3)]
    recon = recon_of(photos)
    recon.mask[1] = False
    folder = recon.save(tmp_path / "out", text=True)
    lines = (folder / "sparse/0/images.txt").read_text().splitlines()
    rows = [line for line in lines if not line.startswith("#")]
    assert [row.split()[-1] for row in rows[::2]] == ["0.jpg", "1.jpg", "2.jpg"] and rows[3] == ""
    assert len(read(folder)["1.jpg"][0].points2D) == 0


def test_text_refuses_names_with_white_space(tmp_path):
    recon = recon_of([save_photo(tmp_path / "in/a b.jpg", (60, 40))])
    with pytest.raises(InputError, match=r"cannot hold the name 'a b\.jpg'.*--text"):
        recon.save(tmp_path / "out", text=True)
    assert os.listdir(tmp_path) == ["in"]


def test_points_are_thinned_and_the_most_confident_come_first(tmp_path):
    recon = recon_of([save_photo(tmp_path / "a.jpg", (60, 40))])
    found = read(recon.save(tmp_path / "out", max_points=100))["a.jpg"][1].points3D
    assert 70 < len(found) <= 100
    place = {
        tuple(p): c
        for p, c in zip(
            recon.points_world[0].reshape(-1, 3).tolist(),
            recon.confidence[0].ravel().tolist(),
            strict=True,
        )
    }
    told = [place[tuple(found[number].xyz)] for number in sorted(found)]
    assert told == sorted(told, reverse=True)
    voxel = 0.5
    found = read(recon.save(tmp_path / "voxels", voxel=voxel))["a.jpg"][1].points3D
    kept = recon.points_world[recon.mask]
    best: dict[tuple, float] = {}
    for xyz, confidence in zip(kept, recon.confidence[recon.mask].tolist(), strict=True):
        cell = tuple(np.floor(xyz / voxel).tolist())
        best[cell] = max(best.get(cell, 0), confidence)
    cells = {tuple(np.floor(p.xyz / voxel).tolist()): place[tuple(p.xyz)] for p in found.values()}
    assert len(cells) == len(found) and cells == best


def test_views_without_files_have_pictures_of_the_processed_size(tmp_path):
    recon = random_recon()
    folder = recon.save(tmp_path / "out")
    assert sorted(os.listdir(folder / "images")) == ["a.png", "a_2.png", "b.png"]
    found = read(recon.save(tmp_path / "original", size="original"))
    assert sorted(found) == ["a.jpg", "b.JPG", "sub/a.png"]
    assert found["b.JPG"][0].camera.width == 120


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"images": "link"}, r"the photo of a\.jpg is in no file.*size=\"processed\""),
        ({"images": "move"}, r"^images='move': choose from 'link', 'copy', or None"),
        ({"size": "big"}, r"^size='big': choose from 'original', 'processed', or None"),
        ({"images": "copy", "size": "processed"}, r"leave out images or size"),
        ({"voxel": 0.0}, r"^voxel=0.0 must be above 0"),
        ({"voxel": float("nan")}, r"^voxel=nan must be a number"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, told):
    with pytest.raises(InputError, match=told):
        random_recon().save(tmp_path / "out", **options)
    assert os.listdir(tmp_path) == []


def test_photos_that_are_gone_or_changed(tmp_path):
    photo = save_photo(tmp_path / "a.jpg", (60, 40))
    recon = recon_of([photo])
    save_photo(photo, (60, 41))
    with pytest.raises(InputError, match=r"a\.jpg is 60x41, and was 60x40 when"):
        recon.save(tmp_path / "out", images="link")
    photo.unlink()
    with pytest.raises(InputError, match=r"a\.jpg"):
        recon.save(tmp_path / "out", images="copy")
    recon.save(tmp_path / "out")  # cameras need no photo


class TestFolders:
    def test_a_linked_folder_is_written_through(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        recon = recon_of([save_photo(tmp_path / "a.jpg", (60, 40))])
        for overwrite in (False, True):
            recon.save(tmp_path / "link", images="link", overwrite=overwrite)
            assert (tmp_path / "link").is_symlink()
            assert (tmp_path / "real/images/a.jpg").readlink() == tmp_path / "a.jpg"
        assert (tmp_path / "a.jpg").is_file()

    def test_a_dangling_link_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        recon = recon_of([save_photo(tmp_path / "a.jpg", (60, 40))])
        with pytest.raises(OutputError, match=r"is a link to .*nowhere, which does not exist"):
            recon.save(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()


def test_files_are_kept_by_views_and_archives(tmp_path):
    photos = [save_photo(tmp_path / f"{n}.jpg", (60, 40)) for n in range(3)]
    recon = recon_of(photos)
    assert recon[[2, 0]].files == (str(photos[2]), str(photos[0]))
    loaded = Reconstruction.load(recon.save(tmp_path / "s.npz"))
    assert loaded.files == recon.files
    photos[1].unlink()
    assert Reconstruction.load(tmp_path / "s.npz").files == (str(photos[0]), None, str(photos[2]))
    with np.load(random_recon().save(tmp_path / "arrays.npz")) as archive:
        assert "files" not in archive.files
    assert Reconstruction.load(tmp_path / "arrays.npz").files == (None,) * 3
