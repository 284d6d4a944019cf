"""The examples run as their docstrings say."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from places import BENCHMARKS, EXAMPLES, ROOT

SCRIPTS = sorted((*EXAMPLES.glob("*.py"), *BENCHMARKS.glob("*.py")))
LONGEST = {"demo.py": 70}


def run(path: Path, *arguments: str) -> str:
    command = [sys.executable, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
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


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_and_open_with_their_command(path: Path) -> None:
    text = path.read_text()
    most = LONGEST.get(path.name, 40) if path.parent == EXAMPLES else 140
    assert text.count("\n") <= most
    assert f"python {path.relative_to(ROOT)}" in text.split('"""')[1]
    assert "usage:" in run(path, "--help")
