"""What is known of views, read from archives, COLMAP folders and NeRF scenes."""

import io
import json
import math
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from image_files import write_video
from jaxrecon import InputError
from jaxrecon.images import load_images, view_names, view_sizes
from jaxrecon.models import PI3_RESIZE
from jaxrecon.priors import colmap_images, prior_arrays, read_view_priors
from jaxrecon.priors.camera import is_copy
from random_recon import VIEWS, random_recon

WIDE = (120, 80)
NAMES = ("a.jpg", "b.jpg")
MATRIX = np.array([[100, 0, 59.5], [0, 110, 41.5], [0, 0, 1]])  # of COLMAP's 100 110 60 42
TURN = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # 90 degrees about z


def read(path: Path, names: tuple[str, ...] = NAMES, size=WIDE, **options: Any) -> Any:
    return read_view_priors(path, names, sizes=[size] * len(names), **options)


def refusal(path: Path, names: tuple[str, ...] = NAMES, size=WIDE, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, names, size, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pixel(matrix: np.ndarray, pose: np.ndarray, point: tuple[float, ...]) -> np.ndarray:
    """Where a world point is seen, in OpenCV's pixels."""
    camera = np.linalg.inv(pose) @ [*point, 1]
    return (matrix @ (camera[:3] / camera[2]))[:2]


# Archives


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_archive_with_all(tmp_path):
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 2.5
    depths = np.arange(2 * 3 * 4, dtype=np.float64).reshape(2, 3, 4)
    matrices = np.stack([MATRIX, MATRIX * [[2], [2], [1]]])
    path = write_npz(tmp_path / "k.npz", poses=poses, intrinsics=matrices, depths=depths)
    known = read(path)
    assert known.metric_poses and known.metric_depths
    for view in (0, 1):
        np.testing.assert_array_equal(known.poses[view], poses[view])
        np.testing.assert_array_equal(known.intrinsics[view], matrices[view])
        np.testing.assert_array_equal(known.depths[view], depths[view])
        assert known.depths[view].dtype == np.float32


def test_archive_with_one_matrix_for_all(tmp_path):
    known = read(write_npz(tmp_path / "K.NPZ.npz", intrinsics=np.array(MATRIX, int)))
    assert (known.poses, known.depths, set(known.intrinsics)) == ({}, {}, {0, 1})
    np.testing.assert_array_equal(known.intrinsics[1], [[100, 0, 59], [0, 110, 41], [0, 0, 1]])
    assert known.intrinsics[1].dtype == np.float64


def test_archive_with_unknown_views(tmp_path):
    poses = np.full((2, 4, 4), np.nan)
    poses[0] = np.eye(4)
    depths = np.zeros((2, 3, 4))
    depths[0], depths[1, 1, 2] = np.nan, 3
    known = read(write_npz(tmp_path / "k.npz", poses=poses, depths=depths))
    assert (set(known.poses), set(known.depths)) == ({0}, {1})


def test_only_what_is_wanted_is_looked_at(tmp_path):
    path = write_npz(tmp_path / "k.npz", poses=np.tile(np.eye(4), (2, 1, 1)), intrinsics="wrong")
    assert set(read(path, wanted=["poses"]).poses) == {0, 1}
    assert "intrinsics has shape ()" in refusal(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"poses": np.zeros((2, 3, 4))}, "poses has shape (2, 3, 4); expected (2, 4, 4)"),
        ({"poses": np.zeros((3, 4, 4))}, "poses has shape (3, 4, 4); expected (2, 4, 4)"),
        ({"poses": np.zeros((4, 4))}, "poses has shape (4, 4); expected (2, 4, 4)"),
        ({"intrinsics": np.zeros((2, 4))}, "intrinsics has shape (2, 4); expected (2, 3, 3)"),
        ({"depths": np.zeros((2, 3))}, "depths has shape (2, 3); expected (2, H, W), one for each"),
        ({"depths": np.ones((2, 3, 4), np.uint16)}, "depths has dtype uint16; expected floats, in"),
        ({"poses": np.full((2, 4, 4), "x")}, "poses has dtype <U1; expected numbers"),
        ({"K": MATRIX}, "has no array named intrinsics or poses or depths: it has K; save"),
        ({"poses": np.full((2, 4, 4), np.nan)}, "tells no intrinsics or poses or depths of these"),
        ({"poses": np.array([None])}, "is not a sound .npz file ('poses' has the dtype object"),
    ],
)
def test_archives_refused(tmp_path, arrays, message):
    path = write_npz(tmp_path / "k.npz", **arrays)
    assert message in refusal(path)
    assert str(path) in refusal(path)


