"""TUM RGB-D: handheld and robot sequences with a motion-capture trajectory."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.common import (
    Subset,
    check_distinct,
    folders_with,
    pinhole,
    read_depth_png,
    read_lines,
    read_numbers,
    resized_pinhole,
    scene_name,
    stack_depths,
)
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth
from jaxrecon.reading import is_plain_file, text

_LONGEST_GAP = 0.02
_PER_METRE = 5000.0
_SIZE = 640, 480
_DEFAULT = pinhole(525.0, 525.0, 319.5, 239.5)
_INTRINSICS = {
    1: pinhole(517.3, 516.5, 318.6, 255.3),
    2: pinhole(520.9, 521.0, 325.1, 249.7),
    3: pinhole(535.4, 539.2, 320.1, 247.6),
}


def tum_scenes(path: Path, subset: Subset) -> Iterator[GroundTruth]:
    """Sequences in or below a folder: `rgb.txt`, `depth.txt` and `groundtruth.txt`.

    Each colour image gets the pose and the depth image that are nearest in time, within 0.02 s.
    Images without a pose are left out; those without depth stay. Depth is the stored value
    divided by 5000, in metres. Poses are `tx ty tz qx qy qz qw`, camera to world.

    Intrinsics are those of freiburg1, 2 or 3, whichever the folder's name contains, else
    the Kinect's default (525, 525, 319.5, 239.5), of 640x480 pixels; they are scaled for resized
    images. The lens distortion of freiburg1 and 2 is left as it is.

    Raises:
      InputError: there is no sequence, one of its files is damaged or absent, an image is no copy
        of one of 640x480, or a list names a file twice, or one outside of its folder.

    Source: Sturm et al., A benchmark for the evaluation of RGB-D SLAM systems, IROS 2012;
    https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats.
    """
    return (_read(f, scene_name(f, path), subset) for f in folders_with(path, "rgb.txt"))


def _read(folder: Path, name: str, subset: Subset) -> GroundTruth:
    times, images = _listing(folder / "rgb.txt", subset)
    track = folder / "groundtruth.txt"
    rows = read_numbers(track, read_lines(track), 8)
    if not len(rows):
        raise InputError(f"{track} has no poses; the sequence needs them")
    near = nearest_in_time(times, rows[:, 0])
    chosen = subset.of(np.flatnonzero(near >= 0).tolist())
    if not chosen:
        raise InputError(f"{track} has no pose within {_LONGEST_GAP} s of an image of {folder}")
    files = _depth_files(folder, times[chosen], subset)
    maps = [None if file is None else read_depth_png(file, per_metre=_PER_METRE) for file in files]
    pictures, camera = [images[number] for number in chosen], _intrinsics(folder.resolve().name)
    return GroundTruth(
        name=name,
        images=tuple(pictures),
        world_from_camera=_poses(rows[near[chosen]], track),
        intrinsics=np.stack([resized_pinhole(camera, _SIZE, image) for image in pictures]),
        depth_z=stack_depths(maps, files),
    )


def nearest_in_time(
    times: Float[np.ndarray, " N"], others: Float[np.ndarray, " M"]
) -> Int[np.ndarray, " N"]:
    """For each time the index of the nearest of the others; -1 if that is more than 0.02 s away."""
    if not len(others):
        return np.full(len(times), -1)
    order = np.argsort(others, kind="stable")
    after = np.searchsorted(others[order], times).clip(1, max(1, len(others) - 1))
    two = order[np.stack([after - 1, after.clip(max=len(others) - 1)])]
    gap = np.abs(others[two] - times)
    nearest = np.where(gap[1] < gap[0], two[1], two[0])
    # A microsecond more: times have six decimals.
    return np.where(gap.min(axis=0) <= _LONGEST_GAP + 1e-6, nearest, -1)


def _depth_files(folder: Path, times: np.ndarray, subset: Subset) -> list[Path | None]:
    listing = folder / "depth.txt"
    if not is_plain_file(listing):
        return [None] * len(times)
    depth_times, files = _listing(listing, subset)
    return [None if near < 0 else files[near] for near in nearest_in_time(times, depth_times)]


def _listing(path: Path, subset: Subset) -> tuple[Float[np.ndarray, " N"], list[Path]]:
    """Times in seconds and files of rgb.txt or depth.txt."""
    times, names = [], []
    for line in read_lines(path):
        row = line.split()
        if len(row) != 2:
            raise InputError(
                f"{path}: expected a time and a file name in each line, found {line[:60]!r}"
            )
        times.append(row[0])
        names.append(text(row[1], f"{path}: a file name"))
    check_distinct(path, "file", names)
    files = [subset.path(path.parent, name, f"{path}") for name in names]
    return read_numbers(path, times, 1)[:, 0], files


def _poses(rows: Float[np.ndarray, "V 8"], track: Path) -> Float[np.ndarray, "V 4 4"]:
    quaternions = rows[:, 4:]
    if not (np.linalg.norm(quaternions, axis=1) > 0).all():
        raise InputError(f"{track}: a quaternion is 0; expected tx ty tz qx qy qz qw")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(quaternions).as_matrix()
    poses[:, :3, 3] = rows[:, 1:4]
    return poses


def _intrinsics(name: str) -> Float[np.ndarray, "3 3"]:
    found = re.search(r"(?:freiburg|fr)([123])", name)
    return _INTRINSICS[int(found.group(1))] if found else _DEFAULT
