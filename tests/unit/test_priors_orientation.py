"""Cameras of photos that EXIF turns: told by other programs they may be of the pixels as stored."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import InputError
from jaxrecon.cli import main
from jaxrecon.images import view_names, view_sizes
from jaxrecon.priors import colmap_images, read_view_priors

STORED = (120, 80)
TURNED = (80, 120)
NAMES = ("a.jpg", "b.jpg")
KINDS = [("poses",), ("intrinsics",), ("intrinsics", "poses")]


def write_photos(folder: Path, orientation: int = 1, size: tuple[int, int] = STORED) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
    for name in NAMES:
        Image.new("RGB", size).save(folder / name, exif=exif)
    return folder


def write_colmap(folder: Path, size: tuple[int, int] = STORED, model: str = "PINHOLE") -> Path:
    """A model in text; its cameras have so many parameters as a PINHOLE."""
    folder.mkdir(parents=True, exist_ok=True)
    width, height = size
    camera = f"1 {model} {width} {height} 100 100 {width / 2} {height / 2}\n"
    (folder / "cameras.txt").write_text(camera)
    rows = [f"{n} 1 0 0 0 {n} 0 0 1 {name}\n\n" for n, name in enumerate(NAMES, 1)]
    (folder / "images.txt").write_text("".join(rows))
    return folder


def write_nerf(path: Path, size: tuple[int, int] | None = STORED, **more: Any) -> Path:
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": np.eye(4).tolist()} for name in NAMES
    ]
    told = {} if size is None else {"w": size[0], "h": size[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"fl_x": 100, **told, "frames": frames, **more}))
    return path


def read(path: Path, photos: Any, wanted: tuple[str, ...] = ("intrinsics", "poses")) -> Any:
    return read_view_priors(path, view_names(photos), sizes=view_sizes(photos), wanted=wanted)


def refusal(*arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(*arguments)
    return str(caught.value)


@pytest.fixture(params=["colmap", "nerf"])
def told(request, tmp_path: Path):
    """Writes what is known of images of a size, in one form or the other."""
    if request.param == "colmap":
        return lambda size: write_colmap(tmp_path / "elsewhere" / "sparse" / "0", size).parents[1]
    return lambda size: write_nerf(tmp_path / "elsewhere" / "transforms.json", size)


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("orientation", range(2, 9))
def test_of_the_stored_pixels(tmp_path, told, orientation, wanted):
    photos = write_photos(tmp_path / "photos", orientation)
    message = refusal(told(STORED), photos, wanted)
    assert "a.jpg is turned by its EXIF orientation" in message or "for an image of" in message
    assert "save" in message and "upright" in message


@pytest.mark.parametrize("wanted", KINDS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_of_the_upright_pixels(tmp_path, told, orientation, wanted):
    photos = write_photos(tmp_path / "photos", orientation)
    known = read(told(TURNED), photos, wanted)
    assert set(known.kinds) == set(wanted)
    if "intrinsics" in wanted:
        assert known.intrinsics[0][:2, 2].tolist() == [39.5, 59.5]


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_squares_do_not_tell(tmp_path, told, orientation):
    photos = write_photos(tmp_path / "photos", orientation, (80, 80))
    assert "turned by its EXIF orientation" in refusal(told((80, 80)), photos)


@pytest.mark.parametrize("wanted", KINDS)
def test_upright_photos(tmp_path, told, wanted):
    photos = write_photos(tmp_path / "photos")
    assert set(read(told(STORED), photos, wanted).poses or {0: 0, 1: 0}) == {0, 1}


def test_photos_saved_upright_afterwards(tmp_path, told):
    """The tag is gone, the cameras are still those of the pixels on their side."""
    photos = write_photos(tmp_path / "photos", size=(40, 60))
    for wanted in KINDS:
        message = refusal(told(STORED), photos, wanted)
        assert "is for an image of 120x80, this one is 40x60" in message
        assert "turned by its EXIF orientation" in message


def test_poses_hold_for_what_was_cut_out(tmp_path, told):
    photos = write_photos(tmp_path / "photos", size=(100, 70))
    assert set(read(told(STORED), photos, ("poses",)).poses) == {0, 1}


def test_a_nerf_scene_that_tells_no_size(tmp_path):
    path = write_nerf(tmp_path / "transforms.json", None)
    for orientation in (3, 6):
        photos = write_photos(tmp_path / "photos", orientation)
        assert "a.jpg is turned by its EXIF orientation" in refusal(path, photos, ("poses",))


def test_only_photos_that_the_file_knows(tmp_path, told):
    photos = write_photos(tmp_path / "photos")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", STORED).save(photos / "c.jpg", exif=exif)
    assert set(read(told(STORED), photos).poses) == {0, 1}


def test_the_photos_that_a_nerf_scene_names(tmp_path):
    """It was made of photos on their side; those given now are upright copies of them."""
    path = write_nerf(tmp_path / "transforms.json")
    write_photos(tmp_path / "images", 3)
    photos = write_photos(tmp_path / "copies")
    message = refusal(path, photos, ("poses",))
    assert f"{tmp_path / 'images' / 'a.jpg'} is turned by its EXIF orientation" in message
    plain = {"sizes": [STORED] * 2, "wanted": ["poses"]}
    with pytest.raises(InputError, match="EXIF orientation"):
        read_view_priors(path, NAMES, **plain)


def test_poses_of_a_camera_that_cannot_be_read(tmp_path):
    model = write_colmap(tmp_path / "sparse", model="NO_SUCH")
    assert set(read(model, write_photos(tmp_path / "photos"), ("poses",)).poses) == {0, 1}
    turned = write_photos(tmp_path / "photos", 6)
    assert "EXIF orientation" in refusal(model, turned, ("poses",))


def test_colmap_images_of_upright_pixels(tmp_path):
    write_photos(tmp_path / "images", 6)
    write_colmap(tmp_path / "sparse", TURNED)
    assert [file.name for file in colmap_images(tmp_path)] == list(NAMES)
    write_colmap(tmp_path / "sparse", STORED)
    with pytest.raises(InputError, match="turned by its EXIF orientation, which COLMAP leaves"):
        colmap_images(tmp_path)


def test_pillow_images(tmp_path):
    path = write_nerf(tmp_path / "transforms.json")
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.new("RGB", STORED)
    image.getexif()[0x0112] = 3
    (size,) = view_sizes([image])
    with pytest.raises(InputError, match="EXIF orientation"):
        read_view_priors(path, ["a.jpg"], sizes=[size])


def test_sizes_are_tuples_that_know_more(tmp_path):
    photos = write_photos(tmp_path / "photos", 6)
    (size, _) = view_sizes(photos)
    assert size == TURNED and hash(size) == hash(TURNED)
    copy = pickle.loads(pickle.dumps(size))
    assert (copy, copy.orientation, copy.file) == (TURNED, 6, photos / "a.jpg")


class TestCommandLine:
    def run(self, capsys, *arguments: object) -> tuple[int, str]:
        code = main(["reconstruct", *map(str, arguments)])
        return code, capsys.readouterr().err

    @pytest.mark.parametrize("kind", ["poses", "intrinsics"])
    def test_refused_before_weights(self, tmp_path, capsys, told, kind):
        photos = write_photos(tmp_path / "photos", 3)
        code, error = self.run(
            capsys, photos, f"--{kind}", told(STORED), "-m", "mapanything", "-o", tmp_path / "out"
        )
        assert code == 2
        assert "a.jpg is turned by its EXIF orientation" in error

    def test_archives_are_of_upright_photos(self, tmp_path, capsys):
        photos = write_photos(tmp_path / "photos", 6)
        np.savez(tmp_path / "k.npz", poses=np.tile(np.eye(4), (2, 1, 1)))
        poses = ("--poses", tmp_path / "k.npz", "-m", "mapanything", "--weights", tmp_path / "no")
        _, error = self.run(capsys, photos, *poses, "-o", tmp_path / "out")
        note = "a.jpg (2 of 2 photos) is turned by its EXIF orientation"
        assert f"{note}: {tmp_path / 'k.npz'} is taken to be of the upright photos" in error
        _, error = self.run(capsys, write_photos(tmp_path / "photos"), *poses, "-o", "out")
        assert "EXIF" not in error
