"""Fewer points, spread evenly in space: the most confident one of each voxel."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

import numpy as np
from jaxtyping import Bool, Float, Int, UInt

from jaxrecon.formats.options import ExportOptions
from jaxrecon.formats.scene import (
    Scene,
    ScenePoints,
    no_points,
    points_at,
    select_pixels,
    usable_pixels,
)

_SAMPLE, _SAMPLE_SHARE = 1_000_000, 10
"""The size of voxels is sought with so many points, and with so many for each that is to stay."""
_STEPS = 14
_ROOMY = 1.5
_TRIES = 4
_MOST_CELLS = 2.0**40
_PRIMES = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
_SLOTS = 2**22
_MOST_WORKERS = 8
_LAST = 2**32 - 1


def chosen_points(scene: Scene, options: ExportOptions, most: int | None) -> ScenePoints:
    """The points that a format writes: thinned by voxel if that was asked for, else drawn evenly.

    Args:
      scene: whose points.
      options: of the format.
      most: how many points it writes at most if nothing was asked for; None for all.

    Raises:
      InputError: no point is left.
    """
    return points_at(scene, chosen_pixels(scene, options, most))


def chosen_pixels(scene: Scene, options: ExportOptions, most: int | None) -> Int[np.ndarray, " P"]:
    """The flat indices into (V, H, W) of the points that `chosen_points` gives."""
    wanted = options.most_points(most)
    if options.voxel is None:
        return select_pixels(scene, wanted)
    return _thinned_pixels(scene, wanted, options.voxel)


def thinned_points(scene: Scene, max_points: int | None, voxel: float | None = None) -> ScenePoints:
    """The finite points under the mask, thinned to the most confident one of each voxel.

    Voxels are cubes of one side, whose corners are multiples of it. Of equally confident points the
    first pixel's stays. The result depends on nothing but the arguments.

    Args:
      scene: whose points.
      max_points: the most points; of more, the least confident are left out. None for no limit.
      voxel: the side of the cubes, in the scene's unit of length. If it is not given, all points
        are taken where there are no more than `max_points`; else it is found so that about
        `max_points` remain.

    Returns:
      The points, the most confident first.

    Raises:
      InputError: no point is left.
    """
    return points_at(scene, _thinned_pixels(scene, max_points, voxel))


def _thinned_pixels(
    scene: Scene, max_points: int | None, voxel: float | None
) -> Int[np.ndarray, " P"]:
    usable = usable_pixels(scene)
    count = np.count_nonzero(usable)
    if not count:
        raise no_points()
    if voxel is None and (max_points is None or count <= max_points):
        found = np.flatnonzero(usable)
    elif voxel is not None:
        found = _champions(scene, usable, voxel)
    else:
        assert max_points is not None
        found = _about(scene, usable, max_points)
    order = np.argsort(_ranks(scene.confidence.reshape(-1)[found], found))[::-1]
    return found[order[:max_points]]


def _about(scene: Scene, usable: Bool[np.ndarray, "V H W"], wanted: int) -> Int[np.ndarray, " P"]:
    """Champions of voxels of which there are a little more or less than `wanted`."""
    side = _side(_sample(scene, usable, max(_SAMPLE, _SAMPLE_SHARE * wanted)), wanted)
    found = _champions(scene, usable, side)
    for _ in range(_TRIES):
        if len(found) <= _ROOMY * wanted:
            break
        side *= (len(found) / wanted) ** 0.5  # points lie on surfaces
        found = _champions(scene, usable, side)
    return found


def _sample(
    scene: Scene, usable: Bool[np.ndarray, "V H W"], wanted: int
) -> Float[np.ndarray, "P 3"]:
    """Every n-th of the points."""
    step = max(np.count_nonzero(usable) // wanted, 1)
    xyz = scene.points_world.reshape(-1, 3)
    return np.concatenate([xyz[pixel[::step]] for pixel in _pixels(usable)])


def _side(xyz: Float[np.ndarray, "P 3"], wanted: int) -> float:
    """The side of voxels of which the points fill nearly as many as wanted."""
    low, high = np.percentile(xyz, [1, 99], axis=0)
    extent = float((high.astype(np.float64) - low).max()) or 1.0
    least, most = np.log2(extent) - 30, np.log2(extent) + 2
    for _ in range(_STEPS):
        middle = (least + most) / 2
        if _distinct(_cells(xyz, 2.0**middle)) > wanted:
            least = middle
        else:
            most = middle
    return 2.0**most


def _distinct(cells: UInt[np.ndarray, " P"]) -> int:
    return int(np.count_nonzero(np.diff(np.sort(cells)))) + 1


def _champions(
    scene: Scene, usable: Bool[np.ndarray, "V H W"], side: float
) -> Int[np.ndarray, " P"]:
    """The pixel of the most confident point of each voxel, rising."""
    xyz, confidence = scene.points_world.reshape(-1, 3), scene.confidence.reshape(-1)
    table, workers = _Table(), min(_MOST_WORKERS, os.cpu_count() or 1)

    def work(pixel: Int[np.ndarray, " P"]) -> tuple[np.ndarray, np.ndarray]:
        return _cells(xyz[pixel], side), _ranks(confidence[pixel], pixel)

    with ThreadPoolExecutor(workers) as pool:
        for some in batched(_pixels(usable), 2 * workers):
            for cell, rank in pool.map(work, some):
                table.add(cell, rank)
    return np.sort(_pixels_of(table.best()))


class _Table:
    """The highest rank of each cell, most of them in a hash table of one cell a slot."""

    def __init__(self) -> None:
        self._cell = np.zeros(_SLOTS, np.uint64)
        self._rank = np.zeros(_SLOTS, np.uint64)
        self._others: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, cell: UInt[np.ndarray, " P"], rank: UInt[np.ndarray, " P"]) -> None:
        """Takes points; where another cell has the slot they are kept beside the table."""
        slot = (cell % np.uint64(_SLOTS)).astype(np.int64)
        free = self._cell[slot] == 0
        self._cell[slot[free]] = cell[free]
        fits = self._cell[slot] == cell
        np.maximum.at(self._rank, slot[fits], rank[fits])
        self._others.append(_highest(cell[~fits], rank[~fits]))

    def best(self) -> UInt[np.ndarray, " P"]:
        """The highest rank of each cell."""
        cells, ranks = zip(*self._others, strict=True)
        _, others = _highest(np.concatenate(cells), np.concatenate(ranks))
        return np.concatenate([self._rank[self._cell != 0], others])


def _highest(
    cell: UInt[np.ndarray, " P"], rank: UInt[np.ndarray, " P"]
) -> tuple[UInt[np.ndarray, " C"], UInt[np.ndarray, " C"]]:
    """The cells, each once, and their highest rank."""
    order = np.argsort(cell)
    cell, rank = cell[order], rank[order]
    first = np.flatnonzero(np.diff(cell, prepend=~cell[:1]))
    if not len(first):
        return cell, rank
    return cell[first], np.maximum.reduceat(rank, first)


def _ranks(
    confidence: Float[np.ndarray, " P"], pixel: Int[np.ndarray, " P"]
) -> UInt[np.ndarray, " P"]:
    """Numbers that rise with confidence and, where that is the same, fall with the pixel."""
    value = np.where(np.isnan(confidence), -np.inf, confidence).astype(np.float32) + 0
    bits = value.view(np.uint32)
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    return rising.astype(np.uint64) << np.uint64(32) | (_LAST - pixel).astype(np.uint64)


def _pixels_of(rank: UInt[np.ndarray, " P"]) -> Int[np.ndarray, " P"]:
    return _LAST - (rank & np.uint64(_LAST)).astype(np.int64)


def _cells(xyz: Float[np.ndarray, "P 3"], side: float) -> UInt[np.ndarray, " P"]:
    """A number above 0 for each voxel; two voxels have one number once in 2**64."""
    cell = np.zeros(len(xyz), np.uint64)
    for axis, prime in enumerate(_PRIMES):
        place = np.floor(xyz[:, axis].astype(np.float64) / side)
        number = place.clip(-_MOST_CELLS, _MOST_CELLS).astype(np.int64).view(np.uint64)
        cell = (cell ^ number) * prime
        cell ^= cell >> np.uint64(32)
    return cell | np.uint64(1 << 63)


def _pixels(usable: Bool[np.ndarray, "V H W"]) -> Iterator[Int[np.ndarray, " P"]]:
    """The flat pixels of the points that may be written, view by view."""
    size = usable[0].size
    for view, rows in enumerate(usable):
        yield np.flatnonzero(rows) + view * size