def test_damaged_archives_refused(tmp_path):
    path = write_npz(tmp_path / "k.npz", poses=np.tile(np.eye(4), (2, 1, 1)))
    whole = path.read_bytes()
    text = io.BytesIO()
    with zipfile.ZipFile(text, "w") as file:
        file.writestr("poses.npy", b"no array")
    for damaged, message in (
        (b"", "not a sound .npz file"),
        (whole[: len(whole) // 2], "not a sound .npz file"),
        (whole.replace(np.float64(1).tobytes(), np.float64(2).tobytes()), "Bad CRC-32"),
        (text.getvalue(), "the magic string is not correct"),
    ):
        path.write_bytes(damaged)
        assert message in refusal(path)


@pytest.mark.parametrize(
    "name", ["extrinsic", "extrinsics", "w2c", "world_to_camera", "cam_from_world", "viewmats"]
)
def test_inverse_poses_are_not_to_be_renamed(tmp_path, name):
    path = write_npz(tmp_path / "k.npz", **{name: np.zeros((2, 3, 4)), "depth": np.ones((2, 3, 4))})
    message = refusal(path, wanted=["poses"])
    assert f"{name} is camera from world by its name: complete each to 4x4 with the row" in message
    assert "save its inverse" in message and "rename" not in message


@pytest.mark.parametrize(
    ("known", "other", "told"),
    [
        ({"intrinsics": MATRIX}, "extrinsics", "no poses, and its extrinsics would be passed over"),
        ({"intrinsics": MATRIX}, "RT", "no poses, and its RT would be passed over"),
        ({"intrinsics": MATRIX}, "c2w", "its c2w would be passed over: save poses as (V, 4, 4)"),
        ({"depths": np.ones((2, 6, 8))}, "K", "its K would be passed over: save intrinsics as"),
        ({"poses": np.tile(np.eye(4), (2, 1, 1))}, "depth_z", "no depths, and its depth_z would"),
    ],
)
def test_what_is_wanted_is_not_passed_over_beside_what_is_read(tmp_path, known, other, told):
    path = write_npz(tmp_path / "k.npz", **known, **{other: np.ones((2, 4, 4))})
    message = refusal(path)
    assert told in message and str(path) in message
    assert read(path, wanted=list(known)).kinds == tuple(known)


@pytest.mark.parametrize(
    ("wanted", "convention"),
    [
        ("poses", "save poses as (V, 4, 4), from camera to world, with x right, y down, z forward"),
        ("intrinsics", "save intrinsics as (V, 3, 3) in pixels of the upright photos, not of res"),
        ("depths", "save depths as (V, H, W) of the upright photos' size, along the optical axis"),
    ],
)
def test_arrays_of_other_names(tmp_path, wanted, convention):
    path = write_npz(tmp_path / "k.npz", camera_poses=np.zeros((2, 4, 4)), K=MATRIX)
    assert convention in refusal(path, wanted=[wanted])


def test_arrays_of_frequent_shapes(tmp_path):
    path = write_npz(tmp_path / "k.npz", poses=np.zeros((2, 3, 4)))
    assert "if they map camera to world add the row [0 0 0 1], if world to camera" in refusal(path)
    path = write_npz(tmp_path / "k.npz", depths=np.ones((2, 80, 120, 1)))
    assert "(2, H, W), one for each image in their order; leave out the last axis" in refusal(path)


def test_paths_refused(tmp_path):
    (tmp_path / "k.yaml").touch()
    assert refusal(tmp_path / "k.npz") == f"{tmp_path / 'k.npz'} does not exist; check the path"
    assert "k.yaml is of no known kind; give an .npz archive" in refusal(tmp_path / "k.yaml")
    with pytest.raises(InputError, match="sizes: found 1 for 2 names"):
        read_view_priors(tmp_path / "k.npz", NAMES, sizes=[WIDE])


# COLMAP


def write_colmap(folder: Path, *, names=NAMES, model="PINHOLE", text=False, **camera: Any) -> Path:
    """A model by pycolmap: view v is turned by 90 degrees about z and v + 1 along x."""
    pycolmap = pytest.importorskip("pycolmap")
    folder.mkdir(parents=True, exist_ok=True)
    options = {"width": 120, "height": 80, "params": [100.0, 110.0, 60.0, 42.0]} | camera
    built = pycolmap.Reconstruction()
    built.add_camera_with_trivial_rig(pycolmap.Camera(model=model, camera_id=7, **options))
    for view, name in enumerate(names):
        points = pycolmap.Point2DList([pycolmap.Point2D(np.array([3.0, 4.0]))] * view)
        image = pycolmap.Image(name=name, camera_id=7, image_id=view + 3, points2D=points)
        rotation = pycolmap.Rotation3d(np.array(TURN, float))
        pose = pycolmap.Rigid3d(rotation, np.array([view + 1.0, 2.0, 3.0]))
        built.add_image_with_trivial_frame(image, pose)
    (built.write_text if text else built.write_binary)(folder)
    return folder


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("place", ["", "sparse", "sparse/0"])
def test_colmap_read(tmp_path, place, text):
    write_colmap(tmp_path / place, text=text)
    known = read(tmp_path, ("b.jpg", "other.jpg", "a.jpg"))
    assert (known.metric_poses, known.depths) == (False, {})
    assert set(known.intrinsics) == set(known.poses) == {0, 2}
    np.testing.assert_array_equal(known.intrinsics[0], MATRIX)
    # The camera of b.jpg sees R x + (2, 2, 3), so it is at -R^T (2, 2, 3) = (-2, 2, -3).
    expected = [[0, 1, 0, -2], [-1, 0, 0, 2], [0, 0, 1, -3], [0, 0, 0, 1]]
    np.testing.assert_allclose(known.poses[0], expected, atol=1e-15)
    # The point (2, 1, 1) is at (-1, 2, 1) + (1, 2, 3) = (0, 4, 4) in the camera of a.jpg: COLMAP
    # has it at 60 and 110 * 4 / 4 + 42 = 152, OpenCV half a pixel before.
    seen = pixel(known.intrinsics[2], known.poses[2], (2, 1, 1))
    np.testing.assert_allclose(seen, [59.5, 151.5], atol=1e-12)


def test_colmap_agrees_with_pycolmap_on_any_rotation(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    rng = np.random.default_rng(0)
    model = write_colmap(tmp_path)
    rows = (model / "images.bin").read_bytes()
    quaternion = rng.normal(size=4)
    quaternion /= np.linalg.norm(quaternion)
    at = 8 + 4
    rows = rows[:at] + quaternion.astype("<f8").tobytes() + rows[at + 32 :]
    (model / "images.bin").write_bytes(rows)
    rotation = pycolmap.Rotation3d(np.roll(quaternion, -1))  # x y z w
    known = read(model, wanted=["poses"])
    np.testing.assert_allclose(known.poses[0][:3, :3], rotation.inverse().matrix(), atol=1e-15)


@pytest.mark.parametrize(
    ("made_for", "size", "expected"),
    [
        ((120, 80), (120, 80), True),
        ((120, 80), (240, 160), True),
        # Between 517 / 4000 and 519 / 4000 of 3000 are 387.75 and 389.25.
        ((4000, 3000), (518, 386), False),
        ((4000, 3000), (518, 387), True),
        ((4000, 3000), (518, 390), True),
        ((4000, 3000), (518, 391), False),
        ((120, 80), (80, 120), False),
        ((120, 80), (120, 82), False),
        ((120, 80), (80, 80), False),
    ],
)
def test_copies(made_for, size, expected):
    assert is_copy(made_for, size) is expected


def test_colmap_camera_scaled_to_the_image(tmp_path):
    known = read(write_colmap(tmp_path), size=(60, 41))
    # Counted from the corner all scales alike, by 60/120 and 41/80; then half a pixel goes.
    expected = [[50, 0, 30 - 0.5], [0, 110 * 41 / 80, 42 * 41 / 80 - 0.5], [0, 0, 1]]
    np.testing.assert_allclose(known.intrinsics[0], expected, atol=1e-12)


def test_colmap_image_of_another_shape_refused(tmp_path):
    write_colmap(tmp_path)
    cropped = refusal(tmp_path, size=(120, 90))
    assert "the camera of a.jpg is for an image of 120x80, this one is 120x90; give" in cropped
    assert "turned by its EXIF orientation" in refusal(tmp_path, size=(80, 120))
    assert read(tmp_path, size=(120, 90), wanted=["poses"]).intrinsics == {}


@pytest.mark.parametrize("text", [False, True])
def test_colmap_lens_left_alone_if_it_cannot_be_seen(tmp_path, text):
    params = [100.0, 60.0, 42.0, 0.0]
    write_colmap(tmp_path, model="SIMPLE_RADIAL", params=params, text=text)
    expected = [[100, 0, 59.5], [0, 100, 41.5], [0, 0, 1]]
    np.testing.assert_array_equal(read(tmp_path).intrinsics[0], expected)
    # The farthest corner (0, 0) is r = sqrt(60^2 + 42^2) = 73.24 pixels off, and moves by
    # k r^3 / 100^2 = 39.29 k: 0.0126 moves it by just less than half a pixel, 0.013 by more.
    write_colmap(tmp_path, model="SIMPLE_RADIAL", params=[*params[:3], 0.0126], text=text)
    np.testing.assert_array_equal(read(tmp_path).intrinsics[0], expected)
    write_colmap(tmp_path, model="SIMPLE_RADIAL", params=[*params[:3], 0.0132], text=text)
    assert "camera 7: its lens (SIMPLE_RADIAL) moves pixels by up to 0.51, but" in refusal(tmp_path)
    assert read(tmp_path, wanted=["poses"]).poses.keys() == {0, 1}


@pytest.mark.parametrize(
    ("model", "params", "how"),
    [
        ("OPENCV", [100, 100, 60, 40, -0.2, 0, 0, 0], "moves pixels by up to"),
        # The corners' rays, at an angle of sqrt(0.6^2 + 0.4^2), meet 100 tan(0.7211) = 87.90.
        ("OPENCV_FISHEYE", [100, 100, 60, 40, 0, 0, 0, 0], "moves pixels by up to 15.79,"),
        ("EQUIRECTANGULAR", [120, 80], "is no pinhole's"),
    ],
)
def test_colmap_lenses_refused(tmp_path, model, params, how):
    message = refusal(write_colmap(tmp_path, model=model, params=[float(p) for p in params]))
    assert f"its lens ({model}) {how}" in message
    assert "run `colmap image_undistorter`" in message


def test_colmap_without_pycolmap(tmp_path, monkeypatch):
    write_colmap(tmp_path / "plain")
    write_colmap(tmp_path / "lens", model="RADIAL", params=[100.0, 60.0, 42.0, 0.0, 0.0])
    write_colmap(tmp_path / "text", model="RADIAL", params=[100.0, 60, 42, 0, 0], text=True)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    np.testing.assert_array_equal(read(tmp_path / "plain").intrinsics[1], MATRIX)
    for folder, model in (("lens", "of number 3"), ("text", "RADIAL")):
        assert refusal(tmp_path / folder) == (
            f"COLMAP's camera model {model} has a lens, for which pycolmap is needed; "
            "pip install jaxrecon[colmap]"
        )


@pytest.mark.parametrize("stem", ["cameras", "images"])
def test_colmap_cut_short_anywhere_refused(tmp_path, stem):
    path = write_colmap(tmp_path) / f"{stem}.bin"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(tmp_path) == (
            f"cannot read {path}: it is damaged or cut short (it ends too early); "
            "export the model again"
        )
    path.write_bytes(whole)
    assert set(read(tmp_path).poses) == {0, 1}


@pytest.mark.parametrize(("stem", "cut"), [("cameras", b"7 PINHOLE 12"), ("images", b"2 3 7")])
def test_colmap_text_cut_short_refused(tmp_path, stem, cut):
    path = write_colmap(tmp_path, text=True) / f"{stem}.txt"
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(cut) + len(cut)])
    assert f"cannot read {path}: it is damaged or cut short" in refusal(tmp_path)


def test_colmap_binary_with_more_than_it_tells_refused(tmp_path):
    write_colmap(tmp_path)
    with (tmp_path / "images.bin").open("r+b") as file:
        count = int.from_bytes(file.read(8), "little")
        file.seek(0)
        file.write((count - 1).to_bytes(8, "little"))
    told = f"it tells of {count - 1} images, and has more behind them"
    assert told in refusal(tmp_path, wanted=["poses"])


POINTS = "10 20 -1 30.5 40 7"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["{a}", "{b}", "{c}"], "abc"),
        (["{a}", "", "{b}", POINTS, "{c}"], "abc"),
        (["{a}", "# points", "{b}", POINTS, "# more", "", "", "{c}", ""], "abc"),
        (["{a}", POINTS, "{b}", "{c}", POINTS], "abc"),
        (["", "  ", "{a}", "{b}", "", "{c}"], "abc"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["{}.jpg", "my photo {} 2.jpg", "{}"])
