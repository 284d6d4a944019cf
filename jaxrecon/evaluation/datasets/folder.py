"""Ordinary folders of images with the truth beside them: an archive, or cameras in other files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrecon import reading
from jaxrecon.errors import InputError
from jaxrecon.evaluation.datasets.common import Subset, folders_in, scene_name, stack_depths
from jaxrecon.evaluation.datasets.ground_truth import GroundTruth, check_shape
from jaxrecon.formats.npz import is_reconstruction
from jaxrecon.images import view_names, view_sizes
from jaxrecon.images.listing import folder_images
from jaxrecon.images.pictures import PhotoSize, file_size
from jaxrecon.priors import SparseDepth
from jaxrecon.priors.chosen import chosen_images, file_beside_images
from jaxrecon.priors.colmap_files import model_files, model_folder
from jaxrecon.priors.npz import check_none_passed_over, unnamed
from jaxrecon.priors.readers import read_priors_and_points

_NAME = "condition.npz"
_FIELDS = {"poses": "world_from_camera", "intrinsics": "intrinsics", "depths": "depth_z"}


def folder_scenes(path: Path, subset: Subset) -> Iterator[GroundTruth]:
    """The folder itself, or every folder in it, that holds `images/` and the truth about them.

    The truth is one .npz file (`condition.npz`, if there are several), else `transforms.json`, else
    a COLMAP model; only the first of these is looked at. A result of ours, `scene.npz`, is the
    truth only where there is no other, or where it is called `condition.npz`. The images are taken
    in the natural order of their names, 2.png before 10.png, and hidden files are left out, as
    everywhere in the package.

    The archive holds any of `poses` (V, 4, 4), camera to world; `intrinsics` (V, 3, 3), or (3, 3)
    for all, in pixels of the upright images; `depths` (V, H, W), along the optical axis in the unit
    of the poses, 0 or NaN where unknown. For the others see `read_view_priors`, and for the
    depth at the points of a COLMAP model `read_sparse_depths`; images that they do not name are
    left out.

    Raises:
      InputError: there is no such folder, the truth is damaged or does not fit its images, or a
        link leads out of the folder.
    """
    folders = [folder for folder in (path, *folders_in(path)) if _is_scene(folder)]
    if not folders:
        raise InputError(
            f"{path} is no scene: it needs images/ and beside it one .npz file ({_NAME}), "
            "transforms.json or a COLMAP model (sparse/)"
        )
    return (_read(folder, path, subset) for folder in folders)


def _is_scene(folder: Path) -> bool:
    return reading.is_folder(folder / "images") and _truth_of(folder) is not None


def _truth_of(folder: Path) -> tuple[Path, bool] | None:
    """Where the truth is, if anywhere, and whether that is an archive of arrays."""
    found = sorted(folder.glob("*.npz"))
    named = folder / _NAME
    if named in found:
        return named, not _is_result(named)
    archives = [archive for archive in found if not _is_result(archive)]
    if len(archives) == 1:
        return archives[0], True
    source = file_beside_images(folder)
    if source is None and not archives and len(found) == 1:
        source = found[0]
    return None if source is None else (source, False)


def _is_result(archive: Path) -> bool:
    """Whether an archive is a reconstruction of ours; what is damaged, reading it tells."""
    try:
        return is_reconstruction(archive)
    except InputError:
        return False


def _read(folder: Path, root: Path, subset: Subset) -> GroundTruth:
    found = _truth_of(folder)
    assert found is not None
    source, is_archive = found
    read = _read_archive if is_archive else _read_cameras
    return read(folder, root, source, subset)


def _read_archive(folder: Path, root: Path, archive: Path, subset: Subset) -> GroundTruth:
    images = _not_empty(folder, folder_images(folder / "images"))
    _check_inside(root, (archive, *images), subset)
    arrays = _arrays(archive, images)
    chosen = subset.of(range(len(images)))
    picked: dict[str, Any] = {
        _FIELDS[key]: _as_float(array, archive, key)[chosen] for key, array in arrays.items()
    }
    name = scene_name(folder, root)
    return GroundTruth(name, tuple(images[number] for number in chosen), **picked)


def _read_cameras(folder: Path, root: Path, source: Path, subset: Subset) -> GroundTruth:
    """The truth as `transforms.json`, a COLMAP model or a result of ours has it."""
    images = _not_empty(folder, chosen_images(folder / "images", [source])[0])
    files = model_files(model_folder(source)) if source == folder else [source]
    _check_inside(root, (*files, *images), subset)
    images = subset.of(images)
    names, sizes = view_names(images), view_sizes(images)
    outside = subset.allow_outside
    priors, points = read_priors_and_points(source, names, sizes=sizes, allow_outside=outside)
    maps = priors.by_view("depths", len(images))
    return GroundTruth(
        scene_name(folder, root),
        tuple(images),
        world_from_camera=_matrices(priors.by_view("poses", len(images)), len(images), 4),
        intrinsics=_matrices(priors.by_view("intrinsics", len(images)), len(images), 3),
        depth_z=stack_depths([maps.get(view) for view in range(len(images))], images),
        sparse_depth=_of_all_views(points, sizes),
    )


def _matrices(
    known: Mapping[int, np.ndarray], views: int, side: int
) -> Float[np.ndarray, "V N N"] | None:
    """One matrix for each view, of NaN where it is unknown; None where all are."""
    if not known:
        return None
    unknown = np.full((side, side), np.nan)
    return np.stack([known.get(view, unknown) for view in range(views)])


def _of_all_views(
    known: Mapping[int, SparseDepth], sizes: Sequence[PhotoSize]
) -> tuple[SparseDepth, ...] | None:
    if not known:
        return None
    return tuple(
        known[view] if view in known else SparseDepth.unknown(size)
        for view, size in enumerate(sizes)
    )


def _not_empty(folder: Path, images: list[Path]) -> list[Path]:
    if not images:
        raise InputError(f"no images in {folder / 'images'}; the scene needs at least one")
    return images


def _check_inside(root: Path, files: tuple[Path, ...], subset: Subset) -> None:
    for file in files:
        subset.path(root, str(file.relative_to(root)), f"{root}")


def _arrays(archive: Path, images: list[Path]) -> dict[str, np.ndarray]:
    views = len(images)
    shapes = {"poses": (views, 4, 4), "intrinsics": (views, 3, 3), "depths": (views, None, None)}
    with reading.open_npz(archive, advice="replace it") as stored:
        headers = {key: stored.header(key) for key in _FIELDS if key in stored}
        if not headers:
            raise unnamed(archive, stored.names, _FIELDS)
        check_none_passed_over(archive, stored.names, _FIELDS)
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
