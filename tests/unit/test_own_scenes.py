"""One's own scenes: what is read, what is drawn, what is refused, and that training helps."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from colmap_models import Camera, Image, Model
from jaxrecon import checkpoint
from jaxrecon.errors import InputError, OutputError
from jaxrecon.evaluation.sampling import processed_depth
from jaxrecon.images import PixelTransform
from jaxrecon.models import PI3
from jaxrecon.priors import SparseDepth
from jaxrecon.priors.sparse_depth import points_if_sparse
from jaxrecon.progress import Stages
from jaxrecon.training import Bucket, TrainConfig, loop, plan, programs, step, train
from jaxrecon.training.log import read_log
from jaxrecon.training.own import OwnData, read_own_data
from jaxrecon.training.own.resized import Room, covering, nearest_views
from jaxrecon.training.step import make_data_mesh
from own_folders import cameras, write_pictures, write_planes
from plane_scenes import render_planes, small_config

SIZE = (28, 42)


@pytest.fixture(autouse=True)
def planes() -> Iterator[None]:
    """Cheap scenes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "render_groups", render_planes)
        yield


def read(folders: list[Path], **changes: object) -> OwnData:
    values: dict[str, object] = {"buckets": (Bucket(4, 2, *SIZE),), "data_share": 1.0}
    return read_own_data(small_config(**{**values, **changes}), folders, Stages(quiet=True))


