"""Sequences of any length: chunks, joins, gaps, resuming, conditions."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import oracle
import tiny_families
from image_files import write_video
from jaxrecon import (
    InputError,
    OutputError,
    Reconstruction,
    SequenceReconstruction,
    registry,
)
from jaxrecon.formats import read_shown
from jaxrecon.geometry import umeyama
from jaxrecon.images import Frames, ImageRule, PixelTransform
from jaxrecon.images.fits import Fits
from jaxrecon.images.views import Source, View
from jaxrecon.models import VGGT_RESIZE
from jaxrecon.pipeline import Pipeline, joins, streaming
from jaxrecon.pipeline.chunking import chunks_of
from jaxrecon.priors import ViewPriors, read_view_priors
from kept_notes import KeptNotes
from oracle import contents, film
from places import fresh_process


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return oracle.oracle()


@pytest.fixture(scope="module")
def metric() -> Pipeline:
    return oracle.oracle(metric=True)


def truth(count: int) -> np.ndarray:
    return np.asarray(oracle.true_pose(np.arange(count, dtype=np.float32)), np.float64)


def assert_true(found: SequenceReconstruction, true: np.ndarray) -> None:
    """Poses are rigid, and those of the truth but for one similarity."""
    poses = found.world_from_camera
    turns = poses[:, :3, :3]
    np.testing.assert_allclose(
        turns @ np.swapaxes(turns, 1, 2), [np.eye(3)] * len(poses), atol=1e-5
    )
    away = umeyama(poses[:, :3, 3], true[:, :3, 3]).poses(poses)
    np.testing.assert_allclose(away, true, atol=2e-3)


@pytest.mark.parametrize("join", ["points", "poses"])
def test_chunks_become_one_world(pipeline: Pipeline, join: Any, tmp_path: Path) -> None:
    found = pipeline.reconstruct_sequence(film(23), tmp_path / "out", chunk=6, join=join)
    assert_true(found, truth(23))
    assert len(found.joins) == 6 and found.segments == (range(23),)
    for number, told in enumerate(found.joins):
        start, before = (min(3 * each, 17) for each in (number + 1, number))
        scale = oracle.unit_of(np.float32(start)) / oracle.unit_of(np.float32(before))
        assert told.scale == pytest.approx(float(scale), rel=1e-3)
        assert told.inliers == pytest.approx(1)
        assert told.residual < 1e-3
        assert (told.first_view, told.last_view) == (
            f"view_{start:04d}",
            f"view_{3 * number + 5:04d}",
        )
    assert pipeline.compilations == 1
    views = found.views()
    assert views.names == tuple(f"view_{view:04d}" for view in range(23))
    points = np.einsum("vij,vhwj->vhwi", views.world_from_camera[:, :3, :3], views.points_camera)
    points += views.world_from_camera[:, None, None, :3, 3]
    np.testing.assert_allclose(points, views.points_world, atol=1e-4)
    depth = oracle.true_depth(np.arange(23.0), film(23)[..., 2] / 255)
    np.testing.assert_allclose(views.depth_z, depth / oracle.unit_of(0.0), rtol=2e-3)


@pytest.mark.parametrize(
    "count",
    [1, 2, 6, 7, 9, *(pytest.param(count, marks=pytest.mark.thorough) for count in (5, 8, 12))],
)
def test_any_number_of_views(pipeline: Pipeline, count: int, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    found = pipeline.reconstruct_sequence(film(count), folder, chunk=6, overlap=2)
    assert len(found) == count == len(Reconstruction.load(folder))
    assert len(list(folder.glob("[0-9]*.npz"))) == count
    if count > 2:
        assert_true(found, truth(count))


@pytest.mark.parametrize(("chunk", "overlap"), [(2, 1), (6, 5), (5, None), (30, 10)])
def test_any_chunks(pipeline: Pipeline, chunk: int, overlap: int | None) -> None:
    found = pipeline.reconstruct_sequence(film(14), chunk=chunk, overlap=overlap)
    assert_true(found, truth(14))
    kept = found.folder
    assert kept.is_dir()
    del found
    assert not kept.exists()


def test_metric_models_keep_their_scale(metric: Pipeline) -> None:
    found = metric.reconstruct_sequence(film(14), chunk=6)
    assert [join.scale for join in found.joins] == [1.0] * len(found.joins)
    assert_true(found, truth(14))


def test_the_group_may_be_chosen(pipeline: Pipeline) -> None:
    found = pipeline.reconstruct_sequence(film(14), chunk=6, group="se3", allow_gaps=True)
    assert [join.scale for join in found.joins] == [1.0] * len(found.joins)
    assert min(join.inliers for join in found.joins) < 0.9


def test_margins_tell_nothing_of_how_views_lie() -> None:
    """What a model says of margins around photos has no weight, however sure of it it is."""
    rng = np.random.default_rng(0)
    points, confidence = rng.normal(size=(3, 14, 21, 3)), np.full((3, 14, 21), 0.5)
    colors = rng.integers(0, 256, (3, 14, 21, 3), np.uint8)
    inside = PixelTransform.inside((40, 80), (21, 14))
    left, top, right, bottom = inside.shown
    margin = np.ones((14, 21), bool)
    margin[top:bottom, left:right] = False
    confidence[:, margin] = 9.0
    colors[2, ~margin] = 128  # a photo that shows nothing
    whole = PixelTransform.stretch((42, 28), (21, 14))
    _, weights = joins.sampled(points, confidence, colors, [whole, inside, inside])
    found = weights.reshape(3, 14, 21)
    assert found[0].all() and not found[2].any()
    np.testing.assert_array_equal(found[1] > 0, ~margin)
    _, weights = joins.sampled(points[1:2], confidence[1:2], colors[1:2], [inside])
    np.testing.assert_array_equal(weights.reshape(14, 21), np.where(margin, 0, 1))


class TestGaps:
    """Scenes that do not hang together, and views that show nothing."""

    @pytest.mark.parametrize("behind", [5, 9, 10, 11, 12, 17])
    def test_a_cut_is_found(self, pipeline: Pipeline, behind: int, tmp_path: Path) -> None:
        """Wherever it lies in the chunks, of which it is in one or two."""
        pixels, folder = film(21, places=np.repeat([1, 2], [behind, 21 - behind])), tmp_path / "o"
        two = rf"the views view_{behind - 1:04d} and view_{behind:04d} do not hang together"
        with pytest.raises(InputError, match=two):
            pipeline.reconstruct_sequence(pixels, folder, chunk=6)
        with pytest.raises(InputError, match="is not finished"):
            SequenceReconstruction.load(folder)
        found = pipeline.reconstruct_sequence(pixels, folder, chunk=6, allow_gaps=True)
        assert found.segments == (range(behind), range(behind, 21))
        poses, true = found.world_from_camera, truth(21)
        for part in found.segments:
            own = slice(part.start, part.stop)
            away = umeyama(poses[own, :3, 3], true[own, :3, 3]).poses(poses[own])
            np.testing.assert_allclose(away, true[own], atol=5e-3)
        assert len(found.views()) == 21
        cuts = [join for join in found.joins if join.way == "cut"]
        assert {(join.first_view, join.last_view) for join in cuts} == {
            (f"view_{behind - 1:04d}", f"view_{behind:04d}")
        }

    def test_two_cuts(self, pipeline: Pipeline) -> None:
        pixels = film(24, places=np.repeat([1, 2, 3], [8, 4, 12]))
        found = pipeline.reconstruct_sequence(pixels, chunk=8, allow_gaps=True)
        assert found.segments == (range(8), range(8, 12), range(12, 24))

    def test_segments_are_saved_apart(self, pipeline: Pipeline, tmp_path: Path) -> None:
        pixels = film(19, places=np.repeat([1, 2], [10, 9]))
        found = pipeline.reconstruct_sequence(pixels, chunk=6, allow_gaps=True)
        folder = found.save(tmp_path / "saved", ("npz", "trajectory"))
        saved = [
            Reconstruction.load(folder / f"segment_{number}" / "scene.npz") for number in range(2)
        ]
        assert [name for part in saved for name in part.names] == list(found.names)

    def test_segments_are_not_read_as_one_world(self, pipeline: Pipeline, tmp_path: Path) -> None:
        pixels, folder = film(19, places=np.repeat([1, 2], [10, 9])), tmp_path / "out"
        found = pipeline.reconstruct_sequence(pixels, folder, chunk=6, allow_gaps=True)
        for read in (Reconstruction.load, read_shown):
            with pytest.raises(InputError, match="of 2 segments, each a world of its own"):
                read(folder)
        assert len(found.views(segment=1)) == 9

        def known(views: range, *wanted: str) -> ViewPriors:
            names, sizes = [found.names[view] for view in views], [(21, 14)] * len(views)
            return read_view_priors(folder, names, sizes=sizes, wanted=wanted)

        for kind in ("poses", "depths"):
            with pytest.raises(InputError, match="these photos lie in 2 of its segments"):
                known(range(19), kind)
            assert len(known(range(10, 19), kind).by_view(kind, 9)) == 9
        assert len(known(range(19), "intrinsics").by_view("intrinsics", 19)) == 19

    def test_chunks_that_do_not_agree(
        self, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(joins, "LEAST_INLIERS", 1.1)
        pipeline.reconstruct_sequence(film(12), tmp_path / "trusted", chunk=6)
        monkeypatch.setattr(joins, "MOST_TURN", -1.0)
        named = r"from view_0003 to view_0005 do not join chunk 1 to the one before: 100% of"
        with pytest.raises(InputError, match=named):
            pipeline.reconstruct_sequence(film(12), tmp_path / "out", chunk=6)
        assert len(list((tmp_path / "out").glob("[0-9]*.npz"))) == 5
        monkeypatch.undo()
        found = pipeline.reconstruct_sequence(film(12), tmp_path / "out", chunk=6)
        assert_true(found, truth(12))

    def test_black_frames_are_passed_over(self, pipeline: Pipeline) -> None:
        pixels = film(17)
        pixels[[4, 8]] = 0
        true, poses = truth(17), pipeline.reconstruct_sequence(pixels, chunk=6).world_from_camera
        seen = [view for view in range(17) if view not in (4, 8)]
        away = umeyama(poses[seen, :3, 3], true[seen, :3, 3]).poses(poses[seen])
        np.testing.assert_allclose(away, true[seen], atol=2e-3)

    def test_an_overlap_of_black_frames_is_named(self, pipeline: Pipeline) -> None:
        pixels = film(17)
        pixels[6:9] = 0
        with pytest.raises(InputError, match=r"view_0006 to view_0008 .* show too little"):
            pipeline.reconstruct_sequence(pixels, chunk=6)

    def test_a_camera_that_stands_still(self, pipeline: Pipeline) -> None:
        pixels = film(17)
        pixels[:] = pixels[4]
        for join in ("points", "poses"):
            found = pipeline.reconstruct_sequence(pixels, chunk=6, join=join)
            np.testing.assert_allclose(
                found.world_from_camera, [found.world_from_camera[0]] * 17, atol=1e-5
            )


def full_after(written: int) -> Callable[..., None]:
    """Writes views until so many are there; then the disk is full."""
    write, done = streaming.write_npz, []

    def write_npz(scene: Any, path: Path, **options: Any) -> None:
        if len(done) >= written:
            raise OutputError(f"cannot write {path}: No space left on device")
        done.append(path)
        write(scene, path, **options)

    return write_npz


class TestResuming:
    """A run that was ended is taken up by the next, to the same bytes."""

    @pytest.mark.parametrize(
        "written",
        [0, 4, 16, *(pytest.param(count, marks=pytest.mark.thorough) for count in (1, 5, 9))],
    )
    def test_after_an_error(
        self, pipeline: Pipeline, written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = pipeline.reconstruct_sequence(film(17), tmp_path / "whole", chunk=6)
        broken = tmp_path / "broken"
        with monkeypatch.context() as patch:
            patch.setattr(streaming, "write_npz", full_after(written))
            patch.setattr(streaming, "WRITERS", 1)
            with pytest.raises(OutputError, match="No space left"):
                pipeline.reconstruct_sequence(film(17), broken, chunk=6)
        pipeline.reconstruct_sequence(film(17), broken, chunk=6)
        assert contents(broken) == contents(whole.folder)

    def test_what_is_finished_is_not_made_again(self, pipeline: Pipeline, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        pipeline.reconstruct_sequence(film(9), folder, chunk=6)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
        pipeline.reconstruct_sequence(film(9), folder, chunk=6)
        assert {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")} == before

    def test_a_view_that_is_gone_is_made_again(self, pipeline: Pipeline, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        pipeline.reconstruct_sequence(film(12), folder, chunk=6)
        before = contents(folder)
        (folder / "000007_view_0007.npz").unlink()
        with pytest.raises(InputError, match="1 of 12 views are missing"):
            SequenceReconstruction.load(folder)
        pipeline.reconstruct_sequence(film(12), folder, chunk=6)
        assert contents(folder) == before

    @pytest.mark.thorough
    def test_killed(self, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        assert in_a_process(folder, killed_after=7) == -signal.SIGKILL
        assert 7 <= len(list(folder.glob("[0-9]*.npz"))) < 17
        assert in_a_process(folder, killed_after=100) == 0
        assert in_a_process(tmp_path / "whole", killed_after=100) == 0
        assert contents(folder) == contents(tmp_path / "whole")

    def test_frames_are_chosen_by_motion_as_before(
        self, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = np.repeat(film(17), 2, axis=0)
        whole = pipeline.reconstruct_sequence(slow, tmp_path / "whole", chunk=6, motion=1e-4)
        assert whole.names == tuple(f"view_{2 * number:04d}" for number in range(17))
        assert_true(whole, truth(17))
        broken = tmp_path / "broken"
        with monkeypatch.context() as patch:
            patch.setattr(streaming, "write_npz", full_after(9))
            with pytest.raises(OutputError, match="No space left"):
                pipeline.reconstruct_sequence(slow, broken, chunk=6, motion=1e-4)
        with pytest.raises(OutputError, match="holds another reconstruction"):
            pipeline.reconstruct_sequence(slow, broken, chunk=6, motion=2e-4)
        pipeline.reconstruct_sequence(slow, broken, chunk=6, motion=1e-4)
        assert contents(broken) == contents(whole.folder)

    def test_another_sequence(self, pipeline: Pipeline, tmp_path: Path) -> None:
        folder = tmp_path / "out"
        pipeline.reconstruct_sequence(film(9), folder, chunk=6)
        others: list[tuple[Any, dict[str, Any]]] = [
            (film(8), {}),
            (film(9), {"overlap": 2}),
            (film(9), {"stride": 2}),
        ]
        for pixels, options in others:
            with pytest.raises(OutputError, match="holds another reconstruction"):
                pipeline.reconstruct_sequence(pixels, folder, chunk=6, **options)
        found = pipeline.reconstruct_sequence(film(8), folder, chunk=6, overwrite=True)
        assert len(found) == 8 == len(list(folder.glob("[0-9]*.npz")))

    def test_photos_that_were_changed_meanwhile(self, pipeline: Pipeline, tmp_path: Path) -> None:
        photos = photo_folder(tmp_path / "photos", 12)
        folder = tmp_path / "out"
        pipeline.reconstruct_sequence(photos, folder, chunk=6)
        (folder / "000011_11.npz").unlink()
        pipeline.reconstruct_sequence(photos, folder, chunk=6)
        (folder / "000011_11.npz").unlink()
        Image.fromarray(film(12)[0]).save(photos / "04.bmp")
        with pytest.raises(InputError, match=r"'04\.bmp' is not what the part that is written"):
            pipeline.reconstruct_sequence(photos, folder, chunk=6)

    @pytest.mark.parametrize("count", [13, 20])
    @pytest.mark.parametrize("change", ["saved again", "removed", "others added", "the last"])
    def test_a_damaged_photo_in_the_middle_is_put_right(
        self, pipeline: Pipeline, change: str, count: int, tmp_path: Path
    ) -> None:
        """What was made of the photos before it stays, but for the last chunk of them."""
        photos = photo_folder(tmp_path / "photos", 24)
        damaged = photos / f"{count}.bmp"
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:500])
        folder = tmp_path / "out"
        with pytest.raises(InputError, match=rf"{count}\.bmp"):
            pipeline.reconstruct_sequence(photos, folder, chunk=6)
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
        assert len(before) > 8
        if change == "saved again":
            Image.fromarray(film(24)[count]).save(photos / f"{count}.bmp")
        elif change == "removed":
            damaged.unlink()
        elif change == "others added":
            damaged.write_bytes(whole)
            for name in (f"{count}_more", "24", "25"):
                Image.fromarray(film(24)[count]).save(photos / f"{name}.bmp")
        else:
            for path in photos.iterdir():
                if int(path.stem) >= count:
                    path.unlink()
        found = pipeline.reconstruct_sequence(photos, folder, chunk=6)
        names = sorted(path.name for path in photos.iterdir())
        assert list(found.names) == names
        after = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
        kept = [path for path, time in before.items() if after.get(path) == time]
        assert len(kept) >= 4 and folder / "chunk_000000.npz" in kept
        afresh = pipeline.reconstruct_sequence(photos, tmp_path / "afresh", chunk=6)
        assert contents(folder) == contents(afresh.folder)

    def test_photos_before_the_damaged_one_are_compared(
        self, pipeline: Pipeline, tmp_path: Path
    ) -> None:
        photos, folder = photo_folder(tmp_path / "photos", 24), tmp_path / "out"
        (photos / "20.bmp").write_bytes(b"BM")
        with pytest.raises(InputError, match=r"20\.bmp"):
            pipeline.reconstruct_sequence(photos, folder, chunk=6)
        before = contents(folder)
        (photos / "20.bmp").unlink()
        with pytest.raises(OutputError, match="holds another reconstruction"):
            pipeline.reconstruct_sequence(photos, folder, chunk=6, join="points")
        (photos / "03.bmp").unlink()
        with pytest.raises(OutputError, match="holds another reconstruction"):
            pipeline.reconstruct_sequence(photos, folder, chunk=6)
        assert contents(folder) == before


def photo_folder(folder: Path, count: int) -> Path:
    """The views of a film, a file each."""
    folder.mkdir()
    for view, pixels in enumerate(film(count)):
        Image.fromarray(pixels).save(folder / f"{view:02d}.bmp")
    return folder


def in_a_process(folder: Path, killed_after: int) -> int:
    """The exit code of a process of its own that reconstructs into the folder."""
    code = _KILLED.format(folder=str(folder), killed_after=killed_after)
    env = fresh_process()
    return subprocess.run([sys.executable, "-c", code], check=False, env=env).returncode


_KILLED = """
import os, signal
import oracle
from jaxrecon.pipeline import streaming

