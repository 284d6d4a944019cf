"""What a user says is known of the views: accepted in every sound form, refused in the others."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon import InputError
from jaxrecon.deprecation import renamed_arguments
from jaxrecon.images import PixelTransform
from jaxrecon.models import MAPANYTHING_RESIZE, PI3_RESIZE, AspectRule
from jaxrecon.models.mapanything.priors import geometry_of
from jaxrecon.priors import PriorArrays, ViewPriors, prior_arrays, prior_world
from jaxrecon.priors.doubts import doubts
from one_program import one_program

WIDE = PixelTransform.stretch((60, 40), (42, 28))
MATRIX = np.array([[50.0, 0, 29.5], [0, 48.0, 19.5], [0, 0, 1]])
POSE = np.eye(4)
DEPTH = np.full((40, 60), 2.0)
geometry, world_of = one_program(geometry_of), one_program(prior_world)


def known(views: int = 2, **given: Any) -> PriorArrays:
    rule = MAPANYTHING_RESIZE.resized_intrinsics
    return prior_arrays(ViewPriors(**given), [WIDE] * views, rule)


def poses_at(*positions: tuple[float, float, float]) -> np.ndarray:
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, 3] = positions
    return poses


def centred_at(x: float, y: float) -> np.ndarray:
    matrix = MATRIX.copy()
    matrix[:2, 2] = x, y
    return matrix


class TestForms:
    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize("form", [lambda a: a, list, lambda a: dict(enumerate(a))])
    def test_masked_depth_is_unknown(self, form: Any) -> None:
        masked = np.ma.masked_array(np.full((2, 40, 60), 2.0))
        masked[0, 3, 5] = np.ma.masked
        maps = ViewPriors(depths=form(masked)).by_view("depths", 2)
        expected = np.full((2, 40, 60), 2.0)
        expected[0, 3, 5] = 0
        for view in range(2):
            np.testing.assert_array_equal(maps[view], expected[view])

    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize(("kind", "matrix"), [("intrinsics", MATRIX), ("poses", POSE)])
    def test_masked_matrices(self, kind: str, matrix: np.ndarray) -> None:
        given: Any = {kind: [matrix, np.ma.masked_array(matrix, matrix == 1)]}
        with pytest.raises(InputError, match=f"{kind}: view 1: found masked numbers; give None"):
            ViewPriors(**given)

    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize("views", [1, 2, 3])
    @pytest.mark.parametrize(
        "matrix", [MATRIX, MATRIX.tolist(), jnp.asarray(np.float32(MATRIX))], ids=type
    )
    def test_one_camera_for_all(self, views: int, matrix: Any) -> None:
        made = known(views, intrinsics=matrix)
        assert np.asarray(made.has_intrinsics).all()
        each = known(views, intrinsics=[MATRIX] * views)
        np.testing.assert_allclose(made.intrinsics, each.intrinsics, rtol=1e-6)

    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize(
        "poses",
        [
            [POSE, None],
            {0: POSE, 1: None},
            {np.int64(0): POSE.tolist()},
            np.array([POSE, None], object),
        ],
        ids=["list", "mapping", "numpy key", "objects"],
    )
    def test_one_view_of_two(self, poses: Any) -> None:
        assert known(poses=poses).has_pose.tolist() == [[True, False]]

    @pytest.mark.parametrize("nothing", [[None, None], {}, {0: None}])
    def test_nothing(self, nothing: Any) -> None:
        made = known(intrinsics=nothing, poses=nothing, depths=nothing)
        flags = (made.has_intrinsics, made.has_pose, made.has_depth)
        assert not np.any([np.asarray(flag) for flag in flags])

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"intrinsics": 100.0}, "intrinsics: found 100.0; give an array .views, 3, 3"),
            ({"intrinsics": b"K"}, "intrinsics: found b'K'"),
            ({"poses": (pose for pose in [POSE, POSE])}, "poses: found a generator; give an array"),
            ({"poses": {"a", "b"}}, "poses: found a set"),
            ({"poses": POSE}, r"poses: found an array of shape \(4, 4\); give an array"),
            ({"depths": DEPTH}, r"shape \(40, 60\); give an array \(views, H, W\)"),
            ({"poses": [[[1.0, 2.0], [3.0]], None]}, "poses: view 0: found rows of different len"),
            ({"poses": {0.0: POSE}}, "poses: found the key 0.0; name views by whole numbers"),
            ({"poses": {"0": POSE}}, "poses: found the key '0'"),
            ({"poses": {True: POSE}}, "poses: found the key True"),
            ({"poses": ["a", POSE]}, r"view 0: found an array of shape \(\)"),
            ({"poses": [POSE + 0j, None]}, "view 0: found values that are no finite numbers"),
            ({"metric_poses": "no"}, "metric_poses='no' must be True or False"),
            ({"metric_depths": 1}, "metric_depths=1 must be True or False"),
        ],
    )
    @pytest.mark.usefixtures("without_shape_checks")
    def test_other_forms_refused(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            known(**given)
        assert "\n" not in str(caught.value)


class TestCameras:
    @pytest.mark.parametrize("center", [(-0.5, -0.5), (59.5, 39.5)])
    def test_principal_point_in_a_corner(self, center: tuple[float, float]) -> None:
        assert known(intrinsics={0: centred_at(*center)}).has_intrinsics[0, 0]

    @pytest.mark.parametrize("center", [(-0.6, 20), (59.6, 20), (30, -0.6), (30, 39.6)])
    def test_of_another_size_of_the_image_refused(self, center: tuple[float, float]) -> None:
        message = r"principal point .*outside its image of 60x40; give it in pixels of the photo as"
        with pytest.raises(InputError, match=message):
            known(intrinsics={1: centred_at(*center)})

    def test_absurd_focal_length_refused(self) -> None:
        with pytest.raises(InputError, match=r"found focal lengths \[1\.0*e\+38 4\.8"):
            known(intrinsics={0: np.array([[1e38, 0, 30], [0, 48, 20], [0, 0, 1]])})


class TestPoses:
    def test_far_from_their_origin(self) -> None:
        """Differences are taken in float64: at 10 km float32 is 1 mm apart."""
        shift = np.array([10_000.0, 5_000.0, 100.0])
        near = poses_at((0, 0, 0), (0.0003, 0.0004, 0))
        far = near.copy()
        far[:, :3, 3] += shift
        one, two = known(poses=near), known(poses=far)
        near_geometry, far_geometry = geometry(one), geometry(two)
        translations = far_geometry.translations
        np.testing.assert_allclose(translations, near_geometry.translations, atol=1e-4)
        np.testing.assert_allclose(far_geometry.translation_scale, np.log(5e-4), atol=1e-4)
        world = world_of(one.world_from_camera, two)
        np.testing.assert_array_equal(world[0, :3, 3], shift.astype(np.float32))

    @pytest.mark.parametrize("unit", [1.0, 1e-3, 1e3])
    def test_farther_than_float32_tells_apart_refused(self, unit: float) -> None:
        """UTM coordinates: in metres by the millimetre, else by the distances of the cameras."""
        utm = poses_at((453_211, 5_412_345, 90), (453_212, 5_412_345, 90))
        utm[:, :3, 3] *= unit
        message = r"poses: view 0 is at \[.*float32 numbers are .* apart; subtract an origin near"
        with pytest.raises(InputError, match=message) as caught:
            known(poses=utm, metric_poses=False)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=message):
            known(poses=poses_at((17e3, 0, 0), (17e3, 0, 1)))

    def test_one_pose_of_unknown_unit_has_no_place(self) -> None:
        made = known(poses={0: poses_at((453_211, 5_412_345, 90))[0]}, metric_poses=False)
        np.testing.assert_array_equal(world_of(made.world_from_camera, made)[0], np.eye(4))

    @pytest.mark.parametrize("place", [1e13, 1e39, 1e300])
    def test_beyond_float32_refused(self, place: float) -> None:
        with pytest.raises(InputError, match="poses: view 1: found the number 1e"):
            known(poses=poses_at((0, 0, 0), (0, place, 0)))


class TestDepths:
    def sparse(self, *rows: int) -> np.ndarray:
        depth = np.zeros((40, 60))
        depth[rows, 1] = 2.0
        return depth

    def test_sparse_depth_is_kept_point_by_point(self) -> None:
        """Though three rows of ten are skipped at 28 of 40; of two in one pixel the nearer."""
        depth = self.sparse(0, 3, 5, 7)
        depth[20, 30], depth[21, 30] = 4.0, 3.0
        made = known(intrinsics=MATRIX, depths={1: depth})
        assert made.has_depth.tolist() == [[False, True]]
        found = np.asarray(made.depth_z[0, 1])
        expected = np.zeros((28, 42), np.float32)
        expected[[0, 2, 3, 5], 1] = 2.0
        expected[14, 21], expected[15, 21] = 4.0, 3.0
        np.testing.assert_array_equal(found, expected)
        dense = np.where(np.arange(60) % 2, 5.0, 0.0) + np.zeros((40, 1))
        resized = np.asarray(known(intrinsics=MATRIX, depths={1: dense}).depth_z[0, 1])
        np.testing.assert_array_equal(resized, WIDE.nearest(dense.astype(np.float32)))

    def test_depth_that_is_cropped_away_refused(self) -> None:
        crop = PixelTransform((60, 40), (42, 40), (1.0, 1.0), (-9.0, 0.0))
        message = r"depths: view 0: none of its 3 pixels with a depth is left at 42x40, which shows"
        priors = ViewPriors(intrinsics={0: MATRIX}, depths={0: self.sparse(0, 3, 5)})
        with pytest.raises(InputError, match=message):
            prior_arrays(priors, [crop])

    @pytest.mark.parametrize("depth", [1e13, 1e38, 1e300])
    def test_absurd_depth_refused(self, depth: float) -> None:
        with pytest.raises(InputError, match=r"view 0: found the depth 1e\+.*, above 1e\+12"):
            known(intrinsics=MATRIX, depths={0: np.full((40, 60), depth)})

    def test_greatest_depth_stays_finite(self) -> None:
        made = geometry(known(intrinsics=MATRIX, depths={0: np.full((40, 60), 1e12)}))
        assert np.isfinite(made.depth).all()
        assert np.isfinite(made.depth_scale).all()


class TestPriors:
    def test_every_form_is_kept_and_can_be_given_again(self) -> None:
        poses = poses_at((0, 0, 0), (0, 0, 1))
        for given in ({0: poses[0], 1: None}, [poses[0], None], poses):
            priors = ViewPriors(poses=given)
            again = replace(priors, metric_poses=False)
            assert priors.kinds == again.kinds == ("poses",)
            assert priors.by_view("poses", 2).keys() == again.by_view("poses", 2).keys()
            assert not again.metric_poses

    def test_which_views_have_intrinsics(self) -> None:
        one, some, none = (
            ViewPriors(intrinsics=given).views_with_intrinsics
            for given in (MATRIX, [None, MATRIX], [None, None])
        )
        found = [[view in views for view in (0, 1, 7)] for views in (one, some, none)]
        assert found == [[True] * 3, [False, True, False], [False] * 3]

    def test_an_image_rule_says_how_cameras_follow(self) -> None:
        """MapAnything's rounding is its own: another rule maps cameras as the pixels are."""
        transform = AspectRule(sizes=((2.0, 28, 14),)).fit(61, 20).transform((61, 20))
        camera = np.array([[50.0, 0, 33], [0, 50, 9.5], [0, 0, 1]])
        priors = ViewPriors(intrinsics=camera)
        plain, own = (
            prior_arrays(priors, [transform], rule.resized_intrinsics).intrinsics[0, 0]
            for rule in (PI3_RESIZE, MAPANYTHING_RESIZE)
        )
        np.testing.assert_allclose(plain, transform.intrinsics_from_original(camera), rtol=1e-6)
        np.testing.assert_allclose(own[0, 0], 35, rtol=1e-6)

    def test_old_names_warn(self) -> None:
        import jaxrecon.models

        with pytest.warns(DeprecationWarning, match=r"KnownViews\.metric is called"):
            assert ViewPriors().metric
        with pytest.warns(DeprecationWarning, match="conditions_from"):
            old: Any = jaxrecon.models.conditions_from
        made: Any = old([WIDE], intrinsics=MATRIX)
        np.testing.assert_array_equal(made.intrinsics, known(1, intrinsics=MATRIX).intrinsics)

    def test_the_model_takes_its_priors_under_the_old_keyword(self) -> None:
        @renamed_arguments(conditions="priors")
        def model(priors: int | None = None) -> int | None:
            return priors

        old: Any = model
        with pytest.warns(DeprecationWarning, match=r"model\(conditions=\) is called priors= now"):
            assert old(conditions=3) == 3
        assert model(priors=4) == 4


