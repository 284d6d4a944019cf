"""Priors of views, read from the files that hold them.

Three kinds of files tell intrinsics and poses of images: `.npz` archives, COLMAP's sparse models,
and the `transforms.json` of NeRF tools. All are brought to the conventions of the package: OpenCV
axes, world-from-camera poses, and pixels whose top-left centre is (0, 0).
"""

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from jaxrecon.checks import path_of, shown
from jaxrecon.errors import InputError
from jaxrecon.formats.npz import is_reconstruction
from jaxrecon.formats.streamed import is_streamed
from jaxrecon.images.pictures import PhotoSize
from jaxrecon.priors.colmap import colmap_depths, read_colmap
from jaxrecon.priors.nerf import read_nerf
from jaxrecon.priors.npz import read_npz
from jaxrecon.priors.results import read_result
from jaxrecon.priors.sparse_depth import SparseDepth
from jaxrecon.priors.view_priors import KINDS, ViewPriors
from jaxrecon.reading import absence, is_folder


def read_view_priors(
    path: str | os.PathLike[str],
    names: Sequence[str],
    *,
    sizes: Sequence[tuple[int, int]],
    wanted: Collection[str] = KINDS,
    allow_outside: bool = False,
) -> ViewPriors:
    """Reads what a file tells of some images.

    Args:
      path: one of

        - an `.npz` archive with any of `poses` (V, 4, 4), camera to world; `intrinsics` (V, 3, 3),
          or (3, 3) for all views; `depths` (V, H, W), along the optical axis, in the poses' unit,
          metres; all of the upright photos. Its views are the images in their order. A matrix of
          NaN, or a map without a depth, is an unknown view.
        - a COLMAP folder: the sparse model itself, binary or text, or a folder with it in `sparse`,
          such as `sparse/0`; of several models one must be given itself. Found by the names of the
          images.
        - the `.json` of instant-ngp, nerfstudio or Blender's NeRF scenes. Found by the names of the
          images, with or without suffix.
        - a reconstruction of ours: the `.npz` file, a COLMAP folder or a streamed folder, which are
          mapped back to the photos that they were made of. Found by the names of the photos.

        A name in a file and that of an image agree if one is the other's end, folder by folder, or
        but for the suffix.
      names: of the images, as `view_names` gives them.
      sizes: their widths and heights, once upright, as `view_sizes` gives them: those also know
        which photos were turned by EXIF, for which other programs' cameras may not count, and where
        the photos lie, which tells those of one name apart. Cameras made for larger or smaller
        copies of the images are scaled.
      wanted: what is read; the rest is not looked at. An image of which the file tells nothing is
        left out, and so is what it tells of other images.
      allow_outside: whether pictures that the file names may lie outside of its folder, as those of
        nerfstudio sometimes do; for files that you trust.

    Returns:
      What the file tells, by the numbers of the images; nothing is known of the units of files
      other than archives, and of reconstructions of models that do not tell lengths in metres.

    Raises:
      InputError: the file is absent, damaged or of another kind; it names a picture that would have
        to be opened outside of its folder; it tells nothing that is wanted of these images; a name
        fits two of them; a photo is turned by its EXIF orientation, and the file is for its pixels
        as stored, or does not tell; a camera was made for an image of another shape, or its lens
        moves a pixel by more than half a pixel.
    """
    return _told(path, names, sizes, wanted, allow_outside=allow_outside, with_points=False)[0]


def read_priors_and_points(
    path: str | os.PathLike[str],
    names: Sequence[str],
    *,
    sizes: Sequence[tuple[int, int]],
    allow_outside: bool = False,
) -> tuple[ViewPriors, dict[int, SparseDepth]]:
    """What `read_view_priors` and `read_sparse_depths` tell, of files that are read once for both.

    Raises:
      InputError: one of these would raise it.
    """
    return _told(path, names, sizes, KINDS, allow_outside=allow_outside, with_points=True)


def _told(
    path: str | os.PathLike[str],
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    wanted: Collection[str],
    *,
    allow_outside: bool,
    with_points: bool,
) -> tuple[ViewPriors, dict[int, SparseDepth]]:
    """What is wanted of a file; and the depth at its points, if that is wanted too."""
    _check_numbers(names, sizes)
    unknown = [kind for kind in wanted if kind not in KINDS]
    if unknown:
        raise InputError(f"wanted: found {shown(unknown[0])}; choose of {', '.join(KINDS)}")
    file = path_of("path", path)
    priors, points = _read(file, names, sizes, frozenset(wanted), allow_outside, with_points)
    if not set(wanted) & set(priors.kinds):
        kinds = " or ".join(kind for kind in KINDS if kind in wanted)
        raise InputError(f"{file} tells no {kinds} of these images; give another file")
    return priors, points


def read_sparse_depths(
    path: str | os.PathLike[str],
    names: Sequence[str],
    *,
    sizes: Sequence[tuple[int, int]],
    allow_outside: bool = False,
) -> dict[int, SparseDepth]:
    """The depth at the points of a COLMAP model that some images see.

    It lies along the optical axis, in the unit of the model's poses, at the pixel at which an image
    sees the point: the pixel that the model has found it at, not the one at which the camera would
    project it. So nothing is moved where a lens bends the image; how far a lens may bend it is a
    matter of the intrinsics, see `read_view_priors`. Left out are points that are not in the model
    (some programs thin them out), lie behind the camera, or are seen beyond the image's edges.

    Args:
      path: see `read_view_priors`.
      names, sizes, allow_outside: the same.

    Returns:
      Depth by the numbers of the images, of those that see any point. It is empty for files of
      other kinds, for models without a file of points, and for reconstructions of our own, of which
      a `.npz` file tells the depth of every pixel.

    Raises:
      InputError: the model is damaged, knows none of the images, or is of another shape or
        orientation than these; see `read_view_priors`.
    """
    _check_numbers(names, sizes)
    folder = path_of("path", path)
    if not is_folder(folder) or is_streamed(folder):
        return {}
    files = [_file_of(name, size) for name, size in zip(names, sizes, strict=True)]
    return colmap_depths(folder, names, sizes, files, allow_outside=allow_outside)


def _check_numbers(names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> None:
    if len(sizes) != len(names):
        raise InputError(f"sizes: found {len(sizes)} for {len(names)} names; give one for each")


def _read(
    file: Path,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    wanted: frozenset[str],
    allow_outside: bool,
    with_points: bool,
) -> tuple[ViewPriors, dict[int, SparseDepth]]:
    files = [_file_of(name, size) for name, size in zip(names, sizes, strict=True)]
    if not os.path.exists(file):
        raise InputError(absence(file))
    if is_streamed(file):
        return read_result(file, names, sizes, wanted, files), {}
    if is_folder(file):
        allowed = {"allow_outside": allow_outside, "with_points": with_points}
        return read_colmap(file, names, sizes, wanted, files, **allowed)
    if file.suffix.lower() == ".npz":
        if is_reconstruction(file):
            return read_result(file, names, sizes, wanted, files), {}
        return read_npz(file, len(names), wanted), {}
    if file.suffix.lower() == ".json":
        return read_nerf(file, names, sizes, wanted, files, allow_outside=allow_outside), {}
    raise InputError(
        f"{file} is of no known kind; give an .npz archive, a COLMAP folder, or the .json of a "
        "NeRF scene"
    )


def _file_of(name: str, size: tuple[int, int]) -> Path | None:
    """Where an image lies, if its size tells; None if that is the size of another image."""
    file = size.file if isinstance(size, PhotoSize) else None
    if file is None or not os.path.abspath(file).endswith(os.path.normpath(name)):
        return None
    return file
