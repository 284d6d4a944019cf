"""Files that name files elsewhere, tell things twice, or would fill memory and time."""

import json
import os
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from image_files import noise, save
from jaxrecon.cli.commands import _parser
from jaxrecon.cli.priors import sources
from jaxrecon.cli.query_points import read_query_points
from jaxrecon.errors import MAX_MESSAGE, InputError
from jaxrecon.evaluation import open_dataset
from jaxrecon.priors import colmap_images, read_view_priors
from jaxrecon.progress import Stages

SIZE = (24, 18)
CAMERA = "1 PINHOLE 24 18 20 20 12 9\n"
EYE = "1 0 0 0 0 1 0 0 0 0 1 0"


def refusal(call: Callable[[], object], *, seconds: float = 3, mebibytes: float = 100) -> str:
    """The one line with which it ends, quickly and without taking much memory."""
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        call()
    took, (_, most) = time.monotonic() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = str(caught.value)
    assert message.isprintable() and len(message) <= MAX_MESSAGE
    assert took < seconds and most < mebibytes * 2**20
    return message


def known(path: Path, *names: str, **options: Any) -> Any:
    return read_view_priors(path, names or ("a.png",), sizes=[SIZE] * max(1, len(names)), **options)


def nerf(folder: Path, *frames: dict[str, Any], **shared: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "t.json").write_text(json.dumps({"frames": frames} | shared))
    return folder / "t.json"


def colmap(folder: Path, *names: str, cameras: str = CAMERA, pictures: bool = True) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [f"{n} 1 0 0 0 0 0 0 1 {name}\n\n" for n, name in enumerate(names)]
    (folder / "cameras.txt").write_text(cameras)
    (folder / "images.txt").write_text("".join(rows))
    for name in names if pictures else ():
        save(noise(18, 24), folder / "images" / name)
    return folder


def scenes(kind: str, path: Path, **options: Any) -> list[Any]:
    return list(open_dataset(kind, path, **options))


# Paths that lead out


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder beside one that is another's."""
    (tmp_path / "other").mkdir()
    save(noise(18, 24), tmp_path / "other" / "a.png")
    Image.fromarray(np.full((18, 24), 1500, np.uint16)).save(tmp_path / "other" / "d.png")
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def outside_nerf(own: Path, name: str) -> Callable[..., object]:
    path = nerf(own, {"file_path": "a.png", "depth_file_path": name})
    return lambda **options: known(path, **options)


def outside_colmap(own: Path, name: str) -> Callable[..., object]:
    folder = colmap(own, name, pictures=False)
    return lambda **options: colmap_images(folder, **options)


def outside_known_colmap(own: Path, name: str) -> Callable[..., object]:
    folder = colmap(own, name, pictures=False)
    return lambda **options: known(folder, **options)


def outside_tum(own: Path, name: str) -> Callable[..., object]:
    (own / "rgb.txt").write_text(f"1.0 {name}\n")
    (own / "groundtruth.txt").write_text("1.0 0 0 0 0 0 0 1\n")
    return lambda **options: scenes("tum", own, **options)


def outside_tum_depth(own: Path, name: str) -> Callable[..., object]:
    save(noise(18, 24), own / "a.png")
    read = outside_tum(own, "a.png")
    (own / "depth.txt").write_text(f"1.0 {name}\n")
    return read


def outside_co3d(own: Path, name: str) -> Callable[..., object]:
    (own / "apple").mkdir()
    view = {"R": np.eye(3).tolist(), "T": [0, 0, 1], "focal_length": [2, 2]}
    frame = {"sequence_name": "s", "frame_number": 0, "image": {"path": name, "size": [18, 24]}}
    frame |= {"viewpoint": view | {"principal_point": [0, 0]}}
    (own / "apple" / "frame_annotations.json").write_text(json.dumps([frame]))
    return lambda **options: scenes("co3d", own, **options)


