"""With `jax_enable_x64` set everything still works in float32, and comes out the same."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

import jaxrecon
from compiled_programs import without_programs
from drawn_weights import drawn
from jaxrecon import SparseAttention, registry
from jaxrecon.pipeline import Pipeline
from jaxrecon.scenes import render_scene
from pallas_kernels.bias_gelu import bias_gelu
from pallas_kernels.block_selection import attend_to_skipped, merged_with_skipped, select_blocks
from pallas_kernels.block_sparse_attention import block_sparse_attention
from pallas_kernels.dense_attention import dense_attention
from pallas_kernels.norm import Norm
from pallas_kernels.point_map_loss import Planes, point_map_loss
from pallas_kernels.residual_norm import residual_norm
from tiny_families import CONFIGS

SMALL: dict[str, Any] = {"block_q": 16, "block_kv": 8, "compensation_q": 4}
BLOCKS: dict[str, Any] = {"block_q": 16, "block_kv": 8}


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


def chosen(q: Array) -> Any:
    return select_blocks(q, q, top_k=1, top_p=0.5, pool_q=8, implementation="xla", **BLOCKS).lists


def compensated(q: Array) -> Array:
    mask = select_blocks(q, q, top_k=1, implementation="xla", **BLOCKS)
    attend = partial(block_sparse_attention, implementation="xla", return_logsumexp=True)
    out, sums = attend(q, q, q, mask)
    skipped = attend_to_skipped(q, q, q, mask, group=4, implementation="xla")
    return merged_with_skipped(out, sums, skipped, 4)


def normed(x: Array) -> Any:
    width = x.shape[-1]
    norm = Norm(jnp.ones(width, x.dtype), jnp.zeros(width, x.dtype))
    update = x.astype(jnp.bfloat16)
    options: dict[str, Any] = {"norm": norm, "dtype": jnp.bfloat16, "implementation": "xla"}
    return residual_norm(x, update, gamma=jnp.ones(width, x.dtype), **options)


def lost(x: Array) -> Any:
    image = jnp.abs(x[0]) + 1
    planes = Planes(image, image, image)
    return point_map_loss(planes, image, planes, image > 1.5, implementation="xla")


@pytest.mark.parametrize(
    "run",
    [
        chosen,
        compensated,
        partial(bias_gelu, bias=jnp.zeros(8, jnp.float32), implementation="xla"),
        lambda q: dense_attention(q, q, q, implementation="xla"),
        normed,
        lost,
    ],
    ids=["select_blocks", "sparse", "bias_gelu", "dense", "residual_norm", "point_map_loss"],
)
def test_kernels_by_themselves(run: Callable[[Array], Any]) -> None:
    """Without the pipeline, which has x64 off for all it runs."""
    x = jax.random.normal(jax.random.key(0), (1, 64, 2, 8), jnp.float32)
    plain = jax.jit(run)(x)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide = jax.jit(run)(x)
    for ours, theirs in zip(jax.tree.leaves(wide), jax.tree.leaves(plain), strict=True):
        assert ours.dtype == theirs.dtype
        exact = jnp.issubdtype(ours.dtype, jnp.integer)
        np.testing.assert_allclose(
            np.asarray(ours, np.float64), np.asarray(theirs, np.float64), atol=0 if exact else 1e-6
        )


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
