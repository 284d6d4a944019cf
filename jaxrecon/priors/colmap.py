"""COLMAP's sparse models: pinhole cameras, poses and depth at points, without a unit."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.checks import path_of
from jaxrecon.errors import InputError
from jaxrecon.formats.colmap_photos import read_photos
from jaxrecon.formats.recorded import RecordedViews
from jaxrecon.images import PixelTransform
from jaxrecon.images.listing import natural_key
from jaxrecon.priors.camera import (
    check_copy,
    check_lens,
    check_not_turned,
    check_orientation,
    is_copy,
    photo_size,
    scaled,
)
from jaxrecon.priors.colmap_files import Camera, Image, model_folder, read_cameras, read_images
from jaxrecon.priors.colmap_lens import nearest_pinhole
from jaxrecon.priors.colmap_points import Points, read_points, sparse_depth
from jaxrecon.priors.names import views_by_name
from jaxrecon.priors.results import priors_of
from jaxrecon.priors.sparse_depth import SparseDepth
from jaxrecon.priors.view_priors import ViewPriors
from jaxrecon.reading import inside, is_folder, is_plain_file

_UNDISTORT = "run `colmap image_undistorter`, and give its images and output folder"
_AGAIN = "run COLMAP on those"


def read_colmap(
    folder: Path,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    wanted: frozenset[str],
    files: Sequence[Path | None],
    *,
    allow_outside: bool = False,
    with_points: bool = False,
) -> tuple[ViewPriors, dict[int, SparseDepth]]:
    """What a COLMAP folder tells of images of these names; see `read_view_priors`.

    Returns:
      The priors; and, if `with_points`, the depth at the points, as `colmap_depths` has it.

    Raises:
      InputError: it holds no sound model or several, knows none of the images, was made of photos
        that EXIF turns, or has a camera that is no pinhole camera of its image.
    """
    model = model_folder(folder)
    points = _points(model) if with_points else None
    images = read_images(model, observations=points is not None)
    own = _own(model, images, names, sizes, wanted, files)
    if own is not None:
        return own, {}
    readable = "intrinsics" not in wanted and points is None
    cameras = _readable_cameras(model) if readable else read_cameras(model)
    known = _known(model, images, cameras, names, sizes, files, allow_outside=allow_outside)
    intrinsics = _intrinsics(model, known, cameras, sizes) if "intrinsics" in wanted else {}
    poses = {}
    if "poses" in wanted:
        poses = {view: image.world_from_camera() for view, image in known.items()}
    depths = {} if points is None else _depths(model, known, points, cameras, sizes)
    priors = ViewPriors(intrinsics=intrinsics, poses=poses, metric_poses=False, metric_depths=False)
    return priors, depths


def colmap_depths(
    folder: Path,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    files: Sequence[Path | None],
    *,
    allow_outside: bool = False,
) -> dict[int, SparseDepth]:
    """The depth at the points of a COLMAP folder; see `read_sparse_depths`.

    Raises:
      InputError: see `read_colmap`; or the file of the points is damaged.
    """
    model = model_folder(folder)
    points = _points(model)
    if points is None:
        return {}
    images, cameras = read_images(model, observations=True), read_cameras(model)
    known = _known(model, images, cameras, names, sizes, files, allow_outside=allow_outside)
    return _depths(model, known, points, cameras, sizes)


def colmap_images(folder: str | Path, *, allow_outside: bool = False) -> list[Path]:
    """The files of the images that a COLMAP folder has registered, in natural order of their names.

    They lie in `images`, in the folder of the sparse model or one or two above it.

    Args:
      folder: see `read_view_priors`.
      allow_outside: whether names may lead out of `images`, in a model that you trust.

    Raises:
      InputError: there is no sound model, are several, or is no such folder, an image is not there,
        its name leads out of `images`, or it is turned by its EXIF orientation and the model is of
        its pixels as they are stored.
    """
    model = model_folder(path_of("folder", folder))
    images = sorted(read_images(model), key=lambda image: natural_key(image.name))
    pictures = _pictures(model)
    if pictures is None or not images:
        what = "has no image" if pictures else "has no folder images in it or above it"
        raise InputError(f"{model} {what}; give the folder with images and sparse in it")
    files = [
        inside(pictures, image.name, where=f"{model}", allow_outside=allow_outside)
        for image in images
    ]
    absent = [file for file in files if not is_plain_file(file)]
    if absent:
        raise InputError(
            f"{absent[0]} is not there ({len(absent)} of {len(files)} images of {model} are not); "
            "put all of them there"
        )
    cameras = _readable_cameras(model)
    for image, file in zip(images, files, strict=True):
        _check_upright(file, _size_of(cameras.get(image.camera)))
    return files


def _known(
    model: Path,
    images: Sequence[Image],
    cameras: Mapping[int, Camera],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    files: Sequence[Path | None],
    *,
    allow_outside: bool,
) -> dict[int, Image]:
    """The image of each view that the model knows; see `read_colmap` for what is refused."""
    found = views_by_name(model, [image.name for image in images], names, files)
    known = {view: images[number] for view, number in found.items()}
    places = _files(model, known.values(), allow_outside=allow_outside)
    for (view, image), place in zip(known.items(), places, strict=True):
        made_for = _size_of(cameras.get(image.camera))
        check_orientation(sizes[view], made_for, names[view], "COLMAP", _AGAIN)
        if made_for is not None:
            check_not_turned(made_for, sizes[view], f"{model}: the camera of {image.name}")
        if place is not None and not _is_at(place, files[view]):
            _check_upright(place, made_for)
    return known


def _intrinsics(
    model: Path,
    known: Mapping[int, Image],
    cameras: Mapping[int, Camera],
    sizes: Sequence[tuple[int, int]],
) -> dict[int, Float[np.ndarray, "3 3"]]:
    used = {view: _camera_of(model, image, cameras) for view, image in known.items()}
    pinholes = {camera: _pinhole(model, camera) for camera in set(used.values())}
    matrices = {}
    for view, image in known.items():
        camera = used[view]
        made_for = camera.width, camera.height
        where = f"{model}: the camera of {image.name}"
        check_copy(made_for, sizes[view], where)
        matrices[view] = scaled(pinholes[camera], made_for, sizes[view], where)
    return matrices


def _points(model: Path) -> Points | None:
    """The points whose depth counts: None without their file, and of models of our own."""
    return None if read_photos(model) else read_points(model)


def _depths(
    model: Path,
    known: Mapping[int, Image],
    points: Points,
    cameras: Mapping[int, Camera],
    sizes: Sequence[tuple[int, int]],
) -> dict[int, SparseDepth]:
    found = {}
    for view, image in known.items():
        camera = _camera_of(model, image, cameras)
        made_for = camera.width, camera.height
        check_copy(made_for, sizes[view], f"{model}: the camera of {image.name}")
        found[view] = sparse_depth(model, image, points, made_for, sizes[view])
    return {view: depth for view, depth in found.items() if len(depth)}


def _own(
    model: Path,
    images: Sequence[Image],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    wanted: frozenset[str],
    files: Sequence[Path | None],
) -> ViewPriors | None:
    """What a model that we have written tells of photos; None of other models or images."""
    record = read_photos(model)
    known = [image for image in images if record and image.name in record.names]
    if record is None or not known:
        return None
    photos = tuple(record.names[image.name] for image in known)
    transforms = tuple(record.transforms[image.name] for image in known)
    try:
        found = views_by_name(model, photos, names, files)
    except InputError:
        return None
    given = [(transforms[number], sizes[view]) for view, number in found.items()]
    if not all(_is_photo(transform, size) for transform, size in given):
        return None
    told = RecordedViews(
        names=photos,
        transforms=transforms,
        intrinsics=_processed(model, known, transforms, wanted),
        world_from_camera=np.stack([image.world_from_camera() for image in known]),
        depth_z=None,
        metric=record.metric,
    )
    return priors_of(model, told, found, sizes, wanted)


def _is_photo(transform: PixelTransform, size: tuple[int, int]) -> bool:
    """Whether an image of a size is the photo of a transform, and not its processed picture."""
    original = transform.original_size
    return size == original or (size != transform.size and is_copy(original, size))


def _processed(
    model: Path,
    images: Sequence[Image],
    transforms: Sequence[PixelTransform],
    wanted: frozenset[str],
) -> Float[np.ndarray, "V 3 3"]:
    """The cameras of pictures that we have written; the identity where none are wanted."""
    if "intrinsics" not in wanted:
        return np.broadcast_to(np.eye(3), (len(images), 3, 3))
    sizes = [transform.size for transform in transforms]
    found = _intrinsics(model, dict(enumerate(images)), read_cameras(model), sizes)
    return np.stack([found[view] for view in range(len(images))])


def _camera_of(model: Path, image: Image, cameras: Mapping[int, Camera]) -> Camera:
    if image.camera not in cameras:
        raise InputError(
            f"{model}: {image.name} refers to camera {image.camera}, which is not there; export "
            "the model again"
        )
    return cameras[image.camera]


def _pinhole(model: Path, camera: Camera) -> Float[np.ndarray, "3 3"]:
    size = camera.width, camera.height
    matrix, shift = nearest_pinhole(camera.model, camera.parameters, size)
    check_lens(shift, camera.model, f"{model}: camera {camera.number}", _UNDISTORT)
    return matrix


def _readable_cameras(model: Path) -> dict[int, Camera]:
    """The cameras where only their sizes are looked at, for which none need be readable."""
    try:
        return read_cameras(model)
    except InputError:
        return {}


def _size_of(camera: Camera | None) -> tuple[int, int] | None:
    return None if camera is None else (camera.width, camera.height)


def _pictures(model: Path) -> Path | None:
    """The folder of the images that a sparse model was made of."""
    place = model.absolute()
    folders = (folder / "images" for folder in (place, place.parent, place.parent.parent))
    return next((folder for folder in folders if is_folder(folder)), None)


def _files(model: Path, images: Iterable[Image], *, allow_outside: bool) -> list[Path | None]:
    """Where the pictures of images should lie; None for each if there is no folder of them.

    Raises:
      InputError: a name leads out of that folder.
    """
    pictures = _pictures(model)
    return [
        None
        if pictures is None
        else inside(pictures, image.name, where=f"{model}", allow_outside=allow_outside)
        for image in images
    ]


def _is_at(place: Path, file: Path | None) -> bool:
    return file is not None and os.path.abspath(place) == os.path.abspath(file)


def _check_upright(file: Path, made_for: tuple[int, int] | None) -> None:
    """Refuses a photo that COLMAP saw turned, if it is there."""
    size = photo_size(file)
    if size is not None:
        check_orientation(size, made_for, f"{file}", "COLMAP", _AGAIN)
