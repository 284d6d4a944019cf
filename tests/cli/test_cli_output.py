"""What `jaxrecon reconstruct` writes where a part cannot be made, and what it refuses first."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import bundle_adjustment
from jaxrecon.cli import common, main
from jaxrecon.cli.query_points import read_query_points
from jaxrecon.errors import InputError
from jaxrecon.formats import PointTracks
from jaxrecon.reconstruction import Reconstruction
from random_recon import VIEWS, random_recon

UNUSABLE = "the camera of view 1 (b.JPG) is not usable"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos, the last of them larger."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, size in enumerate([(8, 6), (8, 6), (16, 12)]):
        Image.new("RGB", size).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Loading gives a model that makes `loads.recon`; `loads.given` is what that was told."""
    seen = SimpleNamespace(recon=random_recon(), given=None)

    def reconstruct(images: Any, **given: Any) -> Reconstruction:
        seen.given = given
        return seen.recon

    def load(*arguments: Any, **options: Any) -> SimpleNamespace:
        return SimpleNamespace(reconstruct=reconstruct, compilations=1)

    monkeypatch.setattr(common, "load_pipeline", load)
    return seen


@pytest.fixture
def with_pycolmap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", ModuleType("pycolmap"))


@pytest.fixture
def run(
    loads: SimpleNamespace, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    def command(*options: str, images: tuple[Path, ...] = ()) -> tuple[int, str, str]:
        given = [str(path) for path in images or (photos,)]
        code = main(["reconstruct", *given, "-o", str(tmp_path / "out"), "-q", *options])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def lacking_a_camera() -> Reconstruction:
    """The second camera has no field of view, as VGGT's head may give it."""
    recon = random_recon()
    intrinsics = np.array(recon.intrinsics)
    intrinsics[1, [0, 1], [0, 1]] = np.inf
    return replace(recon, intrinsics=intrinsics)


class TestFormats:
    def test_one_that_cannot_be_written_leaves_the_others(
        self, run: Run, loads: SimpleNamespace, tmp_path: Path
    ) -> None:
        loads.recon = lacking_a_camera()
        out = tmp_path / "out"
        code, printed, err = run("--formats", "ply,glb,npz,colmap", "--json")
        assert code == 1
        for line, name in zip(err.splitlines(), ("scene.glb", "colmap/"), strict=True):
            assert line.startswith(f"jaxrecon: {out}/{name} was left out: {UNUSABLE}")
        summary = json.loads(printed)
        assert summary["files"] == ["scene.ply", "scene.npz", "summary.json"]
        assert {name: text[: len(UNUSABLE)] for name, text in summary["failed"].items()} == {
            "glb": UNUSABLE,
            "colmap": UNUSABLE,
        }
        assert json.loads((out / "summary.json").read_text()) == summary
        assert {path.name for path in out.iterdir()} == set(summary["files"])
        loaded = Reconstruction.load(out / "scene.npz")
        np.testing.assert_array_equal(loaded.intrinsics, loads.recon.intrinsics)

    def test_if_none_can_be_written_nothing_is(
        self, run: Run, loads: SimpleNamespace, tmp_path: Path
    ) -> None:
        loads.recon = lacking_a_camera()
        code, printed, err = run("--formats", "glb,colmap")
        assert (code, printed) == (2, "")
        assert err.startswith(f"jaxrecon: {UNUSABLE}")
        assert err.count("\n") == 1
        assert {path.name for path in tmp_path.iterdir()} == {"photos"}

    def test_options_go_to_the_formats_that_take_them(
        self, run: Run, loads: SimpleNamespace, photos: Path, tmp_path: Path
    ) -> None:
        recon = loads.recon
        for view, (width, height) in enumerate(t.original_size for t in recon.transforms):
            Image.new("RGB", (width, height)).save(photos / f"{view}.png")
        files = tuple(str(photos / f"{view}.png") for view in range(VIEWS))
        loads.recon = replace(recon, files=files)
        options = ("--formats", "ply,npz,colmap", "--max-points", "9", "--link-images", "--text")
        assert run(*options, "--size", "original") == (0, "", "")
        out = tmp_path / "out"
        assert b"element vertex 9\n" in (out / "scene.ply").read_bytes()[:200]
        assert [link.readlink() for link in sorted((out / "colmap/images").iterdir())] == [
            photos / f"{view}.png" for view in range(VIEWS)
        ]
        rows = (out / "colmap/sparse/0/points3D.txt").read_text().splitlines()
        assert len([row for row in rows if not row.startswith("#")]) <= 9

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (("--formats", "ply", "--text"), "--text is not for ply: it is taken by colmap"),
            (("--formats", "glb", "--copy-images"), "--copy-images is not for glb: it is taken by"),
            (("--formats", "npz", "--voxel", "1"), "--voxel 1.0 is not for npz: it is taken by"),
            (("--voxel", "-1"), "voxel=-1.0 must be above 0"),
            (("--stream", "--size", "original"), "--size original is not for npz"),
            (("--masks", "none"), "masks: none is no folder"),
        ],
    )
    def test_options_of_no_format(
        self, run: Run, options: tuple[str, ...], told: str, tmp_path: Path
    ) -> None:
        code, printed, err = run(*options)
        assert (code, printed) == (2, "") and err.startswith(f"jaxrecon: {told}")
        assert not (tmp_path / "out").exists()

    def test_all_is_well(self, run: Run, tmp_path: Path) -> None:
        assert run("--formats", "ply,glb") == (0, "", "")
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == {}


