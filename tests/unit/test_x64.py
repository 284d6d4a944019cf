"""With `jax_enable_x64` set everything still works in float32, and comes out the same."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrecon
from compiled_programs import without_programs
from drawn_weights import drawn
from jaxrecon import SparseAttention, registry
from jaxrecon.pipeline import Pipeline
from jaxrecon.scenes import render_scene
from tiny_families import CONFIGS

SMALL: dict[str, Any] = {"block_q": 16, "block_kv": 8, "compensation_q": 4}


def pipeline_of(name: str) -> Pipeline:
    entry = registry.MODELS[name]
    build = entry.family.build
    model = drawn(lambda: build(CONFIGS[name], dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return Pipeline(model, name, entry.resize, defaults=entry.family.defaults)


@pytest.mark.parametrize(
    "name",
    [
        "pi3",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("pi3x", "vggt", "mapanything")),
    ],
)
def test_reconstructions(name: str) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (5, 56, 70, 3), np.uint8)
    given: dict[str, Any] = {"resolution": 70, "attention": SparseAttention(0.5, 0.5, **SMALL)}
    if name in ("pi3x", "mapanything"):
        given["poses"] = np.tile(np.eye(4), (5, 1, 1))
        given["intrinsics"] = np.array([[60.0, 0, 34.5], [0, 60, 27.5], [0, 0, 1]])
        given["depths"] = {1: np.full((56, 70), 2.0, np.float32)}
    if name == "vggt":
        given["query_points"] = 3
    pipeline = pipeline_of(name)
    plain = pipeline.reconstruct(photos, **given).numpy()
    with jax.enable_x64(True):
        wide = without_programs(pipeline).reconstruct(photos, **given).numpy()
    for field in ("points_world", "confidence", "intrinsics", "world_from_camera"):
        ours, theirs = getattr(wide, field), getattr(plain, field)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4, err_msg=field)
    assert (wide.tracks is None) == (name != "vggt")


@pytest.mark.thorough
def test_streams(tmp_path: Any) -> None:
    photos = np.random.default_rng(0).integers(0, 256, (5, 28, 42, 3), np.uint8)
    pipeline = pipeline_of("pi3")
    with jax.enable_x64(True):
        folder = pipeline.stream(photos, tmp_path / "views", resolution=42)
    assert jaxrecon.Reconstruction.load(folder).points_world.dtype == np.float32


@pytest.mark.thorough
def test_scenes() -> None:
    plain = render_scene(3, views=2, height=28, width=28)
    with jax.enable_x64(True):
        wide = render_scene(3, views=2, height=28, width=28)
    for ours, theirs in zip(jax.tree.leaves(wide), jax.tree.leaves(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