def outside_re10k(own: Path, name: str) -> Callable[..., object]:
    (own / "v").mkdir()
    (own / "v" / "1.png").symlink_to(own / name)
    (own / "v.txt").write_text(f"https://v\n1 0.5 0.9 0.5 0.5 0 0 {EYE}\n")
    return lambda **options: scenes("re10k", own, **options)


def outside_seven(own: Path, name: str) -> Callable[..., object]:
    (own / "seq-01").mkdir()
    (own / "seq-01" / "frame-000000.color.png").symlink_to(own / name)
    return lambda **options: scenes("7scenes", own, **options)


def outside_folder(own: Path, name: str) -> Callable[..., object]:
    (own / "images").mkdir()
    (own / "images" / "0.png").symlink_to(own / name)
    np.savez(own / "condition.npz", poses=np.eye(4)[None])
    return lambda **options: scenes("folder", own, **options)


OUTSIDE = {
    outside_nerf: "d.png",
    outside_colmap: "a.png",
    outside_known_colmap: "a.png",
    outside_tum: "a.png",
    outside_tum_depth: "d.png",
    outside_co3d: "a.png",
    outside_re10k: "a.png",
    outside_seven: "a.png",
    outside_folder: "a.png",
}


@pytest.mark.parametrize("how", ["whole", "above", "link"])
@pytest.mark.parametrize("made", OUTSIDE, ids=lambda made: made.__name__)
def test_paths_that_lead_out(made: Callable[..., Any], how: str, own: Path) -> None:
    target = own.parent / "other" / OUTSIDE[made]
    name = {"whole": str(target), "above": f"../other/{target.name}", "link": target.name}[how]
    base = own / "images" if "colmap" in made.__name__ else own
    if how == "above" and made in (outside_colmap, outside_known_colmap, outside_co3d):
        name = f"../{name}" if made is not outside_co3d else name
    if how == "link":
        base.mkdir(exist_ok=True)
        (base / target.name).symlink_to(target)
    read = made(own, name)
    assert "leads out of" in refusal(read)
    assert read(allow_outside=True)


def test_names_that_are_matched_only_may_be_any(tmp_path: Path) -> None:
    frame = {"file_path": "../../photos/a.png", "transform_matrix": np.eye(4).tolist()}
    assert known(nerf(tmp_path, frame)).poses.keys() == {0}


def test_the_option_of_the_command_line(own: Path) -> None:
    outside_colmap(own, "../../other/a.png")
    for command in (["reconstruct", "--colmap", str(own)], ["evaluate", "pi3"]):
        assert not _parser().parse_args([*command, "-o", "x"]).allow_outside
    arguments, quiet = ["reconstruct", "--colmap", str(own), "-o", "x"], Stages(quiet=True)
    assert "leads out of" in refusal(lambda: sources(_parser().parse_args(arguments), quiet))
    images, _ = sources(_parser().parse_args([*arguments, "--allow-outside"]), quiet)
    assert [os.path.realpath(image) for image in cast(Any, images)] == [
        os.path.realpath(own.parent / "other" / "a.png")
    ]


# Twice


def test_columns_twice(tmp_path: Path) -> None:
    for head in ("x,y,x", "x,y,view,view", "y, y ,x"):
        (tmp_path / "q.csv").write_text(f"{head}\n" + ",".join("1" * len(head.split(","))) + "\n")
        assert "twice" in refusal(lambda: read_query_points(tmp_path / "q.csv"))


def test_colmap_twice(tmp_path: Path) -> None:
    colmap(tmp_path, "a.png", cameras=CAMERA * 2)
    assert "has camera 1 twice" in refusal(lambda: known(tmp_path))
    colmap(tmp_path, "a.png", "a.png")
    for read in (known, colmap_images):
        assert "has 'a.png' twice" in refusal(lambda read=read: read(tmp_path))
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n1 1 0 0 0 0 0 0 1 b.png\n\n")
    for read in (known, colmap_images):
        assert "has image 1 twice" in refusal(lambda read=read: read(tmp_path))


