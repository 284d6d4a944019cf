"""The summary picture: what stands where on it, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import InputError, OutputError
from jaxrecon.formats.summary import evenly_chosen, median_scale
from jaxrecon.formats.top_view import PREDICTED, TRUE, draw_top_view, laid_on
from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction
from random_recon import random_recon, random_rotations

BAND, GAP, TILE = 22, 4, (176, 117)
"""Height of a label, space between tiles, and a tile of the random 12x8 views."""


def summary(recon: Reconstruction, path: Path, **truth: Any) -> np.ndarray:
    assert recon.save_summary(path, **truth) == path
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def tile(picture: np.ndarray, row: int, view: int) -> np.ndarray:
    top, left = row * (BAND + TILE[1] + GAP) + BAND, GAP + view * (TILE[0] + GAP)
    return picture[top : top + TILE[1], left : left + TILE[0]]


class TestRows:
    def test_without_truth(self, tmp_path: Path) -> None:
        picture = summary(random_recon(), tmp_path / "new" / "summary.png")
        assert picture.shape == (3 * (BAND + TILE[1] + GAP) + BAND + 480 + GAP, 1444, 3)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["summary.png"]

    def test_truth_is_shown_on_the_scale_of_the_prediction(self, tmp_path: Path) -> None:
        recon = random_recon()
        picture = summary(
            recon, tmp_path / "summary.png", true_depth_z=2.5 * np.asarray(recon.depth_z)
        )
        assert picture.shape[0] == 4 * (BAND + TILE[1] + GAP) + BAND + 480 + GAP
        for view in range(3):
            np.testing.assert_array_equal(tile(picture, 1, view), tile(picture, 2, view))
            assert len(np.unique(tile(picture, 1, view).reshape(-1, 3), axis=0)) > 50

    @pytest.mark.parametrize("unknown", [0.0, np.nan])
    def test_unknown_depth_is_grey(self, unknown: float, tmp_path: Path) -> None:
        recon = random_recon()
        depth = np.array(recon.depth_z)
        depth[1, :, :6] = unknown
        row = tile(summary(recon, tmp_path / "summary.png", true_depth_z=depth), 2, 1)
        assert (row[:, :88] == 90).all()
        assert not (row[:, 88:] == 90).all(axis=-1).any()

    def test_colours_run_from_near_to_far(self, tmp_path: Path) -> None:
        recon = random_recon()
        points = np.array(recon.points_camera)
        points[0, ..., 2] = np.where(np.arange(12) < 6, 1.0, 3.0)
        picture = tile(summary(replace(recon, points_camera=points), tmp_path / "it.png"), 1, 0)
        # Turbo is darkest blue at its start and darkest red at its end.
        near, far = picture[60, 20].astype(int), picture[60, 150].astype(int)
        assert near[2] > near[0]
        assert far[0] > far[2]

    def test_confidence(self, tmp_path: Path) -> None:
        recon = random_recon()
        confidence = np.zeros_like(recon.confidence)
        confidence[2] = 1.0
        picture = summary(replace(recon, confidence=confidence), tmp_path / "summary.png")
        # Viridis from 0 to 1.
        assert (tile(picture, 2, 0) == (68, 1, 84)).all()
        assert (tile(picture, 2, 2) == (253, 231, 36)).all()

    def test_many_views_of_noise_stay_small(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        one, image = random_recon()[0], (20, 56, 56)
        recon = Reconstruction(
            points_world=rng.normal(size=(*image, 3)).astype(np.float32),
            points_camera=rng.random((*image, 3), np.float32),
            confidence=rng.random(image, np.float32),
            mask=np.ones(image, bool),
            colors=rng.integers(0, 256, (*image, 3), np.uint8),
            world_from_camera=np.repeat(one.world_from_camera, 20, axis=0),
            intrinsics=np.repeat(one.intrinsics, 20, axis=0),
            names=tuple(map(str, range(20))),
            transforms=(PixelTransform.stretch((56, 56), (56, 56)),) * 20,
        )
        picture = summary(recon, tmp_path / "summary.png", true_depth_z=np.asarray(recon.depth_z))
        assert picture.shape[1] == 8 * (176 + GAP) + GAP
        assert (tmp_path / "summary.png").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0]), (3, [0, 1, 2]), (10, [0, 1, 3, 4, 5, 6, 8, 9])]
)
def test_views_are_chosen_evenly(count: int, chosen: list[int]) -> None:
    assert evenly_chosen(count, 8).tolist() == chosen


class TestMedianScale:
    DEPTH = np.array([[[1.0, 2.0], [4.0, 8.0]]])

    def test_by_hand(self) -> None:
        truth = np.array([[[2.0, 5.0], [12.0, 0.0]]])
        everywhere = np.ones((1, 2, 2), bool)
        assert median_scale(self.DEPTH, everywhere, truth) == 2.5  # of 2, 2.5 and 3
        mask = np.array([[[True, False], [False, True]]])
        assert median_scale(self.DEPTH, mask, truth) == 2.0

    def test_truth_of_another_resolution(self) -> None:
        truth = np.kron(3 * self.DEPTH[0], np.ones((2, 3)))[None]
        assert median_scale(self.DEPTH, np.ones((1, 2, 2), bool), truth) == 3.0

    def test_nothing_to_compare(self) -> None:
        unknown = np.full((1, 2, 2), np.nan)
        assert median_scale(self.DEPTH, np.ones((1, 2, 2), bool), unknown) == 1.0


class TestTopView:
    @pytest.mark.parametrize("views", [1, 2, 5])
    def test_poses_are_laid_on_each_other(self, views: int) -> None:
        rng = np.random.default_rng(views)
        pose = np.tile(np.eye(4), (views, 1, 1))
        pose[:, :3, :3] = random_rotations(rng, views)
        pose[:, :3, 3] = np.arange(views)[:, None] * [1.0, 2.0, 3.0]  # on one line
        turn, shift = random_rotations(rng, 1)[0], rng.normal(size=3)
        other = pose.copy()
        other[:, :3, :3] = turn @ pose[:, :3, :3]
        scale = 1.0 if views == 1 else 0.3
        other[:, :3, 3] = scale * pose[:, :3, 3] @ turn.T + shift
        np.testing.assert_allclose(laid_on(pose, other), other, atol=1e-6)

    def test_points_lie_as_seen_from_above(self) -> None:
        picture = np.asarray(draw_top_view(_three_points().scene(), (400, 300))).astype(int)
        # World axes are the camera's: x right, z ahead. The third point is above the camera.
        red, blue, green = (_middle_of(picture, color) for color in _COLORS)
        assert green is None
        assert red is not None
        assert blue is not None
        right, ahead = blue[0] - red[0], red[1] - blue[1]
        # Two apart to the right and one ahead, on one scale.
        assert right == pytest.approx(2 * ahead, abs=1)
        assert right > 50

    def test_cameras(self) -> None:
        recon = _three_points()[[0, 0]]
        without = np.asarray(draw_top_view(recon.scene(), (400, 300)))
        assert (without == PREDICTED).all(axis=-1).any()
        assert not (without == TRUE).all(axis=-1).any()
        pose = np.array(recon.world_from_camera)
        pose[1, 0, 3] = 1
        scene, other, same = (
            replace(recon, world_from_camera=pose).scene(),
            pose.copy(),
            pose.copy(),
        )
        other[1, :3, 3] = 0, 0, 1
        picture = np.asarray(draw_top_view(scene, (400, 300), true_world_from_camera=other))
        assert (picture == PREDICTED).all(axis=-1).any()
        assert (picture == TRUE).all(axis=-1).any()
        # True cameras that agree are hidden: the predicted ones are drawn last.
        same[:, :3, 3] = 7 * same[:, :3, 3] + 1
        agreed = draw_top_view(scene, (400, 300), true_world_from_camera=same)
        assert not (np.asarray(agreed) == TRUE).all(axis=-1).any()


_COLORS = ((250, 0, 0), (0, 0, 250), (0, 250, 0))


def _three_points() -> Reconstruction:
    """One camera at the origin and points at (-1, 0.5, 2), (1, 0.5, 3) and (0, -1, 2)."""
    recon = random_recon()[0]
    points = np.tile(np.array([-1.0, 0.5, 2.0], np.float32), (1, 8, 12, 1))
    colors = np.tile(np.array(_COLORS[0], np.uint8), (1, 8, 12, 1))
    points[0, 1], colors[0, 1] = (1, 0.5, 3), _COLORS[1]
    points[0, 2, :3], colors[0, 2, :3] = (0, -1, 2), _COLORS[2]
    return replace(
        recon,
        points_world=points,
        colors=colors,
        mask=np.ones((1, 8, 12), bool),
        world_from_camera=np.eye(4, dtype=np.float32)[None],
    )


def _middle_of(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray | None:
    row, column = np.nonzero((picture == color).all(axis=-1))
    return np.array([column.mean(), row.mean()]) if len(row) else None


class TestRefusals:
    @pytest.mark.parametrize(
        ("truth", "told"),
        [
            ({"true_depth_z": np.ones((2, 8, 12))}, "true_depth_z is of 2 views, the scene of 3"),
            (
                {"true_world_from_camera": np.ones((4, 4, 4))},
                "true_world_from_camera is of 4 views, the scene of 3",
            ),
        ],
    )
    def test_another_number_of_views(
        self, truth: dict[str, np.ndarray], told: str, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=f"^{told}$"):
            random_recon().save_summary(tmp_path / "summary.png", **truth)
        assert list(tmp_path.iterdir()) == []

    def test_a_pose_that_is_not_known(self, tmp_path: Path) -> None:
        pose = np.full((3, 4, 4), np.nan)
        with pytest.raises(InputError, match=r"^true_world_from_camera has values that are not "):
            random_recon().save_summary(tmp_path / "summary.png", true_world_from_camera=pose)

    def test_no_point(self, tmp_path: Path) -> None:
        recon = random_recon()
        with pytest.raises(InputError, match="mask keeps no point"):
            replace(recon, mask=np.zeros_like(recon.mask)).save_summary(tmp_path / "summary.png")

    def test_a_folder_is_in_the_way(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="a folder of that name exists"):
            random_recon().save_summary(tmp_path)


def test_the_old_name_warns(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="save_sheet is called save_summary now"):
        assert random_recon().save_sheet(tmp_path / "it.png").exists()
