"""Places of parts of a scene that agree with all that is known of how they lie to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from jaxrecon.errors import InputError
from jaxrecon.geometry.alignment import Similarity

if TYPE_CHECKING:
    from scipy.sparse import csc_array

_SIZE = 7
_STEP = 1e-6
_HUBER = 0.1
_ROUNDS = 60
_SETTLED = 1e-9
_FIRST_DAMPING, _MOST_DAMPING = 1e-6, 1e6


@dataclass(frozen=True, eq=False)
class Edge:
    """How one part lies to another, as it was measured.

    Attributes:
      first, second: numbers of the parts.
      similarity: the first's world from the second's.
      weight: how far to trust it, above 0.
    """

    first: int
    second: int
    similarity: Similarity
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class _Places:
    """Similarities as arrays."""

    scale: Float[np.ndarray, " N"]
    rotation: Float[np.ndarray, "N 3 3"]
    translation: Float[np.ndarray, "N 3"]

    @classmethod
    def of(cls, places: Sequence[Similarity]) -> "_Places":
        return cls(
            np.array([place.scale for place in places], np.float64),
            np.stack([place.rotation for place in places]).astype(np.float64),
            np.stack([place.translation for place in places]).astype(np.float64),
        )

    def __getitem__(self, chosen: Int[np.ndarray, " M"]) -> "_Places":
        return _Places(self.scale[chosen], self.rotation[chosen], self.translation[chosen])

    def moved(self, x: Float[np.ndarray, "N 7"], length: float) -> "_Places":
        """Turned, shifted and scaled a little, each about itself."""
        from scipy.spatial.transform import Rotation

        return _Places(
            self.scale * np.exp(x[:, 6]),
            Rotation.from_rotvec(x[:, :3]).as_matrix() @ self.rotation,
            self.translation + length * x[:, 3:6],
        )

    def similarities(self) -> list[Similarity]:
        rows = zip(self.scale.tolist(), self.rotation, self.translation, strict=True)
        return [Similarity(*row) for row in rows]


def settled(
    places: Sequence[Similarity],
    edges: Sequence[Edge],
    *,
    length: float,
    with_scale: bool,
) -> list[Similarity]:
    """The places of parts that agree best with the edges, the first part held where it is.

    With `S_i` the world from part i's and `E` an edge's similarity, it minimises the sum over all
    edges of `w huber(|r|)`, where `r` are the turn (in radians), the shift (in units of `length`)
    and the logarithm of the scale of `E^-1 S_first^-1 S_second`, and Huber's bound is 0.1:
    Gauss-Newton with Levenberg's damping, and sparse normal equations. Parts without a way to the
    first one stay where they are.

    Args:
      places: where the parts are before.
      edges: what is known.
      length: a length of the scene in the unit of the first place's world that weighs as much as
        a radian, such as how far points are from the cameras.
      with_scale: whether scales are free, or held.

    Raises:
      InputError: an edge names a part that does not exist.

    Source: Strasdat et al., Scale drift-aware large scale monocular SLAM, RSS 2010.
    """
    for edge in edges:
        if not (0 <= edge.first < len(places) and 0 <= edge.second < len(places)):
            raise InputError(f"edge: there is no part {edge.first} or {edge.second}")
    reached = _reached(len(places), edges)
    free = np.array(sorted(reached - {0}), np.int64)
    if not len(free):
        return list(places)
    graph = _Graph(
        [edge for edge in edges if edge.first in reached], free, len(places), length, with_scale
    )
    found = graph.minimum(_Places.of(places)).similarities()
    return [found[part] if part in reached else places[part] for part in range(len(places))]


class _Graph:
    """Edges as arrays, and the parts that may move."""

    def __init__(
        self,
        edges: Sequence[Edge],
        free: Int[np.ndarray, " F"],
        count: int,
        length: float,
        with_scale: bool,
    ) -> None:
        self.first = np.array([edge.first for edge in edges])
        self.second = np.array([edge.second for edge in edges])
        self.measured = _Places.of([edge.similarity for edge in edges])
        self.weight = np.array([edge.weight for edge in edges], np.float64)
        self.length, self.size = length, _SIZE if with_scale else _SIZE - 1
        self.free, self.place = free, np.full(count, -1)
        self.place[free] = np.arange(len(free))

    def minimum(self, places: _Places) -> _Places:
        """Places of the least cost."""
        from scipy.sparse import csc_array, diags_array
        from scipy.sparse.linalg import spsolve

        damping, cost = _FIRST_DAMPING, self.cost(places)
        for _ in range(_ROUNDS):
            matrix, slope = self.normal_equations(places)
            scaled = diags_array(damping * (matrix.diagonal() + 1e-9))
            step = np.asarray(spsolve(csc_array(matrix + scaled), -slope))
            tried = places.moved(self.spread(step), self.length)
            new = self.cost(tried)
            if not new < cost:
                damping *= 10
                if damping > _MOST_DAMPING:
                    break
                continue
            places, gained, cost, damping = tried, cost - new, new, damping / 10
            if gained <= _SETTLED * (cost + _SETTLED) or np.abs(step).max() < _SETTLED:
                break
        return places

    def spread(self, step: Float[np.ndarray, " S"]) -> Float[np.ndarray, "N 7"]:
        """A step of the free parts as one of all."""
        x = np.zeros((len(self.place), _SIZE))
        x[self.free, : self.size] = step.reshape(-1, self.size)
        return x

    def cost(self, places: _Places) -> float:
        """What is minimised."""
        size = np.linalg.norm(self.errors(places[self.first], places[self.second]), axis=1)
        inner = np.minimum(size, _HUBER)
        return float((self.weight * (inner**2 + 2 * _HUBER * (size - inner))).sum())

    def errors(self, first: _Places, second: _Places) -> Float[np.ndarray, "E size"]:
        """Turn, shift and scale by which places differ from what the edges say."""
        from scipy.spatial.transform import Rotation

        back = np.swapaxes(first.rotation, 1, 2)
        between = second.translation - first.translation
        seen = np.einsum("eij,ej->ei", back, between) / first.scale[:, None]
        own = np.swapaxes(self.measured.rotation, 1, 2)
        off = np.einsum("eij,ej->ei", own, seen - self.measured.translation)
        shift = off / self.measured.scale[:, None] * second.scale[:, None] / self.length
        turn = Rotation.from_matrix(own @ back @ second.rotation).as_rotvec()
        scale = np.log(second.scale / first.scale / self.measured.scale)
        return np.concatenate([turn, shift, scale[:, None]], axis=1)[:, : self.size]

    def normal_equations(self, places: _Places) -> tuple["csc_array", Float[np.ndarray, " S"]]:
        """The matrix and the right side of a step, with Huber's weights."""
        from scipy.sparse import csc_array

        ends = places[self.first], places[self.second]
        errors = self.errors(*ends)
        slopes = [self.slopes(ends, side) for side in range(2)]
        size = np.linalg.norm(errors, axis=1)
        weight = self.weight * np.minimum(1, _HUBER / np.maximum(size, 1e-300))
        columns = [self.place[self.first], self.place[self.second]]
        total, slope = self.size * len(self.free), np.zeros(self.size * len(self.free))
        rows, cols, values = [], [], []
        each = np.arange(self.size)
        for one, one_slope in zip(columns, slopes, strict=True):
            own = one >= 0
            right = np.einsum("eki,ek,e->ei", one_slope, errors, weight)[own]
            np.add.at(slope, self.size * one[own][:, None] + each, right)
            for other, other_slope in zip(columns, slopes, strict=True):
                both = own & (other >= 0)
                block = np.einsum("eki,ekj,e->eij", one_slope, other_slope, weight)[both]
                row = self.size * one[both][:, None, None] + each[:, None]
                col = self.size * other[both][:, None, None] + each
                rows.append(np.broadcast_to(row, block.shape).ravel())
                cols.append(np.broadcast_to(col, block.shape).ravel())
                values.append(block.ravel())
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
        return csc_array(entries, shape=(total, total)), slope

    def slopes(self, ends: tuple[_Places, _Places], side: int) -> Float[np.ndarray, "E size size"]:
        """How the errors change with the place at one end, by central differences."""
        slopes = []
        for number in range(self.size):
            found = []
            for step in (_STEP, -_STEP):
                x = np.zeros((len(self.first), _SIZE))
                x[:, number] = step
                moved = list(ends)
                moved[side] = ends[side].moved(x, self.length)
                found.append(self.errors(*moved))
            slopes.append((found[0] - found[1]) / (2 * _STEP))
        return np.stack(slopes, axis=-1)


def _reached(count: int, edges: Sequence[Edge]) -> set[int]:
    """The parts that edges connect with the first one."""
    beside: list[list[int]] = [[] for _ in range(count)]
    for edge in edges:
        beside[edge.first].append(edge.second)
        beside[edge.second].append(edge.first)
    reached, waiting = {0}, [0]
    while waiting:
        for part in beside[waiting.pop()]:
            if part not in reached:
                reached.add(part)
                waiting.append(part)
    return reached