write, done = streaming.write_npz, []

def killing(scene, path, **options):
    write(scene, path, **options)
    done.append(path)
    if len(done) == {killed_after}:
        os.kill(os.getpid(), signal.SIGKILL)

streaming.write_npz = killing
oracle.oracle().reconstruct_sequence(oracle.film(17), {folder!r}, chunk=6)
"""


class TestConditions:
    """What is known of the views, by their numbers in the sequence."""

    def test_intrinsics(self, metric: Pipeline) -> None:
        matrices = {view: oracle.matrix() * [[1 + view / 50], [1], [1]] for view in (0, 4, 13)}
        found = metric.reconstruct_sequence(film(14), chunk=6, intrinsics=matrices)
        for view in range(14):
            wanted = matrices.get(view, oracle.matrix())
            np.testing.assert_allclose(found.intrinsics[view], wanted, rtol=1e-4)

    def test_poses(self, metric: Pipeline) -> None:
        """Each chunk has some, and most begin with a view that has none."""
        true = truth(14)
        true[:, :3, 3] += [5, -3, 2]
        known = {view: true[view] for view in (1, 4, 7, 10, 13)}
        found = metric.reconstruct_sequence(film(14), chunk=6, poses=known)
        np.testing.assert_allclose(found.world_from_camera, true, atol=1e-3)
        assert {join.way for join in found.joins} == {"known"}

    def test_poses_of_the_first_views_alone(self, metric: Pipeline) -> None:
        true = truth(20)
        found = metric.reconstruct_sequence(film(20), chunk=6, poses={0: true[0], 1: true[1]})
        np.testing.assert_allclose(found.world_from_camera, true, atol=2e-3)
        assert {join.way for join in found.joins} == {"poses"}

    def test_poses_of_later_views_alone(self, metric: Pipeline, tmp_path: Path) -> None:
        """The first chunk's world is that of the sequence."""
        true, folder = truth(14), tmp_path / "out"
        true[:, :3, 3] += [5, -3, 2]
        known = {view: true[view] for view in range(6, 14)}
        listed = [None] * 6 + [true[view] for view in range(6, 14)]
        for poses in (known, listed):
            with pytest.raises(InputError, match="poses: the first that is known is of view 6"):
                metric.reconstruct_sequence(film(14), folder, poses=poses, chunk=6, overlap=2)
            assert not list(folder.glob("*"))
        found = metric.reconstruct_sequence(film(14), folder, poses=known, chunk=7)
        np.testing.assert_allclose(found.world_from_camera, true, atol=2e-3)

    @pytest.mark.parametrize("count", [7, 15])
    def test_of_another_number_of_views(self, metric: Pipeline, count: int, tmp_path: Path) -> None:
        """Told before anything is made."""
        with pytest.raises(InputError, match=f"poses: found {count} for 14 views"):
            metric.reconstruct_sequence(film(14), tmp_path, chunk=6, poses=list(truth(count)))
        masks = [np.ones((14, 21), bool)] * count
        with pytest.raises(InputError, match=f"masks: found {count} for the 14 views of the seq"):
            metric.reconstruct_sequence(film(14), tmp_path, chunk=6, masks=masks)
        for view in (14, -1):
            with pytest.raises(InputError, match=f"poses: there is no view {view}"):
                metric.reconstruct_sequence(film(14), tmp_path, chunk=6, poses={view: np.eye(4)})
        assert not list(tmp_path.glob("*.npz"))

    def test_of_another_number_of_frames(self, metric: Pipeline, tmp_path: Path) -> None:
        """How many a video has is known at its end."""
        film = write_video(tmp_path / "a.mkv", frames=14, size=(42, 28))
        options: dict[str, Any] = {"chunk": 6, "resolution": 21, "stride": 1, "allow_gaps": True}

        def refused(told: str, **given: Any) -> None:
            for _ in range(2):  # the second run goes on
                with pytest.raises(InputError, match=told):
                    metric.reconstruct_sequence(film, tmp_path / "out", **options | given)

        refused("poses: found 15 for 14 views", poses=list(truth(15)))
        masks = [np.ones((28, 42), bool)] * 15
        refused("masks: found 15 for the 14 views of the sequence", masks=masks, overwrite=True)
        few = {"masks": masks[:7], "overwrite": True}
        refused("masks: found 7, and the sequence has at least 9", **few)
        few = {"poses": list(truth(7)), "overwrite": True}
        refused("poses: found 7, and there are at least 9 views", **few)

    def test_masks(self, pipeline: Pipeline) -> None:
        masks = [np.full((14, 21), view != 5) for view in range(14)]
        options: dict[str, Any] = {"chunk": 6, "edge_rtol": None, "masks": masks}
        found = pipeline.reconstruct_sequence(film(14), **options).views()
        assert not found.mask[5].any() and found.mask[[4, 6]].any()


