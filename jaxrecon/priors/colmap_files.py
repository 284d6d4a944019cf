"""The files of a COLMAP sparse model that tell of cameras and images, binary or text.

The format is described at https://colmap.github.io/format.html. They are read here, not by
pycolmap, because that ends the whole process at some damaged files, and reads all points too.
`colmap_points` reads those.
"""

import math
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import batched
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.images.listing import natural_key
from jaxrecon.priors.colmap_lens import model_name, parameter_count
from jaxrecon.priors.colmap_tables import (
    ADVICE,
    check_distinct,
    model_suffix,
    read_table,
    take,
    take_rows,
    tells,
)
from jaxrecon.reading import is_plain_file, parse_number, parse_whole
from jaxrecon.reading.plain_files import LONGEST_LINE
from jaxrecon.reading.values import LARGEST_SIZE, LONGEST_TEXT

OBSERVATION = np.dtype([("xy", "<f8", 2), ("point", "<i8")])
"""Where an image sees a point, counted from its corner, and the point's number; -1 for none."""

_MOST_TOLD = 5


@dataclass(frozen=True)
class Camera:
    """One camera; its parameters stand in the order of COLMAP's model of that name."""

    number: int
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class Image:
    """One registered image; its quaternion (w x y z) and translation map world to camera.

    Attributes:
      number, name, camera, quaternion, translation: as they stand in the file.
      observations: of points, an array of `OBSERVATION`; None where they were not asked for.
    """

    number: int
    name: str
    camera: int
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]
    observations: np.ndarray | None = field(default=None, compare=False, repr=False)

    def world_from_camera(self) -> Float[np.ndarray, "4 4"]:
        """Its pose."""
        w, x, y, z = np.array(self.quaternion) / np.linalg.norm(self.quaternion)
        pose = np.eye(4)
        pose[:3, :3] = [
            [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)],
            [2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)],
            [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)],
        ]
        pose[:3, 3] = -pose[:3, :3] @ self.translation
        return pose


def model_folder(folder: Path) -> Path:
    """Where the sparse model lies: the folder itself, `sparse` in it, or a folder in that.

    Raises:
      InputError: in none of them, or there are several models.
    """
    if model_suffix(folder):
        return folder
    models = _models_below(folder)
    if len(models) > 1:
        raise InputError(_several(folder, models))
    if models:
        return models[0]
    raise InputError(f"{folder} holds no COLMAP model; {_what_to_give(folder)}")


def _models_below(folder: Path) -> list[Path]:
    """The models that COLMAP's mapper and its tools leave in a folder, in natural order."""
    sparse = folder / "sparse"
    numbered = [child for child in _children(folder) if child.name.isdecimal()]
    candidates = [sparse, *_children(sparse), *numbered]
    found = [candidate for candidate in candidates if model_suffix(candidate)]
    return sorted(found, key=lambda model: natural_key(str(model)))


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _several(folder: Path, models: list[Path]) -> str:
    counts = {model: len(read_images(model)) for model in models}
    told = [f"{model.relative_to(folder)} ({count} photos)" for model, count in counts.items()]
    more = ", ..." if len(told) > _MOST_TOLD else ""
    return (
        f"{folder} holds {len(models)} COLMAP models: {', '.join(told[:_MOST_TOLD])}{more}; give "
        f"one of them, such as {max(models, key=counts.__getitem__)}"
    )


def _what_to_give(folder: Path) -> str:
    """What a folder without a model holds that can be given; else what a model looks like."""
    wanted = ("transforms", "scene.npz")
    files = sorted(
        child
        for child in _children(folder)
        if child.name.startswith(wanted) and child.suffix in (".json", ".npz")
    )
    if files:
        return f"give a file of it: {', '.join(map(str, files[:_MOST_TOLD]))}"
    return (
        "give the folder with its files cameras and images, .bin or .txt, or one with sparse/0 in "
        "it"
    )


def model_files(model: Path) -> list[Path]:
    """The files of a model that are read, of those that are there."""
    suffix = model_suffix(model)
    files = [model / f"{stem}{suffix}" for stem in ("cameras", "images", "points3D")]
    return [file for file in files if is_plain_file(file)]


def read_cameras(model: Path) -> dict[int, Camera]:
    """The cameras of a model, by their number.

    Raises:
      InputError: their file is damaged, a number stands twice in it, or a camera has a lens and
        pycolmap is not installed.
    """
    cameras = read_table(model, "cameras", _binary_cameras, _text_cameras)
    check_distinct(model, (f"camera {camera.number}" for camera in cameras))
    for camera in cameras:
        count, expected = len(camera.parameters), parameter_count(camera.model)
        if count != expected or not np.isfinite(camera.parameters).all():
            raise InputError(
                f"{model}: camera {camera.number} ({camera.model}) has the parameters "
                f"{camera.parameters}; expected {expected} numbers, so export the model again"
            )
        if not all(1 <= side < LARGEST_SIZE for side in (camera.width, camera.height)):
            raise InputError(
                f"{model}: camera {camera.number} is {camera.width}x{camera.height} pixels; "
                f"{ADVICE}"
            )
    return {camera.number: camera for camera in cameras}


