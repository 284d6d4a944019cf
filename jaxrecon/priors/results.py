"""Reconstructions of our own as what is known of their photos: mapped through their transforms."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.errors import InputError
from jaxrecon.formats.chunk_files import read_chunks, segments_of
from jaxrecon.formats.npz import read_npz_views
from jaxrecon.formats.recorded import RecordedViews
from jaxrecon.formats.streamed import is_streamed, read_streamed_views
from jaxrecon.images import PixelTransform
from jaxrecon.images.original import at_original_size
from jaxrecon.priors.camera import check_copy, check_not_turned, scaled
from jaxrecon.priors.names import views_by_name
from jaxrecon.priors.view_priors import ViewPriors


def read_result(
    path: Path,
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    wanted: frozenset[str],
    files: Sequence[Path | None],
) -> ViewPriors:
    """What a `.npz` file of `Reconstruction.save` or a streamed folder tells of these images.

    Raises:
      InputError: it is damaged, unfinished, knows none of the images, was made of photos of another
        shape, or is a sequence with gaps between these photos, whose poses do not compare.
    """
    streamed = is_streamed(path)
    read = read_streamed_views if streamed else read_npz_views
    told = read(path, depths="depths" in wanted)
    found = views_by_name(path, told.names, names, files)
    if streamed and ("poses" in wanted or ("depths" in wanted and not told.metric)):
        _check_one_world(path, found)
    return priors_of(path, told, found, sizes, wanted)


def _check_one_world(path: Path, found: dict[int, int]) -> None:
    """Refuses photos that lie in several segments of a sequence."""
    segments = segments_of(read_chunks(path))
    used = [own for own in segments if any(number in own for number in found.values())]
    if len(used) > 1:
        raise InputError(
            f"{path} is a sequence with gaps, and these photos lie in {len(used)} of its segments, "
            "each a world and a unit of its own; give the photos of one segment, or the intrinsics "
            "alone"
        )


def priors_of(
    path: Path,
    told: RecordedViews,
    found: dict[int, int],
    sizes: Sequence[tuple[int, int]],
    wanted: frozenset[str],
) -> ViewPriors:
    """What is recorded, in pixels of the photos.

    Args:
      path: the file or folder, for messages.
      told: what it records.
      found: for each of our views, the number of the recorded one.
      sizes: width and height of each of our photos, once upright.
      wanted: the kinds.

    Raises:
      InputError: a photo has another shape than the one that the record was made of.
    """
    intrinsics, poses, depths = {}, {}, {}
    for view, number in found.items():
        where = f"{path}: the camera of {told.names[number]}"
        check = check_copy if wanted & {"intrinsics", "depths"} else check_not_turned
        check(told.transforms[number].original_size, sizes[view], where)
        if "intrinsics" in wanted:
            intrinsics[view] = _intrinsics(told, number, sizes[view], where)
        if "poses" in wanted:
            poses[view] = told.world_from_camera[number].astype(np.float64)
        if "depths" in wanted and told.depth_z is not None:
            depths[view] = _depth(told, told.depth_z, number, sizes[view])
    depths = {view: depth for view, depth in depths.items() if depth.any()}
    return ViewPriors(
        intrinsics=intrinsics,
        poses=poses,
        depths=depths,
        metric_poses=told.metric,
        metric_depths=told.metric,
    )


def _intrinsics(
    told: RecordedViews, number: int, size: tuple[int, int], where: str
) -> Float[np.ndarray, "3 3"]:
    transform = told.transforms[number]
    matrix = transform.intrinsics_to_original(told.intrinsics[number])
    return scaled(matrix.astype(np.float64), transform.original_size, size, where)


def _depth(
    told: RecordedViews, depth_z: Float[np.ndarray, "V H W"], number: int, size: tuple[int, int]
) -> Float[np.ndarray, "_ _"]:
    """The depth of a photo's pixels, 0 where it is unknown or none."""
    transform = told.transforms[number]
    photo = at_original_size(transform, depth_z[number])
    known = np.where(np.isfinite(photo) & (photo > 0), photo, 0).astype(np.float32)
    return PixelTransform.stretch(transform.original_size, size).nearest(known)