class TestReading:
    """Views are read as they are needed."""

    def frames(
        self,
        count: int,
        read: list[int],
        sizes: dict[int, tuple[int, int]],
        rule: ImageRule = oracle.RULE,
    ) -> Frames:
        def views() -> Iterator[View]:
            for view in range(count):

                def image(view: int = view) -> Image.Image:
                    read.append(view)
                    return Image.new("RGB", sizes.get(view, (21, 14)), (view, 80, 200))

                yield View(f"frame_{view}", image)

        return Frames(Source(None, views()), Fits(rule, None, ()), None, 0)

    def test_one_chunk_ahead(self) -> None:
        read: list[int] = []
        frames = self.frames(300, read, {})
        with chunks_of(frames, 10, 4) as chunks:
            first = next(chunks)
            assert [frame.name for frame in first.frames] == [f"frame_{n}" for n in range(10)]
            assert first.next_start() == 6
            assert max(read) < 16 + 20
            assert [(c.start, len(c.frames)) for c in chunks][-2:] == [(288, 10), (290, 10)]
        frames.close()
        assert len(read) == 300

    def test_a_frame_that_does_not_fit_is_named(self) -> None:
        frames = self.frames(9, [], {4: (21, 70)}, VGGT_RESIZE)
        assert len(frames.take(4)) == 4
        with pytest.raises(InputError, match="frame_4 is 21x70 pixels, a shape that does not go"):
            frames.take(3)
        frames.close()

    def test_a_frame_of_another_shape_gets_margins(self) -> None:
        frames = self.frames(9, [], {4: (21, 70)}, oracle.RULE.unstretched())
        taken = frames.take(9)
        assert {frame.pixels.shape for frame in taken} == {(14, 21, 3)}
        assert taken[4].transform.shown[0] > 2
        assert taken[3].transform.shown == (0, 0, 21, 14)
        assert (taken[4].pixels[:, 0] != taken[3].pixels[:, 0]).all()
        frames.close()


