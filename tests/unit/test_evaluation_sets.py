"""Readers of evaluation sets, on small folders in each set's layout."""

import gzip
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from colmap_models import Camera, Image, Model
from jaxrecon import scenes
from jaxrecon.errors import InputError
from jaxrecon.evaluation import DATASETS, GroundTruth, Subset, open_dataset
from jaxrecon.evaluation.datasets import procedural
from jaxrecon.evaluation.datasets.co3d import intrinsics_from_ndc, opencv_from_pytorch3d
from jaxrecon.evaluation.datasets.common import stack_depths
from jaxrecon.evaluation.datasets.tum import nearest_in_time
from jaxrecon.priors import SparseDepth
from jaxrecon.scenes import RenderedScenes
from random_recon import random_recon

WIDTH, HEIGHT = 8, 6


def picture(path: Path, *, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size).save(path, **options)
    return path


def depth_picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(values.astype(np.uint16)).save(path)


def shifted(*xs: float) -> np.ndarray:
    """Camera-to-world poses at these places along x."""
    poses = np.tile(np.eye(4), (len(xs), 1, 1))
    poses[:, 0, 3] = xs
    return poses


def read(kind: str, path: Path, **options: Any) -> list[GroundTruth]:
    return list(open_dataset(kind, path, **options))


class TestPick:
    def test_every_third_and_at_most_two(self) -> None:
        assert Subset(stride=3, views=2).of(range(10)) == [0, 3]
        assert Subset(stride=3).of(range(10)) == [0, 3, 6, 9]
        assert Subset(views=20).of(range(3)) == [0, 1, 2]

    def test_a_draw_is_in_order_and_repeatable(self) -> None:
        drawn = Subset(views=5, seed=1).of(range(100))
        assert drawn == sorted(set(drawn)) == Subset(views=5, seed=1).of(range(100))
        assert drawn != Subset(views=5, seed=2).of(range(100))
        assert len(drawn) == 5

    @pytest.mark.parametrize("wrong", [{"stride": 0}, {"views": 0}, {"seed": -1}])
    def test_refusals(self, wrong: dict[str, Any]) -> None:
        ((name, value),) = wrong.items()
        with pytest.raises(InputError, match=f"{name} is {value}"):
            Subset(**wrong)


class TestTruth:
    IMAGES = np.zeros((2, HEIGHT, WIDTH, 3), np.uint8)

    def test_other_numbers_of_views(self, without_shape_checks: None) -> None:
        with pytest.raises(InputError, match=r"s: intrinsics has shape \(3, 3, 3\); .* 2 images"):
            GroundTruth("s", self.IMAGES, intrinsics=np.zeros((3, 3, 3)))
        with pytest.raises(InputError, match=r"depth_z has shape \(2, 6\); expected \(2, any, any"):
            GroundTruth("s", self.IMAGES, depth_z=np.zeros((2, 6)))
        places = (SparseDepth.unknown((WIDTH, HEIGHT)),)
        with pytest.raises(InputError, match="s: sparse_depth is of 1 views; expected 2"):
            GroundTruth("s", self.IMAGES, sparse_depth=places)
        with pytest.raises(InputError, match="s: found depth_z and sparse_depth; give one"):
            GroundTruth("s", self.IMAGES, depth_z=np.zeros((2, 6, 8)), sparse_depth=places * 2)

    def test_no_images(self) -> None:
        with pytest.raises(InputError, match="s has no images"):
            GroundTruth("s", ())

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ((0, 0, 2.0), r"no rotation \(off by 3\)"),
            ((0, 0, -1.0), r"no rotation \(a reflection\)"),
            ((3, 0, 1.0), "the last row"),
            ((3, 3, 0.0), "the last row"),
            ((0, 3, 1e200), r"the number 1e\+200"),
        ],
    )
    def test_poses_that_are_not_rigid(self, change: tuple[int, int, float], told: str) -> None:
        poses = shifted(0, 1)
        poses[1, change[0], change[1]] = change[2]
        with pytest.raises(InputError, match=f"s: the pose of view 1.*{told}"):
            GroundTruth("s", self.IMAGES, poses)

    def test_poses_that_were_measured(self) -> None:
        poses = shifted(0, 1)
        poses[:, :3, :3] *= 1.004
        assert GroundTruth("s", self.IMAGES, poses).world_from_camera is poses

    @pytest.mark.parametrize("change", [(0, 0, 0.0), (1, 1, -1.0), (2, 2, 0.0), (2, 0, 1.0)])
    def test_cameras_that_are_no_pinholes(self, change: tuple[int, int, float]) -> None:
        cameras = np.tile(np.eye(3), (2, 1, 1))
        cameras[1, change[0], change[1]] = change[2]
        with pytest.raises(InputError, match="the intrinsics of view 1 are no pinhole camera"):
            GroundTruth("s", self.IMAGES, intrinsics=cameras)

    def test_what_is_unknown_is_fine(self) -> None:
        cameras = np.stack([np.eye(3), np.full((3, 3), np.nan)])
        assert len(GroundTruth("s", self.IMAGES, shifted(0, np.nan), cameras)) == 2


