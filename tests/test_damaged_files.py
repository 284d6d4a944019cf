"""Files of photos, cameras, depth, points and evaluation sets that were changed byte by byte: each
is read as what it says, or refused on one line, quickly.
"""

import gzip
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image, features

from image_files import noise, save, write_video
from jaxrecon.cli.query_points import read_query_points
from jaxrecon.conditions import colmap_images, read_known_views
from jaxrecon.errors import MAX_MESSAGE, JaxreconError
from jaxrecon.evaluation import open_set
from jaxrecon.images import PI3_RESIZE, load_images, view_sizes

SECONDS = 5
SIZE = (24, 16)
NAMES = ("a.png", "b.png")
EYE = np.eye(4).tolist()

Read = Callable[[Path], object]


def known(path: Path) -> object:
    return read_known_views(path, NAMES, sizes=[SIZE] * 2)


def evaluated(kind: str) -> Read:
    return lambda path: list(open_set(kind, path))


def photos(path: Path) -> object:
    return view_sizes(path), load_images(path, rule=PI3_RESIZE, resolution=28)


def video(path: Path) -> object:
    return load_images(path, rule=PI3_RESIZE, resolution=28)


def nerf(folder: Path) -> tuple[Path, Path, Read]:
    save_depth(folder / "d.png")
    frame = {"file_path": "a.png", "transform_matrix": EYE, "depth_file_path": "d.png"}
    scene = {"fl_x": 20.0, "w": 24, "h": 16, "k1": 0.0, "frames": [frame, {"file_path": "b.png"}]}
    (folder / "t.json").write_text(json.dumps(scene))
    return folder / "t.json", folder / "t.json", known


def nerf_depth(folder: Path) -> tuple[Path, Path, Read]:
    path, _, read = nerf(folder)
    return path, folder / "d.png", read


def save_depth(path: Path) -> Path:
    Image.fromarray(np.arange(24 * 16, dtype=np.uint16).reshape(16, 24)).save(path)
    return path


def archive(folder: Path) -> tuple[Path, Path, Read]:
    poses, depths = np.tile(np.eye(4), (2, 1, 1)), np.ones((2, 4, 6), np.float32)
    np.savez_compressed(folder / "k.npz", poses=poses, depths=depths, intrinsics=np.eye(3))
    return folder / "k.npz", folder / "k.npz", known


def colmap(stem: str, suffix: str) -> Callable[[Path], tuple[Path, Path, Read]]:
    def made(folder: Path) -> tuple[Path, Path, Read]:
        if suffix == ".txt":
            files = {
                "cameras": b"# two\n1 PINHOLE 24 16 20 20 12 8\n2 SIMPLE_PINHOLE 24 16 20 12 8\n",
                "images": b"# w x y z\n1 1 0 0 0 0 0 0 1 a.png\n1 2 3\n2 1 0 0 0 1 0 0 2 b.png\n\n",
            }
        else:
            camera = struct.pack("<QIiQQ4d", 1, 1, 1, 24, 16, 20, 20, 12, 8)
            images = struct.pack("<Q", 2)
            for number, name in enumerate(NAMES):
                images += struct.pack("<I7dI", number, 1, 0, 0, 0, number, 0, 0, 1)
                images += name.encode() + b"\0" + struct.pack("<Q", 1) + b"p" * 24
            files = {"cameras": camera, "images": images}
        for name, data in files.items():
            (folder / f"{name}{suffix}").write_bytes(data)
        (folder / "images").mkdir(exist_ok=True)
        for name in NAMES:
            save(noise(16, 24), folder / "images" / name)
        read = lambda path: (known(path), colmap_images(path))  # noqa: E731
        return folder, folder / f"{stem}{suffix}", read

    return made


def csv(folder: Path) -> tuple[Path, Path, Read]:
    (folder / "q.csv").write_text("x,y,view\n1.5,2,0\n3,4,1\n10,20,7\n")
    return folder / "q.csv", folder / "q.csv", read_query_points


def points(folder: Path) -> tuple[Path, Path, Read]:
    np.savez(folder / "q.npz", x=np.arange(3.0), y=np.arange(3), view=np.zeros(3, int))
    return folder / "q.npz", folder / "q.npz", read_query_points


def photo(suffix: str) -> Callable[[Path], tuple[Path, Path, Read]]:
    def made(folder: Path) -> tuple[Path, Path, Read]:
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif} if suffix in (".png", ".jpg", ".tif", ".webp") else {}
        path = save(noise(24, 32), folder / f"a{suffix}", **options)
        return path, path, photos

    return made


def film(folder: Path) -> tuple[Path, Path, Read]:
    path = write_video(folder / "a.mp4", frames=3)
    return path, path, video


def tum(name: str) -> Callable[[Path], tuple[Path, Path, Read]]:
    def made(folder: Path) -> tuple[Path, Path, Read]:
        save(noise(16, 24), folder / "a.png")
        save(noise(16, 24), folder / "b.png")
        save_depth(folder / "d.png")
        (folder / "rgb.txt").write_text("# time file\n1.00 a.png\n2.00 b.png\n")
        (folder / "depth.txt").write_text("1.01 d.png\n")
        (folder / "groundtruth.txt").write_text("1 0 0 0 0 0 0 1\n2 1 0 0 0 0 0 1\n")
        return folder, folder / name, evaluated("tum")

    return made


