"""A plain installation runs models; what needs more says which extra has it."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from jaxrecon.cli import main
from jaxrecon.errors import InputError
from jaxrecon.evaluation import Report, Settings
from jaxrecon.formats import serve
from jaxrecon.images import load_images
from jaxrecon.models import PI3_RESIZE
from jaxrecon.training import draw_log, train
from jaxrecon.training.board import Board
from places import EXAMPLES, ROOT, fresh_process
from plane_scenes import small_config
from random_recon import random_recon

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MODULES = {
    "OpenEXR": "OpenEXR",
    "av": "av",
    "matplotlib": "matplotlib",
    "pillow-heif": "pillow_heif",
    "pycolmap": "pycolmap",
    "python-multipart": "python_multipart",
    "rerun-sdk": "rerun",
    "scikit-image": "skimage",
    "shtab": "shtab",
    "starlette": "starlette",
    "tensorboardX": "tensorboardX",
    "trimesh": "trimesh",
    "uvicorn": "uvicorn",
    "viser": "viser",
}
"""The modules of the distributions in the extra `all`."""

PLAIN = """
import sys
for name in {names}: sys.modules[name] = None
import jaxrecon, jaxrecon.registry, jaxrecon.cli, jaxrecon.aot, jaxrecon.plan
import jaxrecon.evaluation, jaxrecon.training, jaxrecon.scenes, jaxrecon.bundle_adjustment
recon = jaxrecon.load("pi3-mini").reconstruct({images!r}, resolution=56)
for name in ("scene.ply", "scene.npz", "colmap/"): recon.save(name)
recon.save_pictures("pictures")
"""


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library of an extra is installed."""
    for module in MODULES.values():
        for name in [name for name in sys.modules if name.split(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)


def distribution(requirement: str) -> str:
    return requirement.split(">")[0].split("[")[0].strip()


def test_extras_are_known_here_and_not_required() -> None:
    optional = PROJECT["optional-dependencies"]
    (combined,) = optional["all"]
    names = combined.removeprefix("jaxrecon[").removesuffix("]").split(",")
    libraries = {distribution(each) for name in names for each in optional[name]}
    assert libraries == MODULES.keys()
    assert not libraries & {distribution(each) for each in PROJECT["dependencies"]}


def test_a_plain_installation_reconstructs(tmp_path: Path) -> None:
    code = PLAIN.format(names=list(MODULES.values()), images=str(EXAMPLES / "scene" / "images"))
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=fresh_process(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name for path in tmp_path.iterdir()} == {
        "scene.ply",
        "scene.npz",
        "colmap",
        "pictures",
    }


def video(folder: Path) -> object:
    (folder / "film.mp4").write_bytes(b"not looked at")
    return load_images(folder / "film.mp4", rule=PI3_RESIZE)


def heic(folder: Path) -> object:
    Image.new("RGB", (28, 28)).save(folder / "a.png")
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    return load_images(folder, rule=PI3_RESIZE)


def empty_report(folder: Path) -> object:
    return Report("", Settings(), ()).plot(folder / "report.png")


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("extra", "work"),
    [
        ("video", video),
        ("heic", heic),
        ("mesh", lambda folder: random_recon().save(folder / "scene.glb")),
        ("mesh", lambda folder: random_recon().save(folder / "mesh.ply", "mesh-ply")),
        ("exr", lambda folder: random_recon().save(folder / "depth", "depth-exr")),
        ("rerun", lambda folder: random_recon().save(folder / "scene.rrd")),
        ("eval", lambda folder: random_recon().save_summary(folder / "summary.png")),
        ("eval", empty_report),
        ("train", lambda folder: draw_log(folder / "log.jsonl", folder / "curves.png")),
        ("train", lambda folder: train(small_config(), folder / "run")),
        ("tensorboard", lambda folder: Board(folder / "tensorboard", upto=-1)),
        ("view", lambda folder: serve(random_recon().scene())),
    ],
    ids=[
        "video",
        "heic",
        "glb",
        "mesh",
        "exr",
        "rerun",
        "summary",
        "report",
        "curves",
        "train",
        "tensorboard",
        "view",
    ],
)
def test_what_is_missing_is_named(
    extra: str, work: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"; pip install jaxrecon\[{extra}\]$"):
        work(tmp_path)
    left = {"scene.glb", "mesh.ply", "depth", "scene.rrd", "summary.png", "report.png", "run"}
    assert not left & set(path.name for path in tmp_path.iterdir())


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["reconstruct", "photos/", "-m", "pi3-mini"], "mesh"),
        (["reconstruct", "photos/", "-m", "pi3-mini", "--formats", "summary"], "eval"),
        (["reconstruct", "photos/", "-m", "pi3-mini", "--formats", "ply,mesh-obj"], "mesh"),
        (["reconstruct", "photos/", "-m", "pi3-mini", "--formats", "depth-exr"], "exr"),
        (["reconstruct", "photos/", "-m", "pi3-mini", "--formats", "rerun"], "rerun"),
        (["evaluate", "pi3-mini"], "eval"),
        (["reconstruct", "photos/", "-m", "pi3-mini", "--formats", "ply", "--view"], "view"),
        (["train"], "train"),
    ],
    ids=["glb", "summary", "mesh", "exr", "rerun", "evaluate", "view", "train"],
)
def test_commands_refuse_before_they_compute(
    arguments: list[str], extra: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"pip install jaxrecon[{extra}]")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("plain")
def test_serving_without_its_libraries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "results")]) == 2
    assert capsys.readouterr().err.endswith("pip install jaxrecon[serve]\n")
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("plain")
def test_completion_without_its_library(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", "bash"]) == 2
    assert capsys.readouterr().err.endswith("pip install jaxrecon[completion]\n")
