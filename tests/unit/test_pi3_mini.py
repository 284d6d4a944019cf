"""The weights of pi3-mini as they ship: size, terms, equivariance, and their headline figures."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxrecon
from jaxrecon import checkpoint, evaluation, registry
from jaxrecon.evaluation import Settings
from jaxrecon.models import PI3_MINI
from jaxrecon.pipeline import Pipeline
from jaxrecon.progress import Stages
from jaxrecon.registry import Bundled, config_from_json, fetching
from places import EXAMPLES

ENTRY = registry.model_entry("pi3-mini")
assert isinstance(ENTRY.source, Bundled)
pytestmark = [
    pytest.mark.usefixtures("full_optimization"),
    pytest.mark.skipif(
        not ENTRY.source.folder.is_dir(), reason="the weights of pi3-mini are not trained yet"
    ),
]
SCENE = EXAMPLES / "scene"


@pytest.fixture(scope="module")
def folder() -> Path:
    assert isinstance(ENTRY.source, Bundled)
    return ENTRY.source.folder


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return registry.load("pi3-mini", dtype="float32", stages=Stages(quiet=True))


def test_loads_from_the_package_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXRECON_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(fetching, "fetch", None)
    assert jaxrecon.load("pi3-mini").name == "pi3-mini"
    assert not (tmp_path / "home").exists()


def test_what_ships(folder: Path) -> None:
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(files) == {"config.json", "model.safetensors", "metrics.json", "README.md"}
    assert files["model.safetensors"] <= 27_000_000
    assert sum(files.values()) <= 27_100_000
    assert ENTRY.parameters <= 36_000_000


def test_the_header(folder: Path) -> None:
    header = checkpoint.read_config(folder)
    assert (header["family"], header["model"]) == ("pi3", "pi3-mini")
    assert header["license"] == "Apache-2.0"
    assert config_from_json(type(PI3_MINI), header["config"], folder) == PI3_MINI
    assert header["resize"] == {"patch": 14, "pixel_limit": 224 * 224}
    dtypes = {entry["dtype"] for entry in header["tensors"].values()}
    assert dtypes == {"int8", "float32", "bfloat16"}


@pytest.mark.thorough
def test_the_order_of_the_views_does_not_matter(pipeline: Pipeline) -> None:
    photos = sorted((SCENE / "images").iterdir())
    order = [5, 2, 7, 0, 3, 1, 6, 4]
    straight = pipeline.reconstruct(photos).numpy()
    permuted = pipeline.reconstruct([photos[view] for view in order]).numpy()
    for name in ("points_world", "points_camera", "confidence", "world_from_camera"):
        expected, found = getattr(straight, name)[order], getattr(permuted, name)
        change = np.abs(found - expected).max() / np.abs(expected).max()
        assert change <= 1e-4, f"{name} changes by {change:.1e}"


def test_depths_and_cameras_have_one_unit(pipeline: Pipeline) -> None:
    truths = evaluation.open_dataset("folder", SCENE)
    assert evaluation.evaluate(pipeline, truths).scenes[0].values()["unit_error"] < 0.06


@pytest.mark.thorough
def test_bfloat16_stays_close(pipeline: Pipeline) -> None:
    half = registry.load("pi3-mini", dtype=jnp.bfloat16, stages=Stages(quiet=True))
    exact, rounded = (
        np.asarray(each.reconstruct(SCENE / "images").depth_z) for each in (pipeline, half)
    )
    assert np.median(np.abs(rounded / exact - 1)) <= 0.01


@pytest.mark.thorough
def test_the_headline_figures(pipeline: Pipeline, folder: Path) -> None:
    """`metrics.json` holds `subset`: how to open a few scenes, and the figures on them.

    `{"open": {arguments of open_dataset}, "figures": {name: number}}`, made in float32.
    """
    subset: dict[str, Any] = json.loads((folder / "metrics.json").read_text())["subset"]
    scenes = evaluation.open_dataset(**subset["open"])
    found = evaluation.evaluate(pipeline, scenes, settings=Settings(max_points=0)).mean()
    assert {"abs_rel", "delta_1", "rotation_median", "auc_30"} <= subset["figures"].keys()
    for name, expected in subset["figures"].items():
        assert found[name] == pytest.approx(expected, rel=0.02, abs=0.002), name