@pytest.mark.usefixtures("with_pycolmap")
class TestBundleAdjustment:
    def test_cameras_that_cannot_be_refined_are_written_as_they_are(
        self, run: Run, loads: SimpleNamespace, tmp_path: Path
    ) -> None:
        tracks = PointTracks(
            xy=np.ones((VIEWS, 2, 2), np.float32),
            visibility=np.ones((VIEWS, 2), np.float32),
            confidence=np.ones((VIEWS, 2), np.float32),
            query_view=np.zeros(2, np.int64),
        )
        loads.recon = replace(loads.recon, tracks=tracks)
        code, printed, err = run("--bundle-adjust", "--formats", "npz", "--json")
        assert code == 1
        assert err.startswith(
            "jaxrecon: the cameras are written as the model gave them, not refined: "
            "bundle adjustment needs views that share at least 16 good tracks, and no two share "
        )
        assert "(--max-reprojection-error, max_reprojection_error)" in err
        assert err.count("\n") == 1
        assert "16 good tracks" in json.loads(printed)["failed"]["bundle_adjust"]
        loaded = Reconstruction.load(tmp_path / "out" / "scene.npz")
        np.testing.assert_array_equal(loaded.world_from_camera, loads.recon.world_from_camera)

    def test_options_reach_it(
        self, run: Run, loads: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: dict[str, Any] = {}

        def bundle_adjust(recon: Reconstruction, **options: Any) -> Reconstruction:
            given.update(options)
            return recon

        monkeypatch.setattr(bundle_adjustment, "bundle_adjust", bundle_adjust)
        assert run("--bundle-adjust", "--formats", "npz") == (0, "", "")
        given.pop("stages")
        assert given == {"shared_camera": False}
        assert loads.given["query_points"] == 512
        run("--bundle-adjust", "--max-reprojection-error", "2.5", "--tracks", "7", "--overwrite")
        assert given["max_reprojection_error"] == 2.5
        assert loads.given["query_points"] == 7

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--stride", "3"], "bundle adjustment needs at least two views, found 1; leave it"),
            (
                ["--shared-intrinsics"],
                "--shared-intrinsics with --bundle-adjust needs images of one size; found "
                "8x6 (0.png) and 16x12 (2.png); leave one of them out",
            ),
        ],
    )
    def test_what_it_cannot_work_with_is_refused_before_the_model_is_loaded(
        self, options: list[str], told: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(common, "load_pipeline", None)
        code, printed, err = run("--bundle-adjust", *options)
        assert (code, printed) == (2, "")
        assert err.startswith(f"jaxrecon: {told}")

    def test_without_pycolmap(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pycolmap", None)
        monkeypatch.setattr(common, "load_pipeline", None)
        code, _, err = run("--bundle-adjust")
        assert code == 2
        assert err == "jaxrecon: bundle adjustment needs pycolmap; pip install jaxrecon[colmap]\n"

    def test_images_of_one_size_may_share_a_camera(
        self, run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bundle_adjustment, "bundle_adjust", lambda recon, **_: recon)
        options = ("--bundle-adjust", "--shared-intrinsics", "--formats", "npz")
        assert run(*options, images=(photos / "0.png", photos / "1.png")) == (0, "", "")


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value", "told"),
        [
            ("--tracks", "0", "argument --tracks: 0 is not a whole number of at least 1"),
            ("--tracks", "-2", "argument --tracks: -2 is not a whole number of at least 1"),
            ("--tracks", "1.5", "argument --tracks: 1.5 is not a whole number of at least 1"),
            *(
                ("--max-reprojection-error", text, f"{text} is not a positive number")
                for text in ("0", "nan", "inf", "few")
            ),
        ],
    )
    def test_numbers_out_of_range(
        self, option: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as left:
            main(["reconstruct", "photos", "-o", "out", option, value])
        assert left.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(told)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--tracks", "5", "--stream"], "--tracks looks at all views at once; leave it out"),
            (["--max-reprojection-error", "2"], "--max-reprojection-error goes with --bundle-adj"),
            (["--tracks", "5", "--query-points", "p.csv"], "--query-points gives the points that"),
            (["--query-points", "absent.csv"], "cannot read absent.csv: No such file or directory"),
        ],
    )
    def test_options_that_do_not_go_together(
        self, options: list[str], told: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(common, "load_pipeline", None)
        code, printed, err = run(*options)
        assert (code, printed) == (2, "")
        assert err.startswith(f"jaxrecon: {told}")


class TestQueryPoints:
    def test_of_some_photos(self, run: Run, loads: SimpleNamespace, tmp_path: Path) -> None:
        file = tmp_path / "points.csv"
        file.write_text("view, x,y\n2,1.5,2\n0,3,4\n\n2,5,6\n")
        assert run("--query-points", str(file), "--formats", "npz") == (0, "", "")
        given = loads.given["query_points"]
        assert {view: points.tolist() for view, points in given.items()} == {
            2: [[1.5, 2], [5, 6]],
            0: [[3, 4]],
        }

    def test_of_the_first_photo(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "points.npz", x=np.array([1, 2]), y=np.array([3.5, 4], np.float32))
        (tmp_path / "points.csv").write_text("x,y\n1,3.5\n2,4\n")
        for name in ("points.npz", "points.csv"):
            (given,) = read_query_points(tmp_path / name).items()
            assert (given[0], given[1].tolist()) == (0, [[1, 3.5], [2, 4]])

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("", "has the columns none; name them x, y and"),
            ("1,2\n3,4\n", "has the columns 1, 2; name them x, y and"),
            ("x,y,z\n1,2,3\n", "has the columns x, y, z; name them x, y and"),
            ("x,y\n", "it has no points"),
            ("x,y\n1,2\n3\n", "row 3 has 1 values, its head 2"),
            ("x,y\n1,two\n", "y is not a column of finite numbers"),
            ("x,y\nnan,2\n", "x is not a column of finite numbers"),
            ("x,y,view\n1,2,0.5\n", "view is no whole number everywhere"),
            (b"\xff\xfe", "cannot read"),
        ],
    )
    def test_tables_that_are_refused(self, content: str | bytes, told: str, tmp_path: Path) -> None:
        file = tmp_path / "points.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=told) as caught:
            read_query_points(file)
        assert str(file) in str(caught.value)

    def test_archives_that_are_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "points.npz"
        file.write_text("no archive")
        with pytest.raises(InputError, match="cannot read"):
            read_query_points(file)
        np.savez(file, x=np.zeros(2), y=np.zeros(3))
        with pytest.raises(InputError, match="its arrays have 2, 3 and 2 values"):
            read_query_points(file)
        np.savez(file, x=np.zeros((2, 2)), y=np.zeros(2))
        with pytest.raises(InputError, match="x is not a column of finite numbers"):
            read_query_points(file)
        with pytest.raises(InputError, match=r"points.txt: give a .csv or a .npz file"):
            read_query_points(tmp_path / "points.txt")


