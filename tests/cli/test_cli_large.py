"""Options of the command line for large sets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxrecon import Reconstruction
from jaxrecon.cli import main
from jaxrecon.pipeline import Pipeline


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("jax.config.update", lambda *_: None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 42, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    return str(folder)


def test_streaming(
    native: str,
    photos: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, Any] = {}
    stream = Pipeline.stream

    def noting(self: Pipeline, *arguments: Any, **options: Any) -> Path:
        given.update(options)
        return stream(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "stream", noting)
    out = tmp_path / "out"
    command = ("reconstruct", photos, "-m", native, "-o", str(out), "--stream", "--json")
    assert main([*command, "--resolution", "42", "--formats", "npz", "--views-at-once", "2"]) == 0
    printed, shown = capsys.readouterr()
    assert given["views_at_once"] == 2
    assert json.loads(printed)["compilations"] == 2  # what views exchange in, and the heads
    assert shown.splitlines()[-1] == " programs: 2, compiled or taken from the cache"
    assert len(Reconstruction.load(out)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--stream", "--formats", "ply"), "--formats ply: --stream writes npz, a file a view"),
        (("--stream", "--formats", "npz,glb"), "--formats npz,glb: --stream writes npz"),
        (("--stream", "--views-at-once", "0"), "--views-at-once 0: give a number of at least 1"),
        (("--views-at-once", "4"), "--views-at-once goes with --stream"),
        (("--stream", "-o", "{used}"), "holds other files; choose another folder"),
        (("--stream", "-o", "{used}/notes.txt"), "a file of that name exists"),
    ],
)
def test_refused_before_photos_and_weights_are_looked_for(
    options: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    command = ["reconstruct", "no photos", "-m", "no model", "-o", str(tmp_path / "out")]
    assert main([*command, *(option.format(used=used) for option in options)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "command",
    [
        ("reconstruct", "{photos}", "-o", "out"),
        ("plan", "--views", "4", "--size", "42x28"),
    ],
)
def test_parts_of_weights_need_devices(
    command: tuple[str, ...], photos: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [part.format(photos=photos) for part in command]
    assert main([*given, "-m", "no model", "--shard-weights"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--shard-weights parts the weights among devices, found --devices 1; add" in line
