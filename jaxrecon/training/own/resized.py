"""Own scenes at the sizes that a run trains at, decoded once and kept on the host."""

import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from jaxrecon.errors import OutputError
from jaxrecon.evaluation.sampling import processed_depth
from jaxrecon.images import ALL_VIEWS, PixelTransform
from jaxrecon.images.pictures import pillow_warnings_handled
from jaxrecon.images.resize import Fit
from jaxrecon.images.resizing import worker_count
from jaxrecon.images.sources import open_source
from jaxrecon.machine import machine_memory
from jaxrecon.priors import SparseDepth
from jaxrecon.training.own.folders import OwnScene

type Size = tuple[int, int]
"""Height and width in pixels."""

MEMORY_SHARE = 0.25
"""Of the machine's memory, which own views may fill; the others lie in files that are mapped."""


@dataclass(frozen=True, eq=False)
class SizedViews:
    """The views of a scene at one size; fields as in `KnownScenes`."""

    images: UInt8[np.ndarray, "V H W 3"]
    depth_z: Float[np.ndarray, "V H W"]
    intrinsics: Float[np.ndarray, "V 3 3"]


@dataclass(frozen=True, eq=False)
class ResizedScene:
    """A scene at all sizes that are needed.

    Attributes:
      name: of its folder.
      sized: the views, by height and width.
      poses: the identity where unknown.
      has_pose, has_rays: of which views poses and intrinsics are known.
      is_dense: of which views depth is that of surfaces, not of a few points.
      nearest: for each view all views, the nearest first, beginning with itself.
    """

    name: str
    sized: dict[Size, SizedViews]
    poses: Float[np.ndarray, "V 4 4"]
    has_pose: Bool[np.ndarray, " V"]
    has_rays: Bool[np.ndarray, " V"]
    is_dense: Bool[np.ndarray, " V"]
    nearest: Int[np.ndarray, "V V"]

    def __len__(self) -> int:
        return len(self.poses)


class Room:
    """Makes arrays in memory as long as they fit, and in unnamed files behind that."""

    def __init__(self, limit: int | None = None) -> None:
        memory = machine_memory()
        self._left = limit if limit is not None else int(MEMORY_SHARE * memory) if memory else None

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array of zeros.

        Raises:
          OutputError: there is no room on the disk of temporary files.
        """
        needed = prod(shape) * np.dtype(dtype).itemsize
        if self._left is None or needed <= self._left:
            self._left = None if self._left is None else self._left - needed
            return np.zeros(shape, dtype)
        try:
            with tempfile.TemporaryFile() as file:
                if hasattr(os, "posix_fallocate"):  # a full disk is told here, not while writing
                    os.posix_fallocate(file.fileno(), 0, needed)
                return np.memmap(file, dtype, "w+", shape=shape)
        except OSError as error:
            raise OutputError(
                f"data: the resized views need {needed / 2**30:.2f} GiB more in "
                f"{tempfile.gettempdir()} ({error.strerror}); free space, set TMPDIR, or give "
                "fewer scenes or smaller buckets"
            ) from error


def resized_scene(scene: OwnScene, sizes: Sequence[Size], room: Room) -> ResizedScene:
    """Reads every image of a scene once and brings it, its camera and its depth to all sizes.

    An image is scaled so that it covers the size, and its middle is taken.

    Raises:
      InputError: an image is damaged.
      OutputError: see `Room.empty`.
    """
    views = len(scene.files)
    sized = {size: _room_for(views, size, room) for size in sizes}
    source = open_source([str(file) for file in scene.files], ALL_VIEWS)
    with pillow_warnings_handled(), ThreadPoolExecutor(worker_count()) as pool:
        fill = partial(_fill, scene, sized)
        for _ in pool.map(fill, range(views), [view.read for view in source.views]):
            pass
    poses = np.tile(np.eye(4), (views, 1, 1))
    for view, pose in scene.poses.items():
        poses[view] = pose
    known = np.isin(np.arange(views), list(scene.poses))
    dense = [view for view, depth in scene.depths.items() if not isinstance(depth, SparseDepth)]
    return ResizedScene(
        name=scene.name,
        sized=sized,
        poses=poses.astype(np.float32),
        has_pose=known,
        has_rays=np.isin(np.arange(views), list(scene.intrinsics)),
        is_dense=np.isin(np.arange(views), dense),
        nearest=nearest_views(poses, known, _mean_depth(scene)),
    )


def _room_for(views: int, size: Size, room: Room) -> SizedViews:
    return SizedViews(
        images=room.empty((views, *size, 3), np.uint8),
        depth_z=room.empty((views, *size), np.float32),
        intrinsics=np.tile(np.eye(3, dtype=np.float32), (views, 1, 1)),
    )


def _fill(
    scene: OwnScene, sized: dict[Size, SizedViews], view: int, read: Callable[[], Any]
) -> None:
    image = read()
    for (height, width), views in sized.items():
        fit = Fit(partial(covering, size=(width, height)))
        views.images[view], transform = fit.apply(image)
        if view in scene.depths:
            views.depth_z[view] = processed_depth(scene.depths[view], transform)
        if view in scene.intrinsics:
            views.intrinsics[view] = transform.intrinsics_from_original(scene.intrinsics[view])


def covering(original: tuple[int, int], size: tuple[int, int]) -> PixelTransform:
    """The transform of an image scaled to cover (width, height) `size`, of which it is the middle.

    Its sides are rounded to whole pixels.
    """
    scale = max(new / old for old, new in zip(original, size, strict=True))
    width, height = (max(round(old * scale), new) for old, new in zip(original, size, strict=True))
    return PixelTransform.stretch(original, (width, height)).centred(size)


def _mean_depth(scene: OwnScene) -> float | None:
    known = [
        depth.depth_z.mean() if isinstance(depth, SparseDepth) else depth[depth > 0].mean()
        for depth in scene.depths.values()
    ]
    return float(np.mean(known)) if known else None


def nearest_views(
    poses: Float[np.ndarray, "V 4 4"], known: Bool[np.ndarray, " V"], depth: float | None
) -> Int[np.ndarray, "V V"]:
    """For each view all views, the nearest first, beginning with itself.

    Views are as far apart as their cameras, in units of the scene's mean depth (of the spread of
    the cameras, if that is unknown), and as the angle between them, in units of 45 degrees. Where a
    pose is unknown, they are as far apart as they are in the order of the images.
    """
    views = len(poses)
    places, rotations = poses[:, :3, 3], poses[:, :3, :3]
    moved = np.linalg.norm(places[:, None] - places[None], axis=-1)
    trace = np.einsum("iab,jab->ij", rotations, rotations)
    turned = np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1))) / 45
    both = known[:, None] & known
    unit = depth if depth is not None else float(moved[both].mean()) if both.any() else 0.0
    distance = moved / unit + turned if unit > 0 else turned
    order = np.abs(np.subtract.outer(np.arange(views), np.arange(views))) / views
    farthest = float(distance[both].max()) if both.any() else 1.0
    distance = np.where(both, distance, order * max(farthest, 1e-6))
    np.fill_diagonal(distance, -1)
    return np.argsort(distance, axis=1, kind="stable")