@pytest.mark.parametrize("name", ["scene.ply", "a/Scene.GLB", "x.npz", "report.html", "r.json"])
@pytest.mark.parametrize(
    "command",
    [
        ["reconstruct", "photos"],
        ["reconstruct", "photos", "--chunk", "8"],
        ["reconstruct", "photos", "--stream"],
        ["save", "out"],
        ["evaluate", "pi3-mini"],
        ["convert", "pi3", "weights"],
        ["compile", "pi3-mini", "--views", "2", "--size", "56x56"],
        ["train"],
    ],
)
def test_a_folder_that_is_called_like_a_file_is_refused(
    command: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command, "-o", name]) == 2
    err = capsys.readouterr().err
    stem = name.rpartition(".")[0]
    assert err.startswith(f"jaxrecon: --output {name}: it is called like a file, and a folder is")
    assert f"give --output {stem}, or end the name with a slash" in err
    takes_formats = command[0] in ("reconstruct", "save") and name != "r.json"
    assert ("--formats" in err) == takes_formats
    assert not list(tmp_path.iterdir())


def test_such_a_folder_is_written_where_it_is_meant(tmp_path: Path) -> None:
    (tmp_path / "there.ply").mkdir()
    for name in ("there.ply", "new.ply/", "new.v2", "new"):
        common.check_folder_name(Namespace(output=str(tmp_path / name) + "/" * name.endswith("/")))
