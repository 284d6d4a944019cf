"""The wheel: what it installs, and that it works without the checkout."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import jaxrecon
from places import ROOT, fresh_process

wheel_builder = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling (dev)")

USE = """
import sys
import jaxrecon, jaxrecon.registry, jaxrecon.cli
assert jaxrecon.__file__.startswith({place!r}), jaxrecon.__file__
assert "convert" not in sys.modules
assert sys.modules["jaxrecon._convert.engine"]
from jaxrecon.cli.demo import scene_folder
assert str(scene_folder()).startswith({place!r}), scene_folder()
assert len(list((scene_folder() / "images").iterdir())) == 8
jaxrecon.load("pi3-mini")
sys.exit(jaxrecon.cli.main(["convert", "pi3", "absent.safetensors", "-o", "out"]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    builder = wheel_builder.WheelBuilder(str(ROOT))
    (wheel,) = builder.build(directory=str(folder), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        assert len(set(archive.namelist())) == len(archive.namelist())
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_installs_two_packages_of_ours(installed: Path) -> None:
    metadata = f"jaxrecon-{jaxrecon.__version__}.dist-info"
    assert {path.name for path in installed.iterdir()} == {"jaxrecon", "pallas_kernels", metadata}


def test_it_holds_every_module(installed: Path) -> None:
    for package, place in (
        ("jaxrecon", "jaxrecon"),
        ("pallas_kernels", "pallas_kernels"),
        ("convert", "jaxrecon/_convert"),
    ):
        ours = {path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*.py")}
        theirs = {path.relative_to(installed / place) for path in (installed / place).rglob("*.py")}
        assert ours <= theirs


def test_nothing_in_it_imports_the_folder_of_the_checkout(installed: Path) -> None:
    for path in installed.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "convert"], path


def test_it_works_by_itself(installed: Path, tmp_path: Path) -> None:
    code = USE.format(place=str(installed))
    env = fresh_process() | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr[-2000:]  # of the absent file
    assert "absent.safetensors" in done.stderr.splitlines()[-1]