def test_depth_of_several_sizes_is_told_with_a_way_out() -> None:
    wide, tall = np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)
    names = [Path("a.png"), Path("b.png"), Path("c.png")]
    told = "c.png: its depth is 2x3 pixels, that of b.png 3x2; give depth of one size, or evaluate"
    with pytest.raises(InputError, match=re.escape(told)):
        stack_depths([None, wide, tall], names)
    stacked = stack_depths([None, wide, wide], names)
    assert stacked is not None and stacked.sum(axis=(1, 2)).tolist() == [0, 6, 6]


class TestProcedural:
    def test_chunks_join_into_one_stream(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stand-in renders, called as the real renderer wants it."""
        calls, real = [], inspect.signature(scenes.render_scenes)

        def render(key: jax.Array, **numbers: int) -> RenderedScenes:
            real.bind(key, **numbers)
            calls.append((jax.random.key_data(key).tolist(), numbers["first"], numbers["scenes"]))
            shape = tuple(numbers[name] for name in ("scenes", "views", "height", "width"))
            number = numbers["first"] + jnp.arange(shape[0], dtype=float)[:, None, None, None]
            pose = jnp.broadcast_to(jnp.eye(4), (*shape[:2], 4, 4))
            mask = jnp.ones(shape, bool).at[..., 0, 0].set(False)
            depth = jnp.broadcast_to(number + 1.0, shape)
            return RenderedScenes(jnp.full((*shape, 3), 0.5), depth, mask, pose, pose[..., :3, :3])

        monkeypatch.setattr(scenes, "render_scenes", render)
        monkeypatch.setattr(procedural, "TOGETHER", 2)
        found = list(open_dataset("procedural", scenes=3, views=2, size=8, seed=5))
        key = jax.random.key_data(scenes.scene_key("test", 5)).tolist()
        assert calls == [(key, 0, 2), (key, 2, 2)]
        assert [truth.name for truth in found] == [f"procedural-5-000{n}" for n in range(3)]
        for number, truth in enumerate(found):
            assert truth.depth_z is not None and isinstance(truth.images, np.ndarray)
            assert truth.depth_z[0, 1, 1] == number + 1
            assert truth.depth_z[0, 0, 0] == 0
            assert truth.images[0, 0, 0, 0] == 128

    def test_a_path_is_refused(self) -> None:
        with pytest.raises(InputError, match="procedural scenes lie nowhere"):
            open_dataset("procedural", "x")

    def test_a_size_is_of_procedural_images(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="size=56 is of procedural images; those of the set tu"
        ):
            open_dataset("tum", tmp_path, size=56)


def make_folder(folder: Path, views: int = 3, **arrays: np.ndarray) -> Path:
    for view in range(views):
        picture(folder / "images" / f"{view:03d}.png")
    np.savez(folder / "condition.npz", allow_pickle=False, **arrays)
    return folder


def colmap_of(*names: str) -> Model:
    """Cameras side by side, of which all but the first see one point, 5 in front of them."""
    camera = Camera((WIDTH, HEIGHT), (10.0, 10.0, WIDTH / 2, HEIGHT / 2))
    images = tuple(
        Image(name, ((4.1, 3.2, 3),) if view else (), (1, 0, 0, 0, -view, 0, 0))
        for view, name in enumerate(names)
    )
    return Model(images, {3: (0.0, 0.0, 5.0)}, (camera,))


class TestFolder:
    def test_everything_known(self, tmp_path: Path) -> None:
        depths = np.arange(3 * HEIGHT * WIDTH, dtype=np.float32).reshape(3, HEIGHT, WIDTH)
        intrinsics = np.tile(np.eye(3), (3, 1, 1))
        make_folder(tmp_path, poses=shifted(0, 1, 2), intrinsics=intrinsics, depths=depths)
        (truth,) = read("folder", tmp_path, stride=2)
        assert truth.name == tmp_path.name
        assert [Path(str(image)).name for image in truth.images] == ["000.png", "002.png"]
        np.testing.assert_array_equal(truth.world_from_camera, shifted(0, 2))
        np.testing.assert_array_equal(truth.depth_z, depths[::2])

    def test_a_folder_of_folders(self, tmp_path: Path) -> None:
        make_folder(tmp_path / "b", poses=shifted(0, 1, 2))
        make_folder(tmp_path / "a", views=2, depths=np.ones((2, HEIGHT, WIDTH)))
        found = read("folder", tmp_path, views=2)
        assert [(truth.name, len(truth)) for truth in found] == [("a", 2), ("b", 2)]
        assert found[0].world_from_camera is None
        assert [len(read("folder", tmp_path, scenes=n)) for n in (1, 5)] == [1, 2]

    def test_images_in_the_order_of_reconstruct(self, tmp_path: Path) -> None:
        make_folder(tmp_path, views=0, poses=shifted(1, 2, 10))
        for name in ("10.png", "2.png", "1.png"):
            picture(tmp_path / "images" / name)
        for hidden in (".DS_Store", "._1.png"):
            (tmp_path / "images" / hidden).write_bytes(b"no image")
        (truth,) = read("folder", tmp_path)
        assert [Path(str(image)).name for image in truth.images] == ["1.png", "2.png", "10.png"]

    def test_one_camera_for_all_images(self, tmp_path: Path) -> None:
        camera = np.array([[4.0, 0, 3.5], [0, 4, 2.5], [0, 0, 1]])
        (truth,) = read("folder", make_folder(tmp_path, intrinsics=camera))
        np.testing.assert_array_equal(truth.intrinsics, [camera] * 3)

    def test_an_archive_of_another_name(self, tmp_path: Path) -> None:
        make_folder(tmp_path, poses=shifted(0, 1, 2))
        (tmp_path / "condition.npz").rename(tmp_path / "truth.npz")
        assert read("folder", tmp_path)[0].world_from_camera is not None

    def test_a_result_of_ours_is_mapped_back_to_the_photos(self, tmp_path: Path) -> None:
        recon = replace(random_recon()[[0, 0, 0]], names=("000.png", "001.png", "002.png"))
        make_folder(tmp_path, views=3)
        for name in recon.names:
            picture(tmp_path / "images" / name, size=(24, 16))
        (tmp_path / "condition.npz").unlink()
        recon.save(tmp_path / "scene.npz")
        (truth,) = read("folder", tmp_path)
        assert truth.intrinsics is not None and truth.world_from_camera is not None
        np.testing.assert_allclose(truth.intrinsics, recon.to_original().intrinsics, rtol=1e-6)
        np.testing.assert_allclose(truth.world_from_camera, recon.world_from_camera, rtol=1e-6)
        assert truth.depth_z is not None and truth.depth_z.shape == (3, 16, 24)
        transforms = {"file_path": "001.png", "transform_matrix": np.eye(4).tolist()}
        (tmp_path / "transforms.json").write_text(json.dumps({"frames": [transforms]}))
        (truth,) = read("folder", tmp_path)
        assert (len(truth), truth.intrinsics) == (1, None)  # no result where there is a truth

    @pytest.mark.parametrize(
        ("arrays", "told"),
        [
            ({"poses": shifted(0, 1)}, r"condition.npz: poses has shape \(2, 4, 4\); .*\(3, 4, 4"),
            ({"depths": np.ones((3, 7, 8))}, "depths is 8x7 pixels, .*000.png is 8x6"),
            ({"poses": np.tile(2 * np.eye(4), (3, 1, 1))}, "the pose of view 0"),
            ({"intrinsics": np.full((3, 3, 3), "x")}, "intrinsics has dtype <U1"),
            ({"intrinsics": np.zeros((3, 3, 3))}, "the intrinsics of view 0 are no pinhole camera"),
            ({"w2c": shifted(0, 1, 2)}, "no array named .*: it has w2c; w2c is camera from world"),
            ({"Poses": shifted(0, 1, 2)}, "it has Poses; save intrinsics as"),
            (
                {"intrinsics": np.eye(3), "extrinsics": shifted(0, 1, 2)},
                "no poses, and its extrinsics would be passed over: .* save its inverse",
            ),
            (
                {"intrinsics": np.eye(3), "Poses": shifted(0, 1, 2)},
                "no poses, and its Poses would be passed over: save poses as",
            ),
            (
                {"poses": shifted(0, 1, 2), "depth": np.ones((3, 6, 8))},
                "no depths, and its depth would be passed over: save depths as",
            ),
        ],
    )
    def test_arrays_that_do_not_fit(
        self, tmp_path: Path, arrays: dict[str, np.ndarray], told: str
    ) -> None:
        make_folder(tmp_path, views=3, **arrays)
        with pytest.raises(InputError, match=told):
            read("folder", tmp_path)

    def test_depth_fits_the_upright_image(self, tmp_path: Path) -> None:
        make_folder(tmp_path, views=1, depths=np.ones((1, WIDTH, HEIGHT)))
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        picture(tmp_path / "images" / "000.png", exif=exif)
        assert len(read("folder", tmp_path)) == 1

    def test_a_damaged_archive(self, tmp_path: Path) -> None:
        make_folder(tmp_path)
        archive = tmp_path / "condition.npz"
        np.savez_compressed(archive, poses=shifted(0, 1, 2))
        sound = archive.read_bytes()
        archive.write_bytes(b"PK\x03\x04 cut short")
        with pytest.raises(InputError, match=r"not a sound \.npz"):
            read("folder", tmp_path)
        # Compressed data that is none; a version of the format that is not known.
        for place, wrong in ((60, b"\xff" * 20), (sound.index(b"PK\x01\x02") + 6, b"\xd2")):
            archive.write_bytes(sound[:place] + wrong + sound[place + len(wrong) :])
            with pytest.raises(InputError, match=r"not a sound \.npz"):
                read("folder", tmp_path)

    def test_a_damaged_transforms_json(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "a.png")
        (tmp_path / "transforms.json").write_text("{")
        with pytest.raises(InputError, match=r"transforms\.json"):
            read("folder", tmp_path)

    def test_transforms_json(self, tmp_path: Path) -> None:
        """The axes of OpenGL, a depth map of one view, and a picture that it does not name."""
        for name in ("a", "b", "mask"):
            picture(tmp_path / "images" / f"{name}.png")
        depth_picture(tmp_path / "depth" / "b.png", np.full((HEIGHT, WIDTH), 2500))
        frames: list[dict[str, Any]] = [
            {"file_path": f"images/{name}.png", "transform_matrix": np.eye(4).tolist()}
            for name in ("b", "a")
        ]
        frames[0]["depth_file_path"] = "depth/b.png"
        lens = {"fl_x": 10, "cx": 4, "cy": 3, "w": WIDTH, "h": HEIGHT}
        (tmp_path / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
        colmap_of("a.png").write(tmp_path / "sparse", text=True)  # which is not looked at
        (truth,) = read("folder", tmp_path)
        assert [Path(str(image)).name for image in truth.images] == ["a.png", "b.png"]
        np.testing.assert_array_equal(truth.world_from_camera, [np.diag([1, -1, -1, 1])] * 2)
        assert truth.intrinsics is not None
        np.testing.assert_allclose(truth.intrinsics, [[[10, 0, 3.5], [0, 10, 2.5], [0, 0, 1]]] * 2)
        assert truth.depth_z is not None and not truth.depth_is_sparse
        assert (truth.depth_z[0] == 0).all() and (truth.depth_z[1] == 2.5).all()

    @pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
    @pytest.mark.parametrize("place", ["", "sparse", "sparse/0", "0"])
    def test_a_colmap_model(self, tmp_path: Path, place: str, text: bool) -> None:
        """Of pictures of two sizes; one of them is not in the model, and one sees no point."""
        for name in ("2.png", "10.png", "not.png"):
            picture(tmp_path / "images" / name)
        picture(tmp_path / "images" / "3.png", size=(2 * WIDTH, 2 * HEIGHT))
        colmap_of("10.png", "3.png", "2.png").write(tmp_path / place, text=text)
        (truth,) = read("folder", tmp_path)
        assert [Path(str(image)).name for image in truth.images] == ["2.png", "3.png", "10.png"]
        np.testing.assert_array_equal(truth.world_from_camera, shifted(2, 1, 0))
        first = np.array([[10.0, 0, 3.5], [0, 10, 2.5], [0, 0, 1]])
        second = np.array([[20.0, 0, 7.5], [0, 20, 5.5], [0, 0, 1]])
        assert truth.intrinsics is not None
        np.testing.assert_allclose(truth.intrinsics, [first, second, first])
        assert truth.depth_is_sparse and truth.sparse_depth is not None
        assert [len(depth) for depth in truth.sparse_depth] == [1, 1, 0]
        assert [depth.size for depth in truth.sparse_depth] == [(8, 6), (16, 12), (8, 6)]
        np.testing.assert_allclose(truth.sparse_depth[1].xy, [[4.1 * 2 - 0.5, 3.2 * 2 - 0.5]])
        assert truth.sparse_depth[1].depth_z == [5]

    def test_a_part_of_a_colmap_model(self, tmp_path: Path) -> None:
        for name in ("0.png", "1.png", "2.png"):
            picture(tmp_path / "images" / name)
        colmap_of("0.png", "1.png", "2.png").write(tmp_path / "sparse", text=False)
        (truth,) = read("folder", tmp_path, stride=2)
        np.testing.assert_array_equal(truth.world_from_camera, shifted(0, 2))
        assert truth.sparse_depth is not None and len(truth.sparse_depth) == 2
        (tmp_path / "sparse" / "points3D.bin").unlink()
        (truth,) = read("folder", tmp_path)
        assert truth.sparse_depth is truth.depth_z is None

    def test_the_archive_comes_first(self, tmp_path: Path) -> None:
        make_folder(tmp_path, poses=shifted(5, 6, 7))
        colmap_of("000.png", "001.png").write(tmp_path / "sparse", text=True)
        (tmp_path / "transforms.json").write_text("{")
        (truth,) = read("folder", tmp_path)
        np.testing.assert_array_equal(truth.world_from_camera, shifted(5, 6, 7))
        assert truth.sparse_depth is None

    def test_colmap_models_that_do_not_fit(self, tmp_path: Path) -> None:
        picture(tmp_path / "images" / "a.png", size=(WIDTH, WIDTH))
        folder = tmp_path / "sparse" / "0"
        colmap_of("a.png").write(folder, text=True)
        with pytest.raises(InputError, match="is for an image of 8x6, this one is 8x8"):
            read("folder", tmp_path)
        (folder / "points3D.txt").write_text("1 2")
        picture(tmp_path / "images" / "a.png")
        with pytest.raises(InputError, match=r"points3D\.txt: it is damaged or cut short"):
            read("folder", tmp_path)
        colmap_of("b.png").write(folder, text=True)
        with pytest.raises(InputError, match="knows none of the images"):
            read("folder", tmp_path)
        colmap_of("a.png").write(tmp_path / "sparse" / "1", text=True)
        with pytest.raises(InputError, match="holds 2 COLMAP models"):
            read("folder", tmp_path)

    def test_colmap_models_outside_of_the_folder(self, tmp_path: Path) -> None:
        picture(tmp_path / "set" / "images" / "a.png")
        colmap_of("a.png").write(tmp_path / "elsewhere", text=True)
        (tmp_path / "set" / "sparse").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="which leads out of"):
            read("folder", tmp_path / "set")
        assert len(read("folder", tmp_path / "set", allow_outside=True)) == 1

    def test_no_scene_in_it(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is no scene"):
            open_dataset("folder", tmp_path)


def make_seven_scenes(sequence: Path, xs: tuple[float, ...]) -> None:
    for frame, x in enumerate(xs):
        stem = sequence / f"frame-{frame:06d}"
        picture(Path(f"{stem}.color.png"))
        values = np.full((HEIGHT, WIDTH), 1500 + frame)
        values[0, :2] = 0, 65535
        depth_picture(Path(f"{stem}.depth.png"), values)
        rows = [" ".join(f"{number: .7e}\t" for number in row) for row in shifted(x)[0]]
        Path(f"{stem}.pose.txt").write_text("\n".join(rows) + "\n")


EIGHTIETH = np.array([[1 / 80, 0, 0.5 / 80 - 0.5], [0, 1 / 80, 0.5 / 80 - 0.5], [0, 0, 1]])
"""From pixels of images of 640x480 to those of images of 8x6."""

DEPTH_CAMERA = np.array([[585, 0, 320], [0, 585, 240], [0, 0, 1]])


class TestSevenScenes:
    def test_depth_poses_and_intrinsics(self, tmp_path: Path) -> None:
        make_seven_scenes(tmp_path / "seq-01", (0.0, 0.5, 1.0))
        (truth,) = read("7scenes", tmp_path / "seq-01", stride=2)
        np.testing.assert_array_equal(truth.world_from_camera, shifted(0, 1))
        assert truth.intrinsics is not None and truth.depth_z is not None
        np.testing.assert_allclose(truth.intrinsics[1], EIGHTIETH @ DEPTH_CAMERA)
        np.testing.assert_allclose(truth.depth_z[:, 0, :3], [[0, 0, 1.5], [0, 0, 1.502]], rtol=1e-6)

    def test_images_of_their_own_size(self, tmp_path: Path) -> None:
        make_seven_scenes(tmp_path, (0.0,))
        picture(tmp_path / "frame-000000.color.png", size=(640, 480))
        (truth,) = read("7scenes", tmp_path)
        assert truth.intrinsics is not None
        np.testing.assert_array_equal(truth.intrinsics[0], DEPTH_CAMERA)

    def test_images_that_were_cropped(self, tmp_path: Path) -> None:
        make_seven_scenes(tmp_path, (0.0,))
        picture(tmp_path / "frame-000000.color.png", size=(480, 480))
        with pytest.raises(InputError, match="is for an image of 640x480, this one is 480x480"):
            read("7scenes", tmp_path)

    def test_depth_that_was_brought_to_the_colour_camera(self, tmp_path: Path) -> None:
        make_seven_scenes(tmp_path, (0.0, 1.0, 2.0))
        values = np.full((HEIGHT, WIDTH), 2000)
        values[0, :3] = 0, 65535, 10_001
        for frame in (0, 2):
            depth_picture(tmp_path / f"frame-{frame:06d}.depth.proj.png", values)
        (truth,) = read("7scenes", tmp_path)
        assert truth.intrinsics is not None and truth.depth_z is not None
        assert (truth.intrinsics[:, 0, 0] == 525 / 80).all()
        np.testing.assert_array_equal(truth.depth_z[0, 0, :4], [0, 0, 0, 2])
        assert not truth.depth_z[1].any()

    def test_only_test_sequences(self, tmp_path: Path) -> None:
        for number in (1, 2, 12):
            make_seven_scenes(tmp_path / "chess" / f"seq-{number:02d}", (0.0, 1.0))
        (tmp_path / "chess" / "TestSplit.txt").write_text("sequence2\nsequence12\n")
        assert [t.name for t in read("7scenes", tmp_path)] == ["chess/seq-02", "chess/seq-12"]
        (tmp_path / "chess" / "TestSplit.txt").write_text("sequence9\n")
        with pytest.raises(InputError, match="none of the sequences"):
            open_dataset("7scenes", tmp_path)

    def test_what_is_absent_is_unknown(self, tmp_path: Path) -> None:
        make_seven_scenes(tmp_path, (0.0, 1.0, 2.0))
        (tmp_path / "frame-000001.pose.txt").unlink()
        (tmp_path / "frame-000001.depth.png").unlink()
        (truth,) = read("7scenes", tmp_path)
        assert truth.world_from_camera is not None and truth.depth_z is not None
        assert np.isnan(truth.world_from_camera[1]).all()
        assert not truth.depth_z[1].any()

    @pytest.mark.parametrize(
        ("text", "told"), [("1 2 3\n", "expected 4 numbers"), ("1 0 0 0\n", "1 lines of numbers")]
    )
    def test_a_damaged_pose(self, tmp_path: Path, text: str, told: str) -> None:
        make_seven_scenes(tmp_path, (0.0,))
        (tmp_path / "frame-000000.pose.txt").write_text(text)
        with pytest.raises(InputError, match=told):
            read("7scenes", tmp_path)


def make_tum(folder: Path) -> None:
    """Images at 1.0, 1.1, 1.2 and 1.3 s; no depth near 1.1, no pose near 1.3."""
    for stamp in ("1.000000", "1.100000", "1.200000", "1.300000"):
        picture(folder / "rgb" / f"{stamp}.png")
    depth_picture(folder / "depth" / "a.png", np.full((HEIGHT, WIDTH), 10_000))
    depth_picture(folder / "depth" / "b.png", np.full((HEIGHT, WIDTH), 5_000))
    times = ("1.000000", "1.100000", "1.200000", "1.300000")
    listing = [f"{time} rgb/{time}.png" for time in times]
    (folder / "rgb.txt").write_text("\n".join(["# timestamp filename", *listing]) + "\n")
    (folder / "depth.txt").write_text("# depth\n1.015000 depth/a.png\n1.190000 depth/b.png\n")
    track = ["# timestamp tx ty tz qx qy qz qw", "0.990000 9 9 9 0 0 0 1"]
    track += ["1.005000 1 2 3 0 0 0.70710678 0.70710678", "1.119000 4 0 0 0 0 0 1"]
    track += ["1.200000 5 0 0 0 0 0 2"]
    (folder / "groundtruth.txt").write_text("\n".join(track) + "\n")


class TestTum:
    def test_association_depth_and_quaternions(self, tmp_path: Path) -> None:
        make_tum(tmp_path / "rgbd_dataset_freiburg3_office")
        (truth,) = read("tum", tmp_path)
        assert truth.name == "rgbd_dataset_freiburg3_office"
        assert len(truth) == 3
        assert truth.world_from_camera is not None and truth.depth_z is not None
        first = [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]
        np.testing.assert_allclose(truth.world_from_camera[0], first, atol=1e-7)
        np.testing.assert_array_equal(truth.world_from_camera[2], shifted(5)[0])
        np.testing.assert_array_equal(truth.depth_z[:, 0, 0], [2, 0, 1])

    @pytest.mark.parametrize(
        ("name", "focal"),
        [("freiburg1_desk", 517.3), ("freiburg2_xyz", 520.9), ("fr3", 535.4), ("mine", 525.0)],
    )
    def test_intrinsics_go_by_the_folder(self, tmp_path: Path, name: str, focal: float) -> None:
        make_tum(tmp_path / name)
        intrinsics = read("tum", tmp_path / name)[0].intrinsics
        assert intrinsics is not None
        assert intrinsics[0, 0, 0] == pytest.approx(focal / 80)
        picture(tmp_path / name / "rgb" / "1.000000.png", size=(640, 480))
        intrinsics = read("tum", tmp_path / name)[0].intrinsics
        assert intrinsics is not None
        assert intrinsics[:, 0, 0] == pytest.approx([focal, focal / 80, focal / 80])

    def test_images_that_were_cropped(self, tmp_path: Path) -> None:
        make_tum(tmp_path)
        picture(tmp_path / "rgb" / "1.100000.png", size=(620, 460))
        with pytest.raises(InputError, match="is for an image of 640x480, this one is 620x460"):
            read("tum", tmp_path)

    def test_nearest_within_two_hundredths(self) -> None:
        found = nearest_in_time(np.array([1.0, 2.0, 3.0]), np.array([1.02, 0.99, 3.021]))
        np.testing.assert_array_equal(found, [1, -1, -1])

    def test_times_need_no_order(self) -> None:
        random = np.random.default_rng(0)
        times, others = random.uniform(0, 2, 40), random.uniform(0, 2, 30)
        gap = np.abs(times[:, None] - others)
        nearest = np.where(gap.min(axis=1) <= 0.02, gap.argmin(axis=1), -1)
        np.testing.assert_array_equal(nearest_in_time(times, others), nearest)
        np.testing.assert_array_equal(nearest_in_time(times[:2], times[:1]), [0, -1])

    def test_without_depth(self, tmp_path: Path) -> None:
        make_tum(tmp_path)
        (tmp_path / "depth.txt").unlink()
        assert read("tum", tmp_path)[0].depth_z is None

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("groundtruth.txt", "1.0 1 2 3\n", "groundtruth.txt: expected 8 numbers"),
            ("groundtruth.txt", "# nothing\n", "has no poses"),
            ("groundtruth.txt", "7 0 0 0 0 0 0 1\n", "no pose within 0.02 s"),
            ("groundtruth.txt", "1 0 0 0 0 0 0 0\n", "a quaternion is 0"),
            ("rgb.txt", "1.0\n", "expected a time and a file name"),
            ("depth.txt", "1.0 depth/absent.png\n", "cannot read .*absent.png"),
        ],
    )
    def test_damaged_files(self, tmp_path: Path, name: str, text: str, told: str) -> None:
        make_tum(tmp_path)
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=told):
            read("tum", tmp_path)


def co3d_frame(number: int, *, image: str = "", form: str = "ndc_isotropic") -> dict[str, Any]:
    """A camera at (0, 0, -number) that looks along z with PyTorch3D's axes: x left, y up."""
    return {
        "sequence_name": "110_13051",
        "frame_number": number,
        "image": {
            "path": image or f"apple/110_13051/images/{number}.jpg",
            "size": [HEIGHT, WIDTH],
        },
        "viewpoint": {
            "R": np.diag([-1.0, -1.0, 1.0]).tolist(),
            "T": [0.0, 0.0, float(number)],
            "focal_length": [2.0, 2.0],
            "principal_point": [0.25, -0.5],
            "intrinsics_format": form,
        },
    }


def make_co3d(root: Path, frames: list[dict[str, Any]]) -> Path:
    for frame in frames:
        picture(root / frame["image"]["path"])
    file = root / "apple" / "frame_annotations.jgz"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(json.dumps(frames).encode()))
    return file


