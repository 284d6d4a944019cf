"""7-Scenes: RGB-D sequences of rooms, recorded with a Kinect."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.common import (
    Subset,
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
from jaxrecon.images.listing import digits_key
from jaxrecon.reading import is_plain_file

_INTRINSICS = pinhole(585.0, 585.0, 320.0, 240.0)
_COLOUR = pinhole(525.0, 525.0, 320.0, 240.0)
_SIZE = 640, 480
_FARTHEST = 10.0
_MILLIMETRES = 1000.0
_UNKNOWN = (0, 65535)


def seven_scenes(path: Path, subset: Subset) -> Iterator[GroundTruth]:
    """Sequences in or below a folder: `frame-000000.color.png`, `.depth.png`, `.pose.txt`.

    Where a folder above a sequence holds `TestSplit.txt`, only its test sequences are read. A frame
    without depth, or whose pose is not finite, keeps its place as unknown.

    The two cameras of the data set are not registered. Where a sequence has depth that was brought
    to the colour camera, `frame-000000.depth.proj.png`, that is read, up to 10 m, with the colour
    camera's 525, 525, 320, 240, as in the evaluations of Spann3R and CUT3R. Else the depth camera's
    585, 585, 320, 240, given with the data set, stand for both, and depth and colour disagree by up
    to 33 pixels at the image's edges.

    Raises:
      InputError: there is no sequence, one of its files is damaged, an image is no copy of one of
        640x480, or a link leads out of the folder.

    Source: Shotton et al., Scene coordinate regression forests, CVPR 2013, and its read-me.
    """
    found = folders_with(path, "frame-*.color.png")
    sequences = [folder for folder in found if _is_wanted(folder)]
    if not sequences:
        raise InputError(f"none of the sequences that TestSplit.txt names is in {path}")
    return (_read(folder, path, subset) for folder in sequences)


def _is_wanted(sequence: Path) -> bool:
    """Whether a sequence is a test sequence, or there is no list of them."""
    split = sequence.parent / "TestSplit.txt"
    if not is_plain_file(split):
        return True
    numbers = {digits_key(n) for line in read_lines(split) for n in re.findall(r"\d+", line)}
    own = re.search(r"\d+", sequence.name)
    return own is not None and digits_key(own.group()) in numbers


def _read(folder: Path, root: Path, subset: Subset) -> GroundTruth:
    images = subset.of(sorted(folder.glob("frame-*.color.png")))
    registered = any(is_plain_file(_depth_of(image, registered=True)) for image in images)
    depths = [_depth_of(image, registered=registered) for image in images]
    for file in (*images, *depths, *map(_pose_of, images)):
        subset.path(root, str(file.relative_to(root)), f"{root}")
    maps = [
        read_depth_png(file, per_metre=_MILLIMETRES, unknown=_UNKNOWN)
        if is_plain_file(file)
        else None
        for file in depths
    ]
    if registered:
        maps = [None if m is None else np.where(m > _FARTHEST, 0, m) for m in maps]
    intrinsics = _COLOUR if registered else _INTRINSICS
    poses = np.stack([_pose(image) for image in images])
    return GroundTruth(
        name=scene_name(folder, root),
        images=tuple(images),
        world_from_camera=poses if np.isfinite(poses).any() else None,
        intrinsics=np.stack([resized_pinhole(intrinsics, _SIZE, image) for image in images]),
        depth_z=stack_depths(maps, depths),
    )


def _depth_of(image: Path, *, registered: bool) -> Path:
    ending = ".depth.proj.png" if registered else ".depth.png"
    return image.with_name(image.name.replace(".color.png", ending))


def _pose_of(image: Path) -> Path:
    return image.with_name(image.name.replace(".color.png", ".pose.txt"))


def _pose(image: Path) -> Float[np.ndarray, "4 4"]:
    """Camera to world; NaN if the file is absent."""
    file = _pose_of(image)
    if not is_plain_file(file):
        return np.full((4, 4), np.nan)
    numbers = read_numbers(file, read_lines(file), 4)
    if len(numbers) != 4:
        raise InputError(f"{file} has {len(numbers)} lines of numbers; expected a 4x4 matrix")
    return numbers
