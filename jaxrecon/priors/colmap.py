"""COLMAP's sparse models: pinhole cameras and poses, without a unit."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.checks import path_given
from jaxrecon.errors import InputError
from jaxrecon.images.pictures import file_orientation
from jaxrecon.images.sources import natural_key
from jaxrecon.priors.camera import check_copy, check_lens, scaled
from jaxrecon.priors.colmap_files import Camera, Image, model_folder, read_cameras, read_images
from jaxrecon.priors.colmap_lens import nearest_pinhole
from jaxrecon.priors.names import views_by_name
from jaxrecon.priors.view_priors import ViewPriors
from jaxrecon.reading import inside, is_folder, is_plain_file


def read_colmap(
    folder: Path,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    wanted: frozenset[str],
    *,
    allow_outside: bool = False,
) -> ViewPriors:
    """What a COLMAP folder tells of images of these names; see `read_view_priors`.

    Raises:
      InputError: it holds no sound model, knows none of the images, or has a camera that is no
        pinhole camera of its image.
    """
    model = model_folder(folder)
    images = read_images(model)
    found = views_by_name(model, [image.name for image in images], names)
    known = {view: images[number] for view, number in found.items()}
    _check_upright(_files(model, known.values(), allow_outside=allow_outside))
    intrinsics = _intrinsics(model, known, sizes) if "intrinsics" in wanted else {}
    poses = {}
    if "poses" in wanted:
        poses = {view: image.world_from_camera() for view, image in known.items()}
    return ViewPriors(intrinsics=intrinsics, poses=poses, metric_poses=False, metric_depths=False)


def colmap_images(folder: str | Path, *, allow_outside: bool = False) -> list[Path]:
    """The files of the images that a COLMAP folder has registered, in natural order of their names.

    They lie in `images`, in the folder of the sparse model or one or two above it.

    Args:
      folder: see `read_view_priors`.
      allow_outside: whether names may lead out of `images`, in a model that you trust.

    Raises:
      InputError: there is no sound model or no such folder, an image is not there, its name leads
        out of `images`, or it is turned by its EXIF orientation, which COLMAP leaves out of
        account.
    """
    model = model_folder(Path(os.path.expanduser(path_given("folder", folder))))
    images = sorted(read_images(model), key=lambda image: natural_key(image.name))
    pictures = _pictures(model)
    if pictures is None or not images:
        what = "has no image" if pictures else "has no folder images in it or above it"
        raise InputError(f"{model} {what}; give the folder with images and sparse in it")
    files = _files(model, images, allow_outside=allow_outside)
    absent = [file for file in files if not is_plain_file(file)]
    if absent:
        raise InputError(
            f"{absent[0]} is not there ({len(absent)} of {len(files)} images of {model} are not); "
            "put all of them there"
        )
    _check_upright(files)
    return files


def _intrinsics(
    model: Path, known: dict[int, Image], sizes: Sequence[tuple[int, int]]
) -> dict[int, Float[np.ndarray, "3 3"]]:
    cameras = read_cameras(model)
    strangers = [image for image in known.values() if image.camera not in cameras]
    if strangers:
        raise InputError(
            f"{model}: {strangers[0].name} refers to camera {strangers[0].camera}, which is not "
            "there; export the model again"
        )
    used = {image.camera for image in known.values()}
    pinholes = {number: _pinhole(model, cameras[number]) for number in used}
    matrices = {}
    for view, image in known.items():
        camera = cameras[image.camera]
        made_for = camera.width, camera.height
        where = f"{model}: the camera of {image.name}"
        check_copy(made_for, sizes[view], where)
        matrices[view] = scaled(pinholes[image.camera], made_for, sizes[view], where)
    return matrices


def _pinhole(model: Path, camera: Camera) -> Float[np.ndarray, "3 3"]:
    size = camera.width, camera.height
    matrix, shift = nearest_pinhole(camera.model, camera.parameters, size)
    check_lens(shift, camera.model, f"{model}: camera {camera.number}")
    return matrix


def _pictures(model: Path) -> Path | None:
    """The folder of the images that a sparse model was made of."""
    place = model.absolute()
    folders = (folder / "images" for folder in (place, place.parent, place.parent.parent))
    return next((folder for folder in folders if is_folder(folder)), None)


def _files(model: Path, images: Iterable[Image], *, allow_outside: bool) -> list[Path]:
    """Where the pictures of images should lie; none if there is no folder of them.

    Raises:
      InputError: a name leads out of that folder.
    """
    pictures = _pictures(model)
    if pictures is None:
        return []
    return [
        inside(pictures, image.name, where=f"{model}", allow_outside=allow_outside)
        for image in images
    ]


def _check_upright(files: Iterable[Path]) -> None:
    """Refuses photos that COLMAP saw turned, if the photos are there."""
    for file in files:
        if is_plain_file(file) and _orientation(file) != 1:
            raise InputError(
                f"{file} is turned by its EXIF orientation, which COLMAP leaves out of account; "
                "save the photos upright and run COLMAP on those"
            )


def _orientation(file: Path) -> int:
    try:
        return file_orientation(file)
    except InputError:  # what is no sound image is refused when it is read
        return 1