def test_colmap_lines_of_points_may_be_left_out(tmp_path, rows, expected, end, name):
    write_colmap(tmp_path, names=("a", "b"), text=True)
    lines = {
        letter: f"{number} 1 0 0 0 {-number} 0 0 1 {name.format(letter)}"
        for number, letter in enumerate("abc", start=1)
    }
    text = end.join(row.format(**lines) for row in rows) + end
    (tmp_path / "images.txt").write_bytes(text.encode())
    names = tuple(name.format(letter) for letter in expected)
    found = read(tmp_path, names, wanted=["poses"])
    assert [found.poses[view][0, 3] for view in range(3)] == [1, 2, 3]


def test_colmap_second_line_of_points_refused(tmp_path):
    write_colmap(tmp_path, names=("a.jpg",), text=True)
    with (tmp_path / "images.txt").open("a") as file:
        file.write(f"{POINTS}\n{POINTS}\n")
    assert "images.txt: it is damaged" in refusal(tmp_path, ("a.jpg",), wanted=["poses"])


def patched(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) >= 1
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("cameras", b"PINHOLE 120", b"PINBALL 120", "knows no camera model PINBALL"),
        ("cameras", b" 60 42", b" 60", "has the parameters (100.0, 110.0, 60.0); expected 4"),
        (
            "cameras",
            b" 60 42",
            b" 60 nan",
            "has the parameters (100.0, 110.0, 60.0, nan); expected",
        ),
        ("cameras", b" 120 80", b" 120 0", "camera 7 is 120x0 pixels"),
        ("cameras", b"7 PINHOLE", b"8 PINHOLE", "a.jpg refers to camera 7, which is not there"),
        ("cameras", b"7 PINHOLE", b"\xff PINHOLE", "it is not UTF-8 text"),
        ("images", b" 7 a.jpg", b" 7 b.jpg", "has 'b.jpg' twice; remove one of them"),
        ("images", b" 1 2 3 7", b" inf 2 3 7", "the pose of a.jpg is"),
        ("images", b" 0.7071", b" 0.9071", "the pose of a.jpg is"),
        ("images", b" 1 2 3 7", b" left 2 3 7", "cannot read"),
    ],
)
def test_colmap_nonsense_refused(tmp_path, file, old, new, message):
    write_colmap(tmp_path, text=True)
    patched(tmp_path / f"{file}.txt", old, new)
    assert message in refusal(tmp_path)