def test_frames_twice(tmp_path: Path) -> None:
    frames = [{"file_path": name, "fl_x": 9} for name in ("a.png", "b.png", "./a.png")]
    assert "twice" in refusal(lambda: known(nerf(tmp_path, *frames)))
    text = '{"frames": [{"file_path": "a.png", "fl_x": 9, "fl_x": 8}]}'
    (tmp_path / "t.json").write_text(text)
    assert "the key 'fl_x' stands twice" in refusal(lambda: known(tmp_path / "t.json"))


def test_lists_twice(own: Path) -> None:
    read = outside_tum(own, "a.png\n2.0 a.png")
    assert "rgb.txt has the file 'a.png' twice" in refusal(read)
    (own / "v").mkdir()
    (own / "v.txt").write_text(f"https://v\n1 0.5 0.9 0.5 0.5 0 0 {EYE}\n" * 2)
    assert "v.txt has the time '1' twice" in refusal(lambda: scenes("re10k", own / "v.txt"))


def test_annotations_twice(own: Path) -> None:
    save(noise(18, 24), own / "a.png")
    read = outside_co3d(own, "a.png")
    file = own / "apple" / "frame_annotations.json"
    (frame,) = json.loads(file.read_text())
    assert read()
    file.write_text(json.dumps([frame, frame]))
    assert "frame_number of the sequence s '0' twice" in refusal(read)
    file.write_text(json.dumps([frame, frame | {"frame_number": 1}]))
    assert "twice" in refusal(read)