def seven(name: str) -> Callable[[Path], tuple[Path, Path, Read]]:
    def made(folder: Path) -> tuple[Path, Path, Read]:
        sequence = folder / "seq-01"
        sequence.mkdir(exist_ok=True)
        save(noise(16, 24), sequence / "frame-000000.color.png")
        save_depth(sequence / "frame-000000.depth.png")
        (sequence / "frame-000000.pose.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n")
        (folder / "TestSplit.txt").write_text("sequence1\n")
        return folder, folder / name, evaluated("7scenes")

    return made


def re10k(folder: Path) -> tuple[Path, Path, Read]:
    (folder / "v").mkdir(exist_ok=True)
    rows = []
    for time_ in (100, 200):
        save(noise(16, 24), folder / "v" / f"{time_}.png")
        rows.append(f"{time_} 0.5 0.9 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0\n")
    (folder / "v.txt").write_text("https://video\n" + "".join(rows))
    return folder, folder / "v.txt", evaluated("re10k")


def co3d(name: str) -> Callable[[Path], tuple[Path, Path, Read]]:
    def made(folder: Path) -> tuple[Path, Path, Read]:
        apple = folder / "apple"
        apple.mkdir(exist_ok=True)
        view = {"R": np.eye(3).tolist(), "T": [0, 0, 1]}
        view |= {"focal_length": [2.0, 2.0], "principal_point": [0.0, 0.0]}
        frames = []
        for number in range(2):
            save(noise(16, 24), apple / f"{number}.png")
            image = {"path": f"apple/{number}.png", "size": [16, 24]}
            frame = {"sequence_name": "s", "frame_number": number, "image": image}
            frames.append(frame | {"viewpoint": view})
        data = json.dumps(frames).encode()
        (apple / name).write_bytes(gzip.compress(data, mtime=0) if name.endswith("jgz") else data)
        return folder, apple / name, evaluated("co3d")

    return made


def scene(name: str) -> Callable[[Path], tuple[Path, Path, Read]]:
    def made(folder: Path) -> tuple[Path, Path, Read]:
        (folder / "images").mkdir(exist_ok=True)
        save(noise(16, 24), folder / "images" / "0.png")
        depths = np.ones((1, 16, 24), np.float32)
        np.savez(folder / "condition.npz", poses=np.eye(4)[None], depths=depths)
        return folder, folder / name, evaluated("folder")

    return made


FORMATS = [".png", ".jpg", ".tif", ".bmp", ".ppm"]
FORMATS += [f".{name}" for name in ("webp", "avif") if features.check(name)]
KINDS = {
    "nerf": nerf,
    "nerf depth": nerf_depth,
    "archive": archive,
    "points.csv": csv,
    "points.npz": points,
    "re10k": re10k,
    **{f"{s}{t}": colmap(s, t) for s in ("cameras", "images") for t in (".bin", ".txt")},
    **{f"photo{suffix}": photo(suffix) for suffix in FORMATS},
    "video": film,
    **{f"tum {name}": tum(name) for name in ("rgb.txt", "groundtruth.txt", "d.png")},
    "7scenes split": seven("TestSplit.txt"),
    "7scenes pose": seven("seq-01/frame-000000.pose.txt"),
    "7scenes depth": seven("seq-01/frame-000000.depth.png"),
    **{f"co3d {end}": co3d(f"frame_annotations.{end}") for end in ("json", "jgz")},
    "scene archive": scene("condition.npz"),
    "scene image": scene("images/0.png"),
}
RUNS = (b"\0", b"\xff", b"9", b"-", b"[", b"{", b'"', b" ", b"\n", b"1e", b"../", b",", b"a")


@st.composite
def changes(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """A few changes of bytes: flips, cuts, inserted runs, and pieces in other order."""
    places = st.floats(0, 1)
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(("flip", "cut", "drop", "insert", "swap", "twice")),
                places,
                places,
                st.sampled_from(RUNS),
                st.sampled_from((1, 2, 7, 300, 20_000)),
                st.integers(1, 255),
            ),
            min_size=1,
            max_size=4,
        )
    )

    def changed(data: bytes) -> bytes:
        for kind, first, second, run, times, mask in steps:
            start, end = sorted((int(first * len(data)), int(second * len(data))))
            if kind == "flip" and data:
                place = min(start, len(data) - 1)
                data = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
            elif kind == "cut":
                data = data[:end]
            elif kind == "drop":
                data = data[:start] + data[min(end, start + times) :]
            elif kind == "insert":
                data = data[:start] + run * times + data[start:]
            elif kind == "swap":
                data = data[end:] + data[start:end] + data[:start]
            elif kind == "twice":
                data = data[:end] + data[start:end] + data[end:]
        return data

    return changed


@pytest.mark.parametrize("kind", KINDS)
def test_sound_files_are_read(kind: str, tmp_path: Path) -> None:
    path, _, read = KINDS[kind](tmp_path)
    read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_read_or_refused(
    kind: str, tmp_path: Path, without_shape_checks: None
) -> None:
    path, changed, read = KINDS[kind](tmp_path)
    sound = changed.read_bytes()

    @seed(0)
    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
    )
    @given(change=changes())
    def check(change: Callable[[bytes], bytes]) -> None:
        changed.write_bytes(change(sound))
        start = time.monotonic()
        try:
            read(path)
        except JaxreconError as error:
            assert str(error).isprintable() and len(str(error)) <= MAX_MESSAGE
        assert time.monotonic() - start < SECONDS

    check()
