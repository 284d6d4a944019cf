"""Released π³ from upstream's file to a point cloud on the CPU: `python3 -m pytest -m slow`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import golden_data
from jaxrecon.scenes import render_scene

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status"),
]

HOUSE = golden_data.SHARED / "photos" / "house"
_RUN = """
import sys
from jaxrecon.cli import main
code = main(sys.argv[1:])
# Not getrusage: that of a child begins with what its parent held when it was started.
with open("/proc/self/status") as status:
    (most,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
sys.stderr.write(f"peak {1024 * int(most)}\\n")
sys.exit(code)
"""


def run(home: Path, *arguments: str) -> tuple[dict, int]:
    """Runs one command in a process of its own; its summary and its peak memory in bytes."""
    environment = os.environ | {"JAXRECON_HOME": str(home), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", _RUN, *arguments, "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout), int(done.stderr.split("peak ")[1].split()[0])


@pytest.fixture(scope="module")
def upstream_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upstream") / "model.safetensors"
    listing = golden_data.GOLDEN / "statedict" / "pi3_full.json"
    save_file(golden_data.state_dict(listing), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if HOUSE.is_dir():
        return HOUSE
    folder = tmp_path_factory.mktemp("photos")
    rendered = np.asarray(render_scene(4, views=8, height=378, width=672).images)
    for number, image in enumerate(np.round(255 * rendered).astype(np.uint8)):
        Image.fromarray(image).save(folder / f"view_{number}.png")
    return folder


def test_released_size_converts_and_reconstructs_within_bounds(
    tmp_path: Path, upstream_file: Path, photos: Path
) -> None:
    pycolmap, trimesh = pytest.importorskip("pycolmap"), pytest.importorskip("trimesh")
    home, out = tmp_path / "home", tmp_path / "out"
    _, peak = run(home, "convert", "pi3", str(upstream_file), "-o", str(home / "pi3"))
    assert peak <= 0.3 * upstream_file.stat().st_size
    # The deterministic weights see no geometry, so every pixel is kept.
    options = ("--resolution", "224", "--min-confidence", "0", "--keep-edges")
    formats = ("--formats", "ply,glb,npz,colmap,pictures")
    summary, peak = run(
        home, "reconstruct", str(photos), "-m", "pi3", "-o", str(out), *options, *formats
    )
    assert peak <= 9e9
    assert summary["seconds"]["compile"] <= 20
    assert (summary["views"], summary["width"], summary["height"]) == (8, 224, 126)
    assert len(trimesh.load(out / "scene.ply").vertices) == 8 * 126 * 224
    assert len(trimesh.load(out / "scene.glb").geometry) == 1 + 8
    model = pycolmap.Reconstruction(out / "colmap" / "sparse" / "0")
    assert len(model.images) == 8
    # Thinned by voxel: about as many as COLMAP models have by default, and no more.
    assert 99_000 <= len(model.points3D) <= 100_000