class TestDoubts:
    def test_the_camera_of_a_smaller_copy(self) -> None:
        """Of 15x10 pixels, a quarter of the image's sides."""
        copy = np.array([[12.5, 0, 7.0], [0, 12.0, 4.5], [0, 0, 1]])
        priors = ViewPriors(intrinsics=[MATRIX, copy, copy])
        (note,) = doubts(priors, [(60, 40)] * 3, start=10)
        assert "view 11 (2 of 3) lies at 12%" in note
        assert "a copy of 15x10" in note
        assert "multiply their first two rows by 4" in note

    @pytest.mark.parametrize("center", [(29.5, 19.5), (25, 18), (-0.5, -0.5), (10, 19.5), (44, 29)])
    def test_cameras_of_crops(self, center: tuple[float, float]) -> None:
        assert not doubts(ViewPriors(intrinsics=centred_at(*center)), [(60, 40)])

    def test_depth_in_millimetres(self) -> None:
        maps = {1: np.where(np.arange(60) > 20, DEPTH * 1000, np.nan)}
        (note,) = doubts(ViewPriors(depths=maps), [(60, 40)] * 2)
        assert note.startswith("depths: half of view 1 is farther than 2,000 metres")
        assert not doubts(ViewPriors(depths=maps, metric_depths=False), [(60, 40)] * 2)
        assert not doubts(ViewPriors(depths={1: DEPTH * 400}), [(60, 40)] * 2)
