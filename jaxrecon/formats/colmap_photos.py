"""Which picture of a COLMAP folder that we have written shows which photo.

Where the folder's cameras are those of the processed pictures in it, these are named anew, and
`photos.json` beside them leads back to the photos. In any case it tells whether lengths are metres,
and that the photos were taken upright.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxrecon.errors import InputError
from jaxrecon.formats.options import Size
from jaxrecon.formats.scene import Scene
from jaxrecon.images import PixelTransform
from jaxrecon.reading import is_plain_file, number, read_json, text, whole

PHOTOS_FILE = "photos.json"
_FORMAT, _VERSION, _VERSION_OF_PHOTOS = "jaxrecon-photos", 1, 2
_MOST_SCALE = 1e9


@dataclass(frozen=True)
class RecordedPhotos:
    """The photos of a COLMAP folder's pictures.

    Attributes:
      names: of each picture's photo, by the name of the picture.
      transforms: from each photo to its picture, by the name of the picture.
      metric: whether lengths are in metres; else their unit is unknown.
    """

    names: Mapping[str, str]
    transforms: Mapping[str, PixelTransform]
    metric: bool


def write_photos(scene: Scene, pictures: Sequence[str], folder: Path, size: Size) -> None:
    """Writes `photos.json`: of each picture its photo's name and size, and scale and offset, with

    position in the picture = scale * (position in the photo + 0.5) + offset - 0.5

    A model of the photos' own size has the photos for pictures, and so neither scale nor offset.
    """
    sizes = scene.original_sizes.tolist()
    height, width = scene.mask.shape[1:]
    keys: tuple[str, ...] = ("picture", "photo", "photo_size", "scale", "offset")
    if size == "processed":
        columns = (scene.names, sizes, scene.scales.tolist(), scene.offsets.tolist())
        rows = zip(pictures, *columns, strict=True)
        head = {"version": _VERSION, "picture_size": [width, height]}
    else:
        rows, keys = zip(pictures, pictures, sizes, strict=True), keys[:3]
        head = {"version": _VERSION_OF_PHOTOS}
    values = {
        "format": _FORMAT,
        **head,
        "metric_scale": scene.metric_scale,
        "pictures": [dict(zip(keys, row, strict=True)) for row in rows],
    }
    (folder / PHOTOS_FILE).write_text(json.dumps(values, indent=1) + "\n")


def read_photos(model: Path) -> RecordedPhotos | None:
    """The record of a sparse model that we have written; None of another.

    Args:
      model: the folder of the sparse model, which lies up to two below that of the record.

    Raises:
      InputError: the record is damaged.
    """
    place = model.absolute()
    folders = (place, place.parent, place.parent.parent)
    path = next((p for f in folders if is_plain_file(p := f / PHOTOS_FILE)), None)
    values = None if path is None else read_json(path)
    if path is None or not isinstance(values, dict) or values.get("format") != _FORMAT:
        return None
    rows = values.get("pictures")
    version = values.get("version")
    if version not in (_VERSION, _VERSION_OF_PHOTOS) or not isinstance(rows, list):
        raise InputError(f"{path} has another version, or no pictures; write it again")
    size = None
    if version == _VERSION:
        size = _pair(values.get("picture_size"), f"{path}: picture_size")
    names: dict[str, str] = {}
    transforms: dict[str, PixelTransform] = {}
    for row in rows:
        picture, photo, transform = _row(path, row, size)
        names[picture], transforms[picture] = photo, transform
    return RecordedPhotos(names, transforms, values.get("metric_scale") is not None)


def _row(path: Path, row: Any, size: tuple[int, int] | None) -> tuple[str, str, PixelTransform]:
    """A picture, its photo, and what leads from one to the other; without a size they are one."""
    if not isinstance(row, dict):
        raise InputError(f"{path}: a picture is no object; write it again")
    picture = text(row.get("picture"), f"{path}: picture")
    where = f"{path}: {picture}"
    original = _pair(row.get("photo_size"), f"{where}: photo_size")
    photo = text(row.get("photo"), f"{where}: photo")
    if size is None:
        return picture, photo, PixelTransform.stretch(original, original)
    (left, top), (scale_x, scale_y) = (
        _numbers(row.get(key), f"{where}: {key}") for key in ("offset", "scale")
    )
    if not all(1 / _MOST_SCALE <= scale <= _MOST_SCALE for scale in (scale_x, scale_y)):
        raise InputError(f"{where}: scale is {scale_x:g}, {scale_y:g}; write it again")
    transform = PixelTransform(original, size, (scale_x, scale_y), (left, top))
    return picture, photo, transform


def _pair(value: Any, where: str) -> tuple[int, int]:
    width, height = _two(value, where)
    return whole(width, where, least=1), whole(height, where, least=1)


def _numbers(value: Any, where: str) -> tuple[float, float]:
    x, y = _two(value, where)
    return number(x, where), number(y, where)


def _two(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{where} is no pair of numbers; write it again")
    return value
