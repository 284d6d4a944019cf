"""Every metric against a case computed by hand."""

import numpy as np
import pytest
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from jaxrecon.errors import InputError
from jaxrecon.evaluation import (
    Cloud,
    PairErrors,
    UnitErrors,
    camera_errors,
    depth_errors,
    point_errors,
    pose_auc,
    pose_scores,
    refine_by_icp,
    relative_pose_errors,
    share_below,
    trajectory_errors,
    unit_errors,
)
from jaxrecon.geometry import beside_depth_edges


def pose(centre: tuple[float, float, float], degrees: float = 0.0, axis: str = "z") -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler(axis, degrees, degrees=True).as_matrix()
    matrix[:3, 3] = centre
    return matrix


def poses(*centres: tuple[float, float, float]) -> np.ndarray:
    return np.stack([pose(centre) for centre in centres])


class TestPairErrors:
    TRUE = poses((0, 0, 0), (1, 0, 0))

    def test_angles_of_one_pair(self) -> None:
        """Predicted: turned by 30 degrees, and moved 60 degrees away from the x axis."""
        sixty = np.radians(60)
        found = np.stack([pose((0, 0, 0)), pose((3 * np.cos(sixty), 3 * np.sin(sixty), 0), 30)])
        errors = relative_pose_errors(found, self.TRUE)
        np.testing.assert_allclose(errors.rotation, [30], atol=1e-9)
        np.testing.assert_allclose(errors.translation, [60], atol=1e-9)
        np.testing.assert_allclose(errors.worst, [60], atol=1e-9)

    @pytest.mark.parametrize("degrees", [1e-6, 1e-3, 90.0, 179.999])
    def test_rotation_angles_keep_their_precision(self, degrees: float) -> None:
        found = np.stack([pose((0, 0, 0)), pose((1, 0, 0), degrees, axis="y")])
        errors = relative_pose_errors(found, self.TRUE)
        np.testing.assert_allclose(errors.rotation, [degrees], rtol=1e-6)
        assert errors.translation[0] == 0

    def test_the_wrong_side_counts_unless_signs_are_folded(self) -> None:
        found = poses((0, 0, 0), (-1, 0, 0))
        assert relative_pose_errors(found, self.TRUE).translation[0] == 180
        assert relative_pose_errors(found, self.TRUE, fold_sign=True).translation[0] == 0

    def test_another_world_and_unit_make_no_difference(self) -> None:
        rng = np.random.default_rng(0)
        true = np.stack([pose(tuple(rng.normal(size=3)), 50 * n, axis="y") for n in range(4)])
        found = pose((5, 6, 7), 40, axis="x") @ true
        found[:, :3, 3] *= 3
        errors = relative_pose_errors(found, true)
        assert list(zip(errors.first, errors.second, strict=True)) == [
            (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3),
        ]  # fmt: skip
        np.testing.assert_allclose(errors.worst, np.zeros(6), atol=1e-5)

    def test_translation_is_seen_from_the_first_camera(self) -> None:
        """Camera 0 turned by 10 degrees turns the direction to camera 1 and the relative turn."""
        found = np.stack([pose((0, 0, 0), 10), pose((1, 0, 0))])
        errors = relative_pose_errors(found, self.TRUE)
        np.testing.assert_allclose([errors.rotation[0], errors.translation[0]], 10, atol=1e-9)
        found = np.stack([pose((0, 0, 0)), pose((1, 0, 0), 10)])
        assert relative_pose_errors(found, self.TRUE).translation[0] == 0

    def test_coinciding_true_cameras_have_no_direction(self) -> None:
        true = poses((1, 1, 1), (1, 1, 1), (2, 1, 1))
        errors = relative_pose_errors(poses((0, 0, 0), (5, 5, 5), (1, 0, 0)), true)
        np.testing.assert_array_equal(np.isnan(errors.translation), [True, False, False])
        assert errors.worst[0] == errors.rotation[0] == 0

    def test_no_predicted_direction_is_90_degrees(self) -> None:
        assert relative_pose_errors(poses((0, 0, 0), (0, 0, 0)), self.TRUE).translation[0] == 90

    def test_a_prediction_that_is_not_finite_fails(self) -> None:
        found = self.TRUE.copy()
        found[1, 0, 3] = np.nan
        errors = relative_pose_errors(found, self.TRUE)
        assert (errors.rotation[0], errors.translation[0]) == (180, 180)

    def test_unknown_true_poses_are_left_out(self) -> None:
        true = poses((0, 0, 0), (1, 0, 0), (2, 0, 0))
        true[1] = np.nan
        errors = relative_pose_errors(poses((0, 0, 0), (1, 0, 0), (2, 0, 0)), true)
        assert (errors.first.tolist(), errors.second.tolist()) == ([0], [2])


