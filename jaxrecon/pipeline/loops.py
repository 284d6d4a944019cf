"""Places that a sequence comes back to: found, confirmed, and made to agree."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxrecon.formats import read_npz, write_npz
from jaxrecon.formats.chunk_files import ChunkRecord
from jaxrecon.formats.loop_files import Loop, LoopRecord
from jaxrecon.geometry import (
    Edge,
    SharedViews,
    Similarity,
    composed,
    fit_of,
    inverse,
    join_by_poses,
    matched,
    seen_by,
    settled,
)
from jaxrecon.pipeline.joins import (
    LEAST_INLIERS,
    MOST_SHIFT,
    MOST_TURN,
    grid_of,
    sampled,
    shown_alone,
)
from jaxrecon.reconstruction import Reconstruction

LEAST_SIMILAR = 0.25
"""Views whose descriptions are less alike are not looked at."""

LEAST_SHARED = 0.25
"""Two visits show one place if a view of one sees so much of what one of the other does."""

LEAST_ALIKE = 0.5
"""So much must the brightness of both correlate there: rooms of one shape are not one place."""

_PAIRS_COMPARED = 5
_KEPT_DIRECTIONS = 64
_PER_CHUNKS = 2
_LEAST_TRIED = 8
_WRITERS = 4


@dataclass(frozen=True)
class Candidate:
    """Two views, by their numbers, that may show one place."""

    first: int
    second: int
    similarity: float


class LookAlikes:
    """Which views of a sequence look alike, by the cosine of their descriptions.

    Descriptions are centred and brought to unit variance along their main directions. Views are
    compared by stretches of half a chunk, of which the most similar pair of views stands for all.

    Args:
      descriptions: of all views.
      chunk: views in a chunk.
    """

    def __init__(self, descriptions: Float[np.ndarray, "V D"], chunk: int) -> None:
        self.chunk, self.step = chunk, max(chunk // 2, 1)
        self.starts = range(0, len(descriptions), self.step)
        self._unit = _whitened(descriptions)

    def candidates(self, *, most: int | None = None) -> list[Candidate]:
        """Pairs of views that look alike and are more than a chunk apart, the most similar first.

        Of two stretches the most similar pair is one, if neither of the two has a more similar pair
        with another stretch.

        Args:
          most: so many pairs at most; half as many as there are chunks, and eight, if not given.
        """
        if len(self._unit) <= 2 * self.chunk:
            return []
        of_first: dict[int, Candidate] = {}
        of_second: dict[int, Candidate] = {}
        for i in range(len(self.starts)):
            for j, found in self._pairs_of(i):
                for of, number in ((of_first, i), (of_second, j)):
                    if number not in of or found.similarity > of[number].similarity:
                        of[number] = found
        kept = [
            found
            for found in of_first.values()
            if found.similarity >= LEAST_SIMILAR and of_second[found.second // self.step] is found
        ]
        kept.sort(key=lambda pair: -pair.similarity)
        most = max(_LEAST_TRIED, len(self.starts) // _PER_CHUNKS) if most is None else most
        return kept[:most]

    def beside(self, loop: "ConfirmedLoop") -> list[Candidate]:
        """The pairs half a chunk further along both visits, and back, where they go on so far.

        Less is gone at an end of the sequence, but no less than half of that.
        """
        pairs = []
        for way in (1, -1):
            room = [
                self._room(v, w)
                for v, w in zip(loop.views, (way, way * loop.direction), strict=True)
            ]
            gone = min(*room, self.step)
            first, second = loop.views[0] + way * gone, loop.views[1] + way * loop.direction * gone
            if 2 * gone > self.step and second - first > self.chunk:
                similar = float(self._unit[first] @ self._unit[second])
                pairs.append(Candidate(first, second, similar))
        return pairs

    def untried(self, pairs: Iterable[Candidate], tried: Sequence[Candidate]) -> list[Candidate]:
        """Those of the pairs that are no closer than a quarter of a chunk to a tried one."""
        new: list[Candidate] = []
        for pair in pairs:
            apart = (
                max(abs(pair.first - other.first), abs(pair.second - other.second))
                for other in (*tried, *new)
            )
            if 2 * min(apart, default=self.step) >= self.step:
                new.append(pair)
        return new

    def _room(self, view: int, way: int) -> int:
        """Views from this one to the last, or first, around which there is a stretch."""
        margin = self.step // 2
        return len(self._unit) - 1 - margin - view if way > 0 else view - margin

    def _pairs_of(self, i: int) -> Iterator[tuple[int, Candidate]]:
        """The most similar pair with each later stretch, where it is more than a chunk apart."""
        start = self.starts[i]
        similar = self._unit[start : start + self.step] @ self._unit.T
        for j in range(i + 3, len(self.starts)):
            block = similar[:, self.starts[j] : self.starts[j] + self.step]
            row, column = np.unravel_index(int(block.argmax()), block.shape)
            pair = start + int(row), self.starts[j] + int(column)
            if pair[1] - pair[0] > self.chunk:
                yield j, Candidate(*pair, float(block[row, column]))


def _whitened(descriptions: Float[np.ndarray, "V D"]) -> Float[np.ndarray, "V K"]:
    """Centred, of unit variance along the main directions, and of length 1."""
    centred = descriptions.astype(np.float64) - descriptions.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    chosen = np.argsort(values)[::-1][:_KEPT_DIRECTIONS]
    chosen = chosen[values[chosen] > 1e-9 * max(float(values.max()), 1e-12)]
    rotated = centred @ directions[:, chosen] / np.sqrt(values[chosen])
    return rotated / np.maximum(np.linalg.norm(rotated, axis=1, keepdims=True), 1e-12)


def window(view: int, size: int, start: int, stop: int) -> range:
    """So many views around one, from `start` to `stop` at most."""
    first = min(max(view - size // 2, start), max(stop - size, start))
    return range(first, min(first + size, stop))


@dataclass(frozen=True, eq=False)
class ConfirmedLoop:
    """A loop, and how its two visits lie.

    Attributes:
      loop: what there is to tell.
      numbers: of the views of each visit.
      views: the numbers of the two views that share most.
      worlds: those of the first and of the second visit, from that of both together.
      direction: 1 if the second visit goes the way of the first, -1 if it comes back along it.
    """

    loop: Loop
    numbers: tuple[range, range]
    views: tuple[int, int]
    worlds: tuple[Similarity, Similarity]
    direction: int


@dataclass(frozen=True, eq=False)
class Visits:
    """Views around both of a pair.

    Attributes:
      numbers: of the views of each visit.
      written: the views of each, as they are written.
      together: the same views, the first visit's first, reconstructed together.
    """

    numbers: tuple[range, range]
    written: tuple[Reconstruction, Reconstruction]
    together: Reconstruction

    def parts(self) -> tuple[Reconstruction, Reconstruction]:
        """Both visits, as reconstructed together."""
        count = len(self.numbers[0])
        return self.together[:count], self.together[count:]


def confirmed(candidate: Candidate, visits: Visits, *, with_scale: bool) -> ConfirmedLoop | None:
    """Whether two visits show one place, and where each one's world lies in that of both.

    Both visits are views of one reconstruction here: they show one place if some view of the one
    sees what a view of the other does, where it is, and if each agrees with what its own chunk has.

    Args:
      candidate: the pair.
      visits: the views around it.
      with_scale: whether the scale is fitted.

    Returns:
      None if they do not show one place.
    """
    parts = visits.parts()
    rows, shared, alike = _shared(*parts)
    if shared < LEAST_SHARED or alike < LEAST_ALIKE:
        return None
    found: list[Similarity] = []
    fits = []
    for visit, part in zip(visits.written, parts, strict=True):
        both = _both(visit, part)
        if not (both.weights > 0).any():
            return None
        found.append(join_by_poses(both, with_scale=with_scale))
        fit = fit_of(both, found[-1])
        if fit.inliers < LEAST_INLIERS and not (fit.turn <= MOST_TURN and fit.shift <= MOST_SHIFT):
            return None
        fits.append(fit)
    ways = [np.asarray(part.world_from_camera, np.float64)[:, :3, 3] for part in parts]
    first = visits.written[0]
    depth = float(np.median(np.linalg.norm(np.asarray(first.points_camera), axis=-1)))
    gap = float(np.linalg.norm(found[0].points(ways[0][0]) - found[1].points(ways[0][0]))) / depth
    loop = Loop(
        first.names[0],
        visits.written[1].names[0],
        candidate.similarity,
        shared,
        alike,
        min(fit.inliers for fit in fits),
        gap,
    )
    views = visits.numbers[0][rows[0]], visits.numbers[1][rows[1]]
    back = np.dot(ways[0][-1] - ways[0][0], ways[1][-1] - ways[1][0]) < 0
    return ConfirmedLoop(loop, visits.numbers, views, (found[0], found[1]), -1 if back else 1)


def _both(written: Reconstruction, again: Reconstruction) -> SharedViews:
    samples = [_sampled(recon) for recon in (written, again)]
    return SharedViews(
        samples[0][0],
        samples[1][0],
        np.sqrt(samples[0][1].astype(np.float64) * samples[1][1]),
        np.asarray(written.world_from_camera, np.float64),
        np.asarray(again.world_from_camera, np.float64),
    )


def _shared(first: Reconstruction, second: Reconstruction) -> tuple[tuple[int, int], float, float]:
    """The two views that see most of the same, how much, and how much it looks alike there.

    The last is the correlation of their brightness, blurred, where both see the same points.
    """
    one, other = (_views(recon) for recon in (first, second))
    shares = {
        (a, b): min(seen_by(one, a, other, b), seen_by(other, b, one, a))
        for a in range(0, len(first), 2)
        for b in range(0, len(second), 2)
    }
    pairs = sorted(shares, key=lambda pair: -shares[pair])[:_PAIRS_COMPARED]
    lights = [_brightness(np.asarray(recon.colors)) for recon in (first, second)]
    grid = grid_of(*lights[0].shape[1:])
    alike = []
    for a, b in pairs:
        agrees, row, column = matched(one, a, other, b)
        here, there = lights[0][grid][a].reshape(-1)[agrees], lights[1][b, row, column][agrees]
        flat = len(here) < 2 or not here.std() > 0 or not there.std() > 0
        alike.append(0.0 if flat else float(np.corrcoef(here, there)[0, 1]))
    return pairs[0], shares[pairs[0]], float(np.median(alike))


def _brightness(colors: np.ndarray) -> Float[np.ndarray, "V H W"]:
    """Blurred by a fortieth of the picture's longer side, as much as points may be off."""
    from scipy.ndimage import uniform_filter

    light = colors.astype(np.float64).mean(axis=-1)
    size = max(max(light.shape[1:]) // 40, 1)
    return np.stack([uniform_filter(one, size=size) for one in light])


def _sampled(recon: Reconstruction) -> tuple[np.ndarray, np.ndarray]:
    """See `joins.sampled`."""
    points, confidence = np.asarray(recon.points_camera), np.asarray(recon.confidence)
    return sampled(points, confidence, np.asarray(recon.colors), recon.transforms)


def _views(recon: Reconstruction) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    points, _ = _sampled(recon)
    shown = shown_alone(points, np.asarray(recon.points_camera), recon.transforms)
    poses = np.asarray(recon.world_from_camera, np.float64)
    return *shown, poses, np.asarray(recon.intrinsics)


def closed(
    records: Sequence[ChunkRecord],
    loops: Sequence[ConfirmedLoop],
    *,
    with_scale: bool,
) -> LoopRecord:
    """The places of all parts once loops are closed.

    Args:
      records: of all chunks.
      loops: each counts by what its two visits share, spread over the parts that have their views;
        what joins a chunk to the next counts as 1.
      with_scale: whether scales are free.
    """
    nodes = [(number, part) for number, record in enumerate(records) for part in record.parts]
    index = {(number, part.start): node for node, (number, part) in enumerate(nodes)}
    places = [part.placement for _, part in nodes]
    edges = []
    for node, (number, part) in enumerate(nodes):
        before = records[number - 1] if number else None
        if before is None or part.start >= before.stop:
            continue
        onto = before.part_of(part.start)
        if onto.segment == part.segment:
            first = index[number - 1, onto.start]
            edges.append(Edge(first, node, composed(inverse(places[first]), places[node])))
    for each in loops:
        visits = [
            Counter(_node(records, index, view) for view in numbers) for numbers in each.numbers
        ]
        for (a, views_a), (b, views_b) in itertools.product(*(visit.items() for visit in visits)):
            one, other = (
                composed(inverse(places[node]), world)
                for node, world in zip((a, b), each.worlds, strict=True)
            )
            share = views_a / visits[0].total() * views_b / visits[1].total()
            weight = each.loop.shared * share
            edges.append(Edge(a, b, composed(one, inverse(other)), weight))
    found = list(places)
    for segment in sorted({part.segment for _, part in nodes}):
        own = [node for node, (_, part) in enumerate(nodes) if part.segment == segment]
        if any(nodes[_node(records, index, each.views[0])][1].segment == segment for each in loops):
            number = {node: place for place, node in enumerate(own)}
            inner = [
                replace(edge, first=number[edge.first], second=number[edge.second])
                for edge in edges
                if edge.first in number
            ]
            length = _length(records)
            moved = settled(
                [places[node] for node in own], inner, length=length, with_scale=with_scale
            )
            for node, place in zip(own, moved, strict=True):
                found[node] = place
    return LoopRecord(tuple(each.loop for each in loops), tuple(found))


def _node(records: Sequence[ChunkRecord], index: dict[tuple[int, int], int], view: int) -> int:
    """The part by which a view is written."""
    number = next(n for n, record in enumerate(records) if record.kept[0] <= view < record.kept[1])
    return index[number, records[number].part_of(view).start]


def _length(records: Sequence[ChunkRecord]) -> float:
    """How far points are from the cameras, typically, in the unit of the first chunk's world."""
    tails = [record for record in records if len(record.tail_points)]
    lengths = [
        record.parts[-1].placement.scale
        * float(np.median(np.linalg.norm(record.tail_points, axis=-1)))
        for record in tails
    ]
    return float(np.median(lengths)) if lengths else 1.0


def with_placements(
    records: Sequence[ChunkRecord], placements: Sequence[Similarity]
) -> list[ChunkRecord]:
    """Records whose parts lie elsewhere."""
    places = iter(placements)
    return [
        replace(
            record,
            parts=tuple(replace(part, placement=next(places)) for part in record.parts),
        )
        for record in records
    ]


def move_files(
    records: Sequence[ChunkRecord],
    placements: Sequence[Similarity],
    files: Sequence[Path],
    advance: Callable[[], None],
) -> None:
    """Writes the views anew where their parts lie now; those that lie there already stay.

    Raises:
      OutputError: a file cannot be written.
    """
    moved = with_placements(records, placements)
    work = [
        (files[view], old, new, view)
        for old, new in zip(records, moved, strict=True)
        for view in range(*old.kept)
    ]

    def one(each: tuple[Path, ChunkRecord, ChunkRecord, int]) -> None:
        _move(*each)
        advance()

    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(one, work):
            pass


def _move(file: Path, old: ChunkRecord, new: ChunkRecord, view: int) -> None:
    pose = old.world_from_camera[view - old.start]
    before, after = (record.part_of(view).placement for record in (old, new))
    scene = read_npz(file)
    was = before.poses(pose).astype(np.float32)
    if not np.array_equal(scene.world_from_camera[0], was):
        return  # an earlier run has moved it
    change, dtype = composed(after, inverse(before)), scene.points_world.dtype
    write_npz(
        replace(
            scene,
            points_world=change.points(scene.points_world.astype(np.float64)).astype(dtype),
            points_camera=(change.scale * scene.points_camera).astype(dtype),
            world_from_camera=after.poses(pose).astype(np.float32)[None],
        ),
        file,
        compressed=False,
    )
