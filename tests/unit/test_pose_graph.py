"""Places that agree with all that is known of how they lie to each other."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxrecon import InputError
from jaxrecon.geometry import IDENTITY, Edge, Similarity, composed, inverse, settled


def ring(count: int = 12, radius: float = 5.0) -> list[Similarity]:
    """Places on a circle, each turned along it."""
    angles = np.arange(count) * 2 * np.pi / count
    return [
        Similarity(
            1.0,
            Rotation.from_rotvec([0, angle, 0]).as_matrix(),
            radius * np.array([np.sin(angle), 0, 1 - np.cos(angle)]),
        )
        for angle in angles
    ]


def between(places: list[Similarity], first: int, second: int) -> Similarity:
    return composed(inverse(places[first]), places[second])


def walked(true: list[Similarity], drift: Similarity) -> tuple[list[Similarity], list[Edge]]:
    """The places that steps lead to, each step off by the same, and the steps."""
    edges = [
        Edge(part, part + 1, composed(between(true, part, part + 1), drift))
        for part in range(len(true) - 1)
    ]
    places = [true[0]]
    for edge in edges:
        places.append(composed(places[-1], edge.similarity))
    return places, edges


def gap(places: list[Similarity], true: list[Similarity]) -> float:
    return max(
        float(np.linalg.norm(a.translation - b.translation))
        for a, b in zip(places, true, strict=True)
    )


@pytest.mark.parametrize("scale", [1.0, 0.97])
def test_a_loop_takes_the_drift_away(scale: float) -> None:
    true = ring()
    drift = Similarity(scale, Rotation.from_rotvec([0.01, 0.02, 0]).as_matrix(), np.full(3, 0.02))
    places, edges = walked(true, drift)
    loop = Edge(11, 0, between(true, 11, 0), weight=10.0)
    found = settled(places, [*edges, loop], length=3.0, with_scale=True)
    np.testing.assert_array_equal(found[0].translation, true[0].translation)
    end = between(found, 11, 0)
    off = np.linalg.norm(end.translation - loop.similarity.translation)
    assert off < 0.05 < 1 < gap(places, true)
    assert gap(found, true) < 0.75 * gap(places, true)
    for place in found:
        np.testing.assert_allclose(place.rotation @ place.rotation.T, np.eye(3), atol=1e-9)


def test_without_a_scale() -> None:
    true = ring()
    drift = Similarity(1.0, Rotation.from_rotvec([0, 0.02, 0]).as_matrix(), np.zeros(3))
    places, edges = walked(true, drift)
    loop = Edge(11, 0, between(true, 11, 0), weight=10.0)
    found = settled(places, [*edges, loop], length=3.0, with_scale=False)
    assert [place.scale for place in found] == [1.0] * 12
    assert gap(found, true) < 0.5 * gap(places, true)


def test_edges_that_agree_change_nothing() -> None:
    true = ring()
    _, edges = walked(true, IDENTITY)
    found = settled(true, [*edges, Edge(11, 0, between(true, 11, 0))], length=1.0, with_scale=True)
    assert gap(found, true) < 1e-6


def test_a_wrong_loop_counts_little() -> None:
    true = ring()
    places, edges = walked(true, IDENTITY)
    wrong = composed(between(true, 9, 2), Similarity(2.0, np.eye(3), np.array([9.0, 0, 0])))
    loops = [Edge(11, 0, between(true, 11, 0)), Edge(10, 1, between(true, 10, 1))]
    found = settled(places, [*edges, *loops, Edge(9, 2, wrong, 0.1)], length=3.0, with_scale=True)
    assert gap(found, true) < 0.5


def test_parts_without_a_way_stay() -> None:
    true = ring(4)
    moved = [*true[:2], *(composed(Similarity(2.0, np.eye(3), np.ones(3)), x) for x in true[2:])]
    edges = [Edge(0, 1, between(true, 0, 1)), Edge(2, 3, between(true, 2, 3))]
    found = settled(moved, edges, length=1.0, with_scale=True)
    for part in (2, 3):
        np.testing.assert_array_equal(found[part].translation, moved[part].translation)
    assert settled(true[:1], [], length=1.0, with_scale=True) == true[:1]
    with pytest.raises(InputError, match="there is no part 0 or 9"):
        settled(true, [Edge(0, 9, IDENTITY)], length=1.0, with_scale=True)