class TestPoseScores:
    def test_auc_by_hand(self) -> None:
        """Bins of one degree hold 1, 1, 0, 0, 2 of 5 pairs: the last bin includes 5.0."""
        worst = np.array([0.5, 1.0, 4.999, 5.0, 7.0])
        assert pose_auc(worst, 5) == pytest.approx((0.2 + 0.4 + 0.4 + 0.4 + 0.8) / 5, abs=1e-12)

    def test_auc_at_its_ends(self) -> None:
        assert pose_auc(np.zeros(3), 30) == pytest.approx(1.0, abs=1e-12)
        assert pose_auc(np.array([30.0]), 30) == pytest.approx(1 / 30, abs=1e-12)
        assert pose_auc(np.array([30.0001]), 30) == 0

    def test_shares_are_below_and_of_known_angles(self) -> None:
        assert share_below(np.array([1.0, 5.0, np.nan, 9.0]), 5.0) == pytest.approx(1 / 3)
        assert np.isnan(share_below(np.array([np.nan]), 5.0))

    def test_summary(self) -> None:
        pairs = np.arange(4)
        errors = PairErrors(
            pairs, pairs + 1, np.array([1.0, 2.0, 3.0, 20.0]), np.array([8.0, np.nan, 4.0, 1.0])
        )
        scores = pose_scores(errors)
        assert (scores.rotation_mean, scores.rotation_median) == (6.5, 2.5)
        assert scores.translation_mean == pytest.approx(13 / 3)
        assert scores.translation_median == 4
        assert (scores.rra_5, scores.rra_15, scores.rra_30) == (0.75, 0.75, 1)
        assert (scores.rta_5, scores.rta_15) == (pytest.approx(2 / 3), 1)
        assert scores.auc_10 == pytest.approx((8 * 0.25 + 6 * 0.25 + 2 * 0.25) / 10, abs=1e-12)

    def test_selection_and_pooling(self) -> None:
        one = relative_pose_errors(poses((0, 0, 0), (0, 1, 0)), TestPairErrors.TRUE)
        two = relative_pose_errors(TestPairErrors.TRUE, TestPairErrors.TRUE)
        pooled = PairErrors.pooled([one, two])
        np.testing.assert_allclose(pooled.translation, [90, 0], atol=1e-12)
        assert len(pooled.select(pooled.translation < 45)) == 1

    def test_refusals(self) -> None:
        with pytest.raises(InputError, match="no pair of views"):
            pose_auc(np.empty(0), 30)
        with pytest.raises(InputError, match="threshold is 0"):
            pose_auc(np.zeros(1), 0)


class TestTrajectory:
    LINE = poses((-1, 0, 0), (0, 0, 0), (1, 0, 0))

    def test_a_tent_over_a_line(self) -> None:
        """The fit halves the tent: every centre is sqrt(1/3) off, every step 1."""
        errors = trajectory_errors(poses((-1, 0, 0), (0, np.sqrt(3), 0), (1, 0, 0)), self.LINE)
        assert errors.ate == pytest.approx(np.sqrt(1 / 3), abs=1e-12)
        assert errors.rpe_translation == pytest.approx(1.0, abs=1e-12)
        assert errors.rpe_rotation == pytest.approx(0.0, abs=1e-6)

    def test_one_turned_view(self) -> None:
        """Only the last of two steps is off, by 30 degrees."""
        found = self.LINE.copy()
        found[2] = pose((1, 0, 0), 30, axis="x")
        errors = trajectory_errors(found, self.LINE)
        assert errors.rpe_rotation == pytest.approx(30 / np.sqrt(2), abs=1e-9)
        assert errors.ate == pytest.approx(0.0, abs=1e-12)

    def test_another_world_and_unit_make_no_difference(self) -> None:
        true = poses((0, 0, 0), (1, 0, 0), (1, 2, 0), (0, 0, 3))
        found = pose((5, 6, 7), 40, axis="x") @ true
        found[:, :3, 3] *= 0.1
        errors = trajectory_errors(found, true)
        np.testing.assert_allclose([errors.ate, errors.rpe_translation], 0, atol=1e-12)

    def test_two_views_are_too_few(self) -> None:
        with pytest.raises(InputError, match="at least 3 views; there are 2"):
            trajectory_errors(self.LINE[:2], self.LINE[:2])

    def test_cameras_in_one_place(self) -> None:
        """Scaled down to nothing, any prediction would fit."""
        with pytest.raises(InputError, match="the true cameras stand in one place"):
            trajectory_errors(self.LINE, poses((1, 2, 3), (1, 2, 3), (1, 2, 3 + 1e-9)))


