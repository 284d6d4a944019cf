"""`jaxrecon reconstruct --chunk`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import oracle
from image_files import write_video
from jaxrecon import Reconstruction, SequenceReconstruction, registry
from jaxrecon.cli import main, output
from jaxrecon.pipeline import Pipeline
from oracle import film

type Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line with a model that reads the truth from the pixels."""
    pipeline = oracle.oracle()

    def load(*args: object, **options: object) -> Pipeline:
        return pipeline

    monkeypatch.setattr(registry, "load", load)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["reconstruct", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    for view, pixels in enumerate(film(14)):
        Image.fromarray(pixels).save(folder / f"{view:02d}.png")
    return folder


SOFT = ("--keep-edges", "--chunk", 6)


def test_views_and_formats(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = ("--formats", "ply,npz,trajectory", "--export-every", 2)
    code, told, err = run(photos, *SOFT, "--overlap", 2, *wanted, "-o", out, "--json", "-q")
    assert code == 0, err
    summary = json.loads(told)
    assert summary["views"] == 14 and summary["joins"] == 2 and summary["segments"] == [[0, 14]]
    assert summary["files"] == ["scene.json", "scene.ply", "scene.npz", "trajectory/"]
    assert all((out / name).exists() for name in (*summary["files"], "summary.json"))
    assert len(Reconstruction.load(out)) == 14 == len(SequenceReconstruction.load(out))
    assert len(Reconstruction.load(out / "scene.npz")) == 7
    before = {path: path.stat().st_mtime_ns for path in out.glob("0*.npz")}
    code, _, err = run(photos, *SOFT, "--overlap", 2, *wanted, "-o", out)
    assert code == 0, err
    assert {path: path.stat().st_mtime_ns for path in out.glob("0*.npz")} == before
    code, _, err = run(photos, *SOFT, "--overlap", 3, *wanted, "-o", out)
    assert code == 2 and "holds another reconstruction" in err


def test_views_alone(run: Run, photos: Path, tmp_path: Path) -> None:
    code, _, err = run(photos, *SOFT, "--stream", "--join", "points", "-o", tmp_path / "out")
    assert code == 0, err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {name for name in names if not name[:6].isdecimal() and "chunk" not in name} == {
        "scene.json"
    }


def test_a_gap(run: Run, photos: Path, tmp_path: Path) -> None:
    from PIL import Image

    for view, pixels in enumerate(film(14, places=np.repeat([1, 2], 7))):
        Image.fromarray(pixels).save(photos / f"{view:02d}.png")
    out = tmp_path / "out"
    code, _, err = run(photos, *SOFT, "-o", out)
    assert code == 2
    assert "the views 06.png and 07.png do not hang together" in err and "--allow-gaps" in err
    code, _, err = run(photos, *SOFT, "--allow-gaps", "--formats", "ply", "-o", out)
    assert code == 0, err
    assert "a gap between 06.png and 07.png" in err
    assert (out / "segment_0" / "scene.ply").exists() and (out / "segment_1").exists()


def test_files_of_another_sequence_do_not_stay(run: Run, photos: Path, tmp_path: Path) -> None:
    """Those that the run before tells of, of each segment; what is not of a run is left alone."""
    from PIL import Image

    for view, pixels in enumerate(film(14, places=np.repeat([1, 2], 7))):
        Image.fromarray(pixels).save(photos / f"{view:02d}.png")
    out, outside = tmp_path / "out", tmp_path / "scene.ply"
    outside.touch()
    wanted = ("--allow-gaps", "--formats", "ply,trajectory")
    code, _, err = run(photos, *SOFT, *wanted, "-o", out)
    assert code == 0, err
    (out / "notes.txt").touch()
    (out / "segment_1" / "notes.txt").touch()
    told = json.loads((out / "summary.json").read_text())
    assert told["files"][1] == "segment_0/scene.ply"
    told["files"] += ["notes.txt", "../scene.ply", "segment_0/../../scene.ply", 3, "mesh.ply"]
    (out / "summary.json").write_text(json.dumps(told))
    (photos / "13.png").unlink()
    code, _, err = run(photos, *SOFT, "--allow-gaps", "--stream", "-o", out)
    assert code == 2 and "holds another reconstruction" in err
    assert (out / "segment_0" / "trajectory").is_dir() and (out / "summary.json").exists()
    code, _, err = run(photos, *SOFT, "--allow-gaps", "--stream", "-o", out, "--overwrite")
    assert code == 0, err
    rest = {str(path.relative_to(out)) for path in out.rglob("*") if path.suffix != ".npz"}
    assert rest == {"scene.json", "notes.txt", "segment_1", "segment_1/notes.txt"}
    assert outside.exists()


def test_files_are_told_with_their_points(run: Run, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = ("--formats", "sheet,ply,colmap,trajectory", "--max-points", 500)
    code, told, err = run(photos, *SOFT, *wanted, "-o", out)
    assert code == 0, err
    summary = json.loads((out / "summary.json").read_text())
    assert all((out / name).exists() for name in summary["files"])
    assert summary["points_written"].keys() == {"scene.ply", "colmap/"}
    count = points_of(out / "scene.ply")
    assert summary["points_written"]["scene.ply"] == count == 500 and not summary["failed"]
    assert f"scene.ply ({count} points)" in told and "14 views" in told and "trajectory/" in told


@pytest.mark.parametrize(
    ("views", "usual", "told"),
    [
        (1, None, ": 1 view; scene.json, a.ply (1 point), b.ply (5 points)"),
        (2, 5, ": 2 views; scene.json, a.ply (1 point), b.ply"),
    ],
)
def test_what_there_is(views: int, usual: int | None, told: str, tmp_path: Path) -> None:
    summary = {
        "output": str(tmp_path),
        "files": ["scene.json", "a.ply", "b.ply"],
        "points_written": {"a.ply": 1, "b.ply": 5},
    }
    assert output.what_there_is(summary, [output.views_told(views)], usual=usual) == told
    summary["files"] = [f"{number}.ply" for number in range(23)]
    assert output.what_there_is(summary, ["x"]).endswith(", 18.ply, 19.ply, 3 more")


def test_a_segment_that_a_format_cannot_hold(run: Run, photos: Path, tmp_path: Path) -> None:
    from PIL import Image

    masks = tmp_path / "masks"
    masks.mkdir()
    for view, pixels in enumerate(film(14, places=np.repeat([1, 2], 7))):
        picture = Image.fromarray(pixels)
        picture.save(photos / f"{view:02d}.png")
        Image.new("L", picture.size, 255 * (view < 7)).save(masks / f"{view:02d}.png.png")
    out = tmp_path / "out"
    wanted = ("--allow-gaps", "--formats", "ply,glb,trajectory")
    code, told, err = run(photos, *SOFT, *wanted, "--masks", masks, "-o", out)
    assert code == 1
    assert "a gap between 06.png and 07.png" in err
    summary = json.loads((out / "summary.json").read_text())
    refused = {f"segment_1/{name}" for name in ("scene.ply", "scene.glb")}
    assert summary["failed"].keys() == refused
    assert all(f"{out}/{name} was left out: the mask keeps no point" in err for name in refused)
    held = [f"segment_0/{name}" for name in ("scene.ply", "scene.glb", "trajectory/")]
    assert summary["files"] == ["scene.json", *held, "segment_1/trajectory/"]
    assert all((out / name).exists() for name in summary["files"])
    assert not any((out / name).exists() for name in refused)
    count = points_of(out / "segment_0" / "scene.ply")
    assert summary["points_written"] == dict.fromkeys(held[:2], count)
    assert f"segment_0/scene.ply ({count:,} points)" in told and "segment_1/scene.ply" not in told


@pytest.mark.parametrize("way", ["chunk", "stream, then save", "npz, then save"])
def test_masks_reach_data_sets_by_way_of_archives(
    run: Run, photos: Path, tmp_path: Path, way: str
) -> None:
    from PIL import Image

    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for path in photos.iterdir():
        width, height = size_of(path)
        kept = np.zeros((height, width), np.uint8)
        kept[:, width // 4 :] = 255
        Image.fromarray(kept).save(masks / f"{path.name}.png")
    wanted: dict[str, tuple[object, ...]] = {
        "chunk": (*SOFT, "--formats", "nerfstudio"),
        "stream, then save": ("--keep-edges", "--stream"),
        "npz, then save": ("--keep-edges", "--formats", "npz"),
    }
    code, _, err = run(photos, *wanted[way], "--masks", masks, "-o", out)
    assert code == 0, err
    if way != "chunk":
        again = tmp_path / "again"
        assert main(["save", str(out), "--formats", "nerfstudio", "-o", str(again)]) == 0
        out = again
    frames = json.loads((out / "nerfstudio" / "transforms.json").read_text())["frames"]
    assert len(frames) == 14
    for frame in frames:
        given = masks / f"{Path(frame['file_path']).name}.png"
        mask = out / "nerfstudio" / frame["mask_path"]
        with Image.open(given) as told, Image.open(mask) as found:
            np.testing.assert_array_equal(np.asarray(found), np.asarray(told))


def test_masks_that_are_gone_are_not_named(run: Run, photos: Path, tmp_path: Path) -> None:
    from PIL import Image

    masks, out = tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for path in photos.iterdir():
        Image.new("L", size_of(path), 255).save(masks / f"{path.name}.png")
    run(photos, "--keep-edges", "--formats", "npz", "--masks", masks, "-o", out)
    assert len(Reconstruction.load(out / "scene.npz").photo_masks) == 14
    (masks / "03.png.png").unlink()
    found = Reconstruction.load(out / "scene.npz")
    assert found.photo_masks == ()
    found.save(tmp_path / "again", "nerfstudio")
    assert "mask_path" not in (tmp_path / "again" / "transforms.json").read_text()


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


def points_of(path: Path) -> int:
    """How many points a PLY file has, as another reader counts them."""
    from plyfile import PlyData

    return len(PlyData.read(str(path))["vertex"].data)


def test_a_video(run: Run, tmp_path: Path) -> None:
    film = write_video(tmp_path / "walk.mp4", frames=30, size=(21 * 2, 14 * 2))
    out = tmp_path / "out"
    rate = ("--fps", 4, "--resolution", 21)
    code, _, err = run(film, *SOFT, *rate, "--allow-gaps", "--stream", "-o", out)
    assert code == 0, err
    names = SequenceReconstruction.load(out).names
    assert names[:3] == ("frame_000000", "frame_000003", "frame_000005") and len(names) == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overlap", 3), "--overlap goes with --chunk"),
        (("--allow-gaps",), "--allow-gaps goes with --chunk"),
        (("--export-every", 2), "--export-every goes with --chunk"),
        (("--chunk", 4, "--stream", "--export-every", 2), "--export-every 2 is of files of all"),
        (("--chunk", 4, "--formats", "trajectory", "--export-every", 2), "--export-every 2 is of"),
        (("--chunk", 1), "chunk=1 must be at least 2"),
        (("--chunk", 4, "--overlap", 4), "overlap=4 leaves no new views"),
        (("--chunk", 4, "--shared-intrinsics"), "leave it out, or --chunk"),
        (("--chunk", 4, "--views-at-once", 2, "--stream"), "--views-at-once"),
        (("--chunk", 4, "--formats", "obj"), "found obj"),
        (("--fps", 2, "--chunk", 4), "is no video"),
    ],
)
def test_refused(
    run: Run, photos: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    code, _, err = run(photos, *options, "-o", tmp_path / "out")
    assert code == 2
    assert message in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
