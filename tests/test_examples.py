"""The examples run as their docstrings say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_demo_writes_everything_and_says_that_it_is_untrained(tmp_path: Path) -> None:
    told = run("demo.py", "-o", str(tmp_path / "out"))
    assert "untrained" in told
    assert "points: 127,008" in told
    for name in ("scene.ply", "scene.glb", "scene.npz", "sheet.png", "colmap/sparse/0/images.bin"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    assert len(list((tmp_path / "out" / "pictures" / "depth").iterdir())) == 6


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_open_with_their_command(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 130
    assert f"python examples/{path.name}" in text.split('"""')[1]
    assert "usage:" in run(path.name, "--help")
