"""Small COLMAP models, written by the format's description (https://colmap.github.io/format.html)."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

MODELS = {"PINHOLE": 1, "SIMPLE_RADIAL": 2}
NO_POINT = -1

type Seen = tuple[float, float, int]
"""x and y, counted from the corner, and the number of the point, or `NO_POINT`."""


@dataclass(frozen=True)
class Camera:
    """By default the principal point is the middle, and a metre at a metre is 100 pixels."""

    size: tuple[int, int] = (120, 80)
    parameters: tuple[float, ...] = (100.0, 100.0, 60.0, 40.0)
    model: str = "PINHOLE"


@dataclass(frozen=True)
class Image:
    """Of which camera, by its number, and what is seen in it; `pose` is quaternion, translation."""

    name: str
    seen: tuple[Seen, ...] = ()
    pose: tuple[float, ...] = (1, 0, 0, 0, 0, 0, 0)
    camera: int = 1


@dataclass(frozen=True)
class Model:
    """Cameras and images count from 1; points have numbers and places."""

    images: tuple[Image, ...]
    points: dict[int, tuple[float, float, float]]
    cameras: tuple[Camera, ...] = (Camera(),)

    def write(self, folder: Path, *, text: bool) -> Path:
        """Writes the three files into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        files = _text(self) if text else _binary(self)
        for stem, content in files.items():
            (folder / f"{stem}.{'txt' if text else 'bin'}").write_bytes(content)
        return folder


def _track(model: Model, number: int) -> list[tuple[int, int]]:
    return [
        (image_number, index)
        for image_number, image in enumerate(model.images, 1)
        for index, (*_, point) in enumerate(image.seen)
        if point == number
    ]


def _binary(model: Model) -> dict[str, bytes]:
    cameras = [struct.pack("<Q", len(model.cameras))]
    for number, camera in enumerate(model.cameras, 1):
        cameras.append(struct.pack("<IiQQ", number, MODELS[camera.model], *camera.size))
        cameras.append(struct.pack(f"<{len(camera.parameters)}d", *camera.parameters))
    images = [struct.pack("<Q", len(model.images))]
    for number, image in enumerate(model.images, 1):
        images.append(struct.pack("<I7dI", number, *image.pose, image.camera))
        images.append(os.fsencode(image.name) + b"\0" + struct.pack("<Q", len(image.seen)))
        images += [struct.pack("<ddq", *seen) for seen in image.seen]
    points = [struct.pack("<Q", len(model.points))]
    for number, place in model.points.items():
        track = _track(model, number)
        points.append(struct.pack("<Q3d3BdQ", number, *place, 1, 2, 3, 0.5, len(track)))
        points += [struct.pack("<II", *step) for step in track]
    tables = {"cameras": cameras, "images": images, "points3D": points}
    return {stem: b"".join(parts) for stem, parts in tables.items()}


def _text(model: Model) -> dict[str, bytes]:
    cameras = [
        _line(number, camera.model, *camera.size, *camera.parameters)
        for number, camera in enumerate(model.cameras, 1)
    ]
    images = []
    for number, image in enumerate(model.images, 1):
        images.append(_line(number, *image.pose, image.camera, image.name))
        images.append(_line(*(word for seen in image.seen for word in seen)))
    points = [
        _line(number, *place, 1, 2, 3, 0.5, *(word for s in _track(model, number) for word in s))
        for number, place in model.points.items()
    ]
    tables = {"cameras": cameras, "images": images, "points3D": points}
    return {stem: os.fsencode("# rows\n" + "".join(lines)) for stem, lines in tables.items()}


def _line(*words: object) -> str:
    return " ".join(map(str, words)) + "\n"