def test_colmap_model_of_no_known_number_refused(tmp_path):
    write_colmap(tmp_path)
    patched(tmp_path / "cameras.bin", struct.pack("<Ii", 7, 1), struct.pack("<Ii", 7, 99))
    assert "knows no camera model of number 99" in refusal(tmp_path)


def test_colmap_absent_refused(tmp_path):
    assert f"{tmp_path} holds no COLMAP model; give the folder with" in refusal(tmp_path)
    write_colmap(tmp_path)
    message = refusal(tmp_path, ("x.jpg", "y.jpg", "z.jpg", "w.jpg"))
    assert message == (
        f"{tmp_path} knows none of the images: it has a.jpg, b.jpg, the images are x.jpg, y.jpg, "
        "z.jpg, ...; give the images that it was made of, under the same names"
    )
    assert "tells no depths of these images" in refusal(tmp_path, wanted=["depths"])


@pytest.mark.parametrize("text", [False, True])
def test_saved_reconstruction_read_back(tmp_path, text):
    recon = random_recon()
    folder = recon.save(tmp_path / "scene", text=text)
    images = colmap_images(folder)
    batch = load_images(images, rule=PI3_RESIZE)
    known: Any = read_view_priors(
        folder, batch.names, sizes=[t.original_size for t in batch.transforms]
    )
    order = [batch.names.index(name) for name in ("a.png", "b.png", "a_2.png")]
    assert len(known.poses) == VIEWS
    for view, number in enumerate(order):
        np.testing.assert_allclose(known.poses[number], recon.world_from_camera[view], atol=1e-6)
        np.testing.assert_allclose(known.intrinsics[number], recon.intrinsics[view], atol=1e-6)


def test_what_is_read_becomes_arrays(tmp_path):
    folder = random_recon().save(tmp_path / "scene")
    batch = load_images(colmap_images(folder)[:2], rule=PI3_RESIZE)
    sizes = [transform.original_size for transform in batch.transforms]
    known = read_view_priors(folder, batch.names, sizes=sizes)
    arrays = prior_arrays(known, batch.transforms)
    assert arrays.has_intrinsics.all() and arrays.has_pose.all()
    assert not arrays.has_depth.any()


# The images of a COLMAP folder


def write_images(folder: Path, names: tuple[str, ...], **options: Any) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", WIDE).save(folder / name, **options)


