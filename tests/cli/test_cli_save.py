"""`jaxrecon save` and `Reconstruction.narrowed`: a result in other formats, with fewer points."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxrecon import InputError, Reconstruction
from jaxrecon.cli import main
from random_recon import random_recon

type Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str]:
        return main([str(each) for each in arguments]), capsys.readouterr().err

    return call


@pytest.fixture
def result(tmp_path: Path) -> Path:
    random_recon(0).save(tmp_path / "first" / "scene.npz")
    return tmp_path / "first"


def test_fewer_points_in_other_formats(result: Path, tmp_path: Path, run: Run) -> None:
    whole = Reconstruction.load(result / "scene.npz")
    least = float(np.median(np.asarray(whole.confidence)[np.asarray(whole.mask)]))
    options = ("--formats", "ply,npz", "--min-confidence", least, "-q")
    assert run("save", result, "-o", tmp_path / "second", *options) == (0, "")
    summary = json.loads((tmp_path / "second" / "summary.json").read_text())
    again = Reconstruction.load(tmp_path / "second" / "scene.npz")
    mask = np.asarray(again.mask)
    np.testing.assert_array_equal(mask, whole.mask & (np.asarray(whole.confidence) > least))
    assert 0 < mask.sum() == summary["points"] < np.asarray(whole.mask).sum()
    np.testing.assert_array_equal(again.points_world, whole.points_world)
    assert (tmp_path / "second" / "scene.ply").stat().st_size > 0


def test_points_are_counted_as_written(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("trimesh")
    out = tmp_path / "second"
    options = ("--formats", "ply,glb,npz,colmap,splats", "--max-points", "10")
    assert main(["save", str(result), "-o", str(out), *options]) == 0
    line = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    kept = int(np.asarray(Reconstruction.load(out / "scene.npz").mask).sum())
    assert summary["points"] == kept > 10 and f" {kept:,} points" in line
    counts = {name: 10 for name in ("scene.ply", "scene.glb", "colmap/", "splats.ply")}
    assert summary["points_written"] == counts
    assert all(f"{name} (10 points)" in line for name in counts)
    assert "scene.npz," in line
    header = (out / "scene.ply").read_bytes().split(b"end_header")[0]
    assert b"element vertex 10\n" in header


def test_a_folder_without_a_result(tmp_path: Path, run: Run) -> None:
    code, said = run("save", tmp_path, "-o", tmp_path / "out")
    assert code == 2 and "holds no scene" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["scene.ply", "scene.glb", "other.PLY"])
@pytest.mark.parametrize("by_folder", [True, False])
def test_a_result_of_points_alone(tmp_path: Path, run: Run, name: str, *, by_folder: bool) -> None:
    if by_folder and name == "other.PLY":
        name = "other.ply"
    folder = tmp_path / "first"
    file = random_recon(0).save(folder / name.lower()).rename(folder / name)
    code, err = run("save", folder if by_folder else file, "-o", tmp_path / "second", "-q")
    assert code == 2 and err.count("\n") == 1
    assert f"{file} has points alone" in err and "npz among --formats" in err
    assert not (tmp_path / "second").exists()


def test_a_result_is_not_replaced_by_what_is_read_from_it(result: Path, run: Run) -> None:
    code, said = run("save", result, "-o", result, "--overwrite")
    assert code == 2 and "is read from there" in said
    assert [path.name for path in result.iterdir()] == ["scene.npz"]


def test_nothing_comes_back() -> None:
    recon = random_recon(0)
    assert (np.asarray(recon.narrowed(min_confidence=-1.0).mask) == np.asarray(recon.mask)).all()


def test_edges_and_shares() -> None:
    recon = random_recon(0)
    count = np.asarray(recon.mask).sum()
    half = np.asarray(recon.narrowed(confidence_quantile=0.5).mask)
    assert abs(int(half.sum()) - count / 2) <= 1
    assert not np.asarray(recon.narrowed(edge_rtol=0.0).mask).any()
    assert (np.asarray(recon.narrowed(edge_rtol=1e9).mask) == np.asarray(recon.mask)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confidence_quantile", 1.0),
        ("confidence_quantile", -0.1),
        ("edge_rtol", -1.0),
        ("min_confidence", float("nan")),
    ],
)
def test_numbers_out_of_range(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name):
        random_recon(0).narrowed(**{name: value})  # pyright: ignore[reportArgumentType]
