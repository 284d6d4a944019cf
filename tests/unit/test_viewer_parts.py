"""What the viewer shows, and from where: the parts that need no browser."""

import asyncio
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from jaxrecon import InputError, browsing
from jaxrecon.browsing import local_url
from jaxrecon.cli.view import told_url
from jaxrecon.formats.ramps import camera_color
from jaxrecon.formats.viewer_cameras import (
    Cameras,
    Path,
    cameras_of,
    covering,
    first_look,
    fov_to_hold,
    frustum_length,
    look_from_outside,
    middle_depth,
)
from jaxrecon.formats.viewer_cloud import (
    Choice,
    Cloud,
    Eye,
    chosen_mask,
    cloud_of,
    in_sight,
    on_depth_edges,
    passing,
    point_size,
    refined,
    sampled,
)
from jaxrecon.formats.viewer_controls import confidence_at, downloads, status_text
from jaxrecon.formats.viewer_measuring import clicked_point, distance_label
from jaxrecon.formats.viewer_nodes import STILL_SECONDS, WhenStill, smaller, wxyz_of
from jaxrecon.geometry import depth_edges
from random_recon import VIEWS, random_recon
from room_scenes import room_recon


def loose(xyz: np.ndarray, **known: np.ndarray) -> Cloud:
    """A cloud of points, all kept, none on an edge, the sure ones last."""
    count = len(xyz)
    return Cloud(
        xyz=np.asarray(xyz, np.float32),
        rgb=known.get("rgb", np.zeros((count, 3), np.uint8)),
        confidence=known.get("confidence", np.linspace(0, 1, count, dtype=np.float32)),
        view=known.get("view", np.zeros(count, np.int32)),
        kept=known.get("kept", np.ones(count, bool)),
        count=count,
        find_edges=lambda: known.get("edge", np.zeros(count, bool)),
    )


def eye(position: tuple[float, ...] = (0, 0, 0), fov: float = 90, aspect: float = 1.0) -> Eye:
    return Eye(np.array(position, float), np.eye(3), float(np.deg2rad(fov)), aspect)


# Points.


def test_a_cloud_is_the_finite_points_in_another_order() -> None:
    scene = random_recon().scene()
    scene.points_world[0, 0, 0] = np.nan
    cloud = cloud_of(scene)
    assert len(cloud) == scene.mask.size - 1
    assert cloud.count == scene.mask.sum() - scene.mask[0, 0, 0] == cloud.kept.sum()
    expected = scene.points_world.reshape(-1, 3)[1:]
    assert not np.array_equal(cloud.xyz, expected)
    order, wanted = np.lexsort(cloud.xyz.T), np.lexsort(expected.T)
    np.testing.assert_array_equal(cloud.xyz[order], expected[wanted])
    view = np.repeat(np.arange(VIEWS), scene.mask[0].size)[1:]
    np.testing.assert_array_equal(cloud.view[order], view[wanted])
    np.testing.assert_array_equal(cloud.rgb[order], scene.colors.reshape(-1, 3)[1:][wanted])


def test_a_large_scene_is_drawn_from_evenly_and_repeatably() -> None:
    scene = room_recon(views=8).scene()
    first, again = cloud_of(scene, 2000), cloud_of(scene, 2000)
    assert first.kept.all()
    np.testing.assert_array_equal(first.xyz, again.xyz)
    assert len(first) == 2000
    assert first.count == scene.mask.sum()
    share = np.bincount(first.view, minlength=8) / 2000
    assert (np.abs(share - 1 / 8) < 0.03).all()
    beginning = np.bincount(first.view[:500], minlength=8) / 500
    assert (np.abs(beginning - 1 / 8) < 0.06).all()


def test_of_a_large_scene_some_of_what_is_left_out_is_held() -> None:
    scene = room_recon(views=8).scene()
    scene.mask[:, ::2] = False
    cloud = cloud_of(scene, 2000)
    assert cloud.count == scene.mask.sum()
    assert (cloud.kept.sum(), (~cloud.kept).sum()) == (2000, 500)
    assert len(np.unique(cloud.xyz, axis=0)) > 2400