@pytest.mark.parametrize("place", ["", "sparse", "sparse/0"])
@pytest.mark.parametrize("given", ["above", "model"])
def test_colmap_images(tmp_path, monkeypatch, place, given):
    names = ("right/img_10.jpg", "right/img_9.jpg", "left/img_1.jpg")
    model = write_colmap(tmp_path / place, names=names)
    write_images(tmp_path / "images", (*names, "unregistered.jpg"))
    found = colmap_images(tmp_path if given == "above" else model)
    assert found == [tmp_path / "images" / name for name in (names[2], names[1], names[0])]
    assert set(read(tmp_path, view_names(found), view_sizes(found)[0]).poses) == {0, 1, 2}
    monkeypatch.chdir(model)
    assert colmap_images(".") == found


def test_colmap_images_refused(tmp_path):
    model = write_colmap(tmp_path / "sparse" / "0")
    with pytest.raises(InputError, match="sparse/0 has no folder images in it or above it"):
        colmap_images(tmp_path)
    write_images(tmp_path / "images", ("a.jpg",))
    with pytest.raises(InputError, match=r"b\.jpg is not there \(1 of 2 images"):
        colmap_images(tmp_path)
    (model / "images.bin").write_bytes(struct.pack("<Q", 0))
    with pytest.raises(InputError, match="sparse/0 has no image; give"):
        colmap_images(tmp_path)


def test_colmap_photos_turned_by_exif_refused(tmp_path):
    write_colmap(tmp_path / "sparse")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down, which the size does not show
    write_images(tmp_path / "images", NAMES)
    write_images(tmp_path / "images", ("b.jpg",), exif=exif)
    message = "b.jpg is turned by its EXIF orientation, which COLMAP leaves out of account; save"
    assert message in refusal(tmp_path)
    with pytest.raises(InputError, match=r"b\.jpg is turned"):
        colmap_images(tmp_path)
    assert set(read(tmp_path, ("a.jpg",)).poses) == {0}


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("places", "given", "told"),
    [
        (("sparse/0", "sparse/1"), "", "sparse/0 (1 photos), sparse/1 (2 photos); give one of"),
        (("0", "1"), "", "0 (1 photos), 1 (2 photos)"),
        (("sparse/0", "sparse/1"), "sparse", "0 (1 photos), 1 (2 photos); give one of"),
        (("sparse", "sparse/0"), "", "sparse (1 photos), sparse/0 (2 photos)"),
        (("sparse/2", "sparse/10"), "", "sparse/2 (1 photos), sparse/10 (2 photos)"),
        (("sparse/0", "sparse/aligned"), "", "sparse/0 (1 photos), sparse/aligned (2 photos)"),
    ],
)
def test_several_models(tmp_path, places, given, told, text):
    for place, names in zip(places, (("a.jpg",), NAMES), strict=True):
        write_colmap(tmp_path / place, names=names, text=text)
    write_images(tmp_path / "images", NAMES)
    message = refusal(tmp_path / given)
    assert f"{tmp_path / given} holds 2 COLMAP models: {told}" in message
    assert message.endswith(f"such as {tmp_path / places[1]}")
    with pytest.raises(InputError, match="holds 2 COLMAP models"):
        colmap_images(tmp_path / given)
    for place, views in zip(places, ({0}, {0, 1}), strict=True):
        assert set(read(tmp_path / place).poses) == views


@pytest.mark.parametrize("place", ["sparse/1", "sparse/10", "sparse/aligned", "0"])
def test_the_only_model(tmp_path, place):
    write_colmap(tmp_path / place)
    assert set(read(tmp_path).poses) == {0, 1}


def test_folders_of_nerf_scenes(tmp_path):
    for name in ("transforms_train.json", "transforms_test.json"):
        (tmp_path / name).write_text("{}")
    message = refusal(tmp_path)
    files = f"{tmp_path / 'transforms_test.json'}, {tmp_path / 'transforms_train.json'}"
    assert message.endswith(f"holds no COLMAP model; give a file of it: {files}")


# Names


def numbers(tmp_path: Path, stored: tuple[str, ...], names: tuple[str, ...]) -> dict[int, float]:
    """For each view that is known, its number in the file."""
    frames = [
        {"file_path": name, "transform_matrix": (np.eye(4) + np.eye(4, k=3) * number).tolist()}
        for number, name in enumerate(stored)
    ]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"frames": frames}))
    return {view: pose[0, 3] for view, pose in read(path, names).poses.items()}


@pytest.mark.parametrize(
    ("stored", "names", "expected"),
    [
        (("./images/a.png", "images\\b.png"), ("b.png", "a.png"), {0: 1, 1: 0}),
        (("train/r_0", "train/r_1.x"), ("r_1.x.PNG", "r_0.jpg"), {0: 1, 1: 0}),
        (("a.png", "sub/a.png"), ("sub/a.png", "a.png"), {0: 1, 1: 0}),
        (("a.png", "sub/a.png"), ("a.png",), {0: 0}),
        (("a.png",), ("left/a.png", "left/b.png"), {0: 0}),
        (("left/a.png",), ("photos/left/a.png", "photos/right/a.png"), {0: 0}),
        (("a.png",), ("a.png", "sub/a.png"), {0: 0}),
        (("a.png", "b.png"), ("b.jpg", "a.png"), {0: 1, 1: 0}),
        (("ba.png", "a.png"), ("a.png",), {0: 1}),
    ],
)
def test_names_that_agree(tmp_path, stored, names, expected):
    assert numbers(tmp_path, stored, names) == expected


