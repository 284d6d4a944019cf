"""Bundle adjustment of exact scenes: cameras inside a box, whose walls hide nothing."""

import sys
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrecon.bundle_adjustment import MIN_SHARED_TRACKS, bundle_adjust
from jaxrecon.errors import InputError
from jaxrecon.formats import PointTracks
from jaxrecon.geometry import umeyama
from jaxrecon.images import PixelTransform
from jaxrecon.reconstruction import Reconstruction
from kept_notes import KeptNotes

# Installed for development; a machine lent for GPU tests may lack it.
pycolmap = pytest.importorskip("pycolmap")

HEIGHT, WIDTH, WALL = 48, 64, 3.0
FOCAL = (50.0, 55.0)


def adjust(recon: Any, **options: Any) -> Any:
    return bundle_adjust(recon, **options)


def turned(angles: np.ndarray) -> np.ndarray:
    """Rotation by `|angles|` radians about the axis `angles`, by Rodrigues' formula."""
    angle = np.linalg.norm(angles)
    x, y, z = angles / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def poses(views: int, rng: np.random.Generator) -> np.ndarray:
    """Cameras near the middle of the box that look at a corner, turned this way and that."""
    forward = np.ones(3) / np.sqrt(3)
    right = np.array([1, -1, 0]) / np.sqrt(2)
    corner = np.stack([right, np.cross(forward, right), forward], axis=-1)
    pose = np.tile(np.eye(4), (views, 1, 1))
    for view in range(views):
        pose[view, :3, :3] = corner @ turned(rng.normal(size=3) * 0.15)
    pose[:, :3, 3] = rng.uniform(-1, 1, (views, 3))
    return pose