def read_images(model: Path, *, observations: bool = False) -> list[Image]:
    """The registered images of a model.

    Args:
      model: its folder.
      observations: whether to read where the images see points; else these are skipped.

    Raises:
      InputError: their file is damaged, or a number or a name stands twice in it.
    """
    images = read_table(
        model,
        "images",
        partial(_binary_images, observations=observations),
        partial(_text_images, observations=observations),
        whole_lines=observations,
        file_names=True,
    )
    check_distinct(model, (f"image {image.number}" for image in images))
    check_distinct(model, (repr(image.name) for image in images))
    for image in images:
        numbers = (*image.quaternion, *image.translation)
        if not np.isfinite(numbers).all() or not 0.9 < math.hypot(*image.quaternion) < 1.1:
            raise InputError(f"{model}: the pose of {image.name} is {numbers}; export it again")
    return images


def _binary_cameras(file: BinaryIO) -> Iterator[Camera]:
    (count,) = take(file, "<Q")
    for _ in range(count):
        number, model_id, width, height = take(file, "<IiQQ")
        model = model_name(model_id)
        parameters = take(file, f"<{parameter_count(model)}d")
        yield Camera(number, model, width, height, parameters)


def _binary_images(file: BinaryIO, *, observations: bool) -> Iterator[Image]:
    (count,) = take(file, "<Q")
    for _ in range(count):
        number, *pose, camera = take(file, "<I7dI")
        name = _take_name(file)
        (points,) = take(file, "<Q")
        rows = take_rows(file, points, OBSERVATION.itemsize, keep=observations)
        seen = None if rows is None else np.frombuffer(rows, OBSERVATION)
        yield Image(number, name, camera, tuple(pose[:4]), tuple(pose[4:]), seen)


def _take_name(file: BinaryIO) -> str:
    """A name up to the NUL that ends it, which is not sought forever; as `os.listdir` has it."""
    start = file.tell()
    data = file.read(LONGEST_TEXT + 1)
    name, end, _ = data.partition(b"\0")
    if not end and len(data) <= LONGEST_TEXT:
        raise EOFError("it ends too early")
    if not end or not name:
        raise ValueError(f"a name is empty or has more than {LONGEST_TEXT} bytes")
    file.seek(start + len(name) + 1)
    return name.decode("utf-8", "surrogateescape")


def _text_cameras(lines: Iterator[str]) -> Iterator[Camera]:
    for line in filter(tells, lines):
        number, model, *numbers = line.split()
        width, height = map(parse_whole, numbers[:2])
        parameters = tuple(map(parse_number, numbers[2:]))
        yield Camera(parse_whole(number), model, width, height, parameters)


def _text_images(lines: Iterator[str], *, observations: bool) -> list[Image]:
    """Each image is followed by a line of its points, which may be empty or left out."""
    images: list[Image] = []
    after_image = False
    for line in lines:
        if after_image and _lists_points(line):
            after_image = False
            if observations:
                images[-1] = replace(images[-1], observations=_text_observations(line))
        elif tells(line):
            images.append(_text_image(line, np.empty(0, OBSERVATION) if observations else None))
            after_image = True
    return images


def _text_image(line: str, observations: np.ndarray | None) -> Image:
    number, *numbers, camera, name = line.strip().split(maxsplit=9)
    pose = tuple(map(parse_number, numbers))
    if len(pose) != 7:
        raise ValueError(f"a pose has {len(pose)} numbers")
    if len(name.encode("utf-8", "surrogateescape")) > LONGEST_TEXT or "\0" in name:
        raise ValueError(f"a name has more than {LONGEST_TEXT} bytes, or a NUL")
    camera = parse_whole(camera)
    return Image(parse_whole(number), name, camera, pose[:4], pose[4:], observations)


def _text_observations(line: str) -> np.ndarray:
    """The x, y and number of point that stand behind one another, read one by one."""
    positions, points = array("d"), array("q")
    words = (found.group() for found in re.finditer(r"\S+", line))
    for x, y, point in batched(words, 3):  # ValueError where the last are fewer
        positions.extend((parse_number(x), parse_number(y)))
        points.append(parse_whole(point))
    found = np.empty(len(points), OBSERVATION)
    found["xy"] = np.array(positions).reshape(-1, 2)
    found["point"] = points
    return found


def _lists_points(line: str) -> bool:
    """Whether a line has x, y and number of points, and is not that of an image, with its name."""
    words = line[:LONGEST_LINE].split()
    cut = len(line) > LONGEST_LINE or line.endswith("\0")
    whole = bool(words) and len(words) % 3 == 0
    return (cut or whole) and all(map(_is_number, words[9:12] or words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