@pytest.mark.parametrize(
    ("stored", "names", "expected"),
    [
        (("S\u00fcd/\u00e9.jpg",), ("Su\u0308d/e\u0301.jpg",), {0: 0}),
        (("images/Su\u0308d.jpg", "Nord.jpg"), ("Nord.jpg", "S\u00fcd.jpg"), {0: 1, 1: 0}),
        (("\u1112\u1161\u11ab",), ("\ud55c.PNG",), {0: 0}),
        (("a.JPG", "b.JPG"), ("b.png", "a.tiff"), {0: 1, 1: 0}),
        (("left/a.jpg", "right/a.jpg"), ("right/a.png", "left/a.webp"), {0: 1, 1: 0}),
        (("a.jpg", "a.png"), ("a.png", "a.jpg"), {0: 1, 1: 0}),
        (("a.jpg",), ("a.jpg", "a.png"), {0: 0}),
        (("frame_000001.png",), ("frame_000001", "frame_000002"), {0: 0}),
    ],
)
def test_names_written_otherwise(tmp_path, stored, names, expected):
    """Decomposed letters of a Mac's file systems, and pictures that were converted."""
    assert numbers(tmp_path, stored, names) == expected


@pytest.mark.parametrize(
    ("stored", "given", "expected"),
    [
        (("l/a.jpg", "r/a.jpg"), ("r/a.jpg",), {0: 1}),
        (("images/l/a.jpg", "images/r/a.jpg"), ("r/a.jpg", "r/b.jpg"), {0: 1}),
        (("a.jpg", "r/a.jpg"), ("r/a.jpg",), {0: 1}),  # it is in the folder that a name tells
        (("a.jpg", "r/a.jpg"), ("other/a.jpg",), {0: 0}),
        (("l/a.jpg", "r/a.jpg"), ("r/a.png",), {0: 1}),
    ],
)
def test_files_tell_photos_of_one_name_apart(tmp_path, stored, given, expected):
    for file in given:
        write_images(tmp_path / "photos", (file,))
    photos = [tmp_path / "photos" / file for file in given]
    frames = [
        {"file_path": name, "transform_matrix": (np.eye(4) + np.eye(4, k=3) * number).tolist()}
        for number, name in enumerate(stored)
    ]
    path = tmp_path / "transforms.json"
    path.write_text(json.dumps({"frames": frames}))
    names, sizes = view_names(photos), view_sizes(photos)
    assert names == tuple(Path(file).name for file in given)
    poses: Any = read_view_priors(path, names, sizes=sizes, wanted=["poses"]).poses
    assert {view: pose[0, 3] for view, pose in poses.items()} == expected


def test_files_of_other_views_are_left_out_of_account(tmp_path):
    """One size may be given for all views, as all are alike."""
    write_images(tmp_path, NAMES)
    (tmp_path / "k.json").write_text(
        json.dumps(
            {"frames": [{"file_path": n, "transform_matrix": np.eye(4).tolist()} for n in NAMES]}
        )
    )
    (size, _) = view_sizes(tmp_path)
    poses: Any = read_view_priors(
        tmp_path / "k.json", NAMES, sizes=[size] * 2, wanted=["poses"]
    ).poses
    assert set(poses) == {0, 1}


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_images_of_a_model_know_their_names(tmp_path, stride):
    names = ("l/1.jpg", "l/2.jpg", "l/4.jpg", "r/1.jpg", "r/3.jpg")
    write_colmap(tmp_path / "sparse", names=names)
    write_images(tmp_path / "images", names)
    images = colmap_images(tmp_path)
    taken = view_names(images, stride=stride)
    known: Any = read_view_priors(tmp_path, taken, sizes=view_sizes(images, stride=stride))
    every: Any = read(tmp_path, names).poses
    assert taken == names[::stride]
    for view, number in enumerate(range(0, 5, stride)):
        np.testing.assert_array_equal(known.poses[view], every[number])