class TestCo3d:
    def test_poses_and_intrinsics(self, tmp_path: Path) -> None:
        make_co3d(tmp_path, [co3d_frame(2), co3d_frame(1)])
        (truth,) = read("co3d", tmp_path)
        assert truth.name == "apple/110_13051"
        assert truth.world_from_camera is not None and truth.intrinsics is not None
        np.testing.assert_array_equal(truth.world_from_camera[:, :3, :3], [np.eye(3)] * 2)
        np.testing.assert_array_equal(truth.world_from_camera[:, 2, 3], [-1, -2])
        assert truth.depth_z is None
        # Half of the shorter side is 3: focal 6, centre (4, 3) - 3 * (0.25, -0.5) - 0.5.
        np.testing.assert_array_equal(truth.intrinsics[0], [[6, 0, 2.75], [0, 6, 4], [0, 0, 1]])

    def test_images_that_were_resized_or_cropped(self, tmp_path: Path) -> None:
        make_co3d(tmp_path, [frame := co3d_frame(1)])
        image = picture(tmp_path / frame["image"]["path"], size=(4 * WIDTH, 4 * HEIGHT))
        (truth,) = read("co3d", tmp_path)
        assert truth.intrinsics is not None
        expected = [[24, 0, 4 * 3.25 - 0.5], [0, 24, 4 * 4.5 - 0.5], [0, 0, 1]]
        np.testing.assert_allclose(truth.intrinsics[0], expected)
        picture(image, size=(4 * WIDTH, 4 * WIDTH))
        with pytest.raises(InputError, match="is for an image of 8x6, this one is 32x32"):
            read("co3d", tmp_path)

    def test_bounds_are_scaled_by_side(self) -> None:
        found = intrinsics_from_ndc(
            np.array([2.0, 2.0]), np.array([0.25, -0.5]), (WIDTH, HEIGHT), isotropic=False
        )
        np.testing.assert_array_equal(found, [[8, 0, 2.5], [0, 6, 4], [0, 0, 1]])

    def test_a_point_lands_where_pytorch3d_puts_it(self) -> None:
        """x = X R + T; normalised coordinates grow to the left and up from the image's centre."""
        rng = np.random.default_rng(0)
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
        turn *= np.sign(np.linalg.det(turn))
        shift, focal, centre = np.array([0.1, -0.2, 5.0]), np.array([1.5, 1.7]), rng.normal(size=2)
        point = rng.normal(size=3)
        theirs = point @ turn + shift
        normalised = focal * theirs[:2] / theirs[2] + centre
        from_corner = np.array([WIDTH, HEIGHT]) / 2 - min(WIDTH, HEIGHT) / 2 * normalised
        rotation, translation = opencv_from_pytorch3d(turn, shift)
        matrix = intrinsics_from_ndc(focal, centre, (WIDTH, HEIGHT), isotropic=True)
        ours = matrix @ (rotation @ point + translation)
        np.testing.assert_allclose(ours[:2] / ours[2] + 0.5, from_corner, atol=1e-12)

    def test_frames_without_image_and_absurd_sequences(self, tmp_path: Path) -> None:
        frames = [co3d_frame(number) for number in (1, 2, 3)]
        far: dict[str, Any] = {**co3d_frame(1, image="apple/far/1.jpg"), "sequence_name": "far"}
        far["viewpoint"] = {**far["viewpoint"], "T": [0, 0, 2e5]}
        make_co3d(tmp_path, [*frames, far])
        (tmp_path / frames[1]["image"]["path"]).unlink()
        (truth,) = read("co3d", tmp_path)
        assert [Path(str(image)).name for image in truth.images] == ["1.jpg", "3.jpg"]

    def test_views_are_drawn_by_the_seed(self, tmp_path: Path) -> None:
        make_co3d(tmp_path, [co3d_frame(number) for number in range(1, 13)])
        draws = {seed: read("co3d", tmp_path, views=4, seed=seed)[0].images for seed in range(4)}
        assert len(set(draws.values())) > 1
        assert draws[1] == read("co3d", tmp_path, views=4, seed=1)[0].images

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda frame: frame.pop("viewpoint"), "frame 0 has no viewpoint"),
            (lambda frame: frame["viewpoint"].update(R=[1, 2]), "frame 0: viewpoint.R is"),
            (lambda frame: frame["viewpoint"].update(intrinsics_format="px"), "'px' is unknown"),
            (lambda frame: frame["viewpoint"].update(T="far"), "frame 0: viewpoint.T is 'far'"),
            (lambda frame: frame["image"].update(path="elsewhere.jpg"), "no sequence is left"),
            (lambda frame: frame["image"].update(path=None), "no sequence is left"),
            (lambda frame: frame["viewpoint"].update(T=[2e5, 0, 0]), "farther than 100000 from"),
        ],
    )
    def test_damaged_annotations(
        self, tmp_path: Path, change: Callable[[dict[str, Any]], Any], told: str
    ) -> None:
        frame = co3d_frame(1)
        file = make_co3d(tmp_path, [frame])
        change(frame)
        file.write_bytes(gzip.compress(json.dumps([frame]).encode()))
        with pytest.raises(InputError, match=told):
            read("co3d", tmp_path)

    @pytest.mark.parametrize(
        "stored", [b"no gzip", gzip.compress(b"[1", mtime=0)], ids=["no gzip", "no json"]
    )
    def test_a_file_that_is_no_json(self, tmp_path: Path, stored: bytes) -> None:
        make_co3d(tmp_path, [co3d_frame(1)]).write_bytes(stored)
        with pytest.raises(InputError, match="no sound JSON"):
            read("co3d", tmp_path)