def test_confidence_that_is_no_number_counts_as_the_lowest() -> None:
    scene = random_recon().scene()
    scene.confidence[0] = np.nan
    cloud = cloud_of(scene)
    assert np.isfinite(cloud.confidence).all()
    assert (cloud.confidence[cloud.view == 0] == cloud.confidence.min()).all()


def test_a_scene_without_points_is_refused() -> None:
    scene = random_recon().scene()
    scene.mask[:] = False
    with pytest.raises(InputError, match="keeps no point"):
        cloud_of(scene)


def test_edges_are_those_of_whole_pictures() -> None:
    rng = np.random.default_rng(0)
    depth = np.where(rng.random((2, 9, 11)) > 0.7, 3.0, 2.0).astype(np.float32)
    depth += rng.normal(scale=0.02, size=depth.shape).astype(np.float32)
    pixel = rng.permutation(depth.size)
    found = on_depth_edges(depth, pixel, rtol=0.03)
    expected = np.asarray(depth_edges(jnp.asarray(depth), rtol=0.03)).reshape(-1)[pixel]
    np.testing.assert_array_equal(found, expected)
    assert 0 < found.sum() < found.size


def test_depth_that_is_none_makes_no_edge() -> None:
    depth = np.full((1, 3, 3), 2.0, np.float32)
    depth[0, 0] = (np.nan, -1, 0)
    assert not on_depth_edges(depth, np.arange(3, 9)).any()


def test_what_is_wanted() -> None:
    cloud = loose(
        np.zeros((4, 3)),
        view=np.array([0, 1, 0, 1]),
        kept=np.array([True, True, True, False]),
        edge=np.array([False, False, True, False]),
    )
    assert passing(cloud, Choice()).tolist() == [True, True, True, False]
    assert passing(cloud, Choice(masked=False)).all()
    assert passing(cloud, Choice(edges=False)).tolist() == [True, True, False, False]
    assert passing(cloud, Choice(hidden=frozenset({0}))).tolist() == [False, True, False, False]
    assert passing(cloud, Choice(confidence=0.5)).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    "choice",
    [
        Choice(),
        Choice(masked=False),
        Choice(confidence=0.6),
        Choice(edges=False),
        Choice(hidden=frozenset({0, 2}), masked=False, confidence=0.6, edges=False),
    ],
)
def test_what_is_downloaded_is_what_is_shown(choice: Choice) -> None:
    scene = room_recon(views=4, height=24, width=32).scene()
    rng = np.random.default_rng(0)
    scene.mask[:] = rng.random(scene.mask.shape) > 0.3
    scene.points_camera[:, :5] *= 2
    cloud = cloud_of(scene)
    shown = cloud.xyz[passing(cloud, choice)]
    written = scene.points_world[chosen_mask(scene, choice)]
    assert 0 < len(shown) <= len(cloud)
    np.testing.assert_array_equal(shown[np.lexsort(shown.T)], written[np.lexsort(written.T)])


def test_the_choice_leaves_the_scene_alone() -> None:
    scene = random_recon().scene()
    before = scene.mask.copy()
    chosen_mask(scene, Choice(hidden=frozenset({0}), edges=False, masked=False))
    np.testing.assert_array_equal(scene.mask, before)


def test_a_sample_is_the_beginning() -> None:
    wanted = np.array([True, False, True, True])
    assert sampled(wanted, 2).tolist() == [0, 2]
    assert sampled(wanted, 9).tolist() == [0, 2, 3]


def test_what_lies_in_sight() -> None:
    xyz = np.array([[0, 0, 1], [0, 0, -1], [0.9, 0, 1], [1.1, 0, 1], [0, 1.1, 1]])
    assert in_sight(xyz, eye()).tolist() == [True, False, True, False, False]
    assert in_sight(xyz, eye(aspect=2.0)).tolist() == [True, False, True, True, False]
    assert in_sight(xyz, eye((0, 0, -1))).tolist() == [True, False, True, True, True]