@pytest.mark.parametrize(("stored", "there"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_files_whose_names_are_written_otherwise(tmp_path, stored, there):
    name = "images/Su\u0308d/e\u0301.jpg"
    write_colmap(tmp_path / "sparse", names=(normalize(stored, name.removeprefix("images/")),))
    write_images(tmp_path, (normalize(there, name),))
    (file,) = colmap_images(tmp_path)
    assert file.is_file()


@pytest.mark.parametrize(
    ("stored", "names", "message"),
    [
        (("l/a.png", "r/a.png"), ("a.png",), "the image a.png could be l/a.png or r/a.png; give"),
        (("a.png",), ("l/a.png", "r/a.png"), "a.png could be the image l/a.png or r/a.png; give"),
        (("a",), ("a.png", "a.jpg"), "a could be the image a.png or a.jpg"),
        (("./a.png", "a.png"), ("a.png",), "has './a.png' twice"),
        (("a.png",), ("A.png",), "it has a.png, the images are A.png; give the images"),
        (("a.png", "a.jpg"), ("a.tif",), "the image a.tif could be a.png or a.jpg; give"),
        (("a.jpg",), ("a.png", "a.tif"), "a.jpg could be the image a.png or a.tif; give"),
        (("e\u0301.png", "\u00e9.png"), ("b.png",), " twice; remove one of them"),
    ],
)
def test_names_that_do_not(tmp_path, stored, names, message):
    with pytest.raises(InputError) as caught:
        numbers(tmp_path, stored, names)
    assert message in str(caught.value)


def test_names_and_sizes_of_a_source(tmp_path):
    write_images(tmp_path, ("img_10.png", "img_9.png", "img_1.png"))
    exif = Image.Exif()
    exif[0x0112] = 6
    write_images(tmp_path, ("img_10.jpg",), exif=exif)
    for stride in (1, 2):
        batch = load_images(tmp_path, rule=PI3_RESIZE, stride=stride)
        assert view_names(tmp_path, stride=stride) == batch.names
        sizes = tuple(transform.original_size for transform in batch.transforms)
        assert view_sizes(tmp_path, stride=stride) == sizes
    assert view_names(np.zeros((2, 3, 4, 3), np.uint8)) == ("view_0000", "view_0001")
    assert view_sizes(np.zeros((2, 3, 4, 3), np.uint8)) == ((4, 3), (4, 3))


def test_names_of_a_video_refused(tmp_path):
    path = write_video(tmp_path / "v.mp4")
    for listing in (view_names, view_sizes):
        with pytest.raises(InputError, match=r"v\.mp4 is a video or an animation, whose frames"):
            listing(path)
        with pytest.raises(InputError, match="stride=0"):
            listing(path, stride=0)


# NeRF scenes

UPRIGHT = [[1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]
LENGTHS = {"fl_x": 100, "fl_y": 110.0, "cx": 60, "cy": 42, "w": 120, "h": 80.0}


def write_nerf(folder: Path, frame: dict[str, Any] | None = None, **shared: Any) -> Path:
    """A scene with one frame, images/a.jpg, and its keys."""
    path = folder / "transforms.json"
    known = {"file_path": "images/a.jpg", "transform_matrix": UPRIGHT}
    path.write_text(json.dumps({**shared, "frames": [known | (frame or {})]}))
    return path


def test_nerf_read(tmp_path):
    known = read(write_nerf(tmp_path, **LENGTHS))
    assert (known.metric_poses, set(known.intrinsics), set(known.poses)) == (False, {0}, {0})
    np.testing.assert_array_equal(known.intrinsics[0], MATRIX)
    # OpenGL's y and z are the negative ones of OpenCV.
    expected = [[1, 0, 0, 5], [0, -1, 0, 6], [0, 0, -1, 7], [0, 0, 0, 1]]
    np.testing.assert_array_equal(known.poses[0], expected)
    # 2 before the camera (-z), 1 to the right, and 0.5 up, which is 0.5 * 110 / 2 pixels upwards:
    # from the corner at (60 + 50, 42 - 27.5).
    seen = pixel(known.intrinsics[0], known.poses[0], (6, 6.5, 5))
    np.testing.assert_allclose(seen, [109.5, 14.0], atol=1e-12)


def test_nerf_pose_of_three_rows(tmp_path):
    known = read(write_nerf(tmp_path, {"transform_matrix": UPRIGHT[:3]}))
    np.testing.assert_array_equal(known.poses[0][3], [0, 0, 0, 1])
    assert known.intrinsics == {}


@pytest.mark.parametrize(
    ("shared", "frame", "size", "expected"),
    [
        ({}, LENGTHS, WIDE, (100, 110, 59.5, 41.5)),
        (LENGTHS, {"fl_x": 90, "cx": 61}, WIDE, (90, 110, 60.5, 41.5)),
        (LENGTHS, {}, (60, 40), (50, 55, 29.5, 20.5)),
        ({"fl_x": 100}, {}, WIDE, (100, 100, 59.5, 39.5)),
        ({"fl_y": 100}, {}, WIDE, (100, 100, 59.5, 39.5)),
        ({"camera_angle_x": 2 * math.atan(0.5)}, {}, WIDE, (120, 120, 59.5, 39.5)),
        (
            {"camera_angle_x": 2 * math.atan(0.5), "camera_angle_y": 2 * math.atan(0.25)},
            {"w": 240, "h": 160, "camera_model": "OPENCV", "k1": 0, "is_fisheye": False},
            WIDE,
            (120, 160, 59.5, 39.5),
        ),
    ],
)
def test_nerf_intrinsics(tmp_path, shared, frame, size, expected):
    matrix = read(write_nerf(tmp_path, frame, **shared), size=size).intrinsics[0]
    fx, fy, cx, cy = expected
    np.testing.assert_allclose(matrix, [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize(
    ("key", "small", "large"),
    [
        # At the corner (0, 0), x = -0.6, y = -0.4 and r2 = 0.52, in units of 100 pixels. Radial:
        # 100 k r^3 = 37.5 k1, 19.5 k2, 10.14 k3, 5.27 k4.
        ("k1", 0.0133, -0.0134),
        ("k2", 0.0256, 0.0257),
        ("k3", 0.0493, 0.0494),
        ("k4", 0.0948, 0.0949),
        # Tangential: 100 (2 x y, r2 + 2 y2) p1 = (48, 84) p1, 96.75 long; p2: (48, 124), 132.97.
        ("p1", 0.00516, 0.00517),
        ("p2", 0.00376, -0.00377),
    ],
)
def test_nerf_distortion_refused_if_it_can_be_seen(tmp_path, key, small, large):
    camera = {"fl_x": 100, "cx": 60, "cy": 40, "w": 120, "h": 80}
    assert read(write_nerf(tmp_path, {key: small}, **camera)).intrinsics.keys() == {0}
    message = refusal(write_nerf(tmp_path, {key: large}, **camera))
    assert "images/a.jpg: its lens (distortion k1 to p2) moves pixels by up to 0.50, but" in message
    assert (
        "undistort them with OpenCV or nerfstudio and give a file with the new cameras" in message
    )
    assert "colmap" not in message and message.endswith(
        "leave out the intrinsics and keep the poses"
    )
    assert read(write_nerf(tmp_path, {key: large}), wanted=["poses"]).poses.keys() == {0}


def write_depth(path: Path, values: Any) -> None:
    Image.fromarray(np.asarray(values)).save(path)


def test_nerf_depth(tmp_path):
    stored = np.array([[0, 1500], [2000, 65535], [7, 8]], np.uint16)
    write_depth(tmp_path / "d.png", stored)
    known = read(write_nerf(tmp_path, {"depth_file_path": "./d.png"}), size=(2, 3))
    np.testing.assert_allclose(
        known.depths[0], [[0, 1.5], [2, 65.535], [0.007, 0.008]], rtol=1e-6, strict=False
    )
    assert not known.metric_depths
    scene = write_nerf(tmp_path, {"depth_file_path": "d.png"}, depth_unit_scale_factor=0.5)
    known = read(scene, size=(4, 6))
    assert known.depths[0].shape == (6, 4)
    np.testing.assert_array_equal(known.depths[0][:, 0], [0, 0, 1000, 1000, 3.5, 3.5])
    assert read(scene, size=(9, 9), wanted=["poses"]).depths == {}


def test_nerf_depth_of_instant_ngp(tmp_path):
    write_depth(tmp_path / "d.png", np.array([[0, 4], [8, 65535]], np.uint16))
    scene = write_nerf(tmp_path, {"depth_path": "d.png"}, integer_depth_scale=0.25)
    known = read(scene, size=(2, 2))
    np.testing.assert_array_equal(known.depths[0], [[0, 1], [2, 65535 / 4]])
    both = {"depth_path": "no.png", "depth_file_path": "d.png"}
    known = read(write_nerf(tmp_path, both, integer_depth_scale=0.25), size=(2, 2))
    np.testing.assert_allclose(known.depths[0][0, 1], 0.004, rtol=1e-6)
    # instant-ngp itself reads no depth without a scale.
    assert read(write_nerf(tmp_path, {"depth_path": "d.png"}), size=(2, 2)).depths == {}
    message = refusal(write_nerf(tmp_path, {"depth_path": "d.png"}, integer_depth_scale=1e13))
    assert "integer_depth_scale is 1e+13, which is no unit" in message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 2), np.uint8), "has shape (3, 2) and dtype uint8; expected a greyscale PNG"),
        (np.ones((3, 2, 3), np.uint8), "has shape (3, 2, 3) and dtype uint8; expected a greyscale"),
        (np.ones((30, 30), np.uint16), "is 30x30 pixels, its image is 120x80; give depth of the"),
    ],
)
def test_nerf_depths_refused(tmp_path, values, message):
    write_depth(tmp_path / "d.png", values)
    assert f"{tmp_path / 'd.png'} {message}" in refusal(
        write_nerf(tmp_path, {"depth_file_path": "d.png"})
    )