def make_re10k(root: Path) -> Path:
    """Two frames with images and one without; the second camera is at (2, 0, 0), turned."""
    lines = ["https://www.youtube.com/watch?v=x"]
    lines.append("1000 0.5 0.75 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0")
    lines.append("2000 0.5 0.75 0.5 0.5 0 0 0 1 0 0 -1 0 0 2 0 0 1 0")
    lines.append("3000 0.5 0.75 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0")
    picture(root / "clip" / "1000.png")
    picture(root / "clip" / "2000.jpg", size=(2 * WIDTH, 2 * HEIGHT))
    (root / "clip.txt").write_text("\n".join(lines) + "\n")
    return root / "clip.txt"


class TestRe10k:
    def test_poses_and_intrinsics(self, tmp_path: Path) -> None:
        (truth,) = read("re10k", make_re10k(tmp_path))
        assert truth.name == "clip"
        assert truth.world_from_camera is not None and truth.intrinsics is not None
        turned = [[0, -1, 0, 2], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        np.testing.assert_array_equal(truth.world_from_camera, [np.eye(4), turned])
        small = [[4, 0, 3.5], [0, 4.5, 2.5], [0, 0, 1]]
        np.testing.assert_array_equal(truth.intrinsics[0], small)
        large = [[8, 0, 7.5], [0, 9, 5.5], [0, 0, 1]]
        np.testing.assert_array_equal(truth.intrinsics[1], large)

    def test_all_lists_of_a_folder(self, tmp_path: Path) -> None:
        make_re10k(tmp_path)
        for name in ("a", "z"):  # lists whose frames were not fetched
            (tmp_path / f"{name}.txt").write_text((tmp_path / "clip.txt").read_text())
        assert [truth.name for truth in read("re10k", tmp_path)] == ["clip"]

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="no pose lists"):
            open_dataset("re10k", tmp_path)
        file = make_re10k(tmp_path)
        (tmp_path / "clip").rename(tmp_path / "moved")
        with pytest.raises(InputError, match="no frame of it is in"):
            read("re10k", file)
        file.write_text("https://x\n1000 0.5\n")
        with pytest.raises(InputError, match=r"expected 19 numbers in a line, found '1000 0\.5'"):
            read("re10k", file)


