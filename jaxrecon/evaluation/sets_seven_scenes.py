"""7-Scenes: RGB-D sequences of rooms, recorded with a Kinect."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.evaluation.sets_common import (
    Pick,
    folders_with,
    pinhole,
    read_depth_png,
    read_lines,
    read_numbers,
    scene_name,
    stack_depths,
)
from jaxrecon.evaluation.truth import Truth

_INTRINSICS = pinhole(585.0, 585.0, 320.0, 240.0)
_MILLIMETRES = 1000.0
_UNKNOWN = (0, 65535)


def seven_scenes(path: Path, pick: Pick) -> Iterator[Truth]:
    """Sequences in or below a folder: `frame-000000.color.png`, `.depth.png`, `.pose.txt`.

    Where a folder above a sequence holds `TestSplit.txt`, only its test sequences are read. A frame
    without depth, or whose pose is not finite, keeps its place as unknown.

    The intrinsics are the ones given with the data set, 585, 585, 320, 240, for depth and colour
    alike. Its two cameras are not registered (the colour camera's focal length is nearer to 525, as
    Spann3R uses), so that depth and colour disagree by some pixels towards the image's edges.

    Raises:
      InputError: there is no sequence, or one of its files is damaged.

    Source: Shotton et al., Scene coordinate regression forests, CVPR 2013, and its read-me.
    """
    found = folders_with(path, "frame-*.color.png")
    sequences = [folder for folder in found if _is_wanted(folder)]
    if not sequences:
        raise InputError(f"none of the sequences that TestSplit.txt names is in {path}")
    return (_read(folder, scene_name(folder, path), pick) for folder in sequences)


def _is_wanted(sequence: Path) -> bool:
    """Whether a sequence is a test sequence, or there is no list of them."""
    split = sequence.parent / "TestSplit.txt"
    if not split.is_file():
        return True
    numbers = {int(n) for line in read_lines(split) for n in re.findall(r"\d+", line)}
    own = re.search(r"\d+", sequence.name)
    return own is not None and int(own.group()) in numbers


def _read(folder: Path, name: str, pick: Pick) -> Truth:
    images = pick.of(sorted(folder.glob("frame-*.color.png")))
    depths = [Path(str(image).replace(".color.", ".depth.")) for image in images]
    maps = [
        read_depth_png(file, per_metre=_MILLIMETRES, unknown=_UNKNOWN) if file.is_file() else None
        for file in depths
    ]
    poses = np.stack([_pose(image) for image in images])
    return Truth(
        name=name,
        images=tuple(images),
        world_from_camera=poses if np.isfinite(poses).any() else None,
        intrinsics=np.tile(_INTRINSICS, (len(images), 1, 1)),
        depth_z=stack_depths(maps, depths),
    )


def _pose(image: Path) -> Float[np.ndarray, "4 4"]:
    """Camera to world; NaN if the file is absent."""
    file = image.with_name(image.name.replace(".color.png", ".pose.txt"))
    if not file.is_file():
        return np.full((4, 4), np.nan)
    numbers = read_numbers(file, read_lines(file), 4)
    if len(numbers) != 4:
        raise InputError(f"{file} has {len(numbers)} lines of numbers; expected a 4x4 matrix")
    return numbers
