"""Evaluating a model: the truth at processed pixels, what is left out and why, and the report."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon.errors import InputError
from jaxrecon.evaluation import GroundTruth, Report, Settings, evaluate
from jaxrecon.evaluation.sampling import process, processed_depth, processed_intrinsics
from jaxrecon.images import PixelTransform
from jaxrecon.priors import SparseDepth
from jaxrecon.reconstruction import Reconstruction

HEIGHT, WIDTH = 24, 32
CROPPED = PixelTransform((WIDTH, HEIGHT), (14, 10), (0.5, 0.5), (-1.0, -1.0))
"""Half the size, then one pixel cut off all around."""
MATRIX = np.array([[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]])


def bumpy_depth(poses: np.ndarray) -> np.ndarray:
    """Depth of the surface z = 3 + 0.2 sin(2x) seen along z, found by iteration."""
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    x, _ = (column - MATRIX[0, 2]) / MATRIX[0, 0], row
    depth = np.full((len(poses), HEIGHT, WIDTH), 3.0)
    for _ in range(50):
        depth = (
            3
            + 0.2 * np.sin(2 * (x * depth + poses[:, 0, 3, None, None]))
            - poses[:, 2, 3, None, None]
        )
    return depth.astype(np.float32)


def with_third_turned(truth: GroundTruth, degrees: float) -> np.ndarray:
    """Its poses, of which the third is turned about the vertical axis."""
    poses, turn = np.array(truth.world_from_camera), np.radians(degrees)
    poses[2, :3, :3] = [
        [np.cos(turn), 0, np.sin(turn)],
        [0, 1, 0],
        [-np.sin(turn), 0, np.cos(turn)],
    ]
    return poses


def make_truth(xs: tuple[float, ...] = (0.0, 0.3, 0.5, 0.9), **changes: Any) -> GroundTruth:
    """Cameras beside each other in front of a bumpy wall."""
    poses = np.tile(np.eye(4), (len(xs), 1, 1))
    poses[:, 0, 3] = xs
    poses[:, 1, 3] = np.square(xs)
    truth = GroundTruth(
        "wall",
        np.zeros((len(xs), HEIGHT, WIDTH, 3), np.uint8),
        poses,
        np.tile(MATRIX, (len(xs), 1, 1)),
        bumpy_depth(poses),
    )
    return replace(truth, **changes)


def reconstruction(truth: GroundTruth, unit: float = 0.25) -> Reconstruction:
    """The truth in another unit and world, as a model would return it."""
    turn = np.array([[0.0, 0, 1, 4], [1, 0, 0, 5], [0, 1, 0, 6], [0, 0, 0, 1]])
    poses = turn @ np.asarray(truth.world_from_camera)
    poses[:, :3, 3] *= unit
    depth = np.asarray(truth.depth_z) * unit
    column, row = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack([(column - 15.5) / 30, (row - 11.5) / 30, np.ones((HEIGHT, WIDTH))], axis=-1)
    camera = rays * depth[..., None]
    world = np.einsum("vij,vhwj->vhwi", poses[:, :3, :3], camera) + poses[:, None, None, :3, 3]
    size = (WIDTH, HEIGHT)
    return Reconstruction(
        points_world=world.astype(np.float32),
        points_camera=camera.astype(np.float32),
        confidence=np.ones(depth.shape, np.float32),
        mask=np.ones(depth.shape, bool),
        colors=np.asarray(truth.images),
        world_from_camera=poses.astype(np.float32),
        intrinsics=np.asarray(truth.intrinsics, np.float32),
        names=tuple(map(str, range(len(truth)))),
        transforms=(PixelTransform.stretch(size, size),) * len(truth),
        model="oracle",
    )


@dataclass
class Oracle:
    """Returns prepared reconstructions in turn and keeps what it was asked."""

    answers: list[Reconstruction]
    asked: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def reconstruct(self, *args: Any, **kwargs: Any) -> Reconstruction:
        self.asked.append((args[0], kwargs))
        return self.answers[len(self.asked) - 1]


def at_few_pixels(truth: GroundTruth) -> GroundTruth:
    """The truth, of whose depth every 35th pixel is known: none beside another."""
    depth = np.asarray(truth.depth_z)
    few = np.arange(depth[0].size).reshape(depth[0].shape) % 35 == 0
    return replace(truth, depth_z=np.where(few, depth, 0))


def at_places(truth: GroundTruth) -> GroundTruth:
    """The same as depth at places."""
    assert truth.depth_z is not None
    return replace(truth, depth_z=None, sparse_depth=tuple(map(SparseDepth.of_map, truth.depth_z)))


def judge(recon: Reconstruction, truth: GroundTruth, **settings: Any) -> Report:
    return evaluate(Oracle([recon]), [truth], settings=Settings(**settings))


class TestProcessing:
    def test_depth_after_a_crop(self) -> None:
        """Processed pixel 0 covers original 2 and 3; its centre, 2.5, is nearest to 3."""
        depth = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
        found = processed_depth(depth, CROPPED)
        assert found.shape == (10, 14)
        np.testing.assert_array_equal(found, depth[3:22:2, 3:30:2])

    def test_unknown_depth_is_zero(self) -> None:
        depth = np.ones((HEIGHT, WIDTH), np.float32)
        depth[3, 3:8] = np.nan, 5, np.inf, 5, -1
        np.testing.assert_array_equal(processed_depth(depth, CROPPED)[0, :4], [0, 0, 0, 1])

    @pytest.mark.parametrize("form", [lambda truth: truth, at_places])
    def test_no_sparse_depth_is_lost(self, form: Callable[[GroundTruth], GroundTruth]) -> None:
        """No known pixel is the nearest to a processed one, and the corner is cut off."""
        depth = np.zeros((1, HEIGHT, WIDTH), np.float32)
        depth[0, 5, 8], depth[0, 2, 2], depth[0, 0, 0] = 3, 7, 5
        truth = form(GroundTruth("few", np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), depth_z=depth))
        found = process(truth, (CROPPED,)).depth_z
        assert found is not None
        assert np.argwhere(found[0]).tolist() == [[0, 0], [1, 3]]
        assert (found[0, 0, 0], found[0, 1, 3]) == (7, 3)

    def test_dense_depth_with_holes_is_that_of_the_nearest_pixel(self) -> None:
        """A view of which little is known does not make a set of dense maps sparse."""
        depth = np.ones((2, HEIGHT, WIDTH), np.float32)
        depth[1] = 0
        depth[1, 5, 8] = 3
        truth = GroundTruth("holes", np.zeros((2, HEIGHT, WIDTH, 3), np.uint8), depth_z=depth)
        assert not truth.depth_is_sparse
        found = process(truth, (CROPPED,) * 2).depth_z
        assert found is not None
        assert found[0].all() and not found[1].any()

    def test_outside_of_the_original_is_unknown(self) -> None:
        padded = PixelTransform((2, 2), (4, 2), (1.0, 1.0), (1.0, 0.0))
        found = processed_depth(np.array([[1.0, 2], [3, 4]]), padded)
        np.testing.assert_array_equal(found, [[0, 1, 2, 0], [0, 3, 4, 0]])

    def test_intrinsics_go_there_and_back(self) -> None:
        """The centre 15.5 is 16 from the corner, 8 at half the size, 7 once cropped: 6.5."""
        found = processed_intrinsics(MATRIX, CROPPED)
        np.testing.assert_allclose(found, [[15, 0, 6.5], [0, 15, 4.5], [0, 0, 1]], atol=1e-12)
        np.testing.assert_allclose(CROPPED.intrinsics_to_original(found), MATRIX, atol=1e-12)

    def test_images_that_do_not_fit(self) -> None:
        truth = make_truth((0.0, 1.0))
        with pytest.raises(InputError, match="wall: the model gave 1 views for 2 images"):
            process(truth, [CROPPED])
        other = replace(CROPPED, original_size=(WIDTH, 7))
        with pytest.raises(InputError, match="wall: image 1 is 32x7 pixels, its depth 32x24"):
            process(truth, [CROPPED, other])
        with pytest.raises(InputError, match=r"wall: intrinsics: view 1: .* outside its image"):
            process(replace(truth, depth_z=None), [CROPPED, other])

    @pytest.mark.parametrize(
        ("matrix", "told"),
        [
            (MATRIX / [[WIDTH], [HEIGHT], [1]], "found focal lengths"),
            (MATRIX * [[1e6], [1e6], [1]], "found focal lengths"),
            (MATRIX @ [[1, 0.3, 0], [0, 1, 0], [0, 0, 1]], "found the skew 9"),
            (MATRIX * [[3], [3], [1]], "found the principal point .* outside its image"),
        ],
        ids=["normalised", "micrometres", "skew", "of a larger copy"],
    )
    def test_cameras_of_other_images(self, matrix: np.ndarray, told: str) -> None:
        truth = make_truth((0.0, 1.0), intrinsics=np.stack([MATRIX, matrix]))
        with pytest.raises(InputError, match=f"wall: intrinsics: view 1: {told}"):
            process(truth, [CROPPED] * 2)

    def test_depth_that_is_none(self) -> None:
        depth = bumpy_depth(np.tile(np.eye(4), (2, 1, 1)))
        depth[1, 3:9] = 1e30
        with pytest.raises(InputError, match=r"wall: image 1 has the depth 1e\+30, above 1e\+12"):
            process(make_truth((0.0, 1.0), depth_z=depth), [CROPPED] * 2)


class TestEvaluate:
    def test_the_truth_in_another_unit_is_perfect(self) -> None:
        truth = make_truth()
        report = judge(reconstruction(truth), truth)
        (scene,) = report.scenes
        assert (scene.views, scene.all_pairs, scene.notes) == (4, 6, ())
        values = scene.values()
        for name in ("auc_5", "rra_5", "rta_5", "delta_1", "delta_2"):
            assert values[name] == 1
        for name in ("ate", "rpe_translation", "abs_rel", "rmse", "accuracy", "completeness"):
            assert values[name] == pytest.approx(0, abs=2e-6)
        assert values["normals"] == pytest.approx(1, abs=1e-3)
        assert values["rotation_mean"] == pytest.approx(0, abs=1e-4)

    def test_after_resizing_and_cropping(self) -> None:
        """A model that sees cropped images is judged at the pixels that it saw."""
        truth = make_truth()
        whole = reconstruction(truth)
        pixels = (slice(None), slice(3, 22, 2), slice(3, 30, 2))
        arrays = ("points_world", "points_camera", "confidence", "mask", "colors")
        cropped = replace(
            whole,
            **{name: getattr(whole, name)[pixels] for name in arrays},
            transforms=(CROPPED,) * len(truth),
        )
        assert judge(cropped, truth).mean()["abs_rel"] < 1e-6

    def test_only_overlapping_pairs_count(self) -> None:
        """Views 3 m wide at 3 m distance: 2.5 m apart they share little, 0.5 m apart much."""
        truth = make_truth((0.0, 0.5, 2.5))
        recon = reconstruction(truth)
        assert judge(recon, truth, min_overlap=0.5).scenes[0].pairs == 1
        everything = judge(recon, truth, min_overlap=0.0)
        assert everything.scenes[0].pairs == 3
        assert "pairs: all (1 scene)" in everything.text()
        unknown = judge(recon, replace(truth, intrinsics=None), min_overlap=0.5)
        assert unknown.scenes[0].pairs == 3
        nothing = judge(recon, truth, min_overlap=1.0)
        assert nothing.scenes[0].pose is None
        assert "no pose metrics: no pair of views overlaps enough" in nothing.text()

    def test_only_pairs_turned_by_little_count(self) -> None:
        truth = make_truth((0.0, 0.5, 1.0))
        poses = with_third_turned(truth, 40.0)
        recon, truth = reconstruction(truth), replace(truth, world_from_camera=poses)
        near = judge(recon, truth, min_overlap=0.0, max_angle=39.0)
        assert near.scenes[0].pairs == 1
        assert near.scenes[0].all_pairs == 3
        assert "turned by at most 39 degrees" in near.text()
        assert near.mean()["rotation_mean"] == pytest.approx(0, abs=1e-4)
        far = judge(recon, truth, min_overlap=0.0, max_angle=41.0)
        assert far.scenes[0].pairs == 3
        poses[1, :3, :3] = poses[2, :3, :3].T
        none = judge(recon, replace(truth, world_from_camera=poses), max_angle=30.0)
        assert none.scenes[0].pose is None
        assert "no pose metrics: no two views are turned by at most 30 degrees" in none.text()

    @pytest.mark.parametrize("form", [at_few_pixels, lambda t: at_places(at_few_pixels(t))])
    def test_sparse_depth_leaves_the_choice_of_pairs_to_the_angle(
        self, form: Callable[[GroundTruth], GroundTruth]
    ) -> None:
        """Few pixels of depth are seen by two views, so overlap would leave no pair."""
        truth = make_truth((0.0, 0.5, 1.0))
        recon, truth = reconstruction(truth), form(truth)
        poses = with_third_turned(truth, 70.0)
        truth = replace(truth, world_from_camera=poses)
        report = judge(recon, truth)
        scene = report.scenes[0]
        assert (scene.pairs, scene.all_pairs) == (1, 3)
        assert (scene.by_overlap, scene.max_angle) == (False, 60)
        assert report.as_dict()["scenes"][0]["max_angle"] == 60
        assert "pairs: all (1 scene), turned by at most 60 degrees" in report.text()
        assert "the depth is too sparse to tell overlap: pairs are chosen by" in report.text()
        assert report.mean()["abs_rel"] < 1e-6
        asked = judge(recon, truth, max_angle=75.0).scenes[0]
        assert (asked.pairs, asked.max_angle) == (3, 75)
        every = judge(recon, truth, min_overlap=0.0)
        assert (every.scenes[0].pairs, every.scenes[0].max_angle) == (3, 180)
        assert "too sparse" not in every.text()

    def test_sparse_depth_has_no_edges(self) -> None:
        """Though of neighbouring pixels one is twice as far."""
        truth = make_truth()
        depth = np.zeros_like(truth.depth_z)
        depth[:, 4, 4:8] = 1, 2, 1, 2
        scene = judge(reconstruction(truth), replace(truth, depth_z=depth)).scenes[0]
        assert scene.depth is not None
        assert scene.depth.abs_rel > 0
        assert np.isnan(scene.depth.abs_rel_edges)

    def test_sparse_depth_has_points_and_no_normals(self) -> None:
        truth = make_truth()
        scene = judge(reconstruction(truth), at_places(at_few_pixels(truth))).scenes[0]
        assert scene.points is not None
        assert scene.points.accuracy < 1e-5
        assert np.isnan(scene.points.normals)

    def test_angles_of_sparse_and_of_dense_scenes(self) -> None:
        truth = make_truth()
        recon = reconstruction(truth)
        report = evaluate(Oracle([recon] * 2), [truth, at_few_pixels(truth)])
        overlapping = "those that overlap by at least 10 % (1 scene)"
        turned = "turned by at most 60 degrees (1 scene)"
        assert f"pairs: {overlapping}, all (1 scene), {turned}; translation" in report.text()

    def test_a_wrong_camera_shows(self) -> None:
        truth = make_truth()
        recon = reconstruction(truth)
        poses = np.array(recon.world_from_camera)
        poses[3, :3, 3] -= 1
        scene = judge(replace(recon, world_from_camera=poses), truth).scenes[0]
        assert scene.pose is not None and scene.trajectory is not None
        assert scene.pose.rta_5 == 0.5
        assert scene.pose.rra_5 == 1
        assert scene.trajectory.ate > 0.05

    def test_without_poses(self) -> None:
        truth = make_truth()
        report = judge(reconstruction(truth), replace(truth, world_from_camera=None))
        (scene,) = report.scenes
        assert (scene.pose, scene.trajectory, scene.points) == (None, None, None)
        assert scene.depth is not None
        assert "note: no pose metrics: the poses are not known (1 scene)" in report.text()

    def test_some_unknown_poses(self) -> None:
        truth = make_truth()
        poses = np.array(truth.world_from_camera)
        poses[1] = np.nan
        scene = judge(reconstruction(truth), replace(truth, world_from_camera=poses)).scenes[0]
        assert scene.all_pairs == 3
        assert scene.trajectory is not None and scene.points is not None
        assert scene.trajectory.ate < 1e-6
        assert scene.points.accuracy < 1e-5

    def test_some_unknown_intrinsics(self) -> None:
        truth = make_truth()
        cameras = np.array(truth.intrinsics)
        cameras[1] = np.nan
        scene = judge(reconstruction(truth), replace(truth, intrinsics=cameras)).scenes[0]
        assert scene.points is not None and scene.points.accuracy < 1e-5

    @pytest.mark.parametrize(
        ("kind", "left"),
        [
            ("world_from_camera", {"focal_error", "abs_rel"}),
            ("intrinsics", {"auc_30", "ate", "abs_rel"}),
            ("depth_z", {"auc_30", "ate", "focal_error"}),
        ],
    )
    def test_a_kind_that_is_unknown_of_all_views(self, kind: str, left: set[str]) -> None:
        truth = make_truth()
        unknown = np.full_like(getattr(truth, kind), np.nan)
        scene = judge(reconstruction(truth), replace(truth, **{kind: unknown})).scenes[0]
        assert {"auc_30", "ate", "focal_error", "abs_rel", "accuracy"} & set(scene.values()) == left

    def test_a_scene_far_from_the_origin(self) -> None:
        """As in the coordinates of a map, where float32 has steps of half a metre."""
        truth = make_truth()
        poses = np.array(truth.world_from_camera, np.float64)
        poses[:, :3, 3] += (5e5, 5e6, 0)
        scene = judge(reconstruction(truth), replace(truth, world_from_camera=poses)).scenes[0]
        assert scene.points is not None and scene.points.accuracy < 1e-5
        assert scene.pairs == judge(reconstruction(truth), truth).scenes[0].pairs

    def test_views_without_depth_are_counted(self) -> None:
        truth = make_truth()
        depth = np.array(truth.depth_z)
        depth[1] = np.nan
        depth[2, :5] = 0
        report = judge(reconstruction(truth), replace(truth, depth_z=depth))
        assert report.scenes[0].views_without_depth == 1
        assert report.mean()["abs_rel"] < 1e-6
        assert "views without depth: 1" in report.text()

    def test_poses_alone(self) -> None:
        truth = make_truth()
        report = judge(reconstruction(truth), replace(truth, intrinsics=None, depth_z=None))
        assert set(report.scenes[0].values()) >= {"auc_30", "ate"}
        assert report.scenes[0].depth is None
        assert report.scenes[0].views_without_depth == 4

    def test_one_view(self) -> None:
        truth = make_truth((0.0,))
        (scene,) = judge(reconstruction(truth), truth).scenes
        assert (scene.pose, scene.trajectory) == (None, None)
        assert scene.notes[0] == "no pose metrics: one view"
        assert scene.depth is not None and scene.depth.delta_1 == 1

    def test_two_views_have_no_trajectory(self) -> None:
        truth = make_truth((0.0, 0.3))
        (scene,) = judge(reconstruction(truth), truth).scenes
        assert scene.pose is not None and scene.trajectory is None
        assert scene.notes == ("no ATE and RPE: fewer than three known poses",)

    def test_cameras_in_one_place_have_no_trajectory(self) -> None:
        truth = make_truth((0.0, 0.0, 0.0))
        recon = reconstruction(make_truth((0.0, 0.3, 0.5)))
        (scene,) = judge(recon, truth).scenes
        assert scene.pose is not None and scene.trajectory is None
        assert scene.notes == ("no ATE and RPE: the true cameras stand in one place",)

    def test_a_prediction_that_is_not_finite(self) -> None:
        truth = make_truth()
        recon = reconstruction(truth)
        broken = replace(
            recon,
            points_world=np.full_like(recon.points_world, np.nan),
            points_camera=np.full_like(recon.points_camera, np.nan),
            world_from_camera=np.full_like(recon.world_from_camera, np.nan),
        )
        (scene,) = judge(broken, truth).scenes
        assert scene.pose is not None and scene.pose.auc_30 == 0
        assert (scene.trajectory, scene.depth, scene.points) == (None, None, None)
        assert [note.split(":")[0] for note in scene.notes] == [
            "no ATE and RPE",
            "no depth metrics",
            "no point metrics",
        ]

    def test_points_can_be_left_out(self) -> None:
        truth = make_truth()
        scene = judge(reconstruction(truth), truth, max_points=0).scenes[0]
        assert (scene.points, scene.notes) == (None, ())

    def test_images_and_options_reach_the_model(self, tmp_path: Path) -> None:
        truth = make_truth()
        files = tuple(tmp_path / f"{view}.png" for view in range(4))
        model, done = Oracle([reconstruction(truth)] * 2), []
        evaluate(
            model,
            [truth, replace(truth, images=files)],
            advance=lambda: done.append(1),
            resolution=28,
        )
        assert model.asked[0][0] is truth.images
        assert model.asked[1] == (list(files), {"resolution": 28})
        assert len(done) == 2

    def test_nothing_to_measure(self) -> None:
        truth = make_truth()
        bare = GroundTruth("bare", truth.images)
        with pytest.raises(
            InputError, match="nothing can be measured on 1 scenes: no pose metrics"
        ):
            judge(reconstruction(truth), bare)
        with pytest.raises(InputError, match="no scene to evaluate"):
            evaluate(Oracle([]), [])

    @pytest.mark.parametrize(
        ("wrong", "told"),
        [
            ({"min_overlap": 1.5}, "min_overlap is 1.5"),
            ({"max_angle": 0.0}, "max_angle is 0.0; give degrees above 0, up to 180"),
            ({"max_angle": 181.0}, "max_angle is 181.0"),
            ({"max_points": -1}, "max_points is -1"),
            ({"icp_distance": -1.0}, "icp_distance is -1.0"),
        ],
    )
    def test_settings_out_of_range(self, wrong: dict[str, Any], told: str) -> None:
        with pytest.raises(InputError, match=told):
            Settings(**wrong)

    def test_an_unknown_alignment(self, without_shape_checks: None) -> None:
        with pytest.raises(InputError, match="choose one of scale, scale_per_view, scale_shift"):
            Settings(depth_alignment="shift")  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
def report() -> Report:
    """One scene with everything, one with poses only, one with depth only."""
    truth = make_truth()
    recon = reconstruction(truth)
    truths = [
        truth,
        replace(truth, name="poses", intrinsics=None, depth_z=None),
        replace(truth, name="depth", world_from_camera=None),
    ]
    poses = np.array(recon.world_from_camera)
    poses[:, :3, 3] *= -1
    wrong = replace(recon, world_from_camera=poses)
    return evaluate(Oracle([recon, wrong, recon]), truths)


class TestReport:
    def test_pooled_over_all_pairs(self, report: Report) -> None:
        """Six perfect pairs by overlap, and six whose directions are opposite."""
        assert report.scenes[0].pairs == 6
        assert report.pooled is not None
        assert report.pooled.auc_30 == pytest.approx(0.5)
        assert report.mean()["auc_30"] == pytest.approx(0.5)
        assert report.median()["rta_30"] == 0.5

    def test_the_table(self, report: Report) -> None:
        lines = report.text().splitlines()
        assert lines[0] == "oracle: 3 scenes, 12 views"
        head, rows = lines[1], lines[3:6]
        assert [row.split()[0] for row in rows] == ["wall", "poses", "depth"]
        assert rows[1].split()[1:3] == ["4", "6"]
        assert rows[2].split()[2:8] == ["0", "-", "-", "-", "-", "-"]
        assert {len(line) for line in [head, *rows]} == {len(head)}
        said = "pairs: those that overlap by at least 10 % (1 scene), all (1 scene)"
        assert sum(said in line for line in lines) == 1

    def test_a_long_table_is_cut(self, report: Report) -> None:
        text = report.text(scenes=1)
        assert "... and 2 more scenes" in text
        assert "depth  " not in text.split("...")[0]

    def test_json(self, report: Report, tmp_path: Path) -> None:
        stored = json.loads(report.to_json(tmp_path / "new" / "report.json").read_text())
        assert stored == json.loads(json.dumps(report.as_dict()))
        assert stored["pooled"]["auc_30"] == pytest.approx(0.5)
        assert [scene["name"] for scene in stored["scenes"]] == ["wall", "poses", "depth"]
        assert "abs_rel" not in stored["scenes"][1]
        assert stored["settings"]["min_overlap"] == 0.1

    def test_a_number_that_is_not_known_is_null(self) -> None:
        truth = make_truth((0.0, 0.0))
        report = judge(reconstruction(truth), truth)
        assert report.as_dict()["scenes"][0]["translation_mean"] is None
        assert report.as_dict()["scenes"][0]["auc_30"] == 1

    @pytest.mark.parametrize("name", ["report.png", "report.pdf"])
    def test_the_picture(self, report: Report, tmp_path: Path, name: str) -> None:
        path = report.plot(tmp_path / name)
        assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")

    def test_the_picture_of_a_report_without_poses(self, tmp_path: Path) -> None:
        truth = make_truth()
        report = judge(reconstruction(truth), replace(truth, world_from_camera=None))
        with Image.open(report.plot(tmp_path / "report.png")) as picture:
            assert picture.size == (1320, 960)

    def test_a_picture_of_no_known_kind(self, report: Report, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"ends in .png, .pdf, .svg, .jpg"):
            report.plot(tmp_path / "report.bmp")