def test_more_points_are_added_where_an_eye_looks() -> None:
    rng = np.random.default_rng(0)
    xyz = rng.uniform((-1, -1, 1), (1, 1, 3), (1000, 3))
    xyz[::2] *= (1, 1, -1)  # half of them behind the eye
    cloud, wanted = loose(xyz), rng.random(1000) > 0.2
    added = refined(cloud, wanted, 100, eye(), 200)
    assert len(added) == 200 == len(set(added))
    assert wanted[added].all()
    assert (added > np.flatnonzero(wanted)[99]).all()
    assert in_sight(cloud.xyz[added], eye()).all()


def test_where_little_is_in_sight_others_fill_up() -> None:
    cloud = loose(np.tile([[0.0, 0, 1], [0, 0, -1]], (50, 1)))
    added = refined(cloud, np.ones(100, bool), 10, eye(), 60)
    assert len(added) == 60 == len(set(added))
    assert (cloud.xyz[added, 2] > 0).sum() == 45
    assert len(refined(cloud, np.ones(100, bool), 100, eye(), 60)) == 0
    assert len(refined(cloud, np.zeros(100, bool), 0, eye(), 60)) == 0


def test_points_are_as_large_as_pixels_where_all_are_shown() -> None:
    scene = room_recon().scene()
    depth = np.median(scene.points_camera[..., 2])
    focal = scene.intrinsics[:, [0, 1], [0, 1]].mean()
    assert point_size(scene, 100, 100) == pytest.approx(depth / focal)
    assert point_size(scene, 25, 100) == pytest.approx(2 * depth / focal)
    assert point_size(scene, 1, 10_000) == pytest.approx(3 * depth / focal)


# Cameras.


def test_cameras_are_those_of_the_scene() -> None:
    recon = random_recon()
    cameras = cameras_of(recon.scene())
    np.testing.assert_allclose(cameras.centre, recon.world_from_camera[:, :3, 3])
    np.testing.assert_allclose(cameras.rotation, recon.world_from_camera[:, :3, :3], atol=1e-6)
    np.testing.assert_allclose(cameras.fov, 2 * np.arctan(4 / 11))
    np.testing.assert_allclose(cameras.aspect, (12 / 10) / (8 / 11))


def test_the_first_look_is_the_first_cameras() -> None:
    recon = room_recon()
    scene = recon.scene()
    cameras = cameras_of(scene)
    look = first_look(cameras, scene)
    np.testing.assert_allclose(look.position, recon.world_from_camera[0, :3, 3])
    ahead = look.target - look.position
    reach = np.linalg.norm(ahead)
    np.testing.assert_allclose(ahead / reach, recon.world_from_camera[0, :3, 2], atol=1e-6)
    depth = scene.points_camera[0, ..., 2]
    assert depth.min() - 1e-5 < reach < depth.max() + 1e-5
    np.testing.assert_allclose(look.up, -recon.world_from_camera[0, :3, 1], atol=1e-6)
    on_its_side = replace(cameras, rotation=cameras.rotation @ turned_by(90))
    np.testing.assert_array_equal(first_look(on_its_side, scene).up, cameras.up)


def turned_by(degrees: float) -> np.ndarray:
    """A turn around the optical axis."""
    return Rotation.from_rotvec([0.0, 0, degrees], degrees=True).as_matrix()


def test_the_middle_depth_is_of_what_is_sure() -> None:
    depth = np.array([[1.0, 2.0, 3.0, 100.0] * 10])
    mask, sure = np.ones((1, 40), bool), np.tile([0.1, 0.9, 0.9, 0.1], 10)[None]
    assert middle_depth(depth, mask, sure) == 2.5
    assert middle_depth(depth, ~mask, np.ones((1, 40))) == 2.5
    assert middle_depth(depth, mask, np.full((1, 40), np.nan)) == 2.5
    assert middle_depth(depth, mask & (depth < 3), sure) == 2.0
    assert middle_depth(-depth, mask, sure) == 1.0


