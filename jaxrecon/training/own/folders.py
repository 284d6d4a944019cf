"""Folders of images with what is known about them, checked before anything is compiled."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.images import view_names, view_sizes
from jaxrecon.images.listing import folder_images
from jaxrecon.priors import SparseDepth, ViewPriors
from jaxrecon.priors.chosen import chosen_images, file_beside_images, left_out
from jaxrecon.priors.readers import read_priors_and_points
from jaxrecon.priors.sparse_depth import points_if_sparse
from jaxrecon.priors.validation import checked_depth, checked_intrinsics, checked_pose
from jaxrecon.progress import Stages
from jaxrecon.reading import is_folder
from jaxrecon.training.inputs import digest_of_files

SMALLEST_SIDE = 14
"""Of a picture, in pixels: one patch."""

_ARCHIVE = "condition.npz"


@dataclass(frozen=True, eq=False)
class OwnScene:
    """V images of one scene and what is known about them.

    Attributes:
      name: of its folder.
      files: the images.
      sizes: their widths and heights, once upright.
      intrinsics: in pixels of the upright images, by the number of the view.
      poses: camera to world, by the number of the view, the first of them at the origin.
      depths: along the optical axis, 0 where unknown, by the number of the view; of a COLMAP model
        at its points, and of a map at its known pixels where they are few.
    """

    name: str
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    intrinsics: Mapping[int, Float[np.ndarray, "3 3"]]
    poses: Mapping[int, Float[np.ndarray, "4 4"]]
    depths: Mapping[int, Float[np.ndarray, "H W"] | SparseDepth]

    def digest(self) -> str:
        """Tells it from others by its images and what is known of them; see `digest_of_files`."""
        return digest_of_files(Path(self.name), self.files, self._arrays())

    def _arrays(self) -> Iterator[np.ndarray]:
        for kind in (self.intrinsics, self.poses, self.depths):
            yield np.array(list(kind))
            for known in kind.values():
                if isinstance(known, SparseDepth):
                    yield known.xy
                    yield known.depth_z
                else:
                    yield known


def check_folders(folders: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """The folders, each once.

    Raises:
      InputError: there is none, one is no folder, or one is given twice.
    """
    if not folders:
        raise InputError("data: found no folder; give one for each scene, with images/ in it")
    paths = tuple(Path(os.path.expanduser(folder)) for folder in folders)
    seen: dict[str, Path] = {}
    for path in paths:
        if not is_folder(path):
            what = "is a file, not a folder" if path.exists() else "does not exist"
            raise InputError(f"data: {path} {what}; give the folder of a scene, with images/ in it")
        place = os.path.realpath(path)
        if place in seen:
            raise InputError(f"data: {path} and {seen[place]} are one folder; give it once")
        seen[place] = path
    return paths


def read_own_scene(folder: Path, stages: Stages) -> OwnScene:
    """What a folder tells of the images in it.

    Beside `images/` lies `condition.npz`, else `transforms.json`, else a COLMAP model; see
    `read_view_priors`, and for the depth at its points `read_sparse_depths`. Any of poses,
    intrinsics and depth may be known, of any of the views.

    Raises:
      InputError: there are fewer than two images, one is damaged, too small or there twice, nothing
        is known, or what is known cannot be: poses that are not rigid, intrinsics that are no
        camera's, depth of another size.
    """
    source = _source(folder)
    files = _images(folder, source, stages)
    sizes = view_sizes(files)
    for file, (width, height) in zip(files, sizes, strict=True):
        if min(width, height) < SMALLEST_SIDE:
            raise InputError(
                f"data: {file} is {width}x{height} pixels; give pictures of at least "
                f"{SMALLEST_SIDE} pixels a side"
            )
    _check_distinct(files)
    names = view_names(files)
    priors, points = read_priors_and_points(source, names, sizes=sizes)
    scene = _checked(folder, source, tuple(files), tuple(sizes), priors)
    return replace(scene, depths=points) if points else scene


def _source(folder: Path) -> Path:
    """What tells of the images."""
    archive = folder / _ARCHIVE
    source = archive if os.path.lexists(archive) else file_beside_images(folder)
    if source is not None:
        return source
    raise InputError(
        f"data: {folder} tells nothing of its images; put condition.npz, transforms.json or a "
        "COLMAP model (sparse/) beside images/"
    )


def _images(folder: Path, source: Path, stages: Stages) -> list[Path]:
    place = folder / "images"
    if not is_folder(place):
        raise InputError(f"data: {folder} has no folder images; put the scene's pictures there")
    files, others = chosen_images(place, [source])
    if others:
        stages.note(f"NOTE: {folder}: {left_out(others, str(source))}")
    if len(files) < 2:
        count = len(folder_images(place))
        found = "no image" if not count else "one image" if count == 1 else f"{len(files)} of them"
        raise InputError(f"data: found {found} in {place}; give at least two views of a scene")
    return files


def _check_distinct(files: Sequence[Path]) -> None:
    """Refuses pictures whose bytes are the same."""
    by_size = defaultdict[int, list[Path]](list)
    for file in files:
        by_size[file.stat().st_size].append(file)
    seen: dict[bytes, Path] = {}
    for file in (file for alike in by_size.values() if len(alike) > 1 for file in alike):
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").digest()
        if digest in seen:
            raise InputError(
                f"data: {file} and {seen[digest]} are the same picture; remove one of them"
            )
        seen[digest] = file


def _checked(
    folder: Path,
    source: Path,
    files: tuple[Path, ...],
    sizes: tuple[tuple[int, int], ...],
    priors: ViewPriors,
) -> OwnScene:
    cameras, posed, maps = (
        priors.by_view(kind, len(files)) for kind in ("intrinsics", "poses", "depths")
    )
    if len(posed) < 2 and not cameras and not maps:
        raise InputError(
            f"data: {source} tells one pose alone, which teaches nothing; give at least two poses, "
            "intrinsics or depth"
        )
    return OwnScene(
        name=str(folder),
        files=files,
        sizes=sizes,
        intrinsics={
            view: checked_intrinsics(matrix, sizes[view], f"{source}: intrinsics: view {view}")
            for view, matrix in cameras.items()
        },
        poses=_near_the_origin(
            {
                view: checked_pose(pose, f"{source}: poses: view {view}")
                for view, pose in posed.items()
            }
        ),
        depths={
            view: points_if_sparse(
                checked_depth(depth, sizes[view], f"{source}: depths: view {view}")
            )
            for view, depth in maps.items()
        },
    )


def _near_the_origin(poses: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """The poses relative to the place of the first: worlds of maps are too large for float32."""
    if not poses:
        return {}
    place = next(iter(poses.values()))[:3, 3].copy()
    moved = {view: pose.copy() for view, pose in poses.items()}
    for pose in moved.values():
        pose[:3, 3] -= place
    return moved
