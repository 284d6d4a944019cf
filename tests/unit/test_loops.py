"""Places that a sequence comes back to."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import oracle
from jaxrecon import InputError, OutputError, Reconstruction, SequenceReconstruction
from jaxrecon.formats.loop_files import Loop
from jaxrecon.geometry import Similarity
from jaxrecon.pipeline import Pipeline, loop_closing, loops
from jaxrecon.pipeline.loops import Candidate, ConfirmedLoop, LookAlikes, window
from jaxrecon.progress import Stages
from oracle import contents, film

PERIOD, COUNT = 30, 44


@pytest.fixture(scope="module")
def drifting() -> Pipeline:
    """Each chunk is bent a little, so that a round does not close."""
    return oracle.oracle(period=PERIOD, drift=0.012)


def walked(drifting: Pipeline, folder: Path | None = None, **options: Any) -> Any:
    pixels = film(COUNT, period=PERIOD)
    return drifting.reconstruct_sequence(pixels, folder, chunk=8, **options)


def gap(found: SequenceReconstruction) -> np.ndarray:
    """How far the two visits of each place are apart, over the length of the way."""
    places = found.world_from_camera[:, :3, 3]
    apart = np.linalg.norm(places[PERIOD:] - places[:-PERIOD], axis=1)
    return apart / np.linalg.norm(np.diff(places, axis=0), axis=1).sum()


@pytest.mark.parametrize("join", ["poses", "points"])
def test_a_loop_is_closed(drifting: Pipeline, join: Any, tmp_path: Path) -> None:
    before = walked(drifting, join=join)
    found = walked(drifting, tmp_path / "out", join=join, loops=True)
    assert before.loops == () and len(found.loops) >= 4  # the way is followed
    for loop in found.loops:
        first, second = (int(name[-4:]) for name in (loop.first_view, loop.second_view))
        assert abs(second - first - PERIOD) <= 4
        assert min(loop.shared, loop.alike, loop.inliers) > 0.5
    assert gap(found)[:12].max() < 0.01 < 0.04 < gap(before)[:12].min()
    assert gap(found).max() < 0.3 * gap(before).min()  # behind the last loop it drifts anew
    views = Reconstruction.load(tmp_path / "out")
    np.testing.assert_allclose(views.world_from_camera, found.world_from_camera, atol=1e-5)
    points = np.einsum("vij,vhwj->vhwi", views.world_from_camera[:, :3, :3], views.points_camera)
    points += views.world_from_camera[:, None, None, :3, 3]
    np.testing.assert_allclose(points, views.points_world, atol=1e-3)
    assert found.joins == before.joins


def test_without_a_loop_nothing_moves(tmp_path: Path) -> None:
    pipeline = oracle.oracle()
    plain = pipeline.reconstruct_sequence(film(20), chunk=6)
    found = pipeline.reconstruct_sequence(film(20), tmp_path / "out", chunk=6, loops=True)
    assert found.loops == ()
    np.testing.assert_array_equal(found.world_from_camera, plain.world_from_camera)


def test_places_that_look_alike_are_not_taken_for_one(drifting: Pipeline) -> None:
    """The second round shows another place: its pictures look the same, and lie elsewhere."""
    pixels = film(COUNT, period=PERIOD, places=np.repeat([1, 2], [22, 22]))
    found = drifting.reconstruct_sequence(pixels, chunk=8, loops=True, allow_gaps=True)
    assert len(found.segments) == 2 and found.loops == ()


def test_places_of_one_shape_that_look_otherwise_are_two(drifting: Pipeline) -> None:
    """The encoder takes them for one, and so does the geometry; the pictures do not."""
    pixels = film(COUNT, period=PERIOD)
    pixels[PERIOD:, 1:, :, :2] = 255 - pixels[PERIOD:, 1:, :, :2]
    assert drifting.reconstruct_sequence(pixels, chunk=8, loops=True).loops == ()


@pytest.mark.parametrize(
    "written", [*(pytest.param(count, marks=pytest.mark.thorough) for count in (0, 1)), 20]
)
def test_resumed(
    drifting: Pipeline, written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = walked(drifting, tmp_path / "whole", loops=True)
    write, done = loops.write_npz, []

    def failing(scene: Any, path: Path, **options: Any) -> None:
        if len(done) >= written:
            raise OutputError(f"cannot write {path}: No space left on device")
        done.append(path)
        write(scene, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(loops, "write_npz", failing)
        with pytest.raises(OutputError, match="No space left"):
            walked(drifting, tmp_path / "broken", loops=True)
    with pytest.raises(InputError, match="is not finished"):
        SequenceReconstruction.load(tmp_path / "broken")
    walked(drifting, tmp_path / "broken", loops=True)
    assert contents(tmp_path / "broken") == contents(whole.folder)

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("it is finished")

    monkeypatch.setattr(loop_closing, "move_files", never)
    walked(drifting, tmp_path / "broken", loops=True)
    with pytest.raises(OutputError, match="holds another reconstruction"):
        walked(drifting, tmp_path / "broken")


def test_candidates_are_the_most_alike_and_far_apart() -> None:
    rng = np.random.default_rng(0)
    told = rng.normal(size=(200, 40)) + 3 * rng.normal(size=40)
    told[150:156] = told[20:26] + 0.1 * rng.normal(size=(6, 40))
    told[100:103] = told[98:101]  # near, and so no loop
    alike = LookAlikes(told, 10)
    found = alike.candidates()
    best = found[0]
    assert best.similarity > 0.9
    assert best.second - best.first == 130 and 20 <= best.first < 26
    assert all(pair.second - pair.first > 10 for pair in found)
    assert LookAlikes(told[:20], 10).candidates() == []
    assert len(alike.candidates(most=1)) == 1


@pytest.mark.parametrize(
    ("views", "direction", "expected"),
    [
        ((50, 150), 1, [(55, 155), (45, 145)]),
        ((50, 150), -1, [(55, 145), (45, 155)]),
        ((50, 193), 1, [(54, 197), (45, 188)]),  # an end is near
        ((50, 195), 1, [(45, 190)]),
        ((1, 150), 1, [(6, 155)]),
        ((70, 84), -1, [(65, 89)]),  # no more than a chunk apart
    ],
)
def test_a_loop_is_followed_to_both_sides(
    views: tuple[int, int], direction: int, expected: list[tuple[int, int]]
) -> None:
    alike = LookAlikes(np.random.default_rng(0).normal(size=(200, 40)), 10)
    loop = Loop("a", "b", 1.0, 1.0, 1.0, 1.0, 0.0)
    here, numbers = Similarity(1.0, np.eye(3), np.zeros(3)), (range(5), range(5))
    found = alike.beside(ConfirmedLoop(loop, numbers, views, (here, here), direction))
    assert [(pair.first, pair.second) for pair in found] == expected
    near = [Candidate(first + 2, second - 2, 1.0) for first, second in expected]
    assert alike.untried(found, near) == []
    assert alike.untried([*found, *found], []) == found


def test_a_camera_that_stands_still_has_few_loops(
    monkeypatch: pytest.MonkeyPatch, without_shape_checks: None
) -> None:
    """Where every pair of views shows one place, they are tied, and not each to each."""
    views, chunk = 600, 8
    told = np.random.default_rng(0).normal(size=(views, 40))
    record = SimpleNamespace(kept=(0, views), start=0, descriptions=told)
    here = Similarity(1.0, np.eye(3), np.zeros(3))

    def always(candidate: Candidate, visits: Any, *, with_scale: bool) -> ConfirmedLoop:
        pair = candidate.first, candidate.second
        numbers = window(pair[0], 4, 0, views), window(pair[1], 4, 0, views)
        return ConfirmedLoop(Loop("a", "b", *[1.0] * 5), numbers, pair, (here, here), 1)

    monkeypatch.setattr(loop_closing, "confirmed", always)
    monkeypatch.setattr(loop_closing, "_visits", lambda job, written, candidate: candidate)
    job, written = SimpleNamespace(chunk=chunk, with_scale=True), SimpleNamespace(records=[record])
    found = loop_closing._loops(job, written, Stages(quiet=True))  # pyright: ignore[reportArgumentType]
    tied = {view for loop in found for numbers in loop.numbers for view in numbers}
    assert len(tied) > 0.9 * views
    assert len(found) < 2 * views / (chunk / 2)


@pytest.mark.parametrize(
    ("view", "size", "start", "stop", "expected"),
    [
        (50, 10, 0, 100, (45, 55)),
        (2, 10, 0, 100, (0, 10)),
        (98, 10, 0, 100, (90, 100)),
        (5, 10, 4, 8, (4, 8)),
    ],
)
def test_window(view: int, size: int, start: int, stop: int, expected: tuple[int, int]) -> None:
    assert window(view, size, start, stop) == range(*expected)


def test_a_model_without_an_encoder(drifting: Pipeline) -> None:
    from dataclasses import replace

    model = oracle.Oracle()
    del model.encoder
    blind = replace(drifting, model=model)
    with pytest.raises(InputError, match="loops: the model has no image encoder"):
        blind.reconstruct_sequence(film(8), chunk=6, loops=True)