def test_nerf_damaged_depth_refused(tmp_path):
    path = write_nerf(tmp_path, {"depth_file_path": "d.png"})
    assert "d.png: No such file or directory; check the path" in refusal(path)
    write_depth(tmp_path / "d.png", np.ones((80, 120), np.uint16))
    (tmp_path / "d.png").write_bytes((tmp_path / "d.png").read_bytes()[:60])
    assert f"cannot read {tmp_path / 'd.png'}: the image is damaged or cut short (" in refusal(path)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"fl_x": "long"}, "images/a.jpg: fl_x is 'long'; expected a number"),
        ({"fl_x": True}, "fl_x is True; expected a number"),
        ({"fl_x": 10**400}, "expected a number"),
        ({"fl_x": 0}, "fl_x is 0; expected a positive number"),
        ({"fl_x": 9, "w": -3}, "w is -3; expected a whole number of at least 1"),
        ({"fl_x": 9, "k1": 1e300, "k2": 1e308}, "its lens (distortion k1 to p2) is no pinhole's"),
        ({"fl_x": 9, "k1": math.nan}, "k1 is nan; expected a number"),
        ({"camera_angle_x": 50}, "camera_angle_x is 50; expected radians below pi"),
        (
            {"fl_x": 9, "w": 80, "h": 120},
            "images/a.jpg is for an image of 80x120, this one is 120x80",
        ),
        ({"is_fisheye": True}, "its lens (is_fisheye) is no pinhole's, but"),
        ({"camera_model": "EQUIRECTANGULAR"}, "its lens (EQUIRECTANGULAR) is no pinhole's"),
        (
            {"transform_matrix": [[1, 2], [3]]},
            "transform_matrix is [[1, 2], [3]]; expected 4x4 or 3x4",
        ),
        ({"transform_matrix": UPRIGHT[:2]}, "expected 4x4 or 3x4 finite numbers"),
        ({"transform_matrix": None}, "transform_matrix is None; expected 4x4"),
        ({"transform_matrix": np.full((4, 4), math.inf).tolist()}, "expected 4x4"),
        ({"camera_convention": "opencv"}, "camera_convention is 'opencv'; only opengl is read"),
        ({"depth_file_path": 3}, "depth_file_path is 3; expected a text"),
        ({"depth_file_path": "d.png", "depth_unit_scale_factor": 0}, "expected a positive number"),
        ({"file_path": None}, "frame 0 has no file_path; name its image there"),
        ({"file_path": "x.jpg"}, "it has x.jpg, the images are a.jpg, b.jpg; give the images"),
    ],
)
def test_nerf_frames_refused(tmp_path, frame, message):
    assert message in refusal(write_nerf(tmp_path, frame))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is no sound JSON ("),
        ('{"frames": [', "it is no sound JSON ("),
        ("[" * 100_000, "it is no sound JSON ("),
        ("\xff", "it is not UTF-8 text"),
        ("[1, 2]", "has no list of frames; give the transforms.json"),
        ('{"frames": []}', "has no list of frames"),
        ('{"frames": {"a": 1}}', "has no list of frames"),
        ('{"frames": [3]}', "frame 0 has no file_path"),
        ('{"frames": [{"file_path": "a.jpg"}]}', "tells no intrinsics or poses or depths of these"),
    ],
)
def test_nerf_files_refused(tmp_path, text, message):
    path = tmp_path / "transforms.json"
    path.write_bytes(text.encode("latin-1"))
    assert message in refusal(path)
    assert str(path) in refusal(path)
