"""The files of a COLMAP sparse model that tell of cameras and images, binary or text.

The format is described at https://colmap.github.io/format.html. They are read here, not by
pycolmap, because that ends the whole process at some damaged files, and reads all points too.
"""

import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float

from jaxrecon.conditions.colmap_lens import model_name, parameter_count
from jaxrecon.errors import InputError

_POINT_BYTES = 24


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
    """One registered image; its quaternion (w x y z) and translation map world to camera."""

    name: str
    camera: int
    quaternion: tuple[float, ...]
    translation: tuple[float, ...]

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
    """Where the sparse model lies: the folder itself, or `sparse/0` or `sparse` in it.

    Raises:
      InputError: in none of them.
    """
    for candidate in (folder, folder / "sparse" / "0", folder / "sparse"):
        if _suffix(candidate):
            return candidate
    raise InputError(
        f"{folder} holds no COLMAP model; give the folder with its files cameras and images, .bin "
        "or .txt, or one with sparse/0 in it"
    )


def _suffix(folder: Path) -> str | None:
    """Which form a folder's model has; the binary one if both, as COLMAP does."""
    for suffix in (".bin", ".txt"):
        if all((folder / f"{stem}{suffix}").is_file() for stem in ("cameras", "images")):
            return suffix
    return None


def read_cameras(model: Path) -> dict[int, Camera]:
    """The cameras of a model, by their number.

    Raises:
      InputError: their file is damaged, or a camera has a lens and pycolmap is not installed.
    """
    cameras = _read(model, "cameras", _binary_cameras, _text_cameras)
    for camera in cameras:
        count, expected = len(camera.parameters), parameter_count(camera.model)
        if count != expected or not np.isfinite(camera.parameters).all():
            raise InputError(
                f"{model}: camera {camera.number} ({camera.model}) has the parameters "
                f"{camera.parameters}; expected {expected} numbers, so export the model again"
            )
        if min(camera.width, camera.height) < 1:
            raise InputError(
                f"{model}: camera {camera.number} is {camera.width}x{camera.height} pixels; "
                "export the model again"
            )
    return {camera.number: camera for camera in cameras}


def read_images(model: Path) -> list[Image]:
    """The registered images of a model.

    Raises:
      InputError: their file is damaged.
    """
    images = _read(model, "images", _binary_images, _text_images)
    for image in images:
        numbers = (*image.quaternion, *image.translation)
        if not np.isfinite(numbers).all() or not 0.9 < math.hypot(*image.quaternion) < 1.1:
            raise InputError(f"{model}: the pose of {image.name} is {numbers}; export it again")
    return images


def _read[T](
    model: Path,
    stem: str,
    binary: Callable[[BinaryIO], Iterator[T]],
    text: Callable[[str], Iterator[T]],
) -> list[T]:
    path = model / f"{stem}{_suffix(model)}"
    try:
        if path.suffix == ".txt":
            return list(text(path.read_text(encoding="utf-8")))
        with open(path, "rb") as file:
            return list(binary(file))
    except InputError:
        raise
    except (OSError, ValueError, OverflowError, EOFError) as error:
        raise InputError(
            f"cannot read {path}: it is damaged or cut short ({error}); export the model again"
        ) from error


def _take(file: BinaryIO, layout: str) -> tuple:
    length = struct.calcsize(layout)
    data = file.read(length)
    if len(data) < length:
        raise EOFError("it ends too early")
    return struct.unpack(layout, data)


def _binary_cameras(file: BinaryIO) -> Iterator[Camera]:
    (count,) = _take(file, "<Q")
    for _ in range(count):
        number, model_id, width, height = _take(file, "<IiQQ")
        model = model_name(model_id)
        parameters = _take(file, f"<{parameter_count(model)}d")
        yield Camera(number, model, width, height, parameters)


def _binary_images(file: BinaryIO) -> Iterator[Image]:
    length = os.fstat(file.fileno()).st_size
    (count,) = _take(file, "<Q")
    for _ in range(count):
        _, *pose, camera = _take(file, "<I7dI")
        name = bytearray()
        while (letter := _take(file, "<c")[0]) != b"\0":
            name += letter
        (points,) = _take(file, "<Q")
        if file.seek(points * _POINT_BYTES, os.SEEK_CUR) > length:
            raise EOFError("it ends too early")
        yield Image(name.decode(), camera, tuple(pose[:4]), tuple(pose[4:]))


def _text_cameras(text: str) -> Iterator[Camera]:
    for line in text.split("\n"):
        if _tells(line):
            number, model, width, height, *parameters = line.split()
            yield Camera(int(number), model, int(width), int(height), tuple(map(float, parameters)))


def _text_images(text: str) -> Iterator[Image]:
    """Each image is followed by a line of its points, which may be empty."""
    lines = iter(text.split("\n"))
    for line in lines:
        if _tells(line):
            _, w, x, y, z, *translation, camera, name = line.strip().split(maxsplit=9)
            tx, ty, tz = map(float, translation)
            yield Image(name, int(camera), tuple(map(float, (w, x, y, z))), (tx, ty, tz))
            next(lines, None)


def _tells(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