def test_points_without_cameras_are_seen_whole() -> None:
    xyz = np.random.default_rng(0).normal(size=(500, 3)) * (3, 1, 0.5) + 7
    look = look_from_outside(xyz, np.array([0.0, -1, 0]))
    ahead = look.target - look.position
    angle = np.arccos(
        (xyz - look.position)
        @ ahead
        / np.linalg.norm(ahead)
        / np.linalg.norm(xyz - look.position, axis=1)
    )
    assert np.mean(angle < look.fov / 2) > 0.9
    assert look.position[1] < look.target[1]


def test_a_narrow_window_sees_the_whole_picture() -> None:
    assert fov_to_hold(1.0, 1.5, window=2.0) == 1.0
    narrow = fov_to_hold(1.0, 1.5, window=0.75)
    assert np.tan(narrow / 2) * 0.75 == pytest.approx(np.tan(0.5) * 1.5)
    assert fov_to_hold(2.5, 3.0, window=0.1) < np.pi


def test_frusta_are_shorter_where_cameras_stand_close() -> None:
    far = np.arange(5)[:, None] * np.array([1.0, 0, 0])
    assert frustum_length(far[:1], 10.0) == 0.5
    assert frustum_length(far, 10.0) == 0.5
    assert frustum_length(0.5 * far, 10.0) == 0.25
    assert frustum_length(0 * far, 10.0) == pytest.approx(0.1)


def test_photos_do_not_cover_what_a_page_sees() -> None:
    centres = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]])
    assert covering(centres, centres[1:2], 0.1) == {1}
    assert covering(centres, np.array([[0.0, 0, 0.1], [2, 0, 0.1]]), 0.1) == {0, 2}
    assert covering(centres, np.array([[0.0, 0, 0.5]]), 0.1) == frozenset()
    assert covering(centres, np.array([[0.0, 0, 0.5]]), 0.2) == {0}
    assert covering(centres, np.empty((0, 3)), 0.1) == frozenset()


def some_cameras(count: int) -> Cameras:
    angle = np.linspace(0, 90, count)
    return Cameras(
        centre=np.stack([np.arange(count), np.zeros(count), np.zeros(count)], axis=1).astype(float),
        rotation=Rotation.from_rotvec(angle[:, None] * np.array([0.0, 1, 0]), degrees=True)
        .as_matrix()
        .reshape(-1, 3, 3),
        fov=np.ones(count),
        aspect=np.ones(count),
        up=np.array([0.0, -1, 0]),
    )