class TestVideos:
    """Videos that end early."""

    def short(self, path: Path) -> Path:
        film = write_video(path, frames=200, size=(42, 28))
        film.write_bytes(film.read_bytes()[: int(0.6 * film.stat().st_size)])
        return film

    def test_what_is_there_is_made_and_the_rest_is_told(
        self, pipeline: Pipeline, tmp_path: Path
    ) -> None:
        film, stages = self.short(tmp_path / "a.mkv"), KeptNotes()
        options: dict[str, Any] = {"stride": 1, "chunk": 30, "resolution": 21, "stages": stages}
        found = pipeline.reconstruct_sequence(film, allow_gaps=True, **options)
        assert 90 < len(found) < 150
        assert any(f"ends after {len(found)} frames" in note for note in stages.notes)

    def test_what_was_made_before_a_packet_cut_short_stays(
        self, pipeline: Pipeline, tmp_path: Path
    ) -> None:
        film, folder = self.short(tmp_path / "a.avi"), tmp_path / "out"
        options: dict[str, Any] = {"stride": 1, "chunk": 30, "resolution": 21, "allow_gaps": True}
        with pytest.raises(InputError, match=r"a\.avi: the video is cut short"):
            pipeline.reconstruct_sequence(film, folder, **options)
        assert 60 <= len(list(folder.glob("[0-9]*.npz"))) < 130


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["pi3x", "vggt"])
def test_a_family(family: str, tmp_path: Path) -> None:
    """With what it may be told, and descriptions by its own encoder."""
    model = registry.load(tiny_families.saved_tiny(family, tmp_path / "model"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 3), np.uint8)
    known: dict[str, Any] = {}
    if family == "pi3x":
        known = {"poses": truth(8), "depths": {view: np.full((28, 28), 2.0) for view in (0, 5)}}
    options: dict[str, Any] = {"chunk": 3, "overlap": 1, "resolution": 28, "loops": True}
    found = model.reconstruct_sequence(pixels, allow_gaps=True, **options, **known)
    assert len(found) == 8 and np.isfinite(found.world_from_camera).all()
    if family == "pi3x":
        assert {join.way for join in found.joins} == {"known"}
        assert found.segments == (range(8),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 1}, "chunk=1 must be at least 2"),
        ({"chunk": 6, "overlap": 6}, "overlap=6 leaves no new views in a chunk of 6"),
        ({"overlap": 0}, "overlap=0 must be at least 1"),
        ({"join": "hope"}, "join='hope' is unknown; choose one of points, poses"),
        ({"group": "so3"}, "group='so3' is unknown; choose one of sim3, se3"),
        ({"allow_gaps": 1}, "allow_gaps=1 must be True or False"),
        ({"intrinsics": "shared"}, "one camera for all views"),
        ({"fps": 2.0}, "is no video"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_arguments(
    pipeline: Pipeline, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.reconstruct_sequence(film(9), tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*.npz"))


def test_what_is_no_sequence(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.stream(film(3), tmp_path / "out")
    with pytest.raises(InputError, match="is no reconstruction of a sequence"):
        SequenceReconstruction.load(tmp_path / "out")


def test_formats_and_thinned_views(pipeline: Pipeline, tmp_path: Path) -> None:
    found = pipeline.reconstruct_sequence(film(14), tmp_path / "out", chunk=6, edge_rtol=None)
    folder = found.save(tmp_path / "saved", ("ply", "npz", "colmap", "trajectory"), every=3)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("colmap", "scene.npz", "scene.ply", "trajectory"),
    ]
    assert Reconstruction.load(folder / "scene.npz").names == found.names[::3]
    assert len((folder / "trajectory" / "tum.txt").read_text().splitlines()) == 14
    with pytest.raises(OutputError):
        found.save(folder)
    told = json.loads((tmp_path / "out" / "scene.json").read_text())
    assert told["finished"] is True and len(told["joins"]) == len(found.joins)


def test_what_looks_like_a_failure_is_told(pipeline: Pipeline) -> None:
    stages = KeptNotes()
    pipeline.reconstruct_sequence(film(9), chunk=6, min_confidence=0.99, stages=stages)
    assert any("keeps 0.0% of the pixels" in note for note in stages.notes)
    assert {"run", "views", "compile"} <= stages.seconds.keys()
