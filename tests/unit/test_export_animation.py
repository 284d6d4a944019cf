"""The animation: what its pictures show, and from where."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from jaxrecon import InputError
from jaxrecon.formats import animation
from jaxrecon.formats.animation import FRAMES, SIZE, _Dots, _drawn, _Eye, _round
from random_recon import random_recon
from room_scenes import room_recon

type Triple = tuple[float, float, float]

AHEAD = _Eye(np.eye(3), np.zeros(3))
RED, BLUE = (255, 0, 0), (0, 0, 255)
EVERYWHERE = (np.nan, np.nan, np.nan)


def dots(*placed: tuple[Triple, Triple], seen_from: Triple = EVERYWHERE) -> _Dots:
    """Squares of 0.1 to a side, of these colours at these places."""
    xyz, rgb = (np.array(column) for column in zip(*placed, strict=True))
    cameras = np.tile(np.array(seen_from, np.float64), (len(xyz), 1))
    return _Dots(xyz.astype(np.float64), rgb.astype(np.uint8), np.full(len(xyz), 0.1), cameras)


def middle(picture: np.ndarray) -> list[int]:
    return picture[SIZE[1] // 2, SIZE[0] // 2].tolist()


def facing(centre: Triple, ahead: Triple) -> np.ndarray:
    """The pose of an upright camera, z up in the world."""
    z = np.array(ahead) / np.linalg.norm(ahead)
    x = np.cross(z, (0, 0, 1))
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
    pose[:3, 3] = centre
    return pose


class TestPictures:
    def test_the_nearer_hides_the_farther(self) -> None:
        scene = dots(((0, 0, 2), RED), ((0, 0, 3), BLUE), ((0.5, 0, 2.5), BLUE))
        picture = _drawn(scene, AHEAD)
        assert middle(picture) == [*RED, 255]
        assert (picture[0, 0] == 0).all()
        beside = picture[SIZE[1] // 2, SIZE[0] // 2 + 50 :]
        assert (beside[beside[:, 3] > 0] == [*BLUE, 255]).all()
        assert (beside[:, 3] > 0).any()

    def test_what_lies_together_is_blended(self) -> None:
        assert middle(_drawn(dots(((0, 0, 2), RED), ((0, 0, 2.01), BLUE)), AHEAD)) == [
            *(128, 0, 128),
            255,
        ]

    def test_walls_are_seen_from_their_side_alone(self) -> None:
        wall = ((0.0, 0.0, 2.0), RED), ((0.0, 0.0, 3.0), BLUE)
        from_here = _drawn(dots(*wall, seen_from=(0, 0, 1)), AHEAD)
        assert middle(from_here) == [*RED, 255]
        between = _drawn(dots(*wall, seen_from=(0, 0, 2.5)), AHEAD)
        assert middle(between) == [*BLUE, 255]

    def test_beside_something_nearer_it_is_darker(self) -> None:
        far = [((x, y, 4.0), (200, 200, 200)) for x in np.arange(-1, 1, 0.05) for y in (-0.05, 0.0)]
        picture = _drawn(dots(*far, ((0.0, 0.0, 2.0), RED)), AHEAD)
        row = picture[SIZE[1] // 2]
        grey = (row[:, 0] == row[:, 2]) & (row[:, 3] > 0)
        assert row[grey, 0].max() == 200
        assert 50 < row[grey, 0].min() < 150

    def test_nothing_in_sight(self) -> None:
        assert not _drawn(dots(((0, 0, -2), RED)), AHEAD).any()


class TestRound:
    CLOUD = np.random.default_rng(0).uniform(-1, 1, (5000, 3)) * (1, 1, 0.4)

    def sides(self, pose: np.ndarray) -> np.ndarray:
        """From which side of the z axis each picture looks, in degrees."""
        eyes = _round(pose, self.CLOUD)
        assert len(eyes) == FRAMES
        return np.degrees([np.arctan2(eye.rotation[2, 0], eye.rotation[2, 1]) for eye in eyes])

    def test_it_swings_about_where_cameras_looked(self) -> None:
        pose = np.stack([facing((x, -3, 0.5), (0, 1, -0.1)) for x in (-0.5, 0, 0.5)])
        sides = self.sides(pose)
        assert abs(sides[0]) < 1e-6
        assert 35 < sides.max() < 40
        assert -40 < sides.min() < -35

    def test_it_goes_round_where_cameras_stood_all_round(self) -> None:
        angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        pose = np.stack(
            [
                facing((3 * np.sin(a), 3 * np.cos(a), 1), (-np.sin(a), -np.cos(a), -0.3))
                for a in angles
            ]
        )
        steps = np.diff(np.unwrap(self.sides(pose), period=360))
        np.testing.assert_allclose(steps, 360 / FRAMES, rtol=1e-5)

    @pytest.mark.parametrize("ahead", [(0, 1, 0), (0.01, 0, -1), (0, 1, 1)])
    def test_nearly_all_is_in_every_picture(self, ahead: Triple) -> None:
        """And upright, whatever the cameras looked at."""
        for eye in _round(facing((0, -3, 1), ahead)[None], self.CLOUD):
            x, y, z = eye.sees(self.CLOUD).T
            focal = SIZE[1] / 2 / np.tan(np.radians(20))
            inside = (abs(x) * focal < z * SIZE[0] / 2) & (abs(y) * focal < z * SIZE[1] / 2)
            assert inside.mean() > 0.93
            np.testing.assert_allclose(eye.rotation @ eye.rotation.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(eye.rotation) == pytest.approx(1)

    def test_cameras_are_in_sight_unless_they_stood_far_away(self) -> None:
        pose = np.stack([facing((x, -1.3, 0.5), (0, 1, -0.1)) for x in (-0.3, 0, 0.3)])
        close = _round(pose, self.CLOUD)[0].centre
        pose[:, :3, 3] *= 30
        far = _round(pose, self.CLOUD)[0].centre
        assert np.linalg.norm(close) > np.linalg.norm(far)


class TestFile:
    @pytest.fixture(autouse=True)
    def shorter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(animation, "FRAMES", 4)

    def test_an_animated_picture(self, tmp_path: Path) -> None:
        path = room_recon(2, 48, 64).save(tmp_path / "new" / "room.webp")
        with Image.open(path) as image:
            assert (image.format, image.size) == ("WEBP", SIZE)
            assert image.n_frames == 4  # pyright: ignore[reportAttributeAccessIssue]
            assert image.info["loop"] == 0
            first = np.asarray(image.convert("RGBA"))
            image.seek(1)
            image.load()
            assert image.info["duration"] == animation.MILLISECONDS
            assert (np.asarray(image.convert("RGBA")) != first).any()
        assert 0.05 < (first[..., 3] > 0).mean() < 0.95
        assert [each.name for each in path.parent.iterdir()] == ["room.webp"]

    def test_by_name_in_a_folder(self, tmp_path: Path) -> None:
        few = random_recon().save(f"{tmp_path}/", format="animation", max_points=5)
        assert few == tmp_path / "animation.webp"

    def test_a_pillow_without_webp(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(features, "check", lambda name: False)
        with pytest.raises(InputError, match="this Pillow cannot write WebP"):
            room_recon(2, 48, 64).save(tmp_path / "room.webp")
        assert not list(tmp_path.iterdir())