def row(*values: float) -> np.ndarray:
    """One view of one row of pixels."""
    return np.array([[values]], np.float64)


class TestDepth:
    def test_after_one_median_scale(self) -> None:
        """Ratios 2, 2, 2, 4: the aligned depth is 2, 4, 8, 2."""
        found, true = row(1, 2, 4, 1), row(2, 4, 8, 4)
        errors = depth_errors(found, true, true > 0)
        assert errors.abs_rel == pytest.approx(0.5 / 4)
        assert errors.rmse == pytest.approx(1.0)
        assert (errors.delta_1, errors.delta_2) == (0.75, 0.75)

    def test_not_aligned(self) -> None:
        found, true = row(1, 1.3, 3), row(1, 1, 1)
        errors = depth_errors(found, true, true > 0, alignment="metric")
        assert errors.abs_rel == pytest.approx(2.3 / 3)
        assert errors.delta_1 == pytest.approx(1 / 3)
        assert errors.delta_2 == pytest.approx(2 / 3)

    def test_one_scale_for_all_views_or_one_each(self) -> None:
        found = np.ones((2, 1, 3))
        true = np.stack([np.full((1, 3), 2.0), np.full((1, 3), 4.0)])
        mask = np.ones_like(true, bool)
        assert depth_errors(found, true, mask, alignment="scale_per_view").abs_rel == 0
        shared = depth_errors(found, true, mask, alignment="scale")
        assert shared.abs_rel == pytest.approx((1 / 2 + 1 / 4) / 2)

    def test_scale_and_shift_pass_an_outlier_by(self) -> None:
        found = row(1, 2, 3, 4, 5)
        true = row(3, 5, 7, 9, 1100)
        errors = depth_errors(found, true, true > 0, alignment="scale_shift")
        assert errors.delta_1 == pytest.approx(0.8)
        assert errors.rmse == pytest.approx((1100 - 11) / np.sqrt(5), rel=1e-4)

    def test_only_the_mask_counts(self) -> None:
        found, true = row(1, 2, np.nan), row(1, 2, 3)
        assert depth_errors(found, true, np.array([[[True, True, False]]])).abs_rel == 0

    def test_a_depth_that_is_not_positive_fails_the_deltas(self) -> None:
        found, true = row(1, 1, 1, -1), row(2, 2, 2, 2)
        errors = depth_errors(found, true, true > 0)
        assert (errors.abs_rel, errors.delta_1, errors.delta_2) == (0.5, 0.75, 0.75)

    def test_beside_an_edge(self) -> None:
        """A step from 1 to 2 between the sixth and the seventh pixel of twelve."""
        true = np.repeat([[[1.0, 2.0]]], 6, axis=-1)
        expected = [False, False, *[True] * 8, False, False]
        found = true * 1.0
        found[0, 0, :4] *= 1.25  # the last two of these are beside it
        errors = depth_errors(found, true, true > 0)
        assert beside_depth_edges(true, true > 0)[0, 0].tolist() == expected
        assert errors.abs_rel == pytest.approx(4 * 0.25 / 12)
        assert errors.abs_rel_edges == pytest.approx(2 * 0.25 / 8)

    def test_where_no_edge_is(self) -> None:
        """Depth that rises by less than a tenth, and depth known at scattered pixels."""
        ramp = np.cumprod(np.full((1, 1, 40), 1.04), axis=-1)
        assert np.isnan(depth_errors(ramp, ramp, ramp > 0).abs_rel_edges)
        scattered = np.zeros((2, 9, 9), bool)
        scattered[:, ::4, ::4] = True
        steep = np.random.default_rng(0).uniform(1, 9, scattered.shape)
        assert not beside_depth_edges(steep, scattered).any()

    def test_an_edge_does_not_reach_into_other_views_or_unknown_pixels(self) -> None:
        true = np.ones((2, 9, 9))
        true[0, :, 4:] = 3
        mask = np.ones_like(true, bool)
        mask[0, :, 5] = False
        found = beside_depth_edges(true, mask)
        assert not found[1].any() and not found[0, :, 5].any() and found[0, :, [3, 4, 6]].all()

    def test_refusals(self) -> None:
        true = row(1, 2)
        with pytest.raises(InputError, match="no pixel"):
            depth_errors(true, true, np.zeros_like(true, bool))
        with pytest.raises(InputError, match="not finite"):
            depth_errors(row(np.nan, 1), true, true > 0)


