"""The recipes of docs/architecture.md, followed: a family and a selector that nobody has seen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float
from safetensors.numpy import save_file

import jaxrecon
import tiny_families
from convert.rules import Rule, linear_rules
from drawn_weights import drawn
from jaxrecon import SparseAttention, registry
from jaxrecon.models import Encoded, Model, Prediction, ResizeRule
from jaxrecon.nn.attention import AttentionFn, Count, TokenLayout, attend_densely
from jaxrecon.nn.execution import INFERENCE, ExecutionConfig
from jaxrecon.nn.layers import linear
from jaxrecon.pipeline import ModelDefaults
from jaxrecon.progress import Stages
from jaxrecon.registry.entries import FAMILIES, MODELS, Family, HubFile, ModelEntry
from jaxrecon.sparse import TopKTopP
from jaxrecon.sparse.layout import BlockLayout
from pallas_kernels.block_sparse_attention import BlockMask

QUIET = Stages(quiet=True)
PATCH = 7


# models/toy/model.py


@dataclass(frozen=True)
class ToyConfig:
    """Sizes."""

    width: int = 16


class Toy(Model):
    """Each patch is a plane in front of its camera; how far away, the patches of all views tell."""

    def __init__(self, config: ToyConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        self.embed = linear(3 * PATCH**2, config.width, dtype=dtype, rngs=rngs)
        self.qkv = linear(config.width, 3 * config.width, dtype=dtype, rngs=rngs)
        self.depth = linear(config.width, 1, dtype=dtype, rngs=rngs)

    def layout(self, shape: tuple[int, ...]) -> TokenLayout:
        if shape[2] % PATCH or shape[3] % PATCH:
            raise ValueError(f"height and width must be multiples of {PATCH}")
        return TokenLayout(1, (shape[2] // PATCH, shape[3] // PATCH))

    def encode(
        self,
        images: Float[Array, "B V H W 3"],
        *,
        attention: AttentionFn = attend_densely,
        num_valid_views: Count | None = None,
        execution: ExecutionConfig = INFERENCE,
    ) -> Encoded:
        batch, views = images.shape[:2]
        layout = self.layout(images.shape)
        rows, columns = layout.grid
        patches = images.reshape(batch * views * rows, PATCH, columns, PATCH, 3).swapaxes(1, 2)
        tokens = self.embed(patches.reshape(batch, views * rows * columns, -1))
        q, k, v = jnp.split(self.qkv(tokens)[:, :, None], 3, axis=-1)
        everywhere = layout.joined(views)
        attend = execution.collectives.across_views(attention)
        out, stats = attend(q, k, v, replace(everywhere, num_valid_views=num_valid_views))
        skipped = None if stats is None else stats.skipped[:, None]  # of the one layer
        return Encoded(views=out.reshape(batch, views, rows, columns, -1), skipped=skipped)

    def predict(
        self, encoded: Encoded, layout: TokenLayout, *, execution: ExecutionConfig = INFERENCE
    ) -> Prediction:
        depth = jnp.exp(self.depth(encoded.views)[..., 0]).astype(jnp.float32)
        depth = depth.repeat(PATCH, axis=2).repeat(PATCH, axis=3)
        height, width = depth.shape[2:]
        x, y = jnp.meshgrid(jnp.arange(width) - width / 2, jnp.arange(height) - height / 2)
        points = jnp.stack([x, y, jnp.full_like(x, width)], axis=-1) / width * depth[..., None]
        poses = jnp.broadcast_to(jnp.eye(4), (*depth.shape[:2], 4, 4))
        return Prediction(points, points, jnp.ones_like(depth), poses)


# convert/toy.py

RULES: tuple[Rule, ...] = (
    *linear_rules("patch", "embed"),
    *linear_rules("mix", "qkv"),
    *linear_rules("far", "depth"),
)

# registry/entries.py

FAMILY = Family(
    name="toy",
    config_class=ToyConfig,
    build=Toy,
    rules=RULES,
    ignored=(),
    resize=ResizeRule(patch=PATCH, pixel_limit=28 * 42),
    defaults=ModelDefaults(min_confidence=0.5),
)
ENTRY = ModelEntry(
    name="toy-7",
    family=FAMILY,
    config=ToyConfig(),
    parameters=3 * 49 * 16 + 16 + 16 * 48 + 48 + 17,
    source=HubFile("nobody/toy", "toy.safetensors"),
    resize=FAMILY.resize,
    weights_licence="Apache-2.0",
    code_licence="Apache-2.0",
    paper="none",
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(FAMILIES, FAMILY.name, FAMILY)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(MODELS, ENTRY.name, ENTRY)  # pyright: ignore[reportArgumentType]
    yield


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    sizes = {"patch": (16, 147), "mix": (48, 16), "far": (1, 16)}
    tensors = {f"{name}.weight": random.normal(0, 0.1, size) for name, size in sizes.items()}
    tensors |= {f"{name}.bias": random.normal(0, 0.1, size[0]) for name, size in sizes.items()}
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, tmp_path / "toy.safetensors")
    return tmp_path / "toy.safetensors"


@pytest.mark.usefixtures("registered")
class TestFamily:
    photos = np.random.default_rng(1).integers(0, 256, (3, 28, 42, 3), np.uint8)

    def test_it_is_loaded_by_name_and_reconstructs(self, upstream: Path) -> None:
        model = jaxrecon.load("toy-7", weights=upstream, stages=QUIET)
        recon = model.reconstruct(self.photos)
        assert recon.model == "toy-7"
        assert recon.points_world.shape == (3, 28, 42, 3)
        assert "toy-7" in registry.available_models()
        images = jnp.asarray(self.photos[None]) / jnp.float32(255)
        plain = jax.jit(lambda m, x: m.predict_all(m.encode(x), m.layout(x.shape)))
        expected = plain(model.model, images).points_world[0]
        np.testing.assert_allclose(recon.points_world, expected, rtol=1e-5, atol=1e-6)

    def test_it_is_converted_streamed_and_planned(self, upstream: Path, tmp_path: Path) -> None:
        registry.convert_weights(ENTRY, upstream, tmp_path / "native")
        model = jaxrecon.load(tmp_path / "native", stages=QUIET)
        whole = model.reconstruct(self.photos, confidence_quantile=0.0)
        folder = model.stream(self.photos, tmp_path / "views", views_at_once=2)
        streamed = jaxrecon.Reconstruction.load(folder)
        np.testing.assert_allclose(streamed.points_world, whole.points_world, rtol=1e-5, atol=1e-6)
        plan = jaxrecon.memory_plan(tmp_path / "native", views=3, size=(42, 28))
        assert plan.views == 3

    def test_what_it_cannot_do_is_refused_by_name(self, upstream: Path) -> None:
        with pytest.raises(jaxrecon.InputError, match="family toy follow no points; load vggt"):
            jaxrecon.load("toy-7", weights=upstream, tracks=True, stages=QUIET)
        model = jaxrecon.load("toy-7", weights=upstream, stages=QUIET)
        with pytest.raises(jaxrecon.InputError, match="toy-7 works from images alone"):
            model.reconstruct(self.photos, poses=np.tile(np.eye(4), (3, 1, 1)))


# sparse/selectors.py


@dataclass(frozen=True)
class FirstBlocks:
    """Each block of queries sees the first blocks of keys, a share of all."""

    share: float = 0.25

    def select(
        self, q: Float[Array, "G padded N K"], k: Float[Array, "G T N K"], layout: BlockLayout
    ) -> BlockMask:
        everything = TopKTopP(None, 1.0).select(q, k, layout)
        kept = jnp.ceil(everything.counts * self.share).astype(jnp.int32)
        return replace(everything, counts=kept)


def tiny_pi3() -> jaxrecon.Pipeline:
    make, resize = tiny_families.FAMILIES["pi3"]
    return jaxrecon.Pipeline(drawn(make), "pi3", resize)


def toy() -> jaxrecon.Pipeline:
    model = drawn(lambda: Toy(ToyConfig(), dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return jaxrecon.Pipeline(model, "toy-7", FAMILY.resize)


@pytest.mark.parametrize("make", [toy, pytest.param(tiny_pi3, marks=pytest.mark.thorough)])
def test_a_selector_is_handed_in(make: Callable[[], jaxrecon.Pipeline]) -> None:
    photos = np.random.default_rng(2).integers(0, 256, (4, 28, 42, 3), np.uint8)
    pipeline = make()
    sizes: dict[str, Any] = {"block_q": 4, "block_kv": 2, "compensation_q": 0, "order": "raster"}
    recons = [
        pipeline.reconstruct(
            photos, resolution=42, attention=SparseAttention(selector=selector, **sizes)
        )
        for selector in (FirstBlocks(), TopKTopP(None, 1.0))
    ]
    few, all_blocks = recons
    gap = np.asarray(few.points_world) - np.asarray(all_blocks.points_world)
    assert np.abs(gap).max() > 1e-6
    assert few.stats.sparsity is not None and all_blocks.stats.sparsity is not None
    assert few.stats.sparsity.mean() > 0.5
    assert all_blocks.stats.sparsity.mean() == 0
