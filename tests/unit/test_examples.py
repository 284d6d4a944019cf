"""The examples run as their docstrings say."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxrecon.training import step
from places import BENCHMARKS, EXAMPLES, ROOT, fresh_process
from plane_scenes import render_planes
from tiny_families import saved_tiny

SMALL = ("--resolution", 56)

type Told = Callable[..., str]

SCRIPTS = sorted((*EXAMPLES.glob("*.py"), *BENCHMARKS.glob("*.py")))
LONGEST = {"benchmark_sequences.py": 240, "first_minute.py": 195}


def run(path: Path, *arguments: str, devices: int = 1) -> str:
    command = [sys.executable, str(path), *arguments]
    env = fresh_process(devices)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_demo_writes_everything_and_tells_its_errors(tmp_path: Path) -> None:
    told = run(EXAMPLES / "demo.py", "-o", str(tmp_path / "out"))
    assert "reconstructed 8 views in " in told
    relative, rotation, direction = map(float, re.findall(r"error (\d+\.\d+)", told))
    assert relative < 0.1
    assert rotation < 4
    assert direction < 8
    for name in (
        "scene.ply",
        "scene.glb",
        "scene.npz",
        "summary.png",
        "colmap/sparse/0/images.bin",
    ):
        assert (tmp_path / "out" / name).stat().st_size > 0


def test_the_bundled_scene_is_small_and_whole() -> None:
    files = [path for path in (EXAMPLES / "scene").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000
    assert len(list((EXAMPLES / "scene" / "images").glob("*.png"))) == 8
    truth = np.load(EXAMPLES / "scene" / "condition.npz")
    assert truth["depths"].shape == (8, 168, 224)
    assert truth["poses"].shape == (8, 4, 4)
    assert truth["intrinsics"].shape == (8, 3, 3)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs an example in this process; returns what it prints."""

    def ran(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return ran


@pytest.mark.thorough
def test_priors(tmp_path: Path, told: Told) -> None:
    out = told("priors.py", "-m", saved_tiny("mapanything", tmp_path / "model"), *SMALL)
    assert re.findall(r"(?m)^(.+): focal", out)[1:3] == ["intrinsics", "intrinsics and poses"]
    scales = re.findall(r"scale (\d+\.\d+)", out)
    assert len(set(scales)) > 1  # what is known matters


@pytest.mark.thorough
def test_tracks(tmp_path: Path, told: Told) -> None:
    out = told("tracks.py", "-m", saved_tiny("vggt", tmp_path / "model"), "--points", 4, *SMALL)
    assert re.findall(r"(?m)^view (\d):", out) == [str(view) for view in range(8)]


@pytest.mark.thorough
def test_streaming(tmp_path: Path, told: Told) -> None:
    first = told("streaming.py", "-o", tmp_path / "out")
    assert "wrote 8 views" in first
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.npz")}
    assert told("streaming.py", "-o", tmp_path / "out") == first
    assert made == {path: path.stat().st_mtime_ns for path in made}


@pytest.mark.thorough
def test_sharding() -> None:
    out = run(EXAMPLES / "sharding.py", devices=2)
    assert out == "8 views on 2 x cpu\n"


@pytest.mark.slow
def test_training(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "render_groups", render_planes)  # which compiles faster than rooms
    out = told("training.py", "-o", tmp_path / "run", "--steps", 3)
    assert f"{tmp_path}/run/weights" in out
    assert (tmp_path / "run" / "weights" / "config.json").is_file()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_and_open_with_their_command(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text()
    most = LONGEST.get(path.name, 40 if path.parent == EXAMPLES else 150)
    assert text.count("\n") <= most
    assert f"python {path.relative_to(ROOT)}" in text.split('"""')[1]
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.thorough
def test_the_notebook_runs_from_top_to_bottom() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel")
    pytest.importorskip("viser")
    notebook = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in fresh_process().items():
            patch.setenv(name, value)
        client = nbclient.NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}
        )
        client.execute()
    told = "\n".join(str(cell.outputs) for cell in cells)
    for part in (
        "Pipeline pi3-mini: Pi3",
        "data:image/jpeg;base64,",
        "8 views of",
        "IFrame",
        "KiB",
    ):
        assert part in told, part