class TestOpenSet:
    @pytest.mark.parametrize(
        ("kind", "options", "told"),
        [
            ("kitti", {}, "unknown evaluation set 'kitti'; choose one of procedural, folder"),
            ("tum", {}, "the evaluation set tum needs the path"),
            ("procedural", {"scenes": 0}, "scenes is 0"),
            ("procedural", {"views": 0}, "views is 0"),
            ("procedural", {"size": 0}, "size is 0"),
            ("procedural", {"stride": 0}, "stride is 0"),
            ("procedural", {"seed": -1}, "seed is -1"),
            ("procedural", {"stride": 2}, "stride=2 is of sequences"),
        ],
    )
    def test_refused_at_once(self, kind: str, options: dict[str, Any], told: str) -> None:
        with pytest.raises(InputError, match=told):
            open_dataset(kind, **options)

    @pytest.mark.parametrize("kind", [kind for kind, of in DATASETS.items() if not of.drawn])
    def test_a_seed_that_would_do_nothing(self, kind: str, tmp_path: Path) -> None:
        for seed in (0, 3):
            with pytest.raises(InputError, match=f"seed={seed} does nothing: of the set {kind}"):
                open_dataset(kind, tmp_path, seed=seed)

    @pytest.mark.parametrize("kind", sorted(DATASETS))
    def test_absent_and_empty_folders_are_refused_at_once(self, kind: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="absent does not exist"):
            open_dataset(kind, tmp_path / "absent")
        with pytest.raises(InputError, match=str(tmp_path)):
            open_dataset(kind, tmp_path)