def pinholes(views: int, focal: Any = FOCAL) -> np.ndarray:
    k = np.tile(np.eye(3), (views, 1, 1))
    k[:, [0, 1], [0, 1]] = focal
    k[:, :2, 2] = (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    return k


def in_cameras(depth_z: np.ndarray, k: np.ndarray) -> np.ndarray:
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([column, row, np.ones_like(row)], axis=-1)
    return np.einsum("vij,hwj->vhwi", np.linalg.inv(k), pixels) * depth_z[..., None]


def in_world(points_camera: np.ndarray, pose: np.ndarray) -> np.ndarray:
    turned = np.einsum("vij,vhwj->vhwi", pose[:, :3, :3], points_camera)
    return turned + pose[:, None, None, :3, 3]


def depth_of_box(pose: np.ndarray, k: np.ndarray) -> np.ndarray:
    rays = in_world(in_cameras(np.ones((len(pose), HEIGHT, WIDTH)), k), pose)
    start = pose[:, None, None, :3, 3]
    return ((WALL * np.sign(rays - start) - start) / (rays - start)).min(axis=-1)


def project(points: np.ndarray, pose: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of P world points in each view, and which are in the picture."""
    local = np.einsum("vpi,vij->vpj", points - pose[:, None, :3, 3], pose[:, :3, :3])
    xy = np.einsum("vij,vpj->vpi", k, local)[..., :2] / local[..., 2:]
    inside = ((xy >= -0.5) & (xy <= (WIDTH - 0.5, HEIGHT - 0.5))).all(axis=-1)
    return xy, inside & (local[..., 2] > 0)


def recon_of(depth_z: np.ndarray, pose: np.ndarray, k: np.ndarray, tracks: Any) -> Any:
    """In double precision, so that the tolerances are those of the solver."""
    views, points_camera = len(pose), in_cameras(depth_z, k)
    size = (WIDTH, HEIGHT)
    return Reconstruction(
        points_world=in_world(points_camera, pose),
        points_camera=points_camera,
        confidence=np.ones(depth_z.shape),
        mask=np.ones(depth_z.shape, bool),
        colors=np.zeros((*depth_z.shape, 3), np.uint8),
        world_from_camera=pose,
        intrinsics=k,
        names=tuple(f"{view}.jpg" for view in range(views)),
        transforms=(PixelTransform(size, size, (1.0, 1.0)),) * views,
        tracks=tracks,
    )


def exact(views: int = 6, count: int = 300, query_views: int = 1, seed: int = 0) -> Any:
    """The truth: points at pixel centres of the first `query_views` views, and exact tracks."""
    rng = np.random.default_rng(seed)
    pose, k = poses(views, rng), pinholes(views)
    depth_z = depth_of_box(pose, k)
    query_view = np.arange(count) % query_views
    row, column = rng.integers(0, HEIGHT, count), rng.integers(0, WIDTH, count)
    points = in_world(in_cameras(depth_z, k), pose)[query_view, row, column]
    xy, inside = project(points, pose, k)
    tracks = PointTracks(
        xy=xy,
        visibility=inside.astype(float),
        confidence=np.ones(inside.shape),
        query_view=query_view,
    )
    return recon_of(depth_z, pose, k, tracks)


def perturbed(truth: Any, seed: int = 5, focal: bool = True) -> Any:
    """About half a degree, three percent of the distances and two percent of the focal lengths."""
    rng = np.random.default_rng(seed)
    pose, k = np.array(truth.world_from_camera), np.array(truth.intrinsics)
    for view in range(len(pose)):
        pose[view, :3, :3] = pose[view, :3, :3] @ turned(rng.normal(size=3) * 0.01)
        pose[view, :3, 3] += rng.normal(size=3) * 0.03
    if focal:
        k[:, [0, 1], [0, 1]] *= 1 + 0.02 * rng.normal(size=(len(pose), 2))
    return recon_of(truth.depth_z, pose, k, truth.tracks)


def pose_error(found: Any, truth: Any, views: slice = slice(None)) -> float:
    """Largest entry by which poses differ after the best similarity of their centres."""
    a, b = (np.asarray(recon.world_from_camera)[views] for recon in (found, truth))
    aligned = umeyama(a[:, :3, 3], b[:, :3, 3]).poses(a)
    return float(np.abs(aligned - b).max())


def focal_error(found: Any, truth: Any, views: slice = slice(None)) -> float:
    return float(np.abs(np.asarray(found.intrinsics - truth.intrinsics)[views]).max())


def unseen(recon: Any, views: list[int]) -> Any:
    """The reconstruction with no point visible in some views."""
    visibility = np.array(recon.tracks.visibility)
    visibility[views] = 0
    return replace(recon, tracks=replace(recon.tracks, visibility=visibility))


def moved(recon: Any, shift: np.ndarray) -> Any:
    """The reconstruction with its track positions shifted."""
    return replace(recon, tracks=replace(recon.tracks, xy=recon.tracks.xy + shift))


def test_the_truth_stays_as_it_is():
    truth = exact()
    refined = adjust(truth)
    for name in ("world_from_camera", "intrinsics", "points_world", "points_camera"):
        np.testing.assert_allclose(getattr(refined, name), getattr(truth, name), atol=1e-9)


@pytest.mark.parametrize("query_views", [1, 3])
def test_disturbed_cameras_come_back(query_views):
    truth = exact(query_views=query_views)
    start = perturbed(truth)
    refined = adjust(start)
    assert pose_error(start, truth) > 0.02 and focal_error(start, truth) > 1
    assert pose_error(refined, truth) < 1e-6 and focal_error(refined, truth) < 1e-4
    np.testing.assert_array_equal(refined.depth_z, truth.depth_z)


def test_the_unit_is_that_of_the_depth_and_points_follow_the_cameras():
    truth = exact()
    refined = adjust(perturbed(truth))
    fit = umeyama(refined.points_world.reshape(-1, 3), truth.points_world.reshape(-1, 3))
    assert fit.scale == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(fit.points(refined.points_world), truth.points_world, atol=1e-5)
    np.testing.assert_allclose(refined.points_camera, truth.points_camera, atol=1e-5)


def test_the_frame_is_that_of_the_given_cameras():
    """The turn and shift back are those of least squares, so that none is left."""
    start = perturbed(exact())
    refined = adjust(start)
    used = np.isfinite(refined.tracks.points_world).all(axis=1)
    column, row = refined.tracks.xy[0, used].round().astype(int).T
    points = [recon.points_world[0, row, column] for recon in (refined, start)]
    centres = [recon.world_from_camera[:, :3, 3] for recon in (refined, start)]
    weights = np.repeat([1 / len(centres[0]), 1 / len(points[0])], [len(centres[0]), used.sum()])
    source, target = (np.concatenate(pair) for pair in zip(centres, points, strict=True))
    left = umeyama(source, target, weights, with_scale=False)
    np.testing.assert_allclose(left.rotation, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(left.translation, 0, atol=1e-9)


def test_refined_points_project_to_where_they_were_seen():
    truth = exact()
    refined = adjust(perturbed(truth))
    points = refined.tracks.points_world
    used = np.isfinite(points).all(axis=1)
    seen = truth.tracks.visibility > 0
    np.testing.assert_array_equal(used, seen.sum(axis=0) >= 2)
    xy, _ = project(np.nan_to_num(points), refined.world_from_camera, refined.intrinsics)
    away = np.linalg.norm(xy - truth.tracks.xy, axis=-1)[seen & used]
    assert away.max() < 1e-4


def test_observations_that_are_off_are_left_out():
    truth = exact()
    rng = np.random.default_rng(7)
    off = (rng.random(truth.tracks.visibility.shape) < 0.2) & (np.arange(6)[:, None] > 0)
    start = moved(perturbed(truth), off[..., None] * np.array([12.0, -9.0]))
    assert pose_error(adjust(start), truth) < 1e-6
    assert pose_error(adjust(start, max_reprojection_error=30.0), truth) > 1e-3


def test_observations_that_are_not_visible_or_not_finite_are_left_out():
    truth = exact()
    hidden = np.zeros(truth.tracks.visibility.shape, bool)
    hidden[1:, ::7] = True
    start = moved(perturbed(truth), hidden[..., None] * np.array([2.0, -1.5]))
    visibility = np.where(hidden, 0.19, truth.tracks.visibility)
    xy = np.array(start.tracks.xy)
    xy[2:, 1::7] = np.nan
    start = replace(start, tracks=replace(truth.tracks, xy=xy, visibility=visibility))
    assert pose_error(adjust(start), truth) < 1e-6


def test_a_few_wrong_observations_that_pass_weigh_little():
    """A plain squared loss leaves the poses 3.5e-2 off."""
    truth = exact()
    off = np.zeros((*truth.tracks.visibility.shape, 2))
    off[1, ::40] = 4.0, -3.0
    assert pose_error(adjust(moved(truth, off)), truth) < 1.2e-2


def test_a_view_without_tracks_keeps_its_camera():
    truth = exact()
    start = unseen(perturbed(truth), [3])
    notes = KeptNotes()
    refined = adjust(start, stages=notes)
    for name in ("world_from_camera", "intrinsics", "points_world", "points_camera"):
        np.testing.assert_array_equal(getattr(refined, name)[3], getattr(start, name)[3])
    others = [0, 1, 2, 4, 5]
    assert pose_error(refined[others], truth[others]) < 1e-6
    (note,) = notes.notes
    assert "1 of 6 views" in note and note.endswith(": 3.jpg")


def test_two_groups_without_a_link_are_not_mixed():
    """Points of views 0 to 3 are seen in these alone, those of 4 and 5 in those alone."""
    truth = exact(query_views=6, count=900)
    group = np.array([0, 0, 0, 0, 1, 1])
    linked = group[:, None] == group[truth.tracks.query_view]
    tracks = replace(truth.tracks, visibility=truth.tracks.visibility * linked)
    start = perturbed(replace(truth, tracks=tracks))
    notes = KeptNotes()
    refined = adjust(start, stages=notes)
    np.testing.assert_array_equal(refined.world_from_camera[4:], start.world_from_camera[4:])
    assert pose_error(refined, truth, slice(4)) < 1e-6
    assert notes.notes[0].endswith(": 4.jpg, 5.jpg")


@pytest.mark.parametrize("count", [MIN_SHARED_TRACKS - 1, MIN_SHARED_TRACKS])
def test_views_are_linked_by_enough_shared_tracks(count):
    truth = exact()
    visibility = np.array(truth.tracks.visibility)
    visibility[5, np.flatnonzero(visibility[5])[count:]] = 0
    start = perturbed(replace(truth, tracks=replace(truth.tracks, visibility=visibility)))
    refined = adjust(start)
    kept = (refined.world_from_camera[5] == start.world_from_camera[5]).all()
    assert kept == (count < MIN_SHARED_TRACKS)


def test_one_camera_for_all_views():
    truth = exact()
    start = perturbed(truth)
    refined = adjust(start, shared_camera=True)
    assert len(np.unique(refined.intrinsics, axis=0)) == 1
    assert pose_error(refined, truth) < 1e-6 and focal_error(refined, truth) < 1e-4
    crop = PixelTransform((WIDTH, HEIGHT), (WIDTH, HEIGHT), (1.0, 1.0), (-2.0, 0.0))
    other = replace(start, transforms=(*start.transforms[:4], crop, crop))
    with pytest.raises(InputError, match=r"view 0 \(0.jpg\) and view 4 \(4.jpg\) were not"):
        adjust(other, shared_camera=True)
    adjust(unseen(other, [4, 5]), shared_camera=True)


def test_arrays_of_single_precision_on_a_device():
    truth = exact()
    start = perturbed(truth)
    names = ("points_world", "points_camera", "confidence", "world_from_camera", "intrinsics")
    tracks = PointTracks(
        xy=jnp.asarray(truth.tracks.xy, jnp.float32),
        visibility=jnp.asarray(truth.tracks.visibility, jnp.float32),
        confidence=jnp.asarray(truth.tracks.confidence, jnp.float32),
        query_view=jnp.asarray(truth.tracks.query_view, jnp.int32),
    )
    arrays: dict[str, Any] = {
        name: jnp.asarray(getattr(start, name), jnp.float32) for name in names
    }
    refined = adjust(replace(start, **arrays, tracks=tracks))
    assert pose_error(refined, truth) < 1e-5 and focal_error(refined, truth) < 1e-3
    for name in names:
        assert isinstance(getattr(refined, name), np.ndarray)
        assert getattr(refined, name).dtype == np.float32
    np.testing.assert_array_equal(refined.depth_z, np.asarray(arrays["points_camera"][..., 2]))


def test_depth_that_is_not_finite_stays_so():
    truth = exact()
    start = perturbed(truth)
    mask = np.ones(truth.mask.shape, bool)
    mask[0, 10] = mask[1, 5] = False
    depth_z = np.where(mask, truth.depth_z, [[[np.nan]], *[[[np.inf]]] * 5])
    start = recon_of(depth_z, start.world_from_camera, start.intrinsics, truth.tracks)
    refined = adjust(replace(start, mask=mask))
    assert pose_error(refined, truth) < 1e-6
    np.testing.assert_array_equal(refined.depth_z, depth_z)


def test_nothing_is_printed(capfd):
    adjust(unseen(perturbed(exact()), [3]))
    assert capfd.readouterr() == ("", "")


def test_without_pycolmap(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(InputError, match=r"needs pycolmap; pip install jaxrecon\[colmap\]"):
        adjust(exact())


def test_what_cannot_be_adjusted_is_refused():
    truth = exact()
    with pytest.raises(InputError, match="needs point tracks and the reconstruction has none"):
        adjust(replace(truth, tracks=None))
    for error in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="must be a positive number of pixels"):
            adjust(truth, max_reprojection_error=error)
    few = exact(count=MIN_SHARED_TRACKS - 1)
    most = int((few.tracks.visibility[1:] @ few.tracks.visibility[0]).max())
    with pytest.raises(InputError, match=f"no two share more than {most}; follow more points"):
        adjust(few)
    with pytest.raises(InputError, match="no two share more than 0; follow more points"):
        adjust(replace(truth, mask=np.zeros(truth.mask.shape, bool)))
    with pytest.raises(InputError, match="needs at least two views, found 1; leave it out"):
        adjust(truth[0])


def test_a_solver_that_fails(monkeypatch):
    class Hopeless:
        solve = pycolmap.BundleAdjustmentSummary

    monkeypatch.setattr(pycolmap, "create_default_bundle_adjuster", lambda *_: Hopeless())
    with pytest.raises(InputError, match=r"bundle adjustment failed \(failure\); leave it out"):
        adjust(exact())


def test_a_solver_that_raises(monkeypatch):
    def refuse(*_):
        raise ValueError("[problem.cc:7] Check failed:\nx > 0")

    monkeypatch.setattr(pycolmap, "create_default_bundle_adjuster", refuse)
    with pytest.raises(
        InputError, match=r"bundle adjustment failed \(.* Check failed: x > 0\); le"
    ):
        adjust(exact())