SQUARE = np.array([[1.0, 1, 0], [-1, -1, 0], [1, -1, 0], [-1, 1, 0]])
UP = np.tile([0.0, 0.0, 1.0], (4, 1))


class TestPoints:
    def test_a_bent_square(self) -> None:
        """Corners up and down by 1: the scale is 2/3, each corner then sqrt(2/3) off."""
        bent = SQUARE + np.array([[0, 0, 1.0], [0, 0, 1], [0, 0, -1], [0, 0, -1]])
        errors = point_errors(Cloud(bent, UP), Cloud(SQUARE, UP), icp_distance=0.0)
        for value in vars(errors).values():
            assert value == pytest.approx(
                1.0 if value in (errors.normals, errors.normals_median) else np.sqrt(2 / 3),
                abs=1e-12,
            )

    def test_a_similar_cloud_has_no_error(self) -> None:
        rng = np.random.default_rng(0)
        points, normals = rng.normal(size=(300, 3)), rng.normal(size=(300, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        turn = Rotation.from_rotvec([0.4, 0.2, -1]).as_matrix()
        moved = Cloud(0.2 * points @ turn.T + 5, -normals @ turn.T)
        errors = point_errors(moved, Cloud(points, normals))
        np.testing.assert_allclose([errors.accuracy, errors.completeness], 0, atol=1e-9)
        np.testing.assert_allclose([errors.normals, errors.normals_median], 1, atol=1e-9)

    def test_normals_by_their_absolute_cosine_where_known(self) -> None:
        tilted = np.array([[0, 0, -1.0], [0, 0.6, 0.8], [0, 0, 0], [0, 0, 0]])
        errors = point_errors(Cloud(SQUARE, tilted), Cloud(SQUARE, UP))
        assert errors.normals == pytest.approx(0.9)

    def test_thinning_is_bounded_and_repeatable(self) -> None:
        rng = np.random.default_rng(1)
        points = rng.normal(size=(500, 3))
        found = Cloud(points + 0.05 * rng.normal(size=(500, 3)), np.zeros((500, 3)))
        true = Cloud(points, np.zeros((500, 3)))
        once, again = (point_errors(found, true, max_points=50, seed=7) for _ in range(2))
        other = point_errors(found, true, max_points=50, seed=8)
        assert once.accuracy == again.accuracy != other.accuracy
        assert np.isnan(once.normals)

    def test_icp_pulls_a_shifted_grid_into_place(self) -> None:
        grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
        shift = np.array([0.05, -0.02, 0.04])
        refined = refine_by_icp(grid + shift, grid, KDTree(grid), distance=0.1)
        np.testing.assert_allclose(refined.translation, -shift, atol=1e-9)
        too_far = refine_by_icp(grid + shift, grid, KDTree(grid), distance=0.01)
        np.testing.assert_allclose(too_far.translation, np.zeros(3), atol=1e-12)

    def test_refusals(self) -> None:
        with pytest.raises(InputError, match="must correspond"):
            point_errors(Cloud(SQUARE, UP), Cloud(SQUARE[:3], UP[:3]))
        with pytest.raises(InputError, match="at least 3"):
            point_errors(Cloud(SQUARE[:2], UP[:2]), Cloud(SQUARE[:2], UP[:2]))
        with pytest.raises(InputError, match="not finite"):
            point_errors(Cloud(SQUARE * np.nan, UP), Cloud(SQUARE, UP))


class TestCameras:
    CAMERA = np.array([[100.0, 0, 49.5], [0, 100.0, 39.5], [0, 0, 1]])

    def test_focal_lengths_and_fields_of_view(self) -> None:
        true = np.stack([self.CAMERA] * 2)
        guess = true.copy()
        guess[0, 0, 0], guess[1, 1, 1] = 110, 90
        found = camera_errors(guess, true, np.ones(2, bool), 100)
        assert found is not None
        assert found.focal_error == pytest.approx(0.05)
        wide = 2 * np.rad2deg(np.arctan(0.5) - np.arctan(50 / 110))
        assert found.fov_error == pytest.approx(wide / 2)
        narrow = camera_errors(guess, true, np.ones(2, bool), np.array([40, 100]))
        assert narrow is not None and narrow.focal_error == found.focal_error
        wide = 2 * np.rad2deg(np.arctan(0.2) - np.arctan(20 / 110))
        assert narrow.fov_error == pytest.approx(wide / 2)

    def test_views_whose_camera_is_not_known_do_not_count(self) -> None:
        guess = np.stack([self.CAMERA, np.full((3, 3), np.nan)])
        known = np.array([True, False])
        found = camera_errors(guess, np.stack([self.CAMERA] * 2), known, 100)
        assert found is not None and found.focal_error == found.fov_error == 0

    @pytest.mark.parametrize("focal", [np.nan, 0.0, -5.0])
    def test_what_is_no_camera_is_not_measured(self, focal: float) -> None:
        guess = self.CAMERA.copy()
        guess[0, 0] = focal
        assert camera_errors(guess[None], self.CAMERA[None], np.ones(1, bool), 100) is None
        assert camera_errors(self.CAMERA[None], self.CAMERA[None], np.zeros(1, bool), 100) is None


class TestUnit:
    """The scale of depths beside that of camera positions."""

    def errors(self, **change: np.ndarray) -> UnitErrors | None:
        poses = np.tile(np.eye(4), (3, 1, 1))
        poses[:, :3, 3] = [[0, 0, 0], [1, 0, 0], [0, 2, 0]]
        depth = np.linspace(1, 3, 3 * 4 * 5).reshape(3, 4, 5)
        mask = np.ones_like(depth, bool)
        mask[0] = False
        given = {"predicted": poses, "predicted_depth": depth, "true": poses, "mask": mask}
        return unit_errors(**{"true_depth": depth, **given, **change})

    def test_a_common_scale_does_not_count(self) -> None:
        poses = np.tile(np.eye(4), (3, 1, 1))
        poses[:, :3, 3] = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0]]) * 0.5 + 7
        depth = 0.5 * np.linspace(1, 3, 3 * 4 * 5).reshape(3, 4, 5)
        depth[0] = 100.0  # not known
        found = self.errors(predicted=poses, predicted_depth=depth)
        assert found is not None and found.unit_error == pytest.approx(0)

    @pytest.mark.parametrize("factor", [1.25, 0.8])
    def test_depths_that_are_too_far_or_too_near_count_alike(self, factor: float) -> None:
        depth = factor * np.linspace(1, 3, 3 * 4 * 5).reshape(3, 4, 5)
        found = self.errors(predicted_depth=depth)
        assert found is not None and found.unit_error == pytest.approx(0.25)

    def test_what_has_no_scale(self) -> None:
        one_place = np.tile(np.eye(4), (3, 1, 1))
        assert self.errors(true=one_place) is None
        assert self.errors(predicted=one_place) is None
        assert self.errors(predicted_depth=np.zeros((3, 4, 5))) is None
        assert self.errors(mask=np.zeros((3, 4, 5), bool)) is None
        assert self.errors(true=one_place[:0], predicted=one_place[:0]) is None
