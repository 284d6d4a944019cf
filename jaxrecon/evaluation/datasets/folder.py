"""Ordinary folders of images with their truth in one .npz file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxrecon import reading
from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.common import Subset, folders_in, scene_name
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth, check_shape
from jaxrecon.images.listing import folder_images
from jaxrecon.images.pictures import file_size

_NAME = "condition.npz"
_FIELDS = {"poses": "world_from_camera", "intrinsics": "intrinsics", "depths": "depth_z"}


def folder_scenes(path: Path, subset: Subset) -> Iterator[GroundTruth]:
    """The folder itself, or every folder in it, that holds `images/` and one .npz file.

    The images are taken in the natural order of their names, 2.png before 10.png, and hidden files
    are left out, as everywhere in the package. The archive holds any of `poses` (V, 4, 4), camera
    to world; `intrinsics` (V, 3, 3), or (3, 3) for all, in pixels of the upright images; `depths`
    (V, H, W), along the optical axis in the unit of the poses, 0 or NaN where unknown. If there are
    several archives, `condition.npz` is meant.

    Raises:
      InputError: there is no such folder, an archive is damaged or does not fit its images, or a
        link leads out of the folder.
    """
    folders = [folder for folder in (path, *folders_in(path)) if _is_scene(folder)]
    if not folders:
        raise InputError(
            f"{path} is no scene: it needs images/ and beside it one .npz file ({_NAME})"
        )
    return (_read(folder, path, subset) for folder in folders)


def _is_scene(folder: Path) -> bool:
    return reading.is_folder(folder / "images") and _archive(folder) is not None


def _archive(folder: Path) -> Path | None:
    found = sorted(folder.glob("*.npz"))
    named = folder / _NAME
    return named if named in found else found[0] if len(found) == 1 else None


def _read(folder: Path, root: Path, subset: Subset) -> GroundTruth:
    name, archive = scene_name(folder, root), _archive(folder)
    assert archive is not None
    images = folder_images(folder / "images")
    if not images:
        raise InputError(f"no images in {folder / 'images'}; the scene needs at least one")
    for file in (archive, *images):
        subset.path(root, str(file.relative_to(root)), f"{root}")
    arrays = _arrays(archive, images)
    chosen = subset.of(range(len(images)))
    picked = {_FIELDS[key]: _as_float(array, archive, key)[chosen] for key, array in arrays.items()}
    return GroundTruth(name, tuple(images[number] for number in chosen), **picked)


def _arrays(archive: Path, images: list[Path]) -> dict[str, np.ndarray]:
    views = len(images)
    shapes = {"poses": (views, 4, 4), "intrinsics": (views, 3, 3), "depths": (views, None, None)}
    with reading.open_npz(archive, advice="replace it") as stored:
        headers = {key: stored.header(key) for key in _FIELDS if key in stored}
        for key, header in headers.items():
            if key != "intrinsics" or header.shape != (3, 3):
                check_shape(str(archive), key, header, shapes[key])
        if "depths" in headers:
            _check_sizes(images, archive, headers["depths"].shape)
        arrays = {key: stored.read(key) for key in headers}
    if "intrinsics" in arrays and arrays["intrinsics"].shape == (3, 3):
        arrays["intrinsics"] = np.broadcast_to(arrays["intrinsics"], (views, 3, 3))
    return arrays


def _check_sizes(images: list[Path], archive: Path, shape: tuple[int, ...]) -> None:
    for file in images:
        width, height = file_size(file)
        if (height, width) != shape[1:]:
            raise InputError(
                f"{archive}: depths is {shape[2]}x{shape[1]} pixels, {file} is {width}x{height}; "
                "give depth of the size of the images"
            )


def _as_float(array: np.ndarray, archive: Path, key: str) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise InputError(f"{archive}: {key} has dtype {array.dtype}; expected numbers")
    with np.errstate(over="ignore"):  # beyond all floats is unknown
        return array.astype(np.float32 if key == "depths" else np.float64)