def test_a_path_passes_all_cameras_evenly() -> None:
    cameras = some_cameras(4)
    path = Path(cameras)
    assert path.last == 3
    for view in range(4):
        place, turn = path.at(float(view))
        np.testing.assert_allclose(place, cameras.centre[view], atol=1e-9)
        np.testing.assert_allclose(turn, cameras.rotation[view], atol=1e-9)
    place, turn = path.at(1.5)
    np.testing.assert_allclose(place, [1.5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(Rotation.from_matrix(turn).magnitude(), np.deg2rad(45))
    np.testing.assert_allclose(path.at(99.0)[0], cameras.centre[-1])


def test_a_path_of_one_camera_stands_still() -> None:
    path = Path(some_cameras(1))
    assert path.last == 0
    np.testing.assert_allclose(path.at(0.0)[1], np.eye(3))


def test_quaternions_have_the_real_part_first() -> None:
    np.testing.assert_allclose(wxyz_of(np.diag([1.0, -1, -1])), [0, 1, 0, 0], atol=1e-12)


def test_views_have_colours_of_their_own() -> None:
    assert len({camera_color(view, 9) for view in range(9)}) == 9


def test_photos_are_sent_no_larger_than_they_are_seen() -> None:
    photo = np.zeros((40, 80, 3), np.uint8)
    assert smaller(photo, 100) is photo
    assert smaller(photo, 20).shape == (10, 20, 3)
    assert smaller(np.zeros((1, 500, 3), np.uint8), 20).shape == (1, 20, 3)


# Measuring.


def test_a_click_means_the_nearest_point_on_the_ray() -> None:
    xyz = np.array([[0, 0, 5.0], [0, 0, 2], [1, 0, 2], [0, 0, -1]])
    cloud, ahead = loose(xyz), np.array([0, 0, 3.0])
    every = np.ones(4, bool)
    found = clicked_point(cloud, every, np.zeros(3), ahead)
    np.testing.assert_array_equal(found, [0, 0, 2])
    found = clicked_point(cloud, np.array([True, False, True, True]), np.zeros(3), ahead)
    np.testing.assert_array_equal(found, [0, 0, 5])
    beside = np.array([1.05, 0, 2])
    np.testing.assert_array_equal(clicked_point(cloud, every, np.zeros(3), beside), [1, 0, 2])
    assert clicked_point(cloud, every, np.zeros(3), np.array([0, 1.0, 0])) is None
    assert clicked_point(cloud, ~every, np.zeros(3), ahead) is None


def test_distances_say_their_unit() -> None:
    ends = np.zeros(3), np.array([3.0, 4, 0])
    assert distance_label(*ends, metric=True) == "5 m"
    assert distance_label(ends[0], ends[1] / 100, metric=True) == "5 cm"
    assert distance_label(*ends, metric=False) == "5 units (the scale is not metric)"


# The panel.


def test_the_level_of_a_share_of_points() -> None:
    cloud = loose(np.zeros((101, 3)))
    assert confidence_at(cloud, 0.0) == -np.inf
    assert confidence_at(cloud, 30.0) == pytest.approx(0.3)
    half = replace(cloud, kept=cloud.confidence > 0.5)
    assert confidence_at(half, 50.0) == pytest.approx(0.755, abs=0.01)


def test_how_much_is_shown_is_told() -> None:
    scene = random_recon().scene()
    cloud = cloud_of(scene)
    assert status_text(1000, cloud, None) == f"**1,000** of {cloud.count} points"
    assert status_text(9, cloud, scene).endswith(f"of {cloud.count} points, 3 views")
    assert status_text(9, cloud, random_recon()[0].scene()).endswith("1 view")


def test_files_of_points_are_offered() -> None:
    assert {"ply", "splats"} <= set(downloads(random_recon().scene()))
    assert not {"npz", "colmap", "depth"} & set(downloads(random_recon().scene()))
    assert downloads(None) == ()


# Where a person looks.


@pytest.mark.parametrize(
    ("environment", "platform", "expected"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({"DISPLAY": ":10", "SSH_CONNECTION": "a b"}, "linux", False),
        ({}, "darwin", True),
        ({"SSH_TTY": "/dev/pts/0"}, "darwin", False),
        ({}, "win32", True),
    ],
)
def test_where_a_browser_opens(environment: dict[str, str], platform: str, expected: bool) -> None:
    assert browsing.has_browser(environment, platform) is expected


def test_where_to_look_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box")
    assert told_url("localhost", 1) == "http://localhost:1"
    assert told_url("0.0.0.0", 1).startswith("http://box:1; whoever can reach")
    assert told_url("fe80::1", 1).startswith("http://[fe80::1]:1;")
    assert told_url("::1", 1) == "http://[::1]:1"
    assert local_url("0.0.0.0", 1) == "http://localhost:1"


def test_work_waits_until_nothing_happens_any_more() -> None:
    async def at_work() -> list[float]:
        loop, done = asyncio.get_running_loop(), []
        start = loop.time()
        still = WhenStill(loop, lambda: done.append(loop.time()))
        still.touch(2 * STILL_SECONDS)
        for _ in range(4):
            still.touch()
            await asyncio.sleep(STILL_SECONDS / 8)
        while not done:
            await asyncio.sleep(0.01)
        touched = loop.time()
        still.touch()
        while len(done) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2 * STILL_SECONDS)
        return [done[0] - start, *(end - touched for end in done[1:])]

    first, second = asyncio.run(asyncio.wait_for(at_work(), 60))
    assert first >= 2 * STILL_SECONDS
    assert second >= STILL_SECONDS