# What would fill memory or time


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n" + "0" * 131_000 + "1,1\n" + "1,1\n" * 60_000,
        "x,y\n" + "1" * 200 + ",1\n",
        "x,y\n" + "," * 10**6,
        "x,y\n1_0,2\n",
        'x,y\n"' + "\n" * 200_000 + '",1\n',
        "x" * 10**7,
        "x,y\n1\0,2\n",
        "x,y\n1,1e999\n",
        "\n" * 10**5,
    ],
    ids=["wide", "digits", "commas", "underscore", "quoted", "head", "NUL", "infinite", "blank"],
)
def test_points_in_odd_texts(text: str, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(text)
    refusal(lambda: read_query_points(tmp_path / "q.csv"))


def test_points_of_very_many_views(tmp_path: Path) -> None:
    count = 50_000
    x = np.arange(count, dtype=np.float64)
    np.savez(tmp_path / "q.npz", x=x, y=x, view=np.arange(count)[::-1] // 2)
    start = time.monotonic()
    points = read_query_points(tmp_path / "q.npz")
    assert time.monotonic() - start < 3
    assert list(points) == list(range(count // 2))[::-1]
    np.testing.assert_array_equal(points[0], [[count - 2.0] * 2, [count - 1.0] * 2])


def binary_colmap(folder: Path, rows: bytes) -> Path:
    (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 1, 1, 24, 18, 20, 20, 12, 9))
    (folder / "images.bin").write_bytes(rows)
    return folder


POSE = struct.pack("<I7dI", 1, 1, 0, 0, 0, 0, 0, 0, 1)


@pytest.mark.parametrize(
    "rows",
    [
        struct.pack("<Q", 1) + POSE + b"a" * 2**24,
        struct.pack("<Q", 1) + POSE + b"a.png\0" + struct.pack("<Q", 2**60),
        struct.pack("<Q", 1) + POSE + b"a.png\0" + struct.pack("<Q", 2**64 - 1),
        struct.pack("<Q", 2**64 - 1) + POSE + b"a.png\0" + bytes(8),
        struct.pack("<Q", 1) + POSE + b"\0" * 2**20,
        struct.pack("<Q", 1) + POSE + b"a" * 4097 + b"\0" + bytes(8),
    ],
    ids=["endless", "points", "most points", "images", "no name", "long name"],
)
def test_colmap_beyond_its_file(rows: bytes, tmp_path: Path) -> None:
    refusal(lambda: known(binary_colmap(tmp_path, rows)), seconds=1, mebibytes=5)


def test_colmap_text_of_endless_lines(tmp_path: Path) -> None:
    colmap(tmp_path, "a.png", pictures=False)
    points = "1 2 3 " * 2**20
    (tmp_path / "images.txt").write_text(f"1 1 0 0 0 0 0 0 1 a.png\n{points}\n")
    tracemalloc.start()
    assert known(tmp_path).poses.keys() == {0}
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5 * 2**20
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 " + "a" * 2**24)
    refusal(lambda: known(tmp_path), mebibytes=5)


def test_names_of_very_many_folders(tmp_path: Path) -> None:
    frames = [{"file_path": "a/" * 2000 + f"{n}.png", "fl_x": 9} for n in range(300)]
    path = nerf(tmp_path, *frames)
    assert "knows none of the images" in refusal(lambda: known(path))


def test_keys_of_all_frames_are_not_copied(tmp_path: Path) -> None:
    frames = [{"file_path": f"{n}.png"} for n in range(1000)]
    shared = {f"key {n}": n for n in range(1000)}
    refusal(lambda: known(nerf(tmp_path, *frames, **shared)), mebibytes=20)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800", "a" * 300, "1" * 4000, ""])
def test_names_of_no_file(name: str, own: Path) -> None:
    for made in (outside_nerf, outside_co3d):
        refusal(made(own, name))
    frame = {"file_path": name, "fl_x": 9}
    refusal(lambda: known(nerf(own, frame)))


@pytest.mark.parametrize(
    "keys",
    [
        {"camera_angle_x": 5e-324},
        {"camera_angle_x": 1e-300},
        {"fl_x": 1e308, "w": 1, "h": 1},
        {"fl_x": 9, "cx": 1e308, "w": 1, "h": 1},
        {"fl_x": 9, "w": 10**9},
        {"fl_x": 9, "h": "16"},
        {"fl_x": 9, "w": True},
        {"fl_x": 9, "h": [16]},
        {"fl_x": 9, "camera_model": ["PINHOLE"] * 10**5},
        {"fl_x": 9, "camera_model": {"a": "b"}},
        {"transform_matrix": [["1", 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]},
        {"transform_matrix": [[True, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]},
        {"transform_matrix": np.eye(4).tolist(), "camera_convention": ["opengl"] * 10**5},
        {"depth_file_path": "../../../../../../etc/passwd"},
        {"depth_file_path": ["d.png"]},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_values_of_frames(keys: dict[str, Any], tmp_path: Path) -> None:
    assert "a.png" in refusal(lambda: known(nerf(tmp_path, {"file_path": "a.png"} | keys)))


def test_poses_beyond_all_floats_are_not_rigid(own: Path) -> None:
    (own / "images").mkdir()
    save(noise(18, 24), own / "images" / "0.png")
    for value in (1e200, 1e308):
        pose = np.eye(4)
        pose[:3, :3] = [[value, value, -value], [value, -value, value], [-value, value, value]]
        np.savez(own / "condition.npz", poses=pose[None])
        assert "give a rotation and metres" in refusal(lambda: scenes("folder", own))


def test_archives_of_wrong_shapes_are_not_unpacked(own: Path) -> None:
    (own / "images").mkdir()
    save(noise(18, 24), own / "images" / "0.png")
    np.savez_compressed(own / "condition.npz", depths=np.zeros((2, 4000, 4000), np.float32))
    assert "depths has shape" in refusal(lambda: scenes("folder", own), mebibytes=5)
    archive = own / "condition.npz"
    assert "depths has shape" in refusal(lambda: known(archive), mebibytes=5)


# Texts for the terminal


def test_notes_are_one_line(capsys: pytest.CaptureFixture) -> None:
    stages = Stages()
    stages.note("licence\x1b]0;title\x07\nsecond \u202e line \udcff")
    stages.note("a" * 10**6)
    with stages.stage("read\x1b[2J\n"):
        pass
    first, second, third = capsys.readouterr().err.splitlines()
    assert first == r"licence\x1b]0;title\x07\nsecond \u202e line \udcff"
    assert len(second) == 2000
    assert r"read\x1b[2J\n: 0.0" in third