def told(folder: Path, **known: np.ndarray) -> Path:
    np.savez(folder / "condition.npz", allow_pickle=False, **known)
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Three pictures of which all is known."""
    return told(write_pictures(tmp_path / "scene"), **cameras())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_planes(tmp_path_factory.mktemp("own"), 3)


def test_a_scene_is_read_as_it_was_written(folders: list[Path]) -> None:
    own = read(folders[:1]).scenes[0]
    stored = np.load(folders[0] / "condition.npz")
    sized = own.sized[SIZE]
    np.testing.assert_allclose(sized.depth_z, stored["depths"], rtol=1e-6)
    np.testing.assert_allclose(sized.intrinsics, stored["intrinsics"], rtol=1e-6)
    moved = stored["poses"][:, :3, 3] - stored["poses"][0, :3, 3]
    np.testing.assert_allclose(own.poses[:, :3, 3], moved, atol=1e-6)
    first = np.asarray(PIL.Image.open(folders[0] / "images" / "000.png"))
    np.testing.assert_array_equal(sized.images[0], first)


def test_cameras_and_depth_follow_pictures_that_are_cut(scene: Path) -> None:
    """To 28x28 the pictures lose seven columns on each side, to 14x14 they are halved too."""
    squares = (Bucket(4, 2, 28, 28), Bucket(4, 2, 14, 14))
    sized = read([scene], buckets=squares).scenes[0].sized
    assert sized[28, 28].intrinsics[0].tolist() == [[42, 0, 13.5], [0, 42, 13.5], [0, 0, 1]]
    assert sized[14, 14].intrinsics[0].tolist() == [[21, 0, 6], [0, 21, 6.5], [0, 0, 1]]
    assert (sized[14, 14].depth_z == 4).all()
    whole = np.asarray(PIL.Image.open(scene / "images" / "0.png"))
    np.testing.assert_array_equal(sized[28, 28].images[0], whole[:, 7:35])


def test_sparse_depth_is_not_lost_when_pictures_shrink() -> None:
    depth = np.zeros((28, 42), np.float32)
    depth[3, 5], depth[2, 5], depth[27, 41] = 2, 3, 7
    small = processed_depth(points_if_sparse(depth), PixelTransform.stretch((42, 28), (21, 14)))
    assert np.argwhere(small).tolist() == [[1, 2], [13, 20]]
    assert (small[1, 2], small[13, 20]) == (2, 7)


def test_no_place_of_sparse_depth_is_lost_either() -> None:
    places = np.array([[5.4, 3.3], [5.0, 2.0], [41.4, 27.4]])
    depth = SparseDepth((42, 28), places, np.array([2, 3, 7], np.float32))
    small = processed_depth(depth, PixelTransform.stretch((42, 28), (21, 14)))
    assert np.argwhere(small).tolist() == [[1, 2], [13, 20]]
    assert (small[1, 2], small[13, 20]) == (2, 7)


@pytest.mark.parametrize("original", [(42, 28), (100, 30), (31, 57), (14, 14), (4000, 17)])
def test_pictures_of_any_shape_cover_the_size(original: tuple[int, int]) -> None:
    transform = covering(original, (56, 28))
    assert transform.size == (56, 28)
    assert transform.shown == (0, 0, 56, 28)
    assert transform.scale[0] == pytest.approx(transform.scale[1], rel=0.06)


def test_scenes_are_told_apart_by_their_files_and_what_is_known(tmp_path: Path) -> None:
    known, found = cameras(3), set[str]()
    scene = told(write_pictures(tmp_path / "scene", 3), **known)
    first = read([scene]).files
    assert first == read([scene]).files
    for kind in ("poses", "intrinsics", "depths"):
        changed = known[kind].copy()
        changed[2] = np.nan
        found.update(read([told(scene, **(known | {kind: changed}))]).files)
    (scene / "images" / "1.png").rename(scene / "images" / "5.png")
    found.update(read([told(scene, **known)]).files)
    assert len(found | {*first}) == 5


def test_what_is_told_of_some_views_counts_for_those(tmp_path: Path) -> None:
    known = cameras(4)
    known["poses"][2] = np.nan
    known["depths"][1] = 0
    known["depths"][3, 3:] = 0
    known["intrinsics"][3] = np.nan
    own = read([told(write_pictures(tmp_path / "scene", 4), **known)]).scenes[0]
    assert own.has_pose.tolist() == [True, True, False, True]
    assert own.has_rays.tolist() == [True, True, True, False]
    assert own.sized[SIZE].depth_z.any(axis=(1, 2)).tolist() == [True, False, True, True]
    assert own.is_dense.tolist() == [True, False, True, False]


@pytest.mark.parametrize("kind", ["intrinsics", "poses", "depths"])
def test_one_kind_is_enough(tmp_path: Path, kind: str) -> None:
    own = read([told(write_pictures(tmp_path / "scene"), **{kind: cameras()[kind]})])
    assert own.config.data_views == 3


def test_a_transforms_json_is_read(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "scene")
    frames = [
        {"file_path": f"images/{view}.png", "transform_matrix": cameras()["poses"][view].tolist()}
        for view in range(3)
    ]
    lens = {"fl_x": 42, "fl_y": 42, "cx": 21, "cy": 14, "w": 42, "h": 28}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    own = read([folder]).scenes[0]
    assert own.has_pose.all() and own.has_rays.all()
    np.testing.assert_allclose(own.sized[SIZE].intrinsics[0], cameras()["intrinsics"][0])


def colmap(views: int = 3) -> Model:
    """A model of such pictures, turned nowhere and side by side, that see two points.

    Point 5 lies 4 before the first camera, seen at its middle, and point 8 lies 2 before each.
    """
    camera = Camera((42, 28), (42.0, 42.0, 21.0, 14.0))
    images = tuple(
        Image(f"{view}.png", ((21.0 - 10.5 * view, 14.0, 5), (3.0 + view, 2.0, 8)),
              (1, 0, 0, 0, -view, 0, 0))
        for view in range(views)
    )  # fmt: skip
    return Model(images, {5: (0.0, 0.0, 4.0), 8: (0.0, 0.0, 2.0)}, (camera,))


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_points_of_a_colmap_model_are_sparse_depth(tmp_path: Path, text: bool) -> None:
    folder = write_pictures(tmp_path / "scene")
    colmap().write(folder / "sparse" / "0", text=text)
    squares = (Bucket(4, 2, 28, 28), Bucket(4, 2, 14, 14))
    own = read([folder], buckets=squares).scenes[0]
    assert own.has_pose.all() and own.has_rays.all()
    np.testing.assert_allclose(own.poses[:, 0, 3], [0, 1, 2])
    np.testing.assert_allclose(own.nearest[0], [0, 1, 2])
    assert not own.is_dense.any()
    # The pictures lose seven columns on each side: in the third view both points with them.
    known = [dict(zip(map(tuple, np.argwhere(view).tolist()), view[view > 0].tolist(), strict=True))
             for view in own.sized[28, 28].depth_z]  # fmt: skip
    assert known == [{(14, 14): 4}, {(14, 3): 4}, {}]
    small = own.sized[14, 14].depth_z  # halved, and four columns lost on the left
    assert np.argwhere(small).tolist() == [[0, 7, 6], [1, 7, 1]]
    assert small[small > 0].tolist() == [4, 4]


def test_a_colmap_model_without_points_has_cameras_alone(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "scene")
    colmap().write(folder, text=True)
    (folder / "points3D.txt").unlink()
    own = read([folder]).scenes[0]
    assert own.has_pose.all() and own.has_rays.all()
    assert not own.sized[SIZE].depth_z.any()


def test_an_archive_comes_before_a_colmap_model(tmp_path: Path) -> None:
    folder = told(write_pictures(tmp_path / "scene"), **cameras())
    colmap().write(folder / "sparse" / "0", text=True)
    assert (read([folder]).scenes[0].sized[SIZE].depth_z == 4).all()


def test_damaged_points_are_told(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "scene")
    points = colmap().write(folder / "sparse" / "0", text=False) / "points3D.bin"
    points.write_bytes(points.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"cannot read .*points3D.bin: it is damaged or cut short"):
        read([folder])


def test_neighbours_are_near_and_look_the_same_way() -> None:
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = [0, 5, 1, 1.5]
    poses[3, :3, :3] = np.diag([-1, 1, -1])
    known = np.ones(4, bool)
    assert nearest_views(poses, known, 1.0)[0].tolist()[:2] == [0, 2]
    assert nearest_views(poses, known, 2.0)[2].tolist()[:2] == [2, 0]
    assert nearest_views(poses, ~known, None)[2].tolist()[:2] == [2, 1]


def test_draws_are_those_of_the_step_and_leave_held_out_views_alone(folders: list[Path]) -> None:
    own = read(folders, data_held_out=4, data_share=0.5)
    first, again, other = own.batch(5), own.batch(5), own.batch(6)
    for name in ("images", "gain", "world_from_camera"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert (first.images != other.images).any()
    held = {s.sized[SIZE].images[view].tobytes() for s in own.scenes for view in (3, 7)}
    seen = {view.tobytes() for number in range(30) for b in own.batch(number).images for view in b}
    assert not held & seen
    assert len(seen) == 3 * 6
    assert 0.4 < np.mean([own.takes(number) for number in range(400)]) < 0.6


def test_buckets_of_more_views_than_any_scene_has_are_for_rendered_ones(
    folders: list[Path],
) -> None:
    own = read(folders, buckets=(Bucket(4, 2, *SIZE), Bucket(4, 9, *SIZE)))
    assert [bucket.views for bucket in own.buckets] == [2]


def test_views_that_memory_does_not_hold_lie_in_mapped_files() -> None:
    room = Room(limit=1000)
    kept, mapped = room.empty((10, 10), np.float32), room.empty((20, 20), np.float32)
    assert not isinstance(kept, np.memmap) and isinstance(mapped, np.memmap)
    mapped[3] = 7
    assert mapped.sum() == 140


def _empty(scene: Path) -> None:
    for file in (scene / "images").iterdir():
        file.unlink()


def _no_pictures(scene: Path) -> None:
    for file in (scene / "images").iterdir():
        file.write_text("no picture")


def _one_pixel(scene: Path) -> None:
    PIL.Image.new("RGB", (1, 1)).save(scene / "images" / "1.png")


def _same(scene: Path) -> None:
    shutil.copy(scene / "images" / "0.png", scene / "images" / "2.png")


def _with(**changes: Callable[[np.ndarray], np.ndarray] | None) -> Callable[[Path], None]:
    """Changes some arrays of the archive, or removes them."""

    def change(scene: Path) -> None:
        known = cameras()
        for name, edit in changes.items():
            array = known.pop(name)
            if edit is not None:
                known[name] = edit(array)
        told(scene, **known)

    return change


def _row(view: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def edit(array: np.ndarray) -> np.ndarray:
        array[view] = value
        return array

    return edit


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda scene: shutil.rmtree(scene / "images"), "has no folder images"),
        (_empty, "found no image in .*images; give at least two views"),
        (lambda s: [(s / "images" / f"{n}.png").unlink() for n in (1, 2)], "found one image in"),
        (lambda s: (s / "images" / "1.png").unlink(), r"condition\.npz: .* has shape \(3, "),
        (_no_pictures, r"0\.png"),
        (_one_pixel, r"1\.png is 1x1 pixels; give pictures of at least 14"),
        (_same, r"images/2\.png and .*images/0\.png are the same picture; remove one"),
        (lambda s: (s / "condition.npz").unlink(), "tells nothing of its images; put condition"),
        (lambda s: (s / "condition.npz").write_text("no"), r"condition\.npz"),
        (_with(poses=_row(1, 2 * np.eye(4))), r"condition\.npz: poses: view 1: found the last row"),
        (_with(poses=_row(1, np.diag([2, 1, 1, 1]))), r"poses: view 1 is not rigid"),
        (_with(poses=_row((2, 0, 3), np.nan)), r"poses: view 2: found values that are no finite"),
        (_with(intrinsics=_row(0, np.eye(3))), r"intrinsics: view 0: found focal lengths"),
        (_with(depths=lambda d: d[:, :20]), r"depths: view 0: found an array of shape \(20, 42\)"),
        (_with(depths=lambda d: -d), r"depths: view 0: found the depth -4"),
        (_with(poses=None, intrinsics=None, depths=None), "has no array named intrinsics or"),
        (
            _with(
                poses=lambda p: p * np.nan,
                intrinsics=lambda k: k * np.nan,
                depths=lambda d: 0 * d,
            ),
            "tells no intrinsics or poses or depths of these images",
        ),
        (
            _with(poses=_row(slice(1, 3), np.nan), intrinsics=None, depths=None),
            "tells one pose alone, which teaches nothing",
        ),
    ],
)
def test_what_cannot_be_used_is_named(
    scene: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(scene)
    with pytest.raises(InputError, match=message) as raised:
        read([scene])
    assert str(raised.value).count("\n") == 0


def test_folders_that_are_none_and_folders_given_twice(scene: Path, tmp_path: Path) -> None:
    for given, message in (
        ([], "data: found no folder"),
        ([tmp_path / "nowhere"], "nowhere does not exist"),
        ([scene / "condition.npz"], "is a file, not a folder"),
        ([scene, scene / ".." / "scene"], "are one folder; give it once"),
    ):
        with pytest.raises(InputError, match=message):
            read(given)


def test_scenes_of_too_few_views(scene: Path) -> None:
    with pytest.raises(InputError, match=r"has 3 views to train on, and the smallest .* has 5"):
        read([scene], buckets=(Bucket(4, 5, *SIZE),))
    with pytest.raises(
        InputError, match=r"data_held_out=2 holds out 1 of the 3 views of .*; give a lower"
    ):
        read([scene], data_held_out=2)
    with pytest.raises(InputError, match="data_held_out=1 leaves no view"):
        small_config(data_held_out=1)


def fine_tuning(**changes: object) -> TrainConfig:
    values: dict[str, object] = {
        "buckets": (Bucket(8, 3, *SIZE),),
        "steps": 100,
        "warmup_steps": 5,
        "log_every": 50,
        "save_every": 50,
        "validate_every": 100,
        "data_share": 1.0,
        "data_held_out": 4,
    }
    return small_config(**{**values, **changes})


def held_out(folder: Path, name: str) -> list[float]:
    key = f"held_out_{name}"
    return [line[key] for line in read_log(folder / "log.jsonl") if key in line]


@pytest.mark.thorough
def test_training_on_own_scenes_lowers_the_error_on_held_out_views(tmp_path: Path) -> None:
    folders, run = write_planes(tmp_path / "own", 3, views=24), tmp_path / "run"
    assert train(fine_tuning(), run, data=folders) is not None
    log = read_log(run / "log.jsonl")
    assert [line["step"] for line in log if "held_out_auc30" in line] == [0, 100]
    assert not any("loss" in line or "validation_abs_rel" in line for line in log)
    before, after = held_out(run, "abs_rel")
    assert after < 0.85 * before
    before, after = held_out(run, "auc30")
    assert after > before
    assert TrainConfig.from_json(run / "train.json").data_views == 72
    with pytest.raises(InputError, match=r"has 72 views of own scenes; give the folders"):
        train(TrainConfig.from_json(run / "train.json"), run)


@pytest.mark.thorough
def test_a_mixed_run_that_is_stopped_takes_the_same_steps(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fine_tuning(
        buckets=(Bucket(4, 2, *SIZE),), steps=8, warmup_steps=1, log_every=2, save_every=4,
        data_share=0.5,
    )  # fmt: skip
    kept: list[programs.Programs] = []

    def once(*arguments: object) -> programs.Programs:
        kept.extend([] if kept else [programs.Programs(*arguments)])  # pyright: ignore
        return kept[0]

    monkeypatch.setattr(loop, "Programs", once)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole, data=folders)
    assert train(config, parts, data=folders, stop_after=0.0) is None
    with pytest.raises(InputError, match=r"data: .* holds a run that began with other files"):
        train(config, parts, data=folders[::-1])
    train(config, parts, data=folders)
    ours, theirs = (dict(checkpoint.read_tensors(f / "weights")) for f in (whole, parts))
    assert all((ours[path] == theirs[path]).all() for path in ours)
    lines = [line for line in read_log(whole / "log.jsonl") if "seconds" in line]
    assert any("own_loss" in line for line in lines) and any("loss" in line for line in lines)


@pytest.mark.thorough
def test_weights_keep_the_terms_of_those_they_started_from(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fine_tuning()
    state = plan.abstract_state(config)
    zeros = {path: jnp.zeros(x.shape, jnp.float32) for path, x in state.weights.items()}
    loop.save_weights(config, zeros, tmp_path / "first" / "weights", 3)  # pyright: ignore
    file = tmp_path / "first" / "weights" / "config.json"
    header = json.loads(file.read_text()) | {"license": "for nobody", "model": "pi3"}
    file.write_text(json.dumps(header))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "Programs", interrupted)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(config, run, data=folders, init=tmp_path / "first" / "weights")
    loop.save_weights(config, zeros, run / "weights", 5)  # pyright: ignore
    found = checkpoint.read_config(run / "weights")
    assert (found["license"], found["model"]) == ("for nobody", "pi3")
    assert found["source"]["from"]["steps"] == 3


def test_a_state_that_does_not_fit_is_refused_before_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = make_data_mesh()
    monkeypatch.setattr(plan, "bytes_limit", lambda device: 100_000)
    with pytest.raises(
        InputError, match=r"model: the state of the run .* has 97\.66 KiB; use more"
    ):
        train(fine_tuning(), tmp_path / "run", init=tmp_path / "nowhere", mesh=mesh)
    monkeypatch.setattr(plan, "bytes_limit", lambda device: None)
    monkeypatch.setattr(plan, "_free", lambda folder: 1000)
    with pytest.raises(OutputError, match=r"checkpoints need .* and 1000 bytes are free there"):
        train(fine_tuning(), tmp_path / "run", init=tmp_path / "nowhere", mesh=mesh)
    assert not (tmp_path / "run").exists()


def test_the_plan_of_the_released_model() -> None:
    """Four numbers of float32 a parameter, and a fifth for its gradient; half on each of two."""
    config = replace(fine_tuning(), model=PI3)
    one, two = (plan.plan_state(config, n, sharded=n > 1) for n in (1, 2))
    count = 958_696_732
    assert (one.weights, one.gradients) == (4 * count, 4 * count)
    assert one.state == pytest.approx(16 * count, rel=1e-6)
    assert two.state == pytest.approx(one.state / 2, rel=0.01)
    assert two.checkpoint == one.checkpoint
