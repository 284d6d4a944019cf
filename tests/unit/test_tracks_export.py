"""Point tracks of a reconstruction: their checks, picking views, .npz, and COLMAP's tracks."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.errors import InputError
from jaxrecon.formats import PointTracks
from jaxrecon.formats.tracks import tracked_points
from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction
from random_recon import HEIGHT, VIEWS, WIDTH, random_recon

QUERIES = 5


def random_tracks(**changes: Any) -> PointTracks:
    rng = np.random.default_rng(3)
    arrays: dict[str, Any] = {
        "xy": rng.uniform(0, 7, (VIEWS, QUERIES, 2)).astype(np.float32),
        "visibility": rng.random((VIEWS, QUERIES), np.float32),
        "confidence": rng.random((VIEWS, QUERIES), np.float32),
        "query_view": np.array([0, 2, 1, 0, 2], np.int32),
        "points_world": rng.normal(size=(QUERIES, 3)).astype(np.float32),
    }
    return PointTracks(**(arrays | changes))


def with_tracks(**changes: Any) -> Any:
    return replace(random_recon(), tracks=random_tracks(**changes))


def assert_same_tracks(found: Any, expected: Any) -> None:
    for field in fields(PointTracks):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if b is None:
            assert a is None
        else:
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


# Checks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"xy": np.zeros((3, 5, 3))}, r"tracks.xy has shape \(3, 5, 3\); expected \(V, Q, 2\)"),
        (
            {"visibility": np.zeros((3, 4))},
            r"tracks.visibility has shape \(3, 4\); expected \(3, 5\), to go with tracks.xy",
        ),
        (
            {"confidence": np.zeros((5, 3))},
            r"tracks.confidence has shape \(5, 3\); expected \(3, 5\)",
        ),
        (
            {"query_view": np.zeros(4, int)},
            r"tracks.query_view has shape \(4,\); expected \(5,\)",
        ),
        (
            {"points_world": np.zeros((5, 2))},
            r"tracks.points_world has shape \(5, 2\); expected \(5, 3\)",
        ),
        ({"query_view": np.zeros(5)}, "tracks.query_view has dtype float64; expected integers"),
        (
            {"query_view": np.array([0, 1, 2, 3, 0])},
            "tracks.query_view has values from 0 to 3; expected views from 0 to 2",
        ),
        (
            {"query_view": np.array([0, 1, -1, 2, 0])},
            "tracks.query_view has values from -1 to 2; expected views from 0 to 2",
        ),
    ],
)
def test_arrays_that_do_not_agree_are_refused(changes, message, without_shape_checks):
    with pytest.raises(InputError, match=message):
        random_tracks(**changes)


def test_tracks_of_another_number_of_views_are_refused():
    with pytest.raises(InputError, match=r"^tracks.xy has shape \(2, 3, 2\); expected \(3, 3, 2\)"):
        replace(random_recon(), tracks=random_tracks().of_views([0, 1]))


# Picking views, host memory and original pixels


def test_picked_views_keep_the_points_that_were_given_in_them():
    recon, all_tracks = with_tracks(), random_tracks()
    tracks = recon[[2, 0]].tracks
    kept = [0, 1, 3, 4]
    assert_same_tracks(
        tracks,
        PointTracks(
            xy=np.asarray(all_tracks.xy)[[2, 0]][:, kept],
            visibility=np.asarray(all_tracks.visibility)[[2, 0]][:, kept],
            confidence=np.asarray(all_tracks.confidence)[[2, 0]][:, kept],
            query_view=np.array([1, 0, 1, 0]),
            points_world=np.asarray(all_tracks.points_world)[kept],
        ),
    )
    assert len(tracks) == 4 and len(all_tracks) == 5
    assert recon[-2].tracks.query_view.tolist() == [0]
    np.testing.assert_array_equal(recon[-2].tracks.xy[0, 0], all_tracks.xy[1, 2])
    assert recon[[1, 2, 1]].tracks.query_view.tolist() == [1, 0, 1]
    assert random_recon()[1].tracks is None


def test_picked_views_in_which_no_point_was_given(tmp_path):
    recon = with_tracks(query_view=np.zeros(QUERIES, int))[1:]
    assert recon.tracks.xy.shape == (2, 0, 2) and recon.tracks.points_world.shape == (0, 3)
    loaded = Reconstruction.load(recon.save(tmp_path / "s.npz"))
    assert_same_tracks(loaded.tracks, recon.tracks)
    assert read(recon.save(tmp_path / "colmap/")).num_points3D() == recon.mask.sum()


def on_device(tracks: PointTracks) -> PointTracks:
    names = [field.name for field in fields(PointTracks)]
    arrays: dict[str, Any] = {name: jnp.asarray(getattr(tracks, name)) for name in names}
    return PointTracks(**arrays)


def test_tracks_come_to_host_memory():
    recon: Any = replace(random_recon(), tracks=on_device(random_tracks()))
    assert isinstance(recon.tracks.xy, jnp.ndarray)
    assert_same_tracks(recon.numpy().tracks, random_tracks())
    assert_same_tracks(recon[[2, 0]].numpy().tracks, recon.numpy()[[2, 0]].tracks)


def test_tracks_in_pixels_of_the_photos():
    """As `test_original_pixels` has them: half the size, a tenth and a fifth, and cropped."""
    xy = np.zeros((VIEWS, QUERIES, 2))
    xy[1, 0], xy[2, 0] = (2, 1), (3, 0)
    original = with_tracks(xy=xy).to_original().tracks_xy
    expected = [[0.5, 0.5], [24.5, 7.0], [7.0, 0.5]]
    np.testing.assert_allclose(original[:, 0], expected, atol=1e-12)
    assert original.shape == xy.shape
    assert random_recon().to_original().tracks_xy is None


# NPZ


@pytest.mark.parametrize("points_world", [None, np.full((QUERIES, 3), np.nan, np.float32)])
def test_npz_round_trip(tmp_path, points_world):
    tracks = random_tracks(points_world=points_world)
    recon = replace(random_recon(), tracks=tracks, metric_scale=2.5)
    loaded = Reconstruction.load(recon.save(tmp_path / "s.npz"))
    assert_same_tracks(loaded.tracks, tracks)
    assert loaded.metric_scale == 2.5


def test_npz_of_device_arrays(tmp_path):
    recon = replace(random_recon(), tracks=on_device(random_tracks()))
    assert_same_tracks(Reconstruction.load(recon.save(tmp_path / "s.npz")).tracks, random_tracks())


def test_npz_without_tracks_is_as_before(tmp_path):
    path = random_recon().save(tmp_path / "s.npz")
    with np.load(path) as archive:
        assert not [name for name in archive if "track" in name or "metric" in name]
        assert archive["jaxrecon_npz"] == 1
    loaded = Reconstruction.load(path)
    assert loaded.tracks is None and loaded.metric_scale is None


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("track_visibility", None, "track_visibility"),
        ("track_query_view", np.full(QUERIES, 3), "values from 3 to 3"),
        ("track_confidence", np.zeros((VIEWS, 1)), r"track_confidence has the shape \(3, 1\)"),
    ],
)
def test_npz_with_damaged_tracks_is_refused(tmp_path, name, array, message, without_shape_checks):
    path = with_tracks().save(tmp_path / "s.npz")
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive if key != name}
    np.savez(path, **arrays, **({} if array is None else {name: array}))
    with pytest.raises(InputError, match=f"s.npz.* is not a whole .npz file .*{message}"):
        Reconstruction.load(path)


def test_npz_with_tracks_of_other_views_is_refused(tmp_path):
    path = with_tracks().save(tmp_path / "s.npz")
    other = random_tracks().of_views([0, 1])
    with np.load(path) as archive:
        arrays = dict(archive) | {
            f"track_{field.name}": getattr(other, field.name) for field in fields(PointTracks)
        }
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=r"track_xy has the shape \(2, .*\), expected \(3, "):
        Reconstruction.load(path)


# COLMAP


def plane_recon(**changes: Any) -> Any:
    """Three views of the plane z = 8, by cameras at (0, 0, 0), (1, 0, 0) and (0, 1, 0).

    With focal length 8, a pixel is as wide as a unit on the plane: pixel (x, y) of the first view
    shows (x - 5.5, y - 3.5, 8), which the second has at (x - 1, y) and the third at (x, y - 1).

    Tracks: 0 is good in all views; 1 in the first two; 2 in its own view alone (9 pixels off and
    outside the picture in the others); 3 is given on a masked pixel; 4 outside its picture.
    """
    rng = np.random.default_rng(4)
    pose = np.tile(np.eye(4), (3, 1, 1))
    pose[1, 0, 3] = pose[2, 1, 3] = 1
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    points = np.stack([column - 5.5, row - 3.5, np.full_like(row, 8.0, float)], axis=-1)
    image = (3, HEIGHT, WIDTH)
    mask = rng.random(image) > 0.5
    mask[[0, 1, 2], [4, 2, 1], [6, 3, 1]], mask[0, 0, 0] = True, False
    xy = np.array(
        [
            [[6.2, 4.4], [7, 6], [10, 2], [0.3, -0.2], [-0.6, 3]],
            [[5, 4], [3, 2], [-0.6, 2], [0, 0], [0, 3]],
            [[6, 3], [4, 1], [1, 1], [0, 0], [0, 2]],
        ]
    )
    visibility = np.ones((3, 5))
    visibility[:, 1] = 0.2, 0.0, 0.19
    tracks = PointTracks(
        xy=xy,
        visibility=visibility,
        confidence=np.ones((3, 5)),
        query_view=np.array([0, 1, 2, 0, 0]),
    )
    return Reconstruction(
        points_world=points + pose[:, None, None, :3, 3],
        points_camera=np.tile(points, (3, 1, 1, 1)),
        confidence=np.ones(image),
        mask=mask,
        colors=rng.integers(0, 256, (*image, 3), np.uint8),
        world_from_camera=pose,
        intrinsics=np.tile(np.array([[8.0, 0, 5.5], [0, 8, 3.5], [0, 0, 1]]), (3, 1, 1)),
        names=("a.png", "b.png", "c.png"),
        transforms=(PixelTransform((WIDTH, HEIGHT), (WIDTH, HEIGHT), (1.0, 1.0)),) * 3,
        tracks=replace(tracks, **changes),
    )


def read(folder: Path) -> Any:
    pycolmap = pytest.importorskip("pycolmap")  # a machine lent for GPU tests may lack it
    return pycolmap.Reconstruction(folder / "sparse" / "0")


def check_links(model: Any) -> int:
    """How many observations there are; each names a point whose track names it, and back."""
    forth = {
        (image.image_id, index, point_2d.point3D_id)
        for image in model.images.values()
        for index, point_2d in enumerate(image.points2D)
    }
    back = {
        (element.image_id, element.point2D_idx, number)
        for number, point in model.points3D.items()
        for element in point.track.elements
    }
    assert forth == back
    return len(forth)


@pytest.mark.parametrize("text", [False, True])
def test_colmap_tracks_by_hand(tmp_path, text):
    recon = plane_recon()
    model = read(recon.save(tmp_path / "colmap", text=text))
    assert model.num_points3D() == 2 + recon.mask.sum()
    assert check_links(model) == 5 + recon.mask.sum()
    image_id = {image.name: number for number, image in model.images.items()}
    expected = {
        1: ((0.5, 0.5, 8), recon.colors[0, 4, 6], np.hypot(0.2, 0.4) / 3),
        2: ((-1.5, -1.5, 8), recon.colors[1, 2, 3], 5 / 2),
    }
    seen = {
        1: {"a.png": (6.7, 4.9), "b.png": (5.5, 4.5), "c.png": (6.5, 3.5)},
        2: {"a.png": (7.5, 6.5), "b.png": (3.5, 2.5)},
    }
    for number, (xyz, color, error) in expected.items():
        point = model.points3D[number]
        np.testing.assert_allclose(point.xyz, xyz, atol=1e-12)
        np.testing.assert_array_equal(point.color, color)
        assert point.error == pytest.approx(error, abs=1e-12)
        places = {
            element.image_id: model.images[element.image_id].points2D[element.point2D_idx].xy
            for element in point.track.elements
        }
        assert set(places) == {image_id[name] for name in seen[number]}
        for name, xy in seen[number].items():
            np.testing.assert_allclose(places[image_id[name]], xy, atol=1e-12)


def test_colmap_cloud_comes_after_the_tracks_and_alone_is_limited(tmp_path):
    model = read(plane_recon().save(tmp_path / "colmap", max_points=3))
    lengths = [model.points3D[number].track.length() for number in range(1, 6)]
    assert model.num_points3D() == 5 and lengths == [3, 2, 1, 1, 1]
    check_links(model)


def test_colmap_points_of_bundle_adjustment_come_first(tmp_path):
    points_world = np.full((5, 3), np.nan)
    points_world[0] = 0.75, 0.5, 8
    model = read(plane_recon(points_world=points_world).save(tmp_path / "colmap"))
    np.testing.assert_allclose(model.points3D[1].xyz, [0.75, 0.5, 8], atol=1e-12)
    np.testing.assert_allclose(model.points3D[2].xyz, [-1.5, -1.5, 8], atol=1e-12)
    error = (np.hypot(0.05, 0.4) + 0.25 + 0.25) / 3
    assert model.points3D[1].error == pytest.approx(error, abs=1e-12)


def test_colmap_tracks_of_which_none_is_good(tmp_path):
    recon = plane_recon(visibility=np.zeros((3, 5)))
    model = read(recon.save(tmp_path / "colmap"))
    assert model.num_points3D() == check_links(model) == recon.mask.sum()


def test_many_tracks_are_linked(tmp_path):
    """Tracks of one, two and three good observations, in no order."""
    rng = np.random.default_rng(6)
    recon = plane_recon()
    given = rng.integers(1, 7, (200, 2)).astype(float)
    xy = np.stack([given, given - (1, 0), given - (0, 1)])
    visibility = rng.integers(0, 2, (3, 200)).astype(float)
    tracks = PointTracks(
        xy=xy, visibility=visibility, confidence=visibility, query_view=np.zeros(200, int)
    )
    recon = replace(recon, mask=np.ones(recon.mask.shape, bool), tracks=tracks)
    model = read(recon.save(tmp_path / "colmap", max_points=10))
    seen = 1 + visibility[1:].sum(axis=0)
    cloud = model.num_points3D() - (seen >= 2).sum()
    assert 5 < cloud <= 10  # thinned by voxel, so about as many as asked for
    assert check_links(model) == seen[seen >= 2].sum() + cloud
    assert max(point.error for point in model.points3D.values()) < 1e-12


def test_points_behind_a_camera_are_not_seen():
    """Turned half about y, the third camera sees nothing, though the formula gives a pixel."""
    recon = plane_recon()
    pose = recon.world_from_camera.copy()
    pose[2] = np.diag([-1.0, 1, -1, 1])
    xy = recon.tracks.xy.copy()
    xy[2, 0] = 8 * -0.5 / -8 + 5.5, 8 * 0.5 / -8 + 3.5
    recon = replace(recon, world_from_camera=pose, tracks=replace(recon.tracks, xy=xy))
    found = tracked_points(recon.scene(), recon.tracks)
    assert found.track.tolist() == [0, 1]
    assert found.seen[:, 0].tolist() == [True, True, False]


@pytest.mark.parametrize("limit", [8.99, 9.01])
def test_the_greatest_reprojection_error(limit):
    recon = plane_recon()
    found = tracked_points(recon.scene(), recon.tracks, max_reprojection_error=limit)
    assert found.track.tolist() == ([0, 1, 2] if limit > 9 else [0, 1])


def test_points_at_the_rim_of_the_picture_take_its_outermost_pixels():
    recon = plane_recon()
    xy = recon.tracks.xy.copy()
    xy[0, 0], xy[1, 0] = (11.5, 7.5), (10.5, 7.5)
    mask = np.ones(recon.mask.shape, bool)
    recon = replace(recon, mask=mask, tracks=replace(recon.tracks, xy=xy))
    found = tracked_points(recon.scene(), recon.tracks)
    assert found.pixel[0] == HEIGHT * WIDTH - 1
    np.testing.assert_allclose(found.xyz[0], [5.5, 3.5, 8])


def test_points_that_are_not_finite_are_left_out():
    recon = plane_recon()
    recon.points_world[0, 4, 6, 0] = np.inf
    assert tracked_points(recon.scene(), recon.tracks).track.tolist() == [1]
