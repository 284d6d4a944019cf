"""RealEstate10K: camera paths through houses, as lists of poses; cameras only, no depth."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.common import (
    Subset,
    check_distinct,
    check_folder,
    not_empty,
    pinhole,
    poses_from_world_to_camera,
    read_lines,
    read_numbers,
)
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth
from jaxrecon.images.pictures import file_size
from jaxrecon.reading import is_plain_file

_SUFFIXES = (".png", ".jpg", ".jpeg")


def re10k_scenes(path: Path, subset: Subset) -> Iterator[GroundTruth]:
    """The pose lists `<name>.txt` of a folder, or one such file, with frames in `<name>/`.

    The first line is the video's address; each further one is `time fx fy cx cy 0 0` and the 3x4
    world-to-camera matrix by rows. Intrinsics are divided by the image's width and height, counted
    from the corner of the image. A frame is `<name>/<time>.png` or `.jpg`; those that are not there
    are left out, and so are lists of a folder of whose frames none is there.

    Raises:
      InputError: there is no list, a list is damaged or has a time twice, none of its frames is
        there, or a link leads out of its folder.

    Source: Zhou et al., Stereo magnification, SIGGRAPH 2018;
    https://google.github.io/realestate10k/download.html.
    """
    files = [path] if is_plain_file(path) else sorted(check_folder(path).glob("*.txt"))
    if not files:
        raise InputError(f"no pose lists (.txt) in {path}; check the path")
    places = f"{files[0].with_suffix('')}" + " and the folders beside it" * (len(files) > 1)
    found = (truth for file in files if (truth := _read(file, subset)))
    return not_empty(found, f"{files[0]}: no frame of it is in {places}")


def _read(file: Path, subset: Subset) -> GroundTruth | None:
    """None if no frame of the list is there."""
    listed = [line for line in read_lines(file) if "://" not in line]
    rows = read_numbers(file, listed, 19)
    times = [line.split()[0] for line in listed]
    check_distinct(file, "time", times)
    images = {
        number: image for number, time in enumerate(times) if (image := _frame(file, time, subset))
    }
    if not images:
        return None
    chosen = subset.of(sorted(images))
    matrices = rows[chosen, 7:].reshape(-1, 3, 4)
    sizes = [file_size(images[number]) for number in chosen]
    intrinsics = [
        pinhole(fx * width, fy * height, cx * width - 0.5, cy * height - 0.5)
        for (fx, fy, cx, cy), (width, height) in zip(rows[chosen, 1:5], sizes, strict=True)
    ]
    return GroundTruth(
        name=file.stem,
        images=tuple(images[number] for number in chosen),
        world_from_camera=poses_from_world_to_camera(matrices[:, :, :3], matrices[:, :, 3]),
        intrinsics=np.stack(intrinsics),
    )


def _frame(file: Path, time: str, subset: Subset) -> Path | None:
    folder = file.with_suffix("")
    places = [subset.path(folder, f"{time}{suffix}", f"{file}") for suffix in _SUFFIXES]
    return next((place for place in places if is_plain_file(place)), None)
