"""The depth at the points of COLMAP models: where it lies, what is left out, what is refused."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from colmap_models import NO_POINT, Camera, Image, Model, Seen
from jaxrecon import InputError
from jaxrecon.images import PixelTransform
from jaxrecon.images.pictures import PhotoSize
from jaxrecon.priors import SparseDepth, colmap_tables, read_sparse_depths, read_view_priors
from jaxrecon.priors.colmap_files import read_images
from jaxrecon.priors.readers import read_priors_and_points
from jaxrecon.priors.sparse_depth import is_sparse
from random_recon import random_recon

SIZE = (120, 80)
NAMES = ("a.jpg", "b.jpg")
HALF = np.sqrt(0.5)
TURNED = (HALF, 0, HALF, 0, 0, 0, 1)
"""By 90 degrees about y, one metre back: the camera looks along -x."""
FORMS = pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
SOUND = Model((Image("a.jpg", ((70.0, 45.0, 7),)),), {7: (0.1, 0.05, 1.0)})


def read(
    folder: Path, names: tuple[str, ...] = NAMES, size: tuple[int, int] = SIZE
) -> dict[int, SparseDepth]:
    return read_sparse_depths(folder, names, sizes=[size] * len(names))


def refusal(folder: Path, size: tuple[int, int] = SIZE) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, size=size)
    message = str(caught.value)
    assert "\n" not in message
    return message


def as_map(depth: SparseDepth) -> np.ndarray:
    return depth.processed(PixelTransform.stretch(depth.size, depth.size))


def known_pixels(depth: SparseDepth) -> dict[tuple[int, int], float]:
    """Depth by row and column."""
    found = as_map(depth)
    rows, columns = np.nonzero(found)
    places = zip(rows.tolist(), columns.tolist(), strict=True)
    return dict(zip(places, found[rows, columns].tolist(), strict=True))


def of_one(tmp_path: Path, seen: tuple[Seen, ...], points: dict, *, text: bool) -> dict:
    """The pixels at which one image, which looks along z from the origin, sees points."""
    model = Model((Image("a.jpg", seen),), points)
    found = read(model.write(tmp_path, text=text), ("a.jpg",))
    return known_pixels(found[0]) if found else {}


@FORMS
@pytest.mark.parametrize("place", ["", "sparse", "sparse/0"])
def test_points_lie_where_they_are_seen(tmp_path: Path, place: str, text: bool) -> None:
    """The point (0.2, 0.1, 1) is 2 in front of a camera at z = -1, at 60 + 10 and 40 + 5."""
    model = Model(
        (
            Image("a.jpg", ((70.2, 45.9, 7), (1.0, 1.0, NO_POINT)), (1, 0, 0, 0, 0, 0, 1)),
            Image("b.jpg", ((0.0, 0.0, 9), (119.9, 79.9, 7)), TURNED),
        ),
        {9: (-3.0, 0.0, 0.0), 7: (0.2, 0.1, 1.0)},
    )
    model.write(tmp_path / place, text=text)
    found = read(tmp_path, ("b.jpg", "other.jpg", "a.jpg"))
    assert set(found) == {0, 2}
    assert found[2].size == SIZE
    np.testing.assert_allclose(found[2].xy, [[69.7, 45.4]])
    assert known_pixels(found[2]) == {(45, 70): 2}
    assert known_pixels(found[0]) == pytest.approx({(0, 0): 4, (79, 119): 0.8})


@FORMS
def test_copies_of_another_size(tmp_path: Path, text: bool) -> None:
    model = Model((Image("a.jpg", ((70.2, 45.9, 7),)),), {7: (0, 0, 2)})
    found = read(model.write(tmp_path, text=text), size=(60, 40))[0]
    np.testing.assert_allclose(found.xy, [[34.6, 22.45]])
    assert known_pixels(found) == {(22, 35): 2}


def test_depth_agrees_with_cameras_and_poses(tmp_path: Path) -> None:
    """Points that are seen where they are projected come back from pixels, depth and camera."""
    places = {7: (0.2, 0.1, 1.0), 8: (-0.5, 0.3, 2.0)}
    seen = tuple((60 + 100 * x / (z + 1), 40 + 100 * y / (z + 1), n) for n, (x, y, z) in
                 places.items())  # fmt: skip
    folder = Model((Image("a.jpg", seen, (1, 0, 0, 0, 0, 0, 1)),), places).write(
        tmp_path, text=False
    )
    depth = read(folder)[0]
    known = read_view_priors(folder, NAMES, sizes=[SIZE] * 2)
    pixels = np.column_stack([depth.xy, np.ones(2)])
    in_camera = pixels @ np.linalg.inv(known.by_view("intrinsics", 2)[0]).T
    in_camera *= depth.depth_z[:, None]
    pose = known.by_view("poses", 2)[0]
    np.testing.assert_allclose(in_camera @ pose[:3, :3].T + pose[:3, 3], [*places.values()])


def test_text_and_binary_tell_the_same(tmp_path: Path) -> None:
    """With so many points that a line of them is far longer than other lines may be."""
    random = np.random.default_rng(0)
    points = {int(n): tuple(random.normal(size=3).tolist()) for n in random.permutation(3000)}
    images = tuple(
        Image(
            name,
            tuple((*random.uniform(0, 80, 2).tolist(), int(random.integers(-1, 3000)))
                  for _ in range(2000)),
            pose,
        )
        for name, pose in zip(NAMES, [(0.5, -0.5, 0.5, 0.5, 1, 2, 3), TURNED], strict=True)
    )  # fmt: skip
    model = Model(images, points)
    binary = read(model.write(tmp_path / "binary", text=False))
    text = read(model.write(tmp_path / "text", text=True))
    assert set(binary) == set(text) == {0, 1}
    for view in binary:
        assert 100 < len(binary[view]) < 2000
        np.testing.assert_array_equal(binary[view].xy, text[view].xy)
        np.testing.assert_array_equal(binary[view].depth_z, text[view].depth_z)


@FORMS
def test_what_is_left_out(tmp_path: Path, text: bool) -> None:
    """Points that are not there, behind the camera, in its plane, and beyond the edges."""
    points = {1: (0, 0, 5), 2: (0, 0, -5), 3: (1, 1, 0), 4: (0, 0, 1e-60)}
    points = {number: tuple(map(float, place)) for number, place in points.items()}
    beside = ((-0.1, 9, 1), (120, 9, 1), (9, -1, 1), (9, 80, 1))
    nowhere = ((20, 20, 99), (30, 20, 2), (40, 20, 3), (50, 20, 4), (60, 20, NO_POINT))
    seen = tuple((float(x), float(y), n) for x, y, n in (*beside, *nowhere, (0, 0, 1)))
    assert of_one(tmp_path, seen, points, text=text) == {(0, 0): 5}


@FORMS
def test_of_points_in_one_pixel_the_nearest_counts(tmp_path: Path, text: bool) -> None:
    points = {1: (0.0, 0.0, 5.0), 2: (0.0, 0.0, 3.0), 3: (0.0, 0.0, 4.0)}
    seen = ((7.1, 8.2, 1), (7.9, 8.0, 2), (7.5, 8.5, 3))
    assert of_one(tmp_path, seen, points, text=text) == {(8, 7): 3}


@FORMS
def test_images_that_see_nothing(tmp_path: Path, text: bool) -> None:
    model = Model((Image("a.jpg", ((1.0, 1.0, NO_POINT),)), Image("b.jpg")), {7: (0, 0, 1)})
    assert read(model.write(tmp_path, text=text)) == {}


@FORMS
def test_models_without_points(tmp_path: Path, text: bool) -> None:
    assert read(Model(SOUND.images, {}).write(tmp_path, text=text)) == {}
    next(tmp_path.glob("points3D.*")).unlink()
    assert read(tmp_path) == {}


def test_files_that_tell_no_points(tmp_path: Path) -> None:
    np.savez(tmp_path / "k.npz", poses=np.tile(np.eye(4), (2, 1, 1)))
    assert read(tmp_path / "k.npz") == {}
    own = random_recon()
    own.save(tmp_path / "colmap/")
    sizes = [(24, 16), (120, 40), (120, 40)][: len(own.names)]
    assert read_sparse_depths(tmp_path / "colmap", own.names, sizes=sizes) == {}


@FORMS
def test_points_are_read_for_depth_alone(tmp_path: Path, text: bool) -> None:
    folder = SOUND.write(tmp_path, text=text)
    next(folder.glob("points3D.*")).write_bytes(b"no points")
    known = read_view_priors(folder, NAMES, sizes=[SIZE] * 2)
    assert known.kinds == ("intrinsics", "poses")
    assert read_images(folder)[0].observations is None
    assert "points3D" in refusal(folder)


@FORMS
@pytest.mark.parametrize("with_points", [True, False])
def test_priors_and_points_of_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bool, with_points: bool
) -> None:
    """They are what the two functions tell, and no file is read twice for it."""
    folder = SOUND.write(tmp_path, text=text)
    if not with_points:
        next(folder.glob("points3D.*")).unlink()
    sizes = [SIZE] * 2
    alone, depths = read_view_priors(folder, NAMES, sizes=sizes), read(folder)
    opened: list[str] = []
    for name in ("open_plain", "read_lines"):
        reader = getattr(colmap_tables, name)

        def counted(path: Path, *, _reader: Any = reader, **options: Any) -> Any:
            opened.append(path.stem)
            return _reader(path, **options)

        monkeypatch.setattr(colmap_tables, name, counted)
    priors, points = read_priors_and_points(folder, NAMES, sizes=sizes)
    assert sorted(opened) == ["cameras", "images", "points3D"][: 2 + with_points]
    assert priors.kinds == alone.kinds == ("intrinsics", "poses")
    for kind in priors.kinds:
        together, apart = priors.by_view(kind, 2), alone.by_view(kind, 2)
        assert together.keys() == apart.keys() == {0}
        np.testing.assert_array_equal(together[0], apart[0])
    assert points.keys() == depths.keys() == ({0} if with_points else set())
    for view, depth in depths.items():
        np.testing.assert_array_equal(as_map(points[view]), as_map(depth))


def test_a_lens_moves_nothing(tmp_path: Path) -> None:
    """The photo has the point where it was found in it; that the camera is none is told by it."""
    pytest.importorskip("pycolmap")
    camera = Camera(parameters=(100.0, 60.0, 40.0, -0.2), model="SIMPLE_RADIAL")
    model = Model((Image("a.jpg", ((110.5, 70.5, 7),)),), {7: (1, 0.6, 2)}, (camera,))
    folder = model.write(tmp_path, text=True)
    assert known_pixels(read(folder)[0]) == {(70, 110): 2}
    with pytest.raises(InputError, match="its lens"):
        read_view_priors(folder, NAMES, sizes=[SIZE] * 2)


def test_photos_that_lie_another_way(tmp_path: Path) -> None:
    folder = SOUND.write(tmp_path, text=True)
    turned = PhotoSize(*SIZE, orientation=3)
    assert "is turned by its EXIF orientation" in refusal(folder, size=turned)
    assert "is for an image of 120x80, this one is 80x120" in refusal(folder, size=(80, 120))
    assert "is for an image of 120x80, this one is 120x70" in refusal(folder, size=(120, 70))


def test_numbers_of_sizes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sizes: found 1 for 2 names"):
        read_sparse_depths(SOUND.write(tmp_path, text=True), NAMES, sizes=[SIZE])


# Damaged files

POINT = struct.calcsize("<Q")
"""Where the first point of a binary file begins."""
TRACK = POINT + struct.calcsize("<Q3d3Bd")
HUGE = struct.pack("<Q", 2**62)


def replaced(place: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + new + data[place + len(new) :]


@pytest.mark.parametrize(
    ("file", "damage", "told"),
    [
        ("points3D", lambda data: data[:-1], "cut short (it ends too early)"),
        ("points3D", lambda data: data[:4], "cut short (it ends too early)"),
        ("points3D", lambda _: b"", "cut short (it ends too early)"),
        ("points3D", lambda data: data + b"\0", "tells of 1 points3D, and has more behind them"),
        ("points3D", replaced(0, HUGE), "cut short (it ends too early)"),
        ("points3D", replaced(TRACK, HUGE), "cut short (it ends too early)"),
        ("points3D", replaced(POINT + 8, struct.pack("<d", np.nan)), "point 7 is at (nan, "),
        ("points3D", replaced(POINT + 24, struct.pack("<d", np.inf)), "point 7 is at (0.1, "),
        ("points3D", replaced(POINT + 24, struct.pack("<d", 1e30)), "point 7 at the depth 1e+30"),
        ("images", lambda data: data[:-1], "cut short (it ends too early)"),
        ("images", lambda data: data[:-32] + HUGE + data[-24:], "cut short (it ends too early)"),
        (
            "images",
            lambda data: data[:-24] + struct.pack("<ddq", np.nan, 1, 7),
            "a.jpg sees point 7 at no position",
        ),
        ("cameras", lambda data: data[:-1], "cut short (it ends too early)"),
    ],
)  # fmt: skip
def test_damaged_binary_files(
    tmp_path: Path, file: str, damage: Callable[[bytes], bytes], told: str
) -> None:
    path = SOUND.write(tmp_path, text=False) / f"{file}.bin"
    assert len(read(tmp_path)[0]) == 1
    path.write_bytes(damage(path.read_bytes()))
    assert told in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("points3D", "7 0 0 1 1 2 3", "a point has 7 words before its track"),
        ("points3D", "x 0 0 1 1 2 3 0.5 1 0", "invalid literal"),
        ("points3D", "7 0 0 one 1 2 3 0.5 1 0", "could not convert string to float"),
        ("points3D", f"{2**70} 0 0 1 1 2 3 0.5 1 0", "too big"),
        ("points3D", "7 nan 0 1 1 2 3 0.5 1 0", "point 7 is at (nan, 0.0, 1.0)"),
        ("points3D", "7 0 0 1 1 2 3 0.5 1 0\n7 0 0 2 1 2 3 0.5", "has point 7 twice"),
        ("images", "1 1 0 0 0 0 0 1 1 a.jpg\n70 inf 7", "a.jpg sees point 7 at no position"),
        ("images", "1 1 0 0 0 0 0 1 1 a.jpg\n70 45 7.5", "invalid literal"),
        ("images", f"1 1 0 0 0 0 0 1 1 a.jpg\n70 45 {2**70}", "cannot read"),
        ("images", "1 1 0 0 0 0 0 1 1 a.jpg\n" + "70 45 7 " * 2000 + "70", "cannot read"),
        ("images", "1 1 0 0 0 0 0 1e300 1 a.jpg\n70 45 7", "at the depth 1e+300"),
    ],
)
def test_damaged_text_files(tmp_path: Path, file: str, content: str, told: str) -> None:
    (SOUND.write(tmp_path, text=True) / f"{file}.txt").write_text(content)
    assert told in refusal(tmp_path)


# Depth at few places


def test_known_pixels_of_a_map() -> None:
    depth = np.zeros((4, 6), np.float32)
    depth[1, 2], depth[3, 5], depth[0, 0], depth[0, 1] = 2, 7, np.nan, -1
    found = SparseDepth.of_map(depth)
    assert found.size == (6, 4)
    assert found.xy.tolist() == [[2, 1], [5, 3]]
    assert found.depth_z.tolist() == [2, 7]
    np.testing.assert_array_equal(as_map(found), np.where(depth > 0, depth, 0))


def test_no_place_is_lost_but_what_is_cut_off() -> None:
    places = np.array([[0.0, 0.0], [5.4, 3.4], [3.0, 1.0]])
    depth = SparseDepth((6, 4), places, np.array([1, 2, 3], np.float32))
    found = depth.processed(PixelTransform((6, 4), (2, 2), (0.5, 0.5), (-1.0, 0.0)))
    assert found.tolist() == [[3, 0], [0, 2]]
    assert not SparseDepth.unknown((6, 4)).processed(PixelTransform.stretch((6, 4), (3, 2))).any()


def test_which_maps_are_sparse() -> None:
    """Views of which nothing is known do not count, however many."""
    dense, sparse, unknown = (np.zeros((10, 10), np.float32) for _ in range(3))
    dense[:, :2], sparse[:, 0] = 1, 1
    assert not is_sparse([dense]) and is_sparse([sparse])
    assert not is_sparse([dense, unknown, unknown])
    assert not is_sparse([unknown]) and not is_sparse([])
